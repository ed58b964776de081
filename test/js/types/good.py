"""The whole public interface, as users write it. mypy --strict finds nothing, and the test runs nothing of it."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import ipcctl.js as jsrun
from ipcctl.js import (
    BundleError,
    InspectorConfig,
    InspectorEndpoints,
    JavaScriptError,
    JsFrame,
    JsFunction,
    JsPermissionError,
    JsStream,
    JsTimeout,
    JsUndefined,
    Profile,
    PyStreamSource,
    Runtime,
    RuntimeConfig,
    RuntimeStats,
    RuntimeTerminated,
    SnapshotBuilder,
    bind_function,
    bind_object,
    bundle,
    close_default_runtime,
    eval_async,
    get_default_runtime,
    undefined,
)


def configured() -> RuntimeConfig:
    builder = SnapshotBuilder("globalThis.a = 1", enable_console=True)
    builder.execute_script("b.js", "globalThis.b = 2")
    builder.add_static_module("c", "export const c = 3")
    builder.eval_module("c")
    snapshot: bytes = builder.build()
    config = RuntimeConfig(
        max_heap_size=1 << 20,
        initial_heap_size=1 << 20,
        timeout=datetime.timedelta(seconds=1),
        enable_console=True,
        inspector=InspectorConfig("127.0.0.1", port=0, wait_for_connection=False, display_name="a"),
        snapshot=snapshot,
        max_serialization_depth=10,
        max_serialization_bytes=1 << 20,
        permissions={"read"},
        engine="v8",
        confine="auto",
        allow_net=["example.com:443"],
        allow_read=Path("/tmp"),
        max_memory=1 << 20,
        max_cpu=1.5,
        typescript=True,
        modules=Path("."),
        daemon=False,
    )
    config.timeout = 2
    config.max_heap_size = 2 << 20
    seconds: float | None = config.timeout
    assert seconds and repr(config)
    return config


def used(runtime: Runtime, said: list[tuple[str, str]]) -> None:
    value: int = runtime.eval("1", timeout=1.5, console=lambda level, text: said.append((level, text)), language="ts")
    names: dict[str, Any] = runtime.eval_module("m", timeout=1)
    runtime.add_static_module("m", b"")
    runtime.set_module_resolver(lambda specifier, referrer: f"a:{specifier}" if referrer else None)
    runtime.set_module_loader(lambda url: "export default 1")
    runtime.bind_function("f", len, permissions=["read"])
    runtime.bind_object("o", {"f": print, "n": value, "u": undefined, **names})
    number: int = runtime.register_op("op", max, mode="sync")

    @runtime.bind
    def one(x: int) -> int:
        return x

    @runtime.bind(name="two", permissions="read")
    def two(x: int) -> str:
        return str(x)

    text: str = two(one(number))
    function: JsFunction = runtime.eval("() => 1")
    function(1, text, timeout=1)
    assert function.name
    stats: RuntimeStats = runtime.get_stats()
    pid: int = stats.pid
    kind: str | None = stats.last_execution_kind
    endpoints: InspectorEndpoints | None = runtime.inspector_endpoints()
    if endpoints is not None:
        assert endpoints.websocket_url.startswith("ws:") and pid and kind
    picture: bytes = runtime.heap_snapshot()
    profile: Profile
    with runtime.profile(interval=0.01) as profile:
        pass
    profile.save(Path("a.cpuprofile"))
    assert picture and not runtime.is_closed()
    runtime.terminate()
    runtime.close()


async def awaited(runtime: Runtime) -> None:
    async def items() -> AsyncIterator[int]:
        yield 1

    async def load(url: str) -> str:
        return url

    runtime.set_module_loader(load)
    source: PyStreamSource = runtime.stream_from_async_iterable(items())
    stream: JsStream = await runtime.eval_async("new ReadableStream()", timeout=1)
    async for item in stream:
        print(item)
    function: JsFunction = await runtime.eval_async("(x) => x")
    print(await function.call_async(source, timeout=1))
    await function.close()
    await runtime.eval_module_async("m", timeout=1)
    print(await asyncio.wait_for(runtime.eval_async("1"), 1))
    print(await eval_async("1", timeout=1))


def failed(runtime: Runtime) -> str:
    try:
        runtime.eval("")
    except JsTimeout as late:
        error: TimeoutError = late
        return str(error)
    except RuntimeTerminated as ended:
        return str(ended)
    except JavaScriptError as thrown:
        frames: list[JsFrame] = thrown.frames
        cause: BaseException | None = thrown.cause
        inner: list[JavaScriptError] = thrown.errors
        properties: dict[str, Any] = thrown.properties
        if isinstance(cause, JsPermissionError):
            return str(cause)
        return f"{thrown.name}{thrown.message}{thrown.stack}{frames[0]['line_number']}{inner}{properties}"
    return ""


def of_the_default() -> None:
    bind_function("f", len)
    bind_object("o", {})
    runtime: Runtime = get_default_runtime()
    if isinstance(jsrun.eval("undefined"), JsUndefined):
        used(runtime, [])
    close_default_runtime()
    try:
        print(bundle("export {}", Path("."), language="tsx", format="script", minify=True))
    except BundleError as error:
        print(error)
    with Runtime(configured()) as one, Runtime(max_memory=1, timeout=1, modules=".", allow_read=["/tmp"]) as two:
        print(failed(one), asyncio.run(awaited(two)))
