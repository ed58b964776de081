"""Streams between Python and JavaScript.

Each side asks for one item at a time, when somebody wants to have it: nothing is made, or held, that nobody reads.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import count
from typing import TYPE_CHECKING, Any

from .._contract import (
    FROM_ENGINE_END,
    FROM_ENGINE_LEAVE,
    FROM_ENGINE_WANT,
    REFERENCE_ENGINE_STREAM,
    REFERENCE_PYTHON_STREAM,
    TO_ENGINE_ABANDON,
    TO_ENGINE_CLOSE,
    TO_ENGINE_FAIL,
    TO_ENGINE_PUSH,
    TO_ENGINE_READ,
)
from ._errors import JavaScriptError

if TYPE_CHECKING:
    from ._session import Request, Session

#: What is read of a file at once.
_CHUNK_BYTES = 64 * 1024
_KINDS = frozenset((FROM_ENGINE_END, FROM_ENGINE_WANT, FROM_ENGINE_LEAVE))
_END: Any = object()
_CLOSED = "this stream has been closed"


class Done:
    """Of what takes effect at once, and can be awaited all the same."""

    def __await__(self) -> Any:
        return None
        yield


def _let_go(streams: weakref.ref[Streams], number: int) -> None:
    found = streams()
    if found is not None:
        found.let_go(number)


class JsStream:
    """A ReadableStream of JavaScript, as an iterator and as an async iterator.

    JavaScript is asked for an item when one is wanted, and not before. It may be read by asyncio, by trio and by any
    thread. A stream that was read and is let go is cancelled.
    """

    #: How many more items JavaScript may be asked for in advance, so that they come while others are used.
    ahead: int

    __slots__ = ("ahead", "_flight", "__weakref__", "_finalizer", "_held", "_is_over", "_lock", "_number", "_streams")

    def __init__(self, streams: Streams, number: int) -> None:
        self._streams, self._number = streams, number
        self._is_over = False
        self._lock = threading.Lock()
        #: What came for a reader that did not wait for it any more.
        self._held: deque[Any] = deque()
        self.ahead = 0
        #: What was asked for in advance.
        self._flight: deque[Request] = deque()
        self._finalizer = weakref.finalize(self, _let_go, weakref.ref(streams), number)
        self._finalizer.atexit = False

    def __aiter__(self) -> JsStream:
        return self

    def __iter__(self) -> JsStream:
        return self

    async def __anext__(self) -> Any:
        """:raises JavaScriptError: the stream has failed
        :raises RuntimeError: the runtime is closed, or an item cannot be had in Python
        """
        if self._held or self._is_over:
            return self._taken(StopAsyncIteration)
        began = time.monotonic()
        wake, wait = _waiter()
        request = self._begin(lambda _: wake())
        try:
            if not request.is_done:
                await wait()
        except BaseException:
            self._give_back(request)
            raise
        return self._outcome(request, began, StopAsyncIteration)

    def __next__(self) -> Any:
        """The same for a thread, which waits."""
        if self._held or self._is_over:
            return self._taken(StopIteration)
        began = time.monotonic()
        request = self._begin(None)
        try:
            self._streams.session.wait(request, None, None)
        except BaseException as error:
            if error is not request.error and error is not request.stop:
                self._give_back(request)
                raise
        return self._outcome(request, began, StopIteration)

    def _begin(self, notify: Callable[[Request], None] | None) -> Request:
        if not self.ahead and not self._flight:
            return self._streams.begin(self._number, notify)
        try:
            request = self._flight.popleft()
            request.notify = notify
        except IndexError:
            request = self._streams.begin(self._number, notify)
        while len(self._flight) < self.ahead:
            self._flight.append(self._streams.begin(self._number, _ignore))
        return request

    def _taken(self, end: type[Exception]) -> Any:
        try:
            return self._held.popleft()
        except IndexError:
            raise end from None

    def _outcome(self, request: Request, began: float, end: type[Exception]) -> Any:
        if request.stop is not None:
            raise request.stop
        if request.error is not None:
            if isinstance(request.error, JavaScriptError):
                self._over()
            raise request.error
        if request.value is _END:
            self._over()
            raise end
        self._streams.count(request.value)
        self._streams.on_read(began)
        return request.value

    def _give_back(self, request: Request) -> None:
        """Nobody waits for it any more. What has come all the same is for the next one."""

        def late(_: Request) -> None:
            with self._lock:
                request.notify = None
                if request.value is not _END and request.error is None and request.is_done and not is_kept:
                    is_kept.append(True)
                    self._streams.count(request.value)
                    self._held.append(request.value)

        is_kept: list[bool] = []
        request.notify = late
        if request.is_done:
            late(request)
        else:
            self._streams.session.cancel(request)

    def _over(self) -> None:
        self._is_over = True
        self._flight.clear()
        self._finalizer.detach()
        self._streams.forget(self._number)

    def close(self) -> Awaitable[None]:
        """Cancels it: JavaScript need not make more. Takes effect at once; what it gives can be awaited."""
        if not self._is_over:
            self._over()
            self._held.clear()
            self._streams.session.send_quietly([TO_ENGINE_ABANDON, self._number, True])
        return Done()

    async def aclose(self) -> None:
        self.close()

    def __enter__(self) -> JsStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> JsStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<JsStream id={self._number}>"


class PyStreamSource:
    """What JavaScript gets as a ReadableStream. Each item is made when JavaScript wants to have it."""

    def __init__(self, streams: Streams, iterable: Any, ahead: int = 0) -> None:
        self._streams, self._ahead = streams, ahead
        self._drive = _Drive(self, iterable)
        self._number: int | None = None
        self._lock = threading.Lock()
        self._is_over = False
        #: How many items JavaScript waits for.
        self._wanted = 0

    def close(self) -> Awaitable[None]:
        """Ends it on both sides: JavaScript's reader fails, and ``aclose()`` of the iterable is called."""
        if self._finish():
            self._tell_failure(RuntimeError("Python has closed the stream"))
            self._drive.cancel()
        return Done()

    async def aclose(self) -> None:
        self.close()

    def _finish(self) -> bool:
        """False if it has ended already."""
        with self._lock:
            if self._is_over:
                return False
            self._is_over = True
        self._streams.ended(self._number)
        return True

    def _lend(self) -> int:
        """Its number, by which JavaScript has it from now on."""
        with self._lock:
            if self._number is None:
                if self._is_over:
                    raise RuntimeError(_CLOSED)
                self._number = self._streams.lend(self)
            return self._number

    def _want(self, count: int) -> None:
        with self._lock:
            more = min(count, max(1, self._ahead) - self._wanted)
            if self._is_over or more <= 0:
                return
            self._wanted += more
        self._drive.want()

    def _leave(self) -> None:
        """JavaScript does not read it any more."""
        if self._finish():
            self._drive.cancel()

    def _put(self, value: Any) -> bool:
        """Sends an item. False if it has ended."""
        with self._lock:
            if self._is_over:
                return False
            self._wanted -= 1
        try:
            lowered = self._streams.lower(value)
            self._streams.session.send([TO_ENGINE_PUSH, self._number, lowered])
        except Exception as error:
            self._fail(error)
            return False
        self._streams.count_sent(value)
        return True

    def _close(self) -> None:
        if self._finish():
            self._streams.session.send_quietly([TO_ENGINE_CLOSE, self._number])

    def _fail(self, error: BaseException) -> None:
        if self._finish():
            self._tell_failure(error)

    def _tell_failure(self, error: BaseException) -> None:
        if self._number is not None:
            self._streams.fail(self._number, error)

    def __repr__(self) -> str:
        return f"<PyStreamSource id={self._number}>"


