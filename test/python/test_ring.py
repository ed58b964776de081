"""Rings, bells, and peers that write what they like."""

from __future__ import annotations

import mmap
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import unittest
import zlib
from types import ModuleType
from typing import Any

from support import IMPLEMENTATIONS, PACKAGES

from ipcctl import BrokenChannel

HERE = os.path.dirname(os.path.abspath(__file__))
SEED = int(os.environ.get("IPCCTL_SEED", "7"))
CAPACITY = 4096
SIZE = 256 + CAPACITY
U32 = struct.Struct("<I")


def ends(producer: ModuleType, consumer: ModuleType, position: int = 0, capacity: int = CAPACITY) -> Any:
    memory = mmap.mmap(-1, 256 + capacity)
    U32.pack_into(memory, 0, position)
    U32.pack_into(memory, 64, position)
    return (
        producer.SharedRingBuffer(memory, 0, 256, capacity, True, position),
        consumer.SharedRingBuffer(memory, 0, 256, capacity, False, position),
        memory,
    )


def pairs() -> Any:
    for one in IMPLEMENTATIONS:
        for two in IMPLEMENTATIONS:
            yield f"{one}->{two}", IMPLEMENTATIONS[one], IMPLEMENTATIONS[two]


class Rings(unittest.TestCase):
    def test_layout(self) -> None:
        for name, module, _ in pairs():
            with self.subTest(name):
                sender, _, memory = ends(module, module)
                self.assertTrue(sender.try_send(b"hello"))
                self.assertEqual(memory[256:272], b"\x05\0\0\0hello\0\0\0\0\0\0\0")
                self.assertEqual(U32.unpack_from(memory, 64)[0], 16)

    def test_every_size_at_every_wrap(self) -> None:
        body = random.Random(SEED).randbytes(CAPACITY)
        for name, one, two in pairs():
            with self.subTest(name):
                for start in (0, 2**32 - 2 * CAPACITY):
                    sender, receiver, _ = ends(one, two, start)
                    for size in range(CAPACITY - 3):
                        self.assertTrue(sender.try_send(body[:size]))
                        self.assertEqual(receiver.try_receive(), body[:size])
                        self.assertIsNone(receiver.try_receive())
                for start in range(2**32 - CAPACITY, 2**32 + 8, 8):
                    sender, receiver, _ = ends(one, two, start % 2**32)
                    for size in (0, 1, 12, 13, 500, CAPACITY - 4):
                        self.assertTrue(sender.try_send(memoryview(body)[:size]))
                        self.assertEqual(receiver.try_receive(), body[:size])

    def test_full_and_bells(self) -> None:
        for name, one, two in pairs():
            with self.subTest(name):
                sender, receiver, _ = ends(one, two)
                self.assertRaises(ValueError, sender.try_send, bytes(CAPACITY - 3))
                self.assertFalse(sender.needs_bell())
                self.assertTrue(receiver.prepare_sleep())
                self.assertTrue(sender.try_send(bytes(2000)))
                self.assertTrue(sender.needs_bell())
                self.assertFalse(sender.needs_bell())
                self.assertFalse(receiver.prepare_sleep())
                self.assertFalse(sender.needs_bell())
                self.assertTrue(sender.try_send(bytes(2000)))
                self.assertFalse(receiver.needs_bell())
                self.assertFalse(sender.try_send(bytes(2000)))
                self.assertEqual(receiver.try_receive(), bytes(2000))
                self.assertTrue(receiver.needs_bell())
                self.assertFalse(receiver.needs_bell())
                self.assertTrue(sender.try_send(bytes(2000)))
                self.assertEqual([receiver.try_receive(), receiver.try_receive()], [bytes(2000)] * 2)
                self.assertTrue(receiver.prepare_sleep())
                receiver.cancel_sleep()
                self.assertTrue(sender.try_send(b""))
                self.assertFalse(sender.needs_bell())
                self.assertRaises(TypeError, receiver.try_send, b"")
                self.assertRaises(TypeError, sender.try_receive)
                self.assertRaises(TypeError, sender.try_send, "text")

    def test_arguments(self) -> None:
        for name, module in IMPLEMENTATIONS.items():
            with self.subTest(name):
                memory = mmap.mmap(-1, 8192)
                for args in [
                    (0, 256, 2048, True), (0, 256, 5000, True), (0, 256, 8192, True), (8, 256, 4096, True),
                    (0, 4, 4096, True), (0, 128, 4096, True), (-64, 256, 4096, True), (0, -8, 4096, True),
                    (8192, 0, 4096, True),
                    (0, 256, 2**31, True), (0, 256, 4096, True, 4), (0, 256, 4096, True, 2**32),
                    (0, 256, 4096, True, -8),
                ]:  # fmt: skip
                    self.assertRaises(ValueError, module.SharedRingBuffer, memory, *args)
                self.assertRaises(BufferError, module.SharedRingBuffer, bytes(8192), 0, 256, 4096, True)
                module.SharedRingBuffer(memory, 4096, 0, 4096, False)

    def test_spinning(self) -> None:
        for name, module in IMPLEMENTATIONS.items():
            with self.subTest(name):
                sender, receiver, _ = ends(module, module)
                began = time.monotonic()
                self.assertIsNone(receiver.receive_spin(20000))
                self.assertTrue(0.019 < time.monotonic() - began < 60)
                for bad in (-1, float("nan"), 2e6):
                    self.assertRaises(ValueError, receiver.receive_spin, bad)
                    self.assertRaises(ValueError, receiver.look_out, bad)
                self.assertIsNone(receiver.look_out(60))
                threading.Timer(0.02, sender.try_send, (b"late",)).start()
                self.assertEqual(receiver.receive_spin(1000000), b"late")
                sender.try_send(b"there")
                self.assertEqual(receiver.look_out(0), b"there")

    def test_getting(self) -> None:
        for name, one, two in pairs():
            with self.subTest(name):
                sender, receiver, _ = ends(one, two)
                ours, theirs = (end for end in socket.socketpair())
                with ours, theirs:
                    for end in (ours, theirs):
                        end.setblocking(False)
                    began = time.monotonic()
                    self.assertIsNone(receiver.get(ours, 60, 0.02))
                    self.assertTrue(0.019 < time.monotonic() - began < 60)
                    self.assertIsNone(receiver.get(ours, 0, 0))
                    for bad in (-1, float("nan"), 2e6):
                        self.assertRaises(ValueError, receiver.get, ours, bad, 0)
                    # Asleep, and rung by the sender alone.
                    threading.Timer(0.02, sender.put, (theirs, b"late")).start()
                    self.assertEqual(receiver.get(ours, 60, None), b"late")
                    # Nobody sleeps, so nobody is rung.
                    self.assertTrue(sender.put(theirs, bytes(2000)))
                    self.assertTrue(sender.put(theirs, bytes(2000)))
                    self.assertRaises(BlockingIOError, ours.recv, 1)
                    # A full ring asks for a bell, and whoever takes rings.
                    self.assertFalse(sender.put(theirs, bytes(2000)))
                    self.assertEqual(receiver.get(ours, 0, None), bytes(2000))
                    self.assertEqual(theirs.recv(8), b"\1")
                    self.assertRaises(ValueError, sender.put, theirs, bytes(CAPACITY))
                    self.assertRaises(TypeError, sender.put, theirs, "text")
                    self.assertRaises(TypeError, receiver.put, theirs, b"")
                    self.assertRaises(TypeError, sender.get, ours, 0, 0)
                    # What was sent before the end comes before it.
                    theirs.close()
                    self.assertEqual(receiver.get(ours, 60, None), bytes(2000))
                    self.assertIs(receiver.get(ours, 60, None), False)
                    self.assertTrue(sender.put(theirs, b"x"))
                    ours.close()
                    self.assertEqual(receiver.get(ours, 60, None), b"x")
                    self.assertIs(receiver.get(ours, 60, None), False)

    def test_rousing(self) -> None:
        for name, one, two in pairs():
            with self.subTest(name):
                sender, receiver, _ = ends(one, two)
                is_pure = "pure" in one.__name__
                ours, theirs = socket.socketpair()
                with ours, theirs:
                    for end in (ours, theirs):
                        end.setblocking(False)

                    def bells() -> int:
                        try:
                            return len(ours.recv(64))
                        except BlockingIOError:
                            return 0

                    def ask() -> tuple[int, int]:
                        """Bells before the frame and with it, where the consumer is asleep again in between."""
                        self.assertTrue(receiver.prepare_sleep())
                        sender.rouse(theirs)
                        early = bells()
                        receiver.cancel_sleep()
                        self.assertTrue(receiver.prepare_sleep())
                        self.assertTrue(sender.put(theirs, b"x"))
                        self.assertEqual(receiver.try_receive(), b"x")
                        return early, bells()

                    sender.rouse(theirs)
                    self.assertEqual(bells(), 0)  # it is awake
                    found = [ask() for _ in range(9)]
                    # In vain: 1, 3 and then 7 of them are left out.
                    early = [0] * 9 if is_pure else [1, 0, 1, 0, 0, 0, 1, 0, 0]
                    self.assertEqual(found, [(first, 1) for first in early])
                    # Rung before there is a frame, and not again: it is found; what never comes holds up nobody.
                    theirs.send(b"\1")
                    threading.Timer(0.02, sender.put, (theirs, b"late")).start()
                    self.assertEqual(receiver.get(ours, 60, 60), b"late")
                    theirs.send(b"\1")
                    self.assertIsNone(receiver.get(ours, 60, 0.02))
                self.assertRaises(TypeError, receiver.rouse, theirs)

    def test_a_signal_while_getting(self) -> None:
        seen: list[int] = []

        def note(*_: object) -> None:
            seen.append(1)
            if len(seen) == 2:
                raise KeyboardInterrupt

        for name, module in IMPLEMENTATIONS.items():
            with self.subTest(name):
                seen.clear()
                _, receiver, _ = ends(module, module)
                before = signal.signal(signal.SIGUSR1, note)
                ours, theirs = socket.socketpair()
                ours.setblocking(False)
                stop = threading.Event()

                def disturb() -> None:
                    while not stop.wait(0.01):
                        os.kill(os.getpid(), signal.SIGUSR1)

                thread = threading.Thread(target=disturb)
                thread.start()
                try:
                    with ours, theirs, self.assertRaises(KeyboardInterrupt):
                        receiver.get(ours, 60, None)
                finally:
                    stop.set()
                    thread.join()
                    signal.signal(signal.SIGUSR1, before)
                self.assertGreaterEqual(len(seen), 2)

    def test_many_threads_while_spinning(self) -> None:
        for name, module in IMPLEMENTATIONS.items():
            with self.subTest(name):
                sender, receiver, _ = ends(module, module)
                got: list[bytes] = []
                stop = threading.Event()

                def spin() -> None:
                    while not stop.is_set():
                        payload = receiver.receive_spin(500)
                        if payload is not None:
                            got.append(payload)

                threads = [threading.Thread(target=spin) for _ in range(4)]
                for thread in threads:
                    thread.start()
                for number in range(1000):
                    deadline = time.monotonic() + 300
                    while not sender.try_send(b"%d" % number):
                        self.assertLess(time.monotonic(), deadline)
                        time.sleep(0)
                deadline = time.monotonic() + 300
                while len(got) < 1000 and time.monotonic() < deadline:
                    time.sleep(0.01)
                stop.set()
                for thread in threads:
                    thread.join()
                self.assertEqual(sorted(got, key=int), [b"%d" % number for number in range(1000)])


