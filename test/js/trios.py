"""Runtimes under trio."""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from cases import Took, case, equal, expect, in_thread, main

MINE: contextvars.ContextVar[int] = contextvars.ContextVar("MINE", default=0)


async def later(n: int) -> int:
    await trio.sleep(0.05)
    return n + MINE.get()


def under_trio(js: Any, work: Callable[[Any], Awaitable[None]]) -> None:
    async def run() -> None:
        with js.Runtime() as one:
            one.bind_function("later", later)
            await work(one)

    in_thread(lambda: trio.run(run), 15)


async def late(awaitable: Awaitable[Any]) -> bool:
    with trio.move_on_after(0.2) as scope:
        await awaitable
    return bool(scope.cancelled_caught)


@case("Evaluations, calls of functions and pending promises can be awaited, and wait at the same time")
def awaits(js: Any) -> None:
    async def work(one: Any) -> None:
        equal(await one.eval_async("later(1)"), 1)
        f = one.eval("(async (n) => await later(n) + 1)")
        equal(await f.call_async(1), 2)
        equal(await f(2), 3)
        waiting, are_all = [], trio.Event()

        async def meet(n: int) -> int:
            waiting.append(n)
            if len(waiting) == 5:
                are_all.set()
            await are_all.wait()
            return n

        one.bind_function("meet", meet)
        with trio.fail_after(5):
            started = [one.eval_async(f"meet({n})") for n in range(5)]
            equal([await each for each in started], [0, 1, 2, 3, 4])
        equal([item async for item in one.eval("new ReadableStream({ start(c) { c.enqueue(1); c.close() } })")], [1])

    under_trio(js, work)
    under_trio(js, work)


@case("An async function runs in trio with the context variables of whoever asked, and its exception is the cause")
def functions(js: Any) -> None:
    async def fail() -> None:
        raise ValueError("of Python")

    async def work(one: Any) -> None:
        MINE.set(10)
        equal(await one.eval_async("later(1)"), 11)
        one.bind_function("fail", fail)
        try:
            await one.eval_async("fail()")
            raise AssertionError("nothing is raised")
        except js.JavaScriptError as error:
            expect(isinstance(error.__cause__, ValueError), repr(error.__cause__))

    under_trio(js, work)


@case("Timeouts hold, of code that computes and of code that waits")
def timeouts(js: Any) -> None:
    async def work(one: Any) -> None:
        for code in ("while (true);", "new Promise(() => 0)"):
            with Took() as took:
                try:
                    await one.eval_async(code, timeout=0.2)
                    raise AssertionError("nothing is raised")
                except js.JsTimeout:
                    pass
            expect(took.seconds < 5, f"{took.seconds:.1f} s")
        equal(await one.eval_async("1 + 1"), 2)

    under_trio(js, work)


@case("A scope that is cancelled ends JavaScript and what it has called")
def cancelled(js: Any) -> None:
    ended: list[bool] = []

    async def never() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(True)

    async def work(one: Any) -> None:
        one.bind_function("never", never)
        expect(await late(one.eval_async("never()")), "it is not cancelled")
        with trio.fail_after(3):
            while not ended:
                await trio.sleep(0.01)
        expect(await late(one.eval_async("while (true);")), "it is not cancelled")
        equal(await one.eval_async("1 + 1"), 2)
        one.eval_async("never()")  # trio ends it

    under_trio(js, work)


if __name__ == "__main__":
    main()
