"""Guest code that attacks: the program that runs it, Python, the machine. Each attack runs in a process of its own."""

from __future__ import annotations

import array
import asyncio
import contextlib
import datetime
import os
import pathlib
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterable
from typing import Any

import ipcctl
from cases import Took, case, equal, expect, fails, in_thread, main, until

MB = 1 << 20
CRAWL = (pathlib.Path(__file__).parent / "crawl.js").read_text().strip().removesuffix(";")


def runtime(js: Any, **settings: Any) -> Any:
    """With functions and values bound, as users bind them."""
    one = js.Runtime(js.RuntimeConfig(**{"timeout": 20, **settings}))

    def fail(*_: Any) -> None:
        raise ValueError("of Python")

    async def later(*args: Any) -> Any:
        await asyncio.sleep(0)
        return args[0] if args else None

    async def fail_later(*_: Any) -> None:
        raise ValueError("of Python, later")

    one.bind_function("back", lambda *args: args[0] if args else None)
    one.bind_function("fail", fail)
    one.bind_function("later", later)
    one.bind_function("failLater", fail_later)
    one.bind_object(
        "bound",
        {"list": [1, {"bytes": b"b"}], "set": {1}, "date": datetime.datetime.now(), "deep": {"fn": lambda: None}},
    )
    with contextlib.suppress(AttributeError):
        one.add_static_module("good", "export const value = { a: [1] }; export default (x) => x;")
        one.add_static_module("throws", "throw new Error('of a module')")
        one.add_static_module("broken", "export const = 1")
        one.add_static_module("missing", "import { nothing } from 'good'")
    return one


def nothing_foreign(one: Any, roots: str) -> None:
    """Walks from the global object and from the properties of this object; promises among them are awaited first."""

    async def run() -> Any:
        code = f"""(async () => {{
            const roots = {roots};
            for (const key of Object.keys(roots)) {{
              try {{ roots[`${{key}} awaited`] = await roots[key] }} catch (error) {{
                roots[`${{key}} rejected`] = error }}
            }}
            return ({CRAWL})(roots);
        }})()"""
        return await one.eval_async(code, timeout=25)

    seen = asyncio.run(run())
    equal(seen["found"], [])
    equal(seen["left"], 0, "what was not looked at")
    expect(seen["seen"] > 3000, f"only {seen['seen']} things were seen")


def works(one: Any) -> None:
    """As at first, whatever the guest has done to its realm."""
    value = [1, {"a": [True, None, 2.5, "text"], "b": b"bytes"}]
    one.bind_function("again", lambda *args: args[0] if args else None)
    f = one.eval("(function (x) { return again(x) })")
    equal(f(value), value)
    equal(one.eval("1 + 1"), 2)


# ---- to get out of the realm ----


@case("Nothing that is reached from the globals belongs to another realm")
def crawl_globals(js: Any) -> None:
    nothing_foreign(runtime(js), "{}")


@case("Nothing of another realm in the errors that functions throw")
def crawl_errors(js: Any) -> None:
    tried = """(() => {
      const roots = {}; let at = 0;
      const calls = [() => fail(), () => back(Symbol()), () => back({ get a() { throw new Error('of a getter') } }),
        () => { const cyclic = {}; cyclic.self = cyclic; back(cyclic) }, () => setTimeout(), () => setTimeout({}),
        () => setTimeout(() => 1, Symbol()), () => setTimeout(() => 1, 1n), () => clearTimeout(Symbol()),
        () => queueMicrotask(), () => queueMicrotask({}), () => setTimeout(() => 1, { valueOf() { throw 1 } }),
        () => setTimeout(() => 1, { valueOf() { throw null } }), () => clearTimeout({ toString() { throw undefined } }),
        () => __host_op_sync__(), () => __host_op_sync__(Symbol()), () => __host_op_sync__({ valueOf() { throw 1 } }),
        () => __host_op_sync__(99), () => __host_op_async__(99), () => console.log({ get a() { throw 1 } }),
        () => console.log(new Proxy({}, { ownKeys() { throw new Error('trap') } })), () => new back(), () =>
          new later(),
        () => back.call(Symbol()), () => back.apply(null, { length: 1e6 }), () => Reflect.construct(back, [], Date),
        () => console.log(...new Array(1e5).fill({})), () => eval('import'), () => eval('('), () => new Function('('),
        () => JSON.parse('{'), () => decodeURIComponent('%'), () => new RegExp('('), () => null.x, () => undefinedName,
        () => { 'use strict'; Object.freeze([]).push(1) }, () => BigInt(1.5), () => new Array(-1), () => 'x'.repeat(-1),
        () => new WebAssembly.Module(new Uint8Array(8)), () => new WebAssembly.Memory({ initial: 1e9 }),
        () => new Uint8Array(1e15), () => structuredClone(() => 1), () => new SharedArrayBuffer(1e15),
        () => Atomics.wait(new Int32Array(8), 0, 0), () => 'x'.normalize('y'), () => new Intl.DateTimeFormat('!'),
        () => back({ toJSON() { throw new Error() } }), () => [].reduce(() => 1), () => new Date(NaN).toISOString(),
        () => back(new Date(NaN)), () => back(new Proxy([], { get() { throw new RangeError() } })),
        () => back('x'.repeat(2 ** 27)), () => { let deep = 0; for (let i = 0; i < 1e4; i++) deep = [deep];
          back(deep) },
        () => { throw (() => { try { new ReadableStream({ start() { throw new Error('s') } }) } catch (e) {
          return e } })() },
        () => new ReadableStream(1), () => new ReadableStream().getReader({ mode: 'x' }), () => new WritableStream(1),
      ];
      for (const call of calls) { try { roots[`value ${at++}`] = call() } catch (error) {
        roots[`error ${at++}`] = error } }
      return roots; })()"""
    nothing_foreign(runtime(js), tried)


