"""Ctrl-C, threads, forks, event loops, and the end of Python, with runtimes in every state."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from cases import Took, case, equal, expect, fails, in_thread, main, until


def child(code: str, seconds: float = 15) -> str:
    """What another Python prints that runs this, and ends with status 0."""
    start = "import asyncio, os, signal, sys, threading, time\nimport ipcctl.js as js\n"
    start += "def strike(*after):\n    for seconds in after:\n        threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
    try:
        done = subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise AssertionError("Python does not end") from None
    expect(done.returncode == 0, f"status {done.returncode}: {done.stderr[-300:]}")
    return done.stdout.strip()


@case("Ctrl-C ends what evaluations within functions within evaluations do, and the runtime goes on")
def interrupt_nested(js: Any) -> None:
    code = """
r = js.Runtime()
r.bind_function('down', lambda n: r.eval(f'down({n - 1})') if n > 0 else r.eval('while (true);'))
strike(0.4)
try:
    r.eval('down(4)')
except KeyboardInterrupt:
    print('interrupted', r.eval('1 + 1'))
"""
    equal(child(code), "interrupted 2")


@case("Ctrl-C in a function of Python that catches it leaves JavaScript running")
def interrupt_caught(js: Any) -> None:
    code = """
r = js.Runtime()
def wait():
    try:
        time.sleep(10)
    except KeyboardInterrupt:
        return 'caught'
r.bind_function('wait', wait)
strike(0.4)
print(r.eval("wait() + ' and on'"))
"""
    equal(child(code), "caught and on")


@case("Ctrl-C passes JavaScript that catches everything")
def interrupt_and_catch(js: Any) -> None:
    code = """
r = js.Runtime()
r.bind_function('wait', lambda: time.sleep(10))
strike(0.4)
try:
    r.eval('for (;;) try { wait() } catch {}')
except KeyboardInterrupt:
    print('interrupted', r.eval('1 + 1'))
"""
    equal(child(code), "interrupted 2")


@case("Ctrl-C twice ends the runtime at the latest, and Python goes on")
def interrupt_twice(js: Any) -> None:
    code = """
r = js.Runtime()
strike(0.3, 0.35)
try:
    try:
        r.eval('for (;;) try { while (true); } finally { continue }')
        time.sleep(1)
    except KeyboardInterrupt:
        time.sleep(1)
except KeyboardInterrupt:
    pass