class _Drive:
    """Takes items of an iterable in the event loop to which it belongs, all in one task."""

    def __init__(self, source: PyStreamSource, iterable: Any) -> None:
        self._source = weakref.ref(source)
        self._iterator, self._next, self._close = _adapt(iterable)
        self._context = contextvars.copy_context()
        self._loop = _running_loop()
        self._streams = source._streams
        self._is_begun = self._is_left = False
        self._wanted: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None

    def want(self) -> None:
        self._post(self._on_want)

    def cancel(self) -> None:
        self._post(self._on_cancel)

    def _post(self, act: Callable[[], None]) -> None:
        loop = self._loop
        if loop is None:
            loop = self._loop = self._streams.loop()
        try:
            loop.call_soon_threadsafe(act, context=self._context)
        except RuntimeError:
            if (source := self._source()) is not None:
                source._fail(RuntimeError("the event loop of this stream is closed"))

    def _on_want(self) -> None:
        source = self._source()
        if source is None:
            return
        if self._task is None:
            self._wanted = asyncio.Event()
            self._start(self._run(source))
        assert self._wanted is not None
        self._wanted.set()

    def _on_cancel(self) -> None:
        if self._task is None:
            self._start(self._end())
        elif self._is_begun:
            self._task.cancel()
        else:  # it has not come to anything that could be cancelled
            self._is_left = True

    def _start(self, work: Any) -> None:
        self._task = asyncio.get_running_loop().create_task(work)
        # It may wait for ever for JavaScript, and may then be left behind by a loop that is closed.
        self._task._log_destroy_pending = False  # type: ignore[attr-defined]

    async def _run(self, source: PyStreamSource) -> None:
        assert self._wanted is not None
        self._is_begun = True
        if self._is_left:
            return await self._end()
        try:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                while source._wanted > 0:
                    item = await self._next()
                    if item is _END:
                        return source._close()
                    if not source._put(item):
                        return await self._end()
        except asyncio.CancelledError:
            source._fail(RuntimeError("the task of this stream was cancelled"))
            await self._end()
            raise
        except Exception as error:
            source._fail(error)
        finally:
            # Also of a loop that was closed in the middle of it.
            source._fail(RuntimeError("the event loop of this stream has ended"))

    async def _end(self) -> None:
        try:
            closing = self._close()
            if inspect.isawaitable(closing):
                await closing
        except Exception as error:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a stream for JavaScript could not be closed", "exception": error}
            )


