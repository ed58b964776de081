"""Modules: how they are found, loaded, evaluated, and what a hostile one reaches."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from ipcctl import _contract
from cases import Took, case, equal, expect, fails, in_thread, main, until

#: What code can see of the realm that a value comes from: "undefined" is the guest's own.
PROBE = """
globalThis.probe = (value) => {
  try { return value.constructor.constructor("return typeof process")(); } catch { return "undefined"; }
};
"""
#: Every way in which text becomes code that imports.
IMPORTS = (
    "import(name)",
    "eval('import(name)')",
    "(0, eval)('import(name)')",
    "Function('return import(name)')()",
    "Reflect.construct(Function, ['return import(name)'])()",
    "(async () => {}).constructor('return import(name)')()",
    "['return import(name)'].map((text) => Function(text))[0]()",
    "Promise.resolve('import(name)').then(eval)",
    "Promise.resolve('return import(name)').then(Function).then((made) => made())",
    "new Promise((resolve) => setTimeout(() => resolve(import(name)), 1))",
    "new Promise((...both) => setTimeout(Function('both', 'import(name).then(...both)'), 1, both))",
    "(async () => { await 0; return import(name); })()",
)


def runtime(js: Any, modules: dict[str, str | bytes], **settings: Any) -> Any:
    one = js.Runtime(js.RuntimeConfig(**settings))
    for name, source in modules.items():
        one.add_static_module(name, source)
    one.eval(PROBE)
    return one


# ---- evaluating ----


@case("several modules are evaluated in one runtime, and each of them once")
def several(js: Any) -> None:
    with runtime(
        js, {"a": "globalThis.runs = (globalThis.runs ?? 0) + 1; export const a = 1", "b": "export const b = 2"}
    ) as one:
        equal(one.eval_module("a"), {"a": 1})
        equal(one.eval_module("b"), {"b": 2})
        equal(one.eval_module("static:a"), {"a": 1})
        equal(one.eval_module("jsrun://static/a"), {"a": 1})
        equal(one.eval("runs"), 1)


@case("exports are values, functions that can be called, and live bindings", only_ours=True)
def exports(js: Any) -> None:
    source = (
        "export let n = 0; export function up() { n++; return n } export default class {}; export const u = undefined"
    )
    with runtime(js, {"a": source, "b": "export * as inner from 'a'; export { up } from 'a'"}) as one:
        found = one.eval_module("a")
        equal((found["n"], found["u"], sorted(found)), (0, js.undefined, ["default", "n", "u", "up"]))
        equal(found["up"](), 1)
        equal(one.eval_module("b")["inner"]["n"], 1)


@case("modules of a cycle run in the order of the language", only_ours=True)
def cycles(js: Any) -> None:
    log = "globalThis.log = [...(globalThis.log ?? []), import.meta.url.at(-1)];"
    modules = {
        "a": f"import {{ b }} from 'b'; import 'e'; {log} export const a = b + 1;"
        "export function early() { return 7 }",
        "b": f"import {{ early }} from 'a'; import 'c'; {log} export const b = early();",
        "c": f"import 'd'; import 'b'; {log}",
        "d": f"import 'c'; await 0; {log}",
        "e": f"import 'a'; {log}",
    }
    with runtime(js, modules) as one:
        equal(one.eval_module("a")["a"], 8)
        equal(one.eval("log"), ["e", "d", "c", "b", "a"])


@case("a module that imports itself, by a declaration and by import(), is one module", only_ours=True)
def itself(js: Any) -> None:
    source = "import * as me from 'a'; export const x = 1; export const same = import('a').then((it) => it === me)"
    with runtime(js, {"a": source, "b": "export const same = await (await import('a')).same"}) as one:
        equal(one.eval_module("b"), {"same": True})


@case("import() in recursion ends, and a module that awaits itself meets its timeout", only_ours=True)
def recursion(js: Any) -> None:
    modules = {
        "deep": "export const go = async (n) => (n === 0 ? 'end' : (await import('deep')).go(n - 1));",
        "start": "import { go } from 'deep'; export const end = await go(1000);",
        "self": "await import('self')",
    }
    with runtime(js, modules) as one:
        equal(one.eval_module("start"), {"end": "end"})
        fails(lambda: one.eval_module("self", timeout=0.2), js.JsTimeout, "timed out")
        equal(one.eval("1 + 1"), 2)


@case("a request that waits ends though an interrupt takes the message away that ends it", only_ours=True)
def lost_cancels(js: Any) -> None:
    with runtime(js, {"self": "await import('self')"}) as one:
        session, lost = one._session, []
        send = session.send_quietly

        def lose_the_first(message: list[Any]) -> None:
            if message[0] == _contract.TO_ENGINE_CANCEL and not lost:
                lost.append(message)
            else:
                send(message)

        session.send_quietly = lose_the_first
        fails(lambda: one.eval_module("self", timeout=0.2), js.JsTimeout, "timed out")
        equal((len(lost), one.eval("1 + 1")), (1, 2))
        lost.clear()

        async def ask() -> None:
            await asyncio.wait_for(one.eval_async("new Promise(() => {})"), 0.1)

        fails(lambda: asyncio.run(ask()), TimeoutError)
        equal((len(lost), one.eval("1 + 1")), (1, 2))


@case("top-level await is waited for, with timers and import() in it")
def top_level_await(js: Any) -> None:
    source = (
        "export const x = await new Promise((done) => setTimeout(done, 20, 7)); export const y = (await import('b')).b"
    )
    with runtime(js, {"a": source, "b": "export const b = await 2"}) as one:
        equal(one.eval_module("a"), {"x": 7, "y": 2})
        equal(asyncio.run(_async(one, "a")), {"x": 7, "y": 2})


async def _async(one: Any, name: str, **how: Any) -> Any:
    return await one.eval_module_async(name, **how)


@case("a module that never ends is ended by its timeout, waiting or computing, and can be loaded anew", only_ours=True)
def timeouts(js: Any) -> None:
    modules = {"wait": "await new Promise(() => {})", "loop": "while (!globalThis.stop); export const x = 1"}
    with runtime(js, modules) as one:
        for name in modules:
            with Took() as took:
                fails(lambda: one.eval_module(name, timeout=0.2), js.JsTimeout, "timed out")
                fails(lambda: asyncio.run(_async(one, name, timeout=0.2)), js.JsTimeout, "timed out")
            expect(took.seconds < 5, f"{name} took {took.seconds:.1f} s")
        one.eval("globalThis.stop = true")
        equal(one.eval_module("loop"), {"x": 1})


@case("one that failed fails in the same way again; what it imported is unharmed")
def failed(js: Any) -> None:
    modules = {
        "bad": "import 'good'; throw new RangeError('no')",
        "good": "export const good = 1",
        "user": "import 'bad'",
    }
    with runtime(js, modules) as one:
        for name in ("bad", "bad", "user"):
            error = fails(lambda: one.eval_module(name), js.JavaScriptError, "RangeError: no")
            equal(error.name, "RangeError")  # type: ignore[attr-defined]
        equal(one.eval_module("good"), {"good": 1})


@case("a name that is defined again is another module from then on", only_ours=True)
def redefined(js: Any) -> None:
    with runtime(js, {"a": "export const a = 1"}) as one:
        equal(one.eval_module("a"), {"a": 1})
        one.add_static_module("a", "export const a = 2")
        equal(one.eval_module("a"), {"a": 2})
        one.add_static_module("bad", "export const = ")
        fails(lambda: one.eval_module("bad"), js.JavaScriptError, "SyntaxError")
        one.add_static_module("bad", "export const mended = 1")
        equal(one.eval_module("bad"), {"mended": 1})


@case("a graph of 200 modules, and 10,000 imports at once")
def many(js: Any) -> None:
    modules = {f"m{at}": f"import {{ n as low }} from 'm{at // 2}'; export const n = low + 1" for at in range(1, 200)}
    with runtime(js, {"m0": "export const n = 0", **modules}) as one:
        one.add_static_module("all", "".join(f"import 'm{at}';" for at in range(200)) + "export { n } from 'm199'")
        equal(one.eval_module("all"), {"n": 8})

        async def work() -> list[Any]:
            same = "Promise.all(Array.from({ length: 10000 }, () => import('m7')))"
            same += ".then((all) => all.every((it) => it === all[0]))"
            asked: list[str] = []

            async def loader(url: str) -> str:
                asked.append(url)
                return f"export const url = {url!r}"

            one.set_module_loader(loader)
            apart = (
                "Promise.all(Array.from({ length: 10000 }, (_, at) => import(`app:${at}`)))"
                ".then((all) => all.filter(({ url }, at) => url === `app:${at}`).length)"
            )
            return [await one.eval_async(same), await one.eval_async(apart), len(asked)]

        equal(asyncio.run(work()), [True, 10000, 10000])


@case("a name is no code, and a source keeps its lines, whatever comments it begins and ends with", only_ours=True)
def sources(js: Any) -> None:
    names = [
        '"; globalThis.pwned = 1; "',
        "x\n; globalThis.pwned = 1",
        "\u2028globalThis.pwned = 1",
        "*/ //# sourceURL=y",
    ]
    with runtime(js, dict.fromkeys(names, "export const url = import.meta.url")) as one:
        for name in names:
            equal(one.eval_module(name), {"url": f"jsrun://static/{name}"})
        equal(one.eval("typeof pwned"), "undefined")
        for source in (
            "#!/usr/bin/env node\nexport const x = 1",
            "export const x = 1 // end",
            "export const x = 1 /* meta */",
        ):
            one.add_static_module("a", source)
            equal(one.eval_module("a"), {"x": 1})
        fail = "function f() { throw new Error('x') } f()"
        columns = []
        for before, after, line in (("", "", 1), ("\n\n", "\n//# sourceURL=other.js", 3), ("", "// meta", 1)):
            one.add_static_module("b", f"{before}{fail}{after}")
            error: Any = fails(lambda: one.eval_module("b"), js.JavaScriptError, "x")
            frame = error.frames[0]
            equal((frame["file_name"], frame["line_number"]), ("jsrun://static/b", line))
            columns.append(frame["column_number"])
        equal(columns, columns[:1] * 3)
        for source in ("/*", "`", "<!-- x", "export {", "import 'x' from", "return 1", "with ({}) {}", "((" * 20_000):
            one.add_static_module("c", source)
            fails(lambda: one.eval_module("c"), js.JavaScriptError)


# ---- finding and loading ----


@case("a resolver is asked with specifier and referrer; None and an empty text leave it to what is defined")
def resolver(js: Any) -> None:
    asked = []

    def resolve(specifier: str, referrer: str) -> str | None:
        asked.append((specifier, referrer))
        return {"one": "jsrun://static/real", "main": ""}.get(specifier)

    with runtime(js, {"real": "export const x = 1", "main": "import { x } from 'one'; export { x }"}) as one:
        one.set_module_resolver(resolve)
        equal(one.eval_module("main"), {"x": 1})
        equal(asked[-1], ("one", "jsrun://static/main"))
        expect(asked[0][0] == "main", f"first asked: {asked[0]}")


@case("relative specifiers are taken from the URL of the module in which they stand", only_ours=True)
def relative(js: Any) -> None:
    files = {
        "app://x/lib/main.js": "import { y } from './deep/y.js'; export { y }; export const meta = import.meta.url",
        "app://x/lib/deep/y.js": "import '../z.js'; export const y = 1",
        "app://x/lib/z.js": "",
    }
    with runtime(js, {"near/a": "import { b } from './b'; export { b }", "near/b": "export const b = 2"}) as one:
        one.set_module_loader(files.__getitem__)
        equal(one.eval_module("app://x/lib/main.js"), {"meta": "app://x/lib/main.js", "y": 1})
        equal(one.eval_module("near/a"), {"b": 2})


@case("what a resolver or a loader raises is the cause of the error, and can be mended")
def raising(js: Any) -> None:
    class Lost(Exception):
        pass

    def raising(*_: Any) -> Any:
        raise Lost("the shelf is empty")

    with runtime(js, {"main": "import 'app:gone'"}) as one:
        one.set_module_loader(raising)
        for act in (lambda: one.eval_module("main"), lambda: asyncio.run(_async(one, "app:gone"))):
            error = fails(act, js.JavaScriptError, "the shelf is empty")
            expect(isinstance(error.__cause__, Lost), f"the cause is {error.__cause__!r}")
        caught = "import('app:gone').catch((error) => [error instanceof TypeError, error.message, probe(error)])"
        equal(asyncio.run(_eval(one, caught)), [True, "Lost: the shelf is empty", "undefined"])
        one.set_module_loader(lambda url: "export const back = 1")
        equal(one.eval_module("app:gone"), {"back": 1})
        one.set_module_resolver(raising)
        error = fails(lambda: one.eval_module("main"), js.JavaScriptError, "the shelf is empty")
        expect(isinstance(error.__cause__, Lost), f"the cause is {error.__cause__!r}")


async def _eval(one: Any, code: str) -> Any:
    return await one.eval_async(code)


@case("answers of wrong types are told by their type, and the runtime goes on", only_ours=True)
def wrong_answers(js: Any) -> None:
    wrong: tuple[Any, ...] = (None, 5, {"a": 1}, ["x"], object(), 1.5, True)
    with runtime(js, {"good": "export const x = 1"}) as one:
        for value in wrong:
            one.set_module_loader(lambda url, value=value: value)
            fails(lambda: one.eval_module("app:a"), js.JavaScriptError, type(value).__name__)
        one.set_module_loader(None)
        for value in wrong[1:]:
            one.set_module_resolver(lambda *_, value=value: value)
            fails(lambda: one.eval_module("good"), js.JavaScriptError, type(value).__name__)
        one.set_module_resolver(lambda *_: "no-url")
        fails(lambda: one.eval_module("good"), js.JavaScriptError, "not an absolute URL")
        one.set_module_resolver(lambda *_: _later())
        fails(lambda: one.eval_module("good"), js.JavaScriptError, "only the loader may be async")
        one.set_module_resolver(None)
        equal(one.eval_module("good"), {"x": 1})
        fails(lambda: one.set_module_loader("text"), TypeError, "callable")
        fails(lambda: one.add_static_module("x", 5), TypeError, "str or bytes")
        fails(lambda: one.add_static_module("", ""), TypeError, "name")


async def _later() -> str:
    return "export const x = 1"


@case("an async loader is refused where a thread waits, and its answers are awaited elsewhere")
def async_loader(js: Any) -> None:
    async def loader(url: str) -> str:
        await asyncio.sleep(0.01)
        return "export const x = 1"

    with runtime(js, {}) as one:
        one.set_module_loader(loader)
        fails(lambda: one.eval_module("app:a"), js.JavaScriptError, "Use eval_module_async() instead")
        equal(asyncio.run(_async(one, "app:a")), {"x": 1})
        one.set_module_loader(lambda url: loader(url))
        fails(lambda: one.eval_module("app:b"), js.JavaScriptError, "Use eval_module_async() instead")
        equal(asyncio.run(_async(one, "app:b")), {"x": 1})


@case("a sync loader runs in the thread that waits, and may use the runtime itself", only_ours=True)
def reentrant(js: Any) -> None:
    threads = []

    def loader(url: str) -> str:
        threads.append(threading.get_ident())
        if url == "app:outer":
            return f"import 'app:inner'; export const x = {one.eval('20 + 1') * 2}"
        return f"export const y = {one.eval_module('side')['side']}"

    with runtime(js, {"side": "export const side = 9"}) as one:
        one.set_module_loader(loader)
        equal(in_thread(lambda: one.eval_module("app:outer"), 10), {"x": 42})
        equal(one.eval_module("app:inner"), {"y": 9})
        equal(len(set(threads)), 1)
        equal(asyncio.run(_async(one, "app:outer")), {"x": 42})


@case("a loader that hangs is left by a timeout, and by terminate(); the next request loads anew", only_ours=True)
def hanging(js: Any) -> None:
    async def hang(url: str) -> str:
        await asyncio.sleep(3600)
        return ""

    with runtime(js, {"main": "import 'app:slow'"}) as one:
        one.set_module_loader(hang)
        with Took() as took:
            fails(lambda: asyncio.run(_async(one, "main", timeout=0.2)), js.JsTimeout, "timed out")
        expect(took.seconds < 5, f"it took {took.seconds:.1f} s")
        one.set_module_loader(lambda url: "export const x = 1")
        equal(one.eval_module("app:slow"), {"x": 1})

        async def end() -> None:
            one.set_module_loader(hang)
            work = asyncio.ensure_future(one.eval_module_async("app:other"))
            await asyncio.sleep(0.05)
            one.terminate()
            await work

        with Took() as took:
            fails(lambda: asyncio.run(end()), js.RuntimeTerminated, "host request")
        expect(took.seconds < 5, f"it took {took.seconds:.1f} s")


@case("a module that others wait for too is loaded for them, though the first one has given up", only_ours=True)
def given_up(js: Any) -> None:
    async def work() -> Any:
        go = asyncio.Event()

        async def loader(url: str) -> str:
            await go.wait()
            return "export const x = 1"

        one.set_module_loader(loader)
        first = one.eval_module_async("app:a", timeout=0.1)
        second = one.eval_module_async("app:a")
        try:
            await first
        except js.JsTimeout:
            go.set()
        return await second

    with runtime(js, {}) as one:
        equal(asyncio.run(asyncio.wait_for(work(), 10)), {"x": 1})


@case("JSON, text and bytes are imported by their type; WebAssembly by its bytes", only_ours=True)
def types(js: Any) -> None:
    add = "0061736d0100000001070160027f7f017f030201000707010361646400000a09010700200020016a0b"
    modules: dict[str, str | bytes] = {
        "data": '{"x": [1, {"__proto__": 5}]}',
        "raw": b"\x00\xff",
        "add.wasm": bytes.fromhex(add),
        "main": "import data from 'data' with { type: 'json' }; import text from 'raw2' with { type: 'text' };"
        "import raw from 'raw' with { type: 'bytes' }; export { data, raw, text };"
        "export const ok = raw instanceof Uint8Array",
        "raw2": "line",
        "wasm": "import bytes from 'add.wasm'; const { instance } = await WebAssembly.instantiate(bytes);"
        "export const sum = instance.exports.add(2, 3)",
    }
    with runtime(js, modules) as one:
        data = {"x": [1, {"__proto__": 5}]}
        equal(one.eval_module("main"), {"data": data, "ok": True, "raw": b"\x00\xff", "text": "line"})
        equal(one.eval_module("wasm"), {"sum": 5})
        one.set_module_loader(lambda url: bytes.fromhex(add))
        code = "import('app:add', { with: { type: 'bytes' } }).then((it) => WebAssembly.instantiate(it.default))"
        code += ".then((it) => it.instance.exports.add(1, 1))"
        equal(asyncio.run(_eval(one, code)), 2)
        for type, why in (("css", 'there are "json", "bytes" and "text"'), ("json", 'add.wasm" is not JSON')):
            refusal = _refusal(one, f"import('add.wasm', {{ with: {{ type: '{type}' }} }})")
            expect(why in refusal, refusal)


def _refusal(one: Any, code: str) -> str:
    return str(asyncio.run(_eval(one, f"{code}.then(() => 'imported', String)")))


# ---- TypeScript ----


@case(
    "TypeScript is taken by its name, by a setting, and by a parameter; errors have the places of the source",
    only_ours=True,
)
def typescript(js: Any) -> None:
    source = """interface Shape { area: number }
