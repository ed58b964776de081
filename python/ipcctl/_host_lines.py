"""Asks the host by lines of stdout, where the worker was started with that transport, and reads the answers from stdin.

What the program itself prints and reads goes on beside it.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import select
import stat
import sys
import termios
import threading
import time
from collections import deque

from . import _contract
from ._host import HostError, Request, late, lost, outcome, unfolded, untaken

TYPE_CHECKING = False  # as typing has it, which takes long to load
if TYPE_CHECKING:
    from typing import Any

#: With it before, a request may stand within a line of the program's own.
_MARK = b"\x1e"
#: A whole answer.
_CHUNK_BYTES = 1 << 20
#: Under way at once, so that the line helper goes on to read what the program prints.
_BYTES_MAX = 4 * _contract.HOST_MESSAGE_BYTES_MAX
_CALLS_MAX = _contract.STDIO_CALLS_MAX
#: The line helper makes stdout so large: the longest request fits.
_PIPE_BYTES = 1 << 20
#: How long that is waited for: the program may print without an end.
_ROOM_SECONDS = 1.0
_LOOK_SECONDS = 0.0005


class LinesHost:
    """One thread writes, and one reads: both begin with the first call. No call waits for a full pipe by itself."""

    def __init__(self) -> None:
        #: Nobody else on these pipes can guess it, so no other line is taken for ours.
        self._prefix = f"{os.urandom(16).hex()}-"
        self._next = 1
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        #: Not written yet, in order.
        self._waiting: deque[Request] = deque()
        #: Correlations of those to give up that were written.
        self._given_up: deque[str] = deque()
        #: Written, or about to be; also those that nobody waits for any more, until they are answered.
        self._under_way: dict[str, Request] = {}
        self._bytes = 0
        self._stdin: _Stdin | None = None
        self._is_over = False

    # ---- calls ----

    def call(self, request: Request, deadline: float) -> Any:
        self._begin(request)
        self._wait(request, deadline, time.monotonic() + deadline)
        return request.result()

    def batch(self, requests: list[Request], deadline: float) -> list[Any]:
        end = time.monotonic() + deadline
        for request in requests:
            try:
                self._begin(request)
            except HostError as error:
                request.answer = {"error": vars(error)}
        for request in requests:
            if request.answer is None:
                self._wait(request, deadline, end)
        return [outcome(request) for request in requests]

    async def acall(self, request: Request, deadline: float) -> Any:
        loop = request.loop = asyncio.get_running_loop()
        request.future = loop.create_future()
        self._begin(request)
        try:
            async with asyncio.timeout(deadline):
                await request.future
        except TimeoutError:
            self._give_up(request, deadline)
        except asyncio.CancelledError:
            self._give_up(request, None)
            raise
        return request.result()

    def forget(self) -> None:
        """In a forked process, which would take its parent's answers."""
        if self._stdin is not None:
            self._stdin.forget()

    def _begin(self, request: Request) -> None:
        """:raises HostError: if it cannot be asked"""
        with self._lock:
            request.correlation = f"{self._prefix}{self._next}"
            self._next += 1
        wire = request.encode()
        arguments = wire[wire.index(b',"arguments":') + len(b',"arguments":') : -1]
        method = json.dumps(request.tool).encode()
        head = f'{{"id":"{request.correlation}","method":'.encode()
        request.data = b'%b%b%b,"params":%b}\n' % (_MARK, head, method, arguments)
        request.done = threading.Event()
        with self._lock:
            self._open()
            self._waiting.append(request)
            self._changed.notify()

    def _wait(self, request: Request, deadline: float, end: float) -> None:
        assert request.done is not None
        if not request.done.wait(max(end - time.monotonic(), 0)):
            self._give_up(request, deadline)

    def _give_up(self, request: Request, deadline: float | None) -> None:
        """:param deadline: None: it is cancelled"""
        with self._lock:
            if request.answer is not None:
                return
            was_sent = request.correlation in self._under_way
            if was_sent:
                self._given_up.append(request.correlation)
                self._changed.notify()
            else:
                self._waiting.remove(request)
            if deadline is None:
                error: dict[str, Any] = {"code": "CANCELLED", "message": "cancelled", "retriable": False}
            else:
                error = late(request, deadline) if was_sent else untaken(request, deadline)
            request.settle({"error": error})

    def _open(self) -> None:
        """:raises HostError: if the lines of this process are not the worker's"""
        if self._is_over:
            raise _over()
        if self._stdin is not None:
            return
        self._stdin = _Stdin(f'{{"id":"{self._prefix}'.encode())
        threading.Thread(target=self._write, name="ipcctl-host-write", daemon=True).start()
        threading.Thread(target=self._read, name="ipcctl-host-read", args=[self._stdin], daemon=True).start()

    # ---- writing ----

    def _write(self) -> None:
        try:
            while True:
                with self._lock:
                    self._changed.wait_for(lambda: self._is_over or self._given_up or self._has_room())
                    if self._is_over:
                        return
                    data = self._take()
                _write_line(data)
        except OSError:
            self._end()

    def _has_room(self) -> bool:
        if not self._waiting:
            return False
        size = self._bytes + len(self._waiting[0].data)
        return not self._under_way or (len(self._under_way) < _CALLS_MAX and size <= _BYTES_MAX)

    def _take(self) -> bytes:
        if self._given_up:
            return b'%b{"id":"%b","method":"cancel"}\n' % (_MARK, self._given_up.popleft().encode())
        request = self._waiting.popleft()
        self._under_way[request.correlation] = request
        self._bytes += len(request.data)
        return request.data

    # ---- reading ----

    def _read(self, stdin: _Stdin) -> None:
        try:
            while (lines := stdin.read()) is not None:
                for line in lines:
                    self._settle(json.loads(line))
        finally:
            self._end()

    def _settle(self, answer: dict[str, Any]) -> None:
        with self._lock:
            request = self._under_way.pop(answer["id"], None)
            if request is None:
                return
            self._bytes -= len(request.data)
            self._changed.notify()
            if request.answer is None:  # or else it was given up
                request.settle(unfolded(answer))

    def _end(self) -> None:
        """The line helper has ended, or the program has closed its own ends."""
        with self._lock:
            self._is_over = True
            for request in self._under_way.values():
                if request.answer is None:
                    request.settle({"error": lost(request)})
            while self._waiting:
                request = self._waiting.popleft()
                request.settle({"error": vars(_over())})
            self._under_way.clear()
            self._changed.notify_all()


