"""The calls and evaluations of one client, from their beginning to their answer."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Callable, Iterator

from ._bound import client
from ._backend import BrokenChannel, Interrupted, StreamRef
from ._contract import TO_WORKER_CALL as CALL
from ._contract import TO_CLIENT_RESULT as RESULT
from ._contract import TO_CLIENT_ERROR as ERROR
from ._contract import TO_CLIENT_OUTPUT as OUTPUT
from ._errors import fault_of_call, record_of
from ._evaluate import Capture, forget_namespace, namespace, run
from ._types import IpcError

TYPE_CHECKING = False  # as typing has it, which takes long to load
if TYPE_CHECKING:
    from typing import Any
    from ._session import Session

#: How long a call waits for its function before the script serves: the script may still be importing.
EXPOSE_SECONDS = 10.0
#: Values that are neither awaitable nor a stream: most answers, recognised quickly.
_PLAIN = frozenset((type(None), bool, int, float, str, bytes, list, dict, tuple, set, memoryview))


class Calls:
    """The requests of one client in progress."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._channel = session.channel
        #: Async functions, which run in the event loop's thread.
        self.tasks: dict[int, Task] = {}
        #: Calls of functions that a script, which may still be importing, has not exposed yet: deadline, and message.
        self.early: dict[int, tuple[float, list[Any]]] = {}

    def call(self, message: list[Any]) -> None:
        fault = fault_of_call(message)
        if fault is not None:
            return self.fail_unread(message[1], fault)
        _, number, name, args, kwargs = message
        serving = self.session.serving
        for one in args:  # a loop, because any() over a generator would cost more than the call
            if (
                type(one) is StreamRef
            ):  # from now on the client is told when nobody reads it any more, even if nothing starts
                args = [self.session.receive_stream(other) for other in args]
                break
        if name not in self.session.exposed and not serving.is_wanted_elsewhere:
            self.early[number] = time.monotonic() + EXPOSE_SECONDS, [CALL, number, name, args, kwargs]
            return
        self._answer(number, self._apply, name, args, kwargs)

    def retry_early(self) -> bool:
        """Starts those whose function exists by now, and fails those whose time is over. True if there were any."""
        is_any = False
        is_served = self.session.serving.is_wanted_elsewhere
        for number, (until, message) in list(self.early.items()):
            is_over = is_served or time.monotonic() >= until
            if message[2] not in self.session.exposed and not is_over:
                continue
            if self.early.pop(number, None) is None:
                continue  # taken by code that ran meanwhile
            is_any = True
            if message[2] in self.session.exposed:
                self.call(message)
            else:
                self._answer(number, self._apply, message[2], [], None)
        return is_any

    def _apply(self, name: str, args: list[Any], kwargs: dict[str, Any] | None) -> Any:
        try:
            function = self.session.exposed[name]
        except KeyError:
            known = ", ".join(sorted(self.session.exposed)) or "none"
            raise LookupError(f"no function {name!r} is exposed; there is: {known}") from None
        return function(*args, **kwargs) if kwargs else function(*args)

    def evaluate(self, message: list[Any]) -> None:
        fault = _fault_of_evaluation(message)
        if fault is not None:
            return self.fail_unread(message[1], fault)
        _, number, code, options = message
        mode = options.get("mode", "value")
        if mode == "forget":
            return self._answer(number, lambda: forget_namespace(options["namespace"]))

        def execute() -> Any:
            value = run(code, namespace(options.get("namespace")))
            if inspect.iscoroutine(value):
                return _then(value, lambda result: _shown(result, mode))
            return _shown(value, mode)

        if not options.get("capture"):
            return self._answer(number, execute)
        capture = Capture(lambda stream, text, is_paced: self._print(number, stream, text, is_paced))
        began = time.monotonic_ns()
        with capture:
            outcome = [self._channel.server.perform(number, execute, (), None)]
        self.finish(number, *outcome.pop(), began)

    def _print(self, number: int, stream: str, text: str, is_paced: bool) -> bool:
        """Sends what was printed. False if the client has no room and the caller must not wait."""
        message = [OUTPUT, number, stream, text]
        if is_paced:
            self._channel.send_paced(message)
        elif self._channel.flush():
            self._channel.send(message)
        else:
            return False
        return True

    def _answer(self, number: int, work: Callable[..., Any], *args: Any) -> None:
        """Runs it and sends its value, its error, or the beginning of a stream.

        No variable of a frame below the code holds its exception: that holds the frames of the code, and they hold this
        one, so arguments would live until the collector runs.
        """
        began = time.monotonic_ns()
        self.finish(number, *self._channel.server.perform(number, work, args, None), began)

    def _require_new(self, number: int, value: Any) -> None:
        """A second request with the number of one in progress would take its place: nothing could end the first one."""
        if number not in self.tasks and number not in self.session.streams:
            return
        close = getattr(value, "close", None)
        if close is not None:
            close()  # a coroutine that nobody awaits
        raise BrokenChannel(f"request {number} is in progress already")

    def finish(self, number: int, value: Any, is_error: bool, began: int) -> None:
        """Answers a request that ran, whatever its result. :raises BrokenChannel:"""
        if is_error:
            return self.fail(number, value, began)
        try:
            if type(value) in _PLAIN:
                pass
            elif inspect.isawaitable(value):
                self._require_new(number, value)
                return self._later(number, value, began)
            elif isinstance(value, (Iterator, AsyncIterator)):
                self._require_new(number, value)
                return self.session.begin_stream(number, value, began)
            self._channel.send([RESULT, number, value], began)
        except BrokenChannel:
            raise
        except BaseException as error:  # a value without a form, or a conversion of the user's that fails
            self.fail(number, error, began)

    def fail(self, number: int, error: BaseException, began: int | None = None) -> None:
        self._channel.send([ERROR, number, record_of(error)], began)

    def fail_unread(self, number: int, error: BaseException) -> None:
        """Fails a request that did not arrive whole: there was no memory for it, or it is not what a request is."""
        self._require_new(number, None)

        def fail() -> None:
            raise error

        self._answer(number, fail)

    def refuse(self, number: int) -> None:
        """Answers a request that was interrupted before it started."""
        self._answer(number, _nothing)

    def _later(self, number: int, awaitable: Any, began: int) -> None:
        task = self.tasks[number] = Task(self, self.session.serving.loop(), number, awaitable, began)
        if self._channel.server.is_gone or number in self._channel.server.wanted:
            task.cancel()  # while it was in nobody's list
        task.begin()


