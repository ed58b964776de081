"""Measures one way to run JavaScript from Python: ``python bench/engines.py PEER [IDLE_SECONDS]`` prints a line of
JSON. ``bench/javascript.ts`` runs it for all of them, in turns.
"""

from __future__ import annotations

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
RUNTIMES, IDLE = 4, 16
MIB = 1024 * 1024


class Peer:
    """One runtime of it. What it cannot do raises NotImplementedError."""

    def eval(self, code: str) -> Any:
        raise NotImplementedError

    def function(self, code: str) -> Callable[..., Any]:
        raise NotImplementedError

    def bind(self, name: str, function: Callable[..., Any]) -> None:
        raise NotImplementedError

    def take_bytes(self, data: bytes) -> int:
        raise NotImplementedError

    def give_bytes(self, size: int) -> bytes:
        raise NotImplementedError

    def close(self) -> None:
        pass


class Jsrun(Peer):
    def __init__(self) -> None:
        import jsrun

        self._runtime = jsrun.Runtime(jsrun.RuntimeConfig(max_serialization_bytes=512 * MIB))
        self.eval = self._runtime.eval  # type: ignore[method-assign]
        self.function = self._runtime.eval  # type: ignore[method-assign]
        self.bind = self._runtime.bind_function  # type: ignore[method-assign]
        self.close = self._runtime.close  # type: ignore[method-assign]
        self._length: Any = None

    def take_bytes(self, data: bytes) -> int:
        self._length = self._length or self.eval("(data) => data.length")
        return self._length(data)  # type: ignore[no-any-return]

    def give_bytes(self, size: int) -> bytes:
        return self.eval(f"new Uint8Array({size})")  # type: ignore[no-any-return]


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

    def bind(self, name: str, function: Callable[..., Any]) -> None:
        setattr(self._global, name, function)


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
    time.sleep(0.5)  # a pool fills
    found = []
    for _ in range(20):
        began = time.perf_counter()
        once()
        found.append(time.perf_counter() - began)
        time.sleep(0.05)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < 2:
        once()
        count += 1
    return {"create_ms": statistics.median(found) * 1e3, "creations_per_second": count / 2}


def callbacks(peer: Peer) -> float:
    stamps: list[float] = []
    now = time.perf_counter

    def host(value: Any) -> Any:
        stamps.append(now())
        return value

    peer.bind("host", host)
    peer.eval(LOOP)
    peer.eval(f"loop({CALLBACKS_BEFORE})")
    stamps.clear()
    peer.eval(f"loop({CALLBACKS})")
    return statistics.median(after - before for before, after in zip(stamps, stamps[1:])) * 1e6


def together(make: type[Peer], code: str, prepare: str) -> float:
    """Seconds for all of several runtimes, each in a thread."""
    peers = [make() for _ in range(RUNTIMES)]
    for one in peers:
        one.eval(prepare)
    threads = [threading.Thread(target=one.eval, args=(code,)) for one in peers]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    for one in peers:
        one.close()
    return took


def shared_arrays() -> dict[str, float]:
    """100 MB each way, with memory that is shared and with memory that is not."""
    import ipcctl.js

    import ipcctl

    size = 100 * MIB
    runtime = ipcctl.js.Runtime(max_serialization_bytes=512 * MIB)
    length = runtime.eval("(data) => data.length")
    memory, plain = ipcctl.shared(size), bytes(size)
    assert length(memory[:8]) == 8
    found = {"in_shared": p50(lambda: length(memory), 5) / 1e3, "in_copied": p50(lambda: length(plain), 5) / 1e3}
    runtime.eval(f"var data = new Uint8Array({size}); 0")
    found["out_copied"] = p50(lambda: len(runtime.eval("data")), 5) / 1e3
    if runtime.eval("typeof shared") == "function":
        runtime.eval(f"var given = shared(Uint8Array, {size}); 0")
        found["out_shared"] = p50(lambda: len(runtime.eval("given")), 5) / 1e3
    runtime.close()
    return {f"{name}_ms": value for name, value in found.items()}


def _cpu_seconds(pids: list[int]) -> float:
    ticks = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        except OSError:
            pass
    return ticks / os.sysconf("SC_CLK_TCK")


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
    before = _proportional(_tree(os.getpid()))
    peers = [make() for _ in range(IDLE)]
    for one in peers:
        one.eval("1+1")
    time.sleep(2)
    pids = _tree(os.getpid())
    memory = _proportional(pids) - before
    cpu, began = _cpu_seconds(pids), time.perf_counter()
    time.sleep(seconds)
    share = (_cpu_seconds(pids) - cpu) / (time.perf_counter() - began)
    for one in peers:
        one.close()
    return {"idle_cores": share, "idle_mib_each": memory / IDLE / MIB}


def cold() -> dict[str, float]:
    """A confined runtime of a Python whose pool is empty, against a bare Bun that does nothing."""
    import ipcctl.js
    from ipcctl.js import _launch, _process

    bun = os.environ["BENCH_BUN"]
    options = _launch.options_of(ipcctl.js.RuntimeConfig())

    def engine() -> None:
        guest = _process.start(options)
        guest.dispose()

    def bare() -> None:
        subprocess.run([bun, "-e", "1"], check=True)

    engine()
    ours, theirs = [], []
    for _ in range(15):
        ours.append(p50(engine, 1))
        theirs.append(p50(bare, 1))
    return {"cold_ms": statistics.median(ours) / 1e3, "bare_bun_ms": statistics.median(theirs) / 1e3}


def measure(name: str, idle_seconds: float) -> dict[str, float]:
    make, has_many = PEERS[name]
    found: dict[str, float] = {}

    def attempt(act: Callable[[], dict[str, float]]) -> None:
        try:
            found.update(act())
        except (NotImplementedError, AttributeError, TypeError, RuntimeError):
            pass

    peer = make()
    times = 300 if name == "JSPyBridge" else 5000
    attempt(lambda: {"eval_us": p50(lambda: peer.eval("1+1"), times)})
    add = peer.function("((a, b) => a + b)")
    attempt(lambda: {"call_us": p50(lambda: add(1, 2), times)})
    if name != "JSPyBridge":
        attempt(lambda: {"callback_us": callbacks(peer)})
    data = bytes(10 * MIB)
    attempt(lambda: {"bytes_in_ms": p50(lambda: peer.take_bytes(data), 5) / 1e3})
    attempt(lambda: {"bytes_out_ms": p50(lambda: peer.give_bytes(10 * MIB), 5) / 1e3})
    peer.eval(REGEX)
    attempt(lambda: {"regex_ms": p50(lambda: peer.eval("find()"), 20) / 1e3})
    if has_many:
        peer.close()
        attempt(lambda: creations(make))
        attempt(lambda: {"fib_s": together(make, "fib(35)" if name != "quickjs" else "fib(27)", FIB)})
    if name == "ipcctl.js":
        attempt(shared_arrays)
        attempt(cold)
    if idle_seconds > 0 and name in ("ipcctl.js", "jsrun"):
        attempt(lambda: idle(make, idle_seconds))
    return found


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 0)), flush=True)
    os._exit(0)  # some peers do not end by themselves