class _Stdin:
    """The process's own stdin from now on: descriptor 0 is a pipe that has all of it but our answers."""

    def __init__(self, head: bytes) -> None:
        """:param head: how our answers begin
        :raises HostError: if they would not come
        """
        self._head = head
        for fd, name in enumerate(("stdin", "stdout")):
            if not _is_pipe(fd):
                raise HostError(
                    "UNAUTHORIZED",
                    f"{name} of this process is not that of its worker, which asks by lines (--transport stdio): "
                    "ask in the worker itself",
                )
        try:
            fcntl.lockf(1, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until this process ends
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise HostError(
                "UNAUTHORIZED", "another process of this worker asks by its lines: ask in the worker itself"
            ) from None
        self._answers: int = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)
        mine, self._others = os.pipe()
        os.set_blocking(mine, os.get_blocking(0))
        os.set_blocking(self._others, False)
        os.dup2(mine, 0)
        os.close(mine)
        self._line = b""
        #: The line that comes is not ours.
        self._is_passing = False
        #: For the program, when there is room.
        self._passed = bytearray()

    def forget(self) -> None:
        os.close(self._answers)
        if self._others >= 0:
            os.close(self._others)

    def read(self) -> list[bytes] | None:
        """Waits, and passes on what is the program's. Whole answers of ours; None at the end."""
        places = select.poll()
        places.register(self._answers, select.POLLIN)
        if self._passed:
            places.register(self._others, select.POLLOUT)
        ready = dict(places.poll())
        lines: list[bytes] | None = []
        if self._answers in ready:
            try:
                data = os.read(self._answers, _CHUNK_BYTES)
                lines = self._sort(data) if data else None
            except BlockingIOError:
                pass
        self._pass_on()
        if lines is None:
            self._end_passing()
        return lines

    def _sort(self, data: bytes) -> list[bytes]:
        ours = []
        data = self._line + data
        self._line = b""
        for line in _lines(data):
            if self._is_passing or not line.startswith(self._head[: len(line)]):
                self._passed += line
                self._is_passing = not line.endswith(b"\n")
            elif line.endswith(b"\n"):
                ours.append(line)
            else:
                self._line = line
        return ours

    def _pass_on(self) -> None:
        try:
            while self._passed and self._others >= 0:
                del self._passed[: os.write(self._others, self._passed)]
        except BlockingIOError:
            pass
        except OSError:  # the program has closed its stdin
            os.close(self._others)
            self._others = -1
        if self._others < 0:
            self._passed.clear()

    def _end_passing(self) -> None:
        if self._others < 0:
            return
        os.set_blocking(self._others, True)
        try:
            while self._passed:
                del self._passed[: os.write(self._others, self._passed)]
        except OSError:
            pass
        os.close(self._others)
        self._others = -1


def _over() -> HostError:
    message = "what reads the lines of this process has ended, or the process itself"
    return HostError("PLUGIN_UNAVAILABLE", message, retriable=True, stage="route")


def _is_pipe(fd: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(fd).st_mode)
    except OSError:
        return False


def _lines(data: bytes) -> list[bytes]:
    """With their ends, which are newlines only."""
    *whole, rest = data.split(b"\n")
    lines = [line + b"\n" for line in whole]
    return [*lines, rest] if rest else lines


def _write_line(data: bytes) -> None:
    """What threads print meanwhile does not get into it: a write that fits into the pipe is never mixed with others."""
    if len(data) > select.PIPE_BUF:
        _wait_for_room(len(data))
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(1, rest) :]
        except BlockingIOError:  # the program has made it so
            room = select.poll()
            room.register(1, select.POLLOUT)
            room.poll()


def _wait_for_room(size: int) -> None:
    end = time.monotonic() + _ROOM_SECONDS
    try:
        while time.monotonic() < end:
            used = int.from_bytes(fcntl.ioctl(1, termios.FIONREAD, bytes(4)), sys.byteorder)
            if used == 0 or used + size <= _PIPE_BYTES // 2:
                return
            time.sleep(_LOOK_SECONDS)
    except OSError:
        pass  # a policy refuses it: most of the time there is room
