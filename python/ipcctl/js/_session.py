"""The messages between this program and one process in which JavaScript runs.

Any thread may ask. Whoever waits for an answer reads what arrives, also for others; while nobody waits and something is
under way, a thread in the background reads. A function of Python that JavaScript calls runs in the thread that waits
for the request in which it is called, with its context variables. Everything that arrives may be forged: the process
runs code that nobody trusts.
"""

from __future__ import annotations

import contextlib
import contextvars
import inspect
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from itertools import count
from threading import get_ident
from typing import TYPE_CHECKING, Any, Protocol

from .. import _types
from .._backend import BrokenChannel, DecodeError, dumps, loads
from .._contract import (
    ENGINE_FAULT_INTERRUPTED,
    ENGINE_FAULT_THROWN,
    ENGINE_FAULT_TIMEOUT,
    FROM_ENGINE_DROP,
    FROM_ENGINE_ERROR,
    FROM_ENGINE_FORGET,
    FROM_ENGINE_HELLO,
    FROM_ENGINE_INVOKE,
    FROM_ENGINE_LATER,
    FROM_ENGINE_PENDING,
    FROM_ENGINE_PRINT,
    FROM_ENGINE_RESULT,
    KEPT_ROOM_BYTES,
    MESSAGE_BYTES_MAX,
    REFERENCE_ENGINE_STREAM,
    ROOM_OPERATION,
    REFERENCE_GUEST_FUNCTION,
    TO_ENGINE_CALL,
    TO_ENGINE_CANCEL,
    TO_ENGINE_EVAL,
    TO_ENGINE_FORGET,
    TO_ENGINE_MODULE,
    TO_ENGINE_RELEASE,
    TO_ENGINE_REPORT,
    TO_ENGINE_RETURN,
    TO_ENGINE_THROW,
)
from .._shared import here, shared
from .._types import Unheld
from . import _helpers
from ._errors import JavaScriptError, JsTimeout, RuntimeTerminated, error_of

if TYPE_CHECKING:
    from .._end import End
    from ._template import Options

#: A lost bell costs a thread in the background at most this much.
_IDLE_SECONDS = 2.0
#: What is longer is not decoded in vain.
_SHORT_BYTES = 256
#: Another thread reads, and tells; a lost notice costs this much.
_FOLLOW_SECONDS = 0.05
#: How long the thread in the background lets one that waits come first.
_GIVE_WAY_SECONDS = 0.001
#: An event loop that asks again within this time looks out for answers itself, and the thread in the background leaves
#: that to it as long. After looks in vain 1, 3 and then 7 are left out.
_LOOK_SECONDS = 0.002
_LOOK_MISSES_MAX = 3
#: After an interrupt JavaScript has this long to end; then its process is killed. On a busy machine it may be long
#: until it has a turn.
_GRACE_SECONDS = 2.0
#: Meanwhile it is interrupted again this often: one interrupt may come between two pieces of code.
_AGAIN_SECONDS = 0.25
#: How long after its time JavaScript has to end by itself: its own clock counts only the time for which it computes.
_LATE_SECONDS = 0.05
#: An interrupt is there after this long.
_ABSORB_SECONDS = 0.005
_TEXT_CHARS = 10_000
#: Values that are sent as they are.
_SCALARS = frozenset((bool, int, float))


_ENDS = frozenset((FROM_ENGINE_RESULT, FROM_ENGINE_ERROR))
#: What runs code, and where its messages have the time that it may take.
_TIME_PLACES = {TO_ENGINE_EVAL: 4, TO_ENGINE_CALL: 4, TO_ENGINE_MODULE: 3}


class Process(Protocol):
    """The process, as far as a session needs it."""

    end: End
    pid: int
    options: Options

    def begin(self) -> None: ...
    def done(self) -> None: ...

    def interrupt(self) -> None: ...
    def kill(self) -> None: ...
    def has_exceeded(self) -> bool: ...
    def how_it_ended(self, timeout: float) -> str | None: ...


