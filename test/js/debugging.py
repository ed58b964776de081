"""Debuggers, profiles and pictures of the heap; and the engine v8, which debuggers need."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from cases import Took, case, equal, expect, fails, main, until
from cdp import Debugger


def debugged(js: Any, **settings: Any) -> tuple[Any, Debugger]:
    one = js.Runtime(inspector=js.InspectorConfig(port=0), **settings)
    return one, attached(one)


def attached(one: Any) -> Debugger:
    debugger = Debugger(one.inspector_endpoints().websocket_url)
    equal(debugger.status, 101)
    debugger.ask("Runtime.enable")
    debugger.ask("Debugger.enable")
    return debugger


class Later:
    """What runs in a thread."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.value: Any = None
        self.error: BaseException | None = None
        self.is_done = False

        def run() -> None:
            try:
                self.value = work()
            except BaseException as error:
                self.error = error
            self.is_done = True

        threading.Thread(target=run, daemon=True).start()

    def get(self) -> Any:
        expect(until(lambda: self.is_done, 10), "it does not end")
        if self.error is not None:
            raise self.error
        return self.value


def lines_of(paused: dict[str, Any]) -> list[tuple[str, int]]:
    return [(one["functionName"], one["location"]["lineNumber"]) for one in paused["callFrames"]]


@case("What a debugger evaluates with the tools of its console gives the guest nothing of the engine")
def console_tools(js: Any) -> None:
    one, debugger = debugged(js)
    with one:
        one.eval("Object.defineProperty(globalThis, 'trap', { get() { return typeof require + typeof process } })")
        answer = debugger.ask("Runtime.evaluate", expression="trap", includeCommandLineAPI=True)
        equal(answer["result"]["value"], "undefinedundefined")
        later = Later(lambda: one.eval("debugger; 1"))
        frame = debugger.event("Debugger.paused")["callFrames"][0]["callFrameId"]
        how = {"callFrameId": frame, "expression": "trap", "includeCommandLineAPI": True}
        equal(debugger.ask("Debugger.evaluateOnCallFrame", **how)["result"]["value"], "undefinedundefined")
        debugger.ask("Debugger.resume")
        equal(later.get(), 1)


@case("Code stops at `debugger`, shows and changes its variables, and goes on; nothing of the engine is seen")
def statement(js: Any) -> None:
    one, debugger = debugged(js)
    with one:
        context = debugger.event("Runtime.executionContextCreated")["context"]
        expect(context["name"] == one.inspector_endpoints().title, f"{context}")
        later = Later(lambda: one.eval("function twice(x) {\n  debugger;\n  return x * 2;\n}\ntwice(20)"))
        paused = debugger.event("Debugger.paused")
        equal(lines_of(paused), [("twice", 1), ("", 4)])
        frame = paused["callFrames"][0]["callFrameId"]
        equal(
            debugger.ask("Debugger.evaluateOnCallFrame", callFrameId=frame, expression="x = x + 1")["result"]["value"],
            21,
        )
        debugger.ask("Debugger.resume")
        equal(later.get(), 42)
        equal(
            debugger.ask("Runtime.evaluate", expression="typeof twice + typeof process")["result"]["value"],
            "functionundefined",
        )
        expect(one.get_stats().confined, "it is not confined")


@case("A breakpoint in a script that is not there yet; steps")
def breakpoint_ahead(js: Any) -> None:
    one, debugger = debugged(js)
    with one:
        debugger.ask("Debugger.setBreakpointByUrl", url="<eval>", lineNumber=1)
        later = Later(lambda: one.eval("let a = 1;\na += 1;\na += 1;\na"))
        paused = debugger.event("Debugger.paused")
        expect(paused["hitBreakpoints"], f"{paused['reason']}")
        equal(lines_of(paused), [("", 1)])
        debugger.ask("Debugger.stepOver")
        equal(lines_of(debugger.event("Debugger.paused")), [("", 2)])
        debugger.ask("Debugger.resume")
        equal(later.get(), 3)


