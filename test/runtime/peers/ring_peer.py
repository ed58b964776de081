"""One end of a ring in Python: ring_peer.py PACKAGES PATH produce|consume SEED FRAMES. As native/fuzz/ring_peer.c."""

import mmap
import os
import sys
import time

packages, path, role, seed, frames = sys.argv[1:]
sys.path.insert(0, packages)
from ipcctl import SharedRingBuffer  # noqa: E402

CAPACITY, LONGEST, MASK = 4096, 1200, 0xFFFFFFFF
fd = os.open(path, os.O_RDWR)
ring = SharedRingBuffer(mmap.mmap(fd, 256 + CAPACITY), 0, 256, CAPACITY, role == "produce")
state, total = int(seed), 2166136261


def step() -> int:
    global state
    state = (state * 1664525 + 1013904223) & MASK
    return state


def add(frame: bytes) -> None:
    global total
    for byte in frame:
        total = (total ^ byte) * 16777619 & MASK
    total = (total ^ len(frame)) * 16777619 & MASK


for _ in range(int(frames)):
    if role == "produce":
        size = (step() >> 8) % LONGEST
        frame = bytes(step() >> 24 for _ in range(size))
        while not ring.try_send(frame):
            time.sleep(0)
        ring.needs_bell()
    else:
        while (frame := ring.receive_spin(100)) is None:
            if ring.prepare_sleep():
                time.sleep(0)
            ring.cancel_sleep()
    add(frame)
print(total)
