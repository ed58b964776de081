"""Streams between Python and JavaScript: what each side gets, when it is asked for, and how they end."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import io
import os
import tempfile
import threading
import time
import unittest
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from unittest import mock

import support
from ipcctl import _contract
from ipcctl.js import JavaScriptError, JsStream, PyStreamSource, Runtime, RuntimeTerminated
from needs import skip_unless
from waiting import DEADLINE, until

HAS_TRIO = importlib.util.find_spec("trio") is not None
home = tempfile.TemporaryDirectory(prefix="ipcctl-js-streams-", ignore_cleanup_errors=True)
READ_ALL = """async (stream) => {
  const items = [];
  for await (const item of stream) items.push(item);
  return items;
}"""


def setUpModule() -> None:
    os.environ["IPCCTL_HOME"] = os.path.join(home.name, "home")


def tearDownModule() -> None:
    support.end_home(home)


async def until_async(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not is_so():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {DEADLINE:g} s")
        await asyncio.sleep(0.005)


class Case(unittest.TestCase):
    def setUp(self) -> None:
        self.runtime = Runtime()
        self.addCleanup(self.runtime.close)

    def js(self, code: str) -> Any:
        return self.runtime.eval(code)


class Counted:
    """Gives numbers, and notes how many, and whether it was closed."""

    def __init__(self, end: int | None = None) -> None:
        self.made, self.is_closed, self._end = 0, False, end

    def __aiter__(self) -> Counted:
        return self

    async def __anext__(self) -> int:
        await asyncio.sleep(0)
        if self.made == self._end:
            raise StopAsyncIteration
        self.made += 1
        return self.made

    async def aclose(self) -> None:
        self.is_closed = True


COUNTING = """globalThis.made = 0; globalThis.cancelled = undefined;
new ReadableStream({
  pull(controller) { controller.enqueue(++made); if (made === 1000) controller.close(); },
  cancel(reason) { cancelled = true; },
}, { highWaterMark: 0 })"""


class ToPython(Case):
    def test_a_stream_is_read_by_a_thread_and_by_an_event_loop(self) -> None:
        self.assertEqual(list(self.js(COUNTING)), list(range(1, 1001)))

        async def read() -> list[Any]:
            return [item async for item in self.js(COUNTING)]

        self.assertEqual(asyncio.run(read()), list(range(1, 1001)))

    def test_it_arrives_in_results_values_promises_and_arguments(self) -> None:
        seen: list[Any] = []
        self.runtime.bind_function("take", lambda stream: seen.append(list(stream)))
        self.js("take(ReadableStream.from([1, 2]))")
        self.assertEqual(seen, [[1, 2]])
        record = self.js("({ deep: [ReadableStream.from('ab')] })")
        self.assertEqual(list(record["deep"][0]), ["a", "b"])
        self.assertEqual(list(self.js("() => ReadableStream.from([3])")()), [3])

        async def later() -> Any:
            return await self.runtime.eval_async("Promise.resolve(ReadableStream.from([4]))")

        self.assertEqual(list(asyncio.run(later())), [4])

    def test_an_item_is_made_only_when_it_is_wanted(self) -> None:
        stream = self.js(COUNTING)
        self.assertEqual(self.js("made"), 0)
        for n in (1, 2, 3):
            self.assertEqual(next(stream), n)
            self.assertEqual(self.js("made"), n)

    def test_items_are_made_in_advance_where_that_is_asked_for(self) -> None:
        stream = self.js(COUNTING)
        stream.ahead = 4
        self.assertEqual(next(stream), 1)
        until(lambda: self.js("made") == 5, "four items more")
        self.assertEqual(list(stream), list(range(2, 1001)))

        async def read() -> list[Any]:
            stream = self.js(COUNTING)
            stream.ahead = 16
            return [item async for item in stream]

        self.assertEqual(asyncio.run(read()), list(range(1, 1001)))
        stream = self.js(COUNTING)
        stream.ahead = 4
        next(stream)
        stream.close()
        self.assertEqual(list(stream), [])

    def test_bytes_arrive_as_bytes_and_are_counted(self) -> None:
        stream = self.js("ReadableStream.from([new Uint8Array([1, 2]), 'abc', new Uint8Array(3).buffer])")
        self.assertEqual(list(stream), [b"\x01\x02", "abc", b"\0\0\0"])
        stats = self.runtime.get_stats()
        self.assertEqual((stats.bytes_streamed_js_to_py, stats.eval_async_count), (5, 3))

    def test_a_byte_stream_is_read_too(self) -> None:
        stream = self.js("""new ReadableStream({ type: "bytes", n: 0,
          pull(controller) { controller.enqueue(new Uint8Array([++this.n]));
            if (this.n === 3) controller.close(); } })""")
        self.assertEqual(list(stream), [b"\1", b"\2", b"\3"])

    def test_the_names_of_jsrun_are_there(self) -> None:
        from ipcctl.js import _jsrun

        self.assertIs(_jsrun.PyStreamSource, PyStreamSource)
        self.assertIs(_jsrun.JsStream, JsStream)

    def test_close_cancels(self) -> None:
        for close in (lambda one: one.close(), lambda one: asyncio.run(one.aclose()), lambda one: one.__exit__()):
            stream = self.js(COUNTING)
            next(stream)
            close(stream)
            self.assertIs(self.js("cancelled"), True)
            self.assertEqual(list(stream), [])

    def test_close_cancels_what_was_not_read(self) -> None:
        self.js(COUNTING).close()
        self.assertIs(self.js("cancelled"), True)

    def test_a_stream_that_is_let_go_is_cancelled(self) -> None:
        stream = self.js(COUNTING)
        next(stream)
        del stream
        gc.collect()
        self.assertIs(self.js("cancelled"), True)
        self.assertEqual(self.runtime.get_stats().active_js_streams, 0)

    def test_a_stream_that_is_let_go_is_cancelled_though_nothing_else_is_asked(self) -> None:
        told = threading.Event()
        self.runtime.bind_function("told", told.set)

        async def read_one() -> None:
            async for _ in self.js(COUNTING.replace("cancelled = true", "told()")):
                break

        asyncio.run(read_one())
        gc.collect()
        self.assertTrue(told.wait(DEADLINE))

    def test_one_that_was_never_read_stays_the_guests_when_python_lets_it_go(self) -> None:
        self.js("globalThis.kept = ReadableStream.from([7])")
        gc.collect()
        self.assertEqual(list(self.js("kept")), [7])

    def test_one_that_the_guest_reads_cannot_be_read(self) -> None:
        stream = self.js("globalThis.kept = ReadableStream.from([7]); globalThis.reader = kept.getReader(); kept")
        with self.assertRaisesRegex(JavaScriptError, "locked"):
            next(stream)
        self.assertEqual(list(stream), [])

    def test_an_error_ends_it_and_keeps_its_cause(self) -> None:
        def boom() -> None:
            raise KeyError("inner")

        self.runtime.bind_function("boom", boom)
        stream = self.js("new ReadableStream({ pull(c) { boom(); } }, { highWaterMark: 0 })")
        with self.assertRaises(JavaScriptError) as caught:
            next(stream)
        self.assertIn("Stream failed", str(caught.exception))
        self.assertIsInstance(caught.exception.__cause__, KeyError)
        self.assertEqual(list(stream), [])

    def test_an_item_that_python_cannot_have_is_told_and_the_rest_arrives(self) -> None:
        stream = self.js("ReadableStream.from([1, Symbol('x'), 3])")
        self.assertEqual(next(stream), 1)
        with self.assertRaisesRegex(RuntimeError, "Symbol"):
            next(stream)
        self.assertEqual(list(stream), [3])

    def test_pull_may_call_python_in_the_thread_that_reads(self) -> None:
        threads: list[Any] = []
        self.runtime.bind_function("here", lambda: threads.append(threading.get_ident()))
        list(self.js("new ReadableStream({ pull(c) { here(); c.close(); } }, { highWaterMark: 0 })"))
        self.assertEqual(threads, [threading.get_ident()])

    def test_a_reader_that_is_cancelled_loses_nothing(self) -> None:
        async def read() -> list[Any]:
            stream = self.js("""globalThis.put = undefined;
              new ReadableStream({ start(c) { put = (x) => c.enqueue(x); globalThis.end = () => c.close(); } })""")
            for _ in range(3):
                with self.assertRaises(TimeoutError):
                    await asyncio.wait_for(anext(stream), 0.02)
            self.js("put(1); put(2); end()")
            return [item async for item in stream]

        self.assertEqual(asyncio.run(read()), [1, 2])

    def test_ctrl_c_in_a_thread_that_waits_loses_nothing(self) -> None:
        import signal

        stream = self.js("globalThis.put = undefined; new ReadableStream({ start(c) { put = (x) => c.enqueue(x); } })")
        threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        with self.assertRaises(KeyboardInterrupt):
            next(stream)
        self.js("put(1)")
        self.assertEqual(next(stream), 1)

    def test_many_read_one_stream_and_each_item_is_had_once(self) -> None:
        stream, got, lock = self.js(COUNTING), [], threading.Lock()

        def read() -> None:
            for item in stream:
                with lock:
                    got.append(item)

        threads = [threading.Thread(target=read) for _ in range(4)]
        for one in threads:
            one.start()
        for one in threads:
            one.join(DEADLINE)
        self.assertEqual(sorted(got), list(range(1, 1001)))

    def test_close_wakes_whoever_waits(self) -> None:
        stream = self.js("new ReadableStream({})")
        got: list[Any] = []
        thread = threading.Thread(target=lambda: got.append(list(stream)))
        thread.start()
        time.sleep(0.05)
        stream.close()
        thread.join(DEADLINE)
        self.assertEqual(got, [[]])

    def test_it_goes_back_as_the_stream_that_it_is(self) -> None:
        stream = self.js("globalThis.kept = ReadableStream.from([1])")
        self.assertIs(self.js("(stream) => stream === kept")(stream), True)
        with Runtime() as other, self.assertRaisesRegex(RuntimeError, "another runtime"):
            other.eval("(stream) => 1")(stream)

    def test_a_closed_runtime_and_a_killed_one_end_it(self) -> None:
        for end, error in ((Runtime.close, "closed"), (Runtime.terminate, "host request")):
            runtime = Runtime()
            stream = runtime.eval("new ReadableStream({})")
            threading.Timer(0.05, end, (runtime,)).start()
            with self.assertRaisesRegex(RuntimeError, error):
                next(stream)
            with self.assertRaisesRegex(RuntimeError, error):
                next(stream)
        runtime = Runtime()
        stream = runtime.eval("new ReadableStream({})")
        threading.Timer(0.05, os.kill, (runtime.get_stats().pid, 9)).start()
        with self.assertRaises(RuntimeTerminated):
            next(stream)

    @skip_unless(HAS_TRIO, "trio", "streams in trio")
    def test_trio_reads_it(self) -> None:
        import trio

        async def read() -> list[Any]:
            return [item async for item in self.js("ReadableStream.from([1, 2, 3])")]

        self.assertEqual(trio.run(read), [1, 2, 3])


class ToJavaScript(Case):
    def read(self, stream: Any) -> Any:
        async def read() -> Any:
            return await self.js(READ_ALL).call_async(stream() if callable(stream) else stream)

        return asyncio.run(read())

    def test_an_async_generator_a_generator_an_iterator_and_a_file_are_streams(self) -> None:
        async def items() -> AsyncIterator[int]:
            yield 1
            yield 2

        def plain() -> Iterator[str]:
            yield "a"

        self.assertEqual(self.read(items), [1, 2])
        self.assertEqual(self.read(plain), ["a"])
        self.assertEqual(self.read(lambda: iter([1])), [1])
        self.assertEqual(self.read(io.BytesIO(b"x" * 70_000)), [b"x" * 65_536, b"x" * 4_464])
        self.assertEqual(self.read(io.StringIO("text")), ["text"])
        self.assertEqual(self.read(lambda: self.runtime.stream_from_async_iterable([5, 6])), [5, 6])

    def test_it_is_a_readable_stream_of_the_guests_realm(self) -> None:
        self.assertIs(
            self.js("(s) => s instanceof ReadableStream && s.constructor === ReadableStream && s instanceof Object")(
                iter([])
            ),
            True,
        )

    def test_it_goes_as_argument_bound_value_result_of_a_callback_and_by_number(self) -> None:
        async def all_ways() -> None:
            self.runtime.bind_object("bound", {"stream": self.runtime.stream_from_async_iterable(Counted(2))})
            self.runtime.bind_function("give", lambda: Counted(3))
            number = await self.runtime.create_js_stream_from_python(Counted(4))
            read = self.js(f"globalThis.read = {READ_ALL}")
            self.assertEqual(await read.call_async(Counted(1)), [1])
            self.assertEqual(await self.runtime.eval_async("read(bound.stream)"), [1, 2])
            self.assertEqual(await self.runtime.eval_async("read(give())"), [1, 2, 3])
            self.js(f"globalThis.named = __jsrun_get_stream__({number})")
            self.assertEqual(await self.runtime.eval_async("read(named)"), [1, 2, 3, 4])
            with self.assertRaisesRegex(JavaScriptError, "no stream 77"):
                self.js("__jsrun_get_stream__(77)")

        asyncio.run(all_ways())

    def test_an_item_is_made_only_when_it_is_wanted(self) -> None:
        async def read() -> None:
            source = Counted()
            self.js("(s) => { globalThis.reader = s.getReader(); }")(source)
            for n in (1, 2, 3):
                self.assertEqual(await self.runtime.eval_async("reader.read().then((r) => r.value)"), n)
                await asyncio.sleep(0.02)
                self.assertEqual(source.made, n)
            self.assertEqual(
                await self.runtime.eval_async("Promise.all([1, 2, 3].map(() => reader.read().then((r) => r.value)))"),
                [4, 5, 6],
            )
            await asyncio.sleep(0.02)
            self.assertEqual(source.made, 6)

        asyncio.run(read())

    def test_items_are_made_in_advance_where_that_is_asked_for(self) -> None:
        async def read() -> None:
            source = Counted(100)
            stream = self.runtime.stream_from_async_iterable(source, ahead=8)
            self.js("(s) => { globalThis.s = s; globalThis.reader = s.getReader(); }")(stream)
            await until_async(lambda: source.made == 8, "eight items")
            await asyncio.sleep(0.05)
            self.assertEqual(source.made, 8)
            await self.runtime.eval_async("reader.releaseLock()")
            self.assertEqual(await self.runtime.eval_async(f"({READ_ALL})(s)"), list(range(1, 101)))

        asyncio.run(read())

    def test_the_same_source_is_the_same_stream(self) -> None:
        source = self.runtime.stream_from_async_iterable([1])
        self.assertIs(self.js("(a, b) => a === b")(source, source), True)

    def test_what_is_sent_is_counted(self) -> None:
        self.read(lambda: iter([b"12345", bytearray(3), "text"]))
        stats = self.runtime.get_stats()
        self.assertEqual(stats.bytes_streamed_py_to_js, 8)
        self.assertEqual((stats.total_py_streams, stats.active_py_streams), (1, 0))

    def test_an_error_of_python_comes_back_as_the_cause(self) -> None:
        async def faulty() -> AsyncIterator[int]:
            yield 1
            raise LookupError("py boom")

        with self.assertRaisesRegex(JavaScriptError, "py boom") as caught:
            self.read(faulty)
        self.assertIsInstance(caught.exception.__cause__, LookupError)

    def test_a_value_that_cannot_be_sent_fails_the_stream_and_closes_the_iterable(self) -> None:
        class Odd(Counted):
            async def __anext__(self) -> Any:
                return object()

        source = Odd()
        with self.assertRaisesRegex(JavaScriptError, "Unsupported Python type"):
            self.read(source)
        self.assertTrue(source.is_closed)

    def test_cancel_closes_the_iterable(self) -> None:
        async def cancel() -> None:
            source = Counted()
            await self.js("async (s) => { for await (const x of s) if (x === 2) break; }").call_async(source)
            await until_async(lambda: source.is_closed, "aclose")
            self.assertEqual(source.made, 2)

        asyncio.run(cancel())

    def test_cancel_ends_an_item_that_takes_long(self) -> None:
        ended: list[str] = []

        async def slow() -> AsyncIterator[int]:
            try:
                self.js("r.cancel(); 1")
                await asyncio.sleep(DEADLINE)
                yield 1
            finally:
                ended.append("ended")

        async def cancel() -> None:
            await self.js("async (s) => { globalThis.r = s.getReader(); await r.read(); }").call_async(slow())
            await until_async(lambda: ended == ["ended"], "finally")

        asyncio.run(cancel())

    def test_close_fails_the_reader_and_closes_the_iterable(self) -> None:
        async def close() -> None:
            iterable = Counted()
            source = self.runtime.stream_from_async_iterable(iterable)
            self.assertIsInstance(source, PyStreamSource)
            self.js("(s) => { globalThis.reader = s.getReader(); }")(source)
            await self.runtime.eval_async("reader.read()")
            source.close()
            with self.assertRaisesRegex(JavaScriptError, "closed the stream"):
                await self.runtime.eval_async("reader.read()")
            await until_async(lambda: iterable.is_closed, "aclose")
            with self.assertRaisesRegex(RuntimeError, "has been closed"):
                unused = self.runtime.stream_from_async_iterable(Counted())
                unused.close()
                self.js("(s) => 1")(unused)

        asyncio.run(close())

    def test_a_stream_that_javascript_lets_go_is_closed(self) -> None:
        async def leave() -> None:
            iterable = Counted()
            await self.js("async (s) => { const r = s.getReader(); await r.read(); }").call_async(iterable)
            for _ in range(200):
                await self.runtime.eval_async("{ const a = []; for (let i = 0; i < 1e5; i++) a.push({ i }); 1 }")
                if iterable.is_closed:
                    break
            self.assertTrue(iterable.is_closed)
            self.assertEqual(self.runtime.get_stats().active_py_streams, 0)

        asyncio.run(leave())

    def test_a_stream_that_only_a_promise_waits_for_goes_on(self) -> None:
        async def wait() -> None:
            gate = asyncio.Event()

            async def items() -> AsyncIterator[int]:
                await gate.wait()
                yield 9

            waiting = self.js("async (s) => (await s.getReader().read()).value").call_async(items())
            for _ in range(20):
                await self.runtime.eval_async("{ const a = []; for (let i = 0; i < 1e5; i++) a.push({ i }); 1 }")
            gate.set()
            self.assertEqual(await waiting, 9)

        asyncio.run(wait())

    def test_a_closed_runtime_closes_the_iterable(self) -> None:
        for end in (Runtime.close, Runtime.terminate, lambda one: os.kill(one.get_stats().pid, 9)):

            async def read() -> None:
                runtime, iterable = Runtime(), Counted()
                runtime.eval("(s) => { globalThis.reader = s.getReader(); }")(iterable)
                await runtime.eval_async("reader.read()")
                end(runtime)
                await until_async(lambda: iterable.is_closed, "aclose")
                runtime.close()

            asyncio.run(read())

    def test_an_event_loop_that_ends_fails_the_reader(self) -> None:
        async def begin() -> None:
            self.js("(s) => { globalThis.reader = s.getReader(); }")(Counted())
            await self.runtime.eval_async("reader.read()")

        asyncio.run(begin())

        async def read() -> None:
            with self.assertRaisesRegex(JavaScriptError, "cancelled|event loop"):
                await asyncio.wait_for(self.runtime.eval_async("reader.read()"), DEADLINE)

        asyncio.run(read())

    def test_an_event_loop_that_is_closed_fails_the_reader(self) -> None:
        loop = asyncio.new_event_loop()

        async def begin() -> None:
            self.js("(s) => { globalThis.reader = s.getReader(); }")(Counted())

        loop.run_until_complete(begin())
        loop.close()

        async def read() -> None:
            with self.assertRaisesRegex(JavaScriptError, "event loop of this stream is closed"):
                await asyncio.wait_for(self.runtime.eval_async("reader.read()"), DEADLINE)

        asyncio.run(read())

    def test_a_thread_without_a_loop_gives_a_stream(self) -> None:
        done = threading.Event()
        self.runtime.bind_function("done", done.set)
        self.js("(s) => { globalThis.total = 0; (async () => { for await (const x of s) total += x; done(); })(); }")(
            Counted(10)
        )
        self.assertTrue(done.wait(DEADLINE))
        self.assertEqual(self.js("total"), 55)

    def test_a_thousand_streams_at_once(self) -> None:
        async def all_of_them() -> list[Any]:
            read = self.js(READ_ALL)
            return await asyncio.gather(*(read.call_async(Counted(3)) for _ in range(1000)))

        self.assertEqual(asyncio.run(all_of_them()), [[1, 2, 3]] * 1000)
        streams = self.js("Array.from({ length: 1000 }, (_, i) => ReadableStream.from([i]))")
        self.assertEqual([next(one) for one in streams], list(range(1000)))
        self.assertEqual(self.runtime.get_stats().total_js_streams, 1000)

    @skip_unless(HAS_TRIO, "trio", "streams in trio")
    def test_trio_makes_the_items(self) -> None:
        import trio

        async def items() -> AsyncIterator[int]:
            for n in range(3):
                await trio.sleep(0)
                yield n

        async def give() -> None:
            done = trio.Event()
            token = trio.lowlevel.current_trio_token()
            self.runtime.bind_function("done", lambda: token.run_sync_soon(done.set))
            self.js(
                "(s) => { globalThis.got = []; (async () => { for await (const x of s) got.push(x); done(); })(); }"
            )(items())
            with trio.fail_after(DEADLINE):
                await done.wait()

        trio.run(give)
        self.assertEqual(self.js("got"), [0, 1, 2])


class Guest(Case):
    """What code of the guest has, and what it cannot spoil."""

    def run_async(self, code: str) -> Any:
        async def run() -> Any:
            return await asyncio.wait_for(self.runtime.eval_async(f"(async () => {{ {code} }})()"), DEADLINE)

        return asyncio.run(run())

    def test_streams_of_the_web_are_there(self) -> None:
        names = ["ReadableStream", "ReadableStreamDefaultReader", "ReadableStreamBYOBReader", "WritableStream"]
        names += ["ReadableStreamDefaultController", "ReadableByteStreamController", "ReadableStreamBYOBRequest"]
        names += ["WritableStreamDefaultWriter", "WritableStreamDefaultController", "TransformStream"]
        names += ["TransformStreamDefaultController", "ByteLengthQueuingStrategy", "CountQueuingStrategy"]
        names += ["AbortController", "AbortSignal"]
        for name in names:
            self.assertEqual(self.js(f"typeof {name} + ' ' + {name}.name"), f"function {name}")
            self.assertIs(self.js(f"Object.getOwnPropertyDescriptor(globalThis, '{name}').enumerable"), False)
        self.assertEqual(self.js("Object.keys(globalThis)"), [])

    def test_a_global_that_the_guest_sets_first_stays_its_own(self) -> None:
        self.js("ReadableStream = 5; var WritableStream = 6; delete globalThis.TransformStream")
        self.assertEqual(
            self.js("new CountQueuingStrategy({ highWaterMark: 1 }); [ReadableStream, WritableStream]"), [5, 6]
        )
        self.assertIs(self.js("'TransformStream' in globalThis"), False)

    def test_pipes_tees_transforms_and_readers_of_bytes(self) -> None:
        doubled = self.run_async("""
          const got = [];
          await ReadableStream.from([1, 2, 3])
            .pipeThrough(new TransformStream({ transform(x, c) { c.enqueue(2 * x); } }))
            .pipeTo(new WritableStream({ write(x) { got.push(x); } }));
          return got;""")
        self.assertEqual(doubled, [2, 4, 6])
        self.assertEqual(
            self.run_async("""
              const [a, b] = ReadableStream.from([1, 2]).tee();
              const all = async (s) => { const r = []; for await (const x of s) r.push(x); return r; };
              return [await all(a), await all(b)];"""),
            [[1, 2], [1, 2]],
        )
        self.assertEqual(
            self.run_async("""
              const stream = new ReadableStream({ type: "bytes", pull(c) {
                const view = c.byobRequest.view; view[0] = 7; c.byobRequest.respond(1); } });
              const reader = stream.getReader({ mode: "byob" });
              const { value } = await reader.read(new Uint8Array(4));
              return [value.length, value[0], value.buffer.byteLength];"""),
            [1, 7, 4],
        )
        self.assertEqual(
            self.js("""let size; new ReadableStream({ start(c) { c.enqueue('abc'); size = c.desiredSize; } },
              { highWaterMark: 10, size: (x) => x.length }); size"""),
            7,
        )

    def test_a_signal_ends_a_pipe(self) -> None:
        self.assertEqual(
            self.run_async("""
              const end = new AbortController(), events = [];
              end.signal.addEventListener("abort", (event) => events.push(event.type));
              const piped = new ReadableStream({ cancel(why) { events.push(why); } })
                .pipeTo(new WritableStream({ abort(why) { events.push(why); } }), { signal: end.signal });
              end.abort("enough");
              await piped.catch((error) => events.push(error));
              return events;"""),
            ["abort", "enough", "enough", "enough"],
        )
        self.assertEqual(self.js("AbortSignal.abort().reason.name"), "AbortError")

    PATCHES = """
      const evil = function () { globalThis.hit = (globalThis.hit ?? 0) + 1; throw new Error("patched"); };
      Promise.prototype.then = evil; Promise.prototype.catch = evil;
      Promise.resolve = evil; Promise.reject = evil; Promise.all = evil;
      Function.prototype.call = evil; Function.prototype.apply = evil; Function.prototype.bind = evil;
      Object.defineProperty = evil; Object.defineProperties = evil; Object.create = evil; Object.assign = evil;
      Object.getOwnPropertySymbols = evil; Object.prototype.hasOwnProperty = evil;
      Reflect.apply = evil; Reflect.ownKeys = evil; Reflect.defineProperty = evil; Reflect.construct = evil;
      Array.prototype[Symbol.iterator] = evil; Array.prototype.forEach = evil; Array.prototype.map = evil;
      Number.isFinite = evil; Math.trunc = evil; Math.floor = evil; Math.min = evil;
      globalThis.Symbol = globalThis.Promise = globalThis.Reflect = globalThis.Object = globalThis.TypeError = evil;
      globalThis.queueMicrotask = evil; 1
    """
    POLLUTES = """
      for (const key of ["get", "set", "value", "done", "start", "pull", "cancel", "type", "highWaterMark", "size"])
        Object.prototype[key] = 3;
      Object.prototype.then = function () { throw new Error("then"); }; 1"""

    def holds(self) -> None:
        stream = self.js(
            "let n = 0; new ReadableStream({ __proto__: null, type: undefined, start: undefined,"
            " cancel: undefined, pull(c) { n++; c.enqueue(n); if (n === 3) c.close(); } },"
            " { __proto__: null, highWaterMark: 0 })"
        )
        self.assertEqual(list(stream), [1, 2, 3])
        self.js("(s) => { globalThis.reader = s.getReader(); }")(iter([10, 20]))
        stream = self.js("(s) => s")(iter([10, 20]))
        self.assertIsInstance(stream, JsStream)
        self.assertEqual(list(stream), [10, 20])

    def test_what_the_guest_patches_before_the_first_stream_does_not_matter(self) -> None:
        self.js(self.PATCHES)
        self.holds()
        self.assertEqual(self.js("globalThis.hit ?? 0"), 0)

    def test_what_it_patches_afterwards_does_not_matter(self) -> None:
        self.js("new ReadableStream({}); 1")
        self.js(self.PATCHES)
        self.holds()

    def test_properties_of_all_objects_do_not_matter_before_and_after(self) -> None:
        self.js(self.POLLUTES)
        self.holds()
        self.runtime.close()
        self.runtime = Runtime()
        self.addCleanup(self.runtime.close)
        self.js("new ReadableStream({}); 1")
        self.js(self.POLLUTES)
        self.holds()

    def test_methods_of_streams_that_it_patches_are_not_ours(self) -> None:
        self.js("""
          const evil = () => { throw new Error("patched"); };
          for (const of of [ReadableStream, ReadableStreamDefaultReader, ReadableStreamDefaultController])
            for (const key of Object.getOwnPropertyNames(of.prototype))
              if (key !== "constructor" && key !== "getReader")
                Object.defineProperty(of.prototype, key, { value: evil });
          1""")
        stream = self.js("(s) => s")(iter([10, 20]))
        self.assertEqual(list(stream), [10, 20])

    def test_a_stream_that_is_none_harms_only_its_reader(self) -> None:
        stream = self.js("Object.create(ReadableStream.prototype)")
        with self.assertRaises(JavaScriptError):
            next(stream)
        spoilt = self.js("""globalThis.s = new ReadableStream({ pull() { } }, { highWaterMark: 0 });
          Object.defineProperty(s, "_readableStreamController", { get() { throw new Error("gone"); } }); s""")
        with self.assertRaises(JavaScriptError):
            next(spoilt)
        often = self.js("""globalThis.t = new ReadableStream({ pull() { const requests = t._reader._readRequests;
          requests.forEach((one) => { one._chunkSteps(1); one._chunkSteps(2);
            one._closeSteps(); one._errorSteps(3); }); } },
          { highWaterMark: 0 }); t""")
        self.assertEqual(next(often), 1)
        self.assertEqual(self.js("1 + 1"), 2)

    def test_nothing_of_the_engines_realm_is_reached(self) -> None:
        self.js("""globalThis.seen = [];
          globalThis.look = (value, depth = 0) => {
            if ((typeof value !== "object" && typeof value !== "function") || value === null || depth > 6) return;
            if (seen.includes(value)) return;
            seen.push(value);
            let top = value;
            while (Object.getPrototypeOf(top) !== null) top = Object.getPrototypeOf(top);
            const known = top === Object.prototype || Object.getPrototypeOf(value) === null;
            if (!known) throw new Error("foreign");
            for (const key of Reflect.ownKeys(value)) {
              let part; try { part = value[key]; } catch { continue; }
              look(part, depth + 1);
            }
          }; 1""")
        self.js("(s) => { s.getReader().read(); look(s); look(ReadableStream); look(AbortSignal.abort()); }")(iter([1]))
        stream = self.js("globalThis.mine = new ReadableStream({ pull() { look(mine); } }, { highWaterMark: 0 }); mine")
        threading.Timer(0.1, stream.close).start()
        self.assertEqual(list(stream), [])
        self.assertGreater(self.js("seen.length"), 40)

    def test_a_pull_that_computes_for_ever_is_ended(self) -> None:
        async def read() -> None:
            stream = self.js("new ReadableStream({ pull() { for (;;); } }, { highWaterMark: 0 })")
            with self.assertRaises(TimeoutError):
                await asyncio.wait_for(anext(stream), 0.1)

        asyncio.run(read())
        self.assertEqual(self.js("1 + 1"), 2)

    def test_a_writer_that_never_stops_fills_nothing(self) -> None:
        stream = self.js(
            """new ReadableStream({ pull(c) { c.enqueue(new Uint8Array(1e6)); } }, { highWaterMark: 0 })"""
        )
        for _ in range(100):
            next(stream)
        self.assertLess(self.runtime.get_stats().physical_total_bytes, 300e6)


class Hostile(Case):
    """Messages that an engine could send that its guest has taken over."""

    def setUp(self) -> None:
        super().setUp()
        self.session = self.runtime._session
        self.sent: list[list[Any]] = []
        send = self.session.send

        def note(message: list[Any], *how: bool) -> None:
            self.sent.append(message)
            send(message, *how)

        self.session.send = note  # type: ignore[method-assign]

    def take(self, *message: Any) -> None:
        """As if the engine had sent it."""
        from ipcctl._backend import dumps

        with mock.patch.object(self.session, "_end", mock.Mock(wraps=self.session._end)) as end:
            end.get.side_effect = lambda timeout: dumps(list(message), 1 << 20)
            self.session._read(0.0)

    def ends(self, *message: Any) -> None:
        self.take(*message)
        with self.assertRaisesRegex(RuntimeTerminated, "malformed message"):
            self.js("1")

    def test_a_stream_that_is_not_there_is_told_to_be_at_its_end_or_ignored(self) -> None:
        self.take(_contract.FROM_ENGINE_WANT, 99, 1)
        self.assertEqual(self.sent, [[_contract.TO_ENGINE_CLOSE, 99]])
        self.take(_contract.FROM_ENGINE_LEAVE, 99)
        self.take(_contract.FROM_ENGINE_END, 99)
        self.take(_contract.FROM_ENGINE_RESULT, 99, "item")
        self.assertEqual(self.js("1 + 1"), 2)

    def test_more_is_wanted_than_was_sent_and_one_item_is_made(self) -> None:
        async def want() -> None:
            source = Counted()
            self.js("(s) => { globalThis.reader = s.getReader(); }")(source)
            for _ in range(100):
                self.take(_contract.FROM_ENGINE_WANT, 1, 50)
            await asyncio.sleep(0.05)
            self.assertEqual(source.made, 1)

        asyncio.run(want())

    def test_an_end_comes_twice(self) -> None:
        stream = self.js("ReadableStream.from([])")
        self.assertEqual(list(stream), [])
        number = self.sent[-1][1]
        self.take(_contract.FROM_ENGINE_END, number)
        self.take(_contract.FROM_ENGINE_END, number)
        self.assertEqual(list(stream), [])

    def test_the_end_of_an_evaluation_ends_the_runtime(self) -> None:
        request = self.session.begin("eval", [_contract.TO_ENGINE_EVAL, 0, "new Promise(() => {})", "x", None, True])
        self.ends(_contract.FROM_ENGINE_END, request.number)
        self.assertIsInstance(request.error, RuntimeTerminated)

    def test_a_read_that_is_told_to_be_pending_ends_the_runtime(self) -> None:
        stream = self.js("new ReadableStream({})")
        request = self.runtime._streams.begin(stream._number, lambda _: None)
        self.ends(_contract.FROM_ENGINE_PENDING, request.number)

    def test_numbers_that_are_none_end_the_runtime(self) -> None:
        for kind in (_contract.FROM_ENGINE_WANT, _contract.FROM_ENGINE_LEAVE, _contract.FROM_ENGINE_END):
            for number in ({}, [1], "x", None, 1.5):
                self.setUp()
                self.ends(kind, number)


if __name__ == "__main__":
    unittest.main()
