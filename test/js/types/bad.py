"""What mypy --strict is to find: each line with the code of its error, and no other line."""

from __future__ import annotations

from ipcctl.js import JsFunction, Runtime, RuntimeConfig, RuntimeStats, SnapshotBuilder, bundle

RuntimeConfig(max_memory="64M")  # arg-type
RuntimeConfig(max_mem=1)  # call-arg
Runtime(max_mem=1)  # call-arg
Runtime(timeout="1")  # arg-type
Runtime(engine="quickjs")  # arg-type
Runtime(confine="no")  # arg-type
runtime = Runtime()
runtime.eval(b"1")  # arg-type
runtime.eval("1", 5)  # call-arg
runtime.eval("1", language="py")  # arg-type
runtime.bind_function("f", 5)  # arg-type
runtime.bind_object("o", [1])  # arg-type
runtime.set_module_resolver(lambda specifier: specifier)  # arg-type, misc
runtime.set_module_loader(lambda url: 5)  # arg-type, return-value
runtime.evaluate("1")  # attr-defined
stats: RuntimeStats = runtime.get_stats()
pid: str = stats.pid  # assignment
stats.pid = 5  # misc
function: JsFunction = runtime.eval("f")
function.call("x")  # attr-defined
text: str = SnapshotBuilder().build()  # assignment
bundle("", language="py")  # arg-type