@case("Nothing of another realm in the values that Python sends, by any path")
def crawl_values(js: Any) -> None:
    one = runtime(js, max_serialization_bytes=64 << 20)
    doubles = array.array("d", [1.0, 2.0, 3.0, 4.0])
    values = [
        *([1], (1, [2]), {"a": {"b": [1]}}, {1, "x"}, frozenset({2}), datetime.datetime(2020, 1, 1), 2**70, "x" * 100),
        *(b"x", bytearray(5_000_000), doubles, memoryview(doubles), memoryview(doubles).cast("B").cast("d", (2, 2))),
        *(memoryview(bytes(8_000_000)).cast("d", (1000, 1000)), ipcctl.shared(16), ipcctl.shared(16).cast("d", (1, 2))),
        *(js.undefined, one.eval("(x) => x"), one.stream_from_async_iterable(nothing())),
    ]
    one.bind_function("give", lambda number: values[int(number)])
    one.bind_object("given", {str(at): value for at, value in enumerate(values)})
    one.eval("(all) => { globalThis.taken = all }")(values)
    nothing_foreign(one, f"{{ given, taken, returned: Array.from({{ length: {len(values)} }}, (_, at) => give(at)) }}")


async def nothing() -> AsyncIterator[int]:
    for number in ():
        yield number


@case("Nothing of another realm in promises and what they come to")
def crawl_promises(js: Any) -> None:
    nothing_foreign(
        runtime(js),
        """{ later: later({ a: [1] }), fails: failLater(), symbol: later(Symbol()), getter: later({ get a() {
          throw 1 } }),
          wasm: WebAssembly.compile(new Uint8Array(9)), wasm2: WebAssembly.instantiate(new Uint8Array(9)),
          wasm3: WebAssembly.compile(1), wasm4: WebAssembly.instantiate(), async: Array.fromAsync(later([1])),
          op: (async () => __host_op_async__(0, 1))(), op2: (async () => __host_op_async__(Symbol()))(),
          wait: (() => { try { return Atomics.waitAsync(new Int32Array(new SharedArrayBuffer(4)), 0, 0,
            1).value } catch (e)
            { return e } })(), timer: new Promise((resolve) => setTimeout(resolve, 1, { a: 1 })),
          thisOfTimer: new Promise((resolve) => setTimeout(function () { resolve([this, arguments]) })),
          thisOfTask: new Promise((resolve) => queueMicrotask(function () { resolve([this, arguments]) })) }""",
    )


@case("Nothing of another realm in modules, what they export and why they fail")
def crawl_modules(js: Any) -> None:
    nothing_foreign(
        runtime(js),
        """{ good: import('good'), throws: import('throws'), broken: import('broken'), missing: import('missing'),
          none: import('none'), symbol: (async () => import(Symbol()))(), object: (async () => import({}))(),
          thrown: (async () => import({ toString() { throw { a: 1 } } }))(), json: import('good', { with: {
            type: 'json' } }),
          type: import('good', { with: { type: 'x' } }), options: (async () => import('good', 1))(),
          proxy: (async () => import('good', new Proxy({}, { get(t, k) { globalThis.seen = [t, k]; return t[k] } })))(),
          node: import('node:fs'), bun: import('bun'), jsc: import('bun:jsc'), file: import('file:///etc/passwd'),
          made: (async () => new Function("return import('fs')")())(), evaluated: (async () =>
            eval("import('node:vm')"))(),
          indirect: (async () => (0, eval)("import('node:vm')"))(),
          later: new Promise((ok, bad) => setTimeout("import('fs')", 1) || setTimeout(() => import('fs').then(ok,
            bad), 1)) }""",
    )


@case("Nothing of another realm in streams")
def crawl_streams(js: Any) -> None:
    nothing_foreign(
        runtime(js),
        """{ stream: new ReadableStream({ pull(c) { c.enqueue(1); c.close() } }),
          reader: new ReadableStream({ pull(c) { c.enqueue(1); c.close() } }).getReader().read(),
          failing: new ReadableStream({ pull() { throw new Error() } }).getReader().read(),
          cancelled: new ReadableStream().cancel(), tee: new ReadableStream().tee(),
          locked: (async () => { const s = new ReadableStream(); s.getReader(); return s.getReader() })(),
          iterator: new ReadableStream({ start(c) { c.enqueue(1) } })[Symbol.asyncIterator]().next(),
          writer: new WritableStream().getWriter(), piped: new ReadableStream({ start(c) { c.close() } }).pipeTo(
            new WritableStream()), transform: new TransformStream(), abort: AbortSignal.abort ? AbortSignal.abort() : 0,
          controller: new AbortController(), ours: new Promise((resolve) => new ReadableStream({ start(c) {
            resolve(c) } })) }""",
    )


