"""Interrupts at instructions spread over everything that the package executes for a request: see interrupt_points.py.
Every instruction is tried by ``python3 test/python/test_interrupts.py``, which takes a while.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import unittest

from support import IMPLEMENTATIONS

HERE = os.path.dirname(os.path.abspath(__file__))
SCENARIOS = ("call", "keywords", "code", "capture", "async", "stream", "lending")
SEED = int(os.environ.get("IPCCTL_SEED", random.randrange(2**31)))
#: Instructions from one that is tried to the next, for some seconds in all. The C extension executes fewer.
STRIDES = {"c": 31, "pure": 211}
DEADLINE_SECONDS = 240


def interrupt(where: str, scenario: str, implementation: str, stride: int, offset: int) -> str:
    """What it says in the end. :raises AssertionError:"""
    done = subprocess.run(
        [sys.executable, os.path.join(HERE, "interrupt_points.py"), where, scenario, str(stride), str(offset)],
        env={**os.environ, "IPCCTL_PURE": "1" if implementation == "pure" else "0"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=None if stride == 1 else DEADLINE_SECONDS,
    )
    if done.returncode != 0:
        raise AssertionError(f"{where} {scenario} {stride} {offset}, IPCCTL_SEED={SEED}:\n{done.stdout}")
    return done.stdout.splitlines()[-1]


class Interrupts(unittest.TestCase):
    def test_at_instructions_all_over(self) -> None:
        numbers = random.Random(SEED)
        for implementation in IMPLEMENTATIONS:
            for where in ("main", "thread"):
                for scenario in SCENARIOS:
                    with self.subTest(where=where, scenario=scenario, implementation=implementation):
                        stride = STRIDES[implementation]
                        interrupt(where, scenario, implementation, stride, numbers.randrange(stride // 4))

    def test_what_is_given_up_while_another_thread_looks_does_not_begin(self) -> None:
        for implementation in IMPLEMENTATIONS:
            for when in ("before", "during"):
                with self.subTest(implementation=implementation, when=when):
                    done = subprocess.run(
                        [sys.executable, os.path.join(HERE, "looked_at.py"), when],
                        env={**os.environ, "IPCCTL_PURE": "1" if implementation == "pure" else "0"},
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT,
                        text=True,
                        timeout=DEADLINE_SECONDS,
                    )
                    self.assertEqual(done.stdout, f"{implementation} {when}: it did not begin\n")


if __name__ == "__main__":
    for implementation in IMPLEMENTATIONS:
        for where in ("main", "thread"):
            for scenario in SCENARIOS:
                print(f"{where}: {interrupt(where, scenario, implementation, 1, 0)}", flush=True)
