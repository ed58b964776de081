"""Event loops that ask JavaScript one thing after the other look out for answers themselves."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
import unittest
from typing import Any

import support
from ipcctl.js import Runtime

home = tempfile.TemporaryDirectory(prefix="ipcctl-js-loops-", ignore_cleanup_errors=True)
MANY = 300
SECONDS = 20.0


def setUpModule() -> None:
    os.environ["IPCCTL_HOME"] = os.path.join(home.name, "home")


def tearDownModule() -> None:
    support.end_home(home)


class Loops(unittest.TestCase):
    def setUp(self) -> None:
        self.runtime = Runtime()
        self.addCleanup(self.runtime.close)

    async def ask(self, count: int = MANY, add: int = 0) -> list[Any]:
        return [await self.runtime.eval_async(f"Promise.resolve({at + add})") for at in range(count)]

    def test_each_gets_its_own_answer_in_one_loop_after_the_other(self) -> None:
        for add in (0, 1000, 2000):
            self.assertEqual(asyncio.run(self.ask(add=add)), list(range(add, add + MANY)))

    def test_loops_of_two_threads_share_a_runtime(self) -> None:
        found: dict[int, list[Any]] = {}
        threads = [
            threading.Thread(target=lambda add=add: found.update({add: asyncio.run(self.ask(add=add))}))
            for add in (0, 1000)
        ]
        for thread in threads:
            thread.start()
        for at in range(MANY):
            self.assertEqual(self.runtime.eval(f"-{at}"), -at)
        for thread in threads:
            thread.join(SECONDS)
        self.assertEqual(found, {add: list(range(add, add + MANY)) for add in (0, 1000)})

    def test_one_and_many_at_once_in_turns(self) -> None:
        async def both() -> None:
            for _ in range(20):
                await self.ask(10)
                many = await asyncio.gather(*(self.runtime.eval_async(f"{at}") for at in range(20)))
                self.assertEqual(many, list(range(20)))

        asyncio.run(both())

    def test_errors_and_functions_and_large_values_come_so_too(self) -> None:
        async def all_of() -> None:
            for _ in range(50):
                with self.assertRaisesRegex(Exception, "no"):
                    await self.runtime.eval_async("throw new Error('no')")
                double = await self.runtime.eval_async("(x) => 2 * x")
                self.assertEqual(double(4), 8)
                self.assertEqual(await double.call_async(5), 10)
                self.assertEqual(await self.runtime.eval_async("'x'.repeat(2_000_000)"), "x" * 2_000_000)

        asyncio.run(all_of())

    def test_what_the_console_is_told_comes_before_the_answer_and_in_order(self) -> None:
        said: list[str] = []

        async def told() -> None:
            for at in range(100):
                await self.runtime.eval_async(
                    f"console.log({at}); console.log('and'); 1", console=lambda _, text: said.append(text)
                )
                self.assertEqual(len(said), 2 * at + 2)
                await self.ask(3)

        asyncio.run(told())
        self.assertEqual(said, [text for at in range(100) for text in (str(at), "and")])

    def test_functions_of_python_of_both_kinds(self) -> None:
        async def later(value: int) -> int:
            await asyncio.sleep(0)
            return value + 1

        self.runtime.bind_function("later", later)
        self.runtime.bind_function("now", lambda value: value + 1)

        async def call() -> None:
            for at in range(100):
                self.assertEqual(await self.runtime.eval_async(f"later({at})"), at + 1)
                self.assertEqual(await self.runtime.eval_async(f"now({at})"), at + 1)
                await self.ask(3)

        asyncio.run(call())

    def test_what_comes_while_the_loop_is_held_up_is_taken_all_the_same(self) -> None:
        called = threading.Event()
        self.runtime.bind_function("call", called.set)

        async def hold() -> None:
            for code in ("call()", "setTimeout(call, 20); 1"):
                called.clear()
                await self.ask()
                answer = self.runtime.eval_async(code)
                self.assertTrue(called.wait(SECONDS))
                await answer

        asyncio.run(hold())

    def test_an_interrupt_in_the_midst_ends_what_waits_and_nothing_else(self) -> None:
        end = self.runtime._session._end
        look, looks = end.look, [0]

        def interrupted() -> bytes | None:
            looks[0] += 1
            if looks[0] == 3:
                raise KeyboardInterrupt
            return look()

        end.look = interrupted  # type: ignore[method-assign]
        with self.assertRaises(KeyboardInterrupt):
            asyncio.run(self.ask(100_000))
        end.look = look  # type: ignore[method-assign]
        self.assertEqual(self.runtime.eval("1 + 1"), 2)
        self.assertEqual(asyncio.run(self.ask(10)), list(range(10)))

    def test_a_task_that_is_cancelled_ends_what_it_asked_for(self) -> None:
        async def cancel() -> None:
            for code in ("new Promise(() => 0)", "for (;;);"):
                await self.ask()
                task = asyncio.ensure_future(self.runtime.eval_async(code))
                with self.assertRaises(asyncio.TimeoutError):
                    await asyncio.wait_for(task, 0.05)
                self.assertEqual(await self.runtime.eval_async("1 + 1"), 2)

        asyncio.run(cancel())

    def test_a_runtime_that_ends_meanwhile_says_so(self) -> None:
        async def end() -> None:
            await self.ask()
            answer = self.runtime.eval_async("new Promise(() => 0)")
            self.runtime.close()
            with self.assertRaisesRegex(RuntimeError, "closed"):
                await answer

        asyncio.run(end())


if __name__ == "__main__":
    unittest.main()