class Request:
    """One thing that was asked, until it is answered. What most of them do not have stands in the class, and what is
    looked at for each call of Python in each of them, where it is found sooner.
    """

    context: contextvars.Context | None = None
    #: The event loop that waits for it, if one does.
    loop: Any = None
    #: Tasks of Python that run for it, with what ends each.
    tasks: dict[Any, Callable[[], None]] | None = None
    #: Gets what its code tells the console.
    console: Callable[[str, str], Any] | None = None

    def __init__(self, number: int, kind: str) -> None:
        self.number, self.kind = number, kind
        self.is_done = self.is_pending = self.is_stopped = False
        self.value: Any = None
        self.error: BaseException | None = None
        #: What a function of Python that it called has raised to end everything.
        self.stop: BaseException | None = None
        self.notify: Callable[[Request], None] | None = None
        #: The process whose memory is watched until this is answered.
        self.watched: Process | None = None
        #: The thread that waits for it and runs what it calls; None for an async one.
        self.owner: int | None = None
        #: Calls of Python that are to run in that thread.
        self.inbox: deque[list[Any]] | None = None

    def finish(self, value: Any, error: BaseException | None) -> None:
        if self.is_done:
            return
        self.value, self.error, self.is_done = value, error, True
        if self.watched is not None:
            self.watched.done()
        if self.notify is not None:
            self.notify(self)


class Operation:
    """A function of Python that JavaScript may call."""

    __slots__ = ("function", "is_async", "name", "permissions")

    def __init__(self, function: Callable[..., Any], is_async: bool, name: str) -> None:
        self.function, self.is_async, self.name = function, is_async, name


