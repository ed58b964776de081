"""What all families of attempts share: the register, where the targets are, raw system calls, proofs."""

import ctypes
import mmap
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

TAGS = {
    "network": "reach anything by a socket that is not a Unix one with a path",
    "reading": "read a file that is not granted",
    "writing": "change a file or folder outside of the scratch folder",
    "metadata": "change modes, owners, times, attributes",
    "exec": "run a program",
    "fork": "make a process",
    "others": "trace another process, read or write its memory or what it has open",
    "signals": "do something to another process: a signal, its limits",
    "scheduling": "make another process slower",
    "ipc": "talk to what others listen to: Unix sockets with a path, shared memory, queues, keys",
    "kernel": "parts of the kernel that a worker has no use for",
    "limits": "use up what all share",
    "env": "what the caller's environment holds",
    "privileges": "what takes a capability or a setuid program",
    "descriptors": "what the caller left open",
}
LEVELS = ("must", "should", "info")
NEEDS = {
    "root": "user 0, or a capability",
    "user": "not user 0",
    "kernel": "an option of the kernel that may be absent or off",
    "tty": "terminals",
    "service": "a program or service that may not be installed",
    "x86-64": "this architecture",
    "filesystem": "a file system that can do it",
    "leak": "the two descriptors that the caller leaves open",
    "shm": "/dev/shm, which a container may lack or have small",
    "room": "limits of the machine and of the user that leave room for it",
}


@dataclass
class Attempt:
    name: str
    family: str
    level: str
    against: list[str]
    needs: list[str]
    alone: bool
    header: str
    run: Callable[[], bool] = field(repr=False)


REGISTER: dict[str, Attempt] = {}
#: Where the targets are, see peer.py; filled by the runner.
where: dict = {}


def attempt(
    level: str, *, against: str, needs: str = "", alone: bool = False
) -> Callable[[Callable[[], bool]], Callable[[], bool]]:
    """Registers a way out. `against`: a policy that denies any of these must stop it. `needs`: the control run may lack
    it.
    """
    tags, lacks = against.split(), needs.split()
    assert level in LEVELS and tags and TAGS.keys() >= set(tags) and NEEDS.keys() >= set(lacks), (level, against, needs)

    def register(run: Callable[[], bool]) -> Callable[[], bool]:
        name, header = run.__name__, (run.__doc__ or "").strip().split("\n")[0]
        assert name not in REGISTER and header, name
        REGISTER[name] = Attempt(name, run.__module__, level, tags, lacks, alone, header, run)
        return run

    return register


# Raw system calls. Numbers on x86-64 and arm64; None: not there.
NUMBERS: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63),
    "open": (2, None),
    "pipe": (22, None),
    "mremap": (25, 216),
    "socket": (41, 198),
    "connect": (42, 203),
    "sendmmsg": (307, 269),
    "clone": (56, 220),
    "fork": (57, None),
    "vfork": (58, None),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "shmdt": (67, 197),
    "semget": (64, 190),
    "semctl": (66, 191),
    "msgget": (68, 186),
    "msgctl": (71, 187),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "truncate": (76, 45),
    "getdents64": (217, 61),
    "creat": (85, None),
    "ptrace": (101, 117),
    "syslog": (103, 116),
    "setpriority": (141, 140),
    "personality": (135, 92),
    "modify_ldt": (154, None),
    "pivot_root": (155, 41),
    "adjtimex": (159, 171),
    "acct": (163, 89),
    "mount": (165, 40),
    "umount2": (166, 39),
    "swapon": (167, 224),
    "reboot": (169, 142),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "iopl": (172, None),
    "ioperm": (173, None),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "quotactl": (179, 60),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "timer_create": (222, 107),
    "timer_delete": (226, 111),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "mq_timedsend": (242, 182),
    "mq_timedreceive": (243, 183),
    "mq_notify": (244, 184),
    "kexec_load": (246, 104),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "ioprio_set": (251, 30),
    "ioprio_get": (252, 31),
    "inotify_init1": (294, 26),
    "inotify_add_watch": (254, 27),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "fchmodat2": (452, 452),
    "unshare": (272, 97),
    "get_robust_list": (274, 100),
    "splice": (275, 76),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "perf_event_open": (298, 241),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "setns": (308, 268),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "sched_setattr": (314, 274),
    "renameat2": (316, 276),
    "seccomp": (317, 277),
    "memfd_create": (319, 279),
    "bpf": (321, 280),
    "execveat": (322, 281),
    "userfaultfd": (323, 282),
    "pkey_alloc": (330, 289),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "pidfd_send_signal": (424, 424),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "pidfd_open": (434, 434),
    "clone3": (435, 435),
    "openat2": (437, 437),
    "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    "mount_setattr": (442, 442),
    "quotactl_fd": (443, 443),
    "landlock_create_ruleset": (444, 444),
    "memfd_secret": (447, 447),
    "listmount": (458, 458),
    "setxattrat": (463, 463),
    "file_setattr": (469, 469),
    "mlockall": (151, 230),
    "capset": (126, 91),
    "setgroups": (116, 159),
    "io_setup": (206, 0),
}
MACHINE = os.uname().machine
IS_X86 = MACHINE == "x86_64"
AT_FDCWD = -100
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def number(name: str) -> int:
    found = NUMBERS[name][0 if IS_X86 else 1] if MACHINE in ("x86_64", "aarch64") else None
    if found is None:
        raise NotImplementedError(f"{name} on {MACHINE}")
    return found


