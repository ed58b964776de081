"""Streams in both directions: generators that a client reads as far as it has given credit, and iterables of a client
as iterators.
"""

from __future__ import annotations

import asyncio
import traceback
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator

from ._bound import client
from ._backend import BrokenChannel, Interrupted
from ._contract import STREAM_ITEMS_MAX as _WINDOW
from ._contract import TO_CLIENT_ITEM as ITEM
from ._contract import TO_CLIENT_END as END
from ._contract import TO_CLIENT_WANT as WANT
from ._contract import TO_CLIENT_LEAVE as LEAVE
from ._errors import credit_of

TYPE_CHECKING = False  # as typing has it, which takes long to load
if TYPE_CHECKING:
    from typing import Any
    from ._session import Session

#: Items in a row before other messages get their turn.
_TURN_ITEMS = 64
#: How often an event loop that waits for the client checks whether it must fetch the answer itself.
_LOOK_SECONDS, _LOOK_SECONDS_MAX = 0.001, 0.05
_OVER = object()


class Outgoing:
    """A generator. It costs nothing while it has no credit: only streams that may continue are looked at, in
    :attr:`Serving.ready`.
    """

    def __init__(self, session: Session, number: int, items: Any) -> None:
        self.session, self._number, self._items = session, number, items
        self._credit = 0
        #: It runs, perhaps inside a call of the client's function that takes messages meanwhile.
        self._is_running = False
        self._is_ready = False
        self._is_over = False

    def begin(self) -> None:
        """Called once the client knows that it is a stream."""

    def grant(self, credit: object) -> None:
        self._credit += credit_of(credit)
        self._queue()

    def _queue(self) -> None:
        if not self._is_ready and not self._is_running and self._credit > 0:
            self._is_ready = True
            self.session.serving.ready.append(self)

    def pump(self) -> None:
        """A few items at most, so that other messages get their turn. :raises BrokenChannel:"""
        self._is_ready = False
        if self._is_running or self._is_over:
            return
        for _ in range(min(self._credit, _TURN_ITEMS)):
            self._credit -= 1
            self._is_running = True
            item, is_error = self.session.channel.server.perform(self._number, next, (self._items, _OVER), None)
            self._is_running = False
            if self._is_over:
                self._close()
                return self.session.channel.send([END, self._number])
            if is_error:
                return self._fail(item)
            if item is _OVER:
                self._is_over = True
                self.session.end_stream(self._number)
                return self.session.channel.send([END, self._number])
            try:
                self.session.channel.send([ITEM, self._number, item])
            except BrokenChannel:
                raise
            except BaseException as error:  # a value without a form, or a conversion of the user's that fails
                return self._fail(error)
        self._queue()

    def _fail(self, error: BaseException) -> None:
        self._is_over = True
        self.session.end_stream(self._number)
        self.session.fail(self._number, error)
        self._close()

    def interrupt(self) -> None:
        """The client wants it ended with an error. Running code is interrupted like any other."""
        if not self._is_running and not self._is_over:
            self._fail(Interrupted())

    def close(self) -> bool:
        """The client takes no more of it. False if it runs: it is closed when it next yields, or is interrupted, and
        ends then.
        """
        self._is_over = True
        if self._is_running:
            return False
        self._close()
        return True

    def _close(self) -> None:
        close = getattr(self._items, "close", None)
        if close is None:
            return
        try:
            self.session.serving.bound.run_for(self.session, close)
        except BaseException:  # nobody is left to tell
            traceback.print_exc()


