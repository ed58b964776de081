"""One client's channel: two rings in a sealed segment, a socket whose bytes are bells and whose end means that the
client is gone, and a socket for descriptors of shared memory.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable

from . import _contract, _trace
from ._backend import BrokenChannel, DecodeError, Server, SharedRingBuffer, check, dumps, loads, shield, unshield
from ._contract import MESSAGE_BYTES_MAX
from ._contract import UNREAD_BYTES_MAX as OUTBOX_BYTES_MAX
from ._contract import UNREAD_MS_MAX as _UNREAD_MS
from ._parts import Parts, framed
from ._shared import Sharing, here
from ._types import Unheld

TYPE_CHECKING = False  # as typing has it, which takes long to load
if TYPE_CHECKING:
    from typing import Any

#: Words of the statistics in the segment.
_CALLS, _ERRORS = _contract.STATISTICS_ANSWERED, _contract.STATISTICS_ERRORS
_BYTES_IN, _BYTES_OUT = _contract.STATISTICS_BYTES_IN, _contract.STATISTICS_BYTES_OUT
_FIRST_BUCKET, _NANOSECONDS = _contract.STATISTICS_LATENCIES, _contract.STATISTICS_NANOSECONDS
_F_GET_SEALS = 1034
_SEALS = 0x0002 | 0x0004  # F_SEAL_SHRINK, F_SEAL_GROW
#: Messages that are made or recognised here.
ERROR, FORGET, LEAVE = _contract.TO_CLIENT_ERROR, _contract.TO_CLIENT_FORGET, _contract.TO_CLIENT_LEAVE
#: How long to wait for room before looking again: a client rings once there is some.
_ROOM_SECONDS = 0.05
#: A look takes microseconds; but a signal handler of the user may run on top of the one that looks, and take its time.
_OTHERS_LOOK_SECONDS = 1.0


class Segment:
    """What a client sends: memory with two rings, and a socket for bells. The name is empty except for a pipe."""

    def __init__(self, payload: bytes, fds: list[int]) -> None:
        """:raises BrokenChannel: if what the client sent does not match docs/internals/shm-layout.md"""
        if len(fds) != _contract.CHANNEL_FDS_FORWARDED or len(payload) < _contract.OPEN_KIND:
            raise BrokenChannel(f"a channel is 3 descriptors and 8 bytes or more, not {len(fds)} and {len(payload)}")
        version, capacity = struct.unpack_from("<II", payload)
        size = _contract.SEGMENT_DATA + 2 * capacity
        if not _contract.SEGMENT_VERSION_MIN <= version <= _contract.SEGMENT_VERSION:
            known = f"{_contract.SEGMENT_VERSION_MIN} and {_contract.SEGMENT_VERSION}"
            raise BrokenChannel(f"layout {version} of a channel is not known, only {known}")
        if fcntl.fcntl(fds[0], _F_GET_SEALS) & _SEALS != _SEALS or os.fstat(fds[0]).st_size != size:
            raise BrokenChannel("the segment is not sealed, or not of the size it claims")
        #: Of the layout: what the client knows.
        self.version = version
        self.kind, self.name = _kind_and_name(version, payload)
        self.map = mmap.mmap(fds[0], size)
        if self.map[:8] != _contract.MAGIC + bytes((version, 0)):
            raise BrokenChannel("the segment does not begin with the magic of a channel")
        self.rx = SharedRingBuffer(self.map, _contract.SEGMENT_RING_A, _contract.SEGMENT_DATA, capacity, False)
        self.tx = SharedRingBuffer(
            self.map, _contract.SEGMENT_RING_B, _contract.SEGMENT_DATA + capacity, capacity, True
        )
        self.socket = socket.socket(fileno=fds[1])
        self.socket.setblocking(False)
        self.descriptors = socket.socket(fileno=fds[2])
        os.close(fds[0])

    def ring(self) -> None:
        try:
            self.socket.send(b"\x01", socket.MSG_NOSIGNAL)
        except OSError:
            pass  # full: it is rung already; closed: the reader notices the end


def is_host(payload: bytes) -> bool:
    """Whether it is what opens a channel to the host."""
    try:
        (version,) = struct.unpack_from("<I", payload)
        return _kind_and_name(version, payload)[0] == _contract.CHANNEL_HOST
    except (BrokenChannel, struct.error):
        return False


def label_of_relay(payload: bytes) -> str | None:
    """Of what opens a channel of which this process gets the client's end."""
    if len(payload) <= _contract.OPEN_NAME or payload[_contract.OPEN_KIND] != _contract.CHANNEL_RELAY:
        return None
    (version,) = struct.unpack_from("<I", payload)
    return payload[_contract.OPEN_NAME :].decode("utf-8", "replace") if version == _contract.SEGMENT_VERSION else None


