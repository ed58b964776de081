"""A tool of an agent that runs the code of a model: with limits, and with errors as text that the model can act upon.

The model here follows a script; put yours in its place.

Prints:

    model: let sum = 0; for (let i = 1; i <= 100; i++) sum += i * i; sum
    tool: 338350
    model: fetch('https://example.com/')
    tool: ReferenceError: fetch is not defined
    model: while (true) {}
    tool: it ran for more than 0.5 s
    model: const all = []; while (true) all.push(new Uint8Array(1 << 20))
    tool: it needed more than 64 MB
    model: JSON.parse("{'a': 1}")
    tool: SyntaxError: JSON Parse error: Single quotes (') are not allowed in JSON
    model: The sum of the squares from 1 to 100 is 338350.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from ipcctl.js import JavaScriptError, JsTimeout, Runtime, RuntimeTerminated

SECONDS = 0.5
MEGABYTES = 64


async def run_javascript(code: str) -> str:
    """The tool. Each call has a runtime of its own, so nothing is left for the next one."""
    with Runtime(max_memory=MEGABYTES << 20) as runtime:
        try:
            return str(await runtime.eval_async(code, timeout=SECONDS))
        except JsTimeout:
            return f"it ran for more than {SECONDS} s"
        except RuntimeTerminated:
            return f"it needed more than {MEGABYTES} MB"
        except JavaScriptError as error:
            return f"{error.name}: {error.message}"


def model() -> Iterator[str]:
    """Gives code; the last thing that it says is its answer."""
    yield "let sum = 0; for (let i = 1; i <= 100; i++) sum += i * i; sum"
    yield "fetch('https://example.com/')"
    yield "while (true) {}"
    yield "const all = []; while (true) all.push(new Uint8Array(1 << 20))"
    yield "JSON.parse(\"{'a': 1}\")"


async def main() -> None:
    answers = []
    for code in model():
        print(f"model: {code}")
        answers.append(await run_javascript(code))
        print(f"tool: {answers[-1]}")
    print(f"model: The sum of the squares from 1 to 100 is {answers[0]}.")


asyncio.run(main())