class AsyncOutgoing(Outgoing):
    """An async generator, in the event loop's thread."""

    def __init__(self, session: Session, number: int, items: Any) -> None:
        super().__init__(session, number, items)
        #: Items that may be sent, in the event loop's thread.
        self._allowed = 0
        self._more = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self.session.serving.loop().call_soon_threadsafe(self._start)

    def _start(self) -> None:
        client.set(self.session)
        self._task = asyncio.ensure_future(self._run())
        self._task.add_done_callback(self._end)
        if self._is_over:
            self._task.cancel()

    def _queue(self) -> None:
        granted, self._credit = self._credit, 0
        self.session.serving.loop().call_soon_threadsafe(self._allow, granted)

    def _allow(self, count: int) -> None:
        self._allowed += count
        self._more.set()

    async def _run(self) -> None:
        try:
            while True:
                while self._allowed == 0:
                    self._more.clear()
                    await self._more.wait()
                self._allowed -= 1
                if self._allowed % _TURN_ITEMS == 0:  # a generator that never waits must leave others their turn
                    await asyncio.sleep(0)
                try:
                    item = await self._items.__anext__()
                except StopAsyncIteration:
                    return self.session.channel.send([END, self._number])
                self.session.channel.send([ITEM, self._number, item])
        except BrokenChannel:
            pass
        except GeneratorExit:
            # The interpreter closes at its end what waits, and this is none of the client's business: it hears that the
            # worker has ended. Where the generator has raised it, the loop goes on, and tells that.
            raise
        except BaseException as error:  # also a cancellation that is not ours, of something that it awaits
            if not self._is_over:
                self.session.fail_safely(self._number, error)
        finally:
            close = getattr(self._items, "aclose", None)
            if close is not None:
                await close()

    def _end(self, task: asyncio.Task[None]) -> None:
        self.session.end_stream(self._number)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, GeneratorExit) and not self._is_over:
            self.session.fail_safely(self._number, error)

    def interrupt(self) -> None:
        if not self._is_over:
            self._is_over = True
            self.session.fail_safely(self._number, Interrupted())
            self._cancel()

    def close(self) -> bool:
        self._is_over = True
        self._cancel()
        return True

    def _cancel(self) -> None:
        self.session.serving.loop().call_soon_threadsafe(lambda: self._task is not None and self._task.cancel())


class Incoming(Iterator["Any"], AsyncIterator["Any"]):
    """An async iterable of the client as an iterator; ``async for`` works as well. ``close`` closes the client's
    iterable.
    """

    def __init__(self, session: Session, number: int) -> None:
        self._session, self._number = session, number
        self._items: deque[Any] = deque()
        self._error: BaseException | None = None
        self._is_over = False
        self._wanted = 0
        #: For waiters in an event loop.
        self._tells: list[Callable[[], None]] = []

    def push(self, item: Any) -> None:
        if len(self._items) >= self._wanted:
            raise BrokenChannel("the client sent more items of a stream than were requested")
        self._items.append(item)
        self._tell()

    def fail(self, error: BaseException | None) -> None:
        self._error, self._is_over = error, True
        self._tell()

    def _tell(self) -> None:
        for tell in self._tells.copy():
            tell()

    def _has_come(self) -> bool:
        return bool(self._items) or self._is_over

    def _ask(self) -> None:
        if self._wanted == 0:
            self._wanted = _WINDOW  # first, so that an interrupt during the sending does not make it ask twice
            self._session.channel.send([WANT, self._number, _WINDOW])

    def _take(self, end: type[Exception]) -> Any:
        if self._items:
            self._wanted -= 1
            return self._items.popleft()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        raise end

    def __next__(self) -> Any:
        if not self._has_come():
            self._ask()
            self._session.serving.wait(self._session, self._has_come)
        return self._take(StopIteration)

    def __aiter__(self) -> Incoming:
        return self

    async def __anext__(self) -> Any:
        if not self._has_come():
            self._ask()
            await self._wait()
        return self._take(StopAsyncIteration)

    async def _wait(self) -> None:
        """In the event loop: a thread that waited for a silent client would outlive its caller."""
        loop = asyncio.get_running_loop()
        came: asyncio.Future[None] = loop.create_future()

        def come() -> None:
            if not came.done():
                came.set_result(None)

        def tell() -> None:
            try:
                loop.call_soon_threadsafe(come)
            except RuntimeError:
                pass  # that loop was closed: nobody waits any more

        self._tells.append(tell)
        look_seconds = _LOOK_SECONDS
        try:
            while not self._has_come():
                await asyncio.wait((came,), timeout=look_seconds)
                look_seconds = min(2 * look_seconds, _LOOK_SECONDS_MAX)
                self._session.serving.fetch_answers(
                    self._session
                )  # the serving thread may run code that waits for this one
        finally:
            self._tells.remove(tell)

    def close(self) -> None:
        was_over, self._is_over = self._is_over, True
        self._items.clear()
        if not was_over:
            self._session.incoming.pop(self._number, None)
            self._session.channel.send([LEAVE, self._number])

    def __del__(self) -> None:
        if not self._is_over:  # it may be collected anywhere, also in the middle of sending a message
            self._session.leave_soon(self._number)
