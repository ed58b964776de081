"""The data plane's lowest layer in pure Python.

It does what the C extension does, byte for byte and error for error.

For the rare forms, in which the two could differ, both call `_types`.
"""

from __future__ import annotations

import math
import select
import socket
import struct
import threading
import time
from collections.abc import Callable

from . import _contract
from ._contract import VALUE_DEPTH_MAX as MAX_DEPTH
from ._busy_poll import JOIN, PART, SLEEP, LoadMeter, BusyPoll, core, join_core, leave_core
from ._types import (
    TAG_CONTENT,
    TYPED_TAGS,
    BrokenChannel,
    DecodeError,
    EncodeError,
    Interrupted,
    Refused,
    big_bytes,
    failure,
    lower,
    revive,
    revive_array,
    undefined,
)

TYPE_CHECKING = False  # as typing has it, which takes long to load
if TYPE_CHECKING:
    from typing import Any, Literal, NoReturn, TypeVar

__all__ = [
    "BrokenChannel",
    "DecodeError",
    "EncodeError",
    "Server",
    "SharedRingBuffer",
    "dumps",
    "loads",
    "turn",
    "undefined",
    "waiting",
]

_SIZE_MAX = (1 << 63) - 1
_pack_float = struct.Struct(">Bd").pack
_pack_1 = struct.Struct(">BB").pack
_pack_2 = struct.Struct(">BH").pack
_pack_4 = struct.Struct(">BI").pack
_pack_8 = struct.Struct(">BQ").pack
_U32 = struct.Struct("<I")


class _Trouble(Exception):
    """An error while it is collected: its place is noted from the inside out."""

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        self.detail = detail
        self.parts: list[Any] = []


# --- encoding ---


def _head(major: int, n: int) -> bytes:
    major <<= 5
    if n < 24:
        return bytes((major | n,))
    if n <= 0xFF:
        return _pack_1(major | 24, n)
    if n <= 0xFFFF:
        return _pack_2(major | 25, n)
    if n <= 0xFFFFFFFF:
        return _pack_4(major | 26, n)
    return _pack_8(major | 27, n)


_CHANGED = "changed while it was sent"
#: Each level is usually lowered once; a value that is lowered to itself would overflow the stack.
_FORMS_MAX = 2 * MAX_DEPTH
#: As in cbor.c: hashes of numbers are known, and keys that have one hash are compared with each other.
_COLLISIONS_MAX = 64


