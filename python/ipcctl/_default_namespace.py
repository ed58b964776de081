"""``ipcctl.eval`` and ``ipcctl.exec`` in Python: code strings in a namespace that belongs to the asyncio task, or else
to the thread, that runs them.
"""

from __future__ import annotations

import asyncio
import builtins
import contextvars
import inspect
import threading

from ._evaluate import run

TYPE_CHECKING = False  # as typing has it, which takes long to load
if TYPE_CHECKING:
    from typing import Any

#: The namespace and its owner. A task or thread that only inherited it gets its own.
_slot: contextvars.ContextVar[tuple[dict[str, Any], object]] = contextvars.ContextVar("ipcctl_default")


def _owner() -> object:
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return task or threading.current_thread()


def default_namespace() -> dict[str, Any]:
    """The namespace of this task or thread, created on first use, with the lifetime of its task or thread."""
    owner = _owner()
    found = _slot.get(None)
    if found is None or found[1] is not owner:
        found = {"__name__": "__ipcctl__", "__builtins__": builtins}, owner
        _slot.set(found)
    return found[0]


def close_default_namespace() -> None:
    """Forgets what :func:`evaluate` and :func:`execute` defined in this task or thread."""
    _slot.set(({"__name__": "__ipcctl__", "__builtins__": builtins}, _owner()))


def evaluate(code: str) -> Any:
    """The value of the last expression of the code, None if it ends in a statement. Names that it defines stay for
    later code of the same asyncio task, or thread, and are invisible to others. Code with a top-level await gives an
    awaitable.
    :raises Exception: what the code raises
    """
    return run(code, default_namespace())


def execute(code: str) -> Any:
    """Runs statements; returns None, or an awaitable if the code has a top-level await."""
    value = run(code, default_namespace())
    return _nothing(value) if inspect.iscoroutine(value) else None


async def _nothing(awaitable: Any) -> None:
    await awaitable
