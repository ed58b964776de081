"""Waits for conditions, and for each of them only so long."""

from __future__ import annotations

import time
from collections.abc import Callable

DEADLINE = 30.0


def until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not is_so():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {DEADLINE:g} s")
        time.sleep(0.005)
