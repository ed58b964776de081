"""What the attempts are aimed at: servers, a process with secrets, files, shared memory, queues, keys, and a pretended
supervisor, all of the attacker's own user. argv: a folder of its own, perhaps the path of the ipcctl program. Prints
where all that is, as a line of JSON (WHERE of attempts.py); then, for each line "state" on stdin, what was done to it.
Cleans up at the end of stdin.
"""

import ctypes
import fcntl
import hashlib
import json
import os
import resource
import shutil
import signal
import socket
import stat
import struct
import sys
import threading
import time

base = os.path.abspath(sys.argv[1])
cli = next((one for one in sys.argv[2:] if not one.startswith("--")), "")
MARK = "PEER-SECRET-OF-" + hashlib.sha256(base.encode()).hexdigest()[:12]
if os.environ.get("PEER_SECRET") != MARK:  # the environment that a process was started with is what /proc shows
    os.execve(sys.executable, [sys.executable, *sys.argv, "--" + MARK], {"PATH": "/usr/bin:/bin", "PEER_SECRET": MARK})

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.shmat.restype = ctypes.c_void_p
IS_X86 = os.uname().machine == "x86_64"
MQ_OPEN, MQ_UNLINK, ADD_KEY, KEYCTL = (240, 241, 248, 250) if IS_X86 else (180, 181, 217, 219)
SECRET = "the secret " + MARK[-12:]
RING = b"RING" + bytes(4092)
shm = f"ipcctl-escape-ring-{MARK[-12:]}"
queue = f"ipcctl-escape-{MARK[-12:]}"
key_name = f"ipcctl-escape-{MARK[-12:]}"
sysv_key = 0x51000000 + int(MARK[-6:], 16)
marker = f"/tmp/ipcctl-escape-{MARK[-12:]}"
folder, home, state_folder, vault = (os.path.join(base, name) for name in ("readable", "home", "state", "vault"))
evidence_path = os.path.join(folder, "evidence")


def put(*path: str, text: str = "content\n", mode: int = 0o644) -> str:
    full = os.path.join(*path)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    with open(full, "w") as file:
        file.write(text)
    os.chmod(full, mode)
    return full


if os.getsid(0) != os.getpid():
    os.setsid()  # a group of processes of its own, and a session: some attempts are aimed at either as a whole


# Files.
for name in (folder, home, state_folder, vault, os.path.join(base, "scratch")):
    os.makedirs(name, exist_ok=True)
existing = put(folder, "existing")
put(folder, "victim")
put(folder, "moved")
os.makedirs(os.path.join(folder, "empty"), exist_ok=True)
put(folder, "site-packages", "module.py", text="X = 1\n")
put(folder, "site-packages", "__pycache__", "module.cpython-311.pyc", text="bytecode")
put(folder, "repository", ".git", "hooks", "sample")
secret = put(vault, "id_secret", text=SECRET + "\n", mode=0o600)
os.symlink("nowhere-" + MARK, os.path.join(vault, "link"))
put(home, ".bashrc", text="# shell\n")
put(home, ".ssh", "authorized_keys", text="", mode=0o600)
put(home, ".config", "pip", "pip.conf", text="")
put(marker, text="left by another program " + MARK)
other = os.path.join(state_folder, "workers", "other")
put(other, "logs", "out", text="log of another worker " + MARK)
put(other, "plane", text="RING" + "\0" * 4092, mode=0o600)
put(other, "spec.json", text='{"name":"other","policy":"read-only"}')
has_shm = os.access("/dev/shm", os.W_OK)  # a container may lack it
if has_shm:
    put("/dev/shm", shm, text="", mode=0o600)
    with open("/dev/shm/" + shm, "r+b") as file:
        file.write(RING)
evidence = os.open(evidence_path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
hits: list[str] = []


def note(what: str, data: bytes = b"") -> None:
    hits.append(what)
    os.write(evidence, f"{what} {data[:80].decode('ascii', 'replace')!r}\n".encode())


# A second process: the supervisor, as it were.
daemon_pid = os.fork()
process = "signal" if daemon_pid else "daemon-signal"
caught = [
    one for one in signal.valid_signals() if one not in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGPIPE)
]
for one in caught:
    try:
        signal.signal(one, lambda number, _: os.write(evidence, f"\n{process} {number}\n".encode()))
    except (OSError, ValueError):
        pass
# A third one, with a terminal.
screen, slave = os.openpty()
terminal = os.ttyname(slave)
terminal_pid = os.fork() if daemon_pid else 1
if daemon_pid and terminal_pid == 0:
    process = "terminal-signal"
    os.setsid()
    fcntl.ioctl(slave, 0x540E, 0)  # TIOCSCTTY
    daemon_pid = 0
if daemon_pid == 0:
    libc.prctl(1, 9, 0, 0, 0)  # ends with the peer
    if os.getppid() == 1:
        os._exit(0)
    while True:
        time.sleep(60)

