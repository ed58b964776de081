"""The process of a snapshot: it has done its imports, and forks a worker whenever a shim asks for one.

It runs no code of a worker itself. Before the fork only code of the packages runs; after it the child is locked down by
its specification (native/become) before the first line of the script is even read. argv: the library that does so, and
what to import.
"""

import builtins
import contextlib
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
from collections.abc import Callable

from _ipcctl_stdio import take_words_fd, writer_of  # python/boot has put it on the path


def words(library: ctypes.CDLL, kind: int) -> list[str]:
    """Arguments (0) or environment (1) of the specification that this process has become."""
    found: list[str] = []
    words = library.ipcctl_words(kind)
    while words and (word := words[len(found)]) is not None:
        found.append(os.fsdecode(word))
    return found


def single_threaded() -> None:
    tasks = [task for task in os.listdir("/proc/self/task") if int(task) != os.getpid()]
    names = [open(f"/proc/self/task/{task}/comm").read().strip() for task in tasks]
    if names:
        sys.exit(f"snapshot: an import has started threads ({', '.join(names)}); a fork would lose them")


def fingerprint() -> str:
    """Changes when the interpreter or a package installed beside it changes."""
    seen = []
    for path in [sys.executable, *sys.path]:
        try:
            status = os.stat(path)
            seen.append((path, status.st_ino, status.st_mtime_ns))
        except OSError:
            seen.append((path, 0, 0))
    return repr(seen)


PDEATHSIG = 1  # prctl


def schedule(policy: int) -> None:
    with contextlib.suppress(OSError):  # if that is forbidden
        os.sched_setscheduler(0, policy, os.sched_param(0))


class Worker(Exception):
    """Raised in the child that has become a worker, to leave all code of the parent."""


class Child:
    """A child from its fork to its end."""

    def __init__(self, pid: int, told: socket.socket) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.told = told  # where it reports its progress: see native/become/become.h
        self.connection: socket.socket | None = None  # to the shim that asked for it
        self.is_known = False  # to that shim


LOST_MAX = 3


