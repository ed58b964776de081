"""Values both ways, on all four paths: made by a generator with a seed, and those at the edges by hand.

python conversions.py run NAME        with IPCCTL_SEED=N, the same values again
"""

from __future__ import annotations

import array
import datetime
import math
import os
import random
import re
from collections.abc import Callable
from typing import Any

from cases import case, equal, expect, fails, main

SEED = int(os.environ.get("IPCCTL_SEED") or random.randrange(2**31))
ROUNDS = 300
UTC = datetime.timezone.utc

EDGES: list[int] = [
    base + by for power in (31, 32, 53, 63, 64, 100) for base in (2**power, -(2**power)) for by in (-2, -1, 0, 1, 2)
]
DOUBLES = [
    0.0,
    -0.0,
    0.5,
    -1.5,
    5e-324,
    1.7976931348623157e308,
    2.0**53 + 0.0,
    math.inf,
    -math.inf,
    math.nan,
    1e21,
    123456789.125,
]
TEXTS = ["", "x", "é", "€", "𝒳", "\0", "\u2028", "a" * 1000, "__proto__", "constructor", "\ufeff", "\U0010ffff", "then"]
DATES = [
    datetime.datetime(1970, 1, 1, tzinfo=UTC),
    datetime.datetime(1, 1, 1, tzinfo=UTC),
    datetime.datetime(9999, 12, 31, 23, 59, 59, 999000, tzinfo=UTC),
    datetime.datetime(2024, 2, 29, 12, 30, 15, 123000, tzinfo=UTC),
    datetime.datetime(1969, 12, 31, 23, 59, 59, 1000, tzinfo=UTC),
]


class Paths:
    """The ways that a value can take through one runtime, each there and back."""

    def __init__(self, js: Any, **settings: Any) -> None:
        self.one = js.Runtime(js.RuntimeConfig(timeout=20, **settings))
        self.seen: list[Any] = []
        self.held: Any = None
        self.one.bind_function("take", self.seen.append)
        self.one.bind_function("give", lambda: self.held)
        self._same = self.one.eval("(function (value) { return value })")
        self._take = self.one.eval("(function (value) { take(value) })")

    def argument_and_result(self, value: Any) -> Any:
        return self._same(value)

    def argument_and_callback(self, value: Any) -> Any:
        self.seen.clear()
        self._take(value)
        return self.seen[0]

    def answer_and_result(self, value: Any) -> Any:
        self.held = value
        return self.one.eval("give()")

    def answer_and_callback(self, value: Any) -> Any:
        self.held = value
        self.seen.clear()
        self.one.eval("take(give()); 0")
        return self.seen[0]

    def bound(self, value: Any) -> Any:
        self.one.bind_object("bound", {"value": value})
        return self.one.eval("bound.value")

    @property
    def all(self) -> dict[str, Callable[[Any], Any]]:
        return {
            "argument, result": self.argument_and_result,
            "argument, callback": self.argument_and_callback,
            "answer, result": self.answer_and_result,
            "answer, callback": self.answer_and_callback,
            "bound, result": self.bound,
        }


def arrives(value: Any) -> Any:
    """As it comes back: whole doubles are ints, as everything that JavaScript holds as a number."""
    if (
        type(value) is float
        and value.is_integer()
        and abs(value) < 2**63
        and not (value == 0 and math.copysign(1, value) < 0)
    ):
        return int(value)
    if isinstance(value, (list, tuple)):
        return [arrives(one) for one in value]
    if isinstance(value, dict):
        return {key: arrives(one) for key, one in value.items()}
    if isinstance(value, (set, frozenset)):
        return {arrives(one) for one in value}
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, datetime.datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        rest = aware.microsecond % 1000
        return aware.astimezone(UTC) + datetime.timedelta(microseconds=(1000 if rest > 500 else 0) - rest)
    return value


