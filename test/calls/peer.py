"""Both sides of the calls suite in Python.

peer.py serve frames|lines     serves on stdin and stdout
peer.py serve channel          serves as a worker of ipcctl
peer.py call frames|lines FD   runs the cases as a client on a socket; a line of JSON for each, and "done" at the end
peer.py call channel NAME      likewise, of a worker of ipcctl
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
if "IPCCTL_PLANE" not in os.environ:  # a worker has the package
    sys.path.insert(0, os.path.join(HERE, "..", "..", "python"))

import ipcctl  # noqa: E402
from ipcctl._backend import dumps, loads  # noqa: E402

counts = {"begun": 0, "closed": 0, "interrupted": 0}


# ---- what is served: test/calls/served.ts has the same ----


def add(a: int, b: int) -> int:
    return a + b


def named(a: int, b: int) -> list[int]:
    return [a, b]


async def later(value: Any) -> Any:
    await asyncio.sleep(0.001)
    return value


def nothing() -> None:
    print("what is printed is no message")


def echo(value: Any) -> Any:
    return value


def fail(message: str) -> None:
    raise ValueError(message)


def fail_because(inner: str, outer: str) -> None:
    raise ValueError(outer) from ValueError(inner)


def refuse(code: str, message: str) -> None:
    raise ipcctl.IpcError(code, message)


async def fail_later(message: str) -> None:
    await asyncio.sleep(0.001)
    raise ValueError(message)


def count(end: int) -> Iterator[int]:
    yield from range(end)


async def count_later(end: int) -> AsyncIterator[int]:
    for at in range(end):
        if at % 10 == 0:
            await asyncio.sleep(0.001)
        yield at


def count_and_fail(end: int) -> Iterator[int]:
    yield from range(end)
    raise ValueError(f"after {end}")


def count_for_ever() -> Iterator[int]:
    try:
        at = 0
        while True:
            yield at
            at += 1
    finally:
        counts["closed"] += 1


def sleep(seconds: float) -> None:
    counts["begun"] += 1
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pass
    except KeyboardInterrupt:
        counts["interrupted"] += 1
        raise


async def sleep_later(seconds: float) -> None:
    counts["begun"] += 1
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        counts["interrupted"] += 1
        raise


def total(items: Iterator[int]) -> int:
    return sum(items)


def first(items: Iterator[int]) -> int:
    return next(items)


def through(name: str, value: Any) -> Any:
    return sys.modules["__main__"].__dict__[name](value)


def serve(transport: str) -> None:
    ipcctl.expose(name="bytes")(lambda count: b"\0" * count)
    for key in counts:
        ipcctl.expose(name=key)(lambda key=key: counts[key])
    for one in (
        *(add, named, later, nothing, echo, fail, fail_because, refuse, fail_later, count, count_later, count_and_fail),
        *(count_for_ever, sleep, sleep_later, total, first, through),
    ):
        ipcctl.expose(one)
    if transport == "channel":
        return ipcctl.serve()
    ipcctl.serve({"frames": ipcctl.Frames, "lines": ipcctl.Lines}[transport](0, 1))


# ---- who calls: test/calls/runner.ts is the same in TypeScript ----


def items(end: int, is_failing: bool = False) -> Iterator[int]:
    yield from range(end)
    if is_failing:
        raise ValueError("of ours")


def revive(value: Any, at: int) -> Any:
    if isinstance(value, list):
        return [revive(one, at) for one in value]
    if not isinstance(value, dict) or not value:
        return value
    ((key, what), *_) = value.items()
    if key == "$deep":
        deep: Any = 1
        for _ in range(what):
            deep = [deep]
        return deep
    known: dict[str, Callable[[], Any]] = {
        "$long": lambda: "x" * what,
        "$at": lambda: at + what,
        "$count": lambda: list(range(what)),
        "$bytes": lambda: bytes.fromhex(what),
        "$stream": lambda: items(what),
        "$failing": lambda: items(what, True),
    }
    return known[key]() if key in known else value


class Runner:
    def __init__(self, worker: ipcctl.Worker, is_json: bool) -> None:
        self.worker = worker
        self.is_json = is_json

    def lent(self, name: str) -> Callable[[Any], Any]:
        async def twice_later(value: int) -> int:
            await asyncio.sleep(0)
            return value * 2

        def failing(value: object) -> None:
            raise ValueError("failed as asked")

        def refusing(value: object) -> None:
            raise ipcctl.IpcError("LIMIT", f"no more than {value}")

        return {
            "twice": lambda value: value * 2,
            "twice_later": twice_later,
            "failing": failing,
            "refusing": refusing,
            "nested": lambda value: self.worker.call("add", value, 1),
        }[name]

    def run(self, case: dict[str, Any]) -> None:
        if "bind" in case:
            self.worker.bind(case["bind"], self.lent(case["bind"]))
        if "unbind" in case:
            self.worker.unbind(case["unbind"])
        if "vectors" in case:
            return self.echo_vectors(case["vectors"])
        if "until" in case:
            while self.worker.call(case["until"]) != case["gives"]:
                pass
            return
        if "each" in case:
            return self.at_once(case)
        self.check(case, 0, lambda got: self.ask(case, got))

    def at_once(self, case: dict[str, Any]) -> None:
        each = range(case["each"])
        name = case.get("call") or case["stream"]
        futures = [self.worker.submit(name, *(revive(arg, at) for arg in case["args"])) for at in each]
        for at, future in enumerate(futures):
            value = future.result()
            require_equal(list(value) if "stream" in case else value, revive(case["gives"], at))

    def ask(self, case: dict[str, Any], got: list[Any]) -> Any:
        timeout = case.get("timeout")
        if "eval" in case:
            return self.worker.eval(case["eval"], timeout=timeout)
        args = [revive(arg, 0) for arg in case.get("args", [])]
        if case.get("cancel"):
            begun = self.worker.call("begun")
            future = self.worker.submit(case["call"], *args)
            while self.worker.call("begun") == begun:
                pass
            future.cancel()
            return future.result()
        if "stream" not in case:
            return self.worker.call_with(case["call"], args, case.get("kwargs"), timeout=timeout)
        with self.worker.stream_with(case["stream"], args, timeout=timeout) as stream:
            for item in stream:
                if not case.get("slowly"):
                    got.append(item)
                if len(got) == case.get("take"):
                    break
        return got

    def check(self, case: dict[str, Any], at: int, ask: Callable[[list[Any]], Any]) -> None:
        got: list[Any] = []
        is_refused = bool(case.get("isRefusedByJson")) and self.is_json
        try:
            value = ask(got)
        except (Exception, CancelledError) as error:
            if is_refused:
                if "JSON has no" not in str(error):
                    raise
                return
            if "raises" not in case:
                raise
            return check_error(case["raises"], error, case.get("gives"), got)
        if "raises" in case:
            raise AssertionError(f"gave {value!r} instead of an error")
        if is_refused:
            raise AssertionError("was not refused")
        require_equal(value, revive(case.get("gives"), at))

    def echo_vectors(self, name: str) -> None:
        with open(os.path.join(HERE, "..", "vectors", "cbor.json"), encoding="utf-8") as file:
            vectors = json.load(file)
        for vector in vectors:
            value = loads(bytes.fromhex(vector["bytes"]))
            try:
                answer = self.worker.call(name, value)
            except ipcctl.EncodeError:
                if not self.is_json:
                    raise
                continue  # told before it was sent
            if self.is_json:
                is_zero = isinstance(value, float) and value == 0 and math.copysign(1, value) < 0
                require_equal(answer, 0 if is_zero else value)
            else:
                require_equal(dumps(answer).hex(), vector["bytes"])


def check_error(raises: dict[str, str], error: BaseException, gives: Any, got: list[Any]) -> None:
    if gives is not None:
        require_equal(got, gives)
    if "message" in raises:
        require_equal(str(error), raises["message"])
    if "cause" in raises:
        require_equal(str(error.__cause__), raises["cause"])
    if "where" in raises and raises["where"] not in (getattr(error, "stack", None) or ""):
        raise error
    if "text" in raises and raises["text"] not in f"{getattr(error, 'type', '')} {error}":
        raise error
    if "code" in raises:
        require_equal(getattr(error, "code", None), raises["code"])


def require_equal(value: Any, wanted: Any) -> None:
    if value != wanted:
        raise AssertionError(f"gave {value!r:.300} instead of {wanted!r:.300}")


def call(transport: str, where: str, skipped: list[str]) -> None:
    if transport == "channel":
        worker = ipcctl.connect(autostart=False).worker(where)
    else:
        sock = socket.socket(fileno=int(where))
        worker = ipcctl.worker({"frames": ipcctl.Frames, "lines": ipcctl.Lines}[transport](sock))
    with worker:
        runner = Runner(worker, transport == "lines")
        with open(os.path.join(HERE, "cases.json"), encoding="utf-8") as file:
            cases = json.load(file)
        for case in cases:
            if any(key in case for key in skipped):
                continue
            print(json.dumps({"begins": case["name"]}), flush=True)
            error = None
            try:
                runner.run(case)
            except BaseException as failure:
                error = f"{type(failure).__name__}: {failure}"
            print(json.dumps({"name": case["name"], "error": error}), flush=True)
    print(json.dumps("done"), flush=True)


if sys.argv[1] == "serve":
    serve(sys.argv[2])
else:
    call(sys.argv[2], sys.argv[3], sys.argv[4:])
