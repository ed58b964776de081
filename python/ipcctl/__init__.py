"""Calls between TypeScript and Python.

In a worker that ipcctl started::

    import ipcctl

    @ipcctl.expose
    def add(a: int, b: int) -> int:
        return a + b

    ipcctl.serve()
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from ._backend import BrokenChannel, DecodeError, EncodeError, JavaScriptError, SharedRingBuffer, undefined
from ._default_namespace import close_default_namespace, evaluate, execute
from ._shared import ArrowTable, shared
from ._types import IpcError, RemoteError

TYPE_CHECKING = False  # as typing has it, which takes long to load
if TYPE_CHECKING:
    from typing import Any, TypeVar, overload

    from ._caller import Worker as Worker
    from . import host as host
    from ._client import Ipcctl as Ipcctl
    from ._pipe import Pipe
    from ._provide import ProgramHost as ProgramHost, Provided as Provided
    from ._provide import ToolError as ToolError, ToolRequest as ToolRequest
    from ._transports import Frames as Frames, Lines as Lines

    _F = TypeVar("_F", bound=Callable[..., Any])

__all__ = [
    "ArrowTable",
    "BrokenChannel",
    "DecodeError",
    "EncodeError",
    "IpcError",
    "JavaScriptError",
    "RemoteError",
    "SharedRingBuffer",
    "close_default_namespace",
    "connect",
    "evaluate",
    "execute",
    "expose",
    "pipe",
    "ready",
    "serve",
    "shared",
    "stop",
    "undefined",
    "worker",
]

eval, exec = (
    evaluate,
    execute,
)  # named like built-ins, as ``ipcctl.eval``: ``from ipcctl import *`` does not replace those

_is_stopping = threading.Event()
_LOOK_SECONDS = 0.05


if TYPE_CHECKING:

    @overload
    def expose(function: _F) -> _F: ...
    @overload
    def expose(*, name: str) -> Callable[[_F], _F]: ...


def expose(function: _F | None = None, *, name: str | None = None) -> Any:
    """Lets clients call the function by its name (or another one). Sync, async, or a generator, which becomes a stream.

    :raises TypeError: if it is not callable
    :raises ValueError: if a function that was defined elsewhere has the name already
    """

    def add(one: _F) -> _F:
        from ._serving import serving

        if not callable(one):
            raise TypeError(f"expose: {one!r} is not callable")
        key = name or getattr(one, "__name__", None)
        if not isinstance(key, str) or not key.isidentifier():
            raise ValueError(f"expose: {key!r} is not a name; give one with expose(name=…)")
        known = serving().exposed.get(key)
        if known is not None and known is not one and _place(known) != _place(one):
            raise ValueError(f"expose: another function is exposed as {key!r} already")
        serving().exposed[key] = one
        return one

    return add if function is None else add(function)


def _place(function: Any) -> object:
    """Where it was defined: a reloaded module defines its functions again. An object without a name counts by its
    class.
    """
    functools = sys.modules.get("functools")
    while functools is not None and isinstance(function, functools.partial):
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    return named.__module__, named.__qualname__


def connect(socket: str | None = None, *, autostart: bool = True) -> Ipcctl:
    """The daemon and its workers, from any program: starts the daemon if none answers. Close it, or use it in ``with``.

    :param socket: where the daemon listens; the default is ``IPCCTL_SOCKET``, then the daemon's configuration, then the
    usual place
    :raises ipcctl.IpcError: with a ``code``, such as ``"NO_DAEMON"`` or ``"NO_PERMISSION"``, and perhaps a ``hint``
    """
    from . import _client

    return _client.Ipcctl(_client.socket_path(socket), autostart)


def ready() -> None:
    """Tells the supervisor that this worker is ready (``--wait-ready``). Does nothing if the supervisor does not wait
    for it.
    """
    import socket

    descriptor = os.environ.get("IPCCTL_CONTROL_FD")
    if descriptor is not None:
        with socket.socket(fileno=os.dup(int(descriptor))) as control:
            control.send(b"READY")


def _is_imported_for_a_child() -> bool:
    """As multiprocessing itself says it, if a script would start further processes."""
    processes = sys.modules.get("multiprocessing.process")
    return processes is not None and getattr(processes.current_process(), "_inheriting", False)


def serve(transport: Frames | Lines | None = None) -> None:
    """Answers calls in this thread until :func:`stop` is called or KeyboardInterrupt comes from outside. In the main
    thread SIGTERM (``ipcctl stop``) ends it like :func:`stop`: the running call may finish, and the script continues
    after this line. A handler that the script has installed remains. If threads are greenlets, a thread of the
    operating system answers the calls.

    :param transport: serves the one client at its other end until that is gone, even if ipcctl has not started this
    process
    :raises RuntimeError: if this process was not started by ipcctl
    """
    from . import _console
    from ._serving import serving

    if _is_imported_for_a_child():
        raise RuntimeError(
            'serve: multiprocessing imports this script in each process that it spawns; write: if __name__ == "__main__": ipcctl.serve()'
        )
    path = os.environ.get("IPCCTL_PLANE") or _console.plane
    if path is None and transport is None:
        raise RuntimeError("serve: not started by ipcctl (no IPCCTL_PLANE); start it with: ipcctl start SCRIPT")
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGURG, lambda number, frame: _console.on_signal())
        if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _on_term)
            _let_children_end()
    one = serving()
    if transport is not None:
        from ._bridge import Bridge

        bridge = Bridge(transport, one.wake)
        one.adopt(bridge.end.half)
        bridge.begin()
        try:
            return one.serve(lambda: _is_stopping.is_set() or bridge.is_over)
        finally:
            bridge.close()
    assert path is not None
    one.attach(path)
    ready()
    if threading.current_thread() is threading.main_thread() or threading.get_native_id() != os.getpid():
        return one.serve(_is_stopping.is_set)
    # A greenlet of gevent or eventlet: waiting for clients would block all greenlets, and an interrupt could hit any of
    # them.
    _thread.start_new_thread(one.serve, (_is_stopping.is_set,))
    while not _is_stopping.is_set():
        time.sleep(_LOOK_SECONDS)


def _on_term(number: int, frame: object) -> None:
    stop()


_held = threading.local()


def _let_children_end() -> None:
    """A forked process serves nobody, and SIGTERM ends it like any other: ``Process.terminate()`` and the end of a pool
    depend on that. A signal that arrives before the handler is reset waits until then.
    """
    global _has_hooks
    if not _has_hooks:
        _has_hooks = True
        os.register_at_fork(before=_hold_term, after_in_parent=_release_term, after_in_child=_end_by_term)


_has_hooks = False


def _hold_term() -> None:
    _held.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _release_term() -> None:
    if signal.SIGTERM not in _held.mask:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _end_by_term() -> None:
    if signal.getsignal(signal.SIGTERM) is _on_term:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _release_term()


def pipe(name: str, timeout: float | None = None) -> Pipe:
    """Raw messages of bytes in both directions, with a client that opens a pipe of this name (``py.pipe(name)``); waits
    until a client does so. Each call gives one pipe; call it again for the next client.

    :param timeout: seconds
    :raises TimeoutError: if no client did so in time
    :raises RuntimeError: if this process was not started by ipcctl
    """
    from . import _console
    from ._serving import serving

    path = os.environ.get("IPCCTL_PLANE") or _console.plane
    if path is None:
        raise RuntimeError("pipe: not started by ipcctl (no IPCCTL_PLANE); start it with: ipcctl start SCRIPT")
    serving().attach(path)
    return serving().take_pipe(name, timeout)


def stop() -> None:
    """Ends :func:`serve` after the current call."""
    from ._serving import serving

    _is_stopping.set()
    serving().wake()


def worker(transport: Frames | Lines, name: str = "the worker", timeout: float = 60.0) -> Worker:
    """A client of the program that serves at the other end of the transport. For a running worker, use
    ``ipcctl.connect().worker(NAME)``.

    :param name: how errors name the other side
    :param timeout: seconds until the first message of the other side
    :raises ipcctl.IpcError: with the code ``"CONNECTION_LOST"`` or ``"DEADLINE"``
    """
    from ._caller import StreamCarrier, Worker

    one = Worker(name, StreamCarrier(transport))
    try:
        one.wait_hello(timeout)
    except BaseException:
        one.close()
        raise
    return one


if not TYPE_CHECKING:
    #: Loaded on first use, with the modules that they need.
    _MODULES = ("host",)
    _LATE = {"Ipcctl": "_client", "Worker": "_caller", "Frames": "_transports", "Lines": "_transports"}
    _LATE.update(dict.fromkeys(("ProgramHost", "Provided", "ToolError", "ToolRequest"), "_provide"))

    def __getattr__(name):
        from importlib import import_module

        if name in _MODULES:
            return import_module(f".{name}", __name__)
        if name not in _LATE:
            raise AttributeError(f"module 'ipcctl' has no attribute {name!r}")
        return getattr(import_module(f".{_LATE[name]}", __name__), name)
