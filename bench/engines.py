"""Measures one way to run JavaScript from Python: ``python bench/engines.py PEER [IDLE_SECONDS]`` prints a line of
JSON, ``{"figures": {…}, "failed": {…}}``. ``bench/javascript.ts`` runs it for all of them, in turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

LOOP = "function loop(n) { let sum = 0; for (let i = 0; i < n; i++) sum += host(i); return sum } 0"
FIB = "function fib(n) { return n < 2 ? n : fib(n - 1) + fib(n - 2) } 0"
REGEX = """
var text = "";
for (let i = 0; i < 4000; i++) text += "user" + i + "@host" + (i % 97) + ".example.com, tel +49 30 " + (100000 + i) + "\\n";
function find() { return (text.match(/[\\w.]+@[\\w.]+\\.com/g) || []).length + (text.match(/\\+49 30 \\d+/g) || []).length } 0
"""
CALLBACKS_BEFORE, CALLBACKS = 5000, 10_000
#: What starts or ends beside it has the processor meanwhile.
PAUSE_SECONDS = 0.5
SUSTAINED_SECONDS = 2
RUNTIMES, IDLE = 4, 16
FIB_35 = 9227465
MIB = 1024 * 1024


class Peer:
    """One runtime of it. What it cannot do raises NotImplementedError."""

    def eval(self, code: str) -> Any:
        raise NotImplementedError

    def function(self, code: str) -> Callable[..., Any]:
        raise NotImplementedError

    def bind(self, name: str, function: Callable[..., Any]) -> None:
        raise NotImplementedError

    async def async_us(self, times: int) -> float:
        """An evaluation that is awaited, one after the other."""
        raise NotImplementedError

    def stats(self) -> object:
        return None

    def close(self) -> None:
        pass


class Jsrun(Peer):
    def __init__(self) -> None:
        import jsrun

        self._runtime = jsrun.Runtime(jsrun.RuntimeConfig(max_serialization_bytes=512 * MIB))
        self.eval = self._runtime.eval  # type: ignore[method-assign]
        self.function = self._runtime.eval  # type: ignore[method-assign]
        self.bind = self._runtime.bind_function  # type: ignore[method-assign]
        self.stats = self._runtime.get_stats  # type: ignore[method-assign]
        self.close = self._runtime.close  # type: ignore[method-assign]

    async def async_us(self, times: int) -> float:
        found = []
        for _ in range(times):
            began = time.perf_counter()
            await self._runtime.eval_async("Promise.resolve(1)")
            found.append(time.perf_counter() - began)
        return statistics.median(found) * 1e6


class Ours(Jsrun):
    def __init__(self) -> None:
        import ipcctl.js

        sys.modules["jsrun"] = ipcctl.js
        super().__init__()


class MiniRacer(Peer):
    def __init__(self) -> None:
        import py_mini_racer

        self._context = py_mini_racer.MiniRacer()
        self.eval = self._context.eval  # type: ignore[method-assign]
        self.function = self._context.eval  # type: ignore[method-assign]

    def close(self) -> None:
        self._context.close()


class QuickJs(Peer):
    def __init__(self) -> None:
        import quickjs

        self._context = quickjs.Context()
        self.eval = self._context.eval  # type: ignore[method-assign]
        self.function = self._context.eval  # type: ignore[method-assign]
        self.bind = self._context.add_callable  # type: ignore[method-assign]


class PythonMonkey(Peer):
    """One engine for the whole process."""

    def __init__(self) -> None:
        import pythonmonkey

        self.eval = pythonmonkey.eval  # type: ignore[method-assign]
        self.function = pythonmonkey.eval  # type: ignore[method-assign]

    def bind(self, name: str, function: Callable[..., Any]) -> None:
        self.eval(f"(value) => {{ globalThis.{name} = value }}")(function)


class JsPyBridge(Peer):
    """One Node for the whole process."""

    def __init__(self) -> None:
        from javascript import globalThis

        self._global = globalThis
        self._global.eval("1")

    def eval(self, code: str) -> Any:
        return self._global.eval(code)

    def function(self, code: str) -> Callable[..., Any]:
        return self._global.eval(code)  # type: ignore[no-any-return]


PEERS: dict[str, tuple[type[Peer], bool]] = {
    "ipcctl.js": (Ours, True),
    "jsrun": (Jsrun, True),
    "mini-racer": (MiniRacer, True),
    "quickjs": (QuickJs, True),
    "pythonmonkey": (PythonMonkey, False),
    "JSPyBridge": (JsPyBridge, False),
}


def p50(act: Callable[[], Any], times: int) -> float:
    """In µs."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        act()
        found.append(time.perf_counter() - began)
    return statistics.median(found) * 1e6


