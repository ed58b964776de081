"""Attempts to get out, each alone in a child: prints which of them succeeded. argv: where the peer is, as JSON, and names or none for all."""

import ctypes
import fcntl
import json
import mmap
import os
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import urllib.request

where = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
HOST = "127.0.0.1"
folder = where["folder"]
target = os.path.join(folder, "existing")


def talk(s: socket.socket, address: object) -> bool:
    s.settimeout(2)
    s.connect(address)
    return s.recv(4) == b"pong"


def tcp() -> bool:
    return talk(socket.socket(), (HOST, where["tcp"]))


def tcp6_mapped() -> bool:
    return talk(socket.socket(socket.AF_INET6), ("::ffff:127.0.0.1", where["tcp"]))


def fastopen() -> bool:
    s = socket.socket()
    s.settimeout(2)
    s.sendto(b"x", 0x20000000, (HOST, where["tcp"]))  # MSG_FASTOPEN
    return s.recv(4) == b"pong"


def udp() -> bool:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(2)
    s.sendto(b"ping", (HOST, where["udp"]))
    return s.recv(4) == b"pong"


def mptcp() -> bool:
    return talk(socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262), (HOST, where["tcp"]))


def listen() -> bool:
    socket.create_server((HOST, 0))
    return True


def packet() -> bool:
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    return True


def icmp() -> bool:
    socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)
    return True


def vsock() -> bool:
    socket.socket(40, socket.SOCK_STREAM)
    return True


def netlink() -> bool:
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
    return True


def raw_call() -> bool:
    return libc.syscall({"x86_64": 41, "aarch64": 198}[os.uname().machine], 2, 1, 0) >= 0


def x32_call() -> bool:
    return os.uname().machine == "x86_64" and libc.syscall(0x40000000 | 41, 2, 1, 0) >= 0


def int80_call() -> bool:
    """socket(AF_INET, SOCK_STREAM, 0) by the 32-bit way, from machine code of our own."""
    if os.uname().machine != "x86_64":
        return False
    code = bytes.fromhex("53b867010000bb02000000b90100000031d2cd805bc3")
    memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(code)
    run = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
    return run() >= 0


def io_uring() -> bool:
    return libc.syscall(425, 8, ctypes.create_string_buffer(120)) >= 0


def child_process() -> bool:
    code = f"import socket; socket.create_connection(('{HOST}', {where['tcp']}), 2)"
    return subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL).returncode == 0


def http() -> bool:
    try:
        urllib.request.urlopen(f"http://{HOST}:{where['tcp']}/", timeout=2)
    except ConnectionResetError:
        return True  # it was there
    except Exception as error:
        return "pong" in repr(error) or isinstance(getattr(error, "reason", None), ConnectionResetError)
    return True


def abstract_socket() -> bool:
    return talk(socket.socket(socket.AF_UNIX), "\0" + where["abstract"])


def ptrace() -> bool:
    return libc.ptrace(0x4206, where["pid"], 0, 0) == 0  # PTRACE_SEIZE: the peer is not stopped


def read_memory() -> bool:
    buffer = ctypes.create_string_buffer(6)
    local = struct.pack("QQ", ctypes.addressof(buffer), 6)
    remote = struct.pack("QQ", where["address"], 6)
    number = {"x86_64": 310, "aarch64": 270}[os.uname().machine]
    return libc.syscall(number, where["pid"], local, 1, remote, 1, 0) == 6 and buffer.raw == b"SECRET"


def proc_memory() -> bool:
    with open(f"/proc/{where['pid']}/mem", "rb") as file:
        file.seek(where["address"])
        return file.read(6) == b"SECRET"


def steal_socket() -> bool:
    pidfd = os.pidfd_open(where["pid"])
    return libc.syscall(438, pidfd, 3, 0) >= 0  # pidfd_getfd