@case("Stacks show nothing: prepareStackTrace, captureStackTrace, CallSite, caller, arguments")
def crawl_stacks(js: Any) -> None:
    one = runtime(js, enable_console=True)
    code = """
      var kept = []; var names = [];
      Error.prepareStackTrace = (error, sites) => {
        kept.push(error, sites);
        for (const site of sites) {
          kept.push(site);
          for (const name of ['getThis', 'getFunction', 'getEvalOrigin', 'getTypeName', 'getScriptNameOrSourceURL'])
            try { kept.push(site[name]()) } catch (error) { kept.push(error) }
          names.push(String(site));
        }
        return 'stack';
      };
      function caller() { kept.push(caller.caller, caller.arguments); return 1 }
      globalThis.trap = { get a() { new Error('in a getter').stack; caller(); return 1 },
        toString() { new Error('in toString').stack; caller(); return 'x' },
        valueOf() { new Error('in valueOf').stack; caller(); return 1 } };
      for (const act of [() => fail(), () => setTimeout(() => 1, trap), () => clearTimeout(trap), () => back(trap),
        () => console.log(trap), () => __host_op_sync__(trap), () => later(trap)])
        try { act() } catch (error) { kept.push(error, error.stack) }
      setTimeout(() => { new Error('in a timer').stack; caller() });
      queueMicrotask(() => { new Error('in a task').stack; caller() });
      const held = {}; Error.captureStackTrace?.(held); kept.push(held.stack);
      Error.stackTraceLimit = 1000; new Error('deep').stack; 1"""
    one.eval(code)
    with contextlib.redirect_stdout(None):
        one.eval("trap")
        one.eval("(function () { caller(); new Error('called').stack; return this })")(1)
        with contextlib.suppress(js.JavaScriptError):
            one.eval("throw Object.assign(new Error('x'), { get b() { new Error('told').stack; return 1 } })")
    time.sleep(0.05)
    nothing_foreign(one, "{ kept, names }")


@case("Whatever code throws, and however that answers to questions, is an error and ends nothing")
def thrown_traps(js: Any) -> None:
    values = [
        "new Proxy(new Error('a'), { get() { throw 1 }, getPrototypeOf() { throw 2 } })",
        "new Proxy({}, { get() { throw 1 } })",
        "new Proxy(function () {}, { getPrototypeOf() { throw 2 } })",
        "Object.create(new Proxy({}, { getPrototypeOf() { throw 2 } }))",
        "Object.setPrototypeOf(new Error('x'), new Proxy({}, { get() { throw 1 }, getPrototypeOf() { throw 3 } }))",
        "({ get code() { throw 1 } })",
        "Object.defineProperty(new Error('x'), 'code', { get() { throw 1 } })",
        "(() => { const revocable = Proxy.revocable({}, {}); revocable.revoke(); return revocable.proxy })()",
        "Object.assign(new Error('z'), { code: 'ERR_SCRIPT_EXECUTION_INTERRUPTED' })",
        "Object.assign(new Error('z'), { code: 'ERR_SCRIPT_EXECUTION_TIMEOUT' })",
    ]

    async def drained(one: Any, value: str) -> None:
        async for _ in one.eval(f"new ReadableStream({{ pull() {{ throw {value} }} }})"):
            pass

    async def rejected(one: Any, value: str) -> None:
        await one.eval_async(f"Promise.reject({value})")

    one = runtime(js)
    for at, value in enumerate(values):
        one.add_static_module(f"m{at}", f"throw {value}")
        for act in (
            lambda: one.eval(f"throw {value}"),
            lambda: one.eval(f"({{ get a() {{ throw {value} }} }})"),
            lambda: one.eval(f"back({{ get a() {{ throw {value} }} }})"),
            lambda: one.eval(f"() => {{ throw {value} }}")(),
            lambda: one.eval_module(f"m{at}"),
            lambda: asyncio.run(rejected(one, value)),
            lambda: asyncio.run(drained(one, value)),
        ):
            fails(act, js.JavaScriptError)
        with contextlib.redirect_stderr(None):
            one.eval(f"setTimeout(() => {{ throw {value} }}); queueMicrotask(() => {{ throw {value} }}); 1")
            one.eval("1")
    works(one)


@case("A guest that prints more than Python reads waits for it")
def prints_much(js: Any) -> None:
    chars = 0

    def count(_: str, text: str) -> None:
        nonlocal chars
        chars += len(text)

    with js.Runtime(timeout=20) as one:
        one.eval("for (let n = 0; n < 1e4; n++) console.log('x'.repeat(9000))", console=count)
        equal(chars, 90_000_000)
        fails(lambda: one.eval("for (;;) console.log('x'.repeat(9000))", console=count, timeout=0.5), js.JsTimeout)
        equal(one.eval("1"), 1)


@case("Traps of proxies are given nothing of another realm")
def proxies(js: Any) -> None:
    one = runtime(js, enable_console=True)
    one.eval("""
      var kept = [];
      var handler = new Proxy({}, { get(_, trap) { return (...args) => {
        kept.push(...args);
        const value = Reflect[trap](...args);
        kept.push(value);
        return value;
      } } });
      var proxies = [new Proxy({ a: 1 }, handler), new Proxy(function () { return 1 }, handler), new Proxy([1, {
        a: 2 }], handler),
        new Proxy(new Set([1]), handler), new Proxy(new Map(), handler), new Proxy(new Date(), handler),
        new Proxy(new Uint8Array(2), handler), new Proxy(Promise.resolve(1), handler), new Proxy(new Error('e'),
          handler)];
      proxies.forEach((proxy, at) => { globalThis['p' + at] = proxy });
      0""")
    with contextlib.redirect_stdout(None):
        for at in range(9):
            with contextlib.suppress(js.JavaScriptError, RuntimeError, AttributeError, TypeError):
                one.bind_object(f"p{at}", {"x": 1, "f": lambda: 1})
            for code in (
                "p",
                "({ p })",
                "back(p)",
                "back([p])",
                "console.log(p); 0",
                "throw p",
                "throw new AggregateError(p)",
                "throw new Error('c', { cause: p })",
                "setTimeout(p, p, p); 0",
                "queueMicrotask(p); 0",
                "clearTimeout(p); 0",
                "later(p); 0",
                "__host_op_sync__(p)",
                "Promise.reject(p); 0",
                "Object.setPrototypeOf({}, p)",
                "throw Object.create(p)",
            ):
                with contextlib.suppress(js.JavaScriptError, RuntimeError):
                    value = one.eval(f"{{ const p = proxies[{at}]; {code} }}")
                    if callable(value):
                        value(1, [2])
    time.sleep(0.05)
    nothing_foreign(one, "{ kept }")


