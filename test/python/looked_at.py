"""What a client gives up before it begins does not begin, also while another thread is just looking at what is given
up.

``looked_at.py before|during``: a call has been taken from the ring and has not begun; the main thread is held up in its
look, and the client's interrupt comes after that has acknowledged what is new (``before`` the next look), or is part
of it (``during`` this one).
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from typing import Any
from collections.abc import Iterator

import interrupt_points as points
from ipcctl import _backend, _serving


class Watched:
    """A lock that tells who waits for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.is_waited_for = threading.Event()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self._lock.acquire(blocking=False):
            return True
        if not blocking:
            return False
        self.is_waited_for.set()
        return self._lock.acquire(timeout=timeout)

    def release(self) -> None:
        self._lock.release()


class Slots:
    """What the client wants interrupted; who looks is held up first."""

    def __init__(self, slots: Any, hold: Any) -> None:
        self._slots, self._hold = slots, hold

    def __iter__(self) -> Iterator[int]:
        self._hold()
        return iter(self._slots)

    def __setitem__(self, index: int, number: int) -> None:
        self._slots[index] = number


def main() -> None:
    when = sys.argv[1]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    os.environ["IPCCTL_PLANE_FD"] = str(theirs.detach())
    signal.signal(signal.SIGURG, points.on_signal)
    _serving.serving().attach("")
    assert ours.recv(1) == b"a"
    threading.Thread(target=points.serve, daemon=True).start()
    client = points.Client(ours)
    points.clients.append(client)
    for _ in range(3):  # first times import this and that
        assert client.answer(points.keywords(client))[0] == points.RESULT
    session = _serving.serving()._sessions[0]
    channel = session.channel
    lock = channel._looking = Watched()
    number = points.Client.number + 1
    points.ended.clear()
    is_taken, may_begin = threading.Event(), threading.Event()
    handle = session.handle

    def handle_later(message: list[Any]) -> None:
        is_taken.set()
        assert may_begin.wait(points.DEADLINE_SECONDS)
        handle(message)

    def hold() -> None:
        if threading.current_thread() is not threading.main_thread() or may_begin.is_set():
            return
        if when == "before":
            client.want(number)
        may_begin.set()
        client.until(
            lambda: lock.is_waited_for.is_set() or number in client.answers, "who waits for this look, or an answer"
        )

    session.handle = handle_later  # type: ignore[method-assign]
    channel._slots = Slots(channel._slots, hold)
    points.keywords(client)
    assert is_taken.wait(points.DEADLINE_SECONDS)
    if when == "during":
        client.want(number)
    channel.look()
    kind, *rest = client.answer(number)
    print(
        f"{_backend.implementation} {when}: {'it did not begin' if number not in points.ended and kind == points.ERROR else [kind, *rest]}",
        flush=True,
    )
    os._exit(0)


if __name__ == "__main__":
    main()
