"""A library is prepared once, as bytes; each runtime begins with it.

Prints:

    same bytes for the same scripts: True
    a: Hello from a, 120
    b: Hello from b, 120
    changes stay where they were made: True
    what fails does not become a part of it: SyntaxError
    a changed byte is found: it is truncated, or was changed
"""

from __future__ import annotations

from ipcctl.js import JavaScriptError, Runtime, RuntimeConfig, SnapshotBuilder

LIBRARY = """
globalThis.lib = {
    factorial: (n) => (n <= 1 ? 1 : n * lib.factorial(n - 1)),
    greet: (name) => `Hello from ${name}`,
};
"""


def build() -> bytes:
    builder = SnapshotBuilder()
    builder.execute_script("library.js", LIBRARY)
    builder.add_static_module("settings", "export const retries = 3;")
    return builder.build()


snapshot = build()  # to be kept in a file, or beside the program
print("same bytes for the same scripts:", snapshot == build())

config = RuntimeConfig(snapshot=snapshot)
for name in "ab":
    with Runtime(config) as runtime:
        print(f"{name}: {runtime.eval(f'lib.greet({name!r})')}, {runtime.eval('lib.factorial(5)')}")
        runtime.eval("lib.factorial = null")
with Runtime(config) as runtime:
    fresh = runtime.eval("lib.factorial !== null") and runtime.eval_module("settings") == {"retries": 3}
    print("changes stay where they were made:", fresh)

builder = SnapshotBuilder()
try:
    builder.execute_script("broken.js", "globalThis.lib = {")
except JavaScriptError as error:
    print("what fails does not become a part of it:", error.name)

try:
    Runtime(RuntimeConfig(snapshot=snapshot[:-1] + bytes([snapshot[-1] ^ 1])))
except RuntimeError as error:
    print("a changed byte is found:", str(error).split(": ", 1)[1].split(";")[0])