class _Encoder:
    def __init__(self, limit: int) -> None:
        self.out = bytearray()
        self.limit = limit
        self.ancestors: list[int] = []
        self.forms = 0  # nested lowerings: a lowered form may have to be lowered again

    def put(self, head: bytes, payload: Any = b"") -> None:
        if len(head) + len(payload) > self.limit - len(self.out):
            raise _Trouble("SIZE", f"more than {self.limit} bytes")
        self.out += head
        if payload:
            self.out += payload

    def text(self, text: str) -> None:
        try:
            utf8 = str.encode(text)
        except UnicodeEncodeError:
            raise _Trouble("TYPE", "cannot send a lone surrogate in a str") from None
        self.put(_head(3, len(utf8)), utf8)

    def enter(self, identity: Any) -> None:
        if id(identity) in self.ancestors:
            raise _Trouble("CYCLE", "cannot send a container that contains itself")
        if len(self.ancestors) == MAX_DEPTH:
            raise _Trouble("DEPTH", f"more than {MAX_DEPTH} levels")
        self.ancestors.append(id(identity))

    def value(self, value: Any, identity: Any) -> None:
        """`identity` detects cycles: the user's object, if `value` is a lowered form of it."""
        kind = type(value)
        if kind is str:
            self.text(value)
        elif kind is int:
            self.integer(value)
        elif value is None:
            self.put(b"\xf6")
        elif kind is bool:
            self.put(b"\xf5" if value else b"\xf4")
        elif value is undefined:
            self.put(b"\xf7")
        elif kind is float:
            self.put(_pack_float(0xFB, value))
        elif kind is list or kind is tuple:
            self.array(value, identity)
        elif kind is dict:
            self.map(value, identity)
        elif kind is bytes or kind is bytearray:
            self.put(_head(2, len(value)), value)
        elif kind is set or kind is frozenset:
            self.set(value, identity)
        else:
            self.lowered(value, identity)

    def integer(self, number: int) -> None:
        major = 0
        if number < 0:
            major, number = 1, ~number
        if number <= 0xFFFFFFFFFFFFFFFF:
            self.put(_head(major, number))
        else:
            self.put(_head(6, 2 + major))
            raw = big_bytes(number)
            self.put(_head(2, len(raw)), raw)

    def array(self, items: Any, identity: Any) -> None:
        size = len(items)
        self.enter(identity)
        self.put(_head(4, size))
        at = 0
        try:
            while at < size:
                try:
                    item = items[at]
                except IndexError:
                    at = size
                    break
                self.value(item, item)
                at += 1
        except _Trouble as trouble:
            trouble.parts.append(at)
            raise
        if len(items) != size:
            raise _Trouble("TYPE", _CHANGED)
        self.ancestors.pop()

    def map(self, items: dict[Any, Any], identity: Any) -> None:
        size = len(items)
        texts = all(isinstance(key, str) for key in items)
        self.enter(identity)
        if not texts:
            self.put(b"\xd9\x01\x03")
        self.put(_head(5, size))
        key: Any = None
        try:
            for key, value in items.items():
                try:
                    if texts:
                        self.text(key)
                    else:
                        self.value(key, key)
                    self.value(value, value)
                except _Trouble as trouble:
                    trouble.parts.append((key,))
                    raise
        except RuntimeError as error:
            raise _changed(error)
        if len(items) != size:
            raise _Trouble("TYPE", _CHANGED)
        self.ancestors.pop()

    def set(self, items: Any, identity: Any) -> None:
        size = len(items)
        self.enter(identity)
        self.put(b"\xd9\x01\x02")
        self.put(_head(4, size))
        at = 0
        try:
            for item in items:
                try:
                    self.value(item, item)
                except _Trouble as trouble:
                    trouble.parts.append(at)
                    raise
                at += 1
        except RuntimeError as error:
            raise _changed(error)
        if len(items) != size:
            raise _Trouble("TYPE", _CHANGED)
        self.ancestors.pop()

    def lowered(self, value: Any, identity: Any) -> None:
        if self.forms == _FORMS_MAX:
            raise _Trouble("DEPTH", f"more than {MAX_DEPTH} levels")
        try:
            tag, form = lower(value)
        except Refused as refused:
            raise _Trouble("TYPE", str(refused)) from None
        if tag is not None:
            self.put(_head(6, tag))
        if type(form) is memoryview:  # in a lowered form it stands for its bytes
            self.put(_head(2, form.nbytes), form)
        else:
            self.forms += 1
            self.value(form, identity)
            self.forms -= 1


def _changed(error: RuntimeError) -> Exception:
    """The message of a dict or set that changed during iteration; other RuntimeErrors are the user's."""
    return _Trouble("TYPE", _CHANGED) if "changed" in str(error) and "during iteration" in str(error) else error


def dumps(value: Any, size_max: int | None = None) -> bytes:
    """The value as CBOR. :raises EncodeError: if it has no form there"""
    if size_max is None:
        limit = _SIZE_MAX
    else:
        limit = size_max.__index__()
        if limit < 0:
            raise OverflowError("size_max must not be negative")
    encoder = _Encoder(limit)
    try:
        encoder.value(value, value)
    except _Trouble as trouble:
        error = failure(EncodeError, trouble.code, trouble.parts, trouble.detail)
    else:
        return bytes(encoder.out)
    raise error


# --- decoding ---


