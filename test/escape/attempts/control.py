"""Ways to the supervisor: its control socket and those of other workers, its files, what it left open."""

import os
import socket
import struct
import subprocess
import ctypes

from _attempt import (
    Uring,
    attempt,
    buffer,
    call,
    closing,
    content,
    gone_after,
    is_secret,
    nonce,
    noticed,
    opened,
    pong,
    raw_unix,
    scratch,
    vector,
    wait_readable,
    where,
    within,
)


def unix(kind: int = socket.SOCK_STREAM) -> socket.socket:
    return socket.socket(socket.AF_UNIX, kind)


def sends(make: object, *, to: object) -> bool:
    """A datagram that the peer writes down."""
    text = nonce()
    first, second = make() if callable(make) else make
    try:
        return noticed(text, lambda: first.sendto(text.encode(), to))
    finally:
        first.close()
        second.close()


def pair(kind: int) -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, kind)


@attempt("must", against="ipc")
def unix_socket() -> bool:
    """A socket with a path, in a folder that may be read."""
    return pong(unix(), where["unix"])


@attempt("must", against="ipc")
def unix_socket_by_a_link() -> bool:
    """The same through a symbolic link of ours."""
    link = scratch("link")
    os.symlink(where["unix"], link)
    with gone_after(link):
        return pong(unix(), link)


@attempt("must", against="ipc")
def unix_socket_from_its_folder() -> bool:
    """The same by a relative path."""
    with within(where["folder"]):
        return pong(unix(), os.path.basename(where["unix"]))


@attempt("must", against="ipc")
def unix_socket_by_a_handle() -> bool:
    """The same by /proc/self/fd of a descriptor that has no rights."""
    with opened(where["unix"], os.O_PATH) as fd:
        return pong(unix(), f"/proc/self/fd/{fd}")


@attempt("must", against="ipc")
def unix_socket_by_number() -> bool:
    """The same by system calls."""
    with closing(call("socket", 1, 1, 0)) as s:
        address = raw_unix(where["unix"])
        call("connect", s, buffer(address), len(address))
        os.write(s, b"ping")
        return wait_readable(s) and os.read(s, 4) == b"pong"


@attempt("must", against="ipc network", needs="kernel")
def unix_socket_by_io_uring() -> bool:
    """The same by io_uring: a policy without a network has no io_uring."""
    with Uring() as ring:
        s = ring.submit(45, 1, offset=1)
        with closing(s):
            address = buffer(raw_unix(where["unix"]))
            ring.submit(16, s, offset=len(raw_unix(where["unix"])), address=ctypes.addressof(address))
            os.write(s, b"ping")
            return wait_readable(s) and os.read(s, 4) == b"pong"


@attempt("must", against="ipc")
def unix_datagram() -> bool:
    """A datagram to a socket with a path."""
    return sends((unix(socket.SOCK_DGRAM), unix(socket.SOCK_DGRAM)), to=where["unix_dgram"])


@attempt("must", against="ipc")
def unix_datagram_answered() -> bool:
    """A datagram, and its answer to an address that the kernel chose."""
    s = unix(socket.SOCK_DGRAM)
    s.bind("")
    return pong(s, where["unix_dgram"])


@attempt("must", against="ipc")
def unix_packets() -> bool:
    """A socket of packets, the third kind."""
    return pong(unix(socket.SOCK_SEQPACKET), where["unix_packets"])


@attempt("must", against="ipc")
def pair_aimed_elsewhere() -> bool:
    """One end of a pair sends to a path: no call of socket, none of connect."""
    return sends(pair(socket.SOCK_DGRAM), to=where["unix_dgram"])


@attempt("must", against="ipc")
def raw_pair_aimed_elsewhere() -> bool:
    """The same with SOCK_RAW, which the kernel takes for datagrams."""
    return sends(pair(socket.SOCK_RAW), to=where["unix_dgram"])


