"""What users meet first: settings that are wrong, code that is not what it should be, and what it says then."""

from __future__ import annotations

import array
import asyncio
import contextlib
import copy
import inspect
import io
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import warnings
from typing import Any

from cases import Took, case, equal, expect, fails, main, until


@case("One text in place of several is one, and not its letters")
def one_text(js: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = js.RuntimeConfig(allow_net="example.com:443", allow_read=folder, permissions="storage")
        equal(config.allow_net, ("example.com:443",))
        equal(config.allow_read, (folder,))
        equal(config.permissions, frozenset(["storage"]))
        with js.Runtime(config) as runtime:
            equal(runtime.eval("1 + 1"), 2)


@case("Hosts without a port, files that are not there and unknown ways to confine are named")
def wrong_settings(js: Any) -> None:
    fails(lambda: js.RuntimeConfig(allow_net=["a.com:1", "b.com"]), ValueError, "allow_net: 'b.com' is not HOST:PORT")
    equal(js.RuntimeConfig(allow_net=["[::1]:443", "*.a.com:*"]).allow_net, ("[::1]:443", "*.a.com:*"))
    config = js.RuntimeConfig(allow_read=["/nowhere"])
    fails(lambda: js.Runtime(config), ValueError, "there is no file or folder '/nowhere'")
    fails(lambda: js.RuntimeConfig(allow_read=[""]), ValueError, "allow_read: ''")
    fails(lambda: js.RuntimeConfig(confine="no"), ValueError, "confine 'no'")


@case("A setting of a wrong type or size is named with its value, and is no fault of the machine")
def wrong_types(js: Any) -> None:
    number = (0, -1, float("nan"), float("inf"), "1", True)
    for settings, kind, text in [
        *(({"max_cpu": value}, ValueError, "max_cpu ") for value in number),
        ({"bootstrap": 5}, TypeError, "bootstrap must be str, not int"),
        ({"snapshot": "text"}, TypeError, "snapshot must be bytes"),
        ({"inspector": {"port": 0}}, TypeError, "inspector must be InspectorConfig, not dict"),
        ({"permissions": 5}, TypeError, "permissions must be a str or several"),
        ({"permissions": [5]}, ValueError, "permissions: 5"),
        ({"allow_read": b"/etc"}, TypeError, "allow_read must be a str or several"),
        ({"modules": b"/etc"}, TypeError, "modules must be the path of a folder"),
        ({"typescript": "yes"}, TypeError, "typescript must be bool, not str"),
        ({"daemon": 1}, TypeError, "daemon must be bool, not int"),
        *(
            ({"allow_net": host}, ValueError, f"allow_net: {host!r} is not HOST:PORT")
            for host in ("a:0", "a:65536", ":1", "a b:1", "*:1", "\0:1")
        ),
        ({"allow_net": "10.0.0/8:1"}, ValueError, "is not HOST:PORT"),
    ]:
        fails(lambda settings=settings: js.Runtime(**settings), kind, text)  # type: ignore[misc]
    fails(lambda: js.Runtime({"timeout": 1}), TypeError, "Runtime takes a RuntimeConfig, or settings as keywords, not")
    fails(lambda: js.InspectorConfig(port="1"), TypeError, "port must be an int, not str")
    fails(lambda: js.InspectorConfig(host=1), TypeError, "host must be str, not int")
    config = js.RuntimeConfig()
    fails(lambda: setattr(config, "bootstrap", 5), TypeError, "bootstrap must be str")
    config.inspector = 5
    fails(lambda: js.Runtime(config), TypeError, "inspector must be")


@case("Arguments of a wrong type are named before anything is sent")
def wrong_arguments(js: Any) -> None:
    with js.Runtime() as runtime:
        fails(lambda: runtime.bind_function(5, len), TypeError, "name must be str, not int")
        fails(lambda: runtime.bind_function("f", len, permissions=5), TypeError, "permissions must be")
        fails(lambda: runtime.bind_object(5, {}), TypeError, "name must be str, not int")
        fails(lambda: runtime.register_op("f", 5), TypeError, "f: int cannot be called")
        fails(lambda: runtime.eval("1", console=5), TypeError, "console must be a function")
        fails(lambda: runtime.eval_module(5), TypeError, "specifier must be str, not int")
        fails(lambda: runtime.profile(interval=-1), ValueError, "interval cannot be negative: -1")
        for ahead in (-1, "1", True):
            error = fails(lambda: runtime.stream_from_async_iterable([], ahead=ahead), ValueError, "ahead must be")
            expect(repr(ahead) in str(error), str(error))
        equal(runtime.eval("1"), 1)


@case("What JavaScript cannot have is told with its place in what was sent")
def places(js: Any) -> None:
    with js.Runtime() as runtime:
        back = runtime.eval("(x) => x")
        far: Any = object()
        for _ in range(20):
            far = [far]
        for value, place in (
            ({"a": [1, object()]}, "(at ['a'][1])"),
            ([1, {"k": (3, {"z": "\ud800"})}], "(at [1]['k'][1]['z'])"),
            ([1, {"\ud800": 2}], "(at [1]['\\ud800'])"),
            ({"x" * 1000: object()}, f"(at ['{'x' * 39}]"),
            (far, f"(at {'[0]' * 8}…)"),
        ):
            fails(lambda value=value: back(value), RuntimeError, place)
        fails(lambda: runtime.bind_object("o", {"a": {"b": object()}}), RuntimeError, "(at ['a']['b'])")
        plain = fails(lambda: back(object()), RuntimeError, "Unsupported Python type")
        expect("(at" not in str(plain), "what is sent is the value itself")


@case("Times and sizes beyond all clocks and memories are as good as none")
def huge(js: Any) -> None:
    with js.Runtime(timeout=1e300, max_cpu=1e300, max_memory=1 << 90, max_serialization_bytes=1 << 90) as runtime:
        equal(runtime.eval("1"), 1)
        equal(runtime.eval("(x) => x")(2, timeout=1e300), 2)
        equal(asyncio.run(_awaited(runtime, "3", 1e300)), 3)


@case("What runs first tells after how many seconds it was ended")
def first_timeout(js: Any) -> None:
    for code in ("for (;;);", "new RegExp('(a*)*b').test('a'.repeat(40))"):
        fails(lambda code=code: js.Runtime(bootstrap=code, timeout=0.1), js.JsTimeout, "after 0.1 s")  # type: ignore[misc]


@case("A program that is chosen and is none is named, and so is what the kernel refuses at the start")
def refused_starts(js: Any) -> None:
    os.environ["IPCCTL_JS_BUN"] = "/etc/passwd"
    fails(js.Runtime, RuntimeError, "IPCCTL_JS_BUN names '/etc/passwd'")
    del os.environ["IPCCTL_JS_BUN"]
    error = str(fails(lambda: js.Runtime(allow_read="/proc"), RuntimeError, "cannot confine"))
    expect("namespaces: Invalid argument" in error and "confine=False" in error, error)


@case("A timeout says after how many seconds")
def timeout_says(js: Any) -> None:
    with js.Runtime() as runtime:
        endless = runtime.eval("() => { for (;;); }")
        fails(lambda: runtime.eval("for (;;);", timeout=0.1), js.JsTimeout, "timed out after 0.1 s")
        fails(lambda: endless(timeout=0.1), js.JsTimeout, "timed out after 0.1 s")
        for code, what in [("for (;;);", "Evaluation timed out after 0.1 s"), ("new Promise(() => {})", "pending")]:
            fails(lambda code=code: asyncio.run(_awaited(runtime, code, 0.1)), js.JsTimeout, what)  # type: ignore[misc]
        fails(lambda: runtime.eval("new RegExp('(a*)*b').test('a'.repeat(40))", timeout=0.1), js.JsTimeout, "0.1 s")


@case("A script with import, export or await is told what to do")
def notes(js: Any) -> None:
    with js.Runtime() as runtime:

        def noted(code: str) -> str:
            error = fails(lambda: runtime.eval(code), js.JavaScriptError, "SyntaxError")
            return " ".join(getattr(error, "__notes__", []))

        expect("add_static_module" in noted("import x from 'y'"), "nothing of modules")
        expect("add_static_module" in noted("1;\nexport const a = 1"), "nothing of modules")
        expect("async () =>" in noted("await 1"), "nothing of await")
        equal(noted("const ="), "")
        fails(lambda: runtime.eval("throw new SyntaxError('await')"), js.JavaScriptError, "await")

        async def later() -> str:
            try:
                await runtime.eval_async("const x = await Promise.resolve(1)")
            except js.JavaScriptError as error:
                return " ".join(error.__notes__)
            return ""

        expect("async () =>" in asyncio.run(later()), "nothing of await")


@case("Names of browsers and Node are told what would help, others are not")
def missing_names(js: Any) -> None:
    with js.Runtime() as runtime:
        for code, text in [("require('fs')", "modules="), ("fetch('x')", "bind_function"), ("new URL('x')", "no URL")]:
            error = fails(lambda: runtime.eval(code), js.JavaScriptError, "is not defined")
            expect(text in " ".join(getattr(error, "__notes__", [])), f"nothing of {text}")
        expect(not hasattr(fails(lambda: runtime.eval("price()"), js.JavaScriptError), "__notes__"), "a note")


@case("A name that no module has, and a function as an argument, say what would help")
def ways_out(js: Any) -> None:
    with js.Runtime() as runtime:
        fails(lambda: runtime.eval_module("lodash"), js.JavaScriptError, "modules=FOLDER")
        fails(lambda: runtime.eval("(f) => f")(len), RuntimeError, "bind_function()")
        fails(lambda: runtime.eval("(f) => f")(object()), RuntimeError, "send None, bool")


@case("TypeScript costs a runtime that has a limit no memory that would end it")
def typescript_and_memory(js: Any) -> None:
    for _ in range(3):
        with js.Runtime(max_memory=16 << 20, typescript=True) as runtime:
            busy = "const n: number = 1; const end = Date.now() + 700; while (Date.now() < end); n"
            equal(runtime.eval(busy), 1)


@case("Too few open files for an engine are named")
def open_files(js: Any) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, most))
    fails(js.Runtime, RuntimeError, "may have 128 open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, most))
    equal(js.eval("1"), 1)


@case("An error that takes its stack by Error.captureStackTrace() has frames, and shows no path of this machine")
def captured_stacks(js: Any) -> None:
    code = """class Own extends Error { constructor(text) { super(text); Error.captureStackTrace(this, Own) } }
        function go() { throw new Own('bad') }
        go()"""
    for engine in ("bun", "v8"):
        with js.Runtime(engine=engine) as runtime:
            error: Any = fails(lambda runtime=runtime: runtime.eval(code), js.JavaScriptError, "bad")
            frames = [(one.get("function_name"), one["line_number"]) for one in error.frames]
            equal(frames, [("go", 2), (None, 3)], engine)
            equal(str(error.stack).split("\n")[0], "Error: bad")
            stack = runtime.eval("{ const held = {}; Error.captureStackTrace(held); held.stack }")
            expect(stack.startswith("Error\n") and "at <eval>:1" in stack and "/" not in stack, stack)


@case("A runtime that is copied or pickled is refused, and goes on")
def copies(js: Any) -> None:
    with js.Runtime() as runtime:
        for act in (copy.copy, copy.deepcopy, pickle.dumps):
            fails(lambda act=act: act(runtime), TypeError, "cannot be copied or pickled")
        equal(runtime.eval("1"), 1)
        fails(lambda: runtime.eval_async("1"), RuntimeError, "asyncio.run(main())")
        fails(lambda: runtime.eval("(x) => x")(int), RuntimeError, "type; bind_function() lends")


@case("Runtimes and configurations show what they are")
def shown(js: Any) -> None:
    config = js.RuntimeConfig(max_memory=1 << 20, permissions=["b", "a"], allow_net="a.com:1", confine=False)
    text = "RuntimeConfig(permissions=['a', 'b'], confine=False, allow_net=['a.com:1'], max_memory=1048576"
    equal(repr(config), f"{text}, enable_console=False)")
    runtime = js.Runtime()
    equal(repr(runtime), f"<Runtime pid={runtime.get_stats().pid} confined=True>")
    runtime.close()
    equal(repr(runtime), "<Runtime, closed>")


@case("Stacks that JavaScript sees do not tell where anything lies on this machine")
def stacks(js: Any) -> None:
    with js.Runtime() as runtime:
        runtime.bind_function("fail", lambda: 1 / 0)
        codes = ["new Error('x')", "fail()", "null.x", "(function f() { f() })()"]
        for code in [*codes, "JSON.parse('{')", "new Function('throw new Error(1)')()"]:
            stack = runtime.eval(f"try {{ throw {code} }} catch (error) {{ error.stack }}")
            expect("<eval>" in stack and "build/js" not in stack, stack)
        later = "Promise.resolve().then(() => { throw new Error('later') }).catch((error) => error.stack)"
        stack = asyncio.run(_awaited(runtime, later))
        expect("<eval_async>" in stack and "build/js" not in stack, stack)


async def _awaited(runtime: Any, code: str, timeout: float | None = None) -> Any:
    return await runtime.eval_async(code, timeout=timeout)


@case("The console fills in what is left open, and tells tables, groups and assertions that fail")
def console(js: Any) -> None:
    said: list[tuple[str, str]] = []
    with js.Runtime() as runtime:

        def told(code: str) -> list[tuple[str, str]]:
            said.clear()
            runtime.eval(code, console=lambda level, text: said.append((level, text)))
            return list(said)

        equal(told("console.log('%s is %d, %i, %o %%', 'x', 1.5, 2.7, { a: 1 }, 'more')"),
              [("log", "x is 1.5, 2, { a: 1 } % more")])  # fmt: skip
        equal(told("console.log('100%', 5)"), [("log", "100% 5")])
        equal(told("console.log('%s')"), [("log", "%s")])
        equal(told("console.log('%s %s', 1)"), [("log", "1 %s")])
        equal(told("console.log('%d %d', 3n, { valueOf() { throw 1 } })"), [("log", "3n NaN")])
        equal(told("console.log('%cred', 'color: red')"), [("log", "red")])
        equal(told("console.table([{ a: 1 }]); console.dir(2)"), [("table", "[{ a: 1 }]"), ("dir", "2")])
        equal(told("console.assert(true); console.assert(0, 'n is %d', 5); console.assert()"),
              [("error", "Assertion failed: n is 5"), ("error", "Assertion failed")])  # fmt: skip
        equal(told("console.time('a'); console.timeEnd('a'); console.groupEnd()"), [])


@case("What a function raises that gets the console is the error of whoever asked, and ends what it does")
def console_fails(js: Any) -> None:
    def refuse(level: str, text: str) -> None:
        raise LookupError(f"no {text}")

    with js.Runtime(timeout=5) as runtime:
        fails(lambda: runtime.eval("console.log('more'); 1", console=refuse), LookupError, "no more")
        fails(lambda: runtime.eval("for (;;) console.log('end')", console=refuse), LookupError, "no end")
        later = "(async () => { console.log('later'); await new Promise(() => {}) })()"

        async def ask() -> None:
            await runtime.eval_async(later, console=refuse)

        fails(lambda: asyncio.run(ask()), LookupError, "no later")
        equal(runtime.eval("2"), 2)


@case("A function that gets the console may ask the same runtime")
def console_asks(js: Any) -> None:
    seen: list[Any] = []
    with js.Runtime(timeout=5) as runtime:
        runtime.eval("console.log(20); console.log(22)", console=lambda _, text: seen.append(runtime.eval(text)))
        equal(seen, [20, 22])

        async def ask() -> Any:
            said = "console.log('1 + 1'); 3"
            return await runtime.eval_async(said, console=lambda _, text: seen.append(runtime.eval(text)))

        equal(asyncio.run(ask()), 3)
        equal(seen, [20, 22, 2])


@case("An output that has not the letters, or that nobody reads, does not end a runtime")
def poor_output(js: Any) -> None:
    class Broken(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError("nobody reads")

    raw = io.BytesIO()
    with js.Runtime(enable_console=True, timeout=5) as runtime:
        plain = io.TextIOWrapper(raw, "ascii", write_through=True)
        with contextlib.redirect_stdout(plain):
            equal(runtime.eval("console.log('é'); 1"), 1)
        equal(raw.getvalue(), rb"\xe9" + b"\n")
        with contextlib.redirect_stdout(Broken()):
            fails(lambda: runtime.eval("for (;;) console.log('more')"), BrokenPipeError, "nobody reads")
            equal(runtime.eval("setTimeout(() => { console.log('late'); globalThis.done = true }, 1); 2"), 2)
            expect(until(lambda: runtime.eval("globalThis.done === true")), "the timer has stopped in the middle")
        equal(runtime.eval("3"), 3)


@case("A rejection that nobody handles is printed where the console is")
def rejections(js: Any) -> None:
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), js.Runtime(enable_console=True) as runtime:
        runtime.eval("(async () => { throw new TypeError('lost') })(); 0")
        runtime.eval("setTimeout(() => console.error('later'), 1); 0")
        expect(until(lambda: "later" in errors.getvalue()), "what a timer prints is not there")
        expect("Uncaught TypeError: lost" in errors.getvalue(), errors.getvalue())
        runtime.eval("Promise.reject(new Error('handled')).catch(() => 0); 0")
        fails(lambda: asyncio.run(_awaited(runtime, "Promise.reject(new Error('told'))")), js.JavaScriptError, "told")
        runtime.eval("Promise.reject({ get stack() { for (;;); }, get message() { for (;;); } }); 0")
        is_ended = False
        while not is_ended:  # what it threw computes for ever, once it is looked at, and is ended by a timeout
            try:
                runtime.eval("1", timeout=0.3)
            except js.JsTimeout:
                is_ended = True
        equal(runtime.eval("1", timeout=5), 1)
    expect("handled" not in errors.getvalue() and "told" not in errors.getvalue(), errors.getvalue())
    silent = io.StringIO()
    with contextlib.redirect_stderr(silent), js.Runtime() as runtime:
        runtime.eval("Promise.reject(new Error('lost')); 0")
        equal(asyncio.run(_awaited(runtime, "new Promise((done) => setTimeout(() => done(1), 20))")), 1)
    equal(silent.getvalue(), "")


@case("A timer calls Python while Python does something else")
def timers(js: Any) -> None:
    with js.Runtime() as runtime:
        called: list[int] = []
        runtime.bind_function("call", called.append)
        runtime.eval("let n = 0; setInterval(() => call(++n), 5); 0")
        expect(until(lambda: len(called) > 3), f"calls: {called}")
        equal(called[:4], [1, 2, 3, 4])
        equal(runtime.eval("n > 3"), True)


@case("What threads of the engine have done is noticed while nobody asks")
def threads_of_engine(js: Any) -> None:
    seen: list[int] = []
    with js.Runtime() as runtime:
        runtime.bind_function("note", seen.append)
        runtime.eval("setTimeout(() => note(0), 1)")
        expect(until(lambda: seen == [0]), f"{seen}")
        empty = "new Uint8Array([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0])"
        for number in range(1, 4):
            runtime.eval(f"void WebAssembly.compile({empty}).then(() => note({number}))")
            expect(until(lambda number=number: seen[-1] == number), f"{seen}")
        runtime.eval("setTimeout(() => note(4), 5); void 0")
        expect(until(lambda: seen[-1] == 4), f"{seen}")
        equal(runtime.eval("6 * 7"), 42)


@case("Keywords of a runtime are the settings of its configuration, for type checkers too")
def keywords(js: Any) -> None:
    from ipcctl.js._config import Settings

    known = list(inspect.signature(js.RuntimeConfig).parameters)
    equal(sorted(Settings.__annotations__), sorted(known))
    fails(lambda: js.Runtime(max_mem=1), TypeError, "max_mem")


@case("An array of the standard library is a typed array")
def standard_array(js: Any) -> None:
    with js.Runtime() as runtime:
        shown = runtime.eval("(x) => [x.constructor.name, x.length, x[1]]")
        equal(shown(array.array("d", [1, 2.5])), ["Float64Array", 2, 2.5])
        equal(shown(array.array("i", [1, 2])), ["Int32Array", 2, 2])


#: By as much, at least, machine code is faster in a loop; seen is 8 to 10.
FASTER = 3
LOOP = "(() => { let sum = 0; for (let at = 0; at < 3e6; at++) sum = (sum * 31 + at) | 0; return sum })()"


def _seconds(runtime: Any) -> float:
    with Took() as took:
        runtime.eval(LOOP)
    return took.seconds


def _interpreted() -> float:
    """By the same Bun. The least of several, as below: whatever else runs only adds to it."""
    from ipcctl.js._template import find_program

    code = f"""let least = 1e9; for (let at = 0; at < 4; at++) {{
      const began = performance.now(); {LOOP}; least = Math.min(least, performance.now() - began) }}
      console.log(least)"""
    return float(subprocess.check_output([find_program("bun"), "-e", code], env={"BUN_JSC_useJIT": "0"})) / 1000


@case("With a limit of memory JavaScript is compiled; where it is not, that is told", only_ours=True)
def machine_code(js: Any) -> None:
    from ipcctl.js import _template

    interpreted = _interpreted()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for most in (None, 64 << 20, 512 << 20):
            with js.Runtime(js.RuntimeConfig(max_memory=most, engine="bun")) as runtime:
                expect(runtime.get_stats().jit, f"none with {most}")
                runtime.eval(LOOP)
                seconds = min(_seconds(runtime) for _ in range(7))
                expect(interpreted > FASTER * seconds, f"{seconds} s with {most}, {interpreted} s interpreted")
    usual, more = _template.environment_of, {}
    _template.environment_of = lambda options: {**usual(options), **more}
    # Each of a kind of its own, of which none is ready.
    more["BUN_JSC_useDFGJIT"] = "0"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with js.Runtime(js.RuntimeConfig(max_memory=63 << 20, engine="bun")) as runtime:
            equal(runtime.get_stats().jit, False)
    equal([one.category for one in told], [RuntimeWarning])
    expect("no machine code" in str(told[0].message), str(told[0].message))
    more["BUN_JSC_useJIT"] = "0"
    fails(lambda: js.Runtime(js.RuntimeConfig(max_memory=62 << 20, engine="bun")), RuntimeError, "machine code")


@case("The command ends without a word where its reader has ended, and says that a disk is full")
def command_output(_: Any) -> None:
    for code in ("for (let at = 0; at < 1e5; at++) console.log(at)", "'x'.repeat(1e6)"):
        command = [sys.executable, "-m", "ipcctl.js", "-c", code]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            assert child.stdout is not None and child.stderr is not None
            child.stdout.read(2)
            child.stdout.close()
            equal((child.stderr.read(), child.wait(20)), (b"", 141))
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "ipcctl.js", "-c", "1"], stdout=full, stderr=subprocess.PIPE)
    equal((done.stderr, done.returncode), (b"Error: [Errno 28] No space left on device\n", 1))


if __name__ == "__main__":
    main()