class _Decoder:
    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.end = len(data)
        self.at = 0
        self.depth = 0

    def truncated(self) -> NoReturn:
        raise _Trouble("MALFORMED", f"truncated at byte {self.end}")

    def head(self) -> tuple[int, int, int, int]:
        """Major type, additional information, argument, and its place."""
        at = self.at
        if at == self.end:
            self.truncated()
        first = self.data[at]
        self.at = at + 1
        info = first & 31
        if info < 24:
            return first >> 5, info, info, at
        if info > 27:
            raise _Trouble("MALFORMED", f"a reserved or indefinite length at byte {at}")
        stop = at + 1 + (1 << (info - 24))
        if stop > self.end:
            self.truncated()
        self.at = stop
        return first >> 5, info, int.from_bytes(self.data[at + 1 : stop], "big"), at

    def too_long(self, n: int, at: int) -> NoReturn:
        raise _Trouble("SIZE", f"a length of {n} at byte {at}, beyond the end of the data")

    def take(self, n: int, at: int) -> memoryview:
        start = self.at
        if n > self.end - start:
            self.too_long(n, at)
        self.at = start + n
        return self.data[start : start + n]

    def open(self, n: int, at: int, least: int) -> None:
        if self.depth == MAX_DEPTH:
            raise _Trouble("DEPTH", f"more than {MAX_DEPTH} levels")
        if n > (self.end - self.at) // least:
            self.too_long(n, at)
        self.depth += 1

    def value(self, keys: bool) -> Any:
        """`keys`: arrays become tuples and sets frozensets, because members of a set and keys must be hashable."""
        major, info, n, at = self.head()
        if major == 0:
            return n
        if major == 1:
            return ~n
        if major == 2:
            return bytes(self.take(n, at))
        if major == 3:
            return self.text(n, at)
        if major == 4:
            return self.array(n, at, keys)
        if major == 5:
            return self.map(n, at, False)
        if major == 6:
            return self.tagged(n, at, keys)
        if info == 20:
            return False
        if info == 21:
            return True
        if info == 22:
            return None
        if info == 23:
            return undefined
        if 25 <= info <= 27:
            raw = bytes(self.data[at + 1 : self.at])
            number = struct.unpack((">e", ">f", ">d")[info - 25], raw)[0]
            # The NaNs of the short forms have no payload worth carrying over.
            return math.nan if info < 27 and number != number else number
        raise _Trouble("MALFORMED", f"a reserved simple value at byte {at}")

    def text(self, n: int, at: int) -> str:
        raw = self.take(n, at)
        try:
            return str(raw, "utf-8")
        except UnicodeDecodeError:
            raise _Trouble("MALFORMED", f"invalid UTF-8 at byte {at}") from None

    def array(self, n: int, at: int, keys: bool) -> Any:
        self.open(n, at, 1)
        items: list[Any] = []
        try:
            for _ in range(n):
                items.append(self.value(keys))
        except _Trouble as trouble:
            trouble.parts.append(len(items))
            raise
        self.depth -= 1
        return tuple(items) if keys else items

    def map(self, n: int, at: int, any_key: bool) -> dict[Any, Any]:
        self.open(n, at, 2)
        items: dict[Any, Any] = {}
        crowd: dict[int, int] = {}
        for _ in range(n):
            if any_key:
                key = self.value(True)
                self.join(crowd, n, key)
            else:
                major, _info, length, where = self.head()
                if major != 3:
                    raise _Trouble("MALFORMED", f"a key that is not text at byte {where}")
                key = self.text(length, where)
            try:
                value = self.value(False)
            except _Trouble as trouble:
                trouble.parts.append((key,))
                raise
            try:
                items[key] = value
            except (TypeError, ValueError):
                self.unhashable()
        self.depth -= 1
        return items

    def set(self, n: int, at: int, keys: bool) -> Any:
        self.open(n, at, 1)
        items: set[Any] = set()
        crowd: dict[int, int] = {}
        for index in range(n):
            try:
                item = self.value(True)
                self.join(crowd, n, item)
                try:
                    items.add(item)
                except (TypeError, ValueError):
                    self.unhashable()
            except _Trouble as trouble:
                trouble.parts.append(index)
                raise
        self.depth -= 1
        return frozenset(items) if keys else items

    def join(self, crowd: dict[int, int], n: int, key: Any) -> None:
        """:param crowd: how many of the n keys have which hash"""
        if n <= _COLLISIONS_MAX or isinstance(key, str):
            return
        try:
            number = hash(key)
        except (TypeError, ValueError):
            self.unhashable()
        crowd[number] = crowd.get(number, 0) + 1
        if crowd[number] > _COLLISIONS_MAX:
            raise _Trouble("MALFORMED", f"more than {_COLLISIONS_MAX} keys with one hash")

    def unhashable(self) -> NoReturn:
        raise _Trouble("MALFORMED", "a key or an element of a set that Python cannot hash") from None

    def tagged(self, tag: int, at: int, keys: bool) -> Any:
        content = TAG_CONTENT.get(tag)
        if content is None:
            raise _Trouble("MALFORMED", f"unknown tag {tag} at byte {at}")
        if self.at == self.end:
            self.truncated()
        # Checked before going on: a chain of tags must not evade the limit on depth.
        major = self.data[self.at] >> 5
        if major not in (0, 1, 7) if content == 8 else major != content:
            self.misplaced(tag, at)
        inner: Any
        if tag >= 40 and tag != 1004:
            _major, _info, n, where = self.head()
            if tag == 258:
                return self.set(n, where, keys)
            if tag == 259:
                return self.map(n, where, True)
            if tag == 40:
                return self.nd(tag, at, n, where)
            inner = bytearray(self.take(n, where))
        else:
            inner = self.value(False)
        return self.revived(revive, tag, inner)

    def misplaced(self, tag: int, at: int) -> NoReturn:
        raise _Trouble("MALFORMED", f"tag {tag} on a value of the wrong type, at byte {at}")

    def revived(self, helper: Any, *args: Any) -> Any:
        try:
            return helper(*args)
        except Refused as refused:
            raise _Trouble("MALFORMED", str(refused)) from None

    def nd(self, tag: int, at: int, pair: int, where: int) -> Any:
        self.open(pair, where, 1)
        if pair != 2:
            self.misplaced(tag, at)
        major, _info, count, where = self.head()
        if major != 4:
            self.misplaced(tag, at)
        self.open(count, where, 1)
        shape = []
        for _ in range(count):
            major, _info, length, where = self.head()
            if major != 0:
                self.misplaced(tag, at)
            shape.append(length)
        major, _info, typed, typed_at = self.head()
        if major != 6 or typed not in TYPED_TAGS:
            self.misplaced(tag, at)
        major, _info, size, where = self.head()
        if major != 2:
            self.misplaced(typed, typed_at)
        raw = bytearray(self.take(size, where))
        self.depth -= 2
        return self.revived(revive_array, shape, typed, raw)