# Kernel objects with a name.
segment = libc.shmget(sysv_key, 4096, 0o3600)
place = libc.shmat(segment, None, 0)
ctypes.memmove(place, b"RING", 4)
attributes = struct.pack("8l", 0, 4, 64, 0, 0, 0, 0, 0)
mqueue = libc.syscall(MQ_OPEN, queue.encode(), 0o102, 0o600, attributes)
key = libc.syscall(ADD_KEY, b"user", key_name.encode(), MARK.encode(), len(MARK), -4)  # the keyring of the user
memfd = os.memfd_create("ring")
os.write(memfd, RING)
# A process that takes away what has a name in the kernel, or lies outside of our folder, as soon as we end: after a
# SIGKILL as well.
ends, alive = os.pipe()
cleaner_pid = os.fork()
if cleaner_pid == 0:
    os.setsid()
    os.close(alive)
    os.read(ends, 1)
    for one in (daemon_pid, terminal_pid):
        try:
            os.kill(one, signal.SIGKILL)
        except OSError:
            pass  # it ended with the peer
    libc.shmctl(segment, 0, None)
    libc.syscall(MQ_UNLINK, queue.encode())
    libc.syscall(KEYCTL, 9, key, -4)  # KEYCTL_UNLINK
    for path in (marker, "/dev/shm/" + shm):
        if os.path.lexists(path):
            os.unlink(path)
    shutil.rmtree(base, ignore_errors=True)
    os._exit(0)


# Servers. Signals are for the first thread: Python looks after them there, and is woken for them there only.
signal.pthread_sigmask(signal.SIG_BLOCK, caught)


def answer(client: socket.socket, kind: str) -> None:
    try:
        client.settimeout(2)
        while data := client.recv(4096):
            note(kind, data)
            if data == b"descriptor":
                socket.send_fds(client, [b"here"], [udp.fileno()])
            elif data.startswith(b"GET"):
                client.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\npong")
                break
            else:
                client.sendall(b"pong")
    except OSError:
        pass
    finally:
        client.close()


def accept(server: socket.socket, kind: str) -> None:
    while True:
        client, _ = server.accept()
        threading.Thread(target=answer, args=(client, kind), daemon=True).start()


def echo(server: socket.socket, kind: str) -> None:
    while True:
        data, address = server.recvfrom(4096)
        note(kind, data[28:] if kind == "raw" else data)
        try:
            if (
                address and data != b"pong"
            ):  # by a socket of ours in other hands it comes from ourselves: no end of answers
                server.sendto(b"pong", address)
        except OSError:
            pass


def serve(family: int, kind: int, address: object, name: str) -> socket.socket:
    s = socket.socket(family, kind)
    if family == socket.AF_INET6:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if name == "tcp":
        s.setsockopt(socket.IPPROTO_TCP, 23, 16)  # TCP_FASTOPEN
    s.bind(address)
    if kind == socket.SOCK_DGRAM:
        threading.Thread(target=echo, args=(s, name), daemon=True).start()
    else:
        s.listen(64)
        threading.Thread(target=accept, args=(s, name), daemon=True).start()
    return s


UNIX, INET, INET6 = socket.AF_UNIX, socket.AF_INET, socket.AF_INET6
STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM
abstract = "ipcctl-escape-" + MARK[-12:]
tcp = serve(INET, STREAM, ("127.0.0.1", 0), "tcp")
try:
    tcp6 = serve(INET6, STREAM, ("::1", 0), "tcp6").getsockname()[1]
except OSError:
    tcp6 = 0
udp = serve(INET, DATAGRAM, ("127.0.0.1", 0), "udp")
try:
    udplite = socket.socket(INET, DATAGRAM, 136)
    udplite.bind(udp.getsockname())
    threading.Thread(target=echo, args=(udplite, "udplite"), daemon=True).start()
except OSError:
    pass  # not every kernel has it
os.chdir(folder)  # for names that are not too long for a Unix socket
control = serve(UNIX, STREAM, "control", "unix")
serve(UNIX, DATAGRAM, "control.dgram", "unix-dgram")
serve(UNIX, socket.SOCK_SEQPACKET, "control.packets", "unix-packets")
serve(UNIX, STREAM, "\0" + abstract, "abstract")
serve(UNIX, DATAGRAM, "\0" + abstract + ".dgram", "abstract-dgram")
os.chdir(state_folder)
serve(UNIX, STREAM, "ctl.sock", "ctl")
os.chdir(other)
serve(UNIX, STREAM, "sock", "worker")
os.chdir(vault)  # /proc/PID/cwd leads here
secret_fd = os.open(secret, os.O_RDONLY)
fifo = os.path.join(folder, "fifo")
os.mkfifo(fifo)
fifo_fd = os.open(fifo, os.O_RDWR)


def read_fifo() -> None:
    while data := os.read(fifo_fd, 4096):
        note("fifo", data)


