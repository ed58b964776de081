"""Calls to the host: the tools that the policy of this worker grants.

In a worker that was started with ``--allow-tools``::

    from ipcctl import host

    host.call("files.list", conversation_id="c1")
    host.files.list(conversation_id="c1")  # the same
    await host.acall("files.list", conversation_id="c1")

A call says what it wants and nothing of who asks: the host knows that by the channel.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping

from ._host import DEADLINE_SECONDS, Host, HostError, Request

TYPE_CHECKING = False  # as typing has it, which takes long to load
if TYPE_CHECKING:
    from typing import Any

    from ._host_http import HttpHost

__all__ = ["HostError", "acall", "batch", "call", "skills", "tools"]


def call(
    tool: str, arguments: Mapping[str, Any] | None = None, /, *, deadline: float = DEADLINE_SECONDS, **named: Any
) -> Any:
    """Calls a tool, and blocks until its answer is there.

    :param tool: ``PLUGIN.TOOL``
    :param arguments: JSON values by name, for names that are not Python's; the others are given by keyword
    :param deadline: seconds; then the call is cancelled
    :raises HostError: with a ``code``; ``retriable`` says whether the same call may succeed later
    """
    return _host().call(Request(tool, {**(arguments or {}), **named}), deadline)


async def acall(
    tool: str, arguments: Mapping[str, Any] | None = None, /, *, deadline: float = DEADLINE_SECONDS, **named: Any
) -> Any:
    """The same in an event loop, which goes on meanwhile. Cancelling the task cancels the call."""
    return await _host().acall(Request(tool, {**(arguments or {}), **named}), deadline)


def batch(calls: Iterable[tuple[str, Mapping[str, Any]]], *, deadline: float = DEADLINE_SECONDS) -> list[Any]:
    """Several calls in one round trip: ``batch([("files.list", {}), ("memory.list", {})])``.

    :returns: for each its result, or its HostError, which is not raised
    """
    return _host().batch([Request(tool, dict(arguments)) for tool, arguments in calls], deadline)


def tools() -> list[dict[str, Any]]:
    """What this worker may call, with the JSON Schema of the arguments: the answer of ``core.list_tools``."""
    listed: list[dict[str, Any]] = call("core.list_tools")["tools"]
    return listed


def skills() -> dict[str, str]:
    """By plugin, when to call which of its tools: Markdown, which the folder ``IPCCTL_SKILLS`` has as files too."""
    found: dict[str, str] = {}
    after: str | None = ""
    while after is not None:
        page = call("core.get_skills", after=after)
        found.update(page["skills"])
        after = page["next"]
    return found


_one: Host | HttpHost | None = None


def _host() -> Host | HttpHost:
    global _one
    if _one is None:
        _one = _by_http() or Host()
    return _one


def _by_http() -> HttpHost | None:
    if os.environ.get("IPCCTL_TRANSPORT") != "http":
        return None
    from ._host_http import HttpHost  # takes long to load

    return HttpHost()


def _forget() -> None:
    """A forked process has no channel to the host: it would take its parent's answers."""
    global _one
    _one = None if os.environ.get("IPCCTL_TRANSPORT") == "http" else Host(is_forked=True)


os.register_at_fork(after_in_child=_forget)


class _Plugin:
    """``host.files.list(…)`` is ``host.call("files.list", …)``."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, tool: str) -> Callable[..., Any]:
        if tool.startswith("__"):
            raise AttributeError(tool)
        name = f"{self._name}.{tool}"

        def call_tool(*args: Any, **named: Any) -> Any:
            if args:
                raise TypeError(f"{name} takes keyword arguments only, such as {name}(id=…)")
            return call(name, named)

        call_tool.__name__ = call_tool.__qualname__ = name
        return call_tool

    def __repr__(self) -> str:
        return f"<tools of {self._name}>"


if not TYPE_CHECKING:

    def __getattr__(name):
        if name.startswith("_"):
            raise AttributeError(f"module 'ipcctl.host' has no attribute {name!r}")
        return _Plugin(name)