@case("A loop without end can be stopped, and evaluated in")
def pause(js: Any) -> None:
    one, debugger = debugged(js)
    later = Later(lambda: one.eval("globalThis.n = 0; for (;;) n++"))
    expect(
        until(lambda: debugger.ask("Runtime.evaluate", expression="globalThis.n > 0")["result"].get("value") is True),
        "",
    )
    debugger.ask("Debugger.pause")
    frame = debugger.event("Debugger.paused")["callFrames"][0]["callFrameId"]
    equal(debugger.ask("Debugger.evaluateOnCallFrame", callFrameId=frame, expression="n > 0")["result"]["value"], True)
    one.terminate()
    fails(later.get, js.RuntimeTerminated)


@case("wait_for_connection: what was asked runs in order, once the debugger says so; no time is over meanwhile")
def waits(js: Any) -> None:
    one = js.Runtime(inspector=js.InspectorConfig(port=0, wait_for_connection=True), timeout=0.2)
    with one:
        first = Later(lambda: one.eval("globalThis.order = [1]; 1"))
        expect(until(lambda: bool(one._session._held)), "nothing waits")
        second = Later(lambda: one.eval("order.push(2)"))
        time.sleep(0.5)
        expect(not first.is_done and not second.is_done, "it ran, or its time was over")
        debugger = attached(one)
        debugger.ask("Runtime.runIfWaitingForDebugger")
        equal((first.get(), second.get()), (1, 2))


@case("break_on_next_statement stops in the first statement of the guest")
def breaks(js: Any) -> None:
    config = js.InspectorConfig(port=0, break_on_next_statement=True, display_name="mine", target_url="app://mine")
    with js.Runtime(inspector=config) as one:
        equal((one.inspector_endpoints().title, one.inspector_endpoints().target_url), ("mine", "app://mine"))
        later = Later(lambda: one.eval("\n  globalThis.ran = 1;\n ran"))
        debugger = attached(one)
        debugger.ask("Runtime.runIfWaitingForDebugger")
        equal(lines_of(debugger.event("Debugger.paused")), [("", 1)])
        debugger.ask("Debugger.resume")
        equal(later.get(), 1)


@case("A debugger that goes away while code is stopped lets it go on")
def goes_away(js: Any) -> None:
    one, debugger = debugged(js)
    with one:
        later = Later(lambda: one.eval("debugger; 5"))
        debugger.event("Debugger.paused")
        debugger.close()
        equal(later.get(), 5)
        later = Later(lambda: one.eval("debugger; 6"))
        equal(later.get(), 6)
        again = attached(one)
        equal(again.ask("Runtime.evaluate", expression="1 + 1")["result"]["value"], 2)


@case(
    "A task that is cancelled while its code is stopped ends it, and the runtime goes on; timeouts wait for a debugger"
)
def cancelled(js: Any) -> None:
    one, debugger = debugged(js, timeout=0.2)

    async def run() -> None:
        task = asyncio.ensure_future(one.eval_async("debugger; 5"))
        await asyncio.to_thread(debugger.event, "Debugger.paused")
        await asyncio.sleep(0.5)
        expect(not task.done(), "its time was over")
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        equal(await asyncio.wait_for(one.eval_async("6"), 5), 6)

    with one:
        asyncio.run(run())
        debugger.close()
        expect(until(lambda: not one._inspector.is_debugged), "it is still there")
        fails(lambda: one.eval("for (;;);"), js.JsTimeout)