def _kind_and_name(version: int, payload: bytes) -> tuple[int, str]:
    """:raises BrokenChannel: if the kind is unknown, or the name does not fit the kind"""
    if version == _contract.SEGMENT_VERSION_MIN:
        label = payload[_contract.OPEN_KIND :]
        kind = _contract.CHANNEL_PIPE if label else _contract.CHANNEL_CALLS
    else:
        if len(payload) < _contract.OPEN_NAME:
            raise BrokenChannel("the kind of the channel is missing")
        kind, label = payload[_contract.OPEN_KIND], payload[_contract.OPEN_NAME :]
    if kind not in (_contract.CHANNEL_CALLS, _contract.CHANNEL_PIPE, _contract.CHANNEL_HOST):
        raise BrokenChannel(f"channels of kind {kind} are not known")
    if bool(label) != (kind == _contract.CHANNEL_PIPE) or len(label) > _contract.PIPE_NAME_BYTES_MAX:
        raise BrokenChannel(
            f"a name of {len(label)} bytes; a pipe has one of 1 to {_contract.PIPE_NAME_BYTES_MAX}, others have none"
        )
    return kind, label.decode("utf-8", "replace")


class Unreadable(list["Any"]):
    """A message for which this process has no memory: its kind and its number."""

    error = MemoryError("no memory for what the client sent")


def _without_values(frame: bytes, why: str) -> Unreadable:
    """:raises BrokenChannel: if it is not a message"""
    try:
        message = Unreadable(loads(b"\x82" + first_two(frame)))
    except DecodeError as malformed:
        raise BrokenChannel(f"a malformed message: {malformed}") from None
    if why:
        message.error = MemoryError(why)
    return message


def first_two(frame: bytes) -> bytes:
    """Reads the start of an array: integers, and possibly more."""
    end = 1
    for _ in range(2):
        end += 1 + {24: 1, 25: 2, 26: 4, 27: 8}.get(frame[end] & 31 if end < len(frame) else 0, 0)
    return frame[1:end]