def call(name: str | int, *args: object) -> int:
    """By number, past the C library's functions. Bytes and buffers go by address."""
    given = [ctypes.c_long(one) if isinstance(one, int) else one for one in args]
    result = libc.syscall(ctypes.c_long(name if isinstance(name, int) else number(name)), *given)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), str(name))
    return result


def reached(name: str, *args: object, denied: tuple[int, ...] = (1, 13, 38)) -> bool:
    """A call that is made wrong on purpose: any error but a refusal shows that it was let in."""
    try:
        call(name, *args)
    except OSError as error:
        if error.errno in denied:
            raise
    return True


def part(count: int) -> int:
    """Of what is to be used up: all where it must be refused; less in the control run, where the machine's other users
    lack what is taken.
    """
    return max(1, count // 10) if where.get("is_control") else count


def loaded(kind: str, name: str) -> None:
    """What the kernel would first have to load a module for is left alone: the module would stay."""
    if name not in where[kind]:
        raise NotImplementedError(f"{name} is not there")


def buffer(data: bytes, size: int | None = None) -> ctypes.Array:
    """With a zero behind it, as names want it."""
    return ctypes.create_string_buffer(data, size or len(data) + 1)


def address_of(thing: ctypes.Array) -> int:
    return ctypes.addressof(thing)


def vector(*parts: tuple[int, int]) -> ctypes.Array:
    """struct iovec[]"""
    return buffer(b"".join(struct.pack("QQ", *part) for part in parts))


# Paths.
counted = 0


def fresh(folder: str, kind: str = "x") -> str:
    """A name there that nobody had."""
    global counted
    counted += 1
    return os.path.join(folder, f"{kind}-{os.getpid()}-{counted}")


def outside(kind: str = "x") -> str:
    return fresh(where["folder"], kind)


def scratch(kind: str = "x") -> str:
    return fresh(where["scratch"], kind)


def existing() -> str:
    return where["existing"]


def content(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read()


def is_secret(data: bytes | str) -> bool:
    text = data if isinstance(data, bytes) else data.encode()
    return where["secret_text"].encode() in text


@contextmanager
def opened(path: str | int, flags: int, *args: int, **named: int) -> Iterator[int]:
    fd = os.open(path, flags, *args, **named)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def closing(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def within(folder: str) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def gone_after(*paths: str) -> Iterator[None]:
    """Takes away what the attempt made, where it made it."""
    try:
        yield
    finally:
        for path in paths:
            try:
                os.rmdir(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
            except OSError:
                pass


# Proofs.
def nonce() -> str:
    return os.urandom(8).hex()


def evidence() -> bytes:
    """What the peer wrote down: signals it got, messages that came in, each on a line."""
    return content(where["evidence"])


def noticed(what: str, act: Callable[[], object]) -> bool:
    """The peer has it in its evidence after the act, and had it less often before."""
    before = evidence().count(what.encode())
    act()
    end = time.monotonic() + where.get("patience", 1)
    while time.monotonic() < end:
        if evidence().count(what.encode()) > before:
            return True
        time.sleep(0.01)
    return False


def pong(s: socket.socket, address: object = None) -> bool:
    """Connects if there is an address, sends a ping, and gets what only the peer answers; closes it."""
    with s:
        s.settimeout(1)
        if address is not None:
            s.connect(address)
        s.sendall(b"ping")
        return s.recv(4) == b"pong"


def tcp_address() -> tuple[str, int]:
    return where["host"], where["tcp"]


def raw_address(host: str, port: int) -> bytes:
    return struct.pack("=H", socket.AF_INET) + struct.pack(">H", port) + socket.inet_aton(host) + bytes(8)


def raw_unix(path: str) -> bytes:
    return struct.pack("=H", socket.AF_UNIX) + path.encode() + b"\0"


def in_child(act: Callable[[], bool], seconds: float = 5) -> bool:
    """In a forked process: what the act says."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if act() else 1)
        except BaseException:
            os._exit(1)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.002)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return False


def wait_readable(fd: int, seconds: float = 1) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def native(code: bytes, *args: int, low: bool = False) -> int:
    """Machine code of our own, from memory that may be written and run; low: below 4 GiB, as 32-bit calls want it."""
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    place = libc.mmap(None, mmap.PAGESIZE, 7, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | (0x40 if low else 0), -1, 0)
    if place in (None, 2**64 - 1):
        raise OSError(ctypes.get_errno(), "no memory that may be run")
    try:
        ctypes.memmove(place, code, len(code))
        run = ctypes.CFUNCTYPE(ctypes.c_long, *[ctypes.c_long] * len(args))(place)
        return run(*args)
    finally:
        libc.munmap(ctypes.c_void_p(place), ctypes.c_size_t(mmap.PAGESIZE))


class Uring:
    """One entry at a time of io_uring, which does system calls that no filter of system calls sees."""

    def __init__(self) -> None:
        parameters = buffer(bytes(120))
        self.fd = call("io_uring_setup", 4, parameters)
        try:
            entries, results = struct.unpack_from("II", parameters, 0)
            self.sq = struct.unpack_from("8I", parameters, 40)  # head, tail, mask, entries, flags, dropped, array
            self.cq = struct.unpack_from("8I", parameters, 80)  # head, tail, mask, entries, overflow, cqes
            self.ring = mmap.mmap(self.fd, max(self.sq[6] + entries * 4, self.cq[5] + results * 16))
            self.entries = mmap.mmap(self.fd, entries * 64, offset=0x10000000)
        except BaseException:
            os.close(self.fd)
            raise

    def word(self, offset: int) -> int:
        return struct.unpack_from("I", self.ring, offset)[0]

    def submit(
        self, code: int, fd: int, offset: int = 0, address: int = 0, length: int = 0, flags: int = 0, last: int = 0
    ) -> int:
        tail = self.word(self.sq[1])
        index = tail & self.word(self.sq[2])
        struct.pack_into(
            "<BBHiQQIIQHHIQQ",
            self.entries,
            index * 64,
            code,
            0,
            0,
            fd,
            offset,
            address,
            length,
            flags,
            0,
            0,
            0,
            0,
            last,
            0,
        )
        struct.pack_into("I", self.ring, self.sq[6] + 4 * index, index)
        struct.pack_into("I", self.ring, self.sq[1], tail + 1)
        call("io_uring_enter", self.fd, 1, 1, 1, 0, 0)
        head = self.word(self.cq[0])
        (result,) = struct.unpack_from("<i", self.ring, self.cq[5] + (head & self.word(self.cq[2])) * 16 + 8)
        struct.pack_into("I", self.ring, self.cq[0], head + 1)
        if result < 0:
            raise OSError(-result, os.strerror(-result), f"io_uring {code}")
        return result

    def __enter__(self) -> "Uring":
        return self

    def __exit__(self, *_: object) -> None:
        self.entries.close()
        self.ring.close()
        os.close(self.fd)