@case("Text that is no text, in errors that the guest throws")
def text_that_is_none(js: Any) -> None:
    one = runtime(js)
    for field in ("name", "message", "stack"):
        for value in (
            "{ toString() { return { slice() { return { toWellFormed() { return {} }, length: 1 } } } } }",
            "{ toString() { return { slice: () => ({ toWellFormed: () => Symbol() }) } } }",
            "{ toString: () => new Proxy({}, { get(t, k) { throw new Error(String(k)) } }) }",
            "Symbol('s')",
            "{ split() { return { [Symbol.iterator]() { return { next() { return { value: 'at x', done: false } } } "
            "} } } }",
            "Object.create(null)",
            "1n",
        ):
            code = f"throw Object.defineProperty(new Error('m'), '{field}', {{ value: {value} }})"
            fails(lambda: one.eval(code, timeout=3), js.JavaScriptError)
    works(one)


@case("A full stack inside every function gives nothing of another realm")
def full_stack(js: Any) -> None:
    one = runtime(js)
    roots = """(() => {
      const kept = [];
      const acts = [() => back({ a: [1, { b: 2 }] }), () => fail(), () => later({ a: 1 }), () => setTimeout(() => 1,
        1e6),
        () => clearTimeout({ toString() { return '1' } }), () => queueMicrotask(() => 1), () => console.log({ a: [1] }),
        () => __host_op_sync__(0), () => __host_op_async__(0), () => back(new Map([[1, new Set([1])]])), () =>
          eval('1'),
        () => new ReadableStream(), () => import('good'), () => back(new Proxy({ a: 1 }, {})), () =>
          new Error('x').stack];
      for (const act of acts) {
        let is_bottom = true;
        const down = (n) => { if (n === 0) { try { const v = act(); kept.push(v); v?.catch?.((e) => kept.push(e)) }
          catch (error) { kept.push(error) } return }
          down(n - 1) };
        let deepest = 0;
        const probe = (n) => { deepest = n; probe(n + 1) };
        try { probe(0) } catch {}
        for (let left = 0; left < 300; left += left < 60 ? 1 : 7) { try { down(Math.max(1,
          deepest - left * 4)) } catch (error) { kept.push(error) } }
      }
      return { kept: kept.filter((one) => (typeof one === 'object' || typeof one === 'function') && one !== null)
        .filter((one, at) => at % 7 === 0 || !(one instanceof Error)), messages: [...new Set(kept.map(String))] };
          })()"""
    nothing_foreign(one, roots)
    works(one)


POLLUTE = """
  const evil = function () { throw new Err('polluted') }, Err = Error, own = Promise.prototype, Promise_ = Promise,
    species = Symbol.species;
  const { defineProperty, ownKeys, getPrototypeOf } = Reflect;
  const hide = { __proto__: null, configurable: true, get: evil, set: evil };
  const objects = [Array.prototype, Function.prototype, Promise.prototype, Map.prototype, Set.prototype,
    String.prototype,
    Number.prototype, Date.prototype, Error.prototype, RegExp.prototype, Reflect, JSON, Math, Promise, Array, Object,
    Symbol.prototype, getPrototypeOf(Uint8Array.prototype), Uint8Array.prototype, ArrayBuffer.prototype,
      DataView.prototype,
    WeakMap.prototype, getPrototypeOf([][Symbol.iterator]()), Iterator.prototype, BigInt.prototype, Boolean.prototype,
      Proxy,
    getPrototypeOf(async function () {}), WeakRef.prototype, FinalizationRegistry.prototype, console, Symbol, Date,
      Map, Set];
  const names = ['get', 'set', 'value', 'writable', 'enumerable', 'configurable', '0', '1', 'length', 'kind', 'name',
    'message', 'stack', 'done', 'next', 'filename', 'timeout', 'depth', 'bytes', 'console', 'a', 'b', 'toJSON',
      'cause', 'x'];
  const globals = ['Promise', 'Map', 'Set', 'Date', 'Error', 'TypeError', 'Array', 'Object', 'Reflect', 'Uint8Array',
    'JSON'];
  const lists = [];
  for (let at = 0; at < objects.length; at++) lists[at] = ownKeys(objects[at]);
  const all = globalThis, root = Object.prototype;
  for (let at = 0; at < objects.length; at++)
    for (let next = 0; next < lists[at].length; next++)
      // by which the language itself finds its promises
      if (objects[at] !== own && objects[at] !== Promise_ ||
        lists[at][next] !== 'constructor' && lists[at][next] !== species)
        try { defineProperty(objects[at], lists[at][next], hide) } catch {}
  for (let at = 0; at < names.length; at++) defineProperty(root, names[at], hide);
  for (let at = 0; at < globals.length; at++) all[globals[at]] = evil;
"""