def loads(buffer: Any) -> Any:
    """The value of one CBOR item. :raises DecodeError: if it is not one"""
    with memoryview(buffer) as whole:
        if not whole.c_contiguous:
            raise BufferError("the buffer is not contiguous")
        # cast() does not accept a shape with a zero
        with memoryview(b"") if whole.nbytes == 0 else whole.cast("B") as data:
            decoder = _Decoder(data)
            try:
                value = decoder.value(False)
                if decoder.at != decoder.end:
                    raise _Trouble("MALFORMED", f"{decoder.end - decoder.at} bytes after the value")
                return value
            except _Trouble as trouble:
                error = failure(DecodeError, trouble.code, trouble.parts, trouble.detail)
            # Slices of data must not outlive it, but the frames of the error hold them.
            del decoder
            raise error


# --- rings ---

# Words of 4 bytes.
_HEAD, _TAIL, _CORE = _contract.RING_HEAD // 4, _contract.RING_TAIL // 4, _contract.RING_CPU // 4
_CONSUMER_SLEEPS, _PRODUCER_WAITS = _contract.RING_CONSUMER_SLEEPS // 4, _contract.RING_PRODUCER_WAITS // 4
_MASK = 0xFFFFFFFF
_ZEROS = bytes(8)
if TYPE_CHECKING:
    _Found = TypeVar("_Found")
#: One thread waits for all channels.
_busy_poll, _meter = BusyPoll(), LoadMeter()


