"""The client's end of a channel: makes the segment, hands the other end to a worker through its shim, and transfers."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import select
import socket
import struct
import threading
import time
import weakref
from collections import deque

from . import _contract
from ._backend import BrokenChannel, SharedRingBuffer, dumps, loads
from ._contract import MESSAGE_BYTES_MAX, SOCKET_PATH_BYTES_MAX, UNREAD_BYTES_MAX
from ._parts import Parts, framed
from ._shared import Sharing, here
from ._types import IpcError

TYPE_CHECKING = False  # as typing has it, which takes long to load
if TYPE_CHECKING:
    from typing import Any

_CAPACITY = _contract.PIPE_MESSAGE_BYTES_MAX + 4
_F_ADD_SEALS = 1033
_SEALS = 0x0002 | 0x0004  # no shrinking, no growing
#: A bell that is lost to a racing sender costs this much.
_LOOK_SECONDS = 0.1
_PART_LAST = _contract.PART_LAST
#: Microseconds that a busy-poll takes at most.
_LOOK_US = 50.0
#: For this long, a process that sleeps without a handler (ENOSYS) may be about to serve.
_START_SECONDS = 2.0
#: No runtime is attached, it has just ended, or it is too busy to accept more.
_NOT_NOW = frozenset((errno.ENOTCONN, errno.EPIPE, errno.ECONNRESET, errno.EAGAIN))
#: Between two attempts, growing up to the second number.
_PAUSE_SECONDS, _PAUSE_SECONDS_MAX = 0.001, 0.05


class Half:
    """What the server of a new channel gets: the payload of OPEN, and descriptors, which it closes."""

    def __init__(self, payload: bytes, fds: list[int]) -> None:
        self.payload, self.fds = payload, fds

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)
        self.fds = []


class _NoRing:
    """In the place of the rings of an end that is closed, for a thread that is about to use them."""

    capacity = 0

    def try_send(self, _: bytes) -> bool:
        return False

    def put(self, *_: object) -> bool:
        return False

    def try_receive(self) -> None:
        return None

    def receive_spin(self, _: float) -> None:
        return None

    def get(self, *_: object) -> bool:
        return False

    def needs_bell(self) -> bool:
        return False

    def prepare_sleep(self) -> bool:
        return False

    def cancel_sleep(self) -> None:
        pass


class End:
    """One thread receives at a time; any may send."""

    def __init__(self, version: int, relayed: Half | None = None) -> None:
        """A new one, whose other end is :attr:`half`; or the client's end of one that somebody else has made.

        :param relayed: that end, without what would tell a shim of ours; its descriptors are taken over
        :raises BrokenChannel: if it is none
        """
        self.version = version
        #: Its end of file tells the shim that this client is gone.
        self._life = -1
        capacity = _CAPACITY
        if relayed is None:
            memory = _segment(version, capacity)
            try:
                self._bell, their_bell = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
                descriptors, their_descriptors = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                their_life, self._life = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            except BaseException:
                os.close(memory)
                raise
            head = struct.pack("<II", version, capacity)
            kind = bytes((_contract.CHANNEL_CALLS,)) if version > _contract.SEGMENT_VERSION_MIN else b""
            theirs = [memory, their_bell.detach(), their_descriptors.detach(), their_life]
            self.half = Half(head + kind, theirs)
        else:
            (capacity,) = struct.unpack_from("<I", relayed.payload, _contract.OPEN_CAPACITY)
            memory, bell, shared = relayed.fds
            if os.fstat(memory).st_size != _contract.SEGMENT_DATA + 2 * capacity:
                raise BrokenChannel("the segment is not of the size it claims")
            self._bell, descriptors = socket.socket(fileno=bell), socket.socket(fileno=shared)
            self.half, relayed.fds = Half(b"", [memory]), []
        try:
            self._map: Any = mmap.mmap(memory, _contract.SEGMENT_DATA + 2 * capacity)
        except BaseException:
            self.half.close()
            if self._life >= 0:
                os.close(self._life)
            raise
        data = _contract.SEGMENT_DATA
        self._tx: Any = SharedRingBuffer(self._map, _contract.SEGMENT_RING_A, data, capacity, True)
        self._rx: Any = SharedRingBuffer(self._map, _contract.SEGMENT_RING_B, data + capacity, capacity, False)
        self._bell.setblocking(False)
        self.sharing = Sharing(descriptors)
        self._poll = select.poll()
        self._poll.register(self._bell, select.POLLIN)
        self._lock = threading.RLock()
        self._outbox: deque[bytes] = deque()
        self._outbox_bytes = 0
        self._parts = Parts()
        self._part_bytes = self._tx.capacity // 4
        self._is_rung_off = self._is_woken = False
        self._waker: int | None = None
        #: A thread waits in :meth:`get`: a descriptor that is closed meanwhile may be another one by then.
        self._is_getting = self._is_released = False
        self.is_open = True
        _held.add(self)

    # ---- messages ----

    def encode(self, message: list[Any]) -> bytes:
        """:raises EncodeError:"""
        before = here.channel
        here.channel = self
        try:
            data: bytes = dumps(message, MESSAGE_BYTES_MAX)
            return data
        finally:
            here.channel = before

    def decode(self, data: bytes) -> Any:
        """:raises DecodeError, BrokenChannel, Unheld:"""
        before = here.channel
        here.channel = self
        try:
            return loads(data)
        finally:
            here.channel = before

    def send(self, message: list[Any]) -> None:
        """Messages for which there is no room wait in order. :raises EncodeError, BrokenChannel:"""
        self.send_bytes(self.encode(message))

    def send_bytes(self, data: bytes) -> None:
        with self._lock:
            if not self.is_open:
                raise BrokenChannel("the channel is closed")
            if self._outbox_bytes > UNREAD_BYTES_MAX:
                self.close()
                raise BrokenChannel(f"the worker left more than {UNREAD_BYTES_MAX} bytes unread")
            for frame in framed(data, self._part_bytes):
                self._put(frame)
            if self._tx.needs_bell():
                self._ring()

    def _put(self, frame: bytes) -> None:
        if not self._outbox and self._tx.try_send(frame):
            return
        self._outbox.append(frame)
        self._outbox_bytes += len(frame)

    def _flush(self) -> None:
        with self._lock:
            while self._outbox and self._tx.try_send(self._outbox[0]):
                self._outbox_bytes -= len(self._outbox.popleft())
            if self._tx.needs_bell():
                self._ring()

    def rouse(self) -> None:
        """A message is about to follow: the other side wakes up while that is being made."""
        with self._lock:
            if self.is_open and self._tx.needs_bell():
                self._ring()

    def ring(self) -> None:
        """Whether or not the other side waits for it."""
        with self._lock:
            if self.is_open:
                self._ring()

    def _ring(self) -> None:
        try:
            self._bell.send(b"\x01", socket.MSG_NOSIGNAL)
        except OSError:
            pass  # full: it was rung already; closed: the reader notices it

    def count_request(self) -> None:
        with self._lock:
            (asked,) = struct.unpack_from("<I", self._map, _contract.SEGMENT_ASKED)
            struct.pack_into("<I", self._map, _contract.SEGMENT_ASKED, (asked + 1) & 0xFFFFFFFF)

    def receive(self, timeout: float | None) -> Any:
        """The next message, or None if the time is over. :raises BrokenChannel, DecodeError, Unheld:"""
        data = self.receive_bytes(timeout)
        return None if data is None else self.decode(data)

    def receive_bytes(self, timeout: float | None) -> bytes | None:
        """:raises BrokenChannel: if the other side is gone, or violated the protocol"""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            if self._outbox:
                self._flush()
            frame = self._rx.try_receive()
            if frame is not None:
                if self._rx.needs_bell():
                    self._ring()
                message = self._parts.whole(frame)
                if message is not None:
                    return message
                if deadline is None or time.monotonic() < deadline:
                    continue
            if self._is_rung_off or not self.is_open:
                raise BrokenChannel(self._why())
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return None
            self._sleep(_LOOK_SECONDS if left is None else min(left, _LOOK_SECONDS))

    def put(self, data: bytes) -> None:
        """:meth:`send_bytes` for messages that usually fit. :raises BrokenChannel:"""
        if self._lock.acquire(False):
            try:
                if (
                    self.is_open
                    and not self._outbox
                    and len(data) <= self._part_bytes
                    and self._tx.put(self._bell, data)
                ):
                    return
            finally:
                self._lock.release()
        self.send_bytes(data)

    def get(self, timeout: float | None) -> bytes | None:
        """:meth:`receive_bytes` for whoever has just asked: looks out for the answer where that pays before it sleeps.

        :returns: None also for a part of a message, so that no flood of these goes on beyond the time
        :raises BrokenChannel: if the other side is gone, or violated the protocol
        """
        if not self._outbox:
            # Before it is looked whether it is open, so that whoever closes it leaves the descriptors to us.
            self._is_getting = True
            try:
                if not self.is_open:
                    raise BrokenChannel(self._why())
                frame = self._rx.get(self._bell, _LOOK_US, timeout)
            finally:
                self._is_getting = False
                if not self.is_open:
                    self._release()
            if frame is False:
                raise BrokenChannel(self._why())
            if frame is None:
                return None
            if frame[0] > _PART_LAST:
                whole: bytes = frame
                return whole
            return self._parts.whole(frame)
        return self.receive_bytes(timeout)  # it is rung when there is room again

    def look(self) -> bytes | None:
        """The same for a thread that must not sleep: the next message, if it comes at once."""
        if self._outbox:
            self._flush()
        frame = self._rx.receive_spin(_LOOK_US)
        if frame is None:
            return None
        if self._rx.needs_bell():
            self._ring()
        return self._parts.whole(frame)

    def watch(self, timeout: float) -> bytes | None:
        """The same for a thread in the background, which :meth:`wake` has return at once."""
        if self._outbox:
            self._flush()
        frame = self._rx.try_receive()
        if frame is None:
            if self._is_rung_off or not self.is_open:
                raise BrokenChannel(self._why())
            if not self._is_woken:
                self._sleep(min(timeout, _LOOK_SECONDS) if self._outbox else timeout)
            self._is_woken = False
            frame = self._rx.try_receive()
        if frame is None:
            return None
        if self._rx.needs_bell():
            self._ring()
        return self._parts.whole(frame)

    def wake(self) -> None:
        """Has whoever is in :meth:`watch` return. From any thread."""
        self._is_woken = True
        if self._waker is not None:
            try:
                os.eventfd_write(self._waker, 1)
            except OSError:
                pass  # it is closed

    def make_wakeable(self) -> None:
        """Before :meth:`wake` is used: otherwise it is noticed only when the sleep is over."""
        if self._waker is None:
            self._waker = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._poll.register(self._waker, select.POLLIN)

    def _sleep(self, seconds: float) -> None:
        if not self._rx.prepare_sleep():
            return
        try:
            ready = self._poll.poll(seconds * 1000)
            for fd, _ in ready:
                if fd == self._waker:
                    os.eventfd_read(fd)
                else:
                    self._is_rung_off = self._bell.recv(64) == b""
        except BlockingIOError:
            pass
        except (OSError, ValueError):
            self._is_rung_off = True
        finally:
            self._rx.cancel_sleep()

    def _why(self) -> str:
        if not self.is_open:
            return "the channel was closed"
        return self.reason() or "the worker is gone"

    def reason(self) -> str | None:
        """Why the other side has ended an open channel, if it has left word."""
        memory = self._map  # before it is looked whether it is that of the channel
        if not self.is_open:
            return None
        (why,) = struct.unpack_from("<I", memory, _contract.SEGMENT_ENDED)
        return {
            _contract.ENDED_UNREAD: "the worker gave this channel up, since what it sent was not read",
            _contract.ENDED_BROKEN: "the worker could not read a message, and closed the channel",
            _contract.ENDED_FAULT: "the worker ended this channel after a fault of its own, which its log shows",
        }.get(why)

    # ---- interrupts ----

    def want_ended(self, number: int) -> None:
        """Marks a request as one that must end. :meth:`poke` makes the worker look."""
        with self._lock:
            if not self.is_open:
                return
            if self.version < _contract.SEGMENT_VERSION_SLOTS:
                struct.pack_into("<I", self._map, _contract.SEGMENT_GONE, number & 0xFFFFFFFF)
                return
            for slot in range(_contract.SLOTS):
                at = _contract.SEGMENT_SLOTS + 8 * slot
                if struct.unpack_from("<Q", self._map, at) == (0,):
                    struct.pack_into("<Q", self._map, at, number)
                    (count,) = struct.unpack_from("<I", self._map, _contract.SEGMENT_INTERRUPTS)
                    struct.pack_into("<I", self._map, _contract.SEGMENT_INTERRUPTS, (count + 1) & 0xFFFFFFFF)
                    break  # if no slot is free, the next reminder may find one
            self._ring()

    def forget(self, number: int) -> None:
        """The worker has released a segment."""
        self.sharing.forget(number)

    def close(self) -> None:
        with self._lock:
            if not self.is_open:
                return
            self.is_open = False
            struct.pack_into("<I", self._map, _contract.SEGMENT_GONE, _contract.GONE)
            try:
                self._bell.shutdown(socket.SHUT_RDWR)  # a thread that waits notices it
            except OSError:
                pass
            if not self._is_getting:
                self._release()

    def forsake(self) -> None:
        self._lock = threading.RLock()  # a thread of the parent may have held it
        if self.is_open:
            self.is_open = False
            self._release()

    def _release(self) -> None:
        with self._lock:
            is_released, self._is_released = self._is_released, True
        if is_released:
            return
        # A map has a descriptor of its own for as long as anybody refers to it, a closed channel in a cycle too.
        self._tx = self._rx = _NoRing()
        self._map = bytearray(_contract.SEGMENT_DATA)
        self._bell.close()
        self.sharing.close()
        if self._life >= 0:
            os.close(self._life)
        if self._waker is not None:
            os.close(self._waker)
            self._waker = None
        self.half.close()


def _segment(version: int, capacity: int) -> int:
    """The descriptor of a new one, sealed."""
    memory = os.memfd_create("ipcctl-channel", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(memory, _contract.SEGMENT_DATA + 2 * capacity)
    fcntl.fcntl(memory, _F_ADD_SEALS, _SEALS)
    os.pwrite(memory, _contract.MAGIC + bytes((version, 0)), 0)
    return memory


def lead(path: str, name: str, label: str, capacity: int, timeout: float) -> Half | None:
    """A channel that this program serves: the worker whose shim listens at ``path`` gets the client's end of it.

    :returns: this program's end; None if the worker did not take the other one
    :raises IpcError: NOT_RUNNING, DEADLINE
    """
    version = _contract.SEGMENT_VERSION
    memory = _segment(version, capacity)
    bell, our_bell = (one.detach() for one in socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM))
    descriptors, ours = (one.detach() for one in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    our_life, life = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    head = struct.pack("<II", version, capacity)
    half = Half(head + bytes((_contract.CHANNEL_CALLS,)), [memory, our_bell, ours, our_life])
    payload = head + bytes((_contract.CHANNEL_RELAY,)) + label.encode()
    is_taken = False
    try:
        with ShimDoor(path, name, time.monotonic() + timeout) as shim:
            shim.hello()
            is_taken = shim.ask(_contract.REQUEST_OPEN, payload, (memory, bell, descriptors, life)) == 0
    finally:
        for fd in (bell, descriptors, life):
            os.close(fd)
        if not is_taken:
            half.close()
    return half if is_taken else None


class ShimDoor:
    """A short connection to a worker's shim."""

    def __init__(self, path: str, name: str, deadline: float) -> None:
        self._name, self._deadline, self._held = name, deadline, b""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        folder = None
        try:
            self._socket.settimeout(max(0.01, deadline - time.monotonic()))
            if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
                self._socket.connect(path)
            else:
                folder = os.open(os.path.dirname(path), os.O_PATH | os.O_CLOEXEC)
                self._socket.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
        except OSError:
            self.close()
            raise not_running(name) from None
        finally:
            if folder is not None:
                os.close(folder)

    @classmethod
    def over(cls, held: int, name: str) -> ShimDoor:
        """On a connection that somebody else has opened."""
        door = cls.__new__(cls)
        door._name, door._deadline, door._held = name, time.monotonic(), b""
        door._socket = socket.socket(fileno=held)
        return door

    def fileno(self) -> int:
        return self._socket.fileno()

    def __enter__(self) -> ShimDoor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def set_deadline(self, deadline: float) -> None:
        self._deadline = deadline

    def leave(self) -> None:
        """Closes our half."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has ended

    def wait_end(self) -> None:
        """Closes our half, and waits for the other one."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
            self._socket.settimeout(None)
            while self._socket.recv(4096):
                pass
        except OSError:
            pass  # it has ended, or we have
        self.close()

    def hello(self) -> tuple[int, bool]:
        """The version of its contract, and whether the worker has a runtime."""
        self._send(_contract.REQUEST_HELLO, struct.pack("<I", _contract.SHIM_VERSION), ())
        while True:
            kind, payload = self.next_reply()
            if kind == _contract.REPLY_ERROR:
                raise IpcError("DEADLINE", f"{self._name} has as many connections as its shim takes")
            if kind == _contract.REPLY_STATE:
                (version,) = struct.unpack_from("<I", payload, _contract.STATE_VERSION)
                return version, payload[_contract.STATE_ATTACHED] == 1

    def wait_attached(self) -> int:
        """Until the worker has a runtime. :returns: its pid :raises IpcError: NOT_RUNNING if it ends first, DEADLINE"""
        self._send(_contract.REQUEST_HELLO, struct.pack("<I", _contract.SHIM_VERSION), ())
        pid, is_attached = 0, False
        while pid == 0 or not is_attached:
            kind, payload = self.next_reply()
            if kind == _contract.REPLY_STATE:
                pid = int.from_bytes(payload[_contract.STATE_PID : _contract.STATE_PID + 4], "little")
                is_attached = payload[_contract.STATE_ATTACHED] == 1
            elif kind == _contract.REPLY_ATTACHED:
                is_attached = payload[0] == 1
            if kind == _contract.REPLY_EXITED or (
                kind == _contract.REPLY_STATE and payload[_contract.STATE_EXITED] == 1
            ):
                raise not_running(self._name)
        return pid

    def ask(self, request: int, body: bytes = b"", fds: tuple[int, ...] = ()) -> int:
        """0, or an errno."""
        self._send(request, body, fds)
        while True:
            kind, payload = self.next_reply()
            if kind == _contract.REPLY_OK and payload[0] == request:
                return 0
            if kind == _contract.REPLY_ERROR and payload[0] == request:
                (number,) = struct.unpack_from("<i", payload, 1)
                return int(number)

    def _send(self, request: int, body: bytes, fds: tuple[int, ...]) -> None:
        data = struct.pack("<IB", len(body) + 1, request) + body
        rights = ((socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"@{len(fds)}i", *fds)),) if fds else ()
        try:
            self._socket.sendmsg((data,), rights, socket.MSG_NOSIGNAL)
        except OSError:
            raise not_running(self._name) from None

    def next_reply(self) -> tuple[int, bytes]:
        """:raises IpcError: NOT_RUNNING at its end, DEADLINE"""
        while len(self._held) < 5 or len(self._held) < 4 + int.from_bytes(self._held[:4], "little"):
            try:
                self._socket.settimeout(max(0.01, self._deadline - time.monotonic()))
                more = self._socket.recv(4096)
            except TimeoutError:
                raise IpcError("DEADLINE", f"{self._name} did not answer in time", _see(self._name)) from None
            except OSError:
                more = b""
            if not more:
                raise not_running(self._name)
            self._held += more
        end = 4 + int.from_bytes(self._held[:4], "little")
        frame, self._held = self._held[:end], self._held[end:]
        return frame[4], frame[5:]