@attempt("must", against="ipc")
def pair_aimed_elsewhere_by_a_message() -> bool:
    """The same by sendmsg."""
    text = nonce()
    first, second = pair(socket.SOCK_DGRAM)
    with first, second:
        return noticed(text, lambda: first.sendmsg([text.encode()], [], 0, where["unix_dgram"]))


@attempt("must", against="ipc")
def pair_aimed_elsewhere_by_messages() -> bool:
    """The same by sendmmsg."""
    text = nonce()
    first, second = pair(socket.SOCK_DGRAM)
    with first, second:
        raw = raw_unix(where["unix_dgram"])
        address, data = buffer(raw), buffer(text.encode())
        parts = vector((ctypes.addressof(data), len(text)))
        header = struct.pack(
            "QIxxxxQQQQi4xI4x", ctypes.addressof(address), len(raw), ctypes.addressof(parts), 1, 0, 0, 0, 0
        )
        return noticed(text, lambda: call("sendmmsg", first.fileno(), buffer(header), 1, 0))


@attempt("must", against="ipc")
def pair_connected_elsewhere() -> bool:
    """One end of a pair is connected to a path."""
    text = nonce()
    first, second = pair(socket.SOCK_DGRAM)
    with first, second:
        first.connect(where["unix_dgram"])
        return noticed(text, lambda: first.send(text.encode()))


@attempt("must", against="network ipc")
def abstract_socket() -> bool:
    """A socket with an abstract name, that no permission guards."""
    return pong(unix(), "\0" + where["abstract"])


@attempt("must", against="network ipc")
def abstract_datagram() -> bool:
    """A datagram to an abstract name."""
    return sends((unix(socket.SOCK_DGRAM), unix(socket.SOCK_DGRAM)), to="\0" + where["abstract"] + ".dgram")


@attempt("must", against="network ipc")
def pair_aimed_at_an_abstract_name() -> bool:
    """One end of a pair sends to an abstract name."""
    return sends(pair(socket.SOCK_DGRAM), to="\0" + where["abstract"] + ".dgram")


@attempt("must", against="ipc")
def supervisor_socket() -> bool:
    """The control socket of the supervisor."""
    return pong(unix(), os.path.join(where["state"], "ctl.sock"))


@attempt("must", against="ipc")
def socket_of_another_worker() -> bool:
    """The socket on which another worker is called."""
    return pong(unix(), os.path.join(where["state"], "workers/other/sock"))


@attempt("must", against="ipc", needs="root")
def another_identity() -> bool:
    """A message that says it comes from the supervisor's process."""
    with unix() as s:
        s.connect(where["unix"])
        s.sendmsg([b"ping"], [(socket.SOL_SOCKET, 2, struct.pack("iii", where["daemon_pid"], 0, 0))])
        s.settimeout(1)
        return s.recv(4) == b"pong"


@attempt("must", against="exec fork", needs="service")
def command_line() -> bool:
    """The supervisor's own command line program."""
    found = subprocess.run([where["cli"], "--version"], capture_output=True, timeout=6)
    return found.returncode == 0 and found.stdout[:1].isdigit()


@attempt("must", against="ipc", needs="service")
def services_of_the_machine() -> bool:
    """Docker, D-Bus, systemd, the display: whoever reaches them has more than his own rights."""
    usual = (
        "docker.sock",
        "dbus/system_bus_socket",
        "systemd/private",
        "containerd/containerd.sock",
        "podman/podman.sock",
    )
    for path in (*(os.path.join("/run", name) for name in usual), "/tmp/.X11-unix/X0"):
        try:
            with unix() as s:
                s.settimeout(1)
                s.connect(path)
                return True
        except OSError:
            continue
    return False


@attempt("should", against="reading")
def names_of_other_workers() -> bool:
    """Which workers there are."""
    return "other" in os.listdir(os.path.join(where["state"], "workers"))