# Both ways between two processes, asleep whenever there is nothing to do; a lost bell ends in the
# time limit.
PEER = """
import mmap, os, random, sys, zlib
sys.path[:0] = sys.argv[6:]
from support import IMPLEMENTATIONS
m = IMPLEMENTATIONS[sys.argv[1]]
memory = mmap.mmap(int(sys.argv[2]), 2 * 4352)
mine, theirs, rounds = int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
recv, send = m.SharedRingBuffer(memory, 0, 256, 4096, False), m.SharedRingBuffer(memory, 4352, 4608, 4096, True)
from test_ring import answer
answer(m, recv, send, mine, theirs, rounds)
"""


def sleep_until(m: ModuleType, bell: int) -> None:
    # Pure Python promises no order on ARM: it looks again after a while.
    poll = select.poll()
    poll.register(bell, select.POLLIN)
    if poll.poll(200 if "pure" in m.__name__ else 20000):
        os.eventfd_read(bell)
    elif "pure" not in m.__name__:
        raise AssertionError("a bell was lost")


def put(m: ModuleType, ring: Any, payload: bytes, mine: int, theirs: int) -> None:
    while not ring.try_send(payload):
        sleep_until(m, mine)
    if ring.needs_bell():
        os.eventfd_write(theirs, 1)


