"""Limits of one client's channel, at their number and one past it."""

from __future__ import annotations

import array
import fcntl
import mmap
import os
import select
import socket
import struct
import threading
import tracemalloc
import unittest
from typing import Any
from unittest import mock

import support  # noqa: F401 - finds the package
from ipcctl import _caller, _channel, _client, _contract, _end, _serving, _session, _streams
from ipcctl._evaluate import namespace
from ipcctl._parts import Parts, framed
from ipcctl._transports import Frames, Lines
from ipcctl._types import StreamRef

CAPACITY = 1 << 14


def made() -> tuple[_channel.Channel, list[socket.socket]]:
    """A channel whose client is this very process: its sockets."""
    memory = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(memory, 4096 + 2 * CAPACITY)
    os.pwrite(memory, b"IPCCTL\x03\x00", 0)
    fcntl.fcntl(memory, 1033, 2 | 4)
    pairs = [socket.socketpair(), socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)]
    fds = array.array("i", [memory, *(theirs.detach() for _, theirs in pairs)])
    segment = _channel.Segment(struct.pack("<IIB", 3, CAPACITY, 0), list(fds))
    session = mock.Mock()
    return _channel.Channel(segment, {}, session), [ours for ours, _ in pairs]


def ask(channel: _channel.Channel, numbers: range) -> None:
    """The client wants so many requests interrupted, a few at a time as there are slots."""
    words = memoryview(channel.map)[:4096].cast("I")
    slots = memoryview(channel.map)[1536:2048].cast("Q")
    for at in range(0, len(numbers), 64):
        for slot, number in enumerate(numbers[at : at + 64]):
            slots[slot] = number
        words[17] += 1
        channel.look()
        assert not any(slots)


class Limits(unittest.TestCase):
    def test_requests_to_be_interrupted(self) -> None:
        channel, ours = made()
        with mock.patch.object(_contract, "INTERRUPTS_MAX", 1000):
            ask(channel, range(1, 1001))
            self.assertEqual((len(channel.server.wanted), channel.server.is_gone), (1000, False))
            ask(channel, range(1001, 1002))
            self.assertTrue(channel.server.is_gone)
        channel.close()
        for one in ours:
            one.close()

    def test_a_client_that_takes_nothing(self) -> None:
        channel, ours = made()
        text: list[Any] = [3, 1, "stdout", "x" * 3000]
        with mock.patch.object(_channel, "_UNREAD_MS", 200):
            with self.assertRaisesRegex(_channel.BrokenChannel, "read nothing"):
                for _ in range(10):
                    channel.send_paced(text)
        self.assertFalse(channel.is_open)
        self.assertEqual(struct.unpack_from("<I", channel.map, 72), (_contract.ENDED_UNREAD,))
        channel.close()
        for one in ours:
            one.close()

    def test_a_client_that_takes_a_little_now_and_then(self) -> None:
        channel, ours = made()
        text: list[Any] = [3, 1, "stdout", "x" * 3000]
        sent = taken = 0
        while sent < 40:  # more than there is room for: each time some is made
            channel.send_paced(text)
            sent += 1
            if channel.is_behind:
                head = struct.unpack_from("<I", channel.map, 512)[0]
                tail = struct.unpack_from("<I", channel.map, 512 + 64)[0]
                struct.pack_into("<I", channel.map, 512, tail)
                taken += tail != head
        self.assertTrue(channel.is_open and taken > 3)
        channel.close()
        for one in ours:
            one.close()


