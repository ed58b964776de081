"""Engines that are ready before they are asked for."""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections import deque

from .. import _contract
from ._template import Options, forget_locks
from ._process import Guest, end_all, forget_all, start

#: For the start that is under way when the program ends.
_LEAVE_SECONDS = 2.0
_WARM_SECONDS = 10.0
_GIVE_WAY_SECONDS = 0.01


class _Kind:
    """Engines that differ in nothing."""

    def __init__(self) -> None:
        self.ready: deque[Guest] = deque()
        self.taken = 0

    @property
    def wanted(self) -> int:
        """A program that needs one may never need another."""
        return min(self.taken, _contract.RUNTIMES_READY_MAX)


class _Pool:
    def __init__(self) -> None:
        self.forsake()

    def forsake(self) -> None:
        """In a forked child: the engines are its parent's, and threads of the parent may have held the lock."""
        self._changed = threading.Condition()
        #: The one that was asked for last is the last one.
        self._kinds: dict[Options, _Kind] = {}
        self._thread: threading.Thread | None = None
        self._is_over = False

    def take(self, options: Options) -> Guest:
        """:raises RuntimeError:"""
        while (guest := self._ready(options)) is not None:
            if guest.is_alive:  # it may have been killed while it waited
                guest.end.rouse()
                return guest
            guest.dispose()
        return start(options)

    def _ready(self, options: Options) -> Guest | None:
        with self._changed:
            kind = self._kinds.pop(options, None) or _Kind()
            self._kinds[options] = kind
            kind.taken += 1
            guest = kind.ready.popleft() if kind.ready else None
            if not self._is_over and self._thread is None:
                self._thread = threading.Thread(target=self._fill, name="ipcctl.js pool", daemon=True)
                self._thread.start()
            self._changed.notify()
            return guest

    def _fill(self) -> None:
        while True:
            with self._changed:
                while (next_one := self._next()) is None:
                    if self._is_over:
                        return
                    self._changed.wait()
            if isinstance(next_one, Guest):
                next_one.dispose()
                continue
            # Whoever has just taken one has something to do with it, in the same interpreter.
            if self._has_some_ready():
                time.sleep(_GIVE_WAY_SECONDS)
            try:
                guest = start(next_one)
                _warm(guest)
            except Exception:
                # Whoever takes one hears why; more attempts wait for that.
                with self._changed:
                    if next_one in self._kinds:
                        self._kinds[next_one].taken = 0
                continue
            with self._changed:
                kind = self._kinds.get(next_one)
                if kind is not None and not self._is_over:
                    kind.ready.append(guest)
                    continue
            guest.dispose()

    def _next(self) -> Options | Guest | None:
        """What to start, or to end."""
        if self._is_over:
            return None
        if len(self._kinds) > _contract.RUNTIME_KINDS_READY_MAX:
            oldest = next(iter(self._kinds))
            if self._kinds[oldest].ready:
                return self._kinds[oldest].ready.popleft()
            del self._kinds[oldest]
        for options, kind in reversed(self._kinds.items()):
            if len(kind.ready) < kind.wanted:
                return options
        return None

    def _has_some_ready(self) -> bool:
        with self._changed:
            return any(len(kind.ready) > 1 for kind in self._kinds.values())

    def close(self) -> None:
        with self._changed:
            self._is_over = True
            waiting = [guest for kind in self._kinds.values() for guest in kind.ready]
            self._kinds.clear()
            self._changed.notify_all()
            thread, self._thread = self._thread, None
        for guest in waiting:
            guest.kill()
        for guest in waiting:
            guest.dispose()
        if thread is not None:
            thread.join(_LEAVE_SECONDS)


def _warm(guest: Guest) -> None:
    """The first evaluation takes twice as long as the second. :raises BrokenChannel:"""
    guest.end.send([_contract.TO_ENGINE_EVAL, 1, "0", "<ready>", None, False, False, False])
    guest.end.receive(_WARM_SECONDS)


_pool = _Pool()


def take(options: Options) -> Guest:
    """From those that are ready, else a new one. :raises RuntimeError: that says what is missing, and what to do"""
    return _pool.take(options)


@atexit.register
def _leave() -> None:
    """Before the daemon threads stop: nothing may be left behind."""
    _pool.close()
    end_all()


def _forsake() -> None:
    forget_locks()
    forget_all()
    _pool.forsake()


os.register_at_fork(after_in_child=_forsake)