class Zygote:
    """Keeps one child in reserve for the next request, so the fork is done before it is needed."""

    def __init__(self, library: ctypes.CDLL, folder: str) -> None:
        self.library = library
        self.poll = select.epoll()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        here = os.open(folder, os.O_PATH | os.O_DIRECTORY)
        path = f"/proc/self/fd/{here}/fork"  # avoids the limit on the length of an address
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        self.listener.bind(path)
        os.close(here)
        self.listener.listen(64)
        self.acts: dict[int, Callable[[], object]] = {}  # by descriptor: what to do when it is readable
        self.children: set[Child] = set()
        self.spare: Child | None = None
        self.born_of = fingerprint()
        self.scheduler = os.sched_getscheduler(0)
        self.lost = 0  # reserve children that ended, one after the other
        self.wanted = (0, 0)  # namespaces of the last requests

    def serve(self) -> None:
        if self.scheduler == os.SCHED_OTHER:
            # The caller waits for the child: what the child wakes in us should run on another processor, or after it.
            schedule(os.SCHED_BATCH)
        self.store()
        while True:
            for fd, _ in self.poll.poll(maxevents=1):  # handling one may end another
                self.acts[fd]()

    def on(self, fd: int, events: int, act: Callable[[], object]) -> None:
        self.acts[fd] = act
        self.poll.register(fd, events)

    def off(self, fd: int) -> None:
        if self.acts.pop(fd, None):
            self.poll.unregister(fd)

    def store(self, connection: socket.socket | None = None) -> None:
        """Forks the next child: the reserve, or one for a shim that is waiting already."""
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            ctypes.CDLL(None).prctl(PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(0)
            ours.close()
            raise Worker(self.wait(its.detach(), connection.detach() if connection else -1))
        its.close()
        child = Child(pid, ours)
        self.children.add(child)
        self.on(child.pidfd, select.EPOLLIN, lambda: self.reap(child))
        self.on(ours.fileno(), select.EPOLLIN, lambda: self.hear(child))
        if connection:
            self.meet(child, connection)
        else:
            self.spare = child
            self.off(self.listener.fileno())

    def wait(self, parent: int, connection: int) -> bool:
        """In the child: waits until a shim asks for it and it has become what was asked. True if there is a control
        descriptor.
        """
        # What the parent shares with others is not the child's, and must end when the parent releases it.
        self.poll.close()
        self.acts.clear()
        for child in self.children:
            child.told.close()
            os.close(child.pidfd)
            if child.connection:
                child.connection.close()
        self.children.clear()
        if self.scheduler == os.SCHED_OTHER:
            schedule(os.SCHED_OTHER)
        # Everything that can be done before the request; pages touched now need not be copied later.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGURG, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.environ.clear()
        os.environ["A"] = ", ".join(words(self.library, 0))
        os.environ.clear()
        open_streams()
        with io.open_code(os.devnull) as file:
            exec(compile(file.read(), os.path.abspath("."), "exec"), types.ModuleType("__main__").__dict__)
        namespaces = self.wanted[0] if len(set(self.wanted)) == 1 and connection < 0 else 0
        return bool(self.library.ipcctl_become(self.listener.detach(), parent, connection, ctypes.c_uint32(namespaces)))

    def hear(self, child: Child) -> bool:
        """A message of the child, or its end: it is locked down, or dead. False then."""
        try:
            message, fds, _, _ = socket.recv_fds(child.told, 5, 1)
        except ConnectionResetError:
            return True  # it did not receive all that we sent; its own message comes now
        if fds:  # and l
            self.lost = 0
            self.spare = None
            self.on(
                self.listener.fileno(), select.EPOLLIN, self.store
            )  # later requests need not wait until this one is a worker
            self.meet(child, socket.socket(fileno=fds[0]))
        elif message[:1] == b"m" and child.connection:
            connection, child.connection = child.connection, None
            self.off(connection.fileno())
            self.store(connection)
        elif message[:1] == b"k":
            self.wanted = (self.wanted[1], struct.unpack("<xI", message)[0])
            if child.connection:
                self.introduce(child, child.connection)
        else:
            self.off(child.told.fileno())
            if self.spare is child:
                self.lost += 1
                self.wanted = (0, 0)
                if self.lost == LOST_MAX:
                    sys.exit("snapshot: the processes that it forks in advance end at once")
            if self.spare in (child, None):
                self.store()
        return message != b""

    def meet(self, child: Child, connection: socket.socket) -> None:
        """A shim asks for it; the child itself checks whether it may."""
        child.connection = connection
        connection.set_inheritable(False)  # it is passed on as it came
        if fingerprint() != self.born_of:
            self.renew()
        self.on(connection.fileno(), select.EPOLLRDHUP, lambda: self.kill(child))

    def introduce(self, child: Child, connection: socket.socket) -> None:
        """To the shim that asked for it."""
        with contextlib.suppress(OSError):  # one of them is gone
            child.told.send(b"y")
            connection.sendall(struct.pack("<I", child.pid))
            child.is_known = True

    def kill(self, child: Child) -> None:
        if child.connection:
            self.off(child.connection.fileno())
        signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)

    def renew(self) -> None:
        """The imported packages are no longer the installed ones: restarts, and imports anew. Running children end with
        us.
        """
        for child in self.children:
            self.kill(child)
            os.waitpid(child.pid, 0)
        os.environ["PYTHONPATH"] = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "boot")
        os.execv(sys.executable, [sys.executable, *sys.argv])

    def reap(self, child: Child) -> None:
        while child.told.fileno() in self.acts and self.hear(child):
            pass  # its message before its end
        _, status, usage = os.wait4(child.pid, 0)
        self.off(child.pidfd)
        os.close(child.pidfd)
        self.children.remove(child)
        child.told.close()
        if child.connection is None:
            return
        self.off(child.connection.fileno())
        cpu = int((usage.ru_utime + usage.ru_stime) * 1e6)
        if child.is_known:  # otherwise nobody knows of it
            with contextlib.suppress(OSError):
                child.connection.settimeout(1)
                child.connection.sendall(struct.pack("<IQQ", status, usage.ru_maxrss, cpu))
        child.connection.close()


