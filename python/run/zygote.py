"""The process that a snapshot is: it has its imports done and forks a worker whenever a shim asks for one.

It runs nothing of a worker itself. Before the fork nobody's code runs but that of the packages; after it the child is locked down as its
specification says (native/become) before the first line of the script is even read. argv: the library that does so, and what to import.
"""

import array
import builtins
import ctypes
import gc
import importlib
import io
import json
import os
import select
import signal
import socket
import struct
import sys
import types

HEAD = struct.Struct("<IB")  # bytes of the specification, which descriptors came along
DESCRIPTORS = ("in", "out", "err", "report", "gate", "control", "plane")
SPECIFICATION_MAX = 4 * 1024 * 1024  # what a shim reads, too


class Fields(ctypes.Structure):
    """struct become in native/become/become.h"""

    _fields_ = [(name, ctypes.c_int) for name in DESCRIPTORS] + [("parent", ctypes.c_int)]


def load(path: str) -> ctypes.CDLL:
    library = ctypes.CDLL(path)
    library.ipcctl_read.restype = ctypes.c_void_p
    library.ipcctl_words.restype = ctypes.c_size_t
    return library


def words(library: ctypes.CDLL, kind: int) -> list[str]:
    """Arguments (0), environment (1) or working directory (2) of the specification that was read last."""
    size = library.ipcctl_words(kind, None, 0)
    room = ctypes.create_string_buffer(size)
    library.ipcctl_words(kind, room, size)
    return [os.fsdecode(word) for word in room.raw[: size - 1].split(b"\0")[:-1]] if size > 1 else []


def single_threaded() -> None:
    tasks = [task for task in os.listdir("/proc/self/task") if int(task) != os.getpid()]
    names = [open(f"/proc/self/task/{task}/comm").read().strip() for task in tasks]
    if names:
        sys.exit(f"snapshot: an import has started threads ({', '.join(names)}); a fork would lose them")


def fingerprint() -> str:
    """Changes when the interpreter or what is installed beside it does."""
    seen = []
    for path in [sys.executable, *sys.path]:
        try:
            status = os.stat(path)
            seen.append((path, status.st_ino, status.st_mtime_ns))
        except OSError:
            seen.append((path, 0, 0))
    return repr(seen)


def bonds(pid: int | str) -> list[str]:
    """What a confined process has and cannot take off. A worker may be the user, and even run a shim: it is told by these."""
    with open(f"/proc/{pid}/status") as file:
        return [line for line in file if line.startswith(("NoNewPrivs:", "Seccomp:", "Seccomp_filters:"))]


def is_shim(pid: int, uid: int) -> bool:
    """Whether a free shim asks: nobody else may have a process made that is confined by nothing but what he says."""
    try:
        name = os.path.basename(os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)"))
        return uid in (0, os.geteuid()) and name == "ipcctl-shim" and bonds(pid) == bonds("self")
    except OSError:
        return False


def receive(connection: socket.socket) -> tuple[bytes, dict[str, int]] | None:
    """A specification with its descriptors; None at the end, or for what is none."""
    fds = array.array("i")
    data, ancillary, _, _ = connection.recvmsg(HEAD.size, socket.CMSG_SPACE(len(DESCRIPTORS) * fds.itemsize))
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    got: dict[str, int] = {}
    if len(data) == HEAD.size:
        size, which = HEAD.unpack(data)
        names = [name for bit, name in enumerate(DESCRIPTORS) if which >> bit & 1]
        if len(names) == len(fds) and size <= SPECIFICATION_MAX and which & 7 == 7:
            got = dict(zip(names, fds))
            parts = bytearray()
            while len(parts) < size:
                part = connection.recv(size - len(parts))
                if not part:
                    break
                parts += part
            if len(parts) == size:
                return bytes(parts), got
    for fd in fds:
        os.close(fd)
    return None


class Child(Exception):
    """Raised in the child, to get out of everything that is the parent's."""


PDEATHSIG = 1  # prctl
LOST_MAX = 3


