"""Messages that are too long for one frame of a ring: they cross in parts, whose first byte says if more follow."""

from __future__ import annotations

from collections.abc import Iterator

from . import _contract
from ._contract import MESSAGE_BYTES_MAX
from ._types import BrokenChannel

_MORE, _LAST = _contract.PART_MORE, _contract.PART_LAST


def framed(message: bytes, most: int) -> Iterator[bytes]:
    """What is put into the ring: frames of at most so many bytes."""
    if len(message) <= most:
        yield message
        return
    step = most - 1
    for at in range(0, len(message), step):
        yield bytes((_LAST if at + step >= len(message) else _MORE,)) + message[at : at + step]


class Parts:
    """Those that have arrived of one message. They cost their bytes, however many there are."""

    def __init__(self) -> None:
        self._held = bytearray()

    def whole(self, frame: bytes) -> bytes | None:
        """The message that this frame completes, if it does. :raises BrokenChannel: if it is too long"""
        if not frame or not 0 < frame[0] <= _LAST:
            return frame
        self._held += memoryview(frame)[1:]
        if len(self._held) > MESSAGE_BYTES_MAX:
            raise BrokenChannel(f"a message of more than {MESSAGE_BYTES_MAX} bytes")
        if frame[0] != _LAST:
            return None
        message, self._held = bytes(self._held), bytearray()
        return message
