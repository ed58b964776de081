"""One client: its channel, its messages, and everything in progress for it."""

from __future__ import annotations

import traceback
from collections.abc import AsyncIterator, Callable
from weakref import WeakValueDictionary

from . import _trace
from ._calling import Calls
from ._channel import Channel, Segment, Unreadable
from ._backend import BrokenChannel, DecodeError, StreamRef
from ._contract import BOUND_NAME_BYTES_MAX as _NAME_BYTES_MAX
from ._contract import ENDED_BROKEN, ENDED_FAULT
from ._contract import REQUESTS_MAX as _REQUESTS_MAX
from ._contract import TO_WORKER_CALL as CALL
from ._contract import TO_WORKER_EVAL as EVAL
from ._contract import TO_WORKER_CANCEL as CANCEL
from ._contract import TO_WORKER_CREDIT as CREDIT
from ._contract import TO_WORKER_BIND as BIND
from ._contract import TO_WORKER_RETURN as RETURN
from ._contract import TO_WORKER_THROW as THROW
from ._contract import TO_WORKER_UNBIND as UNBIND
from ._contract import TO_WORKER_PUSH as PUSH
from ._contract import TO_WORKER_CLOSE as CLOSE
from ._contract import TO_WORKER_FAIL as FAIL
from ._contract import TO_WORKER_FORGET as FORGET
from ._contract import TO_CLIENT_END as END
from ._contract import TO_CLIENT_STREAM as STREAM
from ._errors import error_of
from ._streams import AsyncOutgoing, Incoming, Outgoing

TYPE_CHECKING = False  # as typing has it, which takes long to load
if TYPE_CHECKING:
    from typing import Any
    from ._serving import Serving

#: Messages that answer a request of Python's; any thread may take them.
ANSWERS = frozenset((RETURN, THROW, PUSH, CLOSE, FAIL))