print('on', js.Runtime().eval('1 + 1'))
"""
    equal(child(code), "on 2")


@case("An interrupt that comes while nothing is to be ended loses nothing that is asked", only_ours=True)
def stray_interrupts(js: Any) -> None:
    with js.Runtime(timeout=10) as one:
        is_over = threading.Event()
        one.bind_function("back", lambda value: value)

        def strike() -> None:
            while not is_over.wait(random.random() * 0.002):
                one._session.interrupt()

        thread = threading.Thread(target=strike)
        thread.start()

        def is_answered() -> bool:
            try:
                equal(one.eval("back(20) + 1"), 21)
                return True
            except js.JavaScriptError:
                raise
            except RuntimeError as error:
                expect("interrupted" in str(error), f"{type(error).__name__}: {error}")
                return False

        answered = 0
        try:
            for number in range(1500):
                if number % 50 == 0:
                    time.sleep(0.005)  # it sleeps by then
                answered += is_answered()
        finally:
            is_over.set()
            thread.join()
        expect(answered > 500, f"{answered} are answered")
        expect(until(is_answered), "it goes on")  # the last one may still be on its way


@case("An interrupt in the midst of ending what waits keeps nothing from its end", only_ours=True)
def interrupts_of_ends(js: Any) -> None:
    from ipcctl.js import _session

    _session._LATE_SECONDS, _session._ABSORB_SECONDS = 0.0, 0.002
    with js.Runtime() as one:
        one.add_static_module("wait", "await new Promise(() => {})")
        session = one._session
        interrupt = session.interrupt

        def late() -> None:
            """It hits each point of how the engine takes CANCEL."""
            at = time.perf_counter() + random.random() * 0.0003
            while time.perf_counter() < at:
                pass
            interrupt()

        session.interrupt = late
        for _ in range(400):
            try:
                one.eval_module("wait", timeout=0.004)
                raise AssertionError("it ends")
            except js.JsTimeout:
                expect(session.ended is None, f"the runtime has ended: {session.ended}")
            except RuntimeError as error:  # of the one before, which came late
                expect("Evaluation was interrupted" in str(error), f"{error}")


@case(
    "An interrupt in the midst of async code ends that with an error, and leaves nothing to wait for ever",
    only_ours=True,
)
def interrupts_of_async(js: Any) -> None:
    code = "(async () => { let sum = 0; for (let k = 0; k < 20; k++) sum += await later(k); return sum })()"

    async def later(value: int) -> int:
        await asyncio.sleep(0)
        return value

    async def work() -> list[Any]:
        seen: list[Any] = []
        with js.Runtime() as one:
            one.bind_function("later", later)
            for _ in range(400):
                task = asyncio.ensure_future(one.eval_async(code))
                at = time.perf_counter() + random.random() * 0.0006
                while time.perf_counter() < at:
                    await asyncio.sleep(0)
                one._session.interrupt()
                try:
                    seen.append(await asyncio.wait_for(task, 20))
                except RuntimeError as error:
                    seen.append(str(error))
        return seen

    seen = asyncio.run(work())
    equal(set(seen) - {190, "Evaluation was interrupted"}, set())
    expect(seen.count(190) > 100, f"{seen.count(190)} are answered")


@case("A timeout that ends the code of an async request as well ends both", only_ours=True)
def timeout_of_both(js: Any) -> None:
    async def work() -> None:
        with js.Runtime() as one:
            begun = threading.Event()

            async def later() -> None:
                begun.set()
                await asyncio.sleep(0.05)

            one.bind_function("later", later)
            one.bind_function("pause", lambda: time.sleep(0.3))
            task = asyncio.ensure_future(one.eval_async("(async () => { await later(); for (;;); })()"))
            await asyncio.to_thread(begun.wait)
            # Meanwhile the answer of later() comes, and what waits for it goes on within this.
            asked = asyncio.to_thread(one.eval, "pause(); 1", timeout=0.6)
            equal(str((await asyncio.gather(asked, return_exceptions=True))[0]), "Evaluation timed out after 0.6 s")
            seen = await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 20)
            equal(str(seen[0]), "Evaluation was interrupted")
            equal(one.eval("1 + 1"), 2)

    asyncio.run(work())


@case("Ctrl-C ends `asyncio.run` with evaluations under way")
def interrupt_asyncio(js: Any) -> None:
    code = """
r = js.Runtime()
async def run():
    await asyncio.gather(r.eval_async('new Promise(() => 0)'), r.eval_async('while (true);'))
strike(0.4)
try:
    asyncio.run(run())
except KeyboardInterrupt:
    print('interrupted')
try:
    print(r.eval('1 + 1', timeout=3))
except js.RuntimeTerminated:
    print(2)
