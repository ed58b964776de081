"""Answers clients if the console cannot start: tells them why, and needs next to nothing for that."""

import os
import struct
import sys
from _frozen_importlib import module_from_spec
from _frozen_importlib_external import PathFinder

_KEPT = 16


def refuse(library, error):
    """Takes one client after the other, with a HELLO that contains the error. Ends with the shim."""
    reason = type(error).__name__ + (": " + str(error) if str(error) else "")
    sys.stderr.write("ipcctl: the console cannot start: %s\n" % reason)
    spec = PathFinder.find_spec("_contract", [os.path.join(library.folder, "ipcctl")])
    contract = module_from_spec(spec)
    spec.loader.exec_module(contract)
    socket, mmap = library.module("_socket"), library.module("mmap")
    meeting = _meet(library, socket)
    kept = []  # until the client has read it
    while True:
        payload, ancillary, _, _ = meeting.recvmsg(64, socket.CMSG_SPACE(4 * contract.CHANNEL_FDS_FORWARDED))
        if not payload:
            return
        fds = []
        for _, _, content in ancillary:
            fds.extend(struct.unpack("%di" % (len(content) // 4), content[: len(content) // 4 * 4]))
        if len(fds) == contract.CHANNEL_FDS_FORWARDED:
            try:
                _greet(contract, mmap, payload, fds, reason)
            except (OSError, ValueError, struct.error):
                pass  # it sent something invalid
        kept.append(fds)
        while kept and (len(kept) > _KEPT or len(kept[0]) != contract.CHANNEL_FDS_FORWARDED):
            for fd in kept.pop(0):
                os.close(fd)


def _meet(library, socket):
    passed = os.environ.pop("IPCCTL_PLANE_FD", None)
    if passed is not None:
        meeting = socket.socket(fileno=int(passed))
        meeting.setblocking(True)
        meeting.send(b"a")
        return meeting
    meeting = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    path = library.plane
    held = library.held_plane()
    if held is not None:
        meeting.connect("/proc/self/fd/%d" % held)
        return meeting
    folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        meeting.connect("/proc/self/fd/%d/%s" % (folder, os.path.basename(path)))
    finally:
        os.close(folder)
    return meeting


def _greet(contract, mmap, payload, fds, reason):
    """The first frame of ring B: ``[HELLO, 0, {"error": reason}]`` in CBOR."""
    text = reason.encode("utf-8", "replace")[:4096].decode("utf-8", "ignore").encode()
    hello = b"\x83" + bytes((contract.TO_CLIENT_HELLO, 0)) + b"\xa1\x65error\x7a" + struct.pack(">I", len(text)) + text
    frame = struct.pack("<I", len(hello)) + hello
    frame += bytes(-len(frame) % 8)
    capacity = struct.unpack_from("<I", payload, 4)[0]
    memory = mmap.mmap(fds[0], contract.SEGMENT_DATA + 2 * capacity)
    at = contract.SEGMENT_DATA + capacity
    memory[at : at + len(frame)] = frame
    at = contract.SEGMENT_RING_B + contract.RING_TAIL
    memory[at : at + 4] = struct.pack("<I", len(frame))
    memory.close()
    os.write(fds[1], b"\x01")
