"""Memory that both sides share instead of copying: sealed memfds, handed over by descriptor once per channel."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import socket
import struct
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable

from . import _types
from ._contract import SEGMENTS_MAX
from ._types import BrokenChannel

TYPE_CHECKING = False  # as typing has it, which takes long to load
if TYPE_CHECKING:
    from typing import Any

#: About a descriptor, as it travels in a message.
INT_BYTES = 4
_F_ADD_SEALS, _F_GET_SEALS = 1033, 1034
_SEALS = 0x0001 | 0x0002 | 0x0004  # no more seals, no shrinking, no growing
_SEAL_SHRINK = 0x0002
#: RFC 8746 tags of the formats that memoryviews and NumPy share.
_TAGS = {
    "B": 64,
    "H": 69,
    "I": 70,
    "L": 71,
    "Q": 71,
    "b": 72,
    "h": 77,
    "i": 78,
    "l": 79,
    "q": 79,
    "e": 84,
    "f": 85,
    "d": 86,
}


def descriptors_of(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """What came along with a message."""
    rights = [content for level, kind, content in ancillary if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)]
    return [fd for content in rights for fd in memoryview(content[: len(content) // INT_BYTES * INT_BYTES]).cast("i")]


class _Here(threading.local):
    """Whose message this thread encodes or decodes."""

    channel: Any = None


here = _Here()


class Segment(mmap.mmap):
    """A sealed memfd and its map. The descriptor lives as long as something here uses it."""

    descriptor: int
    address: int

    def __del__(self) -> None:
        os.close(self.descriptor)


def _segment(descriptor: int, nbytes: int) -> Segment:
    import ctypes

    segment = Segment(descriptor, nbytes)
    segment.descriptor = descriptor
    segment.address = ctypes.addressof(ctypes.c_char.from_buffer(segment))
    _types.share = _share  # from now on there is something to look for
    return segment


def shared(nbytes: int) -> memoryview:
    """Zeroed memory of this size that is sent to a client without a copy, itself or as an array over it.

    With NumPy: ``numpy.frombuffer(ipcctl.shared(8 * n)).reshape(…)``. Its receiver shares it and sees later writes.
    :raises ValueError: if ``nbytes`` is not positive
    :raises PermissionError: if the worker's policy limits its memory, because shared memory would not count
    :raises OSError: if no descriptor or memory is left
    """
    if nbytes <= 0:
        raise ValueError(f"shared: {nbytes} is not a number of bytes")
    try:
        descriptor = os.memfd_create("ipcctl-shared", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except PermissionError as error:
        raise PermissionError(
            error.errno,
            "shared: the policy of this worker limits its memory (limits.memory), and shared memory would not be counted; "
            "send the array itself, which is copied, or use memory that a client gets from ipcctl's shared() and passes as an argument",
        ) from None
    try:
        os.ftruncate(descriptor, nbytes)
        fcntl.fcntl(descriptor, _F_ADD_SEALS, _SEALS)
        return memoryview(_segment(descriptor, nbytes))
    except BaseException:
        os.close(descriptor)
        raise


class ArrowTable:
    """An Arrow table as IPC stream, if pyarrow is not imported: ``pyarrow.ipc.open_stream(table.ipc).read_all()``."""

    def __init__(self, ipc: Any) -> None:
        self.ipc = ipc


def _lower_arrow(table: Any, pyarrow: Any) -> tuple[int, list[Any]]:
    """Written once, into memory that the client maps."""
    counter = pyarrow.MockOutputStream()
    with pyarrow.ipc.new_stream(counter, table.schema) as writer:
        writer.write(table)
    memory = shared(counter.size())
    with pyarrow.ipc.new_stream(pyarrow.FixedSizeBufferWriter(pyarrow.py_buffer(memory)), table.schema) as writer:
        writer.write(table)
    return 27, ["ipcctl.Arrow", memory]


def _revive_arrow(ipc: Any) -> Any:
    pyarrow = sys.modules.get("pyarrow")
    if pyarrow is None or not hasattr(pyarrow, "ipc"):
        return ArrowTable(ipc)
    try:
        return pyarrow.ipc.open_stream(pyarrow.py_buffer(ipc)).read_all()
    except pyarrow.ArrowException as error:
        raise _types.Refused(f"a malformed Arrow table: {error}") from None


def _share(value: Any) -> list[Any] | None:
    """What the client needs to find a view or an array in a segment; None if it cannot be handed over."""
    channel: Any = here.channel
    found = None if channel is None else _place(value)
    if found is None:
        return None
    segment, address, nbytes, tag, shape = found
    number = channel.sharing.lend(segment)
    return None if number is None else [number, address - segment.address, nbytes, tag, shape]


def _borrow(form: Any) -> Any:
    channel: Any = here.channel
    if channel is None:
        raise _types.Refused("shared memory outside of a channel")
    return channel.sharing.borrow(form)


_types.borrow, _types.lower_arrow, _types.revive_arrow = _borrow, _lower_arrow, _revive_arrow


def is_shared(value: Any) -> bool:
    """Whether a view or an array is handed over instead of copied."""
    return (type(value) is memoryview or hasattr(value, "__array_interface__")) and _place(value) is not None


def _place(value: Any) -> tuple[Segment, int, int, int, list[int]] | None:
    """Segment, address, bytes, tag and shape of a contiguous view or array that lies in a segment."""
    if type(value) is memoryview:
        if (
            not value.c_contiguous
            or not isinstance(value.obj, Segment)
            or value.format not in _TAGS
            or value.nbytes == 0
        ):
            return None
        import ctypes

        address = ctypes.addressof(ctypes.c_char.from_buffer(value.cast("B")))
        return value.obj, address, value.nbytes, _TAGS[value.format], list(value.shape or (value.nbytes,))
    if hasattr(value, "mask"):
        return None
    kind = sys.modules["numpy"].ndarray
    value = base = kind.view(value, kind)  # a subclass may say anything of itself
    if not value.flags.c_contiguous or value.size == 0 or value.dtype.char not in _TAGS or value.dtype.byteorder == ">":
        return None
    while isinstance(base, kind):
        base = base.base
    owner = base.obj if type(base) is memoryview else base
    if not isinstance(owner, Segment):
        return None
    return owner, value.__array_interface__["data"][0], value.nbytes, _TAGS[value.dtype.char], list(value.shape)


class Sharing:
    """The segments of one channel: those handed out, and those received. Descriptors travel on a socket of their own,
    ahead of the message that names them.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        sock.setblocking(False)
        self._lent: dict[int, tuple[int, weakref.ref[Segment]]] = {}
        #: Or why there is no memory for it here, for messages that refer to it.
        self._borrowed: dict[int, Segment | _types.Unheld] = {}
        #: Released before their descriptor arrived: the message that named them could not be read to its end.
        self._missed: set[int] = set()
        self._newest = 0
        self._next = 1
        #: Numbers of segments that were released here, for the client to release.
        self.forgotten: deque[int] = deque()
        #: Called for each of them when its last user here releases it.
        self.on_forgotten: Callable[[], None] = lambda: None

    def hand_over(self, descriptor: int) -> None:
        """Ahead of a message that says what it is. :raises OSError:"""
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("@i", descriptor))
        self._socket.sendmsg((bytes(4),), (rights,), socket.MSG_NOSIGNAL)

    def lend(self, segment: Segment) -> int | None:
        """Its number on this channel; None if it cannot be shared now and must be copied."""
        key = id(segment)
        known = self._lent.get(key)
        if known is not None:
            return known[0]
        number, self._next = self._next, self._next + 1
        try:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("@i", segment.descriptor))
            self._socket.sendmsg((struct.pack("<I", number),), (rights,), socket.MSG_NOSIGNAL)
        except OSError:
            return None  # the queue is full, or too many descriptors are in transit
        self._lent[key] = number, weakref.ref(segment, lambda _: self._forget(key))
        return number

    def _forget(self, key: int) -> None:
        known = self._lent.pop(key, None)
        if known is not None:
            self.forgotten.append(known[0])
            self.on_forgotten()

    def borrow(self, form: Any) -> Any:
        """The view or array that the client means.
        :raises BrokenChannel: if it is not as large, or not as safe, as described
        :raises Unheld: if this process has no memory for it
        """
        if type(form) is not list or len(form) != 5 or type(form[4]) is not list:
            raise BrokenChannel("a malformed description of shared memory")
        number, offset, nbytes, tag, shape = form
        if not all(type(one) is int and one >= 0 for one in (number, offset, nbytes, tag, *shape)):
            raise BrokenChannel("a malformed description of shared memory")
        while number not in self._borrowed:
            self._receive()
        segment = self._borrowed[number]
        if isinstance(segment, _types.Unheld):
            raise segment.with_traceback(None)
        if tag not in _types.TYPED_TAGS or offset + nbytes > len(segment):
            raise BrokenChannel("shared memory that is smaller than described")
        view = memoryview(segment)[offset : offset + nbytes]
        try:
            return _types.view_array(shape, tag, view)
        except _types.Refused as error:
            raise BrokenChannel(str(error)) from None

    def copy(self, form: Any, place: Any) -> bytes:
        """Of bytes that the client means; it may write anew there then.

        :param place: of the byte that tells it so; None for memory that it writes once
        :raises BrokenChannel, Unheld: as :meth:`borrow`
        """
        data = bytes(self.borrow(form))
        if place is not None:
            segment: Segment = self._borrowed[form[0]]  # type: ignore[assignment]  # borrow() would have raised
            if type(place) is not int or not 0 <= place < len(segment):
                raise BrokenChannel("a malformed description of shared memory")
            segment[place] = 0
        return data

    def take_over(self, number: int, on_gone: Callable[[], None]) -> memoryview:
        """Memory that is this process's alone from now on, mapped as long as a view of it is there.

        :param on_gone: called when it is not, by whatever thread; it must not wait for anything
        :raises BrokenChannel: if it was not handed over, or is not sealed
        :raises Unheld: if this process has no memory for it
        """
        while number not in self._borrowed:
            self._receive()
        segment = self._borrowed.pop(number)
        if isinstance(segment, _types.Unheld):
            raise segment
        weakref.finalize(segment, on_gone).atexit = False
        return memoryview(segment)

    def _receive(self) -> None:
        try:
            data, ancillary, _, _ = self._socket.recvmsg(8, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
        except OSError:
            raise BrokenChannel("shared memory that was not handed over") from None
        fds = descriptors_of(ancillary)
        if len(data) != 4 or len(fds) != 1 or len(self._borrowed) >= SEGMENTS_MAX:
            for fd in fds:
                os.close(fd)
            many = len(self._borrowed) >= SEGMENTS_MAX
            raise BrokenChannel(
                f"more than {SEGMENTS_MAX} segments" if many else "a segment that is handed over wrongly"
            )
        try:
            if fcntl.fcntl(fds[0], _F_GET_SEALS) & _SEAL_SHRINK == 0:
                raise BrokenChannel("shared memory that is not sealed, so it could be truncated")
            (number,) = struct.unpack("<I", data)
            self._newest = max(self._newest, number)
            if number in self._missed:
                self._missed.discard(number)
                return os.close(fds[0])
            self._borrowed[number] = self._map(fds[0], os.fstat(fds[0]).st_size)
        except (OSError, ValueError, BrokenChannel) as error:
            os.close(fds[0])
            raise BrokenChannel(f"invalid shared memory: {error}") from None

    @staticmethod
    def _map(descriptor: int, nbytes: int) -> Segment | _types.Unheld:
        try:
            return _segment(descriptor, nbytes)
        except OSError as error:
            # 0: some Pythons lose the number, as they free the object before they look at it.
            if error.errno not in (0, errno.ENOMEM, errno.EAGAIN):
                raise
            os.close(descriptor)
            return _types.Unheld(
                f"shared memory of {nbytes} bytes has no room in this worker, whose address space may be limited; share it in several parts"
            )

    def forget(self, number: int) -> None:
        """The client releases it; views into it here keep it mapped."""
        if self._borrowed.pop(number, None) is None and number > self._newest:
            self._missed.add(number)

    def close(self) -> None:
        self._borrowed.clear()
        self._lent.clear()
        self._socket.close()
