"""`fetch` and `readFile`: what they reach, what they do not, and servers and guests that mean harm."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import tempfile
import threading
import zlib
from pathlib import Path
from typing import Any

from cases import Took, case, equal, expect, fails, main, until
from sites import ENGINES, Connection, Site, reason, runtimes, wait

CHUNK = b"x" * 65536


def stays(connection: Connection) -> None:
    connection.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nfirst")
    connection.is_left()


def endless(connection: Connection) -> None:
    connection.send("HTTP/1.1 200 OK\r\n\r\n")
    connection.for_ever(CHUNK)


# ---- fetch ----


@case("fetch gives status, headers and body as text, JSON, bytes and buffer")
def responses(js: Any) -> None:
    def hello(asked: Connection) -> None:
        asked.answer('\ufeff{"a": ["é"]}', "201 Made It", content_type="application/json", X_One="1")

    def many(asked: Connection) -> None:
        asked.send("HTTP/1.1 200 OK\r\nset-cookie: a=1\r\nB: 1\r\nset-cookie: b=2\r\na: 2\r\nb:  3 \r\n\r\nend")

    with Site({"/hello": hello, "/many": many, "/none": lambda asked: asked.answer(status="204 No Content")}) as site:
        for runtime in runtimes(js, site):
            runtime.bind_object("site", {"url": site.url})
            fields = "[r.ok, r.status, r.statusText, r.url, r.redirected, r.headers.get('X-ONE'), r.headers.has('y')]"
            equal(
                wait(runtime, f"fetch(site.url + '/hello?q=1#part').then((r) => {fields})"),
                [True, 201, "Made It", f"{site.url}/hello?q=1", False, "1", False],
            )
            equal(wait(runtime, "fetch(site.url + '/hello').then((r) => r.json())"), {"a": ["é"]})
            equal(wait(runtime, "fetch({ url: site.url + '/hello' }).then((r) => r.text())"), '{"a": ["é"]}')
            raw = '\ufeff{"a": ["é"]}'.encode()
            equal(wait(runtime, "fetch(site.url + '/hello').then((r) => r.bytes())"), raw)
            buffer = "fetch(site.url + '/hello').then((r) => r.arrayBuffer())"
            equal(wait(runtime, f"{buffer}.then((b) => [b instanceof ArrayBuffer, b.byteLength])"), [True, len(raw)])
            pairs = [["a", "2"], ["b", "1, 3"], ["set-cookie", "a=1"], ["set-cookie", "b=2"]]
            equal(wait(runtime, "fetch(site.url + '/many').then((r) => [...r.headers])"), pairs)
            equal(wait(runtime, "fetch(site.url + '/many').then((r) => r.headers.getSetCookie())"), ["a=1", "b=2"])
            equal(wait(runtime, "fetch(site.url).then((r) => [r.ok, r.status])"), [False, 404])
            empty = "fetch(site.url + '/none').then(async (r) => [r.body, await r.text().catch((e) => e.message)])"
            equal(wait(runtime, empty), [None, ""])
            twice = "fetch(site.url + '/many').then(async (r) => { await r.text(); return r.bodyUsed && r.text() })"
            expect("has been read" in reason(runtime, twice), reason(runtime, twice))
            fixed = "fetch(site.url + '/many').then((r) => r.headers.set('a', 'b'))"
            expect("cannot be changed" in reason(runtime, fixed), reason(runtime, fixed))


@case("fetch sends method, headers and body, and no header that says where a message ends")
def requests(js: Any) -> None:
    def echo(asked: Connection) -> None:
        asked.answer(asked.body)

    with Site({"/": echo}) as site:
        for runtime in runtimes(js, site):
            runtime.bind_object("site", {"url": f"{site.url}/"})
            init = "{ method: 'post', body: 'hé', headers: { A: ' b ', Host: 'other', 'Content-Length': '1', Connection: 'x' } }"
            equal(wait(runtime, f"fetch(site.url, {init}).then((r) => r.text())"), "hé")
            seen = site.seen[-1]
            equal([seen.method, seen.headers["a"], seen.headers["host"]], ["POST", "b", site.host])
            equal([seen.headers[name] for name in ("content-length", "connection")], ["3", "close"])
            equal(seen.headers["content-type"], "text/plain;charset=UTF-8")
            for body, data in [
                ("new Uint8Array([1, 2, 3]).subarray(1)", b"\x02\x03"),
                ("new Uint8Array([1, 2]).buffer", b"\x01\x02"),
                ("new DataView(new Uint8Array([1, 2, 3]).buffer, 1, 1)", b"\x02"),
                ("new Uint16Array([258])", b"\x02\x01"),
                ("{ toString: () => 'a=b' }", b"a=b"),
            ]:
                equal(wait(runtime, f"fetch(site.url, {{ method: 'PUT', body: {body} }}).then((r) => r.bytes())"), data)
            wait(runtime, "fetch(site.url, { headers: new Headers([['x', '1'], ['x', '2']]) })")
            expect("x: 1\r\nx: 2" in site.seen[-1].head, site.seen[-1].head)
            wait(runtime, "fetch({ url: site.url, method: 'DELETE' }, { method: 'M-SEARCH' })")
            equal(site.seen[-1].method, "M-SEARCH")
            count = len(site.seen)
            for call, why in [
                ("fetch(site.url, { body: 'x' })", "has no body"),
                ("fetch(site.url, { method: 'a b' })", "not a method"),
                ("fetch(site.url, { method: 'connect' })", "not allowed"),
                ("fetch(site.url, { headers: { 'a b': 'c' } })", "not the name of a header"),
                (r"fetch(site.url, { headers: { a: 'b\r\nc: d' } })", "not the value of a header"),
                ("fetch(site.url, { headers: [['a']] })", "pair"),
                ("fetch(site.url, { redirect: 'x' })", "redirect"),
                ("fetch(site.url, { signal: {} })", "signal"),
                ("fetch(site.url, { method: 'POST', body: new ReadableStream() })", "stream"),
                (
                    "(() => { const b = new ArrayBuffer(4); b.transfer(); return fetch(site.url, { method: 'POST', body: b }) })()",
                    "memory",
                ),
                ("fetch('file:///etc/passwd')", "only http"),
                ("fetch('/x')", "not a URL"),
                ("fetch('http://a:b@127.0.0.1/')", "password"),
                ("fetch(Symbol())", ""),
                ("fetch()", "not a URL"),
            ]:
                said = reason(runtime, call)
                expect(said.startswith("TypeError: ") and why in said, f"{call}: {said}")
            equal(len(site.seen), count)


@case("There is fetch only where hosts are granted, and readFile only where files are")
def granted_only(js: Any) -> None:
    names = "['fetch', 'Headers', 'Response', 'Request', 'readFile'].filter((name) => name in globalThis)"
    for engine in ENGINES:
        for settings, found in [
            ({}, []),
            ({"allow_net": ["a.test:1"]}, ["fetch", "Headers"]),
            ({"allow_read": ["/etc/hosts"]}, ["readFile"]),
        ]:
            with js.Runtime(engine=engine, **settings) as runtime:
                equal(runtime.eval(names), found, f"{engine} {settings}")
                equal(runtime.eval("Object.keys(globalThis)"), [])
    with js.Runtime(allow_net="a.test:1", bootstrap="globalThis.kind = typeof fetch") as runtime:
        equal(runtime.eval("kind"), "function")


@case("Hosts that are granted are reached, by name and by address, and no others, nor other ports")
def hosts(js: Any) -> None:
    with (
        Site({"/": lambda asked: asked.answer("here")}) as site,
        Site({"/": lambda asked: asked.answer("there")}) as other,
    ):
        for engine in ENGINES:
            with js.Runtime(engine=engine, allow_net=[site.host]) as runtime:
                equal(wait(runtime, f"fetch('{site.url}').then((r) => r.text())"), "here")
                said = reason(runtime, f"fetch('{other.url}')")
                expect(said.startswith("TypeError: ") and f'allow_net=["{other.host}"]' in said, said)
                # A name of /etc/hosts for an address that is granted.
                equal(wait(runtime, f"fetch('http://localhost:{site.port}').then((r) => r.text())"), "here")
                said = reason(runtime, f"fetch('http://localhost:{other.port}')")
                expect(f"localhost:{other.port}" in said and "allow_net" in said, said)
                said = reason(runtime, "fetch('https://nowhere.test/')")
                expect("nowhere.test:443" in said and "allow_net" in said, said)
            with js.Runtime(engine=engine, allow_net=[f"localhost:{site.port}", site.host]) as runtime:
                equal(wait(runtime, f"fetch('http://localhost:{site.port}').then((r) => r.text())"), "here")
                expect(
                    "allow_net" in reason(runtime, f"fetch('http://localhost:{other.port}')"), "another port is reached"
                )
        equal(other.count, 0)


@case("Redirects are followed to hosts that are granted, and fail to others")
def redirects(js: Any) -> None:
    def to(place: str, status: str = "302 Found") -> Any:
        return lambda asked: asked.answer("gone", status, location=place)

    def told(asked: Connection) -> None:
        asked.answer(
            f"{asked.method} {asked.body.decode()} {asked.headers.get('authorization')} {asked.headers.get('content-type')}"
        )

    with Site({"/told": told}) as second, Site({}) as foreign:
        answers = {
            "/told": told,
            "/here": to("/told"),
            "/there": to(f"{second.url}/told"),
            "/away": to(f"{foreign.url}/"),
            "/303": to("told", "303 See Other"),
            "/307": to("told", "307 Temporary Redirect"),
            "/ever": to("/ever"),
            "/file": to("file:///etc/passwd"),
            "/bad": to("http://["),
            "/far": to("http://a.test/"),
        }
        for step in range(25):
            answers[f"/{step}"] = to(f"/{step + 1}") if step < 20 else told
        with Site(answers) as site:
            for runtime in runtimes(js, site, second):
                runtime.bind_object("site", {"url": site.url})
                init = "{ method: 'POST', body: 'b', headers: { authorization: 's' } }"
                ask = lambda path, init=init: wait(  # noqa: E731
                    runtime,
                    f"fetch(site.url + '{path}', {init}).then(async (r) => [await r.text(), r.redirected, r.url])",
                )
                equal(ask("/here"), ["GET  s None", True, f"{site.url}/told"])
                equal(ask("/303"), ["GET  s None", True, f"{site.url}/told"])
                equal(ask("/307"), ["POST b s text/plain;charset=UTF-8", True, f"{site.url}/told"])
                equal(ask("/there"), ["GET  None None", True, f"{second.url}/told"])
                said = reason(runtime, "fetch(site.url + '/away')")
                expect(foreign.host in said and "allow_net" in said, said)
                expect("a.test:80" in reason(runtime, "fetch(site.url + '/far')"), "another name is reached")
                for path, why in [("ever", "more than 20 times"), ("file", "only http"), ("bad", "not a URL")]:
                    said = reason(runtime, f"fetch(site.url + '/{path}')")
                    expect(said.startswith("TypeError") and why in said, said)
                equal(ask("/0", "{}")[1:], [True, f"{site.url}/20"])  # as many as it follows
                expect(
                    "redirects to" in reason(runtime, "fetch(site.url + '/here', { redirect: 'error' })"),
                    "it is followed",
                )
                manual = "fetch(site.url + '/here', { redirect: 'manual' }).then(async (r) => [r.status, r.headers.get('location')])"
                equal(wait(runtime, manual), [302, "/told"])
            equal(foreign.count, 0)


@case("What is compressed arrives as it was, and a small one that grows without end is cut")
def compressed(js: Any) -> None:
    text = "text " * 1000
    bomb = gzip.compress(bytes(32 << 20))
    with Site(
        {
            "/gzip": lambda asked: asked.answer(gzip.compress(text.encode()), content_encoding="gzip"),
            "/deflate": lambda asked: asked.answer(zlib.compress(text.encode()), content_encoding="deflate"),
            "/broken": lambda asked: asked.answer(b"no gzip", content_encoding="gzip"),
            "/cut": lambda asked: asked.answer(gzip.compress(os.urandom(9999))[:5000], content_encoding="gzip"),
            "/bomb": lambda asked: asked.answer(bomb, content_encoding="gzip"),
        }
    ) as site:
        for runtime in runtimes(js, site, max_memory=128 << 20):
            for kind in ("gzip", "deflate"):
                equal(wait(runtime, f"fetch('{site.url}/{kind}').then((r) => r.text())"), text)
            for kind in ("broken", "cut"):
                said = reason(runtime, f"fetch('{site.url}/{kind}').then((r) => r.text())")
                expect(said.startswith("TypeError") and site.host in said, said)
            expect(
                "max_serialization_bytes" in reason(runtime, f"fetch('{site.url}/bomb').then((r) => r.bytes())"),
                "it is read",
            )
            sum_ = "let n = 0; for await (const part of (await fetch(url)).body) n += part.length; return n"
            runtime.bind_object("globalThis", {})
            equal(wait(runtime, f"(async (url) => {{ {sum_} }})('{site.url}/bomb')"), 32 << 20)


@case("A body is a stream of JavaScript, which Python reads too, and no more is sent than is read")
def streamed(js: Any) -> None:
    with Site({"/endless": endless, "/short": lambda asked: asked.answer("a" * 200_000)}) as site:
        for runtime in runtimes(js, site):
            url = site.url
            stream = wait(runtime, f"fetch('{url}/endless').then((r) => r.body)")

            async def some(stream: Any = stream) -> int:
                count = 0
                async for part in stream:
                    count += len(part)
                    if count > 1 << 20:
                        break
                await stream.close()
                return count

            expect(1 << 20 < asyncio.run(some()) < 2 << 20, "another number of bytes is read")
            expect(site.has_none_open(), "the connection is left open")
            expect(site.sent < 64 << 20, f"{site.sent} bytes are sent")
            code = f"(async () => {{ let n = 0; for await (const x of (await fetch('{url}/short')).body) n += x.length; return n }})()"
            equal(wait(runtime, code), 200_000)
            mixed = f"(async () => {{ const r = await fetch('{url}/short'); r.body; return (await r.text()).length + r.bodyUsed }})()"
            equal(wait(runtime, mixed), 200_001)
            locked = f"fetch('{url}/short').then((r) => {{ r.body.getReader(); return r.text() }})"
            expect(reason(runtime, locked).startswith("TypeError"), reason(runtime, locked))
            cancelled = f"fetch('{url}/endless').then((r) => r.body.cancel()).then(() => 'cancelled')"
            equal(wait(runtime, cancelled), "cancelled")
            expect(site.has_none_open(), "a stream that was cancelled is sent")


@case("A large body is read as a stream by a runtime that may have a fraction of it")
def little_memory(js: Any) -> None:
    with Site({"/": endless}) as site:
        for runtime in runtimes(js, site, max_memory=16 << 20):
            parts = f"(await fetch('{site.url}')).body"
            code = f"(async () => {{ let n = 0; for await (const x of {parts}) if ((n += x.length) > 1e8) return 'read' }})()"
            equal(wait(runtime, code), "read")


@case("A body that is read whole has max_serialization_bytes at most")
def whole(js: Any) -> None:
    def large(asked: Connection) -> None:
        asked.answer(b"x" * int(asked.path.split("?")[1]))

    with Site({"/": large, "/endless": endless}) as site:
        for runtime in runtimes(js, site, max_serialization_bytes=100_000):
            equal(wait(runtime, f"fetch('{site.url}/?100000').then(async (r) => (await r.text()).length)"), 100_000)
            for path in ("/?100001", "/endless"):
                for kind in ("text", "bytes", "json"):
                    said = reason(runtime, f"fetch('{site.url}{path}').then((r) => r.{kind}())")
                    expect(said.startswith("TypeError") and "100000 bytes" in said and "response.body" in said, said)
            expect(site.has_none_open(), "a body that is too large is sent")


@case("Servers that break off, announce for ever or speak something else are a TypeError with the host")
def broken(js: Any) -> None:
    closed = threading.Event()

    def headers(asked: Connection) -> None:
        asked.send("HTTP/1.1 200 OK\r\n")
        asked.for_ever(b"x-header: " + b"y" * 100 + b"\r\n")

    def announced(asked: Connection) -> None:
        asked.for_ever(b"HTTP/1.1 103 Early Hints\r\n\r\n")

    def upgraded(asked: Connection) -> None:
        asked.send("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n")
        asked.is_left()

    answers = {
        "/middle": lambda asked: asked.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc"),
        "/head": lambda asked: asked.send("HTTP/1.1 200 OK\r\nx: "),
        "/chunks": lambda asked: asked.send(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n"
        ),
        "/part": lambda asked: asked.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        "/nothing": lambda asked: None,
        "/other": lambda asked: asked.send("SSH-2.0-OpenSSH\r\n"),
        "/headers": headers,
        "/line": lambda asked: (asked.send("HTTP/1.1 200 "), asked.for_ever(b"a" * 1000)),
        "/announced": announced,
        "/upgraded": upgraded,
        "/lengths": lambda asked: asked.send("HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd"),
    }
    with Site(answers) as site:
        for runtime in runtimes(js, site):
            for path in answers:
                said = reason(runtime, f"fetch('{site.url}{path}').then((r) => r.text())")
                expect(said.startswith("TypeError: ") and site.host in said, f"{path}: {said}")
                streamed = f"(async () => {{ for await (const x of (await fetch('{site.url}{path}')).body); }})()"
                said = reason(runtime, streamed)
                expect(said.startswith("TypeError: ") and site.host in said, f"{path}: {said}")
            expect(site.has_none_open(), "a connection is left open")
            equal(runtime.eval("1 + 1"), 2)
            closed.set()


@case("Headers of a response have 64 KiB at most")
def heads(js: Any) -> None:
    def sized(asked: Connection) -> None:
        size = int(asked.path.split("?")[1])
        asked.send("HTTP/1.1 200 OK\r\nx: " + "y" * size + "\r\ncontent-length: 2\r\n\r\nok")

    with Site({"/": sized}) as site:
        for runtime in runtimes(js, site):
            equal(wait(runtime, f"fetch('{site.url}/?64000').then((r) => r.text())"), "ok")
            said = reason(runtime, f"fetch('{site.url}/?65536')")
            expect("65536 bytes" in said, said)


@case("Ten thousand calls at once are served, over 64 connections at once")
def flood(js: Any) -> None:
    with Site({"/": lambda asked: asked.answer("ok")}) as site:
        with js.Runtime(allow_net=[site.host]) as runtime:
            calls = f"Promise.all(Array.from({{ length: 10000 }}, () => fetch('{site.url}').then((r) => r.text())))"
            equal(wait(runtime, f"{calls}.then((all) => all.filter((x) => x === 'ok').length)", 30), 10_000)
            expect(1 < site.most <= 64, f"{site.most} connections at once")


@case("As many connections as there may be, held by a server, keep the next one waiting and not the runtime")
def held(js: Any) -> None:
    go = threading.Event()

    def waits(asked: Connection) -> None:
        go.wait(20)
        asked.answer("late")

    with Site({"/": waits}) as site:
        for runtime in runtimes(js, site):
            go.clear()
            runtime.eval(
                f"globalThis.all = Array.from({{ length: 65 }}, () => fetch('{site.url}').then((r) => r.text())); 0"
            )
            expect(until(lambda: site.open == 64), f"{site.open} connections")
            equal(runtime.eval("1 + 1"), 2)
            equal(site.open, 64)
            go.set()
            equal(wait(runtime, "Promise.all(all).then((texts) => texts.length)"), 65)


@case("Bodies that nobody reads any more hold no connection for ever")
def abandoned(js: Any) -> None:
    with Site({"/": endless}) as site:
        for runtime in runtimes(js, site):
            code = f"(async () => {{ for (let n = 0; n < 200; n++) await fetch('{site.url}').then((r) => r.ok); return 'all' }})()"
            equal(wait(runtime, code, 30), "all")


@case("An AbortSignal ends a call before and while its body is read")
def aborted(js: Any) -> None:
    with Site({"/stays": stays, "/silent": lambda asked: asked.is_left() and None}) as site:
        for runtime in runtimes(js, site):
            start = "const c = new AbortController(); const call = fetch(url, { signal: c.signal });"
            end = "call.then((r) => r.text()).then(() => 'read', (e) => e === c.signal.reason && e.name)"
            code = f"((url) => {{ {start} setTimeout(() => c.abort(), 50); return {end} }})"
            for path in ("stays", "silent"):
                equal(wait(runtime, f"{code}('{site.url}/{path}')"), "AbortError")
                expect(site.has_none_open(), "the connection is left open")
            reads = "(async () => { const r = await call, reader = r.body.getReader(); await reader.read(); c.abort(7); return reader.read() })()"
            equal(wait(runtime, f"((url) => {{ {start} return {reads}.catch((e) => e) }})('{site.url}/stays')"), 7)
            expect(site.has_none_open(), "the connection is left open")
            count = site.count
            equal(wait(runtime, f"fetch('{site.url}/stays', {{ signal: AbortSignal.abort(5) }}).catch((e) => e)"), 5)
            equal(site.count, count)


@case("Timeouts, cancelled tasks, close() and terminate() end what is fetched")
def ended(js: Any) -> None:
    with Site({"/stays": stays, "/silent": lambda asked: asked.is_left() and None}) as site:
        for runtime in runtimes(js, site):
            for code in (f"fetch('{site.url}/silent')", f"fetch('{site.url}/stays').then((r) => r.text())"):
                with Took() as took:
                    fails(lambda code=code: wait(runtime, code, 0.3), js.JsTimeout)
                expect(took.seconds < 5, f"{took.seconds} s")
                expect(site.has_none_open(3), "the connection is left open")

                async def cancel(code: str = code) -> None:
                    task = asyncio.ensure_future(runtime.eval_async(code))
                    await asyncio.sleep(0.2)
                    task.cancel()
                    await asyncio.wait([task])

                asyncio.run(cancel())
                expect(site.has_none_open(3), "the connection of a task is left open")
            equal(runtime.eval("1 + 1"), 2)
        for end in ("close", "terminate"):
            for runtime in runtimes(js, site):
                runtime.eval(f"fetch('{site.url}/stays').then((r) => r.text()); 0")
                expect(until(lambda: site.open == 1), "nothing is fetched")
                getattr(runtime, end)()
                expect(site.has_none_open(3), f"{end}() leaves the connection open")


@case("What fetch comes to runs, prints and calls while nobody asks")
def unasked(js: Any) -> None:
    with Site({"/": lambda asked: asked.answer("ok")}) as site:
        for runtime in runtimes(js, site):
            seen: list[str] = []
            runtime.bind_function("note", seen.append)
            runtime.eval(f"fetch('{site.url}').then((r) => r.text()).then(note); 0")
            expect(until(lambda: seen == ["ok"]), "it is not called")
            runtime.eval(f"fetch('{site.url}').then(() => {{ note('loops'); for (;;); }}); 0")
            expect(until(lambda: seen == ["ok", "loops"]), "it is not called")
            with contextlib.suppress(js.JsTimeout):
                while True:  # it is served until the call of note has come back
                    runtime.eval("1 + 1", timeout=0.2)
            equal(runtime.eval("2 + 2", timeout=5), 4)


@case("A module awaits what it fetches, also where a thread waits for it")
def in_modules(js: Any) -> None:
    with Site({"/": lambda asked: asked.answer("ok")}) as site:
        for runtime in runtimes(js, site):
            runtime.add_static_module("m", f"export const text = await (await fetch('{site.url}')).text()")
            equal(runtime.eval_module("m")["text"], "ok")


@case("No object of the program's own realm reaches the guest, whatever it has made of its own")
def realm(js: Any) -> None:
    guests = """
        const seen = [];
        const own = (value) => {
            if (value === null || (typeof value !== "object" && typeof value !== "function")) return;
            for (let one = value; one !== null; one = Object.getPrototypeOf(one)) if (one === Object.prototype) return;
            if (Object.getPrototypeOf(value) === null && typeof value !== "function") return;
            seen.push(typeof value);
        };
        const look = (value) => { own(value); try { own(value.constructor); own(value.constructor.constructor) } catch {} };
        const walk = (value, depth = 0) => {
            if (value === null || (typeof value !== "object" && typeof value !== "function") || depth > 3) return;
            look(value);
            for (const key of Reflect.ownKeys(value)) {
                const found = Object.getOwnPropertyDescriptor(value, key);
                for (const part of [found.value, found.get, found.set]) walk(part, depth + 1);
            }
            walk(Object.getPrototypeOf(value), depth + 1);
        };
    """
    spoil = """
        const spy = (name) => function (...all) { look(this); for (const one of all) look(one); seen.push };
        Object.prototype.then = function (ok) { look(this); look(ok); ok(5); };
        for (const name of ["get", "set", "value", "name", "number", "ok", "0", "1", "2", "3", "kind", "fail"])
            Object.defineProperty(name < "a" ? Array.prototype : Object.prototype, name, {
                __proto__: null, configurable: true, get() { look(this) }, set(value) { look(this); look(value) } });
        Array.prototype[Symbol.iterator] = function* () { look(this); };
        Function.prototype.call = Function.prototype.apply = function (...all) { look(this); return Reflect.apply(this, all[0], []) };
        RegExp.prototype.exec = String.prototype.split = function () { look(this); return null };
        Promise.prototype.then = new Proxy(Promise.prototype.then, { apply(target, self, all) {
            look(self); look(all[0]); look(all[1]); return Reflect.apply(target, self, all) } });
        Uint8Array.prototype.set = Uint8Array.prototype.slice = function (...all) { look(this); look(all[0]) };
    """
    with Site({"/": lambda asked: asked.answer("ok", set_cookie="a"), "/endless": endless, "/middle": stays}) as site:
        urls = [f"{site.url}/", f"{site.url}/?x", "http://127.0.0.1:1/", "nope", "https://nowhere.test"]
        for runtime in runtimes(js, site, allow_read=["/etc/hosts"]):
            for spoiled in ("", spoil):
                code = f"""(() => {{ {guests}
                    let noted = 0;
                    walk(fetch); walk(Headers); walk(readFile);
                    {spoiled}
                    const note = (value) => {{ look(value); noted += 1 }};
                    const urls = {urls!r};
                    for (let at = 0; at < urls.length; at++) {{
                        const promise = fetch(urls[at], {{ method: "POST", body: "x", headers: {{ a: "b" }} }});
                        look(promise);
                        (async () => {{
                            try {{
                                const response = await promise;
                                note(response); note(response.headers); note(response.body); note(await response.bytes());
                            }} catch (error) {{ note(error) }}
                        }})();
                    }}
                    for (const path of {{ __proto__: null, [Symbol.iterator]: function* () {{ yield "/etc/hosts"; yield "/etc/passwd"; yield 5 }} }})
                        (async () => {{ try {{ note(await readFile(path)) }} catch (error) {{ note(error) }} }})();
                    globalThis.outcome = () => `${{seen.length}} ${{noted > 2}}`;
                }})()"""
                runtime.eval(code)
                for _ in range(40):
                    runtime.eval("outcome()")
                    until(lambda: False, 0.01)
                equal(runtime.eval("outcome()"), "0 true")
            way_out = """(f) => { try { return f.constructor.constructor("return typeof process")() } catch (e) { return e.message } }"""
        for runtime in runtimes(js, site, allow_read=["/etc/hosts"]):
            for what in ("fetch", "readFile", "Headers", "new Headers()", "fetch('nope')", "readFile('/etc/hosts')"):
                equal(runtime.eval(f"({way_out})({what})"), "undefined", what)
            for made in (
                "response",
                "response.headers",
                "response.body",
                "response.text",
                "response.headers.entries().next",
            ):
                equal(wait(runtime, f"fetch('{site.url}').then((response) => ({way_out})({made}))"), "undefined", made)
            expect(
                "only fetch" in reason(runtime, f"fetch('{site.url}').then((r) => new r.constructor())"), "one is made"
            )
            deep = (
                f"const f = (n) => {{ try {{ f(n + 1) }} catch {{ globalThis.last = fetch('{site.url}') }} }}; f(0); 0"
            )
            runtime.eval(deep)
            equal(wait(runtime, f"last.catch(() => 0).then(() => fetch('{site.url}')).then((r) => r.text())"), "ok")


# ---- readFile ----


@case("readFile gives bytes, or text, of what is granted")
def files(js: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder).resolve()
        (here / "text").write_text("\ufeffhé", encoding="utf-8")
        (here / "empty").write_bytes(b"")
        (here / "large").write_bytes(bytes(100_000))
        (here / "larger").write_bytes(bytes(100_001))
        (here / "below").mkdir()
        (here / "below/one").write_bytes(b"\xff\x00")
        (here / "inner").symlink_to("below/one")
        for engine in ENGINES:
            with js.Runtime(engine=engine, allow_read=[folder], max_serialization_bytes=110_000) as runtime:
                equal(wait(runtime, f"readFile('{here}/text', 'utf8')"), "hé")
                equal(wait(runtime, f"readFile('{here}/text', 'UTF-8')"), "hé")
                equal(wait(runtime, f"readFile('{here}/text')"), "\ufeffhé".encode())
                equal(wait(runtime, f"readFile('{here}/empty')"), b"")
                equal(wait(runtime, f"readFile('{here}/below/../below/one')"), b"\xff\x00")
                equal(wait(runtime, f"readFile('{here}/inner')"), b"\xff\x00")
                kind = f"readFile('{here}/text').then((b) => b instanceof Uint8Array)"
                equal(wait(runtime, kind), True)
            with js.Runtime(engine=engine, allow_read=[folder], max_serialization_bytes=100_000) as runtime:
                equal(wait(runtime, f"readFile('{here}/large').then((b) => b.length)"), 100_000)
                said = reason(runtime, f"readFile('{here}/larger')")
                expect("100000 bytes" in said and f"{here}/larger" in said, said)
                all_ = f"Promise.all(Array.from({{ length: 5000 }}, () => readFile('{here}/below/one'))).then((all) => all.length)"
                equal(wait(runtime, all_), 5000)


@case(
    "readFile of what is not granted, of links that lead out, of devices and of nonsense is refused with path and reason"
)
def no_files(js: Any) -> None:
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as outside:
        here, there = Path(folder).resolve(), Path(outside).resolve()
        (there / "secret").write_text("secret")
        (here / "out").symlink_to(there / "secret")
        (here / "folder").symlink_to(there)
        (here / "self").symlink_to("/proc/self/environ")
        (here / "loop").symlink_to("loop")
        (here / "only").write_text("x")
        os.mkfifo(here / "pipe")
        for engine in ENGINES:
            with js.Runtime(engine=engine, allow_read=[folder]) as runtime:
                program = runtime.get_stats().pid
                for path in [
                    *(f"{here}/out", f"{here}/folder/secret", f"{here}/../{there.name}/secret", f"{there}/secret"),
                    *(
                        f"{here}/self",
                        "/proc/self/environ",
                        "/proc/self/mem",
                        f"/proc/{program}/maps",
                        "/proc/self/fd/0",
                    ),
                    *(
                        f"{here}/loop",
                        f"{here}/none",
                        f"{here}/pipe",
                        f"{here}/below",
                        "/etc/passwd",
                        "/dev/zero",
                        str(here),
                    ),
                    *(f"{here}x", "/"),
                ]:
                    said = reason(runtime, f"readFile('{path}', 'utf8')")
                    expect(said.startswith("Error: readFile: ") and path in said, f"{path}: {said}")
                for call in (
                    *(
                        "readFile('only')",
                        "readFile('')",
                        "readFile()",
                        "readFile(5)",
                        r"readFile('/a\0b')",
                        "readFile({})",
                    ),
                    *(
                        f"readFile('{here}/only', 'latin1')",
                        f"readFile('{here}/only', {{}})",
                        f"readFile('{here}/only', null)",
                    ),
                ):
                    said = reason(runtime, call)
                    expect(said.startswith("TypeError: readFile: "), f"{call}: {said}")
            with js.Runtime(engine=engine, allow_read=[str(here / "only")]) as runtime:
                equal(wait(runtime, f"readFile('{here}/only', 'utf8')"), "x")
                expect(reason(runtime, f"readFile('{here}/pipe')").startswith("Error"), "another file is read")


@case("A path that is relative to Python's folder is granted as the folder that it was")
def relative(js: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        before = os.getcwd()
        os.chdir(folder)
        try:
            Path("data").mkdir()
            Path("data/one").write_text("1")
            here = os.getcwd()
            with js.Runtime(allow_read="data") as runtime:
                os.chdir(before)
                equal(wait(runtime, f"readFile('{here}/data/one', 'utf8')"), "1")
        finally:
            os.chdir(before)


# ---- where it cannot be ----


@case("Without the sandbox hosts and files cannot be granted, and Runtime says so")
def unconfined(js: Any) -> None:
    for settings in ({"allow_net": "a.test:443"}, {"allow_read": "/etc"}):
        fails(lambda settings=settings: js.Runtime(confine=False, **settings), RuntimeError, "need the sandbox")
        os.environ["IPCCTL_JS_UNCONFINED"] = "1"
        fails(lambda settings=settings: js.Runtime(**settings), RuntimeError, "IPCCTL_JS_UNCONFINED")
        with js.Runtime(confine=True, **settings) as runtime:
            equal(runtime.get_stats().confined, True)
        del os.environ["IPCCTL_JS_UNCONFINED"]
    with js.Runtime(confine=False) as runtime:
        equal(runtime.eval("typeof fetch + typeof readFile"), "undefinedundefined")


@case("SSL_CERT_FILE that cannot be read, or has no certificates, is told at the start")
def no_certificates(js: Any) -> None:
    os.environ["SSL_CERT_FILE"] = "/nowhere/ca.pem"
    fails(lambda: js.Runtime(allow_net=["a.test:443"]), ValueError, "/nowhere/ca.pem")
    os.environ["SSL_CERT_FILE"] = "/etc/hosts"
    fails(lambda: js.Runtime(allow_net=["a.test:443"]), ValueError, "no certificates")
    js.Runtime(allow_read=["/etc/hosts"]).close()


if __name__ == "__main__":
    main()