@case("What the guest does to its prototypes changes nothing for Python")
def pollution(js: Any) -> None:
    one = runtime(js)
    one.eval(f"{{ {POLLUTE} }} 0")
    works(one)
    equal(one.eval("back([1, 2])"), [1, 2])
    equal(one.eval("({ x: [1, null, undefined, 2n ** 70n] })"), {"x": [1, None, js.undefined, 2**70]})
    one.bind_object("more", {"x": [1, {"y": {1, 2}}], "d": datetime.datetime.now(datetime.timezone.utc)})
    equal(one.eval("more.x"), [1, {"y": {1, 2}}])
    fails(lambda: one.eval("fail()"), js.JavaScriptError)
    fails(lambda: one.eval("null.x"), js.JavaScriptError)

    async def run() -> None:
        equal(await one.eval_async("later(7)"), 7)
        equal(await one.eval_async("(async () => [await later(1), 2])()"), [1, 2])
        equal(await one.eval("((x) => x)").call_async({"z": [1]}), {"z": [1]})

    asyncio.run(run())
    expect(one.get_stats().pid > 0, "no statistics")


@case("What setters on prototypes see is nothing of another realm")
def pollution_setters(js: Any) -> None:
    one = runtime(js)
    one.eval("""
      var kept = [];
      { const define = Object.defineProperty;
        let count = 0;
        const keep = (one) => define(kept, String(count++), { __proto__: null, value: one, writable: true,
          enumerable: true });
        const spy = function (value) { keep(this); keep(value) };
        for (const of of [Object.prototype, Array.prototype, Function.prototype])
          for (const key of ['0', '1', '2', 'then', 'value', 'get', 'set', 'done', 'writable', 'kind', 'depth',
            'bytes', 'type',
            'filename', 'timeout', 'importModuleDynamically', 'breakOnSigint', 'a', 'message', 'name', 'code',
              'prototype'])
            try { define(of, key, { __proto__: null, configurable: true, set: spy, get() { keep(this) } }) } catch {} }
      back([1, { a: 2 }]); later({ a: [1] }); setTimeout(() => 1, 1, 2, 3); console.log({ a: 1 });
      try { fail() } catch {}
      0""")
    f = one.eval("((x) => ({ x, kept }))")
    with contextlib.suppress(js.JavaScriptError, RuntimeError):
        f([1, {"a": b"x"}, {1, 2}, datetime.datetime.now()])
    one.bind_object("more", {"a": [1, {"then": 1}], "then": 2})
    with contextlib.suppress(js.JavaScriptError, RuntimeError):
        asyncio.run(_awaited(one, "import('good')"))
    one.eval("""{ const remove = Reflect.deleteProperty; for (const of of [Object.prototype, Array.prototype,
      Function.prototype])
      for (const key of ['0', '1', '2', 'then', 'value', 'get', 'set', 'done', 'writable', 'kind', 'depth', 'bytes',
        'type',
            'filename', 'timeout', 'importModuleDynamically', 'breakOnSigint', 'a', 'code']) remove(of, key) } 0""")
    one.eval(
        "for (const of of [Object.prototype, Array.prototype]) for (const key of ['message', 'name']) delete of[key]; 0"
    )
    nothing_foreign(one, "{ kept }")


async def _awaited(one: Any, code: str) -> Any:
    return await one.eval_async(code, timeout=5)


@case("Getters that call Python while the value that they are in is converted")
def nested_conversion(js: Any) -> None:
    one = runtime(js)
    code = "({ a: 1, get b() { return back([1, 2, { c: 3 }]) }, c: [4, { get d() { return back(5) } }] })"
    right = {"a": 1, "b": [1, 2, {"c": 3}], "c": [4, {"d": 5}]}
    equal(one.eval(code), right)
    equal(one.eval(f"back({code})"), right)
    with contextlib.suppress(js.JavaScriptError, RuntimeError):
        one.eval("({ a: [1, 2, 3], get b() { throw new Error('in the middle') } })")
    equal(one.eval(code), right)
    one.bind_function("evaluate", one.eval)
    equal(
        one.eval("({ a: 1, get b() { return evaluate('({ x: [1, { get y() { return back(2) } }] })') } })"),
        {"a": 1, "b": {"x": [1, {"y": 2}]}},
    )


@case("A function of Python that an async evaluation calls may evaluate, and holds up nobody else")
def callbacks_of_async(js: Any) -> None:
    async def run() -> None:
        one = runtime(js)
        goes_on = threading.Event()
        one.bind_function("slow", lambda: goes_on.wait(8))
        one.bind_function("down", lambda: one.eval("2"))
        equal(await asyncio.wait_for(one.eval_async("down()"), 5), 2)
        slow = one.eval_async("slow()")
        await asyncio.sleep(0.1)
        equal(one.eval("1 + 1"), 2)
        equal(await one.eval_async("later(3)"), 3)
        goes_on.set()  # whoever were held up by it would have come after its 8 s
        equal(await slow, True)

    in_thread(lambda: asyncio.run(run()), 10)


# ---- to go on for ever ----


def ended(one: Any, code: str, kind: type[BaseException] | tuple[type[BaseException], ...] = RuntimeError) -> None:
    def work() -> None:
        with Took() as took:
            fails(lambda: one.eval(code, timeout=0.3), kind)
        expect(took.seconds < 5, f"after {took.seconds:.1f} s for 0.3")

    in_thread(work, 12)