threading.Thread(target=read_fifo, daemon=True).start()
signal.pthread_sigmask(signal.SIG_UNBLOCK, caught)

memory = bytearray(MARK.encode() * 400)
page = (ctypes.c_char * len(memory)).from_buffer(memory)
writable = bytearray(b"untouched")
writable_page = (ctypes.c_char * len(writable)).from_buffer(writable)


# What was done to us.
def look(path: str) -> list:
    status = os.lstat(path)
    seen: list = [
        stat.filemode(status.st_mode),
        status.st_uid,
        status.st_gid,
        status.st_nlink,
        status.st_mtime_ns,
        status.st_ctime_ns,
    ]
    if stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            seen.append(hashlib.sha256(file.read()).hexdigest())
            word = bytearray(8)
            try:
                fcntl.ioctl(file, 0x80087601, word)  # FS_IOC_GETVERSION
            except OSError:
                pass
            seen.append(word.hex())
    elif stat.S_ISLNK(status.st_mode):
        seen.append(os.readlink(path))
    return seen


def files() -> dict[str, list]:
    found = {path: look(path) for path in (marker, "/dev/shm/" + shm) if os.path.lexists(path)}
    for top in (folder, home, state_folder, vault):
        found[top] = look(top)
        for at, folders, names in os.walk(top):
            for name in (*folders, *names):
                path = os.path.join(at, name)
                if path != evidence_path:
                    found[path] = look(path)
    return found


def scheduling(pid: int) -> list:
    own = os.sched_getscheduler(pid), sorted(os.sched_getaffinity(pid)), os.getpriority(os.PRIO_PROCESS, pid)
    return [*own, libc.syscall(252 if IS_X86 else 31, 1, pid)]


def own() -> dict:
    with open("/proc/self/oom_score_adj") as file:
        oom = int(file.read())
    limits = {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")}
    return {
        "limits": {name: list(value) for name, value in limits.items() if name != "RLIMIT_OFILE"},
        "oom": oom,
        "scheduling": [scheduling(os.getpid()), scheduling(daemon_pid)],
        "memory": bytes(writable).decode("ascii", "replace"),
        "ring": [os.fstat(memfd).st_size, os.pread(memfd, 8, 0).hex()],
        "segment": ctypes.string_at(place, 8).hex(),
        "threads": os.getsid(0),
    }


before_files, before_own = files(), own()


def state() -> dict:
    now, mine = files(), own()
    lines = open(evidence_path).read().splitlines()
    changed = sorted(path for path in {*now, *before_files} if now.get(path) != before_files.get(path))
    return {
        "signals": [line for line in lines if line.startswith(("signal", "daemon-signal", "terminal-signal"))],
        "hits": sorted(set(hits)),
        "changed": [os.path.relpath(path, base) if path.startswith(base) else path for path in changed],
        "own": {name: [before_own[name], value] for name, value in mine.items() if value != before_own[name]},
        "daemon": libc.kill(daemon_pid, 0) == 0,
    }


# What the kernel has there already.
def words(path: str, column: int) -> list[str]:
    try:
        with open(path) as file:
            return [line.split()[column] for line in file]
    except OSError:
        return []


with open("/proc/sys/kernel/core_pattern") as file:
    core_pattern = file.read().strip()
drivers = os.listdir("/sys/class/misc") if os.path.isdir("/sys/class/misc") else []
ADDRESS = ctypes.addressof(page)
print(
    json.dumps(
        {
            "host": "127.0.0.1",
            "tcp": tcp.getsockname()[1],
            "tcp6": tcp6,
            "udp": udp.getsockname()[1],
            "unix": os.path.join(folder, "control"),
            "unix_dgram": os.path.join(folder, "control.dgram"),
            "unix_packets": os.path.join(folder, "control.packets"),
            "abstract": abstract,
            "secret": secret,
            "secret_text": SECRET,
            "folder": folder,
            "existing": existing,
            "evidence": evidence_path,
            "fifo": fifo,
            "scratch": os.path.join(base, "scratch"),
            "home": home,
            "shm": shm,
            "sysv_key": sysv_key,
            "mqueue": queue,
            "key": key_name,
            "tmp_marker": marker,
            "state": state_folder,
            "cli": cli,
            "core_pattern": core_pattern,
            "drivers": drivers,
            "protocols": words("/proc/net/protocols", 0),
            "filesystems": words("/proc/filesystems", -1),
            "daemon_pid": daemon_pid,
            "terminal": terminal,
            "peer": {
                "pid": os.getpid(),
                "address": ADDRESS,
                "writable": ctypes.addressof(writable_page),
                "mark": MARK,
                "socket": udp.fileno(),
                "memfd": memfd,
                "secret": secret_fd,
            },
        }
    ),
    flush=True,
)
for _ in sys.stdin:
    print(json.dumps(state()), flush=True)
os.close(alive)
os.waitpid(cleaner_pid, 0)
os._exit(0)
