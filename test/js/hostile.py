"""A process that is not what it should be: what an engine could send to Python once a guest has taken it over. Python
answers with an error in time, calls nothing that was not bound, and keeps no thread.

    python hostile.py [ROUNDS [SEED]]     so many seeds, one after the other; prints the one that fails
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import faulthandler
import gc
import mmap
import os
import random
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from ipcctl import _contract as C
from ipcctl import js
from ipcctl._backend import SharedRingBuffer, dumps
from ipcctl._end import End
from ipcctl._shared import Sharing, shared
from ipcctl._types import Tagged
from ipcctl.js import _runtime, _session
from ipcctl.js._template import Options

#: What one use of the runtime may take: its own time of 0.05 s, and the ends that follow it.
LATE_SECONDS = 4.0
MEMORY_BYTES = 4096
ALLOWED = (RuntimeError, js.JavaScriptError)


class Engine:
    """The other end of a channel, in a thread."""

    memory = shared(MEMORY_BYTES)

    def __init__(self, act: Callable[[Engine], None]) -> None:
        self.end = End(C.SEGMENT_VERSION)
        half = self.end.half
        self.map = mmap.mmap(half.fds[0], 0)
        capacity = self.end._tx.capacity
        self.rx = SharedRingBuffer(self.map, C.SEGMENT_RING_A, C.SEGMENT_DATA, capacity, False)
        self.tx = SharedRingBuffer(self.map, C.SEGMENT_RING_B, C.SEGMENT_DATA + capacity, capacity, True)
        self.bell = socket.socket(fileno=os.dup(half.fds[1]))
        with socket.socket(fileno=os.dup(half.fds[2])) as descriptors:
            Sharing(descriptors).lend(self.memory.obj)  # as number 1
        half.close()
        self.bell.settimeout(0.02)
        self.requests: list[int] = []
        self.operations = [0]
        self.is_over = False
        self._act = act
        self.thread = threading.Thread(target=self._run, daemon=True, name="engine")
        self.thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            self._act(self)
        self.is_over = True
        with contextlib.suppress(OSError):
            self.bell.shutdown(socket.SHUT_RDWR)
        self.bell.close()

    def next(self, seconds: float = 0.02) -> list[Any] | None:
        """One message; None if none came."""
        from ipcctl._backend import loads

        until = time.monotonic() + seconds
        while not self.is_over:
            frame = self.rx.try_receive()
            if frame is not None:
                if self.rx.needs_bell():
                    self.ring()
                with contextlib.suppress(Exception):
                    message = loads(frame)
                    self._note(message)
                    return list(message)
                continue
            if time.monotonic() > until:
                return None
            with contextlib.suppress(TimeoutError):
                if not self.bell.recv(64):
                    self.is_over = True
        return None

    def _note(self, message: list[Any]) -> None:
        if message[0] in (C.TO_ENGINE_EVAL, C.TO_ENGINE_CALL, C.TO_ENGINE_MODULE, C.TO_ENGINE_REPORT):
            self.requests.append(message[1])
        if message[0] == C.TO_ENGINE_BIND:
            with contextlib.suppress(Exception):
                self.operations.append(message[3].value[2])

    def ring(self) -> None:
        with contextlib.suppress(OSError):
            self.bell.send(b"\1", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def raw(self, frame: bytes) -> bool:
        for _ in range(200):
            if self.is_over:
                return False
            if self.tx.try_send(frame):
                if self.tx.needs_bell():
                    self.ring()
                return True
            time.sleep(0.001)
        return False

    def send(self, message: Any) -> bool:
        return self.raw(dumps(message))


class Guest:
    """What the runtime believes to be its process."""

    pid, is_confined, hello = os.getpid(), True, {"engine": "bun", "version": "0", "jit": True}

    def __init__(self, engine: Engine) -> None:
        self.engine, self.end = engine, engine.end
        self.options = Options()
        self.why: str | None = None

    def begin(self) -> None: ...
    def done(self) -> None: ...
    def interrupt(self) -> None: ...

    def kill(self, reason: str | None = None) -> None:
        self.engine.is_over = True

    def how_it_ended(self, timeout: float) -> str | None:
        return "killed by signal 9" if self.engine.is_over else None

    def resident_bytes(self) -> int:
        return 0

    def dispose(self) -> None:
        self.kill()
        self.end.close()


# ---- what it sends ----

_BROKEN_CBOR = (
    b"",
    b"\xff",
    b"\x9f",
    b"\x9b" + b"\xff" * 8,
    b"\x83\x01",
    b"\x5b" + b"\x7f" + b"\xff" * 7,
    b"\xd8\x1b\x01",
    b"\xbb" + b"\xff" * 8,
    b"\x81" * 100_000,
    b"\xc1\xfb\x7f\xf0\0\0\0\0\0\0",
    b"\x83\x01\x01\xc1\xfb\x7f\xef\xff\xff\xff\xff\xff\xff",
    b"\x83\x01\x01\xc2\x5b\0\0\0\1\0\0\0\0",
    b"\x83\x01\x01\xd9\x01\x02\x81\x81\x01",
    b"\x83\x01\x01\xa1\x81\x01\x02",
    b"\xf8\x20",
    b"\x62\xff\xfe",
    b"\x00",
    b"\x01x",
    b"\x00" * 1000,
)


def number(rnd: random.Random, engine: Engine) -> Any:
    if engine.requests and rnd.random() < 0.6:
        return rnd.choice(engine.requests[-3:])
    return rnd.choice(
        [0, 1, -1, 2**31, 2**53, 2**63, 2**64 - 1, 2**200, 1.5, float("nan"), None, True, "1", b"1", [], {}]
    )


def written(rnd: random.Random) -> list[Any]:
    """Bytes in memory that is shared, or what is no such thing."""
    size = rnd.choice([8, 8, 64, MEMORY_BYTES, MEMORY_BYTES + 1, 2**40, -8, None, 8.0])
    form = [rnd.choice([1, 1, 1, 2, "1"]), rnd.choice([0, 0, 8, 2**40, -1]), size, rnd.choice([64, 64, 86, 9]), [size]]
    place = rnd.choice([MEMORY_BYTES - 8, 0, MEMORY_BYTES, -1, 2**70, 1.0, "0", None])
    return ["ipcctl.Bytes", form[: rnd.choice([5, 5, 5, 2])], place][: rnd.choice([3, 3, 2])]


def value(rnd: random.Random, engine: Engine, depth: int = 0) -> Any:
    kinds = 14 if depth < 4 else 9
    kind = rnd.randrange(kinds)
    if kind == 0:
        return rnd.choice([None, True, False, 0, -1, 2**64, -(2**70), 1.5, float("inf"), float("nan"), js.undefined])
    if kind < 3:
        return number(rnd, engine)
    if kind < 5:
        return rnd.choice(["", "x", "log", "name", "x" * 5000, "é\0"])
    if kind == 5:
        return rnd.randbytes(rnd.randrange(20))
    if kind == 6:
        return datetime.datetime.now(datetime.timezone.utc)
    if kind == 7:
        if rnd.random() < 0.5:
            return Tagged(27, written(rnd))
        return Tagged(27, rnd.choice([[], ["ipcctl.Reference"], ["ipcctl.Array", 1, 2], ["x", {}], 1, None, "x"]))
    if kind == 8:
        return Tagged(
            27,
            ["ipcctl.Reference", rnd.choice([1, 2, 3, 4, 5, None, "1", 1.0]), number(rnd, engine)]
            + [number(rnd, engine) for _ in range(rnd.randrange(3))],
        )
    if kind < 11:
        return [value(rnd, engine, depth + 1) for _ in range(rnd.randrange(5))]
    if kind == 11:
        return Tagged(rnd.choice([1, 2, 64, 69, 86, 258, 259, 260, 1000]), value(rnd, engine, depth + 1))
    keys = ["kind", "name", "message", "stack", "frames", "cause", "errors", "properties", "origin", "x", "line_number"]
    return {rnd.choice(keys): value(rnd, engine, depth + 1) for _ in range(rnd.randrange(6))}


def message(rnd: random.Random, engine: Engine) -> Any:
    kind: Any = rnd.randrange(16) if rnd.random() < 0.9 else rnd.choice([-1, None, "1", 1.5, [], 2**70, True])
    shape = rnd.random()
    if shape < 0.35:
        return [kind, number(rnd, engine), *[value(rnd, engine) for _ in range(rnd.randrange(6))]]
    if shape < 0.5:
        return [C.FROM_ENGINE_RESULT, number(rnd, engine), value(rnd, engine)]
    if shape < 0.65:
        error = {
            "kind": rnd.choice([1, 1, 1, 2, 3, 4, 5, 9, None]),
            "name": value(rnd, engine),
            "message": value(rnd, engine),
        }
        error.update(
            {key: value(rnd, engine) for key in ("stack", "frames", "cause", "errors", "properties", "origin")}
        )
        return [C.FROM_ENGINE_ERROR, number(rnd, engine), error]
    if shape < 0.9:
        operation = rnd.choice([*engine.operations, number(rnd, engine)])
        arguments = [value(rnd, engine) for _ in range(rnd.randrange(3))] if rnd.random() < 0.9 else value(rnd, engine)
        of = number(rnd, engine)
        return [C.FROM_ENGINE_INVOKE, number(rnd, engine), operation, arguments, of, rnd.choice([True, False, None, 1])]
    return value(rnd, engine)


def fair(rnd: random.Random, engine: Engine) -> list[Any]:
    """What a good engine might say, though not now."""
    request = rnd.choice(engine.requests[-3:]) if engine.requests else 1
    plain = rnd.choice([1, "x", [1, {"a": None}], {"a": b"x"}, {"depth": [[]] * 3}, js.undefined, -0.0])
    lent = Tagged(27, ["ipcctl.Reference", rnd.choice([1, 2]), rnd.randrange(1, 9), "name"])
    error = {
        "kind": rnd.choice([1, 2, 3, 4, 5]),
        "name": "Error",
        "message": "m",
        "stack": "s",
        "frames": [],
        "origin": rnd.randrange(5),
    }
    stream = rnd.randrange(1, 9)
    return rnd.choice(
        [
            [C.FROM_ENGINE_RESULT, request, plain],
            [C.FROM_ENGINE_RESULT, request, lent],
            [C.FROM_ENGINE_RESULT, request, [lent, {"f": lent}]],
            [C.FROM_ENGINE_PENDING, request],
            [C.FROM_ENGINE_ERROR, request, error],
            [C.FROM_ENGINE_ERROR, request, {**error, "cause": error, "errors": [error, {**error, "errors": [error]}]}],
            [C.FROM_ENGINE_PRINT, rnd.choice([0, request]), "log", "text"],
            [
                C.FROM_ENGINE_INVOKE,
                rnd.randrange(99),
                rnd.choice(engine.operations),
                [plain],
                rnd.choice([0, request]),
                True,
            ],
            [
                C.FROM_ENGINE_INVOKE,
                rnd.randrange(99),
                rnd.choice(engine.operations),
                [lent],
                rnd.choice([0, request]),
                False,
            ],
            [C.FROM_ENGINE_END, stream, rnd.choice([None, error])],
            [C.FROM_ENGINE_WANT, stream, rnd.choice([1, 3, 2**40])],
            [C.FROM_ENGINE_LEAVE, stream],
            [C.FROM_ENGINE_DROP, 0, [rnd.choice(engine.operations)]],
            [C.FROM_ENGINE_FORGET, stream],
        ]
    )


def behave(rnd: random.Random) -> Callable[[Engine], None]:
    """How one engine behaves until it is killed, or dies by itself."""
    manners = rnd.choice(
        ["fair", "fair", "fair", "mixed", "broken", "flood", "silence", "dies", "halves", "memory", "twice", "calls"]
    )
    fairness = rnd.choice([0.5, 0.8, 0.95, 1.0])
    left = [rnd.randrange(5, 60)]

    def act(engine: Engine) -> None:
        while not engine.is_over:
            asked = engine.next()
            if manners == "silence":
                continue
            if manners == "fair" or rnd.random() < fairness:
                for _ in range(rnd.randrange(1, 4)):
                    engine.send(fair(rnd, engine))
                if manners == "fair":
                    continue
            if manners == "calls":
                for at in range(200):
                    of = engine.requests[-1] if engine.requests and rnd.random() < 0.5 else 0
                    engine.send([C.FROM_ENGINE_INVOKE, at, rnd.choice(engine.operations), [at], of, True])
                continue
            if asked is None and rnd.random() < 0.5:
                continue
            left[0] -= 1
            if manners == "dies" and left[0] <= 0:
                return
            if manners == "broken" and rnd.random() < 0.3:
                engine.raw(rnd.choice(_BROKEN_CBOR) if rnd.random() < 0.7 else rnd.randbytes(rnd.randrange(1, 60)))
            elif manners == "flood" and engine.requests:
                for _ in range(2000):
                    if not engine.send(
                        message(rnd, engine) if rnd.random() < 0.1 else [C.FROM_ENGINE_PRINT, 0, "log", "x" * 500]
                    ):
                        break
            elif manners == "halves" and rnd.random() < 0.3:
                part = bytes((C.PART_MORE if rnd.random() < 0.7 else C.PART_LAST,)) + rnd.randbytes(rnd.randrange(2000))
                for _ in range(rnd.randrange(1, 20)):
                    engine.raw(part)
                if rnd.random() < 0.3:
                    return
            elif manners == "memory" and rnd.random() < 0.3:
                # The words that both sides write: positions of the rings, counts, bells.
                at = rnd.choice(
                    [C.SEGMENT_RING_A, C.SEGMENT_RING_B, C.SEGMENT_ENDED, C.SEGMENT_GONE]
                ) + 4 * rnd.randrange(24)
                struct.pack_into("<I", engine.map, at, rnd.choice([0, 1, 7, 2**31, 2**32 - 1, rnd.randrange(2**32)]))
                engine.ring()
            elif manners == "twice" and engine.requests:
                for _ in range(3):
                    engine.send([C.FROM_ENGINE_RESULT, engine.requests[-1], 1])
                    engine.send([C.FROM_ENGINE_PENDING, engine.requests[-1]])
            else:
                with contextlib.suppress(TypeError, OverflowError, RecursionError):
                    engine.send(message(rnd, engine))

    return act


# ---- what Python does with it ----


class Bound:
    """Functions that JavaScript may call, and one that is not bound."""

    def __init__(self) -> None:
        self.calls = 0
        self.secret_calls = 0

    def plain(self, *args: Any) -> Any:
        self.calls += 1
        return args[0] if args and type(args[0]) is int else None

    async def later(self, *args: Any) -> Any:
        self.calls += 1
        await asyncio.sleep(0)

    def secret(self, *args: Any) -> None:
        self.secret_calls += 1


def uses(one: Any, rnd: random.Random) -> list[Callable[[], Any]]:
    functions: list[Any] = []

    def evaluate() -> None:
        found = one.eval("code", timeout=0.05)
        if isinstance(found, js.JsFunction):
            functions.append(found)

    def call() -> None:
        if functions:
            functions[-1](1, "x", timeout=0.05)

    async def later() -> Any:
        found = [one.eval_async("code", timeout=0.05) for _ in range(3)]
        return await asyncio.gather(*found, return_exceptions=True)

    async def stream() -> None:
        found = one.eval("stream", timeout=0.05)
        if isinstance(found, js.JsStream):
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(found.__anext__(), 0.05)

    async def iterable() -> Any:
        yield 1

    async def give() -> None:
        one.bind_object("streams", {"one": one.stream_from_async_iterable(iterable())})
        await one.eval_async("code", timeout=0.05)

    def pending() -> None:
        found = one.eval("code", timeout=0.05)
        if hasattr(found, "__await__"):

            async def wait() -> None:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(_of(found), 0.05)

            asyncio.run(wait())

    return rnd.choices(
        [
            evaluate,
            evaluate,
            call,
            lambda: asyncio.run(later()),
            lambda: asyncio.run(stream()),
            lambda: asyncio.run(give()),
            pending,
            lambda: one.eval_module("x") if one._timeout else None,
            lambda: repr(functions),
            lambda: functions.clear(),
        ],
        k=4,
    )


async def _of(awaitable: Any) -> Any:
    return await awaitable


def round_of(seed: int) -> None:
    """:raises AssertionError: if something is not as it must be"""
    rnd = random.Random(seed)
    engine = Engine(behave(rnd))
    taken = _runtime.take
    _runtime.take = lambda config: Guest(engine)  # type: ignore[assignment, return-value]
    bound = Bound()
    try:
        with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
            try:
                one = js.Runtime(js.RuntimeConfig(timeout=0.05, enable_console=True))
            except ALLOWED:
                return
            try:
                for act in (
                    lambda: one.bind_function("plain", bound.plain),
                    lambda: one.bind_function("later", bound.later),
                    *uses(one, rnd),
                    one.close if rnd.random() < 0.5 else one.terminate,
                ):
                    began = time.monotonic()
                    try:
                        act()
                    except (TimeoutError, *ALLOWED, StopAsyncIteration):
                        pass
                    took = time.monotonic() - began
                    assert took < LATE_SECONDS, f"it took {took:.1f} s"
            finally:
                one.close()
    finally:
        _runtime.take = taken
        engine.is_over = True
    engine.thread.join(5)
    engine.rx = engine.tx = None  # type: ignore[assignment]
    assert bound.secret_calls == 0, "a function was called that is not bound"
    assert not engine.thread.is_alive(), "the engine's thread does not end"


def check_amplification() -> None:
    """Few references to the same bytes are taken, but not to more than an engine may send: each of them is copied."""

    def act(engine: Engine) -> None:
        while not engine.is_over:
            if (asked := engine.next()) is not None and asked[0] == C.TO_ENGINE_EVAL:
                one = Tagged(27, ["ipcctl.Bytes", [1, 0, 2000, 64, [2000]], MEMORY_BYTES - 8])
                engine.send([C.FROM_ENGINE_RESULT, asked[1], [one] * int(asked[2])])

    taken = _runtime.take
    for count, is_fine in ((10, True), (11, False)):
        engine = Engine(act)
        _runtime.take = lambda config, engine=engine: Guest(engine)  # type: ignore[assignment, misc, return-value]
        try:
            with js.Runtime(max_serialization_bytes=20_000) as runtime:
                engine.memory[:] = bytes((7,)) * MEMORY_BYTES
                assert runtime.eval(str(count)) == [b"\x07" * 2000] * count and is_fine
                assert engine.memory[MEMORY_BYTES - 8] == 0
        except RuntimeError as error:
            assert not is_fine and "more than 20000 bytes" in str(error), error
        finally:
            _runtime.take = taken
            engine.is_over = True
        engine.thread.join(5)
        engine.rx = engine.tx = None  # type: ignore[assignment]


def check_endless_message() -> None:
    """Its parts have no end, and nothing in them: no time is exceeded for that."""

    def act(engine: Engine) -> None:
        while not engine.is_over:
            engine.raw(bytes((C.PART_MORE,)))

    async def ask(runtime: js.Runtime) -> None:
        await runtime.eval_async("1", timeout=0.05)

    taken = _runtime.take
    for use in (lambda runtime: runtime.eval("1", timeout=0.05), lambda runtime: asyncio.run(ask(runtime))):
        engine = Engine(act)
        _runtime.take = lambda config, engine=engine: Guest(engine)  # type: ignore[assignment, misc, return-value]
        began = time.monotonic()
        with contextlib.suppress(*ALLOWED, TimeoutError), js.Runtime() as runtime:
            use(runtime)
        assert time.monotonic() - began < LATE_SECONDS
        _runtime.take = taken
        engine.is_over = True
        engine.thread.join(5)
        engine.rx = engine.tx = None  # type: ignore[assignment]


def left_over() -> list[str]:
    """Threads that should have ended; those that wait for work end by themselves."""
    until = time.monotonic() + 8
    while time.monotonic() < until:
        names = [one.name for one in threading.enumerate() if one is not threading.main_thread()]
        if not names:
            return []
        time.sleep(0.05)
    return names


def held() -> list[str]:
    found = []
    for one in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{one}"))
    return found


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    first = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(2**31)
    _session._GRACE_SECONDS = 0.1
    round_of(first)  # whatever is made once
    check_amplification()
    faulthandler.dump_traceback_later(60, exit=True)
    check_endless_message()
    before = len(os.listdir("/proc/self/fd"))
    for seed in range(first, first + rounds):
        faulthandler.dump_traceback_later(60, exit=True)
        try:
            round_of(seed)
        except BaseException:
            print(f"python test/js/hostile.py 1 {seed}", flush=True)
            raise
    faulthandler.cancel_dump_traceback_later()
    names = left_over()
    assert not names, f"threads are left: {names}"
    for _ in range(3):  # finalizers keep what they belong to once more
        gc.collect()
    grown = len(os.listdir("/proc/self/fd")) - before
    assert grown < 8, f"{grown} descriptors are left: {held()}"
    print(f"{rounds} engines, from seed {first}")


if __name__ == "__main__":
    main()
