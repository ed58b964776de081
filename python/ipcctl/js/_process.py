"""The process of a runtime: how it starts, is watched, and ends.

Its shim is a child of this program and holds one end of a pipe, so that the engine ends with this program, whatever
ends that.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .. import _contract
from .._backend import BrokenChannel
from .._client import runtime_folder
from .._end import End, ShimDoor
from .._types import IpcError
from ._template import INTERRUPTS, WAYS_OUT, Options, find_program, installation, require_version, specification

if TYPE_CHECKING:
    from typing import Self

START_SECONDS = 30.0
#: A shim ends within milliseconds of its engine.
END_SECONDS = 5.0
_PAGE = os.sysconf("SC_PAGE_SIZE")
#: Of what a guest has used: how often it is looked at while its code runs and for how many looks after that, and how
#: often while nothing is asked of it, since timers and what promises come to may run.
_LOOK_SECONDS = 0.002
_LOOKS_AFTER = 25
_REST_SECONDS = 0.25
#: More than the shim says where it cannot start, and than the kernel says of memory.
_TEXT_BYTES = 4096
#: In the folder of an engine that has ended.
_LEFT = ("lock", "run", "exit", "logs/0000000001.log")
#: What the engine itself takes once code runs: compiled code, structures, threads.
_ENGINE_ROOM: int = json.loads(_contract.ENGINE_START)["room"]["used"]
#: How an engine ends that gets no memory.
CRASHES = frozenset((signal.SIGILL, signal.SIGTRAP, signal.SIGABRT, signal.SIGBUS, signal.SIGSEGV))


# ---- folders ----


class _Folders:
    """A folder for each engine, in one of this program, which holds a lock as long as it lives."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._root: str | None = None
        self._held = -1
        self._count = 0
        self._is_closed = False

    def make(self) -> str:
        """:raises OSError:"""
        with self._lock:
            if self._is_closed:
                raise OSError(errno.ESHUTDOWN, "the program is ending")
            if self._root is None or not os.path.isdir(self._root):
                self._open()
            self._count += 1
            path = f"{self._root}/{self._count}"
        os.mkdir(path, 0o700)
        return path

    def _open(self) -> None:
        try:
            above = os.path.join(runtime_folder(), "js")
            os.makedirs(above, 0o700, exist_ok=True)
            self._take(above)
        except OSError:  # read-only, or full
            above = os.path.join(tempfile.gettempdir(), f"ipcctl-js-{os.getuid()}")
            os.makedirs(above, 0o700, exist_ok=True)
            if os.lstat(above).st_uid != os.getuid():
                above = tempfile.mkdtemp(prefix="ipcctl-js-")
            self._take(above)
        _sweep(above, self._root)

    def _take(self, above: str) -> None:
        while True:
            root = tempfile.mkdtemp(prefix="", dir=above)
            with contextlib.suppress(FileNotFoundError):  # another program has taken it for one that was left
                held = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                fcntl.flock(held, fcntl.LOCK_EX)
                if os.path.isdir(root):
                    break
                os.close(held)
        if self._held >= 0:
            os.close(self._held)
        self._root, self._held = root, held

    def close(self) -> None:
        """At the end of the program: nothing runs in it any more."""
        with self._lock:
            self._is_closed = True
            if self._root is not None:
                shutil.rmtree(self._root, ignore_errors=True)

    def forsake(self) -> None:
        """In a forked child."""
        if self._held >= 0:
            os.close(self._held)
        self._root, self._held = None, -1
        self._is_closed = False
        self._lock = threading.Lock()


def _sweep(above: str, ours: str | None) -> None:
    """Removes what programs have left that were killed. A shim that still ends has its working directory there."""
    with contextlib.suppress(OSError):
        for name in os.listdir(above):
            path = os.path.join(above, name)
            if path == ours:
                continue
            with contextlib.suppress(OSError):
                held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
                finally:
                    os.close(held)


_folders = _Folders()


# ---- the process ----