def setuid_program() -> bool:
    status = dict(line.split(":\t") for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
    return status["NoNewPrivs"].strip() == "0"


def type_into_terminal() -> bool:
    master, slave = os.openpty()
    fcntl.ioctl(slave, 0x5412, b"x")
    return True


def write() -> bool:
    with open(os.path.join(folder, "new"), "w") as file:
        file.write("x")
    return True


def append() -> bool:
    with open(target, "a") as file:
        file.write("x")
    return True


def truncate() -> bool:
    os.truncate(target, 1)
    return True


def truncate_reading() -> bool:
    size = os.stat(target).st_size
    os.close(os.open(target, os.O_RDONLY | os.O_TRUNC))
    return os.stat(target).st_size != size or size == 0


def mkdir() -> bool:
    os.mkdir(os.path.join(folder, "made"))
    return True


def rename() -> bool:
    os.rename(target, target + "2")
    os.rename(target + "2", target)
    return True


def unlink() -> bool:
    os.unlink(os.path.join(folder, "victim"))
    return True


def link() -> bool:
    os.link(target, os.path.join(folder, "hard"))
    return True


def symlink() -> bool:
    os.symlink("/etc", os.path.join(folder, "soft"))
    return True


def fifo() -> bool:
    os.mkfifo(os.path.join(folder, "fifo"))
    return True


def unix_listener() -> bool:
    s = socket.socket(socket.AF_UNIX)
    s.bind(os.path.join(folder, "sock"))
    return True


def temporary() -> bool:
    os.open(folder, os.O_RDWR | os.O_TMPFILE)
    return True


def through_proc() -> bool:
    fd = os.open(target, os.O_RDONLY)
    os.close(os.open(f"/proc/self/fd/{fd}", os.O_WRONLY))
    return True


def by_a_symlink() -> bool:
    """Out of the scratch folder, where there is one."""
    path = os.path.join(tempfile.gettempdir(), f"way-{os.getpid()}")
    os.symlink(target, path)
    try:
        with open(path, "a") as file:
            file.write("x")
    finally:
        os.unlink(path)
    return True


def shell() -> bool:
    return subprocess.run(["sh", "-c", f"echo x > {folder}/shell"], stderr=subprocess.DEVNULL).returncode == 0


def copy() -> bool:
    shutil.copyfile(target, os.path.join(folder, "copy"))
    return True


def chmod() -> bool:
    os.chmod(target, 0o666)
    return True


def utime() -> bool:
    os.utime(target, (1, 1))
    return True


def attribute() -> bool:
    os.setxattr(target, "user.x", b"1")
    return True


def flags() -> bool:
    fd = os.open(target, os.O_RDONLY)
    fcntl.ioctl(fd, 0x40086602, struct.pack("l", 0x80))  # FS_IOC_SETFLAGS, no atime
    return True


def signal_peer() -> bool:
    os.kill(where["pid"], signal.SIGUSR1)
    return True


def signal_by_kernel() -> bool:
    read, write_ = os.pipe()
    fcntl.fcntl(read, fcntl.F_SETOWN, where["pid"])
    fcntl.fcntl(read, 10, signal.SIGUSR1)  # F_SETSIG
    fcntl.fcntl(read, fcntl.F_SETFL, os.O_ASYNC)
    os.write(write_, b"x")
    return True  # whether it came the peer says


def limit_peer() -> bool:
    resource.prlimit(where["pid"], resource.RLIMIT_NOFILE, (64, 64))
    return True


ATTEMPTS = {name: value for name, value in globals().items() if callable(value) and getattr(value, "__module__", "") == "__main__" and name != "talk"}


def attempt(name: str) -> bool:
    pid = os.fork()
    if pid == 0:
        devnull = os.open("/dev/null", os.O_WRONLY)
        os.dup2(devnull, 2)
        try:
            os._exit(0 if ATTEMPTS[name]() else 1)
        except BaseException:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


if __name__ == "__main__":
    print(json.dumps({name: attempt(name) for name in sys.argv[2:] or ATTEMPTS}))