def make(rnd: random.Random, js: Any, depth: int = 0) -> Any:
    kind = rnd.randrange(14 if depth < 4 else 9)
    if kind == 0:
        return rnd.choice([None, True, False, js.undefined])
    if kind == 1:
        return rnd.choice(EDGES)
    if kind == 2:
        return rnd.randrange(-(2 ** rnd.randrange(1, 120)), 2 ** rnd.randrange(1, 120))
    if kind == 3:
        return rnd.choice([one for one in DOUBLES if not math.isnan(one)])
    if kind == 4:
        return rnd.uniform(-1, 1) * 10.0 ** rnd.randrange(-300, 300)
    if kind == 5:
        return rnd.choice(TEXTS)
    if kind == 6:
        return "".join(
            chr(rnd.choice([rnd.randrange(0x20, 0x7F), rnd.randrange(0xE000, 0x110000)]))
            for _ in range(rnd.randrange(8))
        )
    if kind == 7:
        data = rnd.randbytes(rnd.randrange(30))
        return rnd.choice([data, bytearray(data), memoryview(data)])
    if kind == 8:
        return rnd.choice(DATES)
    if kind < 11:
        return rnd.choice([list, tuple])(make(rnd, js, depth + 1) for _ in range(rnd.randrange(5)))
    if kind == 11:
        return rnd.choice([set, frozenset])(
            rnd.choice(["a", "b", 1, 2.5, None, True, b"x"]) for _ in range(rnd.randrange(4))
        )
    return {rnd.choice(TEXTS): make(rnd, js, depth + 1) for _ in range(rnd.randrange(4))}


@case("What Python sends comes back as it was, on every path")
def round_trips(js: Any) -> None:
    paths, rnd = Paths(js), random.Random(SEED)
    for at in range(ROUNDS):
        value = make(rnd, js)
        for name, path in paths.all.items():
            equal(path(value), arrives(value), f"seed {SEED}, value {at}, {name}")


@case("Each value at an edge comes back as it was, on every path")
def edges(js: Any) -> None:
    paths = Paths(js)
    values = [
        *EDGES,
        *DOUBLES,
        *TEXTS,
        *DATES,
        b"",
        b"\0" * 1000,
        [],
        {},
        set(),
        [None, js.undefined],
        {"": ""},
        10**300,
    ]
    for value in values:
        for name, path in paths.all.items():
            equal(path(value), arrives(value), f"{name}: {str(value)[:40]}")


@case("Numbers are what JavaScript takes them for")
def kinds_of_numbers(js: Any) -> None:
    paths = Paths(js)
    kind = paths.one.eval("((value) => typeof value + ' ' + (Object.is(value, -0) ? '-0' : String(value)))")
    for value in EDGES:
        safe = abs(value) <= 2**53 - 1
        equal(kind(value), f"{'number' if safe else 'bigint'} {value}")
        paths.held = value
        equal(paths.one.eval("typeof give()"), "number" if safe else "bigint")
    equal(kind(-0.0), "number -0")
    equal(kind(math.nan), "number NaN")
    equal(kind(True), "boolean true")
    for code, value in {
        "4.0": 4,
        "-0": -0.0,
        "0": 0,
        "2 ** 53": 2**53,
        "-(2 ** 53)": -(2**53),
        "2 ** 62": 2**62,
        "2 ** 63": 2.0**63,
        "1e300": 1e300,
        "0.1": 0.1,
        "5e9": 5_000_000_000,
        "1n": 1,
        "2n ** 64n": 2**64,
        "-(2n ** 100n)": -(2**100),
        "NaN": math.nan,
        "-Infinity": -math.inf,
    }.items():
        equal(paths.one.eval(code), value, code)
        paths.seen.clear()
        paths.one.eval(f"take({code})")
        equal(paths.seen[0], value, f"{code} as an argument")


