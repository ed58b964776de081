"""Plugins in JavaScript: each is loaded into its own runtime, gets what the application lends, and is called by hooks.
Prints:

    log: greeter is ready
    greeter.greet: Hello, Ada! (shop 1.2)
    greeter.total: 30
    greeter has no hook farewell
    greeter may not: save needs the permission 'storage', which RuntimeConfig(permissions=[…]) does not declare
    unloaded: Runtime has been shut down
"""

from __future__ import annotations

from typing import Any

from ipcctl.js import JavaScriptError, JsFunction, JsPermissionError, Runtime

GREETER = """
const plugin = {
    sum: 0,
    greet(name) { return `Hello, ${name}! (${app.name} ${app.version})`; },
    total(prices) { for (const price of prices) this.sum += price; return this.sum; },
    keep() { save("key", this.sum); },
};
log("greeter is ready");
"""


class Plugin:
    def __init__(self, name: str, source: str, permissions: list[str]) -> None:
        self.name = name
        self._runtime = Runtime(max_memory=64 << 20, timeout=2, permissions=permissions)
        self._runtime.bind_object("app", {"name": "shop", "version": "1.2"})
        self._runtime.bind_function("log", lambda text: print(f"log: {text}"), permissions="log")
        self._runtime.bind_function("save", lambda key, value: print(f"{key} = {value}"), permissions="storage")
        self._runtime.eval(source)
        #: Functions as properties of a dict; each keeps its ``this``.
        self._hooks: dict[str, Any] = self._runtime.eval("plugin")

    def call(self, hook: str, *args: Any) -> Any:
        function = self._hooks.get(hook)
        if not isinstance(function, JsFunction):
            raise LookupError(f"{self.name} has no hook {hook}")
        return function(*args)

    def unload(self) -> None:
        self._runtime.close()


plugin = Plugin("greeter", GREETER, ["log"])
print("greeter.greet:", plugin.call("greet", "Ada"))
print("greeter.total:", plugin.call("total", [10, 20]))
try:
    plugin.call("farewell")
except LookupError as error:
    print(error)
try:
    plugin.call("keep")
except JavaScriptError as error:
    assert isinstance(error.__cause__, JsPermissionError)
    print(f"greeter may not: {error.__cause__}")
plugin.unload()
try:
    plugin.call("greet", "Ada")
except RuntimeError as error:
    print(f"unloaded: {error}")