@case("Ports: any that is free, names of hosts, one that is taken; HTTP tells the target; two runtimes at once")
def places(js: Any) -> None:
    with js.Runtime(inspector=js.InspectorConfig(host="localhost", port=0)) as one, debugged(js)[0] as two:
        ours = one.inspector_endpoints()
        expect(ours.websocket_url == f"ws://{ours.host}/ws/{ours.id}" and ours.host.startswith("localhost:"), f"{ours}")
        expect(ours.devtools_frontend_url.startswith(f"devtools://devtools/bundled/js_app.html?ws={ours.host}/ws/"), "")
        for path in ("/json", "/json/list"):
            (target,) = json.load(urllib.request.urlopen(f"http://{ours.host}{path}"))
            equal((target["id"], target["webSocketDebuggerUrl"]), (ours.id, ours.websocket_url))
        expect(json.load(urllib.request.urlopen(f"http://{ours.host}/json/version"))["Protocol-Version"], "")
        port = int(two.inspector_endpoints().host.rpartition(":")[2])
        fails(lambda: js.Runtime(inspector=js.InspectorConfig(port=port)), RuntimeError, "port=0")
        equal(attached(one).ask("Runtime.evaluate", expression="'one'")["result"]["value"], "one")
    fails(lambda: urllib.request.urlopen(f"http://{ours.host}/json"), urllib.error.URLError)
    with js.Runtime() as none:
        equal(none.inspector_endpoints(), None)


@case("No web page can attach: its origin, a name of its own for this machine, and a path that it must guess")
def pages(js: Any) -> None:
    with js.Runtime(inspector=js.InspectorConfig(port=0)) as one:
        ours = one.inspector_endpoints()
        equal(Debugger(ours.websocket_url, "Origin: https://evil.example").status, 403)
        equal(Debugger(ours.websocket_url, "Origin: null").status, 403)
        equal(Debugger(ours.websocket_url, "Origin: devtools://devtools").status, 101)
        equal(Debugger(f"ws://{ours.host}/ws/{'0' * 36}").status, 404)
        for header, value in (("Host", "evil.example"), ("Origin", "http://localhost:1")):
            asked = urllib.request.Request(f"http://{ours.host}/json", headers={header: value})
            try:
                urllib.request.urlopen(asked)
                expect(False, f"{header}: {value} is answered")
            except urllib.error.HTTPError as error:
                equal(error.code, 403)


@case("Debuggers that do not speak the protocol are sent away, and hurt no other")
def garbage(js: Any) -> None:
    one, debugger = debugged(js)
    with one:
        url = one.inspector_endpoints().websocket_url
        for frames in (
            [(b"no JSON", 0x81)],
            [(b"[1]", 0x81)],
            [(b'{"id":1}', 0x81)],
            [(b"\xff\xfe", 0x81)],
            [(b"{}", 0x82)],
            [(b"{}", 0xC1)],
            [(b"{}", 0x80)],
            [(b"x" * 200, 0x89)],
        ):
            bad = Debugger(url)
            for text, kind in frames:
                bad.send(text, kind)
            with contextlib.suppress(ConnectionError):
                fails(bad.receive, EOFError)
        huge = Debugger(url)
        huge.connection.sendall(b"\x81\xff" + (1 << 40).to_bytes(8, "big"))
        equal(fails(huge.receive, EOFError).args[0], 1009)
        unknown = debugger.ask("No.suchMethod")
        equal(unknown["code"], -32601)
        debugger.send(b"")
        debugger.send(b'{"id":70,"method":"Runtime.eva', 0x01)
        debugger.send(b"ping", 0x89)
        debugger.connection.settimeout(5)
        debugger.send(b'luate","params":{"expression":"7"}}', 0x80)
        equal(debugger.source.read(2 + 4), b"\x8a\x04ping")
        while (message := debugger.receive()).get("id") != 70:
            pass
        equal(message["result"]["result"]["value"], 7)
        equal(one.eval("1 + 1"), 2)