class Task:
    """One run of an async function in the event loop's thread. All of its state belongs to that thread."""

    def __init__(self, calls: Calls, loop: asyncio.AbstractEventLoop, number: int, awaitable: Any, began: int) -> None:
        self._calls, self._loop, self._number, self._awaitable, self._began = calls, loop, number, awaitable, began
        self._task: asyncio.Task[tuple[Any, bool]] | None = None
        self._is_cancelled = False

    def begin(self) -> None:
        self._loop.call_soon_threadsafe(self._start)

    def cancel(self) -> None:
        """From any thread, at any time."""
        self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        self._is_cancelled = True
        if self._task is not None:
            self._task.cancel()

    def _start(self) -> None:
        client.set(self._calls.session)
        self._task = self._loop.create_task(self._run())
        self._task.add_done_callback(self._end)
        if self._is_cancelled:
            self._task.cancel()

    async def _run(self) -> tuple[Any, bool]:
        try:
            return await self._awaitable, False
        except BaseException as error:  # SystemExit is an answer too, and would end the loop
            return error, True

    def _end(self, task: asyncio.Task[tuple[Any, bool]]) -> None:
        self._calls.tasks.pop(self._number, None)
        value: Any
        if task.cancelled():  # before its first step
            value, is_error = Interrupted(), True
            close = getattr(self._awaitable, "close", None)
            if close is not None:
                close()
        else:
            value, is_error = task.result()
        if is_error and (self._is_cancelled or isinstance(value, asyncio.CancelledError)):
            value = Interrupted()
        try:
            if not is_error:
                return self._calls._channel.send([RESULT, self._number, value], self._began)
        except BrokenChannel:
            return
        except BaseException as error:
            value = error
        try:
            self._calls.fail(self._number, value, self._began)
        except BrokenChannel:
            pass


def _fault_of_evaluation(message: list[Any]) -> IpcError | None:
    if len(message) == 4 and type(message[2]) is str and type(message[3]) is dict:
        return None
    return IpcError("BAD_REQUEST", "malformed: an evaluation has code as text, and a map of options")


def _nothing() -> None:
    pass


async def _then(awaitable: Any, change: Callable[[Any], Any]) -> Any:
    return change(await awaitable)


def _shown(value: Any, mode: str) -> Any:
    if mode == "repr":
        return None if value is None else repr(value)
    return None if mode == "exec" else value