enum Unit { Metre = 3 }

export const unit: number = Unit.Metre as number;
export function fail(shape?: Shape): never {
  throw new TypeError("no area" as string);
}
"""
    element = "export const el = <p class='a'>{1 as number}</p>"
    jsx = "export const jsx = (type, fields) => [type, fields]"
    with runtime(js, {"shape.ts": source, "el.tsx": element, "react/jsx-runtime": jsx}) as one:
        found = one.eval_module("shape.ts")
        equal(found["unit"], 3)
        error = fails(found["fail"], js.JavaScriptError, "no area")
        frame = error.frames[0]  # type: ignore[attr-defined]
        equal(
            (frame["function_name"], frame["file_name"], frame["line_number"]), ("fail", "jsrun://static/shape.ts", 6)
        )
        equal(one.eval_module("el.tsx"), {"el": ["p", {"class": "a", "children": 1}]})
        equal(one.eval("const a: number = 2; a satisfies number", language="ts"), 2)
        fails(lambda: one.eval("const b: number = 2"), js.JavaScriptError, "SyntaxError")
        fails(lambda: one.eval("1", language="coffee"), ValueError, "coffee")
        error = fails(lambda: one.eval("\n\nlet x: = 5;", language="ts"), js.JavaScriptError, "SyntaxError")
        equal(error.frames[0]["line_number"], 3)  # type: ignore[attr-defined]
        equal(one.eval("namespace Deep { export const q = 5 }\nDeep.q", language="ts"), 5)
        one.add_static_module("bad.ts", "let a = 1;\nlet b: = 2")
        error = fails(lambda: one.eval_module("bad.ts"), js.JavaScriptError, "SyntaxError")
        equal(error.frames[0]["line_number"], 2)  # type: ignore[attr-defined]
    with js.Runtime(typescript=True, bootstrap="const first: number = 1") as one:
        equal(one.eval("first as any"), 1)
        equal(asyncio.run(_eval(one, "Promise.resolve<number>(first)")), 1)
        one.add_static_module("plain", "export const x: number = 1")
        equal(one.eval_module("plain"), {"x": 1})


@case("what TypeScript calls a macro does not run", only_ours=True)
def macros(js: Any) -> None:
    source = "import { readFileSync } from 'node:fs' with { type: 'macro' };"
    source += "export const x = readFileSync('/etc/passwd', 'utf8')"
    with runtime(js, {"m.ts": source, "n.ts": "namespace A { export const b = 1 }\n" + source}) as one:
        for name in ("m.ts", "n.ts"):
            fails(lambda: one.eval_module(name), js.JavaScriptError)


@case("a source map that a source brings tells the places of its own source", only_ours=True)
def source_maps(js: Any) -> None:
    import base64
    import json

    # Line 2 from column 1 on is line 40, column 5 of real.coffee.
    text = {"version": 3, "sources": ["real.coffee"], "names": [], "mappings": ";AAuCI"}
    comment = (
        "//# sourceMappingURL=data:application/json;base64," + base64.b64encode(json.dumps(text).encode()).decode()
    )
    with runtime(js, {"made": f"export function fail() {{\nthrow new Error('x') }}\n{comment}\n"}) as one:
        error: Any = fails(one.eval_module("made")["fail"], js.JavaScriptError, "x")
        frame = error.frames[0]
        equal((frame["file_name"], frame["line_number"], frame["column_number"]), ("real.coffee", 40, 5))
        expect("real.coffee:40:5" in error.stack and "made" not in error.stack, error.stack)
        for bad in ("!", "e30=", base64.b64encode(b'{"sources": 5, "mappings": ";;;\xc3"}').decode(), "AAAA" * 1000):
            one.add_static_module(
                "bad", f"throw new Error('x')\n//# sourceMappingURL=data:application/json;base64,{bad}"
            )
            fails(lambda: one.eval_module("bad"), js.JavaScriptError, "x")


# ---- attacks ----


@case("hostile specifiers reach nothing: files, built-in modules, data, long ones, bytes of zero", only_ours=True)
def specifiers(js: Any) -> None:
    names = [
        "file:///etc/passwd",
        "/etc/passwd",
        "../../etc/passwd",
        "node:fs",
        "fs",
        "bun:ffi",
        "bun",
        "data:text/javascript,1",
    ]
    names += [
        "x" * 1_000_000,
        "a\0b",
        "",
        "ipcctl:failing",
        "ipcctl:root",
        "\n//# sourceURL=x",
        "jsrun://static/",
        "static:",
        "\u2028",
    ]
    with runtime(js, {"main": "export const x = 1"}) as one:
        for name in names:
            error = fails(lambda: one.eval_module(name), js.JavaScriptError, "denied")
            expect(len(str(error)) < 1000, f"{len(str(error))} characters")
            one.bind_object("asked", {"name": name})
            for form in IMPORTS[:2]:
                caught = f"{form}.catch((error) => [probe(error), error.name])"
                code = f"(() => {{ const {{ name }} = asked; return {caught} }})()"
                equal(asyncio.run(_eval(one, code)), ["undefined", "TypeError"], name[:40])
        equal(one.eval_module("main"), {"x": 1})


@case("whatever import() gives, from wherever it is called, is of the guest's own realm", only_ours=True)
def realms(js: Any) -> None:
    modules = {
        "good": "export const x = 1",
        "syntax": "export const = 1",
        "throws": "throw new TypeError('x')",
        "unlinked": "import { nothing } from 'good'",
        "deep": "import 'unlinked'",
        "thenable": "export const then = (...both) => { globalThis.got = both; both[0](5) }",
        "broken": "export const then = (good, bad) => bad({})",
        "nested": "export const x = await import('missing').catch((error) => { throw error })",
    }
    with runtime(js, modules) as one:
        one.set_module_resolver(lambda name, _: "app:raises" if name == "raises" else None)
        one.set_module_loader(lambda url: {}["no"])
        code = """(async () => {
          const seen = [];
          const made = FORM;
          seen.push(probe(made));
          try { const it = await made; seen.push(probe(it), Object.getPrototypeOf(Object(it)) === null || it === 5); }
          catch (error) { seen.push(probe(error), error instanceof Error || Object.keys(error).length === 0); }
          return seen;
        })()"""
        for name in (*modules, "missing", "node:fs", "raises"):
            one.eval(f"globalThis.name = {name!r}")
            for form in IMPORTS:
                seen = asyncio.run(_eval(one, code.replace("FORM", form)))
                equal(seen, ["undefined", "undefined", True], f"{form} of {name}")
        equal(one.eval("got.map(probe)"), ["undefined", "undefined"])
        for attributes in ("5", "null", "{ with: 5 }", "{ with: { type: 1 } }", "{ get with() { throw 1 } }"):
            equal(asyncio.run(_eval(one, f"import('good', {attributes}).then(probe, probe)")), "undefined")


@case("a guest that has patched what programs use gets nothing of ours by an import", only_ours=True)
def patched(js: Any) -> None:
    patch = """
    globalThis.leaks = [];
    const { apply, defineProperty } = Reflect;
    const look = (...all) => { for (const one of [0, 1, 2]) {
      const it = all[one];
      const has = it !== null && (typeof it === "object" || typeof it === "function");
      if (has && probe(it) !== "undefined") leaks[leaks.length] = one;
    } };
    globalThis.look = look;
    const then = Promise.prototype.then;
    Promise.prototype.then = function (...both) { look(this, ...both); return apply(then, this, both); };
    for (const name of ["push", "map", "forEach", "filter", "slice", "join"]) {
      const real = Array.prototype[name];
      Array.prototype[name] = function (...args) { look(this, ...args); return apply(real, this, args); };
    }
    for (const name of ["then", "namespace", "type", "url", "0", "length", "resolver", "specifier", "attributes"])
      defineProperty(Object.prototype, name, { __proto__: null, configurable: true,
        get() { look(this); return undefined; },
        set(value) {
          look(this, value);
          defineProperty(this, name, { __proto__: null, value, writable: true, configurable: true });
        } });
    JSON.parse = () => "patched";
    String.prototype.startsWith = String.prototype.replace = () => { leaks[leaks.length] = "text"; };
    for (const name of ["Error", "TypeError", "SyntaxError", "Promise", "Uint8Array", "Map", "Set"])
      globalThis[name] = function (...args) { look(this, ...args); throw 1; };
    """
    modules = {"good": "export const x = await import('data', { with: { type: 'json' } })", "data": "[1]", "bad": "= 1"}
    with runtime(js, {**modules, "thenable": "export const then = (good) => good(1)", "throws": "throw {}"}) as one:
        one.set_module_loader(lambda url: b"raw" if url == "app:raw" else {}["no"])
        one.eval(patch)
        for name in ("good", "bad", "thenable", "throws", "missing", "app:raw", "app:no"):
            one.eval(f"globalThis.made = import({name!r}); look(made); made.then(look, look); 0")
            for act in (one.eval_module, lambda name: asyncio.run(_async(one, name))):
                try:
                    act(name)
                except js.JavaScriptError:
                    pass
        equal(one.eval("leaks"), [])
        equal(one.eval_module("good"), {"x": {"default": [1]}})


@case("errors of a stack that is full are of the guest's own realm, where import() meets them", only_ours=True)
def full_stack(js: Any) -> None:
    fill = """
    export const made = [];
    export const seen = new Set();
    export function fill() { try { made.push(import('good')); } catch (error) { seen.add(probe(error)); } fill(); }
    """
    finish = "import { fill, made, seen } from 'fill'; try { fill() } catch (error) { seen.add(probe(error)) }"
    finish += "for (const one of made) await one.then((it) => seen.add(probe(it)), (error) => seen.add(probe(error)));"
    modules = {"good": "export const x = 1", "fill": fill, "finish": f"{finish} export const all = [...seen]"}
    with runtime(js, modules) as one:
        equal(one.eval_module("finish")["all"], ["undefined"])


@case("code that Python makes of text, without a script, reaches no module of the program", only_ours=True)
def from_python(js: Any) -> None:
    with runtime(js, {"good": "export const x = 1"}) as one:
        make, evaluate = one.eval("Function"), one.eval("eval")
        for act in (lambda: make("return import('node:fs')")(), lambda: evaluate("import('node:fs')")):
            fails(act, js.JavaScriptError, "node:fs")
        equal(asyncio.run(_eval(one, "import('good').then((it) => it.x)")), 1)


@case("runtimes that are closed in the middle of loads end, and their loaders are let go", only_ours=True)
def closed(js: Any) -> None:
    begun = threading.Event()
    go = threading.Event()

    def loader(url: str) -> str:
        begun.set()
        go.wait(10)
        return ""

    one = runtime(js, {})
    one.set_module_loader(loader)
    errors: list[BaseException] = []
    thread = threading.Thread(target=_keep_error(lambda: one.eval_module("app:a"), errors))
    thread.start()
    expect(begun.wait(10), "the loader is not asked")
    began = time.monotonic()
    one.terminate()
    expect(time.monotonic() - began < 2, "terminate() waits for the loader")
    go.set()
    thread.join(10)
    expect(until(lambda: bool(errors)), "it does not end")
    expect(isinstance(errors[0], js.RuntimeTerminated), repr(errors[0]))
    errors.clear()
    held = weakref.ref(loader)
    del loader
    gc.collect()
    expect(held() is None, "the loader is still held")
    for act in (
        lambda: one.eval_module("a"),
        lambda: one.add_static_module("a", ""),
        lambda: one.set_module_loader(None),
    ):
        fails(act, RuntimeError)


def _keep_error(act: Callable[[], Any], errors: list[BaseException]) -> Callable[[], None]:
    def run() -> None:
        try:
            act()
        except BaseException as error:
            errors.append(error)

    return run


if __name__ == "__main__":
    main()