class SharedRingBuffer:
    """One end of a byte ring in shared memory. Both ends start at `position`.

    The peer is not trusted: shared values are read once and checked; our own position is never read back.

    About the order of memory accesses: Python has no atomics. A word is read and written through a memoryview of "I",
    which CPython does with one 4-byte move, never torn. x86 keeps stores in order and loads in order, which is all that
    head and tail need. ARM keeps neither; the interpreter runs hundreds of instructions between two accesses, which
    makes a reordering improbable, not impossible: if that is not enough, use the C extension. For the words about
    sleeping, a store must be visible before a later load, which x86 does not guarantee either: taking a lock is a full
    barrier there. A sleeper should still wake now and then.
    """

    __slots__ = (
        "_broken",
        "_capacity",
        "_data",
        "_is_resting",
        "_lock",
        "_busy_poll",
        "_own",
        "_peer",
        "_producer",
        "_turn",
        "_waits",
        "_words",
    )

    def __init__(
        self,
        buffer: Any,
        control_offset: int,
        data_offset: int,
        capacity: int,
        is_producer: bool,
        position: int = 0,
    ) -> None:
        whole = memoryview(buffer)
        if whole.readonly:
            raise BufferError("Object is not writable.")
        whole = whole.cast("B")
        if not _contract.RING_CAPACITY_MIN <= capacity <= _contract.RING_CAPACITY_MAX or capacity & (capacity - 1):
            raise ValueError("capacity must be a power of two from 4096 to 2^30")
        if control_offset < 0 or control_offset % 64 or data_offset < 0 or data_offset % 8:
            raise ValueError("control_offset must be a multiple of 64, data_offset of 8")
        if control_offset > len(whole) - _contract.RING_CONTROL_BYTES or data_offset > len(whole) - capacity:
            raise ValueError("the ring ends beyond the buffer")
        if control_offset < data_offset + capacity and data_offset < control_offset + _contract.RING_CONTROL_BYTES:
            raise ValueError("the control block overlaps the data")
        if not 0 <= position <= _MASK or position % 8:
            raise ValueError("position must be a multiple of 8 below 2^32")
        self._words = whole[control_offset : control_offset + _contract.RING_CONTROL_BYTES].cast("I")
        self._data = whole[data_offset : data_offset + capacity]
        self._capacity = capacity
        self._producer = bool(is_producer)
        self._own = position
        # The producer assumes a full ring, so that the first send looks at the other position.
        self._peer = position - capacity & _MASK if is_producer else position
        self._broken = False
        self._is_resting = False
        #: If one thread waits for this ring alone.
        self._busy_poll = BusyPoll()
        self._waits = False
        self._lock = threading.Lock()
        self._turn = threading.Lock()  # one frame at a time, which the GIL ensures for the C extension

    @property
    def broken(self) -> bool:
        """Whether the other side broke the channel."""
        return self._broken

    @property
    def capacity(self) -> int:
        """Bytes of the ring."""
        return self._capacity

    @property
    def has_data(self) -> bool:
        """Whether there is a frame."""
        return self._words[_TAIL] != self._own

    @property
    def _peer_core(self) -> int:
        """The producer's core when it last sent, counted from one, as it says; 0 is unknown."""
        return self._words[_CORE]

    def _break(self, what: str) -> NoReturn:
        self._broken = True
        raise BrokenChannel(what)

    def _usable(self, producer: bool) -> None:
        if self._broken:
            self._break("the channel is broken")
        if self._producer is not producer:
            raise TypeError(f"only the {'producer' if producer else 'consumer'} can do this")

    def _fence(self) -> None:
        with self._lock:
            pass

    def _look(self) -> int:
        """Bytes in the ring, after a fresh look at the other side's position."""
        peer = self._words[_HEAD if self._producer else _TAIL]
        used = (self._own - peer if self._producer else peer - self._own) & _MASK
        if used > self._capacity or peer % 8:
            self._break("the other side wrote an impossible position")
        self._peer = peer
        return used

    def _copy_in(self, position: int, payload: Any) -> None:
        at = position & (self._capacity - 1)
        first = self._capacity - at
        if len(payload) <= first:
            self._data[at : at + len(payload)] = payload
        else:
            self._data[at:] = payload[:first]
            self._data[: len(payload) - first] = payload[first:]

    def try_send(self, payload: Any) -> bool:
        """Sends a frame. False if there is no room yet; the consumer is then asked to ring once there is."""
        self._usable(True)
        with memoryview(payload) as view:
            if not view.c_contiguous:
                raise BufferError("the payload is not contiguous")
            with memoryview(b"") if view.nbytes == 0 else view.cast("B") as flat:
                with self._turn:
                    return self._send(flat)

    def _send(self, payload: memoryview) -> bool:
        size, capacity = len(payload), self._capacity
        if size > capacity - 4:
            raise ValueError(f"{size} bytes never fit into a ring of {capacity}")
        frame = 4 + size + 7 & ~7
        if frame > capacity - (self._own - self._peer & _MASK) and frame > capacity - self._look():
            # Set before looking once more: either this look sees the room, or the consumer sees the flag.
            self._words[_PRODUCER_WAITS] = 1
            self._fence()
            self._waits = True
            if frame > capacity - self._look():
                return False
        if self._waits:
            self._words[_PRODUCER_WAITS] = 0
            self._waits = False
        # Positions are multiples of 8, so neither the length nor the last 8 bytes with their padding wrap.
        own, end = self._own, 4 + size
        self._copy_in(own, _U32.pack(size))
        self._copy_in(own + 4, payload)
        self._copy_in(own + end, _ZEROS[: frame - end])
        self._own = own + frame & _MASK
        self._words[_CORE] = core()
        self._words[_TAIL] = self._own
        return True

    def needs_bell(self) -> bool:
        """After a send or receive: whether the other side waits for a bell. Clears that flag."""
        self._usable(self._producer)
        word = _CONSUMER_SLEEPS if self._producer else _PRODUCER_WAITS
        self._fence()
        if self._words[word] == 0:
            return False
        # Not atomic, unlike in C: a flag set between the two steps is lost only if the other side set it after our
        # store to head or tail, and then its second look sees that store.
        self._words[word] = 0
        _busy_poll.bells += 1
        return True

    def try_receive(self) -> bytes | None:
        """The next frame, or None."""
        self._usable(False)
        with self._turn:
            return self._receive()

    def _receive(self) -> bytes | None:
        own = self._own
        used = self._peer - own & _MASK
        if used == 0:
            used = self._look()
            if used == 0:
                return None
        data, capacity = self._data, self._capacity
        at = own & (capacity - 1)
        size = _U32.unpack_from(data, at)[0]
        if size > used - 4:
            self._break("the other side wrote a frame longer than what is there")
        at = at + 4 & (capacity - 1)
        if at + size <= capacity:
            payload = bytes(data[at : at + size])
        else:
            payload = b"".join((data[at:], data[: size - (capacity - at)]))
        self._own = own + (4 + size + 7 & ~7) & _MASK
        self._words[_HEAD] = self._own
        return payload

    def receive_spin(self, microseconds: float) -> bytes | None:
        """The next frame, busy-polling for this many microseconds while other threads may run, or None."""
        span_ns = _nanoseconds(microseconds)
        payload = self.try_receive()
        deadline = time.monotonic_ns() + span_ns
        while payload is None and time.monotonic_ns() < deadline:
            time.sleep(0)  # releases the GIL
            payload = self.try_receive()
        return payload

    def look_out(self, microseconds: float) -> bytes | None:
        """The same if it pays. After None: sleep, by prepare_sleep()."""
        span_ns = _nanoseconds(microseconds)
        payload = self.try_receive()
        if payload is None:
            payload = _look_out(self._busy_poll, self.try_receive, span_ns)
        if payload is not None:
            self._busy_poll.taken += 1
            self._busy_poll.client = self._peer_core
        return payload

    def put(self, bell: socket.socket, payload: Any) -> bool:
        """try_send(), and a bell on the socket if the other side waits for one."""
        has_sent = self.try_send(payload)
        if has_sent:
            self._ring_if_needed(bell)
        return has_sent

    def rouse(self, bell: socket.socket) -> None:
        """Rings if the consumer sleeps, for a frame that is about to follow by put(). Does nothing where that was in
        vain lately: as always here, since Python takes longer to ring than to make the frame.
        """
        self._usable(True)

    def get(self, bell: socket.socket, microseconds: float, seconds: float | None) -> bytes | Literal[False] | None:
        """look_out(), then sleeps until the socket is rung: the next frame; None after so many seconds, unless they are
        None; False once the other side has closed it.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        is_over, is_late = bell.fileno() < 0, False
        while True:
            payload = self.look_out(0 if is_over else microseconds)
            if payload is not None:
                self._ring_if_needed(bell)
                return payload
            if is_over:
                return False
            if is_late:
                return None
            try:
                if not self.prepare_sleep():
                    continue
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                polled = select.poll()
                polled.register(bell, select.POLLIN)
                if not polled.poll(None if left is None else left * 1000):
                    is_late = True
                    continue
                is_over = bell.recv(64) == b""
            except BlockingIOError:
                pass
            except (OSError, ValueError):  # closed meanwhile
                is_over = True
            finally:
                self.cancel_sleep()

    def _ring_if_needed(self, bell: socket.socket) -> None:
        if not self.needs_bell():
            return
        try:
            bell.send(b"\x01", socket.MSG_NOSIGNAL)
        except OSError:
            pass  # full: it is rung already; closed: the reader notices the end

    def prepare_sleep(self) -> bool:
        """Announces that the consumer will wait for its bell; False if a frame has arrived meanwhile."""
        self._usable(False)
        self._words[_CONSUMER_SLEEPS] = 1
        self._fence()
        self._is_resting = self._look() == 0
        if not self._is_resting:
            self._words[_CONSUMER_SLEEPS] = 0
        return self._is_resting

    def cancel_sleep(self) -> None:
        """Takes prepare_sleep() back. Never raises for a broken channel, because it is called in "finally"."""
        if not self._broken:
            self._usable(False)
        if not self._producer:
            self._words[_CONSUMER_SLEEPS] = 0
        if self._is_resting:
            self._busy_poll.wake(time.monotonic_ns())
        self._is_resting = False


class _Frame:
    """A request whose code runs, on the stack of the serving thread."""

    __slots__ = ("due", "gap", "is_in_user", "is_sent", "number", "outer", "server", "thread")

    def __init__(self, server: Server, number: int, outer: _Frame | None) -> None:
        self.server, self.number, self.outer = server, number, outer
        self.thread = threading.get_ident()
        #: When it may be interrupted again: code that swallowed the first exception gets another one later.
        self.due, self.gap = 0.0, _AGAIN_SECONDS
        #: An exception may be raised now: the user's code runs, not the code that serves it.
        self.is_in_user = False
        #: An exception was sent to the thread, but not raised yet.
        self.is_sent = False

    @property
    def is_due(self) -> bool:
        return self.server._is_wanted(self.number) and time.monotonic() >= self.due

    def postpone(self) -> None:
        self.due = time.monotonic() + self.gap
        self.gap = min(2 * self.gap, _AGAIN_SECONDS_MAX)

    def interrupt(self) -> NoReturn:
        self.postpone()
        raise Interrupted

    def leave_user(self) -> None:
        """From here on nothing is raised, and nothing is pending. Without a lock, which an exception right after
        another would leave held.
        """
        self.is_in_user = False
        while _sending:  # another thread has seen that an exception may be raised, and sends it
            time.sleep(0)
        self.take_back()

    def take_back(self) -> None:
        """An exception that was sent but not raised does not count: it is due again."""
        while self.is_sent:
            try:
                _send_exception(self.thread, None)
                if self.is_sent:
                    self.is_sent, self.due = False, 0.0
            except Interrupted:
                pass  # it came at the last moment; there is no other


_AGAIN_SECONDS, _AGAIN_SECONDS_MAX = 1.0, 60.0
#: The innermost request whose code runs.
_innermost: _Frame | None = None
#: Not 0 while another thread checks whether it may send an exception, and sends it.
_sending = 0


def _own_frame() -> _Frame | None:
    frame = _innermost
    return frame if frame is not None and frame.thread == threading.get_ident() else None


def _send_exception(thread: int, kind: type[BaseException] | None) -> None:
    import ctypes

    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), None if kind is None else ctypes.py_object(kind))


def shield() -> bool:
    """From here on no interrupt is raised in this thread; True if one could have been, and unshield() must follow."""
    frame = _own_frame()
    if frame is None or not frame.is_in_user:
        return False
    try:
        frame.leave_user()
    except Interrupted:  # the last one in transit
        frame.is_in_user = True
        raise
    return True


def unshield() -> None:
    """Interrupts are raised again, at once if one has arrived meanwhile."""
    frame = _own_frame()
    if frame is not None:
        frame.is_in_user = True
        if frame.is_due:
            frame.interrupt()


def check() -> None:
    """Raises the interrupt of the innermost request of this thread, if one is due."""
    frame = _own_frame()
    if frame is not None and frame.is_due:
        frame.interrupt()


def deliver() -> bool:
    """Raises the interrupt of the innermost request if its code runs: here, or in the thread that runs it."""
    frame = _own_frame()
    if frame is not None:
        if frame.is_in_user and frame.is_due:
            frame.interrupt()
        return False
    global _sending
    _sending += 1  # only by the main thread, which handles signals; perhaps in the middle of this
    try:
        frame = _innermost
        if frame is None or not frame.is_in_user or frame.is_sent or not frame.is_due:
            return False
        frame.postpone()
        frame.is_sent = True
        _send_exception(frame.thread, Interrupted)
        return True
    finally:
        _sending -= 1


def raised() -> None:
    """An interrupt that was sent to this thread has been raised."""
    frame = _own_frame()
    if frame is not None:
        frame.is_sent = False


def present() -> tuple[Any, int] | None:
    """The request whose code this thread runs: channel and number; the channel is None once it is closed."""
    frame = _own_frame()
    return None if frame is None else (frame.server._channel, frame.number)


def forget() -> None:
    """In a forked child: nothing runs here for anybody."""
    global _innermost, _sending
    _innermost, _sending = None, 0


def _nanoseconds(microseconds: float) -> int:
    span = float(microseconds)
    if not 0 <= span <= 1e6:
        raise ValueError("microseconds must be from 0 to 1000000")
    return int(span * 1000)


class Server:
    """The worker's end of a channel. In this implementation all calls take the Python path."""

    __slots__ = (
        "_seen",
        "_interrupts",
        "_channel",
        "is_gone",
        "is_leaving",
        "is_looked_at",
        "is_paused",
        "is_queueing",
        "last",
        "_rx",
        "wanted",
    )

    def __init__(
        self, rx: SharedRingBuffer, tx: SharedRingBuffer, bell: int, segment: Any, exposed: Any, channel: Any
    ) -> None:
        self._rx = rx
        self._channel = channel
        #: Numbers of requests that the client wants interrupted and that have not ended.
        self.wanted: set[int] = set()
        #: The highest number of a request that was started or refused.
        self.last = 0
        self.is_paused = self.is_queueing = self.is_leaving = self.is_gone = False
        #: A thread is taking what the client wants interrupted.
        self.is_looked_at = False
        self._interrupts = memoryview(segment)[_contract.SEGMENT_GONE : _contract.SEGMENT_GONE + 8].cast("Q")
        self._seen = 0

    @property
    def has_news(self) -> bool:
        """The client has asked for an interrupt, or is gone, since the last look."""
        return self._interrupts[0] != self._seen

    def acknowledge(self) -> None:
        """Requests of the client from now on count as new."""
        self._seen = self._interrupts[0]

    def want(self, number: int) -> None:
        """The client wants this request interrupted, perhaps again."""
        self.wanted.add(number)
        frame = _innermost
        while frame is not None:
            if frame.server is self and frame.number == number:
                frame.due = 0.0
            frame = frame.outer

    def _is_wanted(self, number: int) -> bool:
        """Whether the client wants this request interrupted."""
        return self.is_gone or number in self.wanted

    def running(self) -> list[int]:
        """Numbers of its requests whose code runs, or waits for one that does."""
        numbers = []
        frame = _innermost
        while frame is not None:
            if frame.server is self:
                numbers.append(frame.number)
            frame = frame.outer
        return numbers

    def perform(self, number: int, function: Any, args: tuple[Any, ...], kwargs: Any) -> tuple[Any, bool]:
        """Runs the user's code for a request: returns its value and False, or its exception and True. Interrupts are
        raised in it alone, except for the few instructions between the code and the flag that says it runs: one that
        comes there is caught here.
        """
        global _innermost
        frame = _Frame(self, number, _innermost)
        _innermost = frame
        if number > self.last:
            self.last = number
        if (self.has_news or self.is_looked_at) and not self.is_gone:
            self._channel.look_first()
        outcome: tuple[Any, bool] | None = None
        while True:
            try:
                if outcome is None:
                    outcome = _run(frame, function, args, kwargs or {})
                frame.leave_user()
                break
            except Interrupted as late:
                outcome = outcome or (late, True)
        _innermost = frame.outer
        try:
            return outcome
        finally:
            del outcome  # an exception would hold the frames of its code, and they hold this one

    def close(self) -> None:
        """Forgets the channel."""
        self._channel = None
        self._interrupts = _NO_INTERRUPTS