@case("Text with half of a character: replaced from JavaScript, refused from Python")
def lone_surrogates(js: Any) -> None:
    paths = Paths(js)
    for code in ("'\\ud800'", "'a\\udc00b'", "'\\udc00\\ud800'"):
        value = paths.one.eval(code)
        expect("\ufffd" in value and not re.search("[\ud800-\udfff]", value), repr(value))
        paths.one.eval(f"take({code})")
        equal(paths.seen[-1], value)
        equal(paths.one.eval(f"({{ [{code}]: 1 }})"), {value: 1})
    equal(paths.one.eval("'\\ud83d\\ude00'"), "😀")
    for value in ("\ud800", ["a\udc00"], {"x": "\ud800"}, {"\ud800": 1}):
        fails(lambda value=value: paths.argument_and_result(value), RuntimeError, "Unsupported Python type")
        fails(lambda value=value: paths.answer_and_result(value), js.JavaScriptError)
    equal(paths.argument_and_result("still there"), "still there")


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth - 1):
        value = [value]
    return value


@case("The limit on depth: at it, and one past it, on every path")
def depth(js: Any) -> None:
    for asked in (1, 2, 7, 100, 120, 300):
        limit = min(asked, 120)
        paths = Paths(js, max_serialization_depth=asked)
        text = f"Depth exceeded maximum limit of {limit}"
        for name, path in paths.all.items():
            inside = limit - 1 if name.startswith("bound") else limit
            if inside > 0:
                equal(path(nested(inside)), nested(inside), f"{limit}: {name}")
            fails(lambda path=path, inside=inside: path(nested(inside + 1)), (RuntimeError, js.JavaScriptError), text)
        code = "(n) => {{ let value = 1; for (let at = 1; at < n; at++) value = {}; return value }}"
        for made in ("[value]", "({ value })", "new Set([value])", "new Map([['k', value]])"):
            grow = paths.one.eval(f"({code.format(made)})")
            grow(limit)
            fails(lambda grow=grow: grow(limit + 1), RuntimeError, text)


@case("The limit on size: from both sides, and the runtime goes on")
def size(js: Any) -> None:
    limit = 1000
    paths = Paths(js, max_serialization_bytes=limit)
    for value in (b"x" * limit, "x" * (limit - 16)):
        equal(paths.argument_and_result(value), value)
    fails(
        lambda: paths.argument_and_result(b"x" * (limit + 1)), RuntimeError, f"exceeded maximum limit of {limit} bytes"
    )
    fails(
        lambda: paths.argument_and_result("x" * (limit + 1)),
        RuntimeError,
        f"String size limit exceeded: {limit + 1} > {limit}",
    )
    fails(lambda: paths.argument_and_result([0] * limit), RuntimeError, "exceeded maximum limit")
    fails(lambda: paths.argument_and_result({str(n): n for n in range(limit)}), RuntimeError, "exceeded maximum limit")
    equal(len(paths.one.eval(f"'x'.repeat({limit})")), limit)
    for code in (
        f"'x'.repeat({limit + 1})",
        f"new Uint8Array({limit + 1})",
        f"new Array({limit + 1})",
        f"new Array({limit}).fill(1)",
        f"new Set(Array.from({{ length: {limit} }}, (_, at) => at))",
        f"({{ ['x'.repeat({limit + 1})]: 1 }})",
        "new Array(2 ** 32 - 1)",
        "(() => { const a = []; a.length = 5e7; return a })()",
        f"2n ** {limit * 20}n",
    ):
        fails(lambda code=code: paths.one.eval(code), RuntimeError, "exceeded maximum limit")
        fails(lambda code=code: paths.one.eval(f"take({code})"), js.JavaScriptError, "exceeded maximum limit")
    equal(paths.one.eval("1 + 1"), 2)


