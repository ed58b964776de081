"""Memory that a client maps instead of getting a copy."""

from __future__ import annotations

import fcntl
import mmap
import os
import sys
from typing import Any

_F_ADD_SEALS, _F_GET_SEALS = 1033, 1034
_SEALS = 0x0001 | 0x0002 | 0x0004  # no more seals, no shrinking, no growing
#: RFC 8746 tags of the formats that memoryviews and NumPy share.
_TAGS = {"B": 64, "H": 69, "I": 70, "L": 71, "Q": 71, "b": 72, "h": 77, "i": 78, "l": 79, "q": 79, "e": 84, "f": 85, "d": 86}


class Segment(mmap.mmap):
    """A sealed memfd and its map. The descriptor lives as long as somebody here looks into it."""

    descriptor: int
    address: int

    def __del__(self) -> None:
        os.close(self.descriptor)


def shared(nbytes: int) -> memoryview:
    """Zeroed memory of so many bytes that crosses to a client without a copy when it, or an array over it, is returned.

    With NumPy: ``numpy.frombuffer(ipcctl.shared(8 * n)).reshape(…)``. Who gets it shares it: what is written later is seen.

    :raises ValueError: if ``nbytes`` is not positive
    """
    import ctypes

    if nbytes <= 0:
        raise ValueError(f"shared: {nbytes} is no number of bytes")
    descriptor = os.memfd_create("ipcctl-shared", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, nbytes)
    fcntl.fcntl(descriptor, _F_ADD_SEALS, _SEALS)
    segment = Segment(descriptor, nbytes)
    segment.descriptor = descriptor
    segment.address = ctypes.addressof(ctypes.c_char.from_buffer(segment))
    return memoryview(segment)


def describe(value: Any) -> tuple[Segment, list[Any]] | None:
    """Of a view or array over a segment, what a client needs to map it: descriptor, offset, bytes, tag, shape."""
    numpy = sys.modules.get("numpy")
    if type(value) is memoryview:
        if not value.c_contiguous or not isinstance(value.obj, Segment) or value.format not in _TAGS or value.nbytes == 0:
            return None
        import ctypes

        segment = value.obj
        address = ctypes.addressof(ctypes.c_char.from_buffer(value.cast("B")))
        return segment, _form(segment, address, value.nbytes, _TAGS[value.format], list(value.shape or (value.nbytes,)))
    if numpy is None or not isinstance(value, numpy.ndarray) or not value.flags.c_contiguous or value.size == 0:
        return None
    base: Any = value
    while isinstance(base, numpy.ndarray):
        base = base.base
    owner = base.obj if type(base) is memoryview else base
    kind = value.dtype.char
    if not isinstance(owner, Segment) or kind not in _TAGS or value.dtype.byteorder == ">":
        return None
    address = value.__array_interface__["data"][0]
    return owner, _form(owner, address, value.nbytes, _TAGS[kind], list(value.shape))


def _form(segment: Segment, address: int, nbytes: int, tag: int, shape: list[int]) -> list[Any]:
    return [segment.descriptor, address - segment.address, nbytes, tag, shape]