ENDLESS = {
    "getter": "({ get a() { while (true); } })",
    "getter in arguments": "back({ get a() { while (true); } })",
    "getter in an error": "throw Object.defineProperty(new Error(), 'message', { get() { while (true); } })",
    "toString of a message": "throw Object.assign(new Error(), { message: { toString() { while (true); } } })",
    "cause": "throw Object.defineProperty(new Error(), 'cause', { get() { while (true); } })",
    "property of an error": "throw { stack: '', name: '', get x() { while (true); } }",
    "keys of a proxy": "new Proxy({}, { ownKeys() { while (true); } })",
    "keys of a proxy without end": "new Proxy({}, { ownKeys() { return Array.from({ length: 1e7 }, (_, at) => 'k' + "
    "at) } })",
    "length of a proxy": "new Proxy([], { get(t, k) { return k === 'length' ? 2 ** 53 - 1 : { } } })",
    "proxies within proxies": "(function make() { return new Proxy({}, { ownKeys: () => ['a', 'b'], get: make,"
    " getOwnPropertyDescriptor: () => ({ value: 1, enumerable: true, configurable: true }) }) })()",
    "thenables": "new Promise((resolve) => (function make(ok) { ok({ then: make }) })(resolve)); while (true);",
    "wait": "Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)",
    "microtasks": "(async () => { for (;;) await null })()",
    "microtasks of queueMicrotask": "(function f() { queueMicrotask(f) })()",
    "sort": "new Array(2e7).fill(0).map(Math.random).sort((a, b) => { while (true); })",
    "replace": "'a'.repeat(1e6).replace(/a/g, () => { while (true); })",
    "JSON": "JSON.stringify({ toJSON() { while (true); } })",
    "catch": "while (true) { try { while (true) { try { back(1) } finally { continue } } } catch {} }",
    "generator": "for (const one of (function* () { for (;;) try { yield 1 } finally { yield 2 } })());",
    "timer in a loop": "while (true) setTimeout(() => 0, 1e9)",
    "console": "while (true) console.log('x')",
    "bigint": "let n = 3n; while (true) n *= n",
}


@case("Everything that goes on without end is ended, in every place")
def endless(js: Any) -> None:
    for name, code in ENDLESS.items():
        one = runtime(js)
        print(name, flush=True)
        try:
            ended(one, code, (RuntimeError, js.JavaScriptError))
            if not one.is_closed():
                equal(in_thread(lambda: one.eval("1 + 1"), 5), 2, "afterwards")
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None
        finally:
            one.close()


@case("An interrupt that comes too late ends nothing that is asked next")
def late_interrupt(js: Any) -> None:
    js._session._LATE_SECONDS = 0.001  # so that both clocks end it
    one = js.Runtime()
    for _ in range(60):
        with contextlib.suppress(RuntimeError):
            one.eval("while (true);", timeout=0.02)
        equal(one.eval("1 + 1"), 2)


@case("Thenables without end are ended, and leave the runtime usable")
def thenables(js: Any) -> None:
    async def run() -> None:
        one = runtime(js)
        code = "new Promise((resolve) => { const make = () => ({ then(ok) { ok(make()) } }); resolve(make()) })"
        with Took() as took:
            try:
                await one.eval_async(code, timeout=0.3)
                raise AssertionError("nothing is raised")
            except RuntimeError:
                pass
        expect(took.seconds < 5, f"after {took.seconds:.1f} s")
        if not one.is_closed():
            equal(await asyncio.wait_for(one.eval_async("1 + 1"), 5), 2)

    in_thread(lambda: asyncio.run(run()), 12)


@case("What a task that was interrupted leaves behind does not hold up what comes later")
def after_interrupt(js: Any) -> None:
    async def run() -> None:
        one = runtime(js)
        one.bind_function("slow", lambda: time.sleep(0.4))
        for code in (
            "while (true) slow()",
            "(async () => { await later(1); for (;;) slow() })()",
            "while (true);",
            "while (true) try { slow() } catch {}",
            "(async () => { await later(1); for (;;) try { slow() } catch {} })()",
        ):
            try:
                await asyncio.wait_for(one.eval_async(code), 0.2)
                raise AssertionError("nothing is raised")
            except TimeoutError:
                pass
            one.eval("globalThis.fired = 0; setTimeout(() => { later(5).then((n) => { fired = n }) }, 1); 0")
            for _ in range(200):
                if one.eval("fired") == 5:
                    break
                await asyncio.sleep(0.01)
            equal(one.eval("fired"), 5, code)

    in_thread(lambda: asyncio.run(run()), 15)


@case("A thenable as a value runs the guest's code within the time only")
def thenable_values(js: Any) -> None:
    async def run() -> None:
        one = runtime(js)
        equal(await one.eval_async("({ then(ok) { ok(5) } })"), 5)
        for code in ("({ then() { while (true); } })", "({ get then() { while (true); } })"):
            try:
                await one.eval_async(code, timeout=0.3)
                raise AssertionError("nothing is raised")
            except RuntimeError:
                pass

    in_thread(lambda: asyncio.run(run()), 15)


# ---- memory ----

FLOODS = {
    "strings": "const all = []; for (;;) all.push('x'.repeat(1000) + all.length)",
    "one string": "let text = 'x'; for (;;) { text += text; text.charCodeAt(5); if (text.length > 2 ** 29) text = "
    "text.slice(1).split('') }",
    "arrays": "const all = []; for (;;) all.push(new Array(1000).fill(all))",
    "objects": "let last = null; for (;;) last = { last, a: 1 }",
    "array buffers": "const all = []; for (;;) all.push(new Uint8Array(1 << 20).fill(1))",
    "typed arrays": "const all = []; for (;;) all.push(new Float64Array(1 << 17).fill(Math.PI))",
    "shared buffers": "const all = []; for (;;) all.push(new Uint8Array(new SharedArrayBuffer(1 << 20)).fill(1))",
    "WebAssembly": "const memory = new WebAssembly.Memory({ initial: 1, maximum: 60000 });"
    " for (;;) { const at = memory.buffer.byteLength; memory.grow(64); new Uint8Array(memory.buffer).fill(1, at) }",
    "closures": "const all = []; for (;;) { const big = new Array(100).fill(1); all.push(() => big) }",
    "bigints": "const all = []; for (;;) all.push((1n << 80000n) + BigInt(all.length))",
    "maps": "const map = new Map(); for (let at = 0; ; at++) map.set(at, { at })",
    "symbols": "const all = []; for (;;) all.push(Symbol('x'.repeat(50) + all.length))",
    "functions": "const all = []; for (let at = 0; ; at++) all.push(new Function(`return ${at} + ${'1 + "
    "'.repeat(50)} 1`))",
    "promises": "const all = []; for (;;) all.push(new Promise(() => 0))",
    "regular expressions": "const all = []; for (let at = 0; ; at++) { const one = new RegExp('a'.repeat(200) + "
    "at); one.test('a'); all.push(one) }",
    "messages": "for (;;) later('x'.repeat(1e5))",
    "timers": "const big = 'x'.repeat(100); for (let at = 0; ; at++) setTimeout(() => big + at, 1e8, new "
    "Array(100).fill(at))",
}


