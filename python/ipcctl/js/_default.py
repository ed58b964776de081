"""The runtime of a context: one for each asyncio task, or thread, that asks for it."""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ._runtime import Runtime


class _Slot(NamedTuple):
    runtime: Runtime
    owner: object


_slot: contextvars.ContextVar[_Slot | None] = contextvars.ContextVar("ipcctl_js_default", default=None)


def _owner() -> object:
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return threading.current_thread() if task is None else task


def get_default_runtime() -> Runtime:
    """The runtime of this task, or of this thread outside of tasks: made if there is none, or if it was closed. That of
    a task ends with it.

    :raises RuntimeError: as :class:`Runtime` does
    """
    slot, owner = _slot.get(), _owner()
    if slot is not None and slot.owner is owner and not slot.runtime.is_closed():
        return slot.runtime
    runtime = Runtime()
    _slot.set(_Slot(runtime, owner))
    if isinstance(owner, asyncio.Task):
        owner.add_done_callback(lambda _: runtime.close())
    return runtime


def close_default_runtime() -> None:
    """Ends it, if there is one. :raises RuntimeError: if it belongs to another task or thread"""
    slot = _slot.get()
    if slot is None:
        return
    if slot.owner is not _owner():
        raise RuntimeError("Default runtime can only be closed from its owner context.")
    slot.runtime.close()
    _slot.set(None)


def _close_at_exit() -> None:
    try:
        close_default_runtime()
    except RuntimeError:
        pass  # it belongs to a task


atexit.register(_close_at_exit)


def eval(code: str) -> Any:
    """:meth:`Runtime.eval` in the default runtime."""
    return get_default_runtime().eval(code)


async def eval_async(code: str, **kwargs: Any) -> Any:
    """:meth:`Runtime.eval_async` in the default runtime."""
    return await get_default_runtime().eval_async(code, **kwargs)


def bind_function(name: str, handler: Callable[..., Any]) -> None:
    """:meth:`Runtime.bind_function` in the default runtime."""
    get_default_runtime().bind_function(name, handler)


def bind_object(name: str, obj: Mapping[str, Any]) -> None:
    """:meth:`Runtime.bind_object` in the default runtime."""
    get_default_runtime().bind_object(name, obj)
