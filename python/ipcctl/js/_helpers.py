"""Threads that run functions of Python for JavaScript for which no thread waits, such as that of a timer. Whoever reads
what JavaScript sends must not run them: they may take long, and evaluate JavaScript themselves.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

_IDLE_SECONDS = 2.0

Work = Callable[[], object]


class _Helper:
    def __init__(self, work: Work) -> None:
        self.works: SimpleQueue[Work] = SimpleQueue()
        self.works.put(work)
        threading.Thread(target=self._run, daemon=True, name="ipcctl-js-helper").start()

    def _run(self) -> None:
        while True:
            try:
                work = self.works.get(timeout=_IDLE_SECONDS)
            except Empty:
                with _crew.lock:
                    if self in _crew.idle:
                        _crew.idle.remove(self)
                        return
                continue  # it is given something just now
            try:
                work()
            except BaseException:
                pass
            del work
            with _crew.lock:
                _crew.idle.append(self)


class _Crew:
    """As many as run at once, and those that have just done so."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.idle: list[_Helper] = []

    def run(self, work: Work) -> None:
        with self.lock:
            helper = self.idle.pop() if self.idle else None
        if helper is None:
            _Helper(work)
        else:
            helper.works.put(work)


_crew = _Crew()
run = _crew.run
os.register_at_fork(after_in_child=_crew.__init__)  # type: ignore[misc]