def reseed() -> None:
    """The C library and Python reseed by themselves."""
    numpy = sys.modules.get("numpy.random")
    if numpy is not None:
        numpy.seed(list(os.urandom(64)))


def open_streams(words_fd: int | None = None) -> None:
    is_unbuffered = os.environ.get("PYTHONUNBUFFERED", "") != ""
    sys.stdin = open(0, closefd=False)
    setattr(sys, "__stdin__", sys.stdin)
    for fd, name in ((1, "stdout"), (2, "stderr")):
        raw = writer_of(fd, words_fd)
        line = not is_unbuffered and (fd == 2 or os.isatty(fd))
        errors = "backslashreplace" if fd == 2 else "strict"
        stream = io.TextIOWrapper(
            raw if is_unbuffered else io.BufferedWriter(raw),
            errors=errors,
            line_buffering=line,
            write_through=is_unbuffered,
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def listen_for_console() -> None:
    """As python/boot does in a new Python."""
    from ipcctl import _console

    _console.plane, _console.held_plane = os.environ.get("IPCCTL_PLANE"), lambda: None  # they belonged to the snapshot
    if os.environ.pop("IPCCTL_CONSOLE", "0") == "1" and _console.plane is not None:
        signal.signal(signal.SIGURG, lambda number, frame: _console.on_signal())


def run(arguments: list[str]) -> None:
    """Runs the script, or with -c the code, as Python would: the first word is the interpreter."""
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
        os.kill(os.getpid(), signal.SIGINT)  # like a Python in which nothing caught it
    except Exception as error:
        show(error)
        sys.exit(1)


def show(error: BaseException) -> None:
    """The traceback of a new Python: it begins in the script."""
    trace = error.__traceback__.tb_next if error.__traceback__ else None
    sys.excepthook(type(error), error.with_traceback(trace), trace)


def main() -> None:
    library_path, *imports = sys.argv[1:]
    policy = os.environ.get(
        "IPCCTL_SNAPSHOT_POLICY"
    )  # of a snapshot that was made by an ipcctl before there were kinds
    if imports and imports[0].startswith("--policy="):
        policy = imports.pop(0).removeprefix("--policy=")
    single_threaded()
    for name in [*imports, "ipcctl", "ipcctl._console", "ipcctl._serving", "runpy", "traceback", "random"]:
        importlib.import_module(name)
    single_threaded()
    folder = os.path.dirname(os.environ["IPCCTL_PLANE"])
    library = ctypes.CDLL(library_path)
    library.ipcctl_words.restype = ctypes.POINTER(ctypes.c_char_p)
    zygote = Zygote(library, folder)
    version = importlib.import_module("ipcctl._contract").SHIM_VERSION
    with open(os.path.join(folder, "snapshot"), "w") as file:
        about = {
            "python": sys.executable,
            "imports": imports,
            "policy": policy,
            "spec": version,
        }
        json.dump(about, file)
    gc.collect()
    gc.freeze()  # objects that exist now stay: a collection in a child neither touches nor copies them
    importlib.import_module("ipcctl").ready()
    has_control = False
    try:
        zygote.serve()
    except Worker as worker:
        (has_control,) = worker.args
    sys.path[:] = [entry for entry in sys.path if entry != os.path.dirname(os.path.abspath(__file__))]
    arguments, environment = words(zygote.library, 0), words(zygote.library, 1)
    del zygote
    for variable in environment:
        name, _, value = variable.partition("=")
        os.environ[name] = value
    words_fd = take_words_fd()
    if has_control and words_fd is None:
        os.environ["IPCCTL_CONTROL_FD"] = str(importlib.import_module("ipcctl._contract").CONTROL_FD)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    reseed()
    open_streams(words_fd)
    listen_for_console()
    run(arguments)


main()
