"""The side of a session that calls, in Python: functions of a worker, from any program.

A thread that waits reads the messages of all. There is a thread for reading only if a future or a lent function needs
one.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from weakref import WeakValueDictionary

from . import _trace
from ._backend import BrokenChannel, StreamRef, loads
from ._contract import REQUEST_WAKE
from ._contract import STREAM_ITEMS_MAX as _WINDOW
from ._contract import TO_CLIENT_END as END
from ._contract import TO_CLIENT_ERROR as ERROR
from ._contract import TO_CLIENT_FORGET as FORGET
from ._contract import TO_CLIENT_HELLO as HELLO
from ._contract import TO_CLIENT_INVOKE as INVOKE
from ._contract import TO_CLIENT_ITEM as ITEM
from ._contract import TO_CLIENT_LEAVE as LEAVE
from ._contract import TO_CLIENT_OUTPUT as OUTPUT
from ._contract import TO_CLIENT_RESULT as RESULT
from ._contract import TO_CLIENT_STREAM as STREAM
from ._contract import TO_CLIENT_WANT as WANT
from ._contract import TO_WORKER_BIND as BIND
from ._contract import TO_WORKER_CALL as CALL
from ._contract import TO_WORKER_CANCEL as CANCEL
from ._contract import TO_WORKER_CLOSE as CLOSE
from ._contract import TO_WORKER_CREDIT as CREDIT
from ._contract import TO_WORKER_EVAL as EVAL
from ._contract import TO_WORKER_FAIL as FAIL
from ._contract import TO_WORKER_FORGET as TELL_FORGOTTEN
from ._contract import TO_WORKER_PUSH as PUSH
from ._contract import TO_WORKER_RETURN as RETURN
from ._contract import TO_WORKER_THROW as THROW
from ._contract import TO_WORKER_UNBIND as UNBIND
from ._end import End, ShimDoor, open_end
from ._errors import credit_of, error_of, fault_of_call, record_of
from ._transports import Frames, Lines
from ._types import DecodeError, IpcError, RemoteError, Unheld

TYPE_CHECKING = False  # as typing has it, which takes long to load
if TYPE_CHECKING:
    from typing import Any, Literal, Protocol

    class Carrier(Protocol):
        """Carries the messages of a client."""

        def send(self, message: list[Any]) -> None: ...
        def receive(self, timeout: float | None) -> Any: ...
        def interrupt(self, number: int) -> None: ...
        def forget(self, number: int) -> None: ...
        def close(self) -> None: ...


#: A generator is told that its reader has left it. If it computes for longer than this, it is interrupted.
_LEAVE_SECONDS = 0.02
#: Between two reminders of requests that must end, growing.
_REMIND_SECONDS, _REMIND_SECONDS_MAX = 0.005, 1.0
#: How long the shim has to answer.
_POKE_SECONDS = 1.0
#: The longest sleep of a thread while another one reads for it.
_FOLLOW_SECONDS = 0.1


class ChannelCarrier:
    """A channel in shared memory."""

    def __init__(self, end: End, poke: Callable[[], None]) -> None:
        self._end, self._poke = end, poke

    def send(self, message: list[Any]) -> None:
        self._end.send(message)
        if message[0] in (CALL, EVAL):
            self._end.count_request()
        while self._end.sharing.forgotten:
            self._end.send([TELL_FORGOTTEN, self._end.sharing.forgotten.popleft()])

    def receive(self, timeout: float | None) -> Any:
        return self._end.receive(timeout)

    def interrupt(self, number: int) -> None:
        self._end.want_ended(number)
        self._poke()

    def forget(self, number: int) -> None:
        self._end.forget(number)

    def close(self) -> None:
        self._end.close()


def open_worker(shim: str, name: str, timeout: float) -> Worker:
    """Opens a channel to the worker whose shim listens there. :raises IpcError:"""
    end, first = open_end(shim, name, timeout)

    def poke() -> None:
        """Makes running code look for interrupts: the shim sends the signal."""
        try:
            with ShimDoor(shim, name, time.monotonic() + _POKE_SECONDS) as door:
                door.ask(REQUEST_WAKE)
        except IpcError:
            pass  # it is gone, or busy: a reminder follows

    one = Worker(name, ChannelCarrier(end, poke), end.decode(first))
    try:
        one.wait_hello(timeout)
    except BaseException:
        one.close()
        raise
    return one


class StreamCarrier:
    """Frames or lines."""

    def __init__(self, transport: Frames | Lines) -> None:
        self._transport = transport
        transport.role = "client"
        self._is_open = True

    def send(self, message: list[Any]) -> None:
        from ._backend import dumps

        self._transport.write(dumps(message))

    def receive(self, timeout: float | None) -> Any:
        data = self._transport.read(timeout)
        return None if data is None else loads(data)

    def interrupt(self, number: int) -> None:
        self.send([CANCEL, number])

    def forget(self, number: int) -> None:
        pass

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._transport.close()


class _Request:
    """A request in progress: its answer, and what that may become."""

    def __init__(
        self,
        on_output: Callable[[str, str], object] | None = None,
        on_done: Callable[[_Request], None] | None = None,
    ) -> None:
        self.is_done = False
        self.value: Any = None
        self.error: BaseException | None = None
        self.on_output = on_output
        self._on_done = on_done

    def finish(self, value: Any, error: BaseException | None = None) -> None:
        if self.is_done:
            return
        self.value, self.error, self.is_done = value, error, True
        if self._on_done is not None:
            self._on_done(self)


class Worker:
    """Functions of a worker. Threads may share it. Close it, or use it in ``with``: requests in progress then end with
    CONNECTION_LOST.

    Errors: :class:`ipcctl.RemoteError` is an exception of the function; the ``code`` of :class:`ipcctl.IpcError` says
    why there is no answer: ``"CONNECTION_LOST"`` if the worker ended, ``"DEADLINE"`` if it took too long;
    :class:`ipcctl.EncodeError` means that a value cannot be sent.
    """

    def __init__(self, name: str, carrier: Carrier, first: Any = None) -> None:
        self.name = name
        self._carrier: Carrier = _trace.traced(carrier, "client")
        self._numbers = itertools.count(1)
        self._requests: dict[int, _Request] = {}
        #: Their readers keep them alive.
        self._streams: WeakValueDictionary[int, RemoteStream] = WeakValueDictionary()
        #: Streams that nobody reads any more; the worker does not know that yet.
        self._left: deque[int] = deque()
        self._sources: dict[int, _Source] = {}
        self._bound: dict[str, Callable[..., Any]] = {}
        self._ended: BaseException | None = None
        self._reading = threading.RLock()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        #: Requests that must end and have not.
        self._wanted: set[int] = set()
        #: Ends whatever belongs to the channel once that is closed.
        self.on_close: Callable[[], None] | None = None
        #: What the worker reports about itself: ``pid``, ``python``, ``implementation``, ``exposed``.
        self.hello: dict[str, Any] = {}
        if first is not None:
            self._take(first)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_open(self) -> bool:
        return self._ended is None

    def close(self) -> None:
        self._end(BrokenChannel("the channel was closed"))
        self._carrier.close()
        if self.on_close is not None:
            self.on_close()

    def wait_hello(self, timeout: float) -> None:
        """:raises IpcError: DEADLINE, or FAILED if it cannot serve anybody"""
        if not self._wait(lambda: bool(self.hello), timeout):
            raise IpcError("DEADLINE", f"{self.name} did not answer within {timeout:g} s")
        if not self.hello:
            raise self._lost()
        if "error" in self.hello:
            raise IpcError("FAILED", f"{self.name} cannot let ipcctl in: {str(self.hello['error'])[:1000]}")

    # ---- requests ----

    def call(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """Calls an exposed function, and waits for its value. A generator gives an iterator.

        Iterators among the arguments are read as the worker asks for items.
        """
        return self.call_with(name, args, kwargs)

    def call_with(
        self,
        name: str,
        args: tuple[Any, ...] | list[Any] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        timeout: float | None = None,
    ) -> Any:
        """The same with options.

        :param timeout: seconds until the answer, or until the end of a stream; then the code is interrupted, and
        IpcError with DEADLINE is raised
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        request = _Request()
        number = self._begin(request, CALL, name, args, kwargs or None)
        value = self._await(number, request, deadline, timeout)
        if isinstance(value, RemoteStream):
            value.set_deadline(deadline, timeout)
        return value

    def submit(self, name: str, /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        """The same without waiting: ``asyncio.wrap_future`` makes it awaitable. Cancelling it interrupts the code."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def done(ended: _Request) -> None:
            if not future.set_running_or_notify_cancel():
                return
            if ended.error is None:
                future.set_result(ended.value)
            else:
                future.set_exception(ended.error)

        def cancelled(one: concurrent.futures.Future[Any]) -> None:
            if one.cancelled() and not request.is_done:
                self._give_up(number, concurrent.futures.CancelledError())

        request = _Request(on_done=done)
        number = self._begin(request, CALL, name, args, kwargs or None)
        future.add_done_callback(cancelled)
        self._read_always()
        return future

    def stream(self, name: str, /, *args: Any, **kwargs: Any) -> RemoteStream:
        """Items of a generator as they come; no more are requested than are taken. Closing the iterator closes the
        generator.

        :raises IpcError: FAILED if the answer is not a stream
        """
        return self.stream_with(name, args, kwargs)

    def stream_with(
        self,
        name: str,
        args: tuple[Any, ...] | list[Any] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        timeout: float | None = None,
    ) -> RemoteStream:
        value = self.call_with(name, args, kwargs, timeout=timeout)
        if not isinstance(value, RemoteStream):
            raise IpcError(
                "FAILED", f"{name} is not a generator, so it has no stream", f'call("{name}", …) gives its value'
            )
        return value

    def eval(
        self,
        code: str,
        *,
        namespace: str | None = None,
        mode: Literal["value", "repr", "exec"] = "value",
        timeout: float | None = None,
        on_output: Callable[[str, str], object] | None = None,
    ) -> Any:
        """The value of an expression in the worker's script, or of the last expression of some statements.

        :param namespace: name of a separate namespace to use instead of the script's
        :param timeout: seconds
        :param on_output: gets ``"stdout"`` or ``"stderr"`` and a text, as the code prints it
        """
        options: dict[str, Any] = {"mode": mode, "capture": on_output is not None}
        if namespace is not None:
            options["namespace"] = namespace
        deadline = None if timeout is None else time.monotonic() + timeout
        request = _Request(on_output)
        number = self._begin(request, EVAL, code, options)
        return self._await(number, request, deadline, timeout)

    def interrupt(self) -> None:
        """Raises KeyboardInterrupt in the newest unanswered request, or if there is none, in the stream that was opened
        last.
        """
        numbers = [number for number, one in list(self._requests.items()) if not one.is_done] or list(self._streams)
        if numbers:
            self._want_ended(numbers[-1])

    def bind(self, name: str, function: Callable[..., Any]) -> None:
        """Lends a function to the worker, which calls it by this name. It runs in a thread of this program that waits
        for the worker; a coroutine function runs in a separate event loop.
        """
        self._bound[name] = function
        self._send([BIND, 0, name])
        self._read_always()

    def unbind(self, name: str) -> None:
        if self._bound.pop(name, None) is not None:
            self._send([UNBIND, 0, name])

    def _begin(self, request: _Request, kind: int, what: str, body: Any, more: Any = None) -> int:
        number = next(self._numbers)
        self._requests[number] = request
        lent: list[int] = []
        try:
            if kind == CALL:
                self._send([CALL, number, what, [self._lend(one, lent) for one in body], more])
            else:
                self._send([kind, number, what, body])
        except BaseException:
            self._requests.pop(number, None)  # gone already if the channel has ended by this
            for one in lent:
                self._leave_source(one)
            raise
        return number

    def _await(self, number: int, request: _Request, deadline: float | None, timeout: float | None) -> Any:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            is_done = self._wait(lambda: request.is_done, left)
        except BaseException as interrupted:  # in this very thread: nobody waits any more
            self._give_up(number, interrupted)
            raise
        if not is_done:
            error = IpcError("DEADLINE", f"{self.name} did not answer within {timeout:g} s; its code was asked to stop")
            self._give_up(number, error)
        if request.error is not None:
            raise request.error
        return request.value

    def _give_up(self, number: int, error: BaseException) -> None:
        """The caller does not wait for it any more, and its code must end."""
        request = self._requests.pop(number, None)
        if request is not None:
            request.finish(None, error)
        stream = self._streams.pop(number, None)
        if stream is not None:
            stream.fail(error)
        if self._ended is None:
            self._want_ended(number)

    # ---- reading ----

    def _wait(self, is_done: Callable[[], bool], timeout: float | None) -> bool:
        """Reads until it is done, also for other waiting threads, unless another thread reads already. False if the
        time is over.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not is_done() and self._ended is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            if self._reading.acquire(blocking=False):
                try:
                    if not is_done() and self._ended is None:
                        self._read(left)
                finally:
                    self._reading.release()
                    with self._changed:
                        self._changed.notify_all()
            else:
                with self._changed:
                    if not is_done() and self._ended is None:
                        self._changed.wait(_FOLLOW_SECONDS if left is None else min(left, _FOLLOW_SECONDS))
        return True

    def _read(self, timeout: float | None) -> None:
        try:
            message = self._carrier.receive(timeout)
            if message is not None:
                self._take(message)
        except Unheld as error:
            self._end(BrokenChannel(f"{self.name} sent a value that cannot be held here: {error}"))
        except (BrokenChannel, DecodeError, TypeError, IndexError, KeyError, ValueError, AttributeError) as error:
            known = isinstance(error, BrokenChannel)
            self._end(error if known else BrokenChannel(f"{self.name} sent a malformed message: {error}"))

    def _read_always(self) -> None:
        """From now on a thread reads even if nobody waits."""
        with self._changed:
            if self._thread is not None:
                return
            self._thread = threading.Thread(
                target=self._wait, args=(lambda: False, None), daemon=True, name=f"ipcctl-{self.name}"
            )
        self._thread.start()

    def _send(self, message: list[Any]) -> None:
        if self._ended is not None:
            raise self._lost()
        try:
            while self._left:
                self._carrier.send([CANCEL, self._left.popleft()])
            self._carrier.send(message)
        except BrokenChannel as error:
            self._end(error)
            raise self._lost() from None

    def _send_quietly(self, message: list[Any]) -> None:
        try:
            self._send(message)
        except IpcError:
            pass  # waiting threads notice it

    def _lost(self) -> IpcError:
        return IpcError("CONNECTION_LOST", f"{self.name}: {self._ended}", f"see: ipcctl describe {self.name}")

    def _end(self, cause: BaseException) -> None:
        with self._changed:
            if self._ended is not None:
                return
            self._ended = cause
        for request in list(self._requests.values()):
            request.finish(None, self._lost())
        for stream in list(self._streams.values()):
            stream.fail(self._lost())
        self._requests.clear()
        self._streams.clear()
        for number in list(self._sources):
            self._leave_source(number)
        with self._changed:
            self._changed.notify_all()

    def _take(self, message: Any) -> None:
        kind, number = message[0], message[1]
        if kind == RESULT:
            self._settle(number, message[2], None)
        elif kind == ERROR:
            error = error_of(message[2], RemoteError)
            stream = self._streams.pop(number, None)
            self._wanted.discard(number)
            if stream is not None:
                stream.fail(error)
            else:
                self._settle(number, None, error)
        elif kind == STREAM:
            if number in self._requests:
                stream = self._streams[number] = RemoteStream(self, number)
                self._settle(number, stream, None)
            else:
                self._send_quietly([CANCEL, number])
        elif kind == ITEM:
            if (stream := self._streams.get(number)) is not None:
                stream.push(message[2])
        elif kind == END:
            self._wanted.discard(number)
            if (stream := self._streams.pop(number, None)) is not None:
                stream.fail(None)
        elif kind == INVOKE:
            fault = fault_of_call(message)
            if fault is not None:
                return self._send_quietly([THROW, number, record_of(fault)])
            self._invoke(number, *message[2:])
        elif kind == OUTPUT:
            request = self._requests.get(number)
            if request is not None and request.on_output is not None:
                try:
                    request.on_output(str(message[2]), str(message[3]))
                except BaseException as error:
                    self._give_up(number, error)
        elif kind == WANT:
            if (source := self._sources.get(number)) is not None:
                source.give(credit_of(message[2]))
        elif kind == LEAVE:
            self._leave_source(number)
        elif kind == FORGET:
            self._carrier.forget(number)
        elif kind == HELLO:
            self.hello = dict(message[2])
        else:
            raise BrokenChannel(f"unknown kind of message: {kind}")

    def _settle(self, number: int, value: Any, error: BaseException | None) -> None:
        self._wanted.discard(number)
        request = self._requests.pop(number, None)
        if request is not None:
            request.finish(value, error)

    # ---- interrupts ----

    def _want_ended(self, number: int) -> None:
        """Repeats the interrupt until the request has ended: a signal may be lost."""
        self._wanted.add(number)
        try:
            self._carrier.interrupt(number)
        except BrokenChannel as error:
            return self._end(error)
        threading.Thread(target=self._remind, args=(number,), daemon=True, name="ipcctl-interrupt").start()

    def _remind(self, number: int) -> None:
        pause = _REMIND_SECONDS
        while not self._wait(lambda: number not in self._wanted, pause):
            try:
                self._carrier.interrupt(number)
            except BrokenChannel as error:
                return self._end(error)
            pause = min(2 * pause, _REMIND_SECONDS_MAX)

    # ---- streams and functions of this side ----

    def _lend(self, value: Any, lent: list[int]) -> Any:
        if not isinstance(value, Iterator):
            return value
        number = next(self._numbers)
        self._sources[number] = _Source(self, number, value)
        lent.append(number)
        return StreamRef(number)

    def _leave_source(self, number: int) -> None:
        source = self._sources.pop(number, None)
        if source is not None:
            source.close()

    def _invoke(self, number: int, name: str, args: Any, kwargs: Any) -> None:
        def answer(work: Callable[[], Any]) -> None:
            try:
                value = work()
            except BaseException as error:
                return self._send_quietly([THROW, number, record_of(error)])
            try:
                self._send_quietly([RETURN, number, value])
            except Exception as error:  # a value that cannot be sent
                self._send_quietly([THROW, number, record_of(error)])

        function = self._bound.get(name)
        if function is None:
            return answer(lambda: _missing(name))
        if inspect.iscoroutinefunction(function):
            work = lambda: asyncio.run(function(*args, **(kwargs or {})))  # noqa: E731
            return threading.Thread(target=answer, args=(work,), daemon=True, name=f"ipcctl-{name}").start()
        answer(lambda: function(*args, **(kwargs or {})))


def _missing(name: str) -> None:
    raise IpcError("NOT_FOUND", f"no function {name} is bound")


class RemoteStream(Iterator["Any"]):
    """Items of a generator of the worker, for one thread. Leaving its ``with``, ``close()`` or dropping it closes the
    generator.
    """

    def __init__(self, worker: Worker, number: int) -> None:
        self._worker, self._number = worker, number
        self._items: deque[Any] = deque()
        self._credit = self._taken = 0
        self._error: BaseException | None = None
        self._is_over = False
        self._deadline: float | None = None
        self._timeout: float | None = None

    def set_deadline(self, deadline: float | None, timeout: float | None) -> None:
        self._deadline, self._timeout = deadline, timeout

    def push(self, item: Any) -> None:
        self._credit -= 1
        if self._credit < 0:
            raise BrokenChannel("the worker sent more items of a stream than were requested")
        self._items.append(item)

    def fail(self, error: BaseException | None) -> None:
        if not self._is_over:
            self._error, self._is_over = error, True

    def __enter__(self) -> RemoteStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __next__(self) -> Any:
        worker = self._worker
        if not self._items and not self._is_over:
            if self._credit == 0:
                self._allow(_WINDOW)
            left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
            if not worker._wait(lambda: bool(self._items) or self._is_over, left):
                text = f"{worker.name} did not answer within {self._timeout:g} s; its code was asked to stop"
                worker._give_up(self._number, IpcError("DEADLINE", text))
        elif self._deadline is not None and time.monotonic() > self._deadline and not self._is_over:
            text = f"{worker.name} did not answer within {self._timeout:g} s; its code was asked to stop"
            self._items.clear()
            worker._give_up(self._number, IpcError("DEADLINE", text))
        if self._items:
            self._taken += 1
            if self._taken >= _WINDOW // 2 and not self._is_over:
                self._allow(self._taken)
            return self._items.popleft()
        error, self._error = self._error, None
        if error is not None:
            raise error
        raise StopIteration

    def _allow(self, count: int) -> None:
        self._taken = 0
        self._credit += count
        self._worker._send([CREDIT, self._number, count])

    def close(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._items.clear()
        worker, number = self._worker, self._number
        if worker._streams.pop(number, None) is None or not worker.is_open:
            return
        worker._wanted.add(number)
        worker._send_quietly([CANCEL, number])
        if not worker._wait(lambda: number not in worker._wanted, _LEAVE_SECONDS):
            worker._want_ended(number)

    def __del__(self) -> None:
        if not self._is_over:  # it may be collected anywhere, even while a message is being sent
            self._worker._left.append(self._number)


class _Source:
    """An iterator of this side, read as far as the worker has requested items."""

    def __init__(self, worker: Worker, number: int, items: Iterator[Any]) -> None:
        self._worker, self._number, self._items = worker, number, items

    def give(self, count: int) -> None:
        """In the thread that reads: an iterator that takes long delays all others that wait for this worker."""
        worker, number = self._worker, self._number
        try:
            for _ in range(count):
                if number not in worker._sources:
                    return
                try:
                    item = next(self._items)
                except StopIteration:
                    worker._sources.pop(number, None)
                    return worker._send([CLOSE, number])
                worker._send([PUSH, number, item])
        except IpcError:
            raise BrokenChannel("the worker is gone") from None
        except BaseException as error:
            worker._leave_source(number)
            worker._send_quietly([FAIL, number, record_of(error)])

    def close(self) -> None:
        close = getattr(self._items, "close", None)
        if close is None:
            return
        try:
            close()
        except BaseException:
            pass
