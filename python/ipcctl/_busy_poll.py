"""Whether a worker busy-polls for the next message before it sleeps, and on which core: docs/internals/waiting.md.

The same rules as in native/python/busy_poll.c, for use without the C extension.
"""

from __future__ import annotations

import os
from collections.abc import Callable

SLEEP, LOOK, PART, JOIN = range(4)
IDLE, BUSY, UNKNOWN = 1, -1, 0

#: A wait up to this length is short: the next message may be worth polling for.
_SHORT_NS = 150_000
#: After a longer pause the client does other work in between, and what was learned of its answers is out of date.
_RARE_NS = 500_000
_FEW = 4
_MISSES_MAX = 8
_MOVE_NS = 2_000_000
_GUESSES_MAX = 8
_METER_NS = 40_000_000
#: Seconds between two readings after which their difference is out of date.
_SPAN_MAX = 10.0
#: Idle time of all cores together, as a fraction of one core.
_IDLE_LEAST, _BUSY_MOST = 0.25, 0.1


class BusyPoll:
    """Only the rules: they read no clock and move no thread."""

    def __init__(self) -> None:
        self.began_ns = 0
        #: Length of the last wait that ended in sleep; 0 if there was none.
        self.slept_ns = 0
        self.moved_ns = 0
        #: The core of the last message's sender, counted from one, as it says.
        self.client = 0
        #: Messages since the last sleep.
        self.taken = 0
        self.skip = self.misses = self.guesses = 0
        self.looks = self.found = self.sleeps = self.parted = self.joined = self.bells = 0

    def rest(self, now_ns: int, here: int, load: int) -> int:
        """What to do when there is no message."""
        is_here = self.client == here != 0
        may_move = self.moved_ns == 0 or now_ns - self.moved_ns >= _MOVE_NS
        self.began_ns = now_ns
        if self.slept_ns == 0 or self.slept_ns > _SHORT_NS:
            if self.slept_ns <= _RARE_NS:
                return SLEEP
            self.misses = self.skip = 0
            # A wake across busy cores waits for the end of a time slice; a wake on the waker's own core, if the waker
            # is about to sleep, does not.
            if load != BUSY or self.taken > _FEW or self.client == 0 or is_here or not may_move:
                return SLEEP
            self.moved_ns = now_ns
            return JOIN
        if self.skip > 0:
            self.skip -= 1
            return SLEEP
        if not is_here:
            return LOOK
        # On the same core nothing arrives while we busy-poll. The kernel separates only two threads that both want to
        # run.
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
    """Moves this thread off its core, if that is allowed and there is another one; returns whether it did."""
    cores = _free_cores()
    return len(cores) > 1 and _move(cores - {core() - 1})


def join_core(number: int) -> bool:
    """Moves this thread to a core, if it may run there; returns whether it did."""
    return number != core() and number - 1 in _free_cores() and _move({number - 1})


def _free_cores() -> set[int]:
    """The cores of this thread, if it may run on all: an affinity set for it, or for its group, is left alone."""
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
        # More cores than are online: a mask of exactly these would not grow with the thread's cpuset, or with the
        # machine.
        os.sched_setaffinity(0, range(1024))
    except OSError:
        return False
    return True


class LoadMeter:
    """Whether a core was idle lately: the kernel counts the idle time of all cores."""

    def __init__(self) -> None:
        self._read_ns = 0
        self._up = self._idle = 0.0
        self._load = UNKNOWN

    def load(self, now_ns: int) -> int:
        """Reads the counters at most every 40 ms."""
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
