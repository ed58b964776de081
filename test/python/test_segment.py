"""What the runtime takes for a channel: both layouts, and nothing that is neither."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import unittest

import support  # noqa: F401 - makes the package importable
from ipcctl._channel import Segment
from ipcctl._backend import BrokenChannel

# Typed here once more on purpose: docs/internals/shm-layout.md.
CAPACITY = 4096
SIZE = 4096 + 2 * CAPACITY
ADD_SEALS, SEAL_SHRINK_GROW = 1033, 0x2 | 0x4


class SegmentTest(unittest.TestCase):
    def hand_in(self, payload: bytes, magic: bytes) -> Segment:
        memory = os.memfd_create("segment", os.MFD_ALLOW_SEALING)
        os.ftruncate(memory, SIZE)
        os.pwrite(memory, magic, 0)
        fcntl.fcntl(memory, ADD_SEALS, SEAL_SHRINK_GROW)
        ends = [*socket.socketpair(), *socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)]
        self.addCleanup(lambda: [one.close() for one in ends])
        fds = [memory, os.dup(ends[0].fileno()), os.dup(ends[2].fileno())]
        try:
            segment = Segment(payload, fds)
        except BrokenChannel:
            for fd in fds:
                os.close(fd)
            raise
        self.addCleanup(segment.socket.close)
        self.addCleanup(segment.descriptors.close)
        return segment

    def test_both_versions(self) -> None:
        for version, payload, kind, name in (
            (2, b"", 0, ""),
            (2, b"prices", 1, "prices"),
            (3, b"\x00", 0, ""),
            (3, b"\x01prices", 1, "prices"),
            (3, b"\x01" + b"n" * 48, 1, "n" * 48),
            (3, b"\x02", 2, ""),
        ):
            with self.subTest(version=version, payload=payload):
                segment = self.hand_in(struct.pack("<II", version, CAPACITY) + payload, b"IPCCTL" + bytes((version, 0)))
                self.assertEqual((segment.version, segment.kind, segment.name), (version, kind, name))

    def test_refused(self) -> None:
        for version, payload, magic, says in (
            (1, b"", b"IPCCTL\x01\x00", "layout 1 of a channel is not known, only 2 and 3"),
            (4, b"\x00", b"IPCCTL\x04\x00", "layout 4 of a channel"),
            (3, b"\x00", b"IPCCTL\x02\x00", "magic"),
            (2, b"", b"IPCCTL\x03\x00", "magic"),
            (3, b"", b"IPCCTL\x03\x00", "kind of the channel is missing"),
            (3, b"\x03", b"IPCCTL\x03\x00", "kind 3 are not known"),
            (3, b"\x00prices", b"IPCCTL\x03\x00", "a name of 6 bytes"),
            (3, b"\x01", b"IPCCTL\x03\x00", "a name of 0 bytes"),
            (3, b"\x01" + b"n" * 49, b"IPCCTL\x03\x00", "a name of 49 bytes"),
            (2, b"n" * 49, b"IPCCTL\x02\x00", "a name of 49 bytes"),
        ):
            with (
                self.subTest(version=version, payload=payload, magic=magic),
                self.assertRaisesRegex(BrokenChannel, says),
            ):
                self.hand_in(struct.pack("<II", version, CAPACITY) + payload, magic)


if __name__ == "__main__":
    unittest.main()
