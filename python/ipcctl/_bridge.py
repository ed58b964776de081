"""Serves a client over a stream of bytes. The server knows only channels: this module opens one whose client end is in
this process, and two threads carry messages between it and the stream.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

from ._channel import first_two
from ._backend import BrokenChannel, EncodeError, dumps, loads
from ._contract import SEGMENT_VERSION
from ._contract import TO_CLIENT_END as END
from ._contract import TO_CLIENT_ERROR as ERROR
from ._contract import TO_CLIENT_INVOKE as INVOKE
from ._contract import TO_CLIENT_ITEM as ITEM
from ._contract import TO_CLIENT_RESULT as RESULT
from ._contract import TO_CLIENT_STREAM as STREAM
from ._contract import TO_WORKER_CANCEL as CANCEL
from ._contract import TO_WORKER_THROW as THROW
from ._end import End
from ._errors import record_of
from ._transports import Frames, Lines
from ._types import DecodeError, Unheld

TYPE_CHECKING = False  # as typing has it, which takes long to load
if TYPE_CHECKING:
    from typing import Any


class Bridge:
    """One client. :attr:`end` has the half for the server."""

    def __init__(self, transport: Frames | Lines, on_over: Callable[[], None]) -> None:
        self._transport = transport
        transport.role = "server"
        self.end = End(SEGMENT_VERSION)
        self.end.sharing.close()  # values in shared memory are copied: the other side cannot map that
        self._on_over = on_over
        #: Streams that are being read: the first CANCEL of one only ends the reading.
        self._streams: set[int] = set()
        self._is_over = False
        self._lock = threading.Lock()

    @property
    def is_over(self) -> bool:
        return self._is_over

    def begin(self) -> None:
        for work in (self._carry_in, self._carry_out):
            threading.Thread(target=self._guarded, args=(work,), daemon=True, name="ipcctl-transport").start()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BrokenChannel:
            pass
        finally:
            self.close()

    def close(self) -> None:
        with self._lock:
            if self._is_over:
                return
            self._is_over = True
        self.end.close()
        self._transport.close()
        self._on_over()

    def _carry_in(self) -> None:
        while True:
            data = self._transport.read()
            if data is None:
                continue
            number = _cancelled(data)
            if number is not None and number not in self._streams:
                self._interrupt(number)
            else:
                self._streams.discard(-1 if number is None else number)
            self.end.send_bytes(data)

    def _interrupt(self, number: int) -> None:
        self.end.want_ended(number)
        main = threading.main_thread().ident
        if main is not None and signal.getsignal(signal.SIGURG) not in (signal.SIG_DFL, signal.SIG_IGN, None):
            signal.pthread_kill(main, signal.SIGURG)  # code that computes does not check by itself

    def _carry_out(self) -> None:
        while True:
            data = self.end.receive_bytes(None)
            if data is None:
                continue
            kind, number = _head(data)
            if kind == STREAM:
                self._streams.add(number)
            elif kind in (END, ERROR):
                self._streams.discard(number)
            try:
                self._transport.write(data)
            except EncodeError as error:
                self._refuse(kind, number, error)

    def _refuse(self, kind: int, number: int, error: EncodeError) -> None:
        """A value that cannot be sent fails only the request that it belongs to."""
        if kind == INVOKE:
            return self.end.send([THROW, number, record_of(error)])
        if kind not in (RESULT, ITEM):
            raise BrokenChannel(f"a message of kind {kind} cannot be sent: {error}")
        self._transport.write(dumps([ERROR, number, record_of(error)]))
        if kind == ITEM:
            self._streams.discard(number)
            self.end.send([CANCEL, number])


def _head(data: bytes) -> tuple[int, int]:
    """Kind and number of a message of this process, of any size."""
    kind, number = loads(b"\x82" + first_two(data))
    return kind, number


def _cancelled(data: bytes) -> int | None:
    """The number in a CANCEL, which is short."""
    if len(data) > 16 or data[1:2] != bytes((CANCEL,)):
        return None
    try:
        message: Any = loads(data)
    except (DecodeError, Unheld):
        return None
    is_cancel = type(message) is list and len(message) == 2 and message[0] == CANCEL and type(message[1]) is int
    return message[1] if is_cancel else None
