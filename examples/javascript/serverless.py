"""Functions that users deploy: one runtime for each, made at its first call (cold) and used again (warm), with the
functions of the platform bound.

Prints:

    cold acme/hello -> {'text': 'Hello Ada, from db of acme'}
    warm acme/hello -> {'text': 'Hello Bob, from db of acme'}
    cold zeta/hello -> {'text': 'Hello Eve, from db of zeta'}
    cold zeta/slow -> JsTimeout
    warm zeta/slow -> JsTimeout
    three at once -> ['Hello 0, from db of acme', 'Hello 1, from db of acme', 'Hello 2, from db of acme']
    a warm call is quicker than a cold one: True
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from ipcctl.js import JsFunction, JsTimeout, Runtime

HELLO = "async (event) => ({ text: `Hello ${event.name}, from ${await query('db')}` })"
SLOW = "async (event) => { await query('db'); for (;;); }"


class Platform:
    def __init__(self) -> None:
        self._sources: dict[str, str] = {}
        self._warm: dict[str, tuple[Runtime, JsFunction]] = {}

    def deploy(self, tenant: str, name: str, source: str) -> None:
        self._sources[f"{tenant}/{name}"] = source

    async def invoke(self, tenant: str, name: str, event: dict[str, Any]) -> tuple[str, Any]:
        key = f"{tenant}/{name}"
        kind = "warm" if key in self._warm else "cold"
        if kind == "cold":
            runtime = Runtime(max_memory=64 << 20)

            async def query(text: str) -> str:
                await asyncio.sleep(0.001)  # asks a database
                return f"{text} of {tenant}"  # the tenant is known here, and no code of a user can say another one

            runtime.bind_function("query", query)
            self._warm[key] = runtime, runtime.eval(f"({self._sources[key]})")
        _, function = self._warm[key]
        return f"{kind} {key}", await function.call_async(event, timeout=0.3)

    def close(self) -> None:
        for runtime, _ in self._warm.values():
            runtime.close()


async def main() -> None:
    platform = Platform()
    platform.deploy("acme", "hello", HELLO)
    platform.deploy("zeta", "hello", HELLO)
    platform.deploy("zeta", "slow", SLOW)
    took = []
    for tenant, name in [("acme", "Ada"), ("acme", "Bob"), ("zeta", "Eve")]:
        began = time.perf_counter()
        how, value = await platform.invoke(tenant, "hello", {"name": name})
        took.append(time.perf_counter() - began)
        print(f"{how} -> {value}")
    for how in ("cold", "warm"):
        try:
            await platform.invoke("zeta", "slow", {})
        except JsTimeout:
            print(f"{how} zeta/slow -> JsTimeout")
    answers = await asyncio.gather(*(platform.invoke("acme", "hello", {"name": n}) for n in range(3)))
    print("three at once ->", [value["text"] for _, value in answers])
    print("a warm call is quicker than a cold one:", took[1] < took[0])
    platform.close()


asyncio.run(main())
