"""A JavaScript runtime: a process of its own, and what Python may ask of it."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import os
import sys
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, TypeVar, Unpack, overload

from .._contract import (
    REFERENCE_GUEST_FUNCTION,
    TO_ENGINE_BIND,
    TO_ENGINE_CALL,
    TO_ENGINE_EVAL,
    TO_ENGINE_HEAP,
    TO_ENGINE_MODULE,
    TO_ENGINE_OPERATION,
    TO_ENGINE_PROFILE,
    TO_ENGINE_REPORT,
    TO_ENGINE_SETTINGS,
    VALUE_DEPTH_MAX,
    VALUE_DEPTH,
    VALUE_SIZE,
)
from .._types import Tagged, undefined
from .._contract import REFERENCE_OPERATION
from ._config import RuntimeConfig, Seconds, Settings, permissions_of, seconds_of
from ._errors import JavaScriptError, JsPermissionError, JsTimeout, RuntimeTerminated, advise
from ._inspector import Inspector, InspectorEndpoints
from ._loops import TrioLoop, running_loop
from ._launch import grant, take
from ._modules import Loader, Modules, Resolver, Source
from ._packages import Packages
from ._profile import Profile
from ._session import Operation, Request, Session
from ._snapshot import Snapshot
from ._streams import Done, PyStreamSource, Streams
from ._values import Limits, Lowering

if TYPE_CHECKING:
    from ._process import Guest

F = TypeVar("F", bound=Callable[..., Any])
#: What code is written in.
Language = Literal["js", "ts"]
#: Gets what the console is told: the name of its method, and the text.
Console = Callable[[str, str], Any]
_HOST_REQUEST = "Terminated by host request"


class RuntimeStats(NamedTuple):
    """What a runtime has done and holds. Sizes are in bytes, times in milliseconds."""

    heap_total_bytes: int = 0
    heap_used_bytes: int = 0
    external_memory_bytes: int = 0
    physical_total_bytes: int = 0
    total_execution_time_ms: int = 0
    last_execution_time_ms: int = 0
    last_execution_kind: str | None = None
    eval_sync_count: int = 0
    eval_async_count: int = 0
    eval_module_sync_count: int = 0
    eval_module_async_count: int = 0
    call_function_sync_count: int = 0
    call_function_async_count: int = 0
    active_async_ops: int = 0
    open_resources: int = 0
    active_timers: int = 0
    active_intervals: int = 0
    active_js_streams: int = 0
    active_py_streams: int = 0
    total_js_streams: int = 0
    total_py_streams: int = 0
    bytes_streamed_js_to_py: int = 0
    bytes_streamed_py_to_js: int = 0
    #: Of the process in which it runs.
    pid: int = 0
    confined: bool = False
    engine: str = ""
    #: Whether it makes machine code of JavaScript.
    jit: bool = False


class JsFunction:
    """A function of JavaScript. Calling it gives its value, or an awaitable if its promise is pending."""

    __slots__ = ("__weakref__", "_is_closed", "_number", "_runtime", "_name", "_finalizer")

    def __init__(self, runtime: Runtime, number: int, name: str) -> None:
        self._runtime, self._number, self._name = runtime, number, name
        self._is_closed = False
        self._finalizer = weakref.finalize(self, runtime._session.released.append, number)
        self._finalizer.atexit = False

    def __call__(self, *args: Any, timeout: Seconds | None = None) -> Any:
        """:param timeout: seconds until JavaScript is interrupted
        :raises JavaScriptError, JsTimeout, RuntimeError:
        """
        return self._runtime._call(self, args, None if timeout is None else seconds_of(timeout))

    def call_async(self, *args: Any, timeout: Seconds | None = None) -> Awaitable[Any]:
        """The same for a running event loop: always an awaitable."""
        return self._runtime._call_async(self, args, seconds_of(timeout))

    def close(self) -> Awaitable[None]:
        """JavaScript need not keep it any longer. Takes effect at once; what it gives can be awaited."""
        if not self._is_closed:
            self._is_closed = True
            self._finalizer()
        return Done()

    @property
    def name(self) -> str:
        return self._name

    def __repr__(self) -> str:
        return f"<JsFunction id={self._number}>"


class Runtime:
    """JavaScript in a process of its own. Any thread may use it; JavaScript itself runs one thing at a time."""

    def __init__(self, config: RuntimeConfig | None = None, **settings: Unpack[Settings]) -> None:
        """:param settings: those of :class:`RuntimeConfig`, in place of one
        :raises RuntimeError: if no process can be started, or confined
        """
        if config is not None and settings:
            raise TypeError("Runtime takes a RuntimeConfig or single settings, not both")
        config = RuntimeConfig(**settings) if config is None else config
        if not isinstance(config, RuntimeConfig):
            raise TypeError(f"Runtime takes a RuntimeConfig, or settings as keywords, not {type(config).__name__}")
        config.check()
        self._timeout = config.timeout
        packages = None if config.modules is None else Packages(config.modules, config.confine)
        # What carries them takes a few levels itself.
        self._limits = Limits(min(config.max_serialization_depth, VALUE_DEPTH_MAX - 8), config.max_serialization_bytes)
        self._console = config.enable_console
        self._language: Language = "ts" if config.typescript else "js"
        self._permissions = config.permissions
        self._pid = _here.pid
        self._lock = threading.Lock()
        self._is_closed = False
        self._ops = 0
        self._functions: weakref.WeakSet[JsFunction] = weakref.WeakSet()
        self._named: dict[int, PyStreamSource] = {}
        #: Of what has run: by kind how often, all together and the last one in seconds, and the kind of that.
        self._counts: dict[str, int] = defaultdict(int)
        self._total_seconds = self._last_seconds = 0.0
        self._last_kind: str | None = None
        self._loops: dict[int, asyncio.AbstractEventLoop] = {}
        self._own_loop: _Loop | None = None
        self._async_ops = 0
        self._next_operation = 1 << 32
        self._inspector = None if config.inspector is None else Inspector(config.inspector)
        try:
            self._guest: Guest = take(config)
        except BaseException:
            if self._inspector is not None:
                self._inspector.close()
            raise
        try:
            self._session = Session(self._guest, self._printed)
            session = self._session
            session.revive = self._revive
            session.room_bytes = self._limits.size
            session.lower = lambda value: self._lowering().value(value)
            self._streams = Streams(session, session.lower, self._loop)
            self._streams.on_read = lambda began: self._count("eval_async", began)
            session.extra, session.on_end = self._streams.take, self._streams.end
            session.run_async = self._run_async
            self._modules = Modules(session, self._operation, packages, config.typescript)
            self._setup(config)
        except BaseException:
            if self._inspector is not None:
                self._inspector.close()
            self._guest.dispose()
            raise
        _open.add(self)

    def _setup(self, config: RuntimeConfig) -> None:
        session = self._session
        limits = self._limits
        if self._console or (limits.depth, limits.size) != (VALUE_DEPTH, VALUE_SIZE):
            told = {"depth": limits.depth, "bytes": limits.size, "console": self._console}
            session.send([TO_ENGINE_SETTINGS, 0, told])
        if config.allow_net or config.allow_read:
            session.send(grant(config))
        if self._inspector is not None:
            self._inspector.attach(session, self._guest)
        if config.snapshot is not None:
            Snapshot(config.snapshot).replay(self)
        if config.bootstrap is not None:
            self._run_first(config.bootstrap, "<bootstrap>")

    def _run_first(self, source: str, name: str) -> None:
        """A script of the configuration, whose value nobody wants."""
        message = self._eval_message(f"{source}\n;undefined", name, self._timeout, False)
        self._ask("eval", message, self._timeout, None)

    def _load_first(self, specifier: str) -> None:
        message = [TO_ENGINE_MODULE, 0, specifier, _ms(self._timeout), False]
        self._ask("module", message, self._timeout, None)

    # ---- evaluating ----

    def eval(
        self,
        code: str,
        *,
        timeout: Seconds | None = None,
        console: Console | None = None,
        language: Language | None = None,
    ) -> Any:
        """The value of the last expression of a script. A promise is not awaited.

        :param timeout: seconds; by default that of the configuration
        :param console: gets level and text of each line that this code tells the console, in place of our output
        :param language: ``"ts"`` for TypeScript; by default that of the configuration
        :raises JavaScriptError: what JavaScript threw
        :raises JsTimeout: it did not end in time; the runtime can be used again
        :raises RuntimeTerminated: its process has ended
        """
        seconds = self._timeout if timeout is None else seconds_of(timeout)
        message = self._eval_message(code, "<eval>", seconds, False, language)
        return self._ask("eval", message, seconds, "eval_sync", console, True)

    def eval_async(
        self,
        code: str,
        /,
        *,
        timeout: Seconds | None = None,
        console: Console | None = None,
        language: Language | None = None,
    ) -> asyncio.Future[Any]:
        """The same in a running event loop, with the promise of the value awaited. It begins at once."""
        seconds = self._timeout if timeout is None else seconds_of(timeout)
        message = self._eval_message(code, "<eval_async>", seconds, True, language)
        return self._ask_async("eval", message, seconds, "eval_async", console)

    def _eval_message(
        self, code: str, name: str, seconds: float | None, is_awaited: bool, language: Language | None = None
    ) -> list[Any]:
        message = [TO_ENGINE_EVAL, 0, _text(code), name, _ms(seconds), is_awaited]
        if language is None:
            language = self._language
        if language == "ts":
            message += [False, True]
        elif language != "js":
            raise ValueError(f"language {language!r} is not known; there are 'js' and 'ts'")
        return message

    def eval_module(self, specifier: str, *, timeout: Seconds | None = None) -> Any:
        """What a module exports, as a dict. Its code runs once; top-level ``await`` is waited for.

        :param specifier: a name that was defined, or what the resolver and the loader know
        :raises JavaScriptError: what it threw, or why it cannot be found; ``__cause__`` is what a loader raised
        :raises JsTimeout, RuntimeTerminated: as for :meth:`eval`
        """
        seconds = self._timeout if timeout is None else seconds_of(timeout)
        message = [TO_ENGINE_MODULE, 0, _text(specifier, "specifier"), _ms(seconds), False]
        return self._ask("module", message, seconds, "eval_module_sync")

    def eval_module_async(self, specifier: str, /, *, timeout: Seconds | None = None) -> asyncio.Future[Any]:
        """The same in a running event loop, with a loader that may be async."""
        seconds = self._timeout if timeout is None else seconds_of(timeout)
        message = [TO_ENGINE_MODULE, 0, _text(specifier, "specifier"), _ms(seconds), True]
        return self._ask_async("module", message, seconds, "eval_module_async")

    def add_static_module(self, name: str, source: Source) -> None:
        """Defines a module that code imports by this name, or as ``static:name``. A later one takes its place for what
        is loaded from then on.
        """
        self._usable()
        self._modules.define(name, source)

    def set_module_resolver(self, resolver: Resolver | None) -> None:
        """Who makes URLs of specifiers: it gets the specifier and the URL of the module that imports it, and gives an
        absolute URL. None or an empty string leaves it to the defined modules.
        """
        self._usable()
        self._modules.set_resolver(resolver)

    def set_module_loader(self, loader: Loader | None) -> None:
        """Who gives the source of a URL: text, or bytes for one that is imported as ``bytes``. It may be async, except
        for :meth:`eval_module`.
        """
        self._usable()
        self._modules.set_loader(loader)

    def _ask(
        self,
        kind: str,
        message: list[Any],
        seconds: float | None,
        counted: str | None,
        console: Console | None = None,
        is_plain: bool = False,
    ) -> Any:
        session = self._usable()
        began = time.monotonic()
        try:
            request = session.begin(kind, message, None, console, is_plain)
            value = session.wait(request, None if seconds is None else began + seconds, seconds)
            return _Pending(self, request) if request.is_pending and not request.is_done else value
        except JavaScriptError as error:
            advise(error, message[2])
            raise
        finally:
            if counted is not None:
                self._count(counted, began)

    def _ask_async(
        self,
        kind: str,
        message: list[Any],
        seconds: float | None,
        counted: str,
        console: Console | None = None,
    ) -> asyncio.Future[Any]:
        loop = running_loop()
        session = self._usable()
        future: asyncio.Future[Any] = loop.create_future()
        began = time.monotonic()

        def settle(request: Request) -> None:
            self._count(counted, began)
            for timer in timers:
                timer.cancel()
            if future.done():
                return
            error = request.stop or request.error
            if len(timers) > 1 or type(error) is JsTimeout:  # its time was over
                error = JsTimeout(
                    f"Evaluation timed out after {seconds:g} s"
                    if type(error) is JsTimeout
                    else f"Evaluation failed: it timed out after {seconds:g} s, with its promise still pending"
                )
            if error is not None:
                advise(error, message[2])
                future.set_exception(error)
            else:
                future.set_result(request.value)

        def told(request: Request) -> None:
            if session.is_looking(loop):
                return settle(request)
            try:
                loop.call_soon_threadsafe(settle, request)
            except RuntimeError:
                pass  # the loop is closed: nobody waits any more

        def late() -> None:
            if session.is_debugged is not None and session.is_debugged():
                timers[0] = loop.call_later(_LATE_SECONDS, late)
                return
            # JavaScript that waits for a promise answers at once.
            timers.append(loop.call_later(_LATE_SECONDS, give_up))
            session.cancel(request)

        def give_up() -> None:
            if not future.done():
                future.set_exception(JsTimeout(f"Evaluation timed out after {seconds:g} s"))

        def over(done: asyncio.Future[Any]) -> None:
            if not request.is_done:
                session.cancel(request)

        timers = [] if seconds is None else [loop.call_later(seconds, late)]
        if id(loop) not in self._loops:
            self._loops = {key: one for key, one in self._loops.items() if not one.is_closed()}
        self._loops[id(loop)] = loop
        try:
            request = session.begin(kind, message, told, console)
        except BaseException:
            for timer in timers:
                timer.cancel()
            raise
        request.loop = loop
        if type(loop) is not TrioLoop:
            session.look_soon(request, loop)
        future.add_done_callback(over)
        return future

    def _count(self, kind: str, began: float) -> None:
        self._last_seconds = seconds = time.monotonic() - began
        self._total_seconds += seconds
        self._last_kind = kind
        self._counts[kind] += 1

    def _usable(self) -> Session:
        """:raises RuntimeError: if it was closed, or has ended"""
        if self._pid != _here.pid:
            raise RuntimeError("Runtime is closed: it belongs to the process that this one was forked from")
        session = self._session
        if session.ended is not None:
            raise session.ended_error()
        return session

    # ---- functions of JavaScript ----

    def _revive(self, kind: int, parts: list[Any]) -> Any:
        if kind == REFERENCE_GUEST_FUNCTION:
            function = JsFunction(self, parts[2], str(parts[3]) if len(parts) > 3 else "")
            self._functions.add(function)
            return function
        return self._streams.revive(parts[2])

    def _number_of(self, value: Any) -> int | None:
        if type(value) is not JsFunction:
            return None
        if value._is_closed:
            raise RuntimeError("Function has been closed")
        if value._runtime is not self:
            if value._runtime.is_closed():
                raise RuntimeError("Runtime has been shut down")
            raise RuntimeError("this function belongs to another runtime; its code cannot run here")
        return value._number

    def _lowering(self, operation: Callable[[Any, str], tuple[int, bool]] | None = None) -> Lowering:
        return Lowering(self._limits, self._number_of, self._streams.number_of, operation)

    def _call_message(
        self, function: JsFunction, args: tuple[Any, ...], seconds: float | None, is_async: bool
    ) -> tuple[list[Any], bool]:
        """Whether it has nothing but scalars, besides."""
        if function._is_closed:
            raise RuntimeError("Function has been closed")
        if self._session.ended is not None and self._is_closed:
            raise RuntimeError("Runtime has been shut down")
        lowering = None
        if args:
            lowered = []
            for one in args:
                if type(one) not in _SCALARS:
                    if lowering is None:
                        lowering = self._lowering()
                    one = lowering.value(one)
                lowered.append(one)
        else:
            lowered = []
        return [TO_ENGINE_CALL, 0, function._number, lowered, _ms(seconds), is_async], lowering is None

    def _call(self, function: JsFunction, args: tuple[Any, ...], timeout: float | None) -> Any:
        seconds = self._timeout if timeout is None else timeout
        message, is_plain = self._call_message(function, args, seconds, False)
        return self._ask("call", message, seconds, "call_function_sync", None, is_plain)

    def _call_async(self, function: JsFunction, args: tuple[Any, ...], timeout: float | None) -> asyncio.Future[Any]:
        seconds = self._timeout if timeout is None else timeout
        message, _ = self._call_message(function, args, seconds, True)
        return self._ask_async("call", message, seconds, "call_function_async")

    # ---- streams ----

    def stream_from_async_iterable(
        self, iterable: AsyncIterable[Any] | Iterable[Any] | IO[Any], *, ahead: int = 0
    ) -> PyStreamSource:
        """What JavaScript gets as a ReadableStream, as an argument or in any other value.

        An item is taken when JavaScript wants to have it, in the event loop that runs here; what is not async, such as
        a generator or a file, which is read in parts of 64 KiB, is taken in threads.

        :param ahead: how many items may be made before they are wanted, so that they come while others are used
        """
        self._usable()
        if isinstance(ahead, bool) or not isinstance(ahead, int) or ahead < 0:
            raise ValueError(f"ahead must be an int of 0 or more, not {ahead!r}")
        return self._streams.source(iterable, ahead)

    async def create_js_stream_from_python(self, iterable: AsyncIterable[Any] | Iterable[Any] | IO[Any]) -> int:
        """The same by a number, for which ``__jsrun_get_stream__(number)`` gives the stream in JavaScript."""
        source = self.stream_from_async_iterable(iterable)
        if not self._named:
            self.bind_function("__jsrun_get_stream__", self._named_stream)
        number = len(self._named) + 1
        self._named[number] = source
        return number

    def _named_stream(self, number: Any = None) -> PyStreamSource:
        try:
            return self._named[number]
        except (KeyError, TypeError):
            raise ValueError(f"there is no stream {number!r}") from None

    # ---- functions of Python ----

    def register_op(
        self, name: str, handler: Callable[..., Any], /, *, mode: Literal["sync", "async"] | str = "sync"
    ) -> int:
        """A function that JavaScript calls by its number: ``__host_op_sync__(number, …)``, or ``__host_op_async__``.

        :raises RuntimeError: if the mode does not fit the function
        """
        _text(name, "name")
        _callable(name, handler)
        if mode not in ("sync", "async"):
            raise RuntimeError(f"Invalid mode '{mode}', expected 'sync' or 'async'")
        is_async = _is_async(handler)
        if is_async != (mode == "async"):
            kind = "a coroutine function" if is_async else "no coroutine function"
            raise RuntimeError(f"mode '{mode}' does not fit {name}, which is {kind}")
        session = self._usable()
        with self._lock:
            number, self._ops = self._ops, self._ops + 1
        session.operations[number] = Operation(handler, is_async, name)
        session.send([TO_ENGINE_OPERATION, number, is_async])
        return number

    def _operation(
        self, function: Callable[..., Any], name: str, permissions: frozenset[str] = frozenset()
    ) -> tuple[int, bool]:
        with self._lock:
            number, self._next_operation = self._next_operation, self._next_operation + 1
        is_async = _is_async(function)
        missing = sorted(permissions - self._permissions) if self._permissions is not None else []
        if missing:
            function = _Denied(name, missing)
            is_async = False
        self._session.operations[number] = Operation(function, is_async, name)
        return number, is_async

    def bind_function(self, name: str, handler: Callable[..., Any], *, permissions: str | Iterable[str] = ()) -> None:
        """Makes it a global function of JavaScript. A coroutine function gives a promise there.

        :param permissions: what it does. Where the runtime declares permissions, and not these, JavaScript that calls
            it gets a :class:`JsPermissionError`, and it does not run
        """
        _text(name, "name")
        _callable(name, handler)
        session = self._usable()
        needed = permissions_of(permissions)
        number, is_async = self._operation(handler, name, needed)
        session.send(
            [TO_ENGINE_BIND, 0, name, Tagged(27, ["ipcctl.Reference", REFERENCE_OPERATION, number, is_async, name])]
        )

    def bind_object(self, name: str, obj: Mapping[str, Any]) -> None:
        """Makes its values properties of a global object, which may exist already; callables become functions."""
        _text(name, "name")
        if not isinstance(obj, Mapping):
            raise TypeError(f"bind_object takes a dict, not {type(obj).__name__}")
        session = self._usable()
        session.send([TO_ENGINE_BIND, 0, name, self._lowering(self._operation).value(dict(obj))])

    @overload
    def bind(self, func: F, /, *, name: str | None = None, permissions: str | Iterable[str] = ()) -> F: ...
    @overload
    def bind(
        self, func: None = None, /, *, name: str | None = None, permissions: str | Iterable[str] = ()
    ) -> Callable[[F], F]: ...
    def bind(self, func: Any = None, /, *, name: str | None = None, permissions: str | Iterable[str] = ()) -> Any:
        """:meth:`bind_function` as a decorator; it gives the function back."""

        def register(target: Any) -> Any:
            binding = name if name is not None else getattr(target, "__name__", None)
            if not binding:
                raise ValueError("A function name is required when binding to JavaScript")
            self.bind_function(binding, target, permissions=permissions)
            return target

        if func is None:
            return register
        if not callable(func):
            raise TypeError("runtime.bind expects a callable or to be used as a decorator")
        return register(func)

    def _run_async(
        self,
        work: Coroutine[Any, Any, Any],
        request: Request | None,
        answer: Callable[[Any, BaseException | None], None],
    ) -> None:
        """In the loop that asked, else in one that runs, else in one of our own."""
        loop = None if request is None else getattr(request, "loop", None)
        if loop is None:
            loop = next((one for one in list(self._loops.values()) if one.is_running()), None)
        if loop is None or loop.is_closed():
            loop = self._loop()
        context = None if request is None else request.context
        self._async_ops += 1

        def over(task: asyncio.Task[Any]) -> None:
            self._async_ops -= 1
            if task.cancelled():
                return answer(None, asyncio.CancelledError("cancelled"))
            error = task.exception()
            answer(None if error is not None else task.result(), error)

        def begin() -> None:
            if request is not None and request.is_stopped:
                work.close()
                self._async_ops -= 1
                return
            task = loop.create_task(work)
            if request is not None:
                request.tasks = request.tasks if request.tasks is not None else {}
                request.tasks[task] = lambda: _call_soon(loop, task.cancel)
                task.add_done_callback(request.tasks.pop)
            _tasks.add(task)
            task.add_done_callback(_tasks.discard)
            task.add_done_callback(over)

        try:
            loop.call_soon_threadsafe(begin, context=context)
        except RuntimeError as error:
            work.close()
            self._async_ops -= 1
            answer(None, error)

    def _loop(self) -> asyncio.AbstractEventLoop:
        if self._own_loop is None:
            self._own_loop = _Loop()
        return self._own_loop.loop

    # ---- the console ----

    def _printed(self, console: Console | None, level: str, text: str) -> None:
        if console is not None:
            console(level, text)
            return
        out = sys.stderr if level in ("warn", "error", "trace") else sys.stdout
        if out is None:
            return
        try:
            out.write(f"{text}\n")
        except UnicodeEncodeError:  # as Python itself shows what its terminal has no letters for
            out.write(text.encode(out.encoding, "backslashreplace").decode(out.encoding) + "\n")

    # ---- what it does ----

    def get_stats(self) -> RuntimeStats:
        """:raises RuntimeError: if it was closed"""
        session = self._usable()
        request = session.begin("eval", [TO_ENGINE_REPORT, 0])
        report = session.wait(request, None, None)
        known = {key: value for key, value in report.items() if type(value) is int}
        counted = {f"{key}_count": value for key, value in self._counts.items()}
        return RuntimeStats(
            **{key: known.get(key, 0) for key in _REPORTED},
            **self._streams.counts(),
            **counted,
            physical_total_bytes=self._guest.resident_bytes(),
            total_execution_time_ms=int(self._total_seconds * 1000),
            last_execution_time_ms=int(self._last_seconds * 1000),
            last_execution_kind=self._last_kind,
            active_async_ops=self._async_ops,
            pid=self._guest.pid,
            confined=self._guest.is_confined,
            engine=str(self._guest.hello.get("engine", "")),
            jit=self._guest.hello.get("jit") is True,
        )

    def heap_snapshot(self) -> bytes:
        """What its memory holds, as a ``.heapsnapshot``, which the memory panel of Chrome's DevTools loads.

        :raises RuntimeError: if it was closed
        """
        session = self._usable()
        picture: bytes = session.wait(session.begin("eval", [TO_ENGINE_HEAP, 0]), None, None)
        return picture

    def profile(self, *, interval: Seconds = 0.001) -> Profile:
        """Where the time of JavaScript goes: ``with runtime.profile() as profile: …``, then ``profile.save(path)``.

        :param interval: seconds between two looks
        """

        def ask(microseconds: int | None) -> Any:
            session = self._usable()
            return session.wait(session.begin("eval", [TO_ENGINE_PROFILE, 0, microseconds]), None, None)

        seconds = seconds_of(interval, "interval")
        assert seconds is not None
        return Profile(ask, max(1, round(seconds * 1e6)))

    def inspector_endpoints(self) -> InspectorEndpoints | None:
        """Where a debugger finds it. None without an inspector."""
        return None if self._inspector is None else self._inspector.endpoints

    def _debug_tracked_function_count(self) -> int:
        return 0 if self.is_closed() else len(self._functions)

    # ---- the end ----

    def is_closed(self) -> bool:
        return self._session.ended is not None or self._pid != _here.pid

    def close(self) -> None:
        """Ends its process. Whatever waits for it is told that it is closed."""
        self._end(RuntimeError("Runtime is closed"))
        self._is_closed = True

    def terminate(self) -> None:
        """Ends its process at once; what runs raises :class:`RuntimeTerminated`."""
        self._end(RuntimeTerminated(f"Runtime terminated: {_HOST_REQUEST}"))
        self._guest.kill()

    def _end(self, error: RuntimeError) -> None:
        if self._pid != _here.pid:
            return
        _open.discard(self)
        self._session.finish(None, error)
        self._functions.clear()
        self._modules.forget()
        if self._inspector is not None:
            self._inspector.close()
        self._guest.dispose()
        own_loop, self._own_loop = self._own_loop, None
        if own_loop is not None:
            own_loop.close()

    def __reduce__(self) -> NoReturn:
        """A copy that is let go would close it."""
        raise TypeError("a Runtime is a process and cannot be copied or pickled; another process makes its own")

    def __repr__(self) -> str:
        if "_session" not in self.__dict__ or self.is_closed():
            return "<Runtime, closed>"
        return f"<Runtime pid={self._guest.pid} confined={self._guest.is_confined}>"

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if "_modules" in self.__dict__ and not self.is_closed():
            self.close()


def _call_soon(loop: asyncio.AbstractEventLoop, act: Callable[[], Any]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nothing of it goes on
        loop.call_soon_threadsafe(act)


class _Denied:
    """In place of a function whose permissions the runtime does not have."""

    def __init__(self, name: str, missing: list[str]) -> None:
        names = ", ".join(repr(one) for one in missing)
        self._text = f"{name} needs the permission {names}, which RuntimeConfig(permissions=[…]) does not declare"

    def __call__(self, *args: Any) -> Any:
        raise JsPermissionError(self._text)


class _Pending:
    """The value of a call whose promise is pending. It can be awaited once, in any event loop."""

    def __init__(self, runtime: Runtime, request: Request) -> None:
        self._runtime, self._request = runtime, request
        runtime._session.read_always()

    def __await__(self) -> Any:
        return self._settled().__await__()

    async def _settled(self) -> Any:
        loop = running_loop()
        future: asyncio.Future[None] = loop.create_future()
        request = self._request

        def done() -> None:
            if not future.done():
                future.set_result(None)

        def told(_: Request) -> None:
            try:
                loop.call_soon_threadsafe(done)
            except RuntimeError:
                pass

        request.notify = told
        if not request.is_done:
            try:
                await future
            except BaseException:
                self._runtime._session.cancel(request)
                raise
        if request.error is not None:
            raise request.error
        return request.value

    def __repr__(self) -> str:
        return "<pending promise of JavaScript>"


class _Here:
    """This process: a forked child has no runtimes."""

    pid = os.getpid()


_here = _Here()


def _forked() -> None:
    _here.pid = os.getpid()
    for runtime in list(_open):
        if runtime._inspector is not None:
            runtime._inspector.forsake()


os.register_at_fork(after_in_child=_forked)


class _Loop:
    """An event loop in a thread of its own, for async functions that are called while none runs."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self._run, daemon=True, name="ipcctl-js-async").start()

    def _run(self) -> None:
        self.loop.run_forever()
        self.loop.close()

    def close(self) -> None:
        """What is under way, such as the end of a stream, has a moment for it."""

        async def end() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            if others:
                await asyncio.wait(others, timeout=_END_SECONDS)
            self.loop.stop()

        asyncio.run_coroutine_threadsafe(end(), self.loop)


_tasks: set[asyncio.Task[Any]] = set()
_open: weakref.WeakSet[Runtime] = weakref.WeakSet()
_REPORTED = (
    "heap_total_bytes",
    "heap_used_bytes",
    "external_memory_bytes",
    "open_resources",
    "active_timers",
    "active_intervals",
)
_SCALARS = frozenset((bool, int, float, type(None)))
#: After its time an evaluation that only waits is given up at once, and one that computes after this.
_LATE_SECONDS = 0.05
_END_SECONDS = 1.0


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


def _text(value: Any, name: str = "code") -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be str, not {type(value).__name__}")
    return value


def _callable(name: str, value: Any) -> None:
    if not callable(value):
        raise TypeError(f"{name}: {type(value).__name__} cannot be called")


__all__ = ["JsFunction", "Runtime", "RuntimeStats", "contextvars", "undefined"]