def _adapt(iterable: Any) -> tuple[Any, Callable[[], Awaitable[Any]], Callable[[], Any]]:
    """The iterator, what gives its next item, and what closes it."""
    if hasattr(iterable, "__aiter__"):
        iterator = iterable.__aiter__()
        token = _trio_token()
        following, closing = _async_next(iterator), getattr(iterator, "aclose", None)
        if token is not None:
            return iterator, _in_trio(following, token), _nothing if closing is None else _in_trio(closing, token)
        return iterator, following, _nothing if closing is None else closing
    if hasattr(iterable, "read"):
        return iterable, _in_thread(lambda: iterable.read(_CHUNK_BYTES) or _END), _nothing
    try:
        made = iter(iterable)
    except TypeError:
        kind = type(iterable).__name__
        raise TypeError(f"{kind} is no stream: give an async iterable, an iterable or a file") from None
    return made, _in_thread(lambda: next(made, _END)), made.close if inspect.isgenerator(made) else _nothing


def _ignore(_: Any) -> None:
    """Whoever wants it looks."""


def _nothing() -> None:
    pass


def _async_next(iterator: AsyncIterator[Any]) -> Callable[[], Awaitable[Any]]:
    async def following() -> Any:
        try:
            return await iterator.__anext__()
        except StopAsyncIteration:
            return _END

    return following


def _in_thread(act: Callable[[], Any]) -> Callable[[], Awaitable[Any]]:
    """What may wait does so beside the event loop."""

    def following() -> Awaitable[Any]:
        return asyncio.to_thread(act)

    return following


def _in_trio(act: Callable[[], Awaitable[Any]], token: Any) -> Callable[[], Awaitable[Any]]:
    async def started() -> Any:
        return await act()

    return _in_thread(lambda: sys.modules["trio"].from_thread.run(started, trio_token=token))


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _trio_token() -> Any:
    trio = sys.modules.get("trio")
    try:
        return None if trio is None else trio.lowlevel.current_trio_token()
    except RuntimeError:
        return None


def _waiter() -> tuple[Callable[[], None], Callable[[], Awaitable[Any]]]:
    """What wakes this task from any thread, and what it waits for.

    :raises RuntimeError: if no event loop runs here
    """
    token = _trio_token()
    if token is not None:
        event = sys.modules["trio"].Event()
        return lambda: _quietly(token.run_sync_soon, event.set), event.wait
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def done() -> None:
        if not future.done():
            future.set_result(None)

    async def wait() -> None:
        await future

    return lambda: _quietly(loop.call_soon_threadsafe, done), wait


def _quietly(tell: Callable[[Any], Any], what: Any) -> None:
    try:
        tell(what)
    except RuntimeError:
        pass  # the loop is closed: nobody waits any more


def _bytes_of(value: Any) -> int:
    """How much of it counts: only bytes do, and arrays of them."""
    if isinstance(value, (bytes, bytearray)):
        return len(value)
    size = getattr(value, "nbytes", 0)
    return size if type(size) is int else 0


def is_streamed(value: Any) -> bool:
    """Whether JavaScript gets it as a stream, though nobody has said so."""
    return hasattr(value, "__aiter__") or isinstance(value, Iterator)