@case("Memory that the kernel refuses before anybody has looked is told as that of the limit", only_ours=True)
def unseen_memory(js: Any) -> None:
    from unittest import mock

    from ipcctl.js import _process

    code = "globalThis.a = []; for (;;) a.push(new Uint8Array(256 * 1024))"

    async def later_of(one: Any) -> None:
        await one.eval_async(code)

    with mock.patch.object(_process.Limit, "look", return_value=False):
        for number in range(4):
            one = js.Runtime(js.RuntimeConfig(max_memory=8 * MB))
            fails(lambda one=one: one.eval("new Array(1e8).fill(0)"), js.JavaScriptError, "memory")
            works(one)
            if number % 2:
                fails(lambda one=one: one.eval(code), js.RuntimeTerminated, "heap limit exceeded")
            else:
                fails(lambda one=one: asyncio.run(later_of(one)), js.RuntimeTerminated, "heap limit exceeded")
            expect(one.is_closed(), "it is over")


@case("Memory of every kind ends at max_memory, at most 50 MB above")
def memory(js: Any) -> None:
    most, problems = 100 * MB, []
    for name, code in FLOODS.items():
        one = js.Runtime(js.RuntimeConfig(max_memory=most))
        one.bind_function("later", _later)
        pid, highest, is_over = one.get_stats().pid, [_resident(one.get_stats().pid)], threading.Event()
        base = highest[0]

        def watch(pid: int = pid, highest: list[int] = highest, is_over: threading.Event = is_over) -> None:
            while not is_over.wait(0.001):
                highest.append(_resident(pid))

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            one.eval(code, timeout=25)
            problems.append(f"{name}: nothing is raised")
        except js.RuntimeTerminated as error:
            if not _is_end(error):
                problems.append(f"{name}: {error}")
        except js.JavaScriptError as error:
            if not _is_refusal(error):
                problems.append(f"{name}: {error}")
        except RuntimeError as error:
            problems.append(f"{name}: {type(error).__name__}: {str(error)[:80]}, at {(max(highest) - base) // MB} MB")
        finally:
            is_over.set()
            thread.join()
            one.close()
        above = (max(highest) - base - most) // MB
        if above > 50:
            problems.append(f"{name}: {above} MB above the limit")
    expect(not problems, "; ".join(problems))


def _is_end(error: Exception) -> bool:
    """JavaScript may also be told that nobody reads so much."""
    return "heap limit" in str(error).lower() or "was not read" in str(error)


def _is_refusal(error: Any) -> bool:
    """By the kernel, before anybody has seen how much there is."""
    return error.name == "RangeError" and any(word in str(error).lower() for word in ("memory", "allocation"))


#: What code is compiled to lies in memory that an engine has from the start (docs/internals/runtimes.md).
CODE = {"functions": 64, "regular expressions": 64}


def held(js: Any, names: Iterable[str], most: int = 100 * MB) -> None:
    """By the kernel's own count of the most that each process has had."""
    problems = []
    for name in names:
        one = js.Runtime(js.RuntimeConfig(max_memory=most))
        one.bind_function("later", _later)
        process = one._session.process
        base = _peak(process.pid)
        try:
            one.eval(FLOODS[name], timeout=25)
            problems.append(f"{name}: nothing is raised")
        except js.RuntimeTerminated as error:
            if not _is_end(error):
                problems.append(f"{name}: {error}")
        except js.JavaScriptError as error:
            if not _is_refusal(error):
                problems.append(f"{name}: {error}")
        process.how_it_ended(1)
        peak = _peak(process.pid) or int(process._shim.record().get("max_rss_bytes", 0))
        above = (peak - base - most) // MB
        if above > 50 + CODE.get(name, 0):
            problems.append(f"{name}: {above} MB above the limit")
        one.close()
    expect(not problems, "; ".join(problems))