class Session:
    """Belongs to the serving thread. Only :meth:`on_interrupts`, :meth:`take_answer` and the end of a task come from
    others.

    Interrupts: the client says which of its requests must end (:meth:`Channel.look`), and that stays in
    ``server.wanted`` until the request has ended, in whatever way. A request that has not started is refused by
    ``server.perform``; running code gets an exception when it is the innermost (``deliver``, ``check``, ``unshield``);
    the rest is settled here.
    """

    def __init__(
        self,
        serving: Serving,
        segment: Segment,
        exposed: dict[str, Callable[..., Any]] | None = None,
        on_end: Callable[[], None] | None = None,
    ) -> None:
        self.serving = serving
        #: What this client may call; by default what all may.
        self.exposed = serving.exposed if exposed is None else exposed
        self._on_end = on_end
        # The fast path answers without a trace.
        self.channel = Channel(segment, {} if _trace.is_on else self.exposed, self)
        self.calls = Calls(self)
        self.streams: dict[int, Outgoing] = {}
        #: Their readers keep them alive: the client is told to leave a stream that nobody reads any more.
        self.incoming: WeakValueDictionary[int, Incoming] = WeakValueDictionary()
        #: Names of functions that the client lends.
        self.lent: set[str] = set()

    # ---- messages ----

    def handle(self, message: list[Any]) -> None:
        """:raises BrokenChannel: if it is malformed"""
        if _trace.is_on:
            _trace.show("server", "←", message)
        kind, number = message[0], message[1]
        if type(number) is not int or number < 0:
            raise BrokenChannel("the number of a message must be an integer from 0")
        try:
            if isinstance(message, Unreadable) and kind not in ANSWERS:
                self.calls.fail_unread(number, message.error)
            elif kind == CALL:
                self.calls.call(message)
            elif kind == EVAL:
                self.calls.evaluate(message)
            elif kind == CANCEL:
                self._cancel(number)
            elif kind == CREDIT:
                if (stream := self.streams.get(number)) is not None:
                    stream.grant(message[2])
            elif kind == BIND:
                self._lend(message[2])
            elif kind == UNBIND:
                self.serving.bound.unbind(self, message[2])
            elif kind in ANSWERS:
                self.take_answer(message)
            elif kind == FORGET:
                self.channel.sharing.forget(number)
            else:
                raise BrokenChannel(f"unknown kind of message: {kind}")
        except (BrokenChannel, RecursionError):
            raise
        except Exception as error:  # whatever the client sent, only its channel is closed
            raise BrokenChannel(f"a malformed message of kind {kind}: {error}") from error

    def take_answer(self, message: list[Any]) -> None:
        """About a function or a stream of the client; ignored if nobody waits for it any more."""
        kind, number = message[0], message[1]
        if kind in (RETURN, THROW):
            invocation = self.serving.bound.invocations.get(number)
            if invocation is None or invocation.session is not self:
                return
            if isinstance(message, Unreadable):
                invocation.fail(message.error)
            elif kind == RETURN:
                invocation.finish(message[2])
            else:
                invocation.fail(error_of(message[2]))
            return
        stream = self.incoming.get(number)
        if stream is None:
            return
        if isinstance(message, Unreadable):
            stream.fail(message.error)
            self.incoming.pop(number, None)
            return self.leave_soon(number)
        if kind == PUSH:
            stream.push(message[2])
            return
        self.incoming.pop(number, None)
        stream.fail(error_of(message[2]) if kind == FAIL else None)

    def fail(self, number: int, error: BaseException) -> None:
        self.calls.fail(number, error)

    def fail_safely(self, number: int, error: BaseException) -> None:
        """For a thread that need not know whether the client still exists."""
        try:
            self.calls.fail(number, error)
        except BrokenChannel:
            pass

    def _lend(self, name: object) -> None:
        if not isinstance(name, str) or len(name.encode()) > _NAME_BYTES_MAX:
            raise BrokenChannel(f"the name of a bound function must be text of at most {_NAME_BYTES_MAX} bytes")
        if name not in self.lent and len(self.lent) >= _REQUESTS_MAX:
            raise BrokenChannel(f"more than {_REQUESTS_MAX} functions are lent")
        self.serving.bound.bind(self, name)

    # ---- streams ----

    def begin_stream(self, number: int, items: Any, began: int) -> None:
        stream = (AsyncOutgoing if isinstance(items, AsyncIterator) else Outgoing)(self, number, items)
        self.streams[number] = stream
        self.channel.send([STREAM, number], began)
        stream.begin()

    def end_stream(self, number: int) -> None:
        self.streams.pop(number, None)

    def receive_stream(self, value: Any) -> Any:
        if type(value) is not StreamRef:
            return value
        if value.number in self.incoming or len(self.incoming) >= _REQUESTS_MAX:
            raise BrokenChannel(
                f"stream {value.number} of the client is open already, or more than {_REQUESTS_MAX} are"
            )
        stream = self.incoming[value.number] = Incoming(self, value.number)
        return stream

    def leave_soon(self, number: int) -> None:
        """Nobody reads this stream of the client any more. From anywhere."""
        self.channel.left.append(number)
        self.serving.wake()

    # ---- interrupts ----

    def on_interrupts(self) -> None:
        """``server.wanted`` has new numbers. Requests that do not need the serving thread end at once, because that
        thread may be busy for long.
        """
        server = self.channel.server
        for number, task in list(self.calls.tasks.items()):
            if server.is_gone or number in server.wanted:
                task.cancel()

    def settle_interrupts(self) -> bool:
        """Ends requests that must end and do not run, and forgets those that have ended. Runs in the serving thread,
        between two messages, when a request has not started, or runs, or is in a list here. True if it changed
        anything.
        """
        is_any = False
        server = self.channel.server
        running = server.running()
        for number in list(server.wanted):
            if self.calls.early.pop(number, None) is not None:
                self.calls.refuse(number)
            elif number in running or number in self.calls.tasks or number > server.last:
                continue
            elif (stream := self.streams.get(number)) is not None:
                stream.interrupt()
            server.wanted.discard(number)
            is_any = True
        return is_any

    def _cancel(self, number: int) -> None:
        """The client does not want the rest of a stream, or an answer."""
        task = self.calls.tasks.get(number)
        if task is not None:
            task.cancel()
        stream = self.streams.pop(number, None)
        if stream is not None and stream.close():
            self.channel.send([END, number])

    # ---- the end ----

    def end(self, cause: BaseException | None) -> None:
        """The channel is closed, by its client or by an error here. All requests of the client end, except code that
        runs in this very thread, which is interrupted when control returns to it.
        """
        channel = self.channel
        if cause is not None:
            channel.end(ENDED_BROKEN if isinstance(cause, (BrokenChannel, DecodeError)) else ENDED_FAULT)
        channel.server.is_gone = True
        self.calls.early.clear()
        for task in list(self.calls.tasks.values()):
            task.cancel()
        for number in list(self.streams):
            stream = self.streams.pop(number, None)
            if stream is not None:
                stream.close()
        for number in list(self.incoming):
            incoming = self.incoming.pop(number, None)
            if incoming is not None:
                incoming.fail(ConnectionError("the client whose stream this is is gone"))
        self.serving.bound.forget(self)
        channel.close()
        if self._on_end is not None:
            self._on_end()
        if cause is not None and not isinstance(cause, (BrokenChannel, DecodeError)):
            traceback.print_exception(cause)