def creations(make: type[Peer]) -> dict[str, float]:
    def once() -> None:
        one = make()
        assert int(one.eval("1+1")) == 2
        one.close()

    once()
    time.sleep(PAUSE_SECONDS)
    found = []
    for _ in range(20):
        began = time.perf_counter()
        once()
        found.append(time.perf_counter() - began)
        time.sleep(0.05)
    began, count = time.perf_counter(), 0
    while (took := time.perf_counter() - began) < SUSTAINED_SECONDS:
        once()
        count += 1
    time.sleep(PAUSE_SECONDS)
    return {"create_ms": statistics.median(found) * 1e3, "creations_per_second": count / took}


def callbacks(peer: Peer) -> float:
    stamps: list[float] = []
    now = time.perf_counter

    def host(value: Any) -> Any:
        stamps.append(now())
        return value

    peer.bind("host", host)
    peer.eval(LOOP)
    assert peer.eval(f"loop({CALLBACKS_BEFORE})") == CALLBACKS_BEFORE * (CALLBACKS_BEFORE - 1) // 2
    stamps.clear()
    peer.eval(f"loop({CALLBACKS})")
    return statistics.median(after - before for before, after in zip(stamps, stamps[1:])) * 1e6


def bytes_each_way(peer: Peer, size: int, times: int) -> tuple[float, float]:
    """Of bytes that were written once: pages that nobody has touched cost less. In ms."""
    data = b"\x07" * size
    take = peer.function("((data) => data.length + data[data.length - 1])")
    assert int(take(data)) == size + 7
    there = p50(lambda: take(data), times)
    peer.eval(f"var data = new Uint8Array({size}).fill(7); 0")
    given = peer.eval("data")
    assert len(given) == size and given[-1] == 7
    return there / 1e3, p50(lambda: peer.eval("data"), times) / 1e3


def together(make: type[Peer], code: str, prepare: str) -> float:
    """Seconds for all of several runtimes, each made and used in a thread of its own."""
    gate = threading.Barrier(RUNTIMES + 1)
    results: list[int] = []

    def run() -> None:
        try:
            one = make()
            one.eval(prepare)
            gate.wait()
            results.append(int(one.eval(code)))
            gate.wait()
            one.close()
        except BaseException:
            gate.abort()
            raise

    threads = [threading.Thread(target=run) for _ in range(RUNTIMES)]
    for thread in threads:
        thread.start()
    gate.wait()
    began = time.perf_counter()
    gate.wait()
    took = time.perf_counter() - began
    for thread in threads:
        thread.join()
    assert results == [FIB_35] * RUNTIMES
    return took


def limited() -> dict[str, float]:
    """The same on one runtime with little memory, where a JIT that reserves much is silently off; and on one with
    as much as it likes.
    """
    import ipcctl.js

    found = []
    for most in (None, 32 * MIB):
        with ipcctl.js.Runtime(max_memory=most) as runtime:
            runtime.eval(FIB)
            found.append(p50(lambda: runtime.eval("fib(30)"), 7) / 1e3)
            with open(f"/proc/{runtime.get_stats().pid}/limits") as file:
                limit = next(line.split()[3] for line in file if line.startswith("Max data size"))
    return {"fib_free_ms": found[0], "fib_limited_ms": found[1], "limit_mib": int(limit) / MIB}


def hundred_megabytes() -> dict[str, float]:
    """Of a typed array each way, with memory that is shared and with memory that is not; and one copy within Python."""
    import ipcctl.js

    import ipcctl

    size, runtime = 100 * MIB, ipcctl.js.Runtime(max_serialization_bytes=512 * MIB)
    memory, plain, into = ipcctl.shared(size), bytearray(b"\x07" * size), bytearray(b"\x07" * size)
    memory[:] = plain
    length = runtime.eval("(data) => data.length")
    length(memory)
    found = {"in_shared": p50(lambda: length(memory), 9) / 1e3, "in_copied": p50(lambda: length(plain), 5) / 1e3}
    runtime.eval(f"var data = new Float64Array({size // 8}).fill(7); 0")
    found["out_copied"] = p50(lambda: runtime.eval("data"), 5) / 1e3
    runtime.bind_function("shared", ipcctl.shared)
    runtime.eval(f"var given = new Float64Array(shared({size}).buffer).fill(7); 0")
    assert runtime.eval("given")[-1] == 7
    found["out_shared"] = p50(lambda: runtime.eval("given"), 9) / 1e3

    def copy() -> None:
        into[:] = plain

    found["copy"] = p50(copy, 5) / 1e3
    found["fresh_copy"] = p50(lambda: bytes(plain), 5) / 1e3
    runtime.close()
    return {f"{name}_ms": value for name, value in found.items()}