class Guest:
    """An engine, and the channel to it."""

    #: Of the engine, as seen from here.
    pid: int
    #: Its first message is taken already.
    end: End
    hello: dict[str, Any]
    is_confined: bool

    def __init__(self, options: Options, shim: Engine, end: End, hello: dict[str, Any]) -> None:
        """Only by :func:`start`."""
        self.options = options
        self.pid, self.end, self.hello, self.is_confined = shim.pid, end, hello, options.confine
        self._shim = shim
        self._lock = threading.RLock()
        self._reason: str | None = None
        self._limit = Limit(self, options.max_memory) if options.max_memory is not None and shim.is_seen else None
        self._is_disposed = False
        _all.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.dispose()

    @property
    def is_alive(self) -> bool:
        return self._shim.is_running

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Around all in which code of the guest may run: its memory is looked at as long. Costs nothing where it has no
        limit; nests, and may be entered from several threads.
        """
        self.begin()
        try:
            yield
        finally:
            self.done()

    def begin(self) -> None:
        """As :meth:`running`, for what has its end elsewhere: an asynchronous call."""
        if self._limit is not None:
            self._limit.begin()

    def done(self) -> None:
        if self._limit is not None:
            self._limit.done()

    def interrupt(self) -> None:
        """Ends the script that the engine runs. Of one that has ended nothing comes."""
        self._shim.signal(INTERRUPTS[self.options.engine])

    def kill(self, reason: str | None = None) -> None:
        """Ends all of it, without waiting for that. Idempotent, from any thread. The first reason is the one that
        :meth:`how_it_ended` tells.
        """
        if reason is not None and self._reason is None:
            self._reason = reason
        self._shim.kill()

    def has_exceeded(self) -> bool:
        """Whether it has more memory than it may have; then it is killed, unless it has crashed. For when JavaScript
        got none any more, which may come before anybody has looked.
        """
        return self._limit is not None and self._limit.has_exceeded()

    def how_it_ended(self, timeout: float) -> str | None:
        """None while it runs. It ends a moment after its channel does."""
        if not self._shim.wait(timeout):
            return None
        return self._reason or self._shim.how_it_ended()

    def resident_bytes(self) -> int:
        """Of memory, as the kernel counts it; 0 once it has ended."""
        return _memory(self.pid)[0] if self._shim.is_running else 0

    def dispose(self) -> None:
        """Has all of it killed, by its shim and by the thread that reaps it and removes its folder, whichever comes
        first. Idempotent; in a forked child it has no effect on the engine.
        """
        with self._lock:
            if self._is_disposed:
                return
            self._is_disposed = True
        if self._limit is not None:
            self._limit.close()
        self._shim.release()
        self.end.close()
        _all.discard(self)
        _reaper.take(self._shim)

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.dispose()

    def forsake(self) -> None:
        """In a forked child, whose parent still uses it."""
        self._lock = threading.RLock()
        self._is_disposed = True
        limit, self._limit = self._limit, None
        if limit is not None:
            limit.forsake()
        self._shim.forsake()


_all: weakref.WeakSet[Guest] = weakref.WeakSet()


def forget_all() -> None:
    """In a forked child."""
    for guest in list(_all):
        guest.forsake()
    _all.clear()
    _folders.forsake()
    _reaper.forsake()
    _watch.forsake()


def _engine(options: Options) -> Engine:
    if not options.by_daemon:
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if most <= _contract.PLANE_FD:
            raise RuntimeError(
                f"ipcctl.js: this program may have {most} open files (RLIMIT_NOFILE, `ulimit -n`), and an engine "
                f"needs more than {_contract.PLANE_FD}"
            )
        return _Shim(options)
    from ._kept import Kept

    return Kept(options)


def start(options: Options) -> Guest:
    """A new one. :raises RuntimeError: that says what is missing, and what to do"""
    deadline = time.monotonic() + START_SECONDS
    try:
        end = End(_contract.SEGMENT_VERSION)
    except OSError as error:
        raise RuntimeError(f"ipcctl.js: a runtime cannot be started: {error}") from error
    try:
        shim = _engine(options)
    except BaseException:
        end.close()
        raise
    try:
        shim.open(end, deadline)
        return greet(options, shim, end, deadline)
    except BaseException as error:
        shim.kill()
        end.close()
        if isinstance(error, (BrokenChannel, IpcError, OSError)):
            error = shim.failed(str(error))
        shim.close()
        raise error from None


def greet(options: Options, shim: Engine, end: End, deadline: float) -> Guest:
    """Once it has said hello. :raises RuntimeError, BrokenChannel:"""
    end.half.close()
    first = end.receive(max(0.0, deadline - time.monotonic()))
    if first is None:
        raise shim.failed(f"it said nothing within {START_SECONDS:g} s")
    kind, _, hello = first
    if kind != _contract.TO_CLIENT_HELLO:
        raise shim.failed(f"its first message is of kind {kind}")
    return Guest(options, shim, end, hello)


class Engine:
    """The process, whoever keeps it."""

    #: Its memory can be looked at, and limited, from here.
    is_seen = True

    def __init__(self, options: Options) -> None:
        """:raises RuntimeError:"""
        self.pid = 0
        self._options = options
        self._lock = threading.Lock()
        self._pidfd = -1

    def open(self, end: End, deadline: float) -> None:
        """Hands it the channel. :raises RuntimeError, IpcError:"""
        raise NotImplementedError

    def _meet(self, path: str, end: End, deadline: float) -> None:
        """:raises RuntimeError, IpcError:"""
        with ShimDoor(path, "the runtime", deadline) as door:
            self.pid = door.wait_attached()
            try:
                self._pidfd = os.pidfd_open(self.pid)
            except OSError:
                raise self.failed("it ended at once") from None
            number = door.ask(_contract.REQUEST_OPEN, end.half.payload, tuple(end.half.fds))
        if number != 0:
            raise self.failed(os.strerror(number))

    def failed(self, why: str) -> RuntimeError:
        """With what is known of its end."""
        self.kill()
        self.wait(END_SECONDS)
        log = self.last_words()
        try:
            require_version(self._options.engine, find_program(self._options.engine))
        except RuntimeError as error:
            return error
        record = self.record()
        if (
            step := record.get("step", "none")
        ) != "none":  # the kernel refused what its shim does before the engine begins
            why = f"{step}: {os.strerror(int(record.get('errno', '0')))}"
            if self._options.confine:
                return RuntimeError(f"ipcctl.js: this machine cannot confine JavaScript as asked: {why}. {WAYS_OUT}")
        return RuntimeError(f"ipcctl.js: the engine did not start: {why}{'. It wrote: ' + log if log else ''}")

    def last_words(self) -> str:
        raise NotImplementedError

    @property
    def is_running(self) -> bool:
        with self._lock:
            return self._pidfd >= 0 and not is_readable(self._pidfd, 0)

    def signal(self, number: int) -> None:
        with self._lock:
            if self._pidfd >= 0:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    signal.pidfd_send_signal(self._pidfd, number)

    def kill(self) -> None:
        raise NotImplementedError

    def release(self) -> None:
        """:meth:`kill` for whoever goes on, and has :meth:`close` called soon."""
        self.kill()

    def wait(self, timeout: float) -> bool:
        """Until nothing of it runs."""
        raise NotImplementedError

    def record(self) -> dict[str, str]:
        """Of its end: ``kind`` and ``status``, and what it used as far as it is known."""
        raise NotImplementedError

    def how_it_ended(self) -> str:
        record, max_cpu, max_memory = self.record(), self._options.max_cpu, self._options.max_memory
        number = int(record.get("status", "9"))
        if record.get("kind") != "signal":
            return f"exit status {number}" if record else "killed by signal 9, with its shim"
        used = int(record.get("cpu_us", "0")) / 1e6
        if number == signal.SIGXCPU or (number == signal.SIGKILL and max_cpu is not None and used >= max_cpu):
            return "processor time limit exceeded"
        if number in CRASHES and max_memory is not None:
            return _exceeded(max_memory)  # as whoever looks at it says, who may come first
        return f"killed by signal {number}"

    def close(self) -> None:
        """After :meth:`kill` or :meth:`release`: waits, and leaves nothing."""
        raise NotImplementedError

    def forsake(self) -> None:
        """In a forked child, whose parent still uses it."""
        self._lock = threading.Lock()
        self._let_go()

    def _let_go(self) -> None:
        with self._lock:
            held, self._pidfd = self._pidfd, -1
        if held >= 0:
            os.close(held)


class _Shim(Engine):
    """Under a shim that is a child of this program, and ends it when this program ends."""

    def __init__(self, options: Options) -> None:
        """:raises RuntimeError:"""
        super().__init__(options)
        self._watched = self._owner = -1
        self._folder = ""
        self._record: dict[str, str] | None = None
        self._errors = -1
        self._process: subprocess.Popen[bytes] | None = None
        try:
            spec = specification(options)
            self._folder = _folders.make()
            with open(os.open(f"{self._folder}/spec", os.O_WRONLY | os.O_CREAT, 0o600), "wb", buffering=0) as file:
                if file.write(spec) != len(spec):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._spawn()
        except BaseException as error:
            if self._process is not None:
                self._process.kill()
                self._process.wait()
            self._let_go()
            self._remove()
            if isinstance(error, OSError):
                raise RuntimeError(f"ipcctl.js: a runtime cannot be started: {error}") from error
            raise

    def _spawn(self) -> None:
        """:raises OSError:"""
        lent = []
        try:
            ours, self._owner = os.pipe2(os.O_CLOEXEC)
            lent.append(ours)
            self._errors, errors = os.pipe2(os.O_CLOEXEC)
            lent.append(errors)
            self._process = subprocess.Popen(
                (installation().shim, self._folder),
                stdin=ours,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd="/",
                env={},
                start_new_session=True,
            )
            self._watched = os.pidfd_open(self._process.pid)
        finally:
            for descriptor in lent:
                os.close(descriptor)

    def open(self, end: End, deadline: float) -> None:
        """:raises RuntimeError, IpcError:"""
        said = b""
        try:
            # It closes them once the engine has begun.
            while True:
                if not is_readable(self._errors, max(0.0, deadline - time.monotonic())):
                    raise self.failed(f"its shim did not start it within {START_SECONDS:g} s")
                part = os.read(self._errors, _TEXT_BYTES)
                if not part:
                    break
                said += part
        finally:
            errors, self._errors = self._errors, -1
            os.close(errors)
        if said:
            self.wait(END_SECONDS)
            raise self.failed(said.decode(errors="replace").strip())
        self._meet(f"{self._folder}/sock", end, deadline)

    def last_words(self) -> str:
        try:
            folder = f"{self._folder}/logs"
            with open(f"{folder}/{max(os.listdir(folder))}", encoding="utf-8", errors="replace") as file:
                return " ".join(line.split(" ", 3)[-1].strip() for line in file.readlines()[-8:])
        except (OSError, ValueError):
            return ""

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.release()

    def release(self) -> None:
        """The shim kills whatever is left. Its threads end on other cores than ours, as far as there are some."""
        with self._lock:
            if self._owner >= 0:
                os.close(self._owner)
                self._owner = -1

    def wait(self, timeout: float) -> bool:
        with self._lock:
            if self._watched < 0:
                return True
            watched = os.dup(self._watched)
        try:
            return is_readable(watched, timeout)
        finally:
            os.close(watched)

    def record(self) -> dict[str, str]:
        with self._lock:
            if self._record is None:
                try:
                    with open(f"{self._folder}/exit", encoding="ascii") as file:
                        self._record = dict(line.rstrip("\n").split("=", 1) for line in file)
                except (OSError, ValueError):
                    self._record = {}
            return self._record

    def close(self) -> None:
        self.kill()
        if self._process is not None:
            if not self.wait(END_SECONDS):
                self._process.kill()  # it hangs: what it supervises ends with it
            self._process.wait()
        self.record()
        self._let_go()
        self._remove()

    def forsake(self) -> None:
        super().forsake()
        if self._process is not None:
            self._process.returncode = 0  # it is not ours to wait for

    def _let_go(self) -> None:
        super()._let_go()
        with self._lock:
            held = (self._watched, self._owner, self._errors)
            self._watched = self._owner = self._errors = -1
        for descriptor in held:
            if descriptor >= 0:
                os.close(descriptor)

    def _remove(self) -> None:
        if not self._folder:
            return
        try:  # what is left by all of them that have logged little
            for name in _LEFT:
                os.unlink(f"{self._folder}/{name}")
            os.rmdir(f"{self._folder}/logs")
            os.rmdir(self._folder)
        except OSError:
            shutil.rmtree(self._folder, ignore_errors=True)


def is_readable(descriptor: int, timeout: float) -> bool:
    """Whether it has something to read, or the process that it stands for has ended."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


