"""``ipc.host.provide("notes", {"list": list_notes})``: a program carries out itself what workers ask of the host.

The host checks, grants, limits and records each call as that of any tool; what comes here is only what it let pass.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import Any, Literal, TypedDict
from weakref import WeakSet

from ._contract import HOST_RING_BYTES
from ._end import lead
from ._schema_of import schema_of
from ._serving import serving
from ._types import IpcError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._client import Ipcctl

#: How long the router may take to offer the tools.
_OFFER_SECONDS = 30.0
#: Between two attempts, where the router has ended and the next one starts; growing up to the second number.
_AGAIN_SECONDS, _AGAIN_SECONDS_MAX = 0.05, 1.0
#: How often the thread that serves looks whether another one, which has served, has left.
_LOOK_SECONDS = 0.05
#: No router is there now, or no daemon: the next one is asked.
_NOT_NOW = frozenset(("NOT_RUNNING", "CONNECTION_LOST", "NO_DAEMON", "DEADLINE"))


class ToolError(Exception):
    """What a tool refuses deliberately: the worker gets code, text and field as they are."""

    def __init__(self, code: str, message: str, *, retriable: bool = False, field: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        #: The same call may succeed later, and was not carried out.
        self.retriable = retriable
        #: Where in the arguments, by names with dots between.
        self.field = field


@dataclass(frozen=True)
class ToolRequest:
    """Who asks, as the host knows it: nothing of it comes from the worker."""

    worker: str
    #: One run of the worker.
    session: str
    group: str
    correlation: str
    #: Set when the worker gives up or ends, or the tool's time is over.
    signal: threading.Event = field(default_factory=threading.Event, repr=False)


class Tool(TypedDict, total=False):
    """A tool of :meth:`ProgramHost.provide`. Only ``run`` is needed."""

    #: Of an object. With it ``run`` gets ``(args, request)``; without it ``run`` is called by keyword, and its
    #: annotations are the schema.
    schema: Mapping[str, Any]
    run: Callable[..., Any]
    #: For whoever decides to call it, which may be a model; by default the docstring.
    description: str
    #: ``high``: a person approves each call.
    risk: Literal["low", "high"]
    #: Whether it may be carried out twice; if not, the default, nothing whose outcome is unknown is repeated.
    idempotent: bool
    #: Seconds within which it answers; 30 by default.
    timeout: float


class ProgramHost:
    """The host, as a program sees it that has workers."""

    def __init__(self, ipcctl: Ipcctl) -> None:
        self._ipcctl = ipcctl
        self.provided: WeakSet[Provided] = WeakSet()

    def provide(
        self,
        name: str,
        tools: Mapping[str, Callable[..., Any] | Tool],
        *,
        group: str | Sequence[str] | None = None,
        skill: str | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> Provided:
        """Provides tools for workers: ``{"list": …}`` as ``notes`` is what a worker calls as ``notes.list``, if its
        policy grants that (``tools=["notes.*"]``). No plugin can be replaced so. Tools run in threads of their own, and
        async ones in an event loop.

        :param tools: functions with annotated parameters, which are called by keyword; one annotated ``ToolRequest``
            gets who asks. Or a :class:`Tool`
        :param group: workers of these tool groups; by default the ephemeral workers of this program
        :param skill: when to call which tool, for models: what ``host.skills()`` tells workers
        :param loop: for async tools; by default the one that runs in this thread, or else one of their own
        :raises IpcError: BAD_CONFIG; FAILED if a plugin or another program has the name
        """
        known = {tool: _Known(name, tool, given) for tool, given in tools.items()}
        groups = None if group is None else [group] if isinstance(group, str) else list(group)
        one = Provided(self._ipcctl, name, known, groups, skill, loop or _running_loop())
        one._keep_on(self._ipcctl.request, time.monotonic() + _OFFER_SECONDS)
        self.provided.add(one)
        _all.add(one)
        return one


class _Known:
    """A tool, and how it is called."""

    def __init__(self, provider: str, name: str, given: Callable[..., Any] | Tool) -> None:
        place = f"provide {provider}: {name}"
        tool: Tool = {"run": given} if callable(given) else given
        run = tool.get("run")
        if run is None or not callable(run):
            raise IpcError("BAD_CONFIG", f"{place}: run is not a function")
        self.run = run
        schema, self._special = tool.get("schema"), None
        self._is_typed = schema is None
        if schema is None:
            try:
                schema, self._special = schema_of(run, ToolRequest)
            except TypeError as error:
                raise IpcError("BAD_CONFIG", f"{place}: {error}") from None
        elif schema.get("type") == "object":
            schema = {"additionalProperties": False, **schema}
        text = tool.get("description") or getattr(run, "__doc__", None) or name
        self.definition = {
            "name": name,
            "description": " ".join(text.split()),
            "risk_level": tool.get("risk", "low"),
            "idempotent": tool.get("idempotent", False),
            "arguments_schema": dict(schema),
        }
        if "timeout" in tool:
            self.definition["timeout_s"] = tool["timeout"]

    def call(self, args: dict[str, Any], request: ToolRequest) -> Any:
        if not self._is_typed:
            return self.run(args, request)
        return self.run(**args, **({} if self._special is None else {self._special: request}))


class Provided:
    """It is provided until :meth:`close`, or the end of the program."""

    def __init__(
        self,
        ipcctl: Ipcctl,
        name: str,
        tools: Mapping[str, _Known],
        groups: Sequence[str] | None,
        skill: str | None,
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        self._ipcctl, self.name, self._tools, self._loop = ipcctl, name, tools, loop
        self._groups, self._skill = groups, skill
        self._lock = threading.Lock()
        self._is_over = False
        self._is_open = False
        self._ended = threading.Event()
        #: What ended it, if that was not this program.
        self.error: IpcError | None = None
        #: Of the channel that is open now: leaves it.
        self._leave: Callable[[], None] = _nothing

    def __enter__(self) -> Provided:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_open(self) -> bool:
        """Whether the router has it now: not for a moment where one router follows another."""
        return self._is_open

    def wait(self, timeout: float | None = None) -> bool:
        """Until it ends, and whether it has. :raises IpcError: what ended it, if that was not this program"""
        is_over = self._ended.wait(timeout)
        if self.error is not None:
            raise self.error
        return is_over

    def close(self) -> None:
        self._end(None)

    def _end(self, error: IpcError | None) -> None:
        with self._lock:
            if self._is_over:
                return
            self._is_over, self._is_open, self.error = True, False, error
        self._leave()
        self._ended.set()

    def _forsake(self) -> None:
        """In a forked child: it is the parent's."""
        self._lock = threading.Lock()
        self._is_over, self._is_open, self._leave = True, False, _nothing

    def _keep_on(self, request: Callable[[object], dict[str, Any]], until: float | None) -> None:
        """Until a router has it. :raises IpcError:"""
        pause = _AGAIN_SECONDS
        while not self._is_over:
            try:
                return self._offer(request)
            except IpcError as error:
                if error.code not in _NOT_NOW or (until is not None and time.monotonic() > until):
                    raise
                time.sleep(pause)
                pause = min(2 * pause, _AGAIN_SECONDS_MAX)

    def _offer(self, request: Callable[[object], dict[str, Any]]) -> None:
        tools = [tool.definition for tool in self._tools.values()]
        about = {"name": self.name, "tools": tools, "skill": self._skill, "groups": self._groups}
        asked = {"PluginProvide": about}
        answer = request(asked)["Success"]
        half = lead(answer["socket"], "the router", answer["label"], HOST_RING_BYTES, _OFFER_SECONDS)
        if half is None:
            raise IpcError("CONNECTION_LOST", "the router did not take the channel")
        told, gone = threading.Event(), threading.Event()

        def on_end() -> None:
            gone.set()
            told.set()
            if self._is_open and not self._is_over:
                self._is_open = False
                threading.Thread(target=self._again, daemon=True, name="ipcctl-provide").start()

        leave = serving().adopt(half, {"invoke": self._invoke, "provided": told.set}, on_end)
        _serve()
        told.wait(_OFFER_SECONDS)
        with self._lock:
            self._leave = leave
            self._is_open = told.is_set() and not gone.is_set() and not self._is_over
        if self._is_open:
            return
        leave()
        if not self._is_over:
            raise IpcError("CONNECTION_LOST", f"provide {self.name}: the router did not offer it")

    def _again(self) -> None:
        """The router has ended: the next one gets it as well."""
        try:
            self._keep_on(self._ipcctl._request_running, None)
        except IpcError as error:
            self._end(error)

    async def _invoke(self, tool: str, text: str, about: dict[str, Any]) -> dict[str, Any]:
        request = ToolRequest(about["worker"], about["session"], about["group"], about["correlation"])
        try:
            value = await self._carry_out(self._tools[tool], json.loads(text), request)
            return {"json": json.dumps(value, ensure_ascii=False, allow_nan=False)}
        except ToolError as error:
            refusal = {"code": str(error.code), "message": str(error), "retriable": error.retriable is True}
            return {"refusal": {**refusal, "field": error.field if isinstance(error.field, str) else None}}
        except asyncio.CancelledError:
            request.signal.set()
            raise
        except BaseException as error:  # an end of the program that a tool wants is an answer too
            return {"crash": "".join(traceback.format_exception(error))}

    async def _carry_out(self, tool: _Known, args: dict[str, Any], request: ToolRequest) -> Any:
        value = await _in_thread(lambda: tool.call(args, request))
        if not isawaitable(value):
            return value
        if self._loop is None or self._loop.is_closed():
            return await value
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_awaited(value), self._loop))


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value