class Zygote:
    """Keeps one child in store, which waits for whoever asks next: the fork is over before it is asked for."""

    def __init__(self, library: ctypes.CDLL, folder: str) -> None:
        self.library = library
        self.poll = select.epoll()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        here = os.open(folder, os.O_PATH | os.O_DIRECTORY)
        path = f"/proc/self/fd/{here}/fork"  # leads around the length of an address
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        self.listener.bind(path)
        os.close(here)
        self.listener.listen(64)
        #: By pidfd and by connection: pidfd, connection, and where the child says whether it took what it was asked for.
        self.running: dict[int, tuple[int, socket.socket, socket.socket]] = {}
        self.children: dict[int, int] = {}  # by pidfd
        self.born_of = fingerprint()
        self.lost = 0  # children in store that ended, one after the other

    def serve(self) -> None:
        spare, spare_pidfd = self.store()
        while True:
            for fd, _ in self.poll.poll():
                if fd == spare.fileno():
                    self.take(spare, spare_pidfd)
                    spare, spare_pidfd = self.store()
                elif fd in self.children:
                    self.reap(fd)
                elif fd in self.running:  # whoever asked for it is gone
                    self.poll.unregister(fd)
                    signal.pidfd_send_signal(self.running[fd][0], signal.SIGKILL)

    def store(self) -> tuple[socket.socket, int]:
        """Forks the next child. It says by a message with a connection that somebody has asked it."""
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            ctypes.CDLL(None).prctl(PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(0)
            ours.close()
            self.forget()
            raise Child(*self.wait(its))
        its.close()
        pidfd = os.pidfd_open(child)
        self.children[pidfd] = child
        self.poll.register(ours, select.EPOLLIN)
        self.poll.register(pidfd, select.EPOLLIN)
        return ours, pidfd

    def forget(self) -> None:
        """In the child: what is the parent's with others is none of its business, and must end when the parent lets go of it."""
        self.poll.close()
        for _, connection, told in set(self.running.values()):
            connection.close()
            told.close()
        for pidfd in self.children:
            os.close(pidfd)
        self.running.clear()
        self.children.clear()

    def wait(self, parent: socket.socket) -> tuple[int, bytes, dict[str, int]]:
        """In the child: until somebody asks for it in the right way. Whoever does not ends it."""
        # All that can be done before it is known what for; and what is touched now is not copied later.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGURG, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.environ.clear()
        compile("0", "<string>", "exec")
        words(self.library, 0)
        ctypes.byref(Fields(parent=0))
        types.ModuleType("__main__")
        connection, _ = self.listener.accept()
        is_stale = fingerprint() != self.born_of
        socket.send_fds(parent, [b"n" if is_stale else b"a"], [connection.fileno()])
        connection.settimeout(10)  # a shim sends at once, or is none
        pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        asked = receive(connection) if not is_stale and is_shim(pid, uid) else None
        if asked is None:
            os._exit(0)
        parent.send(b"k")
        connection.sendall(struct.pack("<I", os.getpid()))
        return (pid, *asked)

    def take(self, spare: socket.socket, pidfd: int) -> None:
        """The child in store was asked, or died."""
        message, fds, _, _ = socket.recv_fds(spare, 1, 1)
        self.poll.unregister(spare)
        spare.setblocking(False)
        if message == b"n":
            for fd in fds:
                os.close(fd)
            self.renew()
        self.lost = 0 if message else self.lost + 1
        if self.lost == LOST_MAX:
            sys.exit("snapshot: its children end before anybody asks for them")
        for fd in fds:
            connection = socket.socket(fileno=fd)
            self.running[pidfd] = self.running[connection.fileno()] = (pidfd, connection, spare)
            self.poll.register(connection, select.EPOLLRDHUP)

    def renew(self) -> None:
        """What was imported is not what is installed any more: begins anew, and so do the imports. Running children end with us."""
        os.environ["PYTHONPATH"] = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "boot")
        os.execv(sys.executable, [sys.executable, *sys.argv])

    def reap(self, pidfd: int) -> None:
        _, status, usage = os.wait4(self.children.pop(pidfd), 0)
        self.poll.unregister(pidfd)
        os.close(pidfd)
        if pidfd not in self.running:
            return
        _, connection, told = self.running.pop(pidfd)
        del self.running[connection.fileno()]
        try:
            self.poll.unregister(connection)
        except FileNotFoundError:
            pass  # it is gone since we looked
        cpu = int((usage.ru_utime + usage.ru_stime) * 1e6)
        try:
            if told.recv(1) == b"k":  # else nobody knows of it
                connection.settimeout(1)
                connection.sendall(struct.pack("<IQQ", status, usage.ru_maxrss, cpu))
        except OSError:
            pass
        told.close()
        connection.close()