class Ownership:
    """The connection by which this program owns an ephemeral worker: the worker ends with it."""

    def __init__(self, path: str, name: str, timeout: float) -> None:
        """:raises IpcError: NOT_RUNNING if it has ended already, or was not claimed in time"""
        try:
            self._door = ShimDoor(path, name, time.monotonic() + timeout)
            try:
                if self._door.ask(_contract.REQUEST_OWN) != 0:
                    raise has_ended(name)
            except BaseException:
                self._door.close()
                raise
        except IpcError as error:
            raise has_ended(name) if error.code == "NOT_RUNNING" else error from None
        self._begin()

    @classmethod
    def over(cls, held: int, name: str) -> Ownership:
        """By a connection on which somebody else has claimed the worker."""
        one = cls.__new__(cls)
        one._door = ShimDoor.over(held, name)
        one._begin()
        return one

    def _begin(self) -> None:
        self.status: int | None = None
        _held.add(self)

    def fileno(self) -> int:
        """Readable once the worker has ended; -1 if it is closed."""
        return self._door.fileno()

    def begin_end(self) -> None:
        """Ends the worker with its whole tree, without waiting for that."""
        self._door.leave()

    def wait(self, timeout: float) -> bool:
        """Until nothing of it runs. :attr:`status` is how the worker itself has ended, as os.wait() has it."""
        self._door.set_deadline(time.monotonic() + timeout)
        try:
            while True:
                kind, payload = self._door.next_reply()
                if kind == _contract.REPLY_EXITED:
                    self.status = int.from_bytes(payload[:4], "little")
        except IpcError as error:
            return error.code == "NOT_RUNNING"

    def close(self) -> None:
        """Ends the worker with its whole tree; returns when nothing of it runs."""
        self._door.wait_end()

    def leave(self) -> None:
        """The same, without waiting for that."""
        self._door.close()

    def forsake(self) -> None:
        self._door.close()


