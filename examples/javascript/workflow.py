"""A workflow: steps in JavaScript that depend on each other. Each has a runtime of its own, gets the results of those
before it, and starts as soon as it can, so those that do not wait for each other run in parallel.

Prints:

    orders: 3 orders
    tax: 21.0
    shipping: 12
    bill: {'total': 133, 'note': 'net 100 + tax 21 + shipping 12'}
    tax and shipping ran at once: True
    a circle: steps wait for each other: one, two
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from ipcctl.js import Runtime

BUSY = "const end = Date.now() + 300; while (Date.now() < end);"


@dataclass
class Step:
    name: str
    code: str
    after: list[str] = field(default_factory=list)


async def run(steps: list[Step], context: dict[str, Any], spans: dict[str, tuple[float, float]]) -> dict[str, Any]:
    """:param spans: gets when each has begun and ended"""
    tasks: dict[str, asyncio.Task[Any]] = {}

    async def one(step: Step) -> Any:
        results = {name: await tasks[name] for name in step.after}
        with Runtime(max_memory=64 << 20) as runtime:
            runtime.bind_object("context", context)
            runtime.bind_object("results", results)
            began = time.monotonic()
            value = await runtime.eval_async(f"(async () => {{{step.code}}})()", timeout=5)
            spans[step.name] = began, time.monotonic()
            return value

    _check(steps)
    async with asyncio.TaskGroup() as group:  # the first error cancels the others, and ends their JavaScript
        for step in steps:
            tasks[step.name] = group.create_task(one(step))
    return {name: task.result() for name, task in tasks.items()}


def _check(steps: list[Step]) -> None:
    left = list(steps)
    while left:
        names = {step.name for step in left}
        ready = [step for step in left if not names.intersection(step.after)]
        if not ready:
            raise ValueError(f"steps wait for each other: {', '.join(sorted(names))}")
        left = [step for step in left if step not in ready]


STEPS = [
    Step("bill", """
        const { orders, tax, shipping } = results;
        const net = orders.reduce((sum, one) => sum + one.price, 0);
        return { total: net + tax + shipping, note: `net ${net} + tax ${tax} + shipping ${shipping}` };
    """, after=["orders", "tax", "shipping"]),
    Step("orders", "return [{ price: 50 }, { price: 30 }, { price: 20 }]"),
    Step("tax", f"{BUSY} return results.orders.reduce((sum, one) => sum + one.price, 0) * context.rate", ["orders"]),
    Step("shipping", f"{BUSY} return results.orders.length * 4", ["orders"]),
]  # fmt: skip


async def main() -> None:
    spans: dict[str, tuple[float, float]] = {}
    found = await run(STEPS, {"rate": 0.21}, spans)
    print(f"orders: {len(found['orders'])} orders")
    print(f"tax: {found['tax']:.1f}")
    print(f"shipping: {found['shipping']}")
    print(f"bill: {found['bill']}")
    print(
        "tax and shipping ran at once:",
        spans["tax"][0] < spans["shipping"][1] and spans["shipping"][0] < spans["tax"][1],
    )
    try:
        await run([Step("one", "", ["two"]), Step("two", "", ["one"])], {}, {})
    except ValueError as error:
        print(f"a circle: {error}")


asyncio.run(main())