class Session:
    def __init__(self, process: Process, printed: Callable[[Callable[[str, str], Any] | None, str, str], None]) -> None:
        self.process = process
        self._end = process.end
        self._end.sharing.on_forgotten = self._on_forgotten
        self._printed = printed
        #: By the number of a request: what arrives of it while it is passed on what it has told the console.
        self._said: dict[int, deque[Any]] = {}
        self._numbers = count(1)
        self.requests: dict[int, Request] = {}
        self.operations: dict[int, Operation] = {}
        self.functions: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        #: Makes the proxy of a function, or of a stream, of JavaScript.
        self.revive: Callable[[int, list[Any]], Any] = lambda kind, parts: None
        #: Takes further kinds of messages. False if it does not know one.
        self.extra: Callable[[int, list[Any]], bool] = lambda kind, message: False
        #: Runs a coroutine of an async operation, and answers with its outcome.
        self.run_async: Callable[
            [Coroutine[Any, Any, Any], Request | None, Callable[[Any, BaseException | None], None]], None
        ]
        #: Puts places of sources into an error, where code was made of others.
        self.locate: Callable[[JavaScriptError], None] = lambda error: None
        #: Why it ended, as it is told; None while it goes on.
        self.ended: RuntimeError | None = None
        #: Reason that whoever kills the process gives beforehand.
        self.why: str | None = None
        #: Raised by operations, newest last, by the number of their call: causes of what JavaScript rethrows.
        self._raised: dict[int, BaseException] = {}
        #: Reentrant: what the console is told is passed on in the midst of reading, to code that may ask for more.
        self._reading = threading.RLock()
        self._is_read = False
        #: How large a value may be that the engine writes into memory of its own; and how much of that the message
        #: may still have that is being read.
        self.room_bytes = self._room_left = 0
        self._changed = threading.Condition(threading.Lock())
        #: Functions, by number, and whole messages that are sent with the next one.
        self.released: deque[int | list[Any]] = deque()
        #: Called once it has ended.
        self.on_end: Callable[[], None] = lambda: None
        self._background: threading.Thread | None = None
        #: Read by an event loop that looks out, for the thread in the background.
        self._left: deque[Any] = deque()
        #: What such a loop looks out for once its tasks have had their turn.
        self._sought: Request | None = None
        self._asked_at = self._looks_until = 0.0
        self._look_misses = self._look_skip = 0
        #: Thread and loop that look out.
        self._looking: tuple[int, Any] | None = None
        self._waiting = 0
        #: Whether a debugger takes its time; None for a runtime that has no inspector.
        self.is_debugged: Callable[[], bool] | None = None
        self.interrupt: Callable[[], None] = process.interrupt
        self._holding = threading.Lock()
        self._held: list[list[Any]] | None = None
        #: Its memory is looked at while something is asked of it.
        self._is_watched = process.options.max_memory is not None

    @property
    def sharing(self) -> Any:
        """Of the channel: what is decoded may lie in memory that is shared."""
        return self._end.sharing

    # ---- asking ----

    def begin(
        self,
        kind: str,
        message: list[Any],
        notify: Callable[[Request], None] | None = None,
        console: Callable[[str, str], Any] | None = None,
        is_plain: bool = False,
    ) -> Request:
        """Sends a request, whose number takes the second place of the message.

        :param is_plain: nothing in it can be shared memory
        :raises RuntimeError: if the runtime has ended
        :raises TypeError: if ``console`` cannot be called
        """
        if console is not None and not callable(console):
            raise TypeError(f"console must be a function of a level and a text, not {type(console).__name__}")
        number = message[1] = next(self._numbers)
        request = self.requests[number] = Request(number, kind)
        if console is not None:
            request.console = console
            message[6:7] = [True]
        if self._is_watched:
            request.watched = self.process
            self.process.begin()
        if notify is None:
            request.owner = get_ident()
        else:
            request.notify = notify
            request.context = contextvars.copy_context()
        try:
            if self.is_debugged is None or not self._hold(message):
                self.send(message, is_plain)
        except BaseException:
            self.requests.pop(number, None)
            request.finish(None, None)
            raise
        if notify is not None:
            self.read_always()
        return request

    def send(self, message: list[Any], is_plain: bool = False) -> None:
        """:raises RuntimeError: if the runtime has ended"""
        if self.ended is not None:
            raise self.ended_error()
        try:
            if self.released:
                numbers = []
                while self.released:
                    one = self.released.popleft()
                    if isinstance(one, list):
                        self._put(one)
                    else:
                        numbers.append(one)
                self._put([TO_ENGINE_RELEASE, 0, numbers])
            self._end.put(dumps(message, MESSAGE_BYTES_MAX) if is_plain else self._end.encode(message))
        except BrokenChannel as error:
            self.finish(str(error))
            raise self.ended_error() from None

    def _put(self, message: list[Any]) -> None:
        self._end.put(self._end.encode(message))

    def send_quietly(self, message: list[Any]) -> None:
        try:
            self.send(message)
        except RuntimeError:
            pass  # whoever waits notices it

    def say_later(self, message: list[Any]) -> None:
        """Sends it soon. From anywhere, also from a finalizer."""
        self.released.append(message)
        if self._background is not None:
            self._end.wake()

    def ended_error(self) -> RuntimeError:
        assert self.ended is not None
        return type(self.ended)(*self.ended.args)

    def _on_forgotten(self) -> None:
        """Memory of this side is not used here any more."""
        self.say_later([TO_ENGINE_FORGET, self._end.sharing.forgotten.popleft()])

    # ---- debuggers ----

    def hold(self) -> None:
        """What runs code waits for :meth:`let_go`."""
        self._held = []

    def _hold(self, message: list[Any]) -> bool:
        place = _TIME_PLACES.get(message[0])
        if place is None:
            return False
        message[place] = None  # a clock in the engine would go on while code is stopped
        with self._holding:
            if self._held is None:
                return False
            self._held.append(message)
            return True

    def let_go(self) -> None:
        """In the order in which it was asked."""
        with self._holding:
            held, self._held = self._held or [], None
            for message in held:
                self.send_quietly(message)

    def _is_held(self, request: Request) -> bool:
        """It waited, and is forgotten now."""
        with self._holding:
            found = next((one for one in self._held or () if one[1] == request.number), None)
            if found is None or self._held is None:
                return False
            self._held.remove(found)
        self.requests.pop(request.number, None)
        request.finish(None, RuntimeError("Evaluation was interrupted"))
        return True

    # ---- waiting ----

    def wait(self, request: Request, deadline: float | None, timeout: float | None) -> Any:
        """The value of a request of this thread, whose calls of Python are served meanwhile.

        :raises JavaScriptError, JsTimeout, RuntimeError, RuntimeTerminated:
        """
        try:
            self._serve(request, None if deadline is None else deadline + _LATE_SECONDS)
            while (
                self.is_debugged is not None and self.is_debugged() and not request.is_done and not request.is_pending
            ):
                self._serve(request, time.monotonic() + _LATE_SECONDS)
            if not request.is_done and not request.is_pending:
                self._stop(request)
                request.error = JsTimeout(f"Evaluation timed out after {timeout:g} s")
        except BaseException as interrupted:
            # In this very thread, such as by Ctrl-C: JavaScript ends, and this thread goes on.
            self._stop(request)
            raise interrupted
        if request.stop is not None:
            raise request.stop
        if request.error is not None:
            if type(request.error) is JsTimeout and timeout is not None:
                raise JsTimeout(f"Evaluation timed out after {timeout:g} s")
            raise request.error
        return request.value

    def _serve(self, request: Request, deadline: float | None) -> None:
        left = None
        reading = self._reading
        while not request.is_done and not request.is_pending:
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    return
            if request.inbox:
                self._invoked(request.inbox.popleft(), request)
            elif reading.acquire(False):
                mine = None
                was_read, self._is_read = self._is_read, True
                try:
                    if not request.inbox and not request.is_done and not request.is_pending:
                        mine = self._read(left, request)
                finally:
                    self._is_read = was_read
                    reading.release()
                    if self._waiting or self._background is not None:
                        self._tell()
                if mine is not None:
                    self._invoked(mine, request)
            else:
                self._follow(request, left)

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _follow(self, request: Request, left: float | None) -> None:
        """Another thread reads. The one in the background gives way."""
        self._waiting += 1
        try:
            if self._background is not None:
                self._end.wake()
            with self._changed:
                if not request.inbox and not request.is_done and not request.is_pending and self._is_read:
                    self._changed.wait(_FOLLOW_SECONDS if left is None else min(left, _FOLLOW_SECONDS))
        finally:
            self._waiting -= 1

    def _stop(self, request: Request) -> None:
        """Ends what a request does, and waits until it has; a process that does not end it is killed."""
        if request.is_done or self.ended is not None or self._is_held(request):
            return
        request.is_stopped = True
        until = time.monotonic() + _GRACE_SECONDS
        request.inbox = None
        while not request.is_done and self.ended is None:
            if time.monotonic() >= until:
                self.kill("it did not end when it was interrupted")
                return
            self._end_now(request)
            try:
                self._serve(request, time.monotonic() + _AGAIN_SECONDS)
            except BaseException:
                self.kill("it was interrupted twice")
                raise
        self._absorb()

    def _absorb(self) -> None:
        """If JavaScript had ended by itself just then, the interrupt is still on its way, and would end what is asked
        next. So that is something of which nothing is lost.
        """
        if self.ended is not None:
            return
        time.sleep(_ABSORB_SECONDS)
        with contextlib.suppress(RuntimeError):
            request = self.begin("eval", [TO_ENGINE_REPORT, 0])
            self._serve(request, time.monotonic() + _LATE_SECONDS)
            self.requests.pop(request.number, None)
            request.finish(None, None)

    def cancel(self, request: Request) -> None:
        """Nobody waits for an async request any more. What it does is ended: code that computes by an interrupt."""
        if request.is_done or self.ended is not None or self._is_held(request):
            return
        request.is_stopped = True
        self.send_quietly([TO_ENGINE_CANCEL, request.number])
        for end in list((request.tasks or {}).values()):
            end()
        threading.Thread(target=self._see_to_it, args=(request,), daemon=True, name="ipcctl-js-cancel").start()

    def _see_to_it(self, request: Request) -> None:
        """JavaScript that only waits has taken note at once; what computes must be interrupted."""
        end = time.monotonic() + _LATE_SECONDS + _GRACE_SECONDS
        until = time.monotonic() + _LATE_SECONDS
        while until <= end:
            with self._changed:
                while not request.is_done and self.ended is None and (left := until - time.monotonic()) > 0:
                    self._changed.wait(min(left, _FOLLOW_SECONDS))
            if request.is_done or self.ended is not None:
                return
            self._end_now(request)
            until = time.monotonic() + _AGAIN_SECONDS
        self.kill("it did not end when it was cancelled")

    def _end_now(self, request: Request) -> None:
        """What waits ends by CANCEL, and what computes by the interrupt, which may come in the midst of taking CANCEL:
        then that is lost, and the next one counts. The bell is for an engine that was ended before it said that it
        sleeps.
        """
        self.send_quietly([TO_ENGINE_CANCEL, request.number])
        self._end.ring()
        self.interrupt()

    # ---- reading ----

    def read_always(self) -> None:
        """From now on a thread reads even if nobody waits."""
        if self._background is not None:
            return
        with self._changed:
            if self._background is None and self.ended is None:
                self._end.make_wakeable()
                self._background = threading.Thread(target=self._read_on, daemon=True, name="ipcctl-js")
                self._background.start()

    def _read_on(self) -> None:
        while self.ended is None:
            if self.released:
                self.send_quietly([TO_ENGINE_RELEASE, 0, []])
            with self._changed:
                while self.ended is None and (self._waiting or time.monotonic() < self._looks_until):
                    self._changed.wait(_GIVE_WAY_SECONDS)
            if not self._reading.acquire(timeout=_FOLLOW_SECONDS):
                continue
            self._is_read = True
            try:
                if self.ended is None:
                    self._read(None, is_background=True)
            finally:
                self._is_read = False
                self._reading.release()
                self._tell()

    def look_soon(self, request: Request, loop: Any) -> None:
        """Where one thing is asked after the other, their event loop looks out for answers itself before it sleeps: the
        thread in the background would have to be woken, and to wake it.
        """
        now = time.monotonic()
        last, self._asked_at = self._asked_at, now
        if len(self.requests) > 1:
            if self._sought is not None:
                self._sought = None
                self._end_look(False)
        elif self._look_skip > 0:
            self._look_skip -= 1
        elif now - last < _LOOK_SECONDS and (self._sought is None or self._sought.is_done):
            self._sought = request
            self._looks_until = now + _LOOK_SECONDS
            if self._is_read:
                self._end.wake()
            loop.call_soon(self._look, loop)

    def _look(self, loop: Any) -> None:
        request, self._sought = self._sought, None
        if request is None or request.is_done or not self._reading.acquire(timeout=_GIVE_WAY_SECONDS):
            return
        was_read, self._is_read = self._is_read, True
        self._looking = get_ident(), loop
        until = time.monotonic() + _GIVE_WAY_SECONDS
        try:
            while not request.is_done and self.ended is None and time.monotonic() < until:
                if self._left or self._read(None, is_look=True) is None:
                    break
        except BaseException as interrupted:  # Ctrl-C, by which the answer may have been lost
            self.requests.pop(request.number, None)
            request.finish(None, interrupted)
            raise
        finally:
            self._looking = None
            self._is_read = was_read
            self._reading.release()
            self._end_look(request.is_done)

    def _end_look(self, has_found: bool) -> None:
        self._look_misses = 0 if has_found else min(self._look_misses + 1, _LOOK_MISSES_MAX)
        self._look_skip = (1 << self._look_misses) - 1
        self._looks_until = time.monotonic() + _LOOK_SECONDS if has_found else 0.0
        if self._waiting or not has_found:
            self._tell()

    def is_looking(self, loop: Any) -> bool:
        """Whether this very thread reads, for this loop of it."""
        return self._looking == (get_ident(), loop)

    def _read(
        self,
        timeout: float | None,
        served: Request | None = None,
        is_background: bool = False,
        is_look: bool = False,
    ) -> list[Any] | None:
        """Takes one message, or sleeps until there may be one.

        :param served: a request of this thread
        :param is_look: takes only answers, leaves anything else to others, and gives what has come
        :returns: a call of Python that this very thread is to carry out
        """
        try:
            if self._left and not is_look:
                return self._take(self._left.popleft())
            if is_look:
                data = self._end.look()
            elif is_background:
                data = self._end.watch(_IDLE_SECONDS if timeout is None else timeout)
            else:
                data = self._end.get(timeout)
            if data is None:
                return None
            try:  # a reference, which most messages do not have, is an error without a channel
                message = loads(data) if len(data) < _SHORT_BYTES and here.channel is None else self._decoded(data)
            except DecodeError:
                message = self._decoded(data)
            if is_look:
                return self._take_end(message)
            if message[0] == FROM_ENGINE_INVOKE:
                return self._invoke(message, served)
            if (
                message[0] == FROM_ENGINE_RESULT
                and served is not None
                and message[1] == served.number
                and not self._said
            ):
                self.requests.pop(served.number, None)
                served.finish(message[2], None)
                return None
            return self._take(message)
        except Unheld as error:
            self.kill(f"it sent a value that cannot be held here: {error}")
        except (BrokenChannel, DecodeError, TypeError, IndexError, KeyError, ValueError, AttributeError) as error:
            if isinstance(error, BrokenChannel):
                self.finish(None)
            else:
                self.kill(f"it sent a malformed message: {error}")
        return None

    def _decoded(self, data: bytes) -> Any:
        """:raises DecodeError, Unheld:"""
        before = here.channel
        here.channel = self
        self._room_left = self.room_bytes
        try:
            return loads(data)
        finally:
            here.channel = before

    def _take_end(self, message: list[Any]) -> list[Any]:
        if message[0] in _ENDS:
            self._take(message)
        else:
            self._left.append(message)
        return message

    def _take(self, message: Any) -> list[Any] | None:
        kind, number = message[0], message[1]
        if kind == FROM_ENGINE_INVOKE:
            return self._invoke(message)
        if self._said and number in self._said and kind in _ENDS:
            self._said[number].append(message)  # it has its answer after all that it was told before
        elif kind == FROM_ENGINE_RESULT:
            request = self.requests.pop(number, None)
            if request is not None:
                request.finish(message[2], None)
        elif kind == FROM_ENGINE_ERROR:
            request = self.requests.pop(number, None)
            if request is not None:
                request.finish(None, self._error(request, message[2]))
        elif kind == FROM_ENGINE_PENDING:
            if (request := self.requests.get(number)) is not None:
                if request.kind == "stream":
                    raise ValueError("a read that is pending")
                request.is_pending = True
                request.context = contextvars.copy_context()
        elif kind == FROM_ENGINE_PRINT:
            self._pass_on(int(number), str(message[2]), str(message[3]))
        elif kind == FROM_ENGINE_DROP:
            for one in message[2]:
                self.operations.pop(one, None)
        elif kind == FROM_ENGINE_LATER:
            self.read_always()
        elif kind == FROM_ENGINE_FORGET:
            self._end.forget(number)
        elif kind != FROM_ENGINE_HELLO and not self.extra(kind, message):
            raise BrokenChannel(f"unknown kind of message: {kind}")
        return None

    def _pass_on(self, number: int, level: str, text: str) -> None:
        """What the console is told. Where that fails, it ends the request whose code has said it, and is its error."""
        request = self.requests.get(number)
        said = self._said.get(number)
        if said is not None:  # in the midst of what it was told before
            said.append((level, text))
            return
        self._said[number] = said = deque([(level, text)])
        try:
            while said and type(said[0]) is tuple:
                self._printed(None if request is None else request.console, *said.popleft())
        except BaseException as error:
            if not isinstance(error, Exception) and get_ident() != getattr(self._background, "ident", None):
                raise  # Ctrl-C, in this very thread
            if request is not None and request.stop is None:
                request.stop = error
                self.cancel(request)
        finally:
            del self._said[number]
            for one in said:
                self._take([FROM_ENGINE_PRINT, number, *one] if type(one) is tuple else one)

    def revive_reference(self, parts: list[Any]) -> Any:
        """What stands for a function or a stream of JavaScript in a value."""
        kind, number = parts[1], parts[2]
        if type(number) is not int or kind not in (REFERENCE_GUEST_FUNCTION, REFERENCE_ENGINE_STREAM):
            raise ValueError("a reference that is none")
        return self.revive(kind, parts)

    def revive_bytes(self, parts: list[Any]) -> bytes:
        """What it has written into shared memory. It may refer to that many times, but not to more than it may send."""
        form, place = parts[1], parts[2] if len(parts) > 2 else None
        self._room_left -= form[2]
        if self._room_left < 0:
            raise ValueError(f"more than {self.room_bytes} bytes")
        data: bytes = self._end.sharing.copy(form, place)
        return data

    def _error(self, request: Request, record: Any) -> BaseException:
        kind = record["kind"]
        if kind == ENGINE_FAULT_THROWN:
            error = error_of(record, request.kind, self._raised.get)
            if error.name == "RangeError" and self.process.has_exceeded():
                self.finish(None)
                return self.ended_error()
            self.locate(error)
            return error
        text = str(record["message"])[:_TEXT_CHARS]
        if kind == ENGINE_FAULT_TIMEOUT:
            return JsTimeout("Evaluation timed out")
        if kind == ENGINE_FAULT_INTERRUPTED:
            return RuntimeError("Evaluation was interrupted")
        return RuntimeError(text)

    # ---- functions of this side ----

    def _invoke(self, message: list[Any], served: Request | None = None) -> list[Any] | None:
        _, number, operation, args, of, _ = message
        if operation == ROOM_OPERATION:
            self._give_room(number, args)
            return None
        found = self.operations.get(operation)
        request = self.requests.get(of)
        if found is None or type(args) is not list:
            self.send_quietly([TO_ENGINE_THROW, number, _told(PermissionError("this function is not bound any more"))])
        elif found.is_async:
            self._begin_async(number, found, args, request)
        elif request is None or request.owner is None or request.is_stopped:
            _helpers.run(lambda: self._invoked(message, request))
        elif request is served or request.owner == get_ident():
            return message
        else:
            if request.inbox is None:
                request.inbox = deque()
            request.inbox.append(message)
            self._tell()
        return None

    def _give_room(self, number: int, args: Any) -> None:
        """Memory into which the engine writes a large value, and which it then refers to."""
        (size,) = args
        if type(size) is not int or not 0 < size <= max(self.room_bytes, KEPT_ROOM_BYTES):
            return self.send_quietly([TO_ENGINE_THROW, number, _told(ValueError(f"no room for {size} bytes"))])
        try:
            memory = shared(size)
        except OSError as error:
            return self.send_quietly([TO_ENGINE_THROW, number, _told(error)])
        self.send_quietly([TO_ENGINE_RETURN, number, memory])

    def _invoked(self, message: list[Any], request: Request | None) -> None:
        """Runs a function of Python for JavaScript, which waits for it."""
        number, args = message[1], message[3]
        found = self.operations.get(message[2])
        if found is None:
            return self.send_quietly([TO_ENGINE_THROW, number, _told(PermissionError("it is not bound any more"))])
        try:
            context = None if request is None or request.owner is not None else request.context
            value = found.function(*args) if context is None else context.copy().run(found.function, *args)
        except Exception as error:
            return self.throw(number, error)
        except BaseException as error:
            # It ends this thread's work, whatever JavaScript makes of it.
            if request is None:
                return self.throw(number, RuntimeError(str(error)))
            request.stop = error
            self.throw(number, RuntimeError("interrupted"))
            raise
        if not (value is None or type(value) in _SCALARS):
            return self.answer(number, value)
        if self.released or self.ended is not None:
            return self.send_quietly([TO_ENGINE_RETURN, number, value])
        try:  # by the shortest way: JavaScript waits
            self._end.put(dumps([TO_ENGINE_RETURN, number, value], MESSAGE_BYTES_MAX))
        except BrokenChannel as error:
            self.finish(str(error))

    def answer(self, number: int, value: Any) -> None:
        try:
            self.send_quietly([TO_ENGINE_RETURN, number, self.lower(value)])
        except Exception as error:  # a value that cannot be sent
            self.throw(number, TypeError(str(error)))

    def throw(self, number: int, error: BaseException) -> None:
        self.send_quietly([TO_ENGINE_THROW, number, self.raised(number, error)])

    def raised(self, number: int, error: BaseException) -> dict[str, str]:
        """What JavaScript is told of it; it is the cause of what comes back with this number."""
        self._raised[number] = error
        while len(self._raised) > 256:
            self._raised.pop(next(iter(self._raised)))
        return _told(error)

    #: Makes what is sent of a value that an operation returns.
    lower: Callable[[Any], Any]

    def _begin_async(self, number: int, found: Operation, args: list[Any], request: Request | None) -> None:
        def answer(value: Any, error: BaseException | None) -> None:
            if error is not None:
                self.throw(number, error)
            else:
                self.answer(number, value)

        try:
            work = found.function(*args)
        except Exception as error:
            return self.throw(number, error)
        if not inspect.isawaitable(work):
            return self.answer(number, work)
        # What is cancelled before it begins is closed, and that must be the coroutine itself.
        self.run_async(work if inspect.iscoroutine(work) else _awaited(work), request, answer)

    # ---- the end ----

    def kill(self, why: str | None) -> None:
        """Ends the process. What waits is told the reason."""
        if self.why is None:
            self.why = why
        self.process.kill()
        self.finish(why)

    def finish(self, why: str | None, error: RuntimeError | None = None) -> None:
        """The process has ended, or ends."""
        with self._changed:
            if self.ended is not None:
                return
            if error is None:
                how = self.why or why or self._end.reason() or self.process.how_it_ended(1.0) or "its process has ended"
                error = RuntimeTerminated(f"Runtime terminated: {how}")
            self.ended = error
            self._changed.notify_all()
        for request in list(self.requests.values()):
            request.finish(None, self.ended_error())
        self.requests.clear()
        self.operations.clear()
        self._raised.clear()
        self._end.close()
        self.on_end()


def _revive(parts: list[Any]) -> Any:
    session = here.channel
    if not isinstance(session, Session):
        raise _types.Refused("a reference outside of a runtime")
    return session.revive_reference(parts)


def _revive_bytes(parts: list[Any]) -> bytes:
    session = here.channel
    if not isinstance(session, Session):
        raise _types.Refused("bytes of a runtime outside of one")
    return session.revive_bytes(parts)


_types.revive_reference, _types.revive_bytes = _revive, _revive_bytes


def _told(error: BaseException) -> dict[str, str]:
    kind = type(error).__name__
    try:
        text = str(error)
    except Exception:
        text = "a text that cannot be computed"
    return {"name": "TypeError", "message": f"{kind}: {text}"[:_TEXT_CHARS].encode(errors="replace").decode()}


async def _awaited(work: Any) -> Any:
    return await work