"""
    equal(child(code), "interrupted\n2")


@case("Many threads use one runtime, while async evaluations run; functions run in the thread that asked")
def threads(js: Any) -> None:
    one = js.Runtime()
    problems: list[str] = []
    one.bind_function("where", threading.get_ident)
    f = one.eval("((n) => [n, where()])")

    def work(n: int) -> None:
        try:
            for at in range(40):
                equal(f(at), [at, threading.get_ident()])
                equal(one.eval(f"[{n}, where()]"), [n, threading.get_ident()])
        except BaseException as error:
            problems.append(f"{type(error).__name__}: {error}")

    async def later(n: int) -> int:
        await asyncio.sleep(0.001)
        return n

    async def run() -> None:
        one.bind_function("later", later)
        started = [threading.Thread(target=work, args=(n,)) for n in range(6)]
        for thread in started:
            thread.start()
        found = await asyncio.gather(*[one.eval_async(f"later({n})") for n in range(60)])
        equal(found, list(range(60)))
        while any(thread.is_alive() for thread in started):
            equal(await one.eval_async("later(1)"), 1)

    in_thread(lambda: asyncio.run(run()), 20)
    equal(problems, [])


@case("Functions of Python that ask each other through JavaScript, from several threads")
def crossed_threads(js: Any) -> None:
    one, other = js.Runtime(), js.Runtime()
    one.bind_function("ask", lambda n: other.eval(f"back({n})"))
    other.bind_function("back", lambda n: n if n == 0 else one.eval(f"ask({n - 1})"))
    problems: list[str] = []

    def work() -> None:
        try:
            for _ in range(10):
                equal(one.eval("ask(6)"), 0)
        except BaseException as error:
            problems.append(f"{type(error).__name__}: {error}")

    def all_of() -> None:
        started = [threading.Thread(target=work, daemon=True) for _ in range(4)]
        for thread in started:
            thread.start()
        for thread in started:
            thread.join()

    in_thread(all_of, 20)
    equal(problems, [])


@case("A runtime is closed by one thread while others use it")
def closed_by_another(js: Any) -> None:
    for end in ("close", "terminate"):
        one = js.Runtime()
        ends: list[str] = []

        def work(one: Any = one, ends: list[str] = ends) -> None:
            try:
                while True:
                    one.eval("let n = 0; for (let at = 0; at < 1e5; at++) n += at; n".replace("let n", "var n"))
            except RuntimeError as error:
                ends.append(str(error))

        started = [threading.Thread(target=work, daemon=True) for _ in range(4)]
        for thread in started:
            thread.start()
        time.sleep(0.2)
        getattr(one, end)()
        expect(until(lambda ends=ends: len(ends) == 4, 5), f"{end}: {len(ends)} of 4 threads noticed it: {ends}")


@case("A forked child has runtimes of its own while the parent computes, and takes none with it")
def fork_while_busy(js: Any) -> None:
    one = js.Runtime()
    result: list[Any] = []
    thread = threading.Thread(
        target=lambda: result.append(one.eval("const end = Date.now() + 1500; while (Date.now() < end); 'whole'"))
    )
    thread.start()
    time.sleep(0.2)
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        try:
            fails(lambda: one.eval("1"), RuntimeError)
            one.close()
            with js.Runtime() as mine:
                mine.bind_function("f", lambda: 3)
                equal(mine.eval("f()"), 3)

                async def run() -> None:
                    equal(await mine.eval_async("4"), 4)

                asyncio.run(run())
            os._exit(0)
        except BaseException:
            os._exit(1)
    status = os.waitpid(pid, 0)[1]
    equal(status, 0, "the child's status")
    thread.join(10)
    equal(result, ["whole"])
    equal(one.eval("1 + 1"), 2)


@case("Children of a pool of processes, forked after use, evaluate")
def forked_pool(js: Any) -> None:
    import multiprocessing

    equal(js.eval("1"), 1)
    with multiprocessing.get_context("fork").Pool(3) as pool:
        equal(pool.map(_double, range(6)), [0, 2, 4, 6, 8, 10])
    equal(js.eval("2"), 2)


def _double(n: int) -> Any:
    import ipcctl.js as js

    return js.eval(f"2 * {n}")


@case("Python ends at once, whatever goes on")
def exits(js: Any) -> None:
    states = {
        "a function of Python, in a daemon thread": "r = js.Runtime(); r.bind_function('wait', lambda: "
        "time.sleep(60))\n"
        "threading.Thread(target=lambda: r.eval('wait()'), daemon=True).start(); time.sleep(0.3)",
        "a function of Python, for an async evaluation": "r = js.Runtime(); r.bind_function('wait', lambda: "
        "time.sleep(60))\n"
        "async def run():\n    r.eval_async('wait()'); await asyncio.sleep(0.3)\nasyncio.run(run())",
        "an async function": "r = js.Runtime()\nasync def wait(): await asyncio.sleep(60)\nr.bind_function('wait', "
        "wait)\n"
        "async def run():\n    r.eval_async('wait()'); await asyncio.sleep(0.3)\nasyncio.run(run())",
        "an async function that nobody awaits": "r = js.Runtime()\nasync def wait(): await asyncio.sleep(60)\n"
        "r.bind_function('wait', wait); r.eval('wait(); 1'); time.sleep(0.3)",
        "calls that call each other": "r = js.Runtime(); r.bind_function('f', lambda: r.eval('f()'))\n"
        "def run():\n    try: r.eval('f()')\n    except BaseException: pass\n"
        "threading.Thread(target=run, daemon=True).start(); time.sleep(0.3)",
        "a stream": "r = js.Runtime()\nasync def run():\n    s = r.eval('new ReadableStream({ pull(c) { "
        "c.enqueue(1) } })')\n"
        "    await s.__anext__()\nasyncio.run(run())",
        "many": "rs = [js.Runtime() for _ in range(8)]\nfor r in rs: r.eval('setInterval(() => 0, 1); 1')",
        "none": "",
        "sys.exit in a function": "r = js.Runtime(); r.bind_function('f', lambda: sys.exit(0)); r.eval('f()')",
        "os._exit": "r = js.Runtime(); r.eval('1'); sys.stdout.flush(); print('over', flush=True); os._exit(0)",
        "a thread that is no daemon": "def run():\n    js.eval('1')\nthreading.Thread(target=run).start()",
        "atexit": "import atexit; r = js.Runtime(); atexit.register(lambda: print(r.eval('1 + 1')))",
    }
    for name, code in states.items():
        with Took() as took:
            try:
                output = child(f"{code}\nprint('over')" if "exit" not in name else code)
            except AssertionError as error:
                raise AssertionError(f"{name}: {error}") from None
        expect("Traceback" not in output and "Fatal" not in output, f"{name}: {output}")
        expect(took.seconds < 6, f"{name}: {took.seconds:.1f} s")


@case("No engine outlives Python, however that ends")
def nothing_outlives(js: Any) -> None:
    for end in ("", "os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)", "os.kill(os.getpid(), signal.SIGTERM)"):
        code = f"import os, signal, ipcctl.js as js\nr = js.Runtime(); print(r.get_stats().pid, flush=True)\n{end}"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=15)
        pid = int(done.stdout)
        expect(until(lambda pid=pid: not _is_running(pid), 5), f"the engine runs on after {end or 'the end'}")


def _is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@case("An engine that is killed ends what waits for it, and no other")
def killed(js: Any) -> None:
    one, other = js.Runtime(), js.Runtime()
    pid = one.get_stats().pid
    threading.Timer(0.3, os.kill, (pid, signal.SIGKILL)).start()
    fails(lambda: one.eval("while (true);"), js.RuntimeTerminated, "signal 9")
    fails(lambda: one.eval("1"), js.RuntimeTerminated)
    equal(other.eval("1 + 1"), 2)

    async def run() -> None:
        mine = js.Runtime()
        future = mine.eval_async("new Promise(() => 0)")
        os.kill(mine.get_stats().pid, signal.SIGKILL)
        try:
            await asyncio.wait_for(future, 5)
            raise AssertionError("nothing is raised")
        except js.RuntimeTerminated:
            pass

    asyncio.run(run())


@case("One runtime in two event loops of two threads at once")
def two_loops_at_once(js: Any) -> None:
    one = js.Runtime()

    async def double(n: int) -> int:
        await asyncio.sleep(0.001)
        return 2 * n

    one.bind_function("double", double)
    problems: list[str] = []

    async def run() -> None:
        for n in range(30):
            equal(await asyncio.wait_for(one.eval_async(f"double({n})"), 5), 2 * n)

    def work() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            problems.append(f"{type(error).__name__}: {error}")

    started = [threading.Thread(target=work, daemon=True) for _ in range(3)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join(15)
    equal(problems, [])


@case("Coroutines of an evaluation that is given up before they begin are closed, and warn of nothing")
def never_begun(js: Any) -> None:
    code = """
async def g():
    await asyncio.sleep(10)
async def run():
    r = js.Runtime()
    r.bind_function('g', g)
    try:
        await r.eval_async("for (;;) g()", timeout=0.3)
    except js.JsTimeout:
        pass
    r.close()
import warnings
warnings.simplefilter('error')
told = []
sys.unraisablehook = lambda of: told.append(of.exc_value)
asyncio.run(run())
import gc
gc.collect()
print(told[:1])
"""
    equal(child(code, 30), "[]")


if __name__ == "__main__":
    main()