_NO_INTERRUPTS = memoryview(bytes(8)).cast("Q")


def _run(frame: _Frame, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, bool]:
    try:
        frame.is_in_user = True
        if frame.server._is_wanted(frame.number):  # from here on a signal raises it
            return Interrupted("interrupted by the client before it began"), True
        return function(*args, **kwargs), False
    except BaseException as error:  # KeyboardInterrupt and SystemExit of the code are its answer
        return error, True


#: Between two looks: a longer gap means that we were preempted, or that another thread had its turn.
_OFF_NS = 50_000
#: The last turn ended in sleep.
_is_resting = False
#: Which of the servers is looked at first.
_next = 0


def turn(servers: tuple[Server, ...], here: Any, microseconds: float, *_others: int) -> Any:
    """False: nothing arrived, and it is time to sleep. (channel, None): there is a message. True: something must be
    looked at.

    Busy-polls for at most that time, if it pays.
    """
    global _is_resting, _next
    if _is_resting:
        _is_resting = False
        _busy_poll.wake(time.monotonic_ns())
    _next += 1  # each has its turn
    found = _find(servers)
    if found is None and microseconds > 0:
        found = _look_out(_busy_poll, lambda: _find(servers), int(microseconds * 1000))
    if found is None:
        _is_resting = microseconds > 0
        return False
    if found.is_leaving or found.has_news:
        found.is_leaving = False
        return True
    _busy_poll.client = found._rx._peer_core
    _busy_poll.taken += 1
    return found._channel, None