@case("Cycles on both sides are named, and the same thing twice is no cycle")
def cycles(js: Any) -> None:
    paths = Paths(js)
    a_list: list[Any] = []
    a_list.append([a_list])
    a_dict: dict[str, Any] = {}
    a_dict["x"] = {"y": a_dict}
    for value, kind in ((a_list, "list"), (a_dict, "dict"), ([(a_list,)], "list")):
        text = f"Circular reference detected while converting Python {kind}"
        fails(lambda value=value: paths.argument_and_result(value), RuntimeError, text)
        fails(lambda value=value: paths.answer_and_result(value), js.JavaScriptError, "circular")
        fails(lambda value=value: paths.bound(value), RuntimeError, text)
    shared = [1]
    equal(paths.argument_and_result([shared, shared, {"x": shared}]), [[1], [1], {"x": [1]}])
    for code in (
        "(() => { const a = []; a.push(a); return a })()",
        "(() => { const a = {}; a.x = { y: [a] }; return a })()",
        "(() => { const a = new Map(); a.set('x', [a]); return a })()",
        "(() => { const a = new Set(); a.add(a); return a })()",
    ):
        fails(lambda code=code: paths.one.eval(code), RuntimeError, "Cannot serialize circular reference")
        fails(lambda code=code: paths.one.eval(f"take({code})"), js.JavaScriptError, "circular")
    equal(paths.one.eval("(() => { const a = [1]; return [a, a, { a }] })()"), [[1], [1], {"a": [1]}])


@case("Dates at their edges")
def dates(js: Any) -> None:
    paths = Paths(js)
    iso = paths.one.eval("((value) => value.toISOString())")
    for value in DATES:
        equal(
            iso(value),
            f"{value:%Y}".rjust(4, "0") + f"{value:-%m-%dT%H:%M:%S}"[0:] + f".{value.microsecond // 1000:03d}Z",
        )
    equal(iso(datetime.datetime(2020, 1, 1)), "2020-01-01T00:00:00.000Z", "without a zone")
    east = datetime.timezone(datetime.timedelta(hours=5, minutes=30))
    equal(iso(datetime.datetime(2020, 1, 1, 5, 30, tzinfo=east)), "2020-01-01T00:00:00.000Z", "of another zone")
    equal(paths.one.eval("new Date(0)"), DATES[0])
    equal(paths.one.eval("new Date(-1)"), DATES[0] - datetime.timedelta(milliseconds=1))
    equal(paths.one.eval("new Date(-62135596800000)"), DATES[1])
    equal(paths.one.eval("new Date(253402300799999)"), DATES[2])
    fails(lambda: paths.one.eval("new Date(NaN)"), RuntimeError, "Date value out of range")
    fails(lambda: paths.one.eval("take(new Date(NaN))"), js.JavaScriptError, "Date value out of range")
    for code in ("new Date(253402300800000)", "new Date(-62135596800001)", "new Date(8.64e15)"):
        fails(lambda code=code: paths.one.eval(code), RuntimeError)
        equal(paths.one.eval("1 + 1"), 2, "afterwards")


@case("Arrays of numbers keep their bytes")
def typed_arrays(js: Any) -> None:
    paths = Paths(js)
    for name, width in {
        "Int8Array": 1,
        "Int16Array": 2,
        "Uint16Array": 2,
        "Int32Array": 4,
        "Uint32Array": 4,
        "Float32Array": 4,
        "Float64Array": 8,
        "BigInt64Array": 8,
        "BigUint64Array": 8,
    }.items():
        items = "[1n, 2n, 3n]" if name.startswith("Big") else "[1, 2, 3]"
        for code in (
            f"new {name}({items})",
            f"new {name}(new {name}([{items[1]}{'n' if 'Big' in name else ''}, ...{items}]).buffer, {width})",
        ):
            value = paths.one.eval(code)
            equal([int(one) for one in value], [1, 2, 3], code)
            paths.one.eval(f"take({code})")
            equal([int(one) for one in paths.seen[-1]], [1, 2, 3], f"take {code}")
            equal(len(paths.one.eval(f"new {name}(0)")), 0)
        back = paths.one.eval(
            f"((value) => value instanceof {name} ? [...value].join() : Object.prototype.toString.call(value))"
        )
        equal(back(value), "1,2,3", f"{name} to JavaScript")
    equal(paths.one.eval("new Uint8Array([1, 2, 3]).subarray(1)"), b"\x02\x03")
    equal(paths.one.eval("new DataView(new Uint8Array([1, 2, 3]).buffer, 1)"), b"\x02\x03")
    equal(paths.one.eval("new Uint8Array([7, 8]).buffer"), b"\x07\x08")
    equal(bytes(paths.one.eval("new Uint8ClampedArray([1, 300])")), b"\x01\xff")
    detached = "(() => { const a = new Uint8Array(3); a.buffer.transfer(); return a })()"
    fails(lambda: paths.one.eval(detached), (RuntimeError, js.JavaScriptError), "detached")
    resized = "(() => { const b = new ArrayBuffer(8, { maxByteLength: 16 }); const a = new Uint8Array(b, 4); b.resize(2); return a })()"
    equal(paths.one.eval(resized), b"")