def take(m: ModuleType, ring: Any, mine: int, theirs: int) -> bytes:
    while (payload := ring.look_out(60)) is None:
        if ring.prepare_sleep():
            sleep_until(m, mine)
            ring.cancel_sleep()
    if ring.needs_bell():
        os.eventfd_write(theirs, 1)
    return payload


def answer(m: ModuleType, recv: Any, send: Any, mine: int, theirs: int, rounds: int) -> None:
    for _ in range(rounds):
        payload = take(m, recv, mine, theirs)
        put(m, send, U32.pack(zlib.crc32(payload)) + payload[:100], mine, theirs)


class TwoProcesses(unittest.TestCase):
    def test_random_traffic(self) -> None:
        for name, one, two in pairs():
            with self.subTest(name):
                self.traffic(one, two, 4000)

    def traffic(self, one: ModuleType, two: ModuleType, rounds: int) -> None:
        fd = os.memfd_create("ring")
        os.ftruncate(fd, 2 * 4352)
        memory = mmap.mmap(fd, 2 * 4352)
        mine, theirs = os.eventfd(0), os.eventfd(0)
        for end in (fd, mine, theirs):
            os.set_inheritable(end, True)
        name = next(name for name, module in IMPLEMENTATIONS.items() if module is two)
        child = subprocess.Popen(
            [
                sys.executable,
                "-c",
                PEER,
                name,
                *map(str, (fd, theirs, mine, rounds)),
                HERE,
                PACKAGES,
            ],
            pass_fds=(fd, mine, theirs),
        )
        try:
            send, recv = (
                one.SharedRingBuffer(memory, 0, 256, 4096, True),
                one.SharedRingBuffer(memory, 4352, 4608, 4096, False),
            )
            rnd = random.Random(SEED)
            waiting: list[bytes] = []

            def check() -> None:
                payload = waiting.pop(0)
                self.assertEqual(take(one, recv, mine, theirs), U32.pack(zlib.crc32(payload)) + payload[:100])

            for _ in range(rounds):
                payload = rnd.randbytes(rnd.choice([0, 1, 7, 8, rnd.randrange(200), rnd.randrange(4089)]))
                # Few enough that the answers always fit: this side does not read while it sends.
                put(one, send, payload, mine, theirs)
                waiting.append(payload)
                while len(waiting) > rnd.randrange(1, 20):
                    check()
            while waiting:
                check()
            self.assertEqual(child.wait(60), 0)
        finally:
            child.kill()
            child.wait()
            for end in (fd, mine, theirs):
                os.close(end)