def _find(servers: tuple[Server, ...]) -> Server | None:
    count = len(servers)
    for index in range(_next, _next + count):
        server = servers[index % count]
        if server.is_leaving or server.has_news or server._rx.has_data:
            return server
    return None


def _look_out(busy_poll: BusyPoll, find: Callable[[], _Found | None], span_ns: int) -> _Found | None:
    """What is found while busy-polling, if that pays; None: it is time to sleep."""
    now = time.monotonic_ns()
    rest = busy_poll.rest(now, core(), _meter.load(now))
    if rest == SLEEP:
        return None
    if rest == JOIN:
        busy_poll.joined += join_core(busy_poll.client)
        return None
    if rest == PART:
        if not leave_core():
            busy_poll.miss()
            return None
        busy_poll.parted += 1
    busy_poll.looks += 1
    deadline, was_off = now + span_ns, False
    while now < deadline and not was_off:
        time.sleep(0)  # releases the GIL
        before, now = now, time.monotonic_ns()
        was_off = now - before > _OFF_NS
        found = find()
        if found is not None:
            busy_poll.find(was_off)
            return found
    busy_poll.miss()
    return None


def waiting() -> dict[str, int]:
    """How often this process polled, found something, slept, was moved, and rang, since it started."""
    one = _busy_poll
    counts = {"looks": one.looks, "found": one.found, "sleeps": one.sleeps}
    return {**counts, "parted": one.parted, "joined": one.joined, "bells": one.bells}