class _Reaper:
    """The thread that waits for those that were killed: an engine takes milliseconds to end."""

    def __init__(self) -> None:
        self.forsake()

    def forsake(self) -> None:
        self._killed: deque[Engine] = deque()
        #: Those that have not ended yet.
        self.count = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_over = False

    def take(self, shim: Engine) -> None:
        with self._changed:
            if not self._is_over:
                self._killed.append(shim)
                self.count += 1
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="ipcctl.js reaper", daemon=True)
                    self._thread.start()
                self._changed.notify()
                return
        shim.close()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._killed:
                    if self._is_over:
                        return
                    self._changed.wait()
                shim = self._killed.popleft()
            shim.close()
            with self._changed:
                self.count -= 1

    def settle(self, most: int) -> None:
        """Waits a while until those that are used and those that end are fewer than this."""
        deadline = time.monotonic() + END_SECONDS
        while self.count > 0 and len(_all) + self.count >= most and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)

    def finish(self) -> None:
        """Waits for all; who is killed later is waited for at once."""
        with self._changed:
            self._is_over = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join(END_SECONDS)


_reaper = _Reaper()


def settle(most: int) -> None:
    """Before one more is asked for, of so many: those that were disposed of, or that nobody holds any more, have ended,
    if that is needed.
    """
    if len(_all) >= most:
        gc.collect()  # a runtime refers to itself
    _reaper.settle(most)


