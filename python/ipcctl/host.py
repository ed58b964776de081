"""Calls to the host: the tools that the policy of this worker grants.

In a worker that was started with ``--allow-tools``::

    from ipcctl import host

    host.call("files.list", conversation_id="c1")
    host.files.list(conversation_id="c1")  # the same
    await host.acall("files.list", conversation_id="c1")

A call says what it wants and nothing of who asks: the host knows that by the channel.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Iterable, Mapping

from ._host import DEADLINE_SECONDS, Host, HostError, Request

TYPE_CHECKING = False  # as typing has it, which takes long to load
if TYPE_CHECKING:
    from typing import Any

    from ._host_http import HttpHost
    from ._host_lines import LinesHost

__all__ = ["HostError", "Table", "acall", "batch", "call", "skills", "table", "tools"]


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


def table(
    tool: str, arguments: Mapping[str, Any] | None = None, /, *, deadline: float = DEADLINE_SECONDS, **named: Any
) -> Table:
    """Calls a tool that answers rows, such as ``duckdb.query``, for many of them.

    Where pyarrow can be imported they come as an Arrow table in shared memory, which nothing copies; otherwise as rows,
    as many as fit into an answer.

    :raises HostError: as :func:`call` does
    """
    arguments = {**(arguments or {}), **named}
    if os.environ.get("IPCCTL_TRANSPORT", "shm") == "shm" and _pyarrow() is not None:
        arguments["format"] = "arrow"
    return Table(_host().call(Request(tool, arguments), deadline))


class Table:
    """Rows that a tool has answered."""

    def __init__(self, answer: dict[str, Any]) -> None:
        #: As dicts with ``name`` and ``type``, in the words of the database.
        self.columns: list[dict[str, str]] = answer["columns"]
        #: There are more rows than these.
        self.truncated: bool = answer["truncated"]
        #: Where it comes from: it is data, whatever it says.
        self.origin: Any = answer.get("origin")
        self._rows: list[list[Any]] | None = answer.get("rows")
        #: A ``pyarrow.Table``, or None.
        self.arrow: Any = None
        pyarrow = _pyarrow()
        if pyarrow is not None and "table" in answer:
            try:
                self.arrow = pyarrow.ipc.open_stream(pyarrow.py_buffer(answer["table"])).read_all()
                self.arrow.validate()
            except pyarrow.ArrowException as error:
                raise HostError("PLUGIN_ERROR", f"the table of the plugin is malformed: {error}") from error

    @property
    def rows(self) -> list[list[Any]]:
        """Each with its values in the order of the columns; of an Arrow table they are made when they are asked for."""
        if self._rows is None:
            values = [column.to_pylist() for column in self.arrow.columns]
            self._rows = [list(row) for row in zip(*values)]
        return self._rows

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame``."""
        if self.arrow is not None:
            return self.arrow.to_pandas()
        pandas: Any = importlib.import_module("pandas")
        return pandas.DataFrame(self.rows, columns=[column["name"] for column in self.columns])

    def __len__(self) -> int:
        return len(self.rows) if self.arrow is None else int(self.arrow.num_rows)

    def __repr__(self) -> str:
        return f"<Table of {len(self)} rows and {len(self.columns)} columns>"


# Imported by their names: types of users' programs are checked where neither is installed, too.
def _pyarrow() -> Any:
    """None where it cannot be imported."""
    try:
        importlib.import_module("pyarrow.ipc")
        return importlib.import_module("pyarrow")
    except ImportError:
        return None


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


_one: Host | HttpHost | LinesHost | None = None
_making = threading.Lock()


def _host() -> Host | HttpHost | LinesHost:
    global _one
    if _one is None:
        with _making:
            _one = _one or _by_transport()
    return _one


def _by_transport() -> Host | HttpHost | LinesHost:
    transport = os.environ.get("IPCCTL_TRANSPORT")
    if transport == "http":
        from ._host_http import HttpHost  # takes long to load

        return HttpHost()
    if transport == "stdio":
        from ._host_lines import LinesHost

        return LinesHost()
    return Host()


def _forget() -> None:
    """A forked process has no channel to the host: it would take its parent's answers."""
    global _making, _one
    if _one is not None:
        _one.forget()
    _making = threading.Lock()
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