@case("What has no counterpart says so, on every path")
def refused(js: Any) -> None:
    paths = Paths(js)

    class Other:
        pass

    for value in (Other(), object(), 1j, datetime.timedelta(1), type, {"x": [Other()]}, range(3), ...):
        fails(
            lambda value=value: paths.argument_and_result(value),
            RuntimeError,
            "Unsupported Python type for JSValue conversion",
        )
        fails(lambda value=value: paths.answer_and_result(value), js.JavaScriptError)
    for value in ({1: 2}, {None: 1}, {b"x": 1}, {("a",): 1}):
        fails(lambda value=value: paths.argument_and_result(value), TypeError, "keys")
        fails(lambda value=value: paths.answer_and_result(value), js.JavaScriptError)
    fails(lambda: paths.one.eval("Symbol('x')"), RuntimeError, "Symbol")
    fails(lambda: paths.one.eval("[Symbol('x')]"), RuntimeError, "Symbol")
    fails(lambda: paths.one.eval("take(Symbol('x'))"), js.JavaScriptError, "Symbol")
    equal(paths.one.eval("1 + 1"), 2, "afterwards")


@case("Members of sets and keys of Maps: hashable, or an error that ends nothing")
def unhashable(js: Any) -> None:
    paths = Paths(js)
    for code, value in {
        "new Set([[1, [2]]])": {(1, (2,))},
        "new Set([new Set([1])])": {frozenset({1})},
        "new Set([new Date(0), new Uint8Array(1)])": {DATES[0], b"\0"},
        "new Map([[[1], { a: 1 }], [2, new Map()]])": {(1,): {"a": 1}, 2: {}},
        "new Map([[1, 'a'], [true, 'b']])": {1: "b"},
        "({ 'a\\ud800': 1, 'a\\ud801': 2 })": {"a\ufffd": 2},
    }.items():
        expect(paths.one.eval(code) == value, f"{code} is {paths.one.eval(code)!r}")
    for code in (
        "new Set([{}])",
        "new Set([new Map()])",
        "new Set([[1, {}]])",
        "new Map([[{}, 1]])",
        "new Map([[[new Float64Array(1)], 1]])",
        "new Set([new Set([{}])])",
    ):
        fails(lambda code=code: paths.one.eval(code), (RuntimeError, TypeError))
        expect(not paths.one.is_closed(), f"{code} ends the runtime")
        equal(paths.one.eval(f"try {{ take({code}); 'taken' }} catch (error) {{ error.name }}"), "TypeError", code)
    equal(paths.one.eval("1 + 1"), 2)


@case("A memoryview keeps its format and its shape, however large it is; what has none is refused with the way out")
def views(js: Any) -> None:
    with js.Runtime(max_serialization_bytes=64 << 20) as one:
        kind = one.eval("(x) => x.shape ? [x.shape, x.data.constructor.name] : [x.length, x.constructor.name]")
        for count in (10, 1_000_000):
            doubles = array.array("d", [1.5]) * count
            equal(kind(memoryview(doubles)), [count, "Float64Array"])
            equal(kind(doubles), [count, "Float64Array"])
            equal(kind(memoryview(doubles).cast("B")), [8 * count, "Uint8Array"])
            grid = memoryview(doubles).cast("B").cast("d", (2, count // 2))
            equal(kind(grid), [[2, count // 2], "Float64Array"])
        fails(lambda: kind(memoryview(doubles)[::2]), RuntimeError, "send its tobytes()")


if __name__ == "__main__":
    main()