class Channel:
    """Not thread-safe except for :meth:`send`, :meth:`send_paced` and :meth:`look`."""

    def __init__(self, segment: Segment, exposed: dict[str, Callable[..., Any]], session: Any) -> None:
        self.map, self.socket, self.rx, self.tx = segment.map, segment.socket, segment.rx, segment.tx
        self._ring = segment.ring
        self._version = segment.version
        #: The session that it belongs to, which is told of interrupts: :class:`ipcctl._session.Session`.
        self.session = session
        self.sharing = Sharing(segment.descriptors)
        #: Answers the usual calls, and knows which one runs.
        self.server = Server(self.rx, self.tx, self.socket.fileno(), self.map, exposed, self)
        at = _contract.SEGMENT_STATISTICS
        self._statistics = memoryview(self.map)[at : at + 8 * _contract.STATISTICS_WORDS].cast("Q")
        at = _contract.SEGMENT_SLOTS
        self._slots = memoryview(self.map)[at : at + 8 * _contract.SLOTS].cast("Q")
        self._part_bytes = self.tx.capacity // 4
        self._lock = threading.RLock()
        self._outbox: deque[bytes] = deque()
        self._outbox_bytes = 0
        self._parts = Parts()
        #: Held by the reading thread: usually the serving thread, another one while that is busy with the user's code.
        self.reading = threading.Lock()
        #: Read by another thread, to be handled by the serving thread before anything in the ring: reading pauses
        #: meanwhile.
        self.backlog: deque[list[object]] = deque()
        #: Numbers of streams of the client that were dropped unread.
        self.left: deque[int] = deque()
        self.is_open = True
        self.is_rung = False
        self._looking = threading.Lock()
        self._has_to_look = False

    @property
    def is_behind(self) -> bool:
        """Something waits to be sent, or to be handled."""
        return bool(self._outbox or self.backlog or self.left or self.sharing.forgotten)

    def next(self) -> list[object] | None:
        """The next message for the serving thread. :raises BrokenChannel, DecodeError:"""
        with self.reading:
            message = self.backlog.popleft() if self.backlog else self.receive()
            self.server.is_paused = bool(self.backlog)
            return message

    def put_back(self, message: list[object]) -> None:
        """Puts it back as the next one."""
        self.backlog.appendleft(message)
        self.server.is_paused = True

    def send(self, message: list[object], began_ns: int | None = None) -> None:
        """Encodes and sends; messages without room in the ring wait in order. From any thread.
        :param began_ns: when the request of this answer began; it is counted before the answer is sent
        """
        was_exposed = shield()  # an exception in the middle would lose a bell, or tear a message
        try:
            self._send(message, began_ns)
        finally:
            if was_exposed:
                unshield()

    def _send(self, message: list[object], began_ns: int | None) -> None:
        if _trace.is_on:
            _trace.show("server", "→", message)
        before = here.channel
        here.channel = self
        try:
            data = dumps(message, MESSAGE_BYTES_MAX)
        finally:
            here.channel = before
        with self._lock:
            if not self.is_open:
                return
            if self._outbox_bytes > OUTBOX_BYTES_MAX:
                self.end(_contract.ENDED_UNREAD)
                raise BrokenChannel(f"the client left more than {OUTBOX_BYTES_MAX} bytes unread")
            if began_ns is not None:
                self._count(began_ns, message[0] == ERROR)
            self._statistics[_BYTES_OUT] += len(data)
            for frame in framed(data, self._part_bytes):
                self._put(frame)
            if self.tx.needs_bell():
                self._ring()

    def send_paced(self, message: list[object]) -> None:
        """The same for messages that may come without end, in the serving thread: waits until the client has taken
        earlier ones.
        :raises Interrupted: if the request being served is interrupted meanwhile
        :raises BrokenChannel: if the client is gone, or has taken nothing for 30 s
        """
        was_exposed = shield()
        try:
            stuck_since: float | None = None
            waiting = self._outbox_bytes
            while not self.flush():
                if self._outbox_bytes != waiting or stuck_since is None:
                    waiting, stuck_since = self._outbox_bytes, time.monotonic()
                elif time.monotonic() - stuck_since > _UNREAD_MS / 1000:
                    self.end(_contract.ENDED_UNREAD)
                    raise BrokenChannel(f"the client read nothing for {_UNREAD_MS // 1000} s")
                if self.server.has_news:
                    self.look()
                check()
                if select.select([self.socket], [], [], _ROOM_SECONDS)[0] and not self.drain_bell():
                    self.server.is_gone = True
                if not self.is_open:
                    return
            self._send(message, None)
        finally:
            if was_exposed:
                unshield()

    def _count(self, began_ns: int, is_error: bool) -> None:
        nanoseconds = time.monotonic_ns() - began_ns
        bucket = (nanoseconds // 1000).bit_length()
        self._statistics[_FIRST_BUCKET + min(bucket, _contract.LATENCY_CLASSES - 1)] += 1
        self._statistics[_NANOSECONDS] += nanoseconds
        self._statistics[_CALLS] += 1
        self._statistics[_ERRORS] += is_error

    def _put(self, frame: bytes) -> None:
        if self._outbox:
            self.flush()  # the serving thread, which does this otherwise, may be busy for long
        if not self._outbox and self.tx.try_send(frame):
            return
        self.server.is_queueing = True
        self._outbox.append(frame)
        self._outbox_bytes += len(frame)

    def flush(self) -> bool:
        """Sends what waits, as far as there is room. True if nothing waits any more."""
        if not self._outbox:
            return True
        with self._lock:
            while self._outbox and self.tx.try_send(self._outbox[0]):
                self._outbox_bytes -= len(self._outbox.popleft())
            if self.tx.needs_bell():
                self._ring()
            self.server.is_queueing = bool(self._outbox)
            return not self._outbox

    def tell_forgotten(self) -> None:
        """Tells the client which of our segments it may release, and which of its streams nobody reads."""
        while self.left:
            self.send([LEAVE, self.left.popleft()])
        while self.sharing.forgotten:
            self.send([FORGET, self.sharing.forgotten.popleft()])

    def receive(self) -> list[object] | None:
        """The next whole message, if one is there. :raises BrokenChannel, DecodeError:"""
        frame = self.rx.try_receive()
        if frame is None:
            return None
        if self.rx.needs_bell():
            self._ring()
        self._statistics[_BYTES_IN] += len(frame)
        whole = self._parts.whole(frame)
        return None if whole is None else self.read(whole)

    def read(self, frame: bytes) -> list[object]:
        """A whole message. :raises BrokenChannel, DecodeError:"""
        before = here.channel
        here.channel = self
        try:
            message = loads(frame)
        except (Unheld, MemoryError) as error:
            return _without_values(frame, str(error))
        finally:
            here.channel = before
        return self.judge(message)

    @staticmethod
    def judge(message: object) -> list[object]:
        """:raises BrokenChannel: if it is not one"""
        if type(message) is not list or len(message) < 2 or type(message[0]) is not int:
            raise BrokenChannel("a message is an array of a kind, a number and more")
        return message

    def look(self) -> None:
        """Takes what the client wants interrupted, and checks whether it is gone.

        From any thread, and from a signal handler in the middle of this very method: the second caller leaves a note,
        which the first one finds before it returns.
        """
        self._has_to_look = True
        while self._has_to_look and self._looking.acquire(blocking=False):
            try:
                self._has_to_look = False
                self._take_interrupts()
            finally:
                self._looking.release()

    def look_first(self) -> None:
        """The same, before something starts: waits for another thread that is just looking. Not from a handler, which
        may run on top of the lock's holder.
        """
        if self._looking.acquire(timeout=_OTHERS_LOOK_SECONDS):
            try:
                self._has_to_look = False
                self._take_interrupts()
            finally:
                self._looking.release()
        else:
            self._has_to_look = True
        if self._has_to_look:
            self.look()

    def _take_interrupts(self) -> None:
        server = self.server
        server.is_looked_at = True  # before that, it does not count as new any more
        try:
            server.acknowledge()
            if self.is_open:
                self._take_slots()
        finally:
            server.is_looked_at = False

    def _take_slots(self) -> None:
        server = self.server
        (gone,) = struct.unpack_from("<I", self.map, _contract.SEGMENT_GONE)
        if gone == _contract.GONE:
            server.is_gone = True
        elif gone != 0 and self._version < _contract.SEGMENT_VERSION_SLOTS:
            server.want(gone)
            struct.pack_into("<I", self.map, _contract.SEGMENT_GONE, 0)
        if self._version >= _contract.SEGMENT_VERSION_SLOTS:
            for index, number in enumerate(self._slots):
                if number != 0:
                    server.want(number)
                    self._slots[index] = 0
        if len(server.wanted) > _contract.INTERRUPTS_MAX:
            server.is_gone = True
        server.is_leaving = True  # the serving thread has something to settle
        self.session.on_interrupts()

    def drain_bell(self) -> bool:
        """Takes the bells. False if the client is gone."""
        self.is_rung = False
        try:
            return self.socket.recv(64) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def end(self, why: int) -> None:
        """Closes the channel; the client, and the shim, learn why. The first reason counts."""
        with self._lock:
            if self.is_open:
                self.is_open = False
                struct.pack_into("<I", self.map, _contract.SEGMENT_ENDED, why)
            self._outbox.clear()
            self._outbox_bytes = 0

    def close(self) -> None:
        self.end(_contract.ENDED_CLOSED)
        with self._lock:
            # A call may still run, and will want to answer: not through a descriptor that is reused by then.
            self.server.close()
            self.socket.close()
            self.sharing.close()  # the map goes with the rings that use it

    def abandon(self) -> None:
        """In a forked child: the rings are the parent's, and a lock may be held by a thread that is not here."""
        self.is_open = False
        self.server.is_queueing = self.server.is_gone = True
        self._lock, self.reading, self._looking = threading.RLock(), threading.Lock(), threading.Lock()
        self._outbox.clear()
        self._outbox_bytes = 0
        self.server.close()
        self.socket.close()
        self.sharing.close()