def end_all() -> None:
    """At the end of the program."""
    _reaper.finish()
    guests = list(_all)
    for guest in guests:
        guest.kill("the program has ended")
    for guest in guests:
        guest.dispose()
    _folders.close()


def _memory(pid: int) -> tuple[int, int, int]:
    """Bytes of a process: resident ones, those of them that are not shared, and what it may write to (VmData, which
    RLIMIT_DATA limits). 0 where it has ended.
    """
    try:
        statm = os.open(f"/proc/{pid}/statm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0, 0, 0
    try:
        return _read_memory(statm)
    finally:
        os.close(statm)


def _read_memory(statm: int) -> tuple[int, int, int]:
    """One call of the kernel: whoever looks waits for the interpreter after each."""
    try:
        _, resident, shared, _, _, data, *_ = map(int, os.pread(statm, _TEXT_BYTES, 0).split())
    except (OSError, ValueError):
        return 0, 0, 0
    return resident * _PAGE, (resident - shared) * _PAGE, data * _PAGE


# ---- memory ----


class Limit:
    """How much memory one guest may have: beyond what its engine had at the start, and what engines need for code.

    The engine has asked the kernel to give it no more than a little above that (src/engine/memory-limit.ts), which
    holds whatever this program does, and refuses. What is seen here in time is told as what it is instead.
    """

    def __init__(self, guest: Guest, most: int) -> None:
        self._guest = weakref.ref(guest)
        self._most = most
        self._lock = threading.RLock()  # an engine that nobody holds may be disposed of in the midst
        _, own, data = _memory(guest.pid)
        self._most_used, self._most_data = (begun + most + _ENGINE_ROOM for begun in (own, data))
        self._is_exceeded = False
        self._running = 0
        self._looks = 0
        #: Code of the guest has run, and may again.
        self.has_begun = False
        try:
            self._statm = os.open(f"/proc/{guest.pid}/statm", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # it has ended
            self._statm = -1
        _watch.add(self)

    def begin(self) -> None:
        with self._lock:
            self._running += 1
        self._looks = _LOOKS_AFTER
        self.has_begun = True
        _watch.wake()

    def done(self) -> None:
        with self._lock:
            self._running -= 1

    def close(self) -> None:
        _watch.remove(self)
        self._let_go()

    def forsake(self) -> None:
        """In a forked child."""
        self._lock = threading.RLock()
        self._let_go()

    def _let_go(self) -> None:
        with self._lock:
            held, self._statm = self._statm, -1
        if held >= 0:
            os.close(held)

    def look(self) -> bool:
        """Whether it should be looked at again soon."""
        with self._lock:
            if self._statm < 0:
                return False
            _, own, _ = _read_memory(self._statm)
            is_running = self._running > 0
        if own > self._most_used:
            self._end()
            return False
        self._looks = _LOOKS_AFTER if is_running else self._looks - 1
        return self._looks > 0

    def has_exceeded(self) -> bool:
        """What was allocated and not written yet has no pages, but the kernel counts it, and has given no more. An
        engine that got none for itself either has crashed by now.
        """
        with self._lock:
            data = 0 if self._statm < 0 else _read_memory(self._statm)[2]
        if data > self._most_data:
            self._end()
        return self._is_exceeded or data == 0

    def _end(self) -> None:
        self._is_exceeded = True
        guest = self._guest()
        if guest is not None:
            guest.kill(_exceeded(self._most))


def _exceeded(most: int) -> str:
    return f"heap limit exceeded: it may have {most} bytes"


class _Watch:
    def __init__(self) -> None:
        self.forsake()

    def forsake(self) -> None:
        self._limits: set[Limit] = set()
        self._lock = threading.RLock()  # an engine that nobody holds may be disposed of in the midst
        self._is_asleep = False
        self._awake = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, limit: Limit) -> None:
        with self._lock:
            self._limits.add(limit)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="ipcctl.js memory", daemon=True)
                self._thread.start()

    def remove(self, limit: Limit) -> None:
        with self._lock:
            self._limits.discard(limit)

    def wake(self) -> None:
        if self._is_asleep:
            self._awake.set()

    def _run(self) -> None:
        while True:
            if not self._look():
                self._awake.clear()
                self._is_asleep = True
                if not self._look():  # one that began meanwhile found it awake
                    self._awake.wait(_REST_SECONDS if self._is_any_used() else None)
                self._is_asleep = False
            time.sleep(_LOOK_SECONDS)

    def _is_any_used(self) -> bool:
        with self._lock:
            return any(limit.has_begun for limit in self._limits)

    def _look(self) -> bool:
        with self._lock:
            limits = list(self._limits)
        is_any = False
        for limit in limits:
            is_any |= limit.look()
        return is_any


_watch = _Watch()