def _cpu_seconds(pids: list[int]) -> float:
    """Of all their threads, those that have ended too. The kernel's clocks count nanoseconds: ticks of 10 ms
    tell nothing of idle programs.
    """
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += time.clock_gettime((~pid << 3) | 2)  # as clock_getcpuclockid() makes them
    return total


def _tree(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        for task in os.listdir(f"/proc/{one}/task") if os.path.exists(f"/proc/{one}/task") else []:
            try:
                with open(f"/proc/{one}/task/{task}/children") as file:
                    found += [int(child) for child in file.read().split()]
            except OSError:
                pass
    return found


def _proportional(pids: list[int]) -> int:
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup") as file:
                total += next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
        except (OSError, StopIteration):
            pass
    return total * 1024


def idle(make: type[Peer], seconds: float) -> dict[str, float]:
    """Their processes, and what this one needs for them. Engines that a pool holds ready are told beside that."""
    before = _proportional([os.getpid()])
    peers = [make() for _ in range(IDLE)]
    for one in peers:
        assert int(one.eval("1+1")) == 2
    time.sleep(4 * PAUSE_SECONDS)
    pids = _tree(os.getpid())
    used = [os.getpid()]
    for one in peers:
        pid = getattr(one.stats(), "pid", 0)
        used += [pid, _parent(pid)] if pid else []
    cpu, began = _cpu_seconds(pids), time.perf_counter()
    time.sleep(seconds)
    share = (_cpu_seconds(pids) - cpu) / (time.perf_counter() - began)
    memory, ready = _proportional(used) - before, _proportional([pid for pid in pids if pid not in used])
    for one in peers:
        one.close()
    return {"idle_percent": share * 100, "idle_mib_each": memory / IDLE / MIB, "ready_mib": ready / MIB}


def _parent(pid: int) -> int:
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("PPid:"))


def cold() -> dict[str, float]:
    """A confined engine up to its first answer where none is ready, against a bare Bun that does nothing."""
    import ipcctl.js
    from ipcctl.js import _launch, _pool, _process

    bun = os.environ["BENCH_BUN"]
    options = _launch.options_of(ipcctl.js.RuntimeConfig())

    def engine() -> None:
        guest = _process.start(options)
        _pool._warm(guest)
        guest.dispose()

    def bare() -> None:
        subprocess.run([bun, "-e", "1"], check=True)

    engine()
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(15):
        for act, found in ((engine, ours), (bare, theirs)):
            found.append(p50(act, 1) / 1e3)
            time.sleep(0.02)  # for what still ends
    return {"cold_ms": statistics.median(ours), "bare_bun_ms": statistics.median(theirs)}


def measure(name: str, idle_seconds: float) -> dict[str, dict[str, Any]]:
    make, has_many = PEERS[name]
    figures: dict[str, float] = {}
    failed: dict[str, str] = {}

    def attempt(what: str, act: Callable[[], dict[str, float]]) -> None:
        try:
            figures.update(act())
        except NotImplementedError:
            pass
        except Exception as error:
            failed[what] = f"{type(error).__name__}: {error}".splitlines()[0][:120]

    def ten_megabytes() -> dict[str, float]:
        if name in ("mini-racer", "quickjs", "JSPyBridge"):
            raise NotImplementedError
        there, back = bytes_each_way(peer, 10 * MIB, 7)
        return {"bytes_in_ms": there, "bytes_out_ms": back}

    def calls() -> dict[str, float]:
        add = peer.function("((a, b) => a + b)")
        return {"call_us": p50(lambda: add(1, 2), times)}

    def regex() -> dict[str, float]:
        peer.eval(REGEX)
        return {"regex_ms": p50(lambda: peer.eval("find()"), 20) / 1e3}

    peer = make()
    times = 300 if name == "JSPyBridge" else 5000
    attempt("eval", lambda: {"eval_us": p50(lambda: peer.eval("1+1"), times)})
    attempt("function call", calls)
    attempt("callback", lambda: {"callback_us": callbacks(peer)})
    attempt("bytes", ten_megabytes)
    if name != "JSPyBridge":  # its process ends, and it waits ten seconds
        attempt("regex", regex)
    attempt("async", lambda: {"async_us": asyncio.run(peer.async_us(times))})
    if has_many:
        peer.close()
        attempt("creations", lambda: creations(make))
        attempt("fib", lambda: {"fib_s": together(make, "fib(35)", FIB)})
    if name == "ipcctl.js":
        attempt("limited", limited)
        attempt("100 MB", hundred_megabytes)
        attempt("cold", cold)
    if idle_seconds > 0 and name in ("ipcctl.js", "jsrun"):
        attempt("idle", lambda: idle(make, idle_seconds))
    return {"figures": figures, "failed": failed}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 0)), flush=True)
    os._exit(0)  # some peers do not end by themselves
