"""The console: lets clients into a script that does not import ipcctl. Nothing of it exists before the first signal."""

from __future__ import annotations

import _thread
import os
import sys
import threading
from collections.abc import Callable

TYPE_CHECKING = False  # as typing has it, which takes long to load
if TYPE_CHECKING:
    from ._serving import Serving

_lock = threading.Lock()
#: The shim's socket as it was at the start, set by whoever loads this.
plane: str | None = None


def _no_plane() -> int | None:
    return None


#: The same as a descriptor, for a script that has left root since; set likewise.
held_plane: Callable[[], int | None] = _no_plane


def _nobody() -> Serving | None:
    return None


#: What serves this process, if anything: replaced by :mod:`ipcctl._serving`, which is loaded late.
current: Callable[[], Serving | None] = _nobody


def on_signal() -> None:
    """SIGURG came again: something must be interrupted, or the serving thread has ended. In the main thread; imports
    nothing.
    """
    serving = current()
    if (serving is None or not serving.is_served) and not _lock.locked():
        try:
            _thread.start_new_thread(serve, ())
        except (RuntimeError, MemoryError):
            pass  # no room for a thread: the next signal tries again
    if serving is not None:
        serving.on_signal()


def serve() -> None:
    """Serves in its own thread until ``ipcctl.serve()`` is called."""
    lock = _lock  # a forked child has its own
    if not lock.acquire(blocking=False):
        return
    try:
        from ._serving import serving

        one = serving()
        one.attach(os.environ.get("IPCCTL_PLANE") or plane or "")
        while not one.is_wanted_elsewhere and not one.is_abandoned:
            if not one.serve_if_free(lambda: one.is_wanted_elsewhere):
                return
    except PermissionError as error:  # stays like this: the log has the reason
        sys.stderr.write(f"ipcctl: no client can be let in: {error}\n")
    except OSError:
        pass  # the shim is gone, and we soon will be
    finally:
        lock.release()


def _forget() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_forget)
