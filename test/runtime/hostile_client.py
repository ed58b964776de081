"""A client that opens channels by hand and then writes whatever it likes: argv is the shim's socket and a seed."""

import array
import fcntl
import mmap
import os
import random
import socket
import struct
import sys
import time

path, seed = sys.argv[1], int(sys.argv[2])
random_ = random.Random(seed)
CAPACITY = 1 << 16
SIZE = 4096 + 2 * CAPACITY


def frame(kind, payload=b""):
    return struct.pack("<IB", len(payload) + 1, kind) + payload


def open_channel(size=SIZE, seals=7, magic=b"IPCCTL\x02\x00", version=2, capacity=CAPACITY, label=b""):
    """Returns the map and our end of the socket; asks until a runtime is attached."""
    segment = os.memfd_create("hostile", os.MFD_ALLOW_SEALING)
    os.ftruncate(segment, size)
    memory = mmap.mmap(segment, size)
    memory[: len(magic)] = magic
    fcntl.fcntl(segment, 1033, seals)
    own, theirs = socket.socketpair()
    shim = socket.socket(socket.AF_UNIX)
    shim.connect(path)
    descriptors, their_descriptors = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    their_life, life = os.pipe()
    fds = array.array("i", [segment, theirs.fileno(), their_descriptors.fileno(), their_life])
    for _ in range(500):
        shim.sendmsg(
            [frame(38, struct.pack("<II", version, capacity) + label)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)]
        )
        answer = shim.recv(4096)
        if 69 in (answer[4], answer[-2]):
            break
        shim.send(frame(39))
        shim.recv(4096)
        time.sleep(0.01)
    for fd in (segment, their_life, life):
        os.close(fd)
    for one in (theirs, descriptors, their_descriptors):
        one.close()
    shim.close()
    return memory, own


def ring(own):
    """False if the worker, which looks without a bell while it is busy, has ended the channel already."""
    try:
        own.send(b"\x01")
    except OSError:
        return False
    return True


def put(memory, own, payload, tail):
    at = 4096 + tail
    memory[at : at + 4 + len(payload)] = struct.pack("<I", len(payload)) + payload
    struct.pack_into("<I", memory, 256 + 64, tail + (len(payload) + 11) // 8 * 8)
    ring(own)


# Channels that must be refused: their socket ends.
for lie in (
    {"seals": 0},
    {"size": SIZE - 4096},
    {"magic": b"nothing"},
    {"version": 1},
    {"capacity": 1 << 30},
    {"capacity": 12345},
    {"label": b"x" * 51},
):
    memory, own = open_channel(**lie)
    own.settimeout(200)
    while (said := own.recv(64)) != b"":
        assert set(said) == {1}, said
    print("refused", lie, flush=True)

# Messages that are none.
for payload in (
    b"",
    b"\xff",
    b"\x20",
    b"\x82\x18\x63\x00",
    b"\x83\x01\x61a\x00",
    b"\x82\x01\x01",
    b"\x9a\xff\xff\xff\xff",
    b"\x01" * 50,
    b"\x85\x01\x01\x63add\x05\xf6",
    b"\x84\x02\x01\x05\x05",
    b"\x83\x04\x01\x20",
    b"\x83\x05\x00\x61-",
):
    memory, own = open_channel()
    put(memory, own, payload, 0)
    own.close()
print("garbage sent", flush=True)

# Random words everywhere, while the worker looks.
for _ in range(300):
    memory, own = open_channel()
    for _ in range(random_.randrange(1, 60)):
        offset = random_.choice([64, 256, 320, 384, 512, 576, 640, 4096 + random_.randrange(2 * CAPACITY) // 4 * 4])
        struct.pack_into(
            "<I", memory, offset, random_.choice([0, 1, 8, CAPACITY, CAPACITY + 8, 0xFFFFFFFF, random_.getrandbits(32)])
        )
        if not ring(own):
            break
    if random_.random() < 0.5:
        own.close()
print("done", flush=True)
