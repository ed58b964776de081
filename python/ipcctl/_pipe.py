"""A pair of rings for raw bytes between a client and this worker: the fastest way for many small messages."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator

from ._channel import Segment
from ._backend import BrokenChannel
from ._shared import Sharing

TYPE_CHECKING = False  # as typing has it, which takes long to load
if TYPE_CHECKING:
    from typing import Any

#: How long to busy-poll for the next message before sleeping, in microseconds.
_SPIN_US = 60
#: How often a sender that waits for room looks again before it begins to sleep between looks.
_EAGER_LOOKS = 200
_LOOK_SECONDS = 0.0002


class Pipe:
    """Messages of bytes in both directions, in order. One thread may send while another one receives.

    Bytes arrive as they were sent: nothing is encoded, and nothing is answered.
    """

    def __init__(self, segment: Segment, is_sharing: bool = False) -> None:
        """:param is_sharing: memory is handed over beside its messages"""
        self.name = segment.name
        self._rx, self._tx, self._socket, self._ring = segment.rx, segment.tx, segment.socket, segment.ring
        self.sharing: Sharing | None = Sharing(segment.descriptors) if is_sharing else None
        if self.sharing is None:
            segment.descriptors.close()
        self._is_over = False
        #: Bytes of the longest message.
        self.message_bytes_max = self._tx.capacity - 4

    @property
    def is_open(self) -> bool:
        """Neither side has closed it."""
        return not (self._is_over or self._is_hung_up())

    def try_send(self, data: Any) -> bool:
        """Sends bytes, or anything with a buffer, if there is room now.

        :raises BrokenPipeError: if the pipe is closed
        :raises ValueError: if it never fits (``message_bytes_max``)
        """
        if self._is_over:
            raise BrokenPipeError(f"pipe {self.name!r} is closed")
        return bool(self._tx.put(self._socket, data))

    def rouse(self) -> None:
        """A message is about to follow: if the client sleeps, it wakes up while that is being made. Only advice."""
        if not self._is_over:
            self._tx.rouse(self._socket)

    def send(self, data: Any, timeout: float | None = None) -> None:
        """The same, waiting for room.

        :param timeout: seconds
        :raises TimeoutError: if there was none within the time
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        looks = 0
        while not self.try_send(data):
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"pipe {self.name!r}: the client read nothing for {timeout} s")
            looks += 1
            time.sleep(0 if looks < _EAGER_LOOKS else _LOOK_SECONDS)
            if looks % _EAGER_LOOKS == 0 and self._is_hung_up():
                self._is_over = True

    def try_receive(self) -> bytes | None:
        """The next message, if there is one."""
        data: bytes | None = self._rx.try_receive()
        if data is not None and self._rx.needs_bell():
            self._ring()
        return data

    def receive(self, timeout: float | None = None) -> bytes | None:
        """The next message; None at the end.

        :param timeout: seconds
        :raises TimeoutError: if none came within the time
        :raises BrokenChannel: if the client broke the rules of the channel
        """
        data: bytes | bool | None = self._rx.get(self._socket, _SPIN_US, timeout)
        if data is None:
            raise TimeoutError(f"pipe {self.name!r}: no message came for {timeout} s")
        if isinstance(data, bool):
            self._is_over = True
            return None
        return data

    @property
    def is_over(self) -> bool:
        """Its end has been noticed, which a look at ``is_open`` asks the kernel for."""
        return self._is_over

    def fileno(self) -> int:
        """Of the socket whose bytes are bells; -1 once it is closed."""
        return self._socket.fileno()

    def take_or_arm(self) -> bytes | None:
        """For an event loop: the next message; or None, and the client rings when one comes.

        :raises BrokenChannel: if the client broke the rules of the channel
        """
        self._take_bells()
        self._rx.cancel_sleep()
        while True:
            data = self.try_receive()
            if data is not None or self._is_over or self._rx.prepare_sleep():
                return data

    def _take_bells(self) -> None:
        """Only for the receiver; also notices the end."""
        try:
            self._is_over = self._socket.recv(64) == b"" or self._is_over
        except BlockingIOError:
            pass
        except OSError:
            self._is_over = True

    def _is_hung_up(self) -> bool:
        """Whether the client is gone, without taking a bell from another thread."""
        fd = self._socket.fileno()
        if fd < 0:
            return True
        life = select.poll()  # one that two threads use at once raises an error
        life.register(fd, 0)
        return bool(life.poll(0))

    def __iter__(self) -> Iterator[bytes]:
        """Messages until the end."""
        receive = self._rx.try_receive
        taken = 0
        while True:
            data = receive()
            if data is None:
                data = self.receive()
                if data is None:
                    return
            else:
                taken += 1
                if taken & 63 == 0 and self._rx.needs_bell():
                    self._ring()
            yield data

    def close(self) -> None:
        """Closes it for both sides; what the client has sent already can still be received."""
        self._is_over = True
        self._socket.close()
        if self.sharing is not None:
            self.sharing.close()

    def __enter__(self) -> Pipe:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Pipe {self.name!r}{' closed' if self._is_over else ''}>"


__all__ = ["BrokenChannel", "Pipe"]
