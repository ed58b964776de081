"""Memory that Python and JavaScript share instead of copying it."""

from __future__ import annotations

import asyncio
import gc
import os
import tempfile
import unittest
from typing import Any

import support
from ipcctl import shared
from ipcctl._contract import KEPT_ROOM_BYTES, LARGE_BYTES_TO_ENGINE, LARGE_BYTES_TO_PYTHON
from ipcctl.js import JsTimeout, Runtime

home = tempfile.TemporaryDirectory(prefix="ipcctl-js-shared-", ignore_cleanup_errors=True)
MANY = 100_000_000


def setUpModule() -> None:
    os.environ["IPCCTL_HOME"] = os.path.join(home.name, "home")


def tearDownModule() -> None:
    support.end_home(home)


class Shared(unittest.TestCase):
    def setUp(self) -> None:
        self.runtime = Runtime()
        self.addCleanup(self.runtime.close)

    def js(self, code: str) -> Any:
        return self.runtime.eval(code)

    def maps(self, pid: int | str) -> int:
        with open(f"/proc/{pid}/maps", encoding="utf-8") as file:
            return sum("ipcctl-shared" in line for line in file)

    def test_both_sides_see_what_the_other_writes(self) -> None:
        memory = shared(16)
        self.js("(array) => { globalThis.array = array; }")(memory)
        memory[0] = 7
        self.assertEqual(self.js("array[0]"), 7)
        self.js("array[1] = 8")
        self.assertEqual(memory[1], 8)

    def test_it_is_an_array_of_the_guests_realm(self) -> None:
        is_own = self.js("""(a) => a.constructor === Uint8Array && a.buffer.constructor === ArrayBuffer
          && Object.getPrototypeOf(a) === Uint8Array.prototype
          && Object.getPrototypeOf(a.buffer) === ArrayBuffer.prototype
          && a.constructor.constructor === Function""")
        self.assertIs(is_own(shared(8)), True)
        self.assertIs(is_own(shared(8)[2:4]), True)

    def test_formats_parts_and_shapes_arrive(self) -> None:
        numbers = shared(80).cast("d")
        numbers[3] = 2.5
        told = self.js("(a) => [a.constructor.name, a.length, a[1], a.byteOffset]")(numbers[2:6])
        self.assertEqual(told, ["Float64Array", 4, 2.5, 16])
        self.assertEqual(
            self.js("({ shape, data }) => [shape, data.constructor.name, data.length]")(shared(24).cast("i", (2, 3))),
            [[2, 3], "Int32Array", 6],
        )

    def test_what_is_shared_costs_nothing_of_the_limit_and_no_memory(self) -> None:
        with Runtime(max_serialization_bytes=1000) as runtime:
            memory = shared(MANY)
            memory[MANY - 1] = 9
            last = runtime.eval("(array) => { globalThis.array = array; return array[array.length - 1]; }")
            self.assertEqual(last(memory), 9)
            back = memoryview(runtime.eval("array"))
            self.assertEqual((back.nbytes, back[MANY - 1]), (MANY, 9))
            self.assertLess(runtime.get_stats().physical_total_bytes, MANY)
            with self.assertRaisesRegex(RuntimeError, "exceeded maximum limit"):
                last(bytes(2000))

    def test_memory_that_javascript_asks_python_for_comes_back_without_a_copy(self) -> None:
        self.runtime.bind_function("shared", shared)
        code = "globalThis.made = new Float64Array(shared(80).buffer); made[5] = 1.5; made"
        made = memoryview(self.js(code))  # it is an array of NumPy where that is imported
        self.assertEqual((made.format, made[5]), ("d", 1.5))
        made[6] = 2.5
        self.assertEqual(self.js("made[6]"), 2.5)

    def test_it_goes_as_items_of_streams_both_ways(self) -> None:
        memory = shared(100)
        seen = self.js("(s) => { globalThis.s = s; return s; }")(iter([memory[:50], memory[50:]]))
        first, second = list(seen)
        memory[0], memory[50] = 1, 2
        self.assertEqual((first[0], second[0]), (1, 2))
        self.assertEqual(self.runtime.get_stats().bytes_streamed_py_to_js, 100)
        self.assertEqual(self.runtime.get_stats().bytes_streamed_js_to_py, 100)

    def test_results_of_callbacks_and_their_arguments(self) -> None:
        memory, seen = shared(4), []
        self.runtime.bind_function("give", lambda: memory)
        self.runtime.bind_function("take", seen.append)
        self.js("const m = give(); m[2] = 5; take(m)")
        self.assertEqual((memory[2], seen[0][2]), (5, 5))

    def test_large_values_cross_in_memory_of_their_own(self) -> None:
        with Runtime(max_serialization_bytes=64 << 20) as runtime:
            pid = runtime.get_stats().pid
            keep = runtime.eval(
                "(bytes) => { globalThis.kept = bytes; return [bytes.length, bytes[bytes.length - 1]]; }"
            )
            for size, more in ((LARGE_BYTES_TO_ENGINE - 8, 0), (LARGE_BYTES_TO_ENGINE, 1)):
                before = self.maps(pid)
                self.assertEqual(keep(b"\x07" * size), [size, 7])
                self.assertEqual(self.maps(pid) - before, more)
            for size, more in ((LARGE_BYTES_TO_PYTHON - 8, 0), (LARGE_BYTES_TO_PYTHON, 1)):
                before = self.maps("self")
                made = memoryview(runtime.eval(f"new Float64Array({size // 8}).fill(7)"))
                self.assertEqual((made.nbytes, made[-1]), (size, 7))
                self.assertEqual(self.maps("self") - before, more)

    def test_bytes_cross_one_after_the_other_in_memory_that_is_kept(self) -> None:
        with Runtime(max_serialization_bytes=64 << 20) as runtime:
            before, most = self.maps("self"), KEPT_ROOM_BYTES - 8
            make = runtime.eval("(size, byte) => new Uint8Array(size).fill(byte)")
            for size in (300_000, 10_000_000, most, 300_000):
                self.assertEqual(make(size, size % 251), bytes((size % 251,)) * size)
                self.assertEqual(self.maps("self") - before, 1)
            self.assertEqual(make(most + 1, 7), b"\x07" * (most + 1))
            several = runtime.eval("[1, 2, 3].map((byte) => new Uint8Array(300_000).fill(byte))")
            self.assertEqual(several, [bytes((byte,)) * 300_000 for byte in (1, 2, 3)])
            self.assertIs(type(several[0]), bytes)

    def test_bytes_of_what_is_not_sent_after_all_leave_the_memory_free(self) -> None:
        before = self.maps("self")
        for _ in range(3):
            with self.assertRaisesRegex(Exception, "no"):
                self.js("({ a: new Uint8Array(300_000), get b() { throw new Error('no') } })")
            with self.assertRaises(JsTimeout):
                self.runtime.eval("({ a: new Uint8Array(300_000), get b() { for (;;); } })", timeout=0.1)
            self.assertEqual(self.js("new Uint8Array(300_000).fill(5)"), b"\x05" * 300_000)
        self.assertLessEqual(self.maps("self") - before, 4)

    def test_bytes_in_the_midst_of_others_are_whole(self) -> None:
        """A getter calls Python, which evaluates what gives bytes as well."""
        inner: list[Any] = []
        self.runtime.bind_function("more", lambda: inner.append(self.js("new Uint8Array(400_000).fill(2)")))
        outer = self.js("({ a: new Uint8Array(300_000).fill(1), get b() { more(); return 3; } })")
        self.assertEqual((outer["a"], outer["b"]), (b"\x01" * 300_000, 3))
        self.assertEqual(inner, [b"\x02" * 400_000])

    def test_several_at_once_are_whole(self) -> None:
        async def all_of() -> list[Any]:
            one = "new Uint8Array(300_000).fill({})"
            return await asyncio.gather(*(self.runtime.eval_async(one.format(byte)) for byte in range(40)))

        self.assertEqual(asyncio.run(all_of()), [bytes((byte,)) * 300_000 for byte in range(40)])

    def test_memory_is_unmapped_on_both_sides_when_nobody_uses_it(self) -> None:
        pid, before = self.runtime.get_stats().pid, self.maps("self")
        use = self.js("(array) => { array[0] = 1; }")
        for _ in range(50):
            use(shared(1_000_000))
        gc.collect()
        self.assertEqual(self.maps("self"), before)
        for _ in range(100):
            self.js("{ const a = []; for (let i = 0; i < 1e5; i++) a.push({ i }); 1 }")
            if self.maps(pid) < 10:
                break
        self.assertLess(self.maps(pid), 10)

    def test_a_buffer_that_the_guest_detaches_harms_nothing(self) -> None:
        memory = shared(16)
        f = self.js(
            "(array) => { globalThis.old = array; globalThis.moved = array.buffer.transfer(); return old.length; }"
        )
        self.assertEqual(f(memory), 0)
        memory[3] = 4
        self.assertEqual(self.js("new Uint8Array(moved)[3]"), 4)
        self.assertEqual(self.js("moved")[3], 4)
        again = self.js("(array) => array.length")
        with self.assertRaises(RuntimeError):
            again(memory)
        self.assertEqual(self.js("1 + 1"), 2)

    def test_a_guest_that_patches_lists_sees_nothing_of_it(self) -> None:
        self.js("""globalThis.seen = [];
          for (const key of ["every", "map", "reduce", "forEach", "push", "slice"])
            Array.prototype[key] = function (...args) { seen[seen.length] = args; return this; };
          Array.prototype[Symbol.iterator] = function () { seen[seen.length] = this; throw 1; }; 1""")
        memory = shared(24)
        self.assertEqual(self.js("(a) => a.length")(memory), 24)
        self.assertEqual(self.js("(a) => a.data.length")(memory.cast("i", (2, 3))), 6)
        self.assertEqual(self.js("seen.length"), 0)


if __name__ == "__main__":
    unittest.main()