def _peak(pid: int) -> int:
    """0 once it has ended."""
    try:
        with open(f"/proc/{pid}/status") as file:
            return next((int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:")), 0)
    except OSError:
        return 0


@case("Memory ends at max_memory, at most 50 MB above, though nobody looks", only_ours=True)
def memory_unseen(js: Any) -> None:
    from ipcctl.js import _process

    _process.Limit.look = lambda self: False  # type: ignore[method-assign]
    held(js, FLOODS)


@case("Memory ends at max_memory while all processors are taken", only_ours=True)
def memory_under_load(js: Any) -> None:
    def spin() -> None:
        while True:
            pass

    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    threading.Thread(target=spin, daemon=True).start()  # and the interpreter
    try:
        held(js, ("arrays", "array buffers", "maps"))
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


@case("What timers take while nothing is asked ends at max_memory, and is told as that", only_ours=True)
def memory_of_idle(js: Any) -> None:
    one = js.Runtime(js.RuntimeConfig(max_memory=30 * MB))
    code = "const all = []; setInterval(() => { for (let at = 0; at < 20; at++) all.push(new Array(1e4).fill(at)) }, 5)"
    equal(one.eval(f"{code}; 1"), 1)
    expect(until(lambda: not one._session.process.is_alive, 20), "it goes on")
    fails(lambda: one.eval("1"), js.RuntimeTerminated, "heap limit")


async def _later(value: Any) -> int:
    return len(value)


def _resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


@case("A flood of calls of Python does not fill the memory of Python")
def flood_of_calls(js: Any) -> None:
    def work() -> None:
        one = js.Runtime(js.RuntimeConfig(timeout=1))
        one.bind_function("later", _later)
        before = _resident(os.getpid())
        with contextlib.suppress(RuntimeError, js.JavaScriptError):
            one.eval("for (;;) later('x'.repeat(1e6))")
        grown = (_resident(os.getpid()) - before) // MB
        expect(grown < 400, f"{grown} MB")
        one.close()

    in_thread(work, 20)


@case("Keys that Python gives one hash do not hold it up")
def one_hash(js: Any) -> None:
    many = "Array.from({ length: 100_000 }, (_, at) => BigInt(at) * (2n ** 61n - 1n))"
    for code in (f"new Set({many})", f"new Map({many}.map((key) => [key, 1]))", f"new Set({many}.map((key) => [key]))"):
        one = js.Runtime()
        began = time.monotonic()
        fails(lambda one=one, code=code: one.eval(code), RuntimeError, "one hash")
        expect(time.monotonic() - began < 5, code)
    one = js.Runtime()
    for step in (1, 2**20, 1 / 1024):
        code = f"new Set(Array.from({{ length: 100_000 }}, (_, at) => at * {step}))"
        equal(len(one.eval(code)), 100_000, code)


@case("What costs no bytes, such as empty objects, is counted where Python makes much of it")
def empty_values(js: Any) -> None:
    one = js.Runtime()
    before = _resident(os.getpid())
    for empty in ("{}", "[]", "new Map()", "() => 1", "new ReadableStream()", "new Float64Array()", "''"):
        code = f"{{ const one = ({empty}); const many = Array(1e6).fill(one); Array(20).fill(many); }}"
        fails(lambda code=code: one.eval(code), RuntimeError, "exceeded maximum limit")
    works(one)
    grown = (_resident(os.getpid()) - before) // MB
    expect(grown < 100, f"{grown} MB")


@case("Proxies of arrays that lie about their length, and names of properties that are too long, end nothing")
def lies(js: Any) -> None:
    one = js.Runtime()
    one.bind_function("back", lambda *args: args[0] if args else None)
    for length, items in {
        "-1": [],
        "1.5": [7],
        "'2'": [7, 7],
        "2n": [7, 7],
        "NaN": [],
        "'x'": [],
        "-4294967294": [],
    }.items():
        lying = f"new Proxy([], {{ get: (_, key) => (key === 'length' ? {length} : 7) }})"
        equal(one.eval(lying), items, length)
        equal(one.eval(f"back({lying})"), items, length)
    with contextlib.suppress(js.JavaScriptError):
        one.eval("throw Object.assign(new Error('x'), { ['k'.repeat(1e8)]: 1 })")
    works(one)


@case("Stacks that take long to look through end with their evaluation")
def long_stacks(js: Any) -> None:
    one = js.Runtime(timeout=5)
    long = "'at ' + ' ('.repeat(50_000) + ':1:'.repeat(50_000)"
    fails(lambda: one.eval(f"throw Object.assign(new Error('x'), {{ stack: {long} }})"), js.JavaScriptError, "x")
    works(one)


@case("What is shown of nested lists does not fill memory")
def wide_lists(js: Any) -> None:
    for engine in ("bun", "v8"):
        said: list[str] = []
        with js.Runtime(engine=engine, max_memory=64 * MB, timeout=10) as one:
            one.eval(
                "{ let wide = 'z'.repeat(9000); for (let n = 0; n < 3; n++) wide = Array(101).fill(wide);"
                " console.log(wide); console.log({ wide }) }",
                console=lambda _, text, said=said: said.append(text),
            )
            works(one)
        equal([len(text) < 11_000 and text.endswith(" characters)") for text in said], [True, True], engine)


@case("A flood of lines to the console is ended with its evaluation")
def flood_of_lines(js: Any) -> None:
    one = js.Runtime()
    count = [0]

    def note(level: str, text: str) -> None:
        count[0] += 1

    fails(lambda: one.eval("for (;;) console.log('x'.repeat(1e4))", timeout=0.5, console=note), RuntimeError)
    expect(count[0] > 0, "no line came")


# ---- the machine ----


@case("There are no workers, programs, files or network to be had")
def nothing_there(js: Any) -> None:
    one = runtime(js)
    names = (
        "Worker SharedWorker fetch XMLHttpRequest WebSocket EventSource Bun Deno process require module exports "
        "__dirname"
        " navigator location Blob File FileReader indexedDB localStorage caches crypto postMessage BroadcastChannel"
        " MessageChannel importScripts gc $vm Loader ShadowRealm global Buffer setImmediate alert prompt confirm"
    )
    equal(one.eval(f"'{names}'.split(' ').filter((name) => typeof globalThis[name] !== 'undefined')"), [])


if __name__ == "__main__":
    main()