class OneClient(unittest.TestCase):
    """What a client may lend and send a server."""

    def setUp(self) -> None:
        channel, self.ours = made()
        self.session = _session.Session.__new__(_session.Session)
        with mock.patch.object(_session, "Channel", lambda *_: channel):
            self.session.__init__(_serving.Serving(), mock.Mock())  # type: ignore[misc]

    def tearDown(self) -> None:
        self.session.serving.bound.forget(self.session)
        self.session.channel.close()
        for one in self.ours:
            one.close()

    def lend(self, name: object) -> None:
        self.session.handle([_contract.TO_WORKER_BIND, 0, name])

    def test_names_of_functions(self) -> None:
        most = _contract.BOUND_NAME_BYTES_MAX
        self.lend("ü" * (most // 2))
        self.assertEqual(self.session.lent, {"ü" * (most // 2)})
        for wrong in ("ü" * (most // 2) + "n", 7, None):
            with self.assertRaisesRegex(_channel.BrokenChannel, f"text of at most {most} bytes"):
                self.lend(wrong)

    def test_functions_that_are_lent(self) -> None:
        most = _contract.REQUESTS_MAX
        for at in range(most):
            self.lend(f"place.f{at}")
        self.lend("place.f0")
        with self.assertRaisesRegex(_channel.BrokenChannel, f"more than {most} functions are lent"):
            self.lend("more")
        self.assertEqual(len(self.session.lent), most)

    def test_what_ends_with_the_last_function_of_a_name(self) -> None:
        names = ("place", "place.one", "place.two")
        for name in names:
            self.lend(name)
        for name in names:
            self.assertIn("place", namespace(None))
            self.session.handle([_contract.TO_WORKER_UNBIND, 0, name])
        self.assertNotIn("place", namespace(None))

    def test_streams_that_are_sent(self) -> None:
        most = _contract.REQUESTS_MAX
        held = [self.session.receive_stream(StreamRef(at)) for at in range(most)]
        with self.assertRaisesRegex(_channel.BrokenChannel, f"or more than {most} are"):
            self.session.receive_stream(StreamRef(most))
        self.assertEqual(len(self.session.incoming), len(held))
        self.session.incoming.clear()

    def test_credit_of_streams(self) -> None:
        most = _contract.STREAM_CREDIT_MAX
        self.session.streams[1] = stream = _session.Outgoing(self.session, 1, iter(()))
        self.session.handle([_contract.TO_WORKER_CREDIT, 1, most])
        self.assertEqual(stream._credit, most)
        for wrong in (most + 1, 0, -1, 1.5, True, None):
            with self.assertRaisesRegex(_channel.BrokenChannel, f"from 1 to {most} items"):
                self.session.handle([_contract.TO_WORKER_CREDIT, 1, wrong])


class Waiting(unittest.TestCase):
    """Code that waits for its client goes on as soon as what it waits for has come, whoever took it, and whatever else
    is silent.
    """

    def hold(self, come: Any) -> None:
        serving = _serving.Serving()
        channel, ours = made()
        session = _session.Session.__new__(_session.Session)
        with mock.patch.object(_session, "Channel", lambda *_: channel):
            session.__init__(serving, mock.Mock())  # type: ignore[misc]
        channel.session = session
        serving._sessions.append(session)
        serving._by_fd[channel.socket.fileno()] = session
        serving._poll.register(channel.socket, select.POLLIN)
        stream = session.receive_stream(StreamRef(5))
        stream._wanted = 64
        come(session)

        def wait() -> None:
            serving._thread = threading.get_ident()
            serving.wait(session, lambda: bool(stream._items) or stream._is_over)

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        thread.join(30)
        is_waiting = thread.is_alive()
        for one in ours:
            one.close()
        self.assertFalse(is_waiting)

    def test_an_item_that_another_thread_has_read(self) -> None:
        self.hold(lambda session: session.channel.backlog.append([_contract.TO_WORKER_PUSH, 5, "item"]))

    def test_the_end_of_its_client(self) -> None:
        def leave(session: Any) -> None:
            session.channel.server.is_gone = True

        self.hold(leave)


class Carrier:
    """What a worker sends, and what it is sent."""

    def __init__(self, messages: list[Any]) -> None:
        self._messages = messages
        self.sent: list[list[Any]] = []

    def send(self, message: list[Any]) -> None:
        self.sent.append(message)

    def receive(self, timeout: float | None) -> Any:
        if not self._messages:
            raise _channel.BrokenChannel("the worker is gone")
        return self._messages.pop(0)

    def interrupt(self, number: int) -> None:
        pass

    def forget(self, number: int) -> None:
        pass

    def close(self) -> None:
        pass


class LentFunctions(unittest.TestCase):
    def test_what_is_not_a_call_is_an_error_of_that_call(self) -> None:
        invoke = _contract.TO_CLIENT_INVOKE
        wrong: list[list[Any]] = [
            *([], [2, [], None], [["twice"], [], None], ["twice", "ab", None]),
            *(["twice", [], [1]], ["twice", []], ["twice", [], None, None]),
        ]
        messages = [[invoke, at, *fields] for at, fields in enumerate(wrong)]
        carrier = Carrier([*messages, [invoke, 99, "twice", [21], None]])
        worker = _caller.Worker("hostile", carrier)
        worker._bound["twice"] = lambda value: 2 * value
        worker._wait(lambda: False, 30)
        told = [(kind, number, value["code"]) for kind, number, value in carrier.sent[:-1]]
        self.assertEqual(told, [(_contract.TO_WORKER_THROW, at, "BAD_REQUEST") for at in range(len(wrong))])
        self.assertEqual(carrier.sent[-1], [_contract.TO_WORKER_RETURN, 99, 42])

    def test_credit_of_streams(self) -> None:
        most = _contract.STREAM_CREDIT_MAX
        for credit, is_taken in ((most, True), (most + 1, False), (0, False), ("64", False)):
            worker = _caller.Worker("hostile", Carrier([[_contract.TO_CLIENT_WANT, 5, credit]]))
            source = worker._sources[5] = mock.Mock()
            worker._wait(lambda: False, 30)
            self.assertEqual(source.give.called, is_taken)
            self.assertEqual("the credit of a stream" in str(worker._ended), not is_taken)


class Bounds(unittest.TestCase):
    def test_items_of_a_stream_that_a_client_sends(self) -> None:
        most = _contract.STREAM_ITEMS_MAX
        incoming = _streams.Incoming(mock.Mock(), 1)
        with self.assertRaisesRegex(_channel.BrokenChannel, "than were requested"):
            incoming.push("before any was")
        incoming._ask()
        for item in range(most):
            incoming.push(item)
        with self.assertRaisesRegex(_channel.BrokenChannel, "than were requested"):
            incoming.push("one more")
        self.assertEqual(incoming._take(StopIteration), 0)
        with self.assertRaisesRegex(_channel.BrokenChannel, "than were requested"):
            incoming.push("still one more")

    def test_frames_of_the_control_socket(self) -> None:
        most = _contract.FRAME_BYTES_MAX
        self.assertEqual(len(_client._encode("x" * (most - 2))), most)
        with self.assertRaisesRegex(_client.IpcError, "too long"):
            _client._encode("x" * (most - 1))
        wire = _client._Wire.__new__(_client._Wire)
        for length, error in ((most, None), (most + 1, "at most")):
            told = [struct.pack("<I", length), b'"%s"' % (b"x" * (length - 2))]
            with mock.patch.object(wire, "_exactly", side_effect=told):
                if error is None:
                    self.assertEqual(len(wire.receive()), most - 2)
                else:
                    with self.assertRaisesRegex(_client.IpcError, error):
                        wire.receive()

    def test_names_and_messages_of_a_pipe(self) -> None:
        head = struct.pack("<IIB", 3, CAPACITY, _contract.CHANNEL_PIPE)
        most = _contract.PIPE_NAME_BYTES_MAX
        self.assertEqual(_channel._kind_and_name(3, head + b"n" * most)[1], "n" * most)
        with self.assertRaisesRegex(_channel.BrokenChannel, "1 to 48"):
            _channel._kind_and_name(3, head + b"n" * (most + 1))
        longest = _contract.PIPE_MESSAGE_BYTES_MAX
        end = _end.End(_contract.SEGMENT_VERSION)
        size = _contract.SEGMENT_DATA + 2 * _end._CAPACITY
        ring = _channel.SharedRingBuffer(
            mmap.mmap(-1, size), _contract.SEGMENT_RING_A, _contract.SEGMENT_DATA, _end._CAPACITY, True
        )
        self.assertTrue(ring.try_send(bytes(longest)))
        with self.assertRaises(ValueError):
            ring.try_send(bytes(longest + 1))
        end.half.close()
        end.close()


class Relays(unittest.TestCase):
    def test_channels_that_nobody_waits_for(self) -> None:
        one = _serving.Serving()
        ends: list[int] = []
        ours, theirs = os.pipe()
        one._keep_relay("given up", _end.Half(b"", [theirs]))
        self.assertEqual(os.read(ours, 1), b"")
        os.close(ours)

        def keep(number: int) -> None:
            ours, theirs = os.pipe()
            ends.append(ours)
            one._keep_relay(f"label {number}", _end.Half(b"", [theirs]))

        def are_open() -> int:
            return sum(not select.select([end], [], [], 0)[0] for end in ends)

        with one.relays():
            for number in range(_contract.POLICY_RUNTIMES_MAX):
                keep(number)
            self.assertEqual(are_open(), len(ends))
            keep(len(ends))
            self.assertEqual(are_open(), _contract.POLICY_RUNTIMES_MAX)
            self.assertIsNone(one.take_relay("label 0", 0))
            taken = one.take_relay("label 1", 0)
            assert taken is not None
        self.assertEqual(are_open(), 1)
        taken.close()
        for end in ends:
            os.close(end)


class LongMessages(unittest.TestCase):
    def test_parts_are_put_together_again(self) -> None:
        parts = Parts()
        for size in (0, 1, 15, 16, 17, 45, 46, 1000):
            message = b"\x83" * size
            frames = list(framed(message, 16))
            self.assertLessEqual(max(map(len, frames)), 16)
            self.assertEqual([parts.whole(one) for one in frames], [None] * (len(frames) - 1) + [message])

    def test_small_parts_cost_their_bytes(self) -> None:
        parts = Parts()
        frames = [bytes((_contract.PART_MORE, at & 255, at >> 8)) for at in range(50_000)]
        tracemalloc.start()
        try:
            for one in frames:
                parts.whole(one)
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        self.assertLess(held, 3 * 2 * len(frames))
        self.assertEqual(len(parts.whole(bytes((_contract.PART_LAST,))) or b""), 2 * len(frames))

    def test_a_message_of_a_stream_that_comes_byte_by_byte_costs_its_bytes(self) -> None:
        size = 5000
        for transport, first in ((Frames, struct.pack("<I", 2 * size)), (Lines, b"[")):
            ours, theirs = socket.socketpair()
            with ours, theirs:
                one = transport(ours)
                theirs.sendall(first)
                one.read(0)
                tracemalloc.start()
                try:
                    for _ in range(size):
                        theirs.send(b" ")
                        self.assertIsNone(one.read(0))
                    held, _ = tracemalloc.get_traced_memory()
                finally:
                    tracemalloc.stop()
                self.assertLess(held, 3 * size)
                one.close()

    def test_one_byte_more_than_a_message_may_have(self) -> None:
        with mock.patch("ipcctl._parts.MESSAGE_BYTES_MAX", 4):
            self.assertEqual(Parts().whole(b"\x02abcd"), b"abcd")
            parts = Parts()
            parts.whole(b"\x01abcd")
            with self.assertRaisesRegex(_channel.BrokenChannel, "more than 4 bytes"):
                parts.whole(b"\x01e")


if __name__ == "__main__":
    unittest.main()