HOSTILE = """
import random, sys
sys.path[:0] = sys.argv[3:]
from support import IMPLEMENTATIONS
from test_ring import attack
attack(IMPLEMENTATIONS[sys.argv[1]], int(sys.argv[2]))
"""


def attack(module: ModuleType, seed: int) -> None:
    """Random words where the peer writes, in a process of its own: a crash is seen as one."""
    rnd = random.Random(seed)
    broken = 0
    for _ in range(6000):
        start = rnd.choice([0, 2**32 - 64, 4096, 8 * rnd.randrange(2**29)])
        sender, receiver, memory = ends(module, module, start)
        for _ in range(rnd.randrange(4)):
            sender.try_send(rnd.randbytes(rnd.randrange(1500)))
        words = [
            0,
            1,
            8,
            2**31,
            2**32 - 1,
            2**32 - 8,
            rnd.getrandbits(32),
            start + 8 * rnd.randrange(1024),
            start + 8,
            start - 8,
        ]
        for at in rnd.choice([[0], [64], [256], [0, 64], [64, 256], [0, 64, 128, 132, 256]]):
            if at == 256:
                at += (start + rnd.choice([0, 0, 8])) % CAPACITY
            U32.pack_into(memory, at, rnd.choice(words) % 2**32)
        for ring, calls in (
            (
                receiver,
                [
                    receiver.try_receive,
                    receiver.prepare_sleep,
                    lambda: receiver.receive_spin(5),
                    lambda: receiver.look_out(5),
                    receiver.needs_bell,
                ],
            ),
            (sender, [lambda: sender.try_send(bytes(rnd.randrange(4000))), sender.needs_bell]),
        ):
            for _ in range(8):
                try:
                    got = rnd.choice(calls)()
                    assert not ring.broken
                    assert got is None or isinstance(got, bool) or len(got) <= CAPACITY - 4
                except BrokenChannel:
                    assert ring.broken
            if ring.broken:
                broken += 1
                U32.pack_into(memory, 0, start)
                U32.pack_into(memory, 64, start)
                for call in calls:
                    try:
                        call()
                        raise SystemExit("a broken channel came back")
                    except BrokenChannel:
                        pass
        receiver.cancel_sleep()
    assert broken > 500, broken
    # While the other side writes all the time.
    sender, receiver, memory = ends(module, module)
    stop = threading.Event()

    def scribble() -> None:
        while not stop.is_set():
            U32.pack_into(memory, 64, rnd.choice([0, 8, 16, 4096]))

    thread = threading.Thread(target=scribble)
    thread.start()
    try:
        for _ in range(300):
            receiver = module.SharedRingBuffer(memory, 0, 256, CAPACITY, False)
            try:
                receiver.receive_spin(300)
            except BrokenChannel:
                pass
    finally:
        stop.set()
        thread.join()
    print("survived")