#: A forked child has copies of their descriptors: it would keep workers and channels that its parent has left, and end
#: those that its parent uses.
_held: weakref.WeakSet[End | Ownership] = weakref.WeakSet()


def _forsake() -> None:
    for one in list(_held):
        one.forsake()
    _held.clear()


os.register_at_fork(after_in_child=_forsake)


def open_end(path: str, name: str, timeout: float) -> tuple[End, bytes]:
    """A channel to the worker whose shim listens at ``path``, and its first message.

    :raises IpcError: NOT_RUNNING, DEADLINE if no runtime attaches in time, FAILED if the worker cannot have one
    """
    deadline = time.monotonic() + timeout
    with ShimDoor(path, name, deadline) as shim:
        version, _ = shim.hello()
        layout = _contract.SEGMENT_VERSION if version >= 2 else _contract.SEGMENT_VERSION_MIN
        while True:
            end = End(layout)
            try:
                _hand_over(shim, end.half, name, timeout, deadline)
                end.half.close()
                first = end.receive_bytes(max(0.0, deadline - time.monotonic()))
            except BrokenChannel:
                end.close()
                if not shim.hello()[1]:
                    raise not_running(name) from None
                if layout == _contract.SEGMENT_VERSION_MIN:
                    why = "it has no file descriptor left, or runs a version of ipcctl that this one cannot speak to"
                    raise IpcError("FAILED", f"{name} takes no channel: {why}", f"ipcctl restart {name}") from None
                layout = _contract.SEGMENT_VERSION_MIN  # an older snapshot, or an older installed package
                continue
            except BaseException:
                end.close()
                raise
            if first is None:
                end.close()
                hint = f"its main thread may be in a long call; see: ipcctl logs {name}"
                raise IpcError("DEADLINE", f"{name} did not answer within {timeout:g} s", hint)
            return end, first


