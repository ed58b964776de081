"""Whether a worker looks out for the next message before it sleeps, and on which core: docs/internals/waiting.md.

The same rules as in native/python/busy_poll.c, for where there is no C extension.
"""

from __future__ import annotations

import os
from collections.abc import Callable

SLEEP, LOOK, PART, JOIN = range(4)
IDLE, BUSY, UNKNOWN = 1, -1, 0

#: A rest up to here is short: the next message may be worth a look.
_SHORT_NS = 150_000
#: Beyond, the client does other things in between, and what was learned of its answers is old.
_RARE_NS = 500_000
_FEW = 4
_MISSES_MAX = 8
_MOVE_NS = 2_000_000
_GUESSES_MAX = 8
_METER_NS = 40_000_000
#: Seconds between two readings beyond which their difference says nothing of now.
_SPAN_MAX = 10.0
#: Idle time of all cores, in parts of one.
_IDLE_LEAST, _BUSY_MOST = 0.25, 0.1


class BusyPoll:
    """Only the rules: they know no clock and move nobody."""

    def __init__(self) -> None:
        self.began_ns = 0
        #: How long the last rest was that ended in sleep; 0 for none yet.
        self.slept_ns = 0
        self.moved_ns = 0
        #: The core of whoever sent the last message, counted from one, as he says.
        self.client = 0
        #: Messages since the last sleep.
        self.taken = 0
        self.skip = self.misses = self.guesses = 0
        self.looks = self.found = self.sleeps = self.parted = self.joined = self.bells = 0

    def rest(self, now_ns: int, here: int, load: int) -> int:
        """What to do when there is nothing to take."""
        is_here = self.client == here != 0
        may_move = self.moved_ns == 0 or now_ns - self.moved_ns >= _MOVE_NS
        self.began_ns = now_ns
        if self.slept_ns == 0 or self.slept_ns > _SHORT_NS:
            if self.slept_ns <= _RARE_NS:
                return SLEEP
            self.misses = self.skip = 0
            # A wake across busy cores waits for the end of somebody's slice; one on the waker's own core, who is about
            # to sleep, does not.
            if load != BUSY or self.taken > _FEW or self.client == 0 or is_here or not may_move:
                return SLEEP
            self.moved_ns = now_ns
            return JOIN
        if self.skip > 0:
            self.skip -= 1
            return SLEEP
        if not is_here:
            return LOOK
        # On one core nothing comes while we look. The kernel parts only two that both want to run.
        if may_move and (load == IDLE or (load == UNKNOWN and self.guesses < _GUESSES_MAX)):
            self.guesses += load == UNKNOWN
            self.moved_ns = now_ns
            return PART
        self.miss()
        return SLEEP

    def find(self, was_off: bool) -> None:
        self.found += 1
        if not was_off:
            self.misses = 0
        else:
            self.skip = (1 << self.misses) - 1

    def miss(self) -> None:
        self.misses = min(self.misses + 1, _MISSES_MAX)
        self.skip = (1 << self.misses) - 1

    def wake(self, now_ns: int) -> None:
        """After sleep."""
        self.slept_ns = now_ns - self.began_ns
        self.taken = 0
        self.sleeps += 1


def _find_core() -> Callable[[], int]:
    try:
        import ctypes

        get = ctypes.CDLL(None).sched_getcpu
        return lambda: int(get()) + 1
    except (ImportError, OSError, AttributeError):
        return lambda: 0


#: The core that this thread runs on, counted from one; 0 is unknown.
core = _find_core()


def leave_core() -> bool:
    """Moves this thread off its core, if that is allowed and there is another one; whether it did."""
    cores = _free_cores()
    return len(cores) > 1 and _move(cores - {core() - 1})


def join_core(number: int) -> bool:
    """Moves this thread to a core, if it is allowed there; whether it did."""
    return number != core() and number - 1 in _free_cores() and _move({number - 1})


def _free_cores() -> set[int]:
    """Where this thread may run, if that is everywhere: a set that was chosen for it, or for its group, is not ours to
    touch.
    """
    try:
        with open("/sys/devices/system/cpu/online", encoding="ascii") as file:
            ranges = [part.split("-") for part in file.read().strip().split(",")]
        online = {one for ends in ranges for one in range(int(ends[0]), int(ends[-1]) + 1)}
        allowed = os.sched_getaffinity(0)
    except (OSError, ValueError):
        return set()
    return allowed if allowed == online else set()


def _move(cores: set[int]) -> bool:
    try:
        os.sched_setaffinity(0, cores)
        # More than all that are online: a set of just these would not grow with the thread's group, nor with the
        # machine.
        os.sched_setaffinity(0, range(1024))
    except OSError:
        return False
    return True


class LoadMeter:
    """Whether a core had nothing to do lately: the kernel counts the idle time of all of them."""

    def __init__(self) -> None:
        self._read_ns = 0
        self._up = self._idle = 0.0
        self._load = UNKNOWN

    def load(self, now_ns: int) -> int:
        """Looks at most every 40 ms."""
        if self._read_ns != 0 and now_ns - self._read_ns < _METER_NS:
            return self._load
        self._read_ns = now_ns
        self._load = UNKNOWN
        try:
            with open("/proc/uptime", encoding="ascii") as file:
                up, idle = map(float, file.read().split())
        except (OSError, ValueError):
            return UNKNOWN
        span, part = up - self._up, idle - self._idle
        self._up, self._idle = up, idle
        if 0 < span < _SPAN_MAX:
            self._load = IDLE if part > span * _IDLE_LEAST else BUSY if part < span * _BUSY_MOST else UNKNOWN
        return self._load