def lock_down(library: ctypes.CDLL, shim: int, specification: bytes, fds: dict[str, int]) -> list[str]:
    """Makes this process what the specification says, for ever. Returns the arguments."""
    if not library.ipcctl_read(specification, ctypes.c_size_t(len(specification))):
        os._exit(126)
    arguments, environment = words(library, 0), words(library, 1)
    os.environ.update(pair.partition("=")[::2] for pair in environment)
    if "control" in fds:
        os.environ["IPCCTL_CONTROL_FD"] = "198"
    fields = Fields(**{name: fds.get(name, -1) for name in DESCRIPTORS}, parent=shim)
    if library.ipcctl_become(ctypes.byref(fields)) != 0:
        os._exit(126)  # it has told the shim why
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    return arguments


def reseed() -> None:
    """What the C library and Python reseed by themselves is not here."""
    numpy = sys.modules.get("numpy.random")
    if numpy is not None:
        numpy.seed(list(os.urandom(64)))


def open_streams() -> None:
    is_unbuffered = os.environ.get("PYTHONUNBUFFERED", "") != ""
    sys.stdin = open(0, closefd=False)
    setattr(sys, "__stdin__", sys.stdin)
    for fd, name in ((1, "stdout"), (2, "stderr")):
        raw = open(fd, "wb", 0, closefd=False)
        line = is_unbuffered or fd == 2 or os.isatty(fd)
        errors = "backslashreplace" if fd == 2 else "strict"
        stream = io.TextIOWrapper(
            raw if is_unbuffered else io.BufferedWriter(raw), errors=errors, line_buffering=line, write_through=is_unbuffered
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def listen_for_console() -> None:
    """As python/boot does in a Python of its own."""
    if os.environ.pop("IPCCTL_CONSOLE", "0") != "1" or "IPCCTL_PLANE" not in os.environ:
        return
    import _thread

    from ipcctl import _console

    is_started = False

    def wake(number: int, frame: object) -> None:
        nonlocal is_started
        if is_started:
            _console.on_signal()
        else:
            is_started = True
            _thread.start_new_thread(_console.serve, ())

    signal.signal(signal.SIGURG, wake)


def run(arguments: list[str]) -> None:
    """The script, or with -c the code, as Python would run it: the first word is the interpreter."""
    main = types.ModuleType("__main__")
    setattr(main, "__builtins__", builtins)
    sys.modules["__main__"] = main
    if arguments[1] == "-c":
        sys.argv = ["-c", *arguments[3:]]
        sys.path.insert(0, "")
        code = compile(arguments[2], "<string>", "exec")
    else:
        script = arguments[1]
        sys.argv = arguments[1:]
        sys.path.insert(0, os.path.dirname(os.path.abspath(script)))
        with io.open_code(os.path.abspath(script)) as file:
            code = compile(file.read(), script, "exec")
        main.__file__ = script
    try:
        exec(code, main.__dict__)
    except KeyboardInterrupt as error:
        show(error)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)  # as a Python ends that nobody caught it in
    except Exception as error:
        show(error)
        sys.exit(1)


def show(error: BaseException) -> None:
    """The traceback as of a Python of its own: it begins in the script."""
    trace = error.__traceback__.tb_next if error.__traceback__ else None
    sys.excepthook(type(error), error.with_traceback(trace), trace)


def main() -> None:
    library_path, *imports = sys.argv[1:]
    single_threaded()
    for name in [*imports, "ipcctl", "ipcctl._console", "ipcctl._runtime", "runpy", "traceback", "random"]:
        importlib.import_module(name)
    single_threaded()
    folder = os.path.dirname(os.environ["IPCCTL_PLANE"])
    zygote = Zygote(load(library_path), folder)
    with open(os.path.join(folder, "snapshot"), "w") as file:
        json.dump({"python": sys.executable, "imports": imports, "policy": os.environ.get("IPCCTL_SNAPSHOT_POLICY")}, file)
    gc.collect()
    gc.freeze()  # what is here stays: nothing of it is touched, and so copied, by a collection in a child
    importlib.import_module("ipcctl").ready()
    try:
        zygote.serve()
    except Child as child:
        asked = child.args
    sys.path[:] = [entry for entry in sys.path if entry != os.path.dirname(os.path.abspath(__file__))]
    arguments = lock_down(zygote.library, *asked)
    del zygote
    reseed()
    open_streams()
    listen_for_console()
    run(arguments)


main()