def _hand_over(shim: ShimDoor, half: Half, name: str, timeout: float, deadline: float) -> None:
    """Sends OPEN once a runtime is attached; a plain script is asked to attach one."""
    began = time.monotonic()
    pause = _PAUSE_SECONDS
    while True:
        number = shim.ask(_contract.REQUEST_OPEN, half.payload, tuple(half.fds))
        if number == 0:
            return
        if number == errno.EMFILE:
            hint = "close unused ones; one per program is enough"
            raise IpcError("FAILED", f"{name} has as many channels as it can have", hint)
        if number not in _NOT_NOW:
            raise IpcError("FAILED", f"{name} did not take the channel: {os.strerror(number)}")
        woken = shim.ask(_contract.REQUEST_WAKE)
        now = time.monotonic()
        if woken == errno.ENOSYS and now > began + min(_START_SECONDS, timeout / 2):
            why = "it does not run Python 3.11 or newer, or what serves calls, under ipcctl"
            raise IpcError("FAILED", f"cannot connect to {name}: {why}", _see(name))
        if now > deadline:
            raise IpcError("DEADLINE", f"{name} has not let ipcctl in within {timeout:g} s", _see(name))
        time.sleep(pause)
        pause = min(pause * 1.5, _PAUSE_SECONDS_MAX)


def has_ended(name: str) -> IpcError:
    """A worker that runs once, and has: nothing starts it again."""
    return IpcError("NOT_RUNNING", f"{name} has ended already")


def not_running(name: str) -> IpcError:
    return IpcError("NOT_RUNNING", f"{name} is not running", f"ipcctl start {name}")


def _see(name: str) -> str:
    return f"see: ipcctl logs {name}"
