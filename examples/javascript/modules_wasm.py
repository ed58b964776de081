"""Modules that Python defines, resolves and loads, and WebAssembly.

Prints:

    defined: 42
    loaded: greet:/en/hello says hello, by way of greet:/en/words
    import() in a script: 42
    WebAssembly: 40 + 2 = 42
    a module of WebAssembly: 49
"""

from __future__ import annotations

import asyncio
import base64

from ipcctl.js import Runtime

#: (func (export "add") (param i32 i32) (result i32) local.get 0 local.get 1 i32.add)
ADD = base64.b64decode("AGFzbQEAAAABBwFgAn9/AX8DAgEABwcBA2FkZAAACgkBBwAgACABags=")

SOURCES = {
    "greet:/en/hello": "import { word } from './words'; export default `${import.meta.url} says ${word.text}`;",
    "greet:/en/words": "export const word = { text: `hello, by way of ${import.meta.url}` };",
}


def resolve(specifier: str, referrer: str) -> str | None:
    if specifier.startswith("./"):
        return referrer.rsplit("/", 1)[0] + specifier[1:]
    return specifier if specifier.startswith("greet:") else None  # None: the modules that were defined


async def load(url: str) -> str:
    await asyncio.sleep(0)  # asks a server
    return SOURCES[url]


async def main() -> None:
    with Runtime(timeout=5) as runtime:
        runtime.add_static_module("answer", "export const answer = 42;")
        print("defined:", runtime.eval_module("answer")["answer"])

        runtime.set_module_resolver(resolve)
        runtime.set_module_loader(load)
        greeting = await runtime.eval_module_async("greet:/en/hello")
        print("loaded:", greeting["default"])
        print("import() in a script:", await runtime.eval_async("import('answer').then((module) => module.answer)"))

        runtime.bind_object("wasm", {"bytes": ADD})
        add = runtime.eval("new WebAssembly.Instance(new WebAssembly.Module(wasm.bytes)).exports.add")
        print("WebAssembly: 40 + 2 =", add(40, 2))

        runtime.add_static_module("add.wasm", ADD)
        runtime.add_static_module("use", """
            import bytes from "add.wasm" with { type: "bytes" };
            const { instance } = await WebAssembly.instantiate(bytes);
            export const sum = instance.exports.add(40, 9);
        """)  # fmt: skip
        print("a module of WebAssembly:", (await runtime.eval_module_async("use"))["sum"])


asyncio.run(main())