@attempt("must", against="reading")
def log_of_another_worker() -> bool:
    """What another worker printed."""
    return where["peer"]["mark"].encode() in content(os.path.join(where["state"], "workers/other/logs/out"))


@attempt("must", against="reading")
def plane_of_another_worker() -> bool:
    """The memory that another worker shares with the supervisor."""
    return content(os.path.join(where["state"], "workers/other/plane"))[:4] == b"RING"


@attempt("must", against="writing")
def plane_of_another_worker_changed() -> bool:
    """The same, written to."""
    path = os.path.join(where["state"], "workers/other/plane")
    with opened(path, os.O_RDWR) as fd:
        os.pwrite(fd, b"evil", 8)
    return content(path)[8:12] == b"evil"


@attempt("must", against="writing")
def policy_of_another_worker() -> bool:
    """The specification of another worker, so that it is not confined at its next start."""
    path = os.path.join(where["state"], "workers/other/spec.json")
    with open(path, "w") as file:
        file.write('{"name":"other","policy":"trusted"}')
    return b"trusted" in content(path)


@attempt("must", against="writing")
def worker_of_its_own() -> bool:
    """A specification of a worker that nobody asked for."""
    path = os.path.join(where["state"], "workers", f"mine-{nonce()}")
    os.mkdir(path)
    with gone_after(path):
        return os.path.isdir(path)


@attempt("must", against="writing")
def false_supervisor() -> bool:
    """The control socket moved away, and one of ours in its place: programs would send us what is for it."""
    path = os.path.join(where["state"], "ctl.sock")
    os.rename(path, path + ".old")
    try:
        with unix() as s, within(where["state"]):
            s.bind("ctl.sock")
            s.listen()
            with unix() as client:
                client.connect("ctl.sock")
                return True
    finally:
        os.rename(path + ".old", path)


@attempt("must", against="descriptors", needs="leak")
def inherited_descriptors() -> bool:
    """Descriptors that somebody left open, marked as to be passed on."""
    found = []
    for fd in range(3, 1024):
        try:
            if os.get_inheritable(fd):
                found.append(fd)
        except OSError:
            continue
    return bool(found)


@attempt("must", against="descriptors", needs="leak")
def inherited_folder() -> bool:
    """A file by way of an inherited folder, wherever the worker may look by itself."""
    for fd in range(3, 256):
        try:
            with opened(where["secret"].lstrip("/"), os.O_RDONLY, dir_fd=fd) as file:
                return is_secret(os.read(file, 100))
        except OSError:
            continue
    return False


@attempt("must", against="descriptors", needs="leak")
def inherited_file() -> bool:
    """A file that was opened by somebody who may."""
    for fd in range(3, 256):
        try:
            if is_secret(os.pread(fd, 100, 0)):
                return True
        except OSError:
            continue
    return False


@attempt("must", against="descriptors", needs="leak")
def inherited_folder_as_here() -> bool:
    """The inherited folder made the current one."""
    before = os.getcwd()
    for fd in range(3, 256):
        try:
            os.fchdir(fd)
        except OSError:
            continue
        try:
            return is_secret(content(where["secret"].lstrip("/")))
        finally:
            os.chdir(before)
    return False


@attempt("info", against="ipc env")
def channel_of_its_own() -> bool:
    """Where the worker's own channel to the supervisor is: its to use, not to pass on."""
    return any(name.startswith("IPCCTL_") for name in os.environ)


@attempt("must", against="writing")
def folder_of_the_supervisor_moved() -> bool:
    """The supervisor's folder under another name."""
    path = where["state"]
    os.rename(path, path + ".away")
    os.rename(path + ".away", path)
    return True


@attempt("must", against="writing")
def log_of_another_worker_emptied() -> bool:
    """The log of another worker emptied: traces wiped."""
    path = os.path.join(where["state"], "workers/other/logs/out")
    before = content(path)
    os.truncate(path, 0)
    try:
        return content(path) == b"" and before != b""
    finally:
        with open(path, "wb") as file:
            file.write(before)