class Streams:
    """Those of one runtime."""

    def __init__(
        self, session: Session, lower: Callable[[Any], Any], loop: Callable[[], asyncio.AbstractEventLoop]
    ) -> None:
        self.session, self.lower, self.loop = session, lower, loop
        #: Called for each item that was read, with when it was asked for.
        self.on_read: Callable[[float], None] = _ignore
        self._sources: dict[int, PyStreamSource] = {}
        self._open: set[int] = set()
        self._numbers = count(1)
        self._causes = count(1)
        self._lock = threading.Lock()
        self._total_js = self._bytes_in = self._bytes_out = self._total_py = 0

    # ---- of JavaScript ----

    def revive(self, number: int) -> JsStream:
        self._total_js += 1
        self._open.add(number)
        return JsStream(self, number)

    def begin(self, number: int, notify: Callable[[Request], None] | None) -> Request:
        return self.session.begin("stream", [TO_ENGINE_READ, 0, number], notify)

    def let_go(self, number: int) -> None:
        """From a finalizer: nothing may be sent here."""
        self._open.discard(number)
        self.session.say_later([TO_ENGINE_ABANDON, number, False])

    def forget(self, number: int) -> None:
        self._open.discard(number)

    def count(self, value: Any) -> None:
        if (size := _bytes_of(value)) > 0:
            with self._lock:
                self._bytes_in += size

    # ---- of Python ----

    def source(self, iterable: Any, ahead: int = 0) -> PyStreamSource:
        return iterable if isinstance(iterable, PyStreamSource) else PyStreamSource(self, iterable, ahead)

    def lend(self, source: PyStreamSource) -> int:
        number = next(self._numbers)
        self._sources[number] = source
        self.session.read_always()  # what JavaScript wants is known even if nobody waits
        self._total_py += 1
        return number

    def ended(self, number: int | None) -> None:
        if number is not None:
            self._sources.pop(number, None)

    def number_of(self, value: Any) -> tuple[int, ...] | None:
        """Kind of the reference to it, number, and more; None for what is no stream."""
        if type(value) is JsStream:
            if value._streams is not self:
                raise RuntimeError("this stream belongs to another runtime")
            if value._is_over:
                raise RuntimeError(_CLOSED)
            return REFERENCE_ENGINE_STREAM, value._number
        if not isinstance(value, PyStreamSource):
            if not is_streamed(value):
                return None
            value = self.source(value)
        if value._streams is not self:
            raise RuntimeError("this stream belongs to another runtime")
        return REFERENCE_PYTHON_STREAM, value._lend(), value._ahead

    def count_sent(self, value: Any) -> None:
        if (size := _bytes_of(value)) > 0:
            with self._lock:
                self._bytes_out += size

    def fail(self, number: int, error: BaseException) -> None:
        """:param error: what JavaScript's reader gets, and what it is the cause of if that comes back"""
        cause = -next(self._causes)
        self.session.send_quietly([TO_ENGINE_FAIL, number, self.session.raised(cause, error), cause])

    # ---- messages ----

    def take(self, kind: int, message: list[Any]) -> bool:
        """:raises ValueError, TypeError: one that makes no sense"""
        number = message[1]
        if kind not in _KINDS:
            return False
        if type(number) is not int:
            raise ValueError("a number of a stream that is none")
        if kind == FROM_ENGINE_END:
            request = self.session.requests.get(number)
            if request is not None:
                if request.kind != "stream":
                    raise ValueError("the end of something that is no stream")
                del self.session.requests[number]
                request.finish(_END, None)
        elif kind == FROM_ENGINE_WANT:
            source = self._sources.get(number)
            if source is not None:
                if type(message[2]) is not int:
                    raise ValueError("a number of items that is none")
                source._want(message[2])
            else:
                self.session.send_quietly([TO_ENGINE_CLOSE, number])
        else:
            source = self._sources.get(number)
            if source is not None:
                source._leave()
        return True

    def end(self) -> None:
        """The runtime has ended."""
        for source in list(self._sources.values()):
            source._leave()
        self._open.clear()

    def counts(self) -> dict[str, int]:
        return {
            "active_js_streams": len(self._open),
            "active_py_streams": len(self._sources),
            "total_js_streams": self._total_js,
            "total_py_streams": self._total_py,
            "bytes_streamed_js_to_py": self._bytes_in,
            "bytes_streamed_py_to_js": self._bytes_out,
        }