class HostilePeers(unittest.TestCase):
    def test_corrupt_control_blocks(self) -> None:
        for name in IMPLEMENTATIONS:
            with self.subTest(name):
                done = subprocess.run(
                    [sys.executable, "-c", HOSTILE, name, str(SEED), HERE, PACKAGES],
                    capture_output=True, text=True, timeout=1200,
                )  # fmt: skip
                self.assertEqual(
                    (done.returncode, done.stdout[-9:]),
                    (0, "survived\n"),
                    done.stdout + done.stderr,
                )

    def test_impossible_values(self) -> None:
        for name, module in IMPLEMENTATIONS.items():
            for at, value in [(64, 4104), (64, 12), (64, 2**32 - 8), (256, 5), (256, 2**32 - 1)]:
                with self.subTest(name, at=at, value=value):
                    sender, receiver, memory = ends(module, module)
                    sender.try_send(b"four")
                    U32.pack_into(memory, at, value)
                    self.assertRaises(BrokenChannel, receiver.try_receive)
                    self.assertTrue(receiver.broken)
            for value in (8, 4, 2**32 - 4096 - 8):
                sender, _, memory = ends(module, module)
                U32.pack_into(memory, 0, value)
                self.assertRaises(BrokenChannel, sender.try_send, b"")
                U32.pack_into(memory, 0, 0)
                self.assertRaises(BrokenChannel, sender.try_send, b"")


if __name__ == "__main__":
    unittest.main()