@case("A picture of the heap, as Chrome loads it, from both engines")
def heap(js: Any) -> None:
    for engine in ("bun", "v8"):
        with js.Runtime(engine=engine) as one:
            one.eval("globalThis.kept = { aTextThatIsKept: 'of the guest' }")
            picture = json.loads(one.heap_snapshot())
            meta = picture["snapshot"]["meta"]
            equal(len(picture["nodes"]) % len(meta["node_fields"]), 0, engine)
            equal(len(picture["nodes"]) // len(meta["node_fields"]), picture["snapshot"]["node_count"], engine)
            expect("aTextThatIsKept" in picture["strings"], f"{engine}: a property is missing")


@case("A profile names the functions that took time, from both engines; one at a time")
def profile(js: Any) -> None:
    work = "function busy(ms) { const end = Date.now() + ms; while (Date.now() < end); return 1 }"
    for engine in ("bun", "v8"):
        with js.Runtime(engine=engine) as one:
            one.eval(work)
            with one.profile() as taken:
                equal(one.eval("busy(300)"), 1)
                fails(lambda: taken.data, RuntimeError, "complete")
                fails(lambda one=one: one.profile().__enter__(), RuntimeError, "already")  # type: ignore[misc]
            tree = taken.tree()
            names = {node["callFrame"]["functionName"] for node in tree["nodes"]}
            expect("busy" in names, f"{engine}: {sorted(names)}")
            equal(len(tree["samples"]), len(tree["timeDeltas"]), engine)
            with contextlib.suppress(js.JavaScriptError), one.profile(interval=0.0005) as failed:
                one.eval("busy(20); throw 1")
            expect(failed.data.startswith(b"{"), "no profile of what failed")


@case("The engine v8: values, errors with their place, timeouts, modules")
def engine(js: Any) -> None:
    with js.Runtime(engine="v8") as one:
        equal(one.get_stats().engine, "v8")
        equal(one.eval("[1, 'a', null, { b: 2n }]"), [1, "a", None, {"b": 2}])
        error = fails(lambda: one.eval("\n  const z = q..;"), js.JavaScriptError)
        equal(error.frames[0]["line_number"], 2)  # type: ignore[attr-defined]
        error = fails(lambda: one.eval("function f() {\n  throw new TypeError('boom') }\nf()"), js.JavaScriptError)
        equal([one["line_number"] for one in error.frames], [2, 3])  # type: ignore[attr-defined]
        for endless in ("for (;;);", "(function f() { Promise.resolve().then(f) })()"):
            with Took() as took:
                fails(lambda endless=endless: one.eval(endless, timeout=0.2), js.JsTimeout)  # type: ignore[misc]
            expect(took.seconds < 5, f"{took.seconds:.1f} s")
        equal(one.eval("async (x) => x * 2")(4), 8)
        one.add_static_module("a", "import { b } from 'b'; export const a = b + (await import('b')).b")
        one.add_static_module("b", "export const b = 1")
        equal(one.eval_module("a"), {"a": 2})


@case("The engine v8 goes on after many async evaluations that were ended")
def many_ended(js: Any) -> None:
    async def run() -> None:
        with js.Runtime(engine="v8") as one:

            async def soon() -> None:
                await asyncio.sleep(0.001)

            one.bind_function("soon", soon)
            for _ in range(5):
                for code in ("(async () => { for (;;) await 1 })()", "(async () => { await soon(); for (;;); })()"):
                    with contextlib.suppress(js.JsTimeout):
                        await one.eval_async(code, timeout=0.03)
            equal(await one.eval_async("soon().then(() => 5)"), 5)

    asyncio.run(run())


@case("Without a Node that is new enough, the error says which it is, and what to do")
def no_node(js: Any) -> None:
    os.environ["IPCCTL_JS_NODE"] = "/nonexistent/node"
    fails(lambda: js.Runtime(engine="v8"), RuntimeError, "IPCCTL_JS_NODE")
    fails(lambda: js.Runtime(inspector=js.InspectorConfig(port=0)), RuntimeError, "Node 22")


if __name__ == "__main__":
    main()