async def _in_thread(work: Callable[[], Any]) -> Any:
    """In a thread that does not keep the program alive, whatever it is at."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(value: Any, error: BaseException | None) -> None:
        if future.done():
            return  # nobody waits any more
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)

    def run() -> None:
        value: Any = None
        error: BaseException | None = None
        try:
            value = work()
        except StopIteration as caught:
            error = RuntimeError(f"the tool raised {caught!r}")  # no future takes that
        except BaseException as caught:
            error = caught
        loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=run, daemon=True, name="ipcctl-tool").start()
    return await future


_all: WeakSet[Provided] = WeakSet()
_thread: threading.Thread | None = None
_starting = threading.Lock()


def _serve() -> None:
    """One thread answers for all that is provided."""
    global _thread
    with _starting:
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(target=_serve_on, args=(serving(),), daemon=True, name="ipcctl-provide")
            _thread.start()


def _serve_on(one: Any) -> None:
    while not one.is_abandoned:
        # A program may serve by itself as well: then its thread answers.
        if one.is_wanted_elsewhere or not one.serve_if_free(lambda: one.is_wanted_elsewhere):
            time.sleep(_LOOK_SECONDS)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _nothing() -> None:
    pass


def _forget() -> None:
    global _thread, _starting
    _thread, _starting = None, threading.Lock()
    for one in list(_all):
        one._forsake()
    _all.clear()


os.register_at_fork(after_in_child=_forget)
