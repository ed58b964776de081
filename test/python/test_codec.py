"""docs/internals/encoding.md, held to both implementations."""

from __future__ import annotations

import array
import collections
import contextlib
import copy
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import ipaddress
import json
import math
import os
import pathlib
import pickle
import random
import re
import sqlite3
import struct
import subprocess
import sys
import tempfile
import traceback
import types
import unittest
import unittest.mock
import uuid
from collections.abc import Sequence
from typing import Any

from needs import skip_unless
from support import C, IMPLEMENTATIONS, PACKAGES, PURE, ROOT, python_with_tables

from ipcctl import DecodeError, EncodeError, JavaScriptError, undefined
from ipcctl import _backend, _contract
from ipcctl._errors import record_of

UTC = dt.timezone.utc
SEED = int(os.environ.get("IPCCTL_SEED", "7"))


class Colour(enum.Enum):
    RED = "red"
    WHERE = pathlib.Path("/x")


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Point:
    x: int
    y: Any


Pair = collections.namedtuple("Pair", "a b")

_TYPECODES = {
    "uint16": "H",
    "uint32": "I",
    "uint64": "Q",
    "int8": "b",
    "int16": "h",
    "int32": "i",
    "int64": "q",
    "float32": "f",
    "float64": "d",
}


def revive(value: Any) -> Any:
    """A value of the vectors: a dict with one key that begins with `$` is what JSON lacks."""
    if isinstance(value, list):
        return [revive(one) for one in value]
    if not isinstance(value, dict):
        return value
    kind, held = next(iter(value.items())) if len(value) == 1 else ("", None)
    if kind == "$undefined":
        return undefined
    if kind == "$integer":
        return int(held)
    if kind == "$float":
        return float(held)
    if kind == "$bytes":
        return bytes.fromhex(held)
    if kind == "$map":
        return dict(revive(held))
    if kind == "$set":
        return set(revive(held))
    if kind == "$time":
        return dt.datetime.fromtimestamp(held / 1000, UTC)
    if kind == "$array":
        return array.array(_TYPECODES[held[0]], held[1])
    if kind == "$ndarray":
        return memoryview(bytes.fromhex(held[1])).cast("B", held[0])
    if kind.startswith("$"):
        raise ValueError(f"vectors/cbor.json has {kind}, which revive() does not know: add it")
    return {key: revive(one) for key, one in value.items()}


def vectors() -> list[tuple[Any, ...]]:
    with open(os.path.join(ROOT, "test/vectors/cbor.json"), encoding="utf-8") as file:
        rows = [(revive(row["value"]), row["bytes"]) for row in json.load(file)]
    with open(os.path.join(ROOT, "test/vectors/messages.json"), encoding="utf-8") as file:
        for row in json.load(file):
            kind = getattr(_contract, f"TO_{row['to']}_{row['kind']}".upper())
            rows.append(([kind, *revive(row["fields"])], row["bytes"]))
    return [
        (value, expected, memoryview(value)) if isinstance(value, array.array) else (value, expected)
        for value, expected in rows
    ]


# Value, its bytes, and what comes back where that is not the value: what both languages have is
# in the vectors, the rest is of Python alone.
GOLDEN: list[tuple[Any, ...]] = [
    *vectors(),
    (2.0, "fb4000000000000000"),
    (bytearray(b"\x01"), "4101", b"\x01"),
    (memoryview(b"\x01\x02"), "420102", b"\x01\x02"),
    (memoryview(b""), "40", b""),
    ((1, 2), "820102", [1, 2]),
    (Pair(1, 2), "820102", [1, 2]),
    ({"a": 1, (1, 2): 3}, "d90103a261610182010203"),
    (collections.OrderedDict(a=1), "a1616101", {"a": 1}),
    (frozenset({5}), "d901028105", {5}),
    ({(1, frozenset({2}))}, "d90102818201d901028102"),
    (dt.datetime(2024, 1, 2, 3, 4, 5, 6000, UTC), "c1fb41d964df4940624e"),
    (
        dt.datetime(2024, 1, 2, 3, 4, 5, 6, UTC),
        "c07820" + b"2024-01-02T03:04:05.000006+00:00".hex(),
    ),
    (
        dt.datetime(2024, 1, 2, 3, 4, 5, tzinfo=dt.timezone(dt.timedelta(hours=-5, minutes=-30))),
        "c07820" + b"2024-01-02T03:04:05.000000-05:30".hex(),
    ),
    (dt.date(2024, 2, 29), "d903ec6a" + b"2024-02-29".hex()),
    (uuid.UUID(int=1), "d82550" + "00" * 15 + "01"),
    (array.array("B", [1]), "4101", b"\x01"),
    (array.array("d"), "d85640", memoryview(array.array("d"))),
    (Colour.RED, "63726564", "red"),
    (Colour.WHERE, "622f78", "/x"),
    (Level.HIGH, "03", 3),
    (Point(1, Point(2, None)), "a26178016179a26178026179f6", {"x": 1, "y": {"x": 2, "y": None}}),
    (pathlib.Path("/x"), "622f78", "/x"),
    (dt.timedelta(seconds=1, milliseconds=500), "fb3ff8000000000000", 1.5),
    (dt.time(1, 2, 3), "68" + b"01:02:03".hex(), "01:02:03"),
    (decimal.Decimal("1.10"), "64" + b"1.10".hex(), "1.10"),
    (ipaddress.ip_address("::1"), "63" + b"::1".hex(), "::1"),
    (ipaddress.ip_network("10.0.0.0/8"), "6a" + b"10.0.0.0/8".hex(), "10.0.0.0/8"),
    (range(5, 1, -2), "820503", [5, 3]),
    (collections.deque([1, 2]), "820102", [1, 2]),
    ({"a": 1}.keys(), "816161", ["a"]),
    ({"a": 1}.values(), "8101", [1]),
    ({"a": 1}.items(), "8182616101", [["a", 1]]),
    (types.MappingProxyType({"a": 1}), "a1616101", {"a": 1}),
    (collections.UserDict(a=1), "a1616101", {"a": 1}),
    (collections.ChainMap({"a": 1}, {"a": 2}), "a1616101", {"a": 1}),
    (collections.UserList([1]), "8101", [1]),
    (collections.UserString("a"), "6161", "a"),
]


def row() -> Any:
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.row_factory = sqlite3.Row
        return database.execute("select 1 as a, 'x' as b").fetchone()


def error_of(call: Any, *args: Any) -> tuple[Any, ...]:
    try:
        return ("ok", call(*args))
    except (EncodeError, DecodeError) as error:
        return (type(error), error.code, error.path, str(error))


def random_value(rnd: random.Random, depth: int = 0, key: bool = False) -> Any:
    kinds = 12 if depth > 4 else 17
    if key:
        kinds = 8
    kind = rnd.randrange(kinds)
    if kind == 0:
        return rnd.choice([None, True, False, undefined])
    if kind == 1:
        return rnd.randrange(-300, 300)
    if kind == 2:
        return rnd.choice([-1, 1]) * rnd.getrandbits(rnd.randrange(1, 70)) + rnd.randrange(-2, 3)
    if kind == 3:
        return rnd.choice([0.5, -0.0, 1e300, math.inf, rnd.random(), rnd.uniform(-1e9, 1e9)])
    if kind in (4, 5):
        return "".join(chr(rnd.choice([65, 0, 233, 8364, 0x1D11E, 0x7F])) for _ in range(rnd.randrange(30)))
    if kind == 6:
        return rnd.randbytes(rnd.choice([0, 1, 23, 24, 255, 256, 2000]))
    if kind == 7:
        return dt.datetime.fromtimestamp(rnd.randrange(-(10**9), 10**9), UTC) + dt.timedelta(
            microseconds=rnd.choice([0, rnd.randrange(10**6), 1000 * rnd.randrange(1000)])
        )
    if kind == 8:
        return uuid.UUID(int=rnd.getrandbits(128))
    if kind == 9:
        return dt.date.fromordinal(rnd.randrange(1, 3000000))
    if kind == 10:
        code = rnd.choice("bHhIiQqfd")
        return memoryview(bytearray(8 * rnd.randrange(1, 5))).cast(code)
    if kind == 11:
        return rnd.getrandbits(rnd.randrange(64, 300)) * rnd.choice([-1, 1])
    size = rnd.choice([0, 1, 2, 5, 30 if depth < 2 else 3])
    if kind in (12, 13):
        return [random_value(rnd, depth + 1) for _ in range(size)]
    if kind == 14:
        return {f"k{rnd.randrange(50)}": random_value(rnd, depth + 1) for _ in range(size)}
    if kind == 15:
        return {random_value(rnd, depth, True): random_value(rnd, depth + 1) for _ in range(size)}
    return {random_value(rnd, depth, True) for _ in range(size)}


def nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    return value


def loop_of(items: Any) -> Any:
    items.append(items)
    return items


class Both(unittest.TestCase):
    def each(self) -> Any:
        return IMPLEMENTATIONS.values()

    def fails(self, kind: Any, code: str, path: str, call: Any, *args: Any) -> None:
        with self.assertRaises(kind) as caught:
            call(*args)
        self.assertEqual((caught.exception.code, caught.exception.path), (code, path), str(caught.exception))


class Encoding(Both):
    def test_golden_bytes(self) -> None:
        for module in self.each():
            for value, expected, *back in GOLDEN:
                with self.subTest(value=value):
                    self.assertEqual(module.dumps(value).hex(), expected)
                    result = module.loads(bytes.fromhex(expected))
                    wanted = back[0] if back else value
                    if "numpy" in sys.modules and isinstance(wanted, memoryview):
                        self.assertEqual(result.tolist(), wanted.tolist())
                        continue
                    self.assertEqual(result, wanted)
                    self.assertIs(type(result), type(wanted))
                    if isinstance(result, float):
                        self.assertEqual(math.copysign(1, result), math.copysign(1, wanted))

    def test_random_values_round_and_both_agree(self) -> None:
        rnd = random.Random(SEED)
        for turn in range(1500):
            value = random_value(rnd)
            outputs = [module.dumps(value) for module in IMPLEMENTATIONS.values()]
            self.assertEqual(len(set(outputs)), 1, f"seed {SEED}, turn {turn}")
            for module in IMPLEMENTATIONS.values():
                back = module.loads(outputs[0])
                # Sets and duplicate keys may come back in another order; bytes of the second round
                # say all else.
                again = module.loads(module.dumps(back))
                self.assertEqual(repr(plain(again)), repr(plain(back)))
                self.assertEqual(plain(back), plain(value))

    def test_errors_name_the_place(self) -> None:
        loop: list[Any] = [1]
        loop.append({"again": loop})
        own = Point(1, None)
        own.y = [own]
        for module in self.each():
            d = module.dumps
            self.fails(
                EncodeError,
                "TYPE",
                "$.rows[3].when",
                d,
                {"rows": [0, 1, 2, {"when": dt.datetime(2024, 1, 1)}]},
            )
            self.fails(EncodeError, "TYPE", '$["a b"]', d, {"a b": object()})
            self.fails(EncodeError, "TYPE", "$[7]", d, {7: object()})
            self.fails(EncodeError, "TYPE", "$", d, "\ud800")
            self.fails(EncodeError, "TYPE", '$["\\ud800"]', d, {"\ud800": 1})
            self.fails(EncodeError, "TYPE", "$", d, print)
            self.fails(EncodeError, "TYPE", "$", d, int)
            self.fails(EncodeError, "TYPE", "$[0]", d, [memoryview(b"abcd")[::2]])
            self.fails(EncodeError, "TYPE", "$", d, memoryview(b"\x01").cast("?"))
            self.fails(EncodeError, "CYCLE", "$[1].again", d, loop)
            self.fails(EncodeError, "CYCLE", "$.y[0]", d, own)
            self.fails(EncodeError, "CYCLE", "$[0]", d, loop_of(collections.deque()))
            shared = [1]
            self.assertEqual(d([shared, shared]).hex(), "8281018101")
            self.assertEqual(d(row()).hex(), "a26161016162" + "6178")

    def test_what_has_no_form_names_the_way_out(self) -> None:
        class Model:
            def model_dump(self) -> dict[str, int]:
                return {}

        class Zone(dt.tzinfo):
            def utcoffset(self, when: object) -> dt.timedelta:
                raise ValueError("no such zone")

        database = sqlite3.connect(":memory:")
        self.addCleanup(database.close)
        database.row_factory = sqlite3.Row
        row = database.execute("SELECT 1 AS id, 2 AS id").fetchone()
        ways = [
            (Model(), "cannot send Model; send its model_dump()"),
            ((x for x in "a"), "cannot send generator; send list() of it"),
            (types.SimpleNamespace(a=1), "cannot send SimpleNamespace; send vars() of it"),
            (fractions.Fraction(1, 2), "cannot send Fraction; send str() or float() of it"),
            (object(), "cannot send object; send what it is made of: dict, list, str, numbers"),
            (Model, "cannot send a class; send what it is made of: dict, list, str, numbers"),
            (
                row,
                "cannot send a Row of columns that have the same name; name them with AS, or send tuple() of it",
            ),
            (range(10**12), "cannot send a range of more than 53687091 numbers; send its start, stop and step"),
            (dt.datetime(2024, 1, 1), "cannot send a naive datetime; give it a tzinfo, as with astimezone()"),
            (
                dt.datetime(2024, 1, 1, tzinfo=Zone()),
                "cannot send this datetime, whose utcoffset() fails: no such zone; send str() of it",
            ),
        ]
        for module in self.each():
            for value, message in ways:
                self.assertEqual(error_of(module.dumps, {"a": value}), (EncodeError, "TYPE", "$.a", f"$.a: {message}"))

    def test_depth(self) -> None:
        for module in self.each():
            most = _contract.VALUE_DEPTH_MAX
            self.assertEqual(module.loads(module.dumps(nested(most))), nested(most))
            self.fails(EncodeError, "DEPTH", "$" + "[0]" * most, module.dumps, nested(most + 1))
            self.fails(DecodeError, "DEPTH", "$" + "[0]" * most, module.loads, b"\x81" * most + b"\x80")
            self.fails(DecodeError, "DEPTH", "$" + "[0]" * most, module.loads, b"\x81" * 100000)
            deep_set = b"\xd9\x01\x02\x81"
            self.fails(DecodeError, "DEPTH", "$" + "[0]" * most, module.loads, deep_set * (most + 1))
            self.fails(DecodeError, "MALFORMED", "$", module.loads, b"\xc0" * 100000)

    def test_size(self) -> None:
        for module in self.each():
            for value in (
                0,
                1000,
                1.5,
                None,
                "x" * 40,
                b"y" * 5000,
                [1, "ab"],
                {"k": {1, 2}},
                2**80,
                Point(1, 2),
            ):
                whole = module.dumps(value)
                self.assertEqual(module.dumps(value, len(whole)), whole)
                self.assertEqual(module.dumps(value, size_max=len(whole)), whole)
                with self.assertRaises(EncodeError) as caught:
                    module.dumps(value, size_max=len(whole) - 1)
                self.assertEqual(caught.exception.code, "SIZE")
            self.assertRaises(OverflowError, module.dumps, 1, -1)
        if C is not None:
            rnd = random.Random(SEED)
            for _ in range(100):
                value = random_value(rnd)
                for limit in {rnd.randrange(0, 60) for _ in range(10)}:
                    self.assertEqual(error_of(C.dumps, value, limit), error_of(PURE.dumps, value, limit))

    def test_exceptions(self) -> None:
        def circular() -> BaseException:
            one, two = ValueError("one"), KeyError("two")
            one.__cause__, two.__cause__ = two, one
            return one

        try:
            try:
                raise OSError("inner \ud800")
            except OSError as inner:
                raise ValueError("outer") from inner
        except ValueError as error:
            outer = error
        for module in self.each():
            back = module.loads(module.dumps({"e": outer}))["e"]
            self.assertIsInstance(back, JavaScriptError)
            self.assertEqual((back.type, str(back)), ("ValueError", "outer"))
            self.assertIn("ValueError: outer", back.stack)
            self.assertEqual(str(back.__cause__), "inner \\ud800")
            self.assertEqual(module.dumps(back), module.dumps(outer))
            self.assertEqual(str(module.loads(module.dumps(circular())).__cause__), "'two'")
            self.assertRaises(DecodeError, module.loads, b"\xd8\x1b\x82\x61x\xa0")

    def test_an_error_is_told_of_whatever_it_is_like(self) -> None:
        class Leaves(Exception):
            def __str__(self) -> str:
                raise SystemExit(3)

        class Parts(ExceptionGroup[ValueError]):
            exceptions = property(lambda self: 1 / 0)  # type: ignore[assignment]

        class Meta(type):
            __module__ = property(lambda cls: 1 / 0)  # type: ignore[assignment]

        class Nameless(Exception, metaclass=Meta):
            __cause__ = property(lambda self: 1 / 0)  # type: ignore[assignment]

        class Bare(JavaScriptError):
            def __init__(self) -> None:
                pass

        self.assertEqual(record_of(Leaves())["message"], "<no text: SystemExit>")
        self.assertEqual([one["type"] for one in record_of(Parts("of", [ValueError(1)]))["errors"]], ["ValueError"])
        self.assertEqual(record_of(Nameless("own"))["message"], "own")
        self.assertEqual(record_of(Bare())["type"], "<no text: AttributeError>")
        long = record_of(ExceptionGroup("of", [ValueError("x" * (1 << 24)) for _ in range(20)]))
        self.assertEqual(len(long["errors"]), 20)
        self.assertRegex(long["errors"][0]["message"], r"x… \(16777216 characters\)$")
        for module in self.each():
            self.assertLess(len(module.dumps(long)), 1 << 25)

    def test_how_much_is_told_of_an_error(self) -> None:
        levels, parts, chars = _contract.ERROR_LEVELS_MAX, _contract.ERROR_PARTS_MAX, _contract.ERROR_CHARS_MAX
        for more in (0, 1):
            error = ValueError("x")
            for _ in range(levels + more):
                outer = ValueError("x")
                outer.__cause__ = error
                error = outer
            told, count = record_of(error), 0
            while told["cause"] is not None:
                told, count = told["cause"], count + 1
            self.assertEqual(count, levels)
            wide = record_of(ExceptionGroup("of", [ValueError(at) for at in range(parts - 1 + more)]))
            self.assertEqual(len(wide["errors"]), parts - 1)
            text = "x" * (chars - len("ValueError") + more)
            self.assertEqual(record_of(ValueError(text))["message"] == text, more == 0)

    def test_what_is_behind_an_error_is_not_gone_through_again_at_each_step(self) -> None:
        deep: BaseException = ValueError(0)
        for number in range(2000):
            deep, cause = ValueError(number), deep
            deep.__cause__ = cause
        with unittest.mock.patch.object(
            traceback, "TracebackException", side_effect=traceback.TracebackException
        ) as made:
            record = record_of(deep)
        self.assertLess(made.call_count, 200)
        self.assertEqual((record["traceback"], record["cause"]["message"]), ("ValueError: 1999\n", "1998"))

    def test_a_place_is_shown_as_python_shows_it_also_the_second_time(self) -> None:
        def failure(depth: int) -> ZeroDivisionError:
            try:
                scope["fail"](depth)
            except ZeroDivisionError as error:
                return error
            raise AssertionError

        with tempfile.TemporaryDirectory() as folder:
            texts: list[str] = []
            for path in (os.path.join(folder, "one.py"), os.path.join(folder, "two.py")):  # equal code in two files
                source = "def fail(depth):\n    return 1 / 0 if depth == 0 else fail(depth - 1)\n"
                pathlib.Path(path).write_text(source)
                scope: dict[str, Any] = {}
                exec(compile(source, path, "exec"), scope)
                for depth in (0, 0, 1, 9):
                    error = failure(depth)
                    texts.append(record_of(error)["traceback"])
                    self.assertEqual(texts[-1], "".join(traceback.format_exception(error)))
            self.assertIn("repeated 7 more times", texts[3])
            self.assertIn("two.py", texts[4])
            with unittest.mock.patch(
                "linecache.checkcache", side_effect=AssertionError
            ):  # nobody asks for the file again
                self.assertEqual(record_of(failure(0))["traceback"].splitlines()[-4:], texts[4].splitlines()[-4:])

    def test_undefined(self) -> None:
        self.assertFalse(undefined)
        self.assertEqual(repr(undefined), "undefined")
        for other in (
            copy.copy(undefined),
            copy.deepcopy(undefined),
            pickle.loads(pickle.dumps(undefined)),
        ):
            self.assertIs(other, undefined)
        error = pickle.loads(pickle.dumps(EncodeError("TYPE", "$", "no")))
        self.assertEqual((error.code, error.path, str(error)), ("TYPE", "$", "$: no"))

    def test_hostile_python_values(self) -> None:
        class Shrinks:
            def __init__(self, owner: Any) -> None:
                self.owner = owner

            def __fspath__(self) -> str:
                self.owner.clear()
                return "x"

        class Grows(Shrinks):
            def __fspath__(self) -> str:
                for i in range(100):
                    self.owner[f"new{i}"] = i
                return "x"

        class Raises:
            def __fspath__(self) -> str:
                raise KeyError("mine")

        class Endless(Sequence[int]):
            def __len__(self) -> int:
                return 3

            def __getitem__(self, index: Any) -> Any:
                return index

        os.PathLike.register(Shrinks)
        os.PathLike.register(Raises)
        for module in self.each():
            for at in range(3):
                values: list[Any] = [0, 1, 2]
                values[at] = Shrinks(values)
                self.fails(EncodeError, "TYPE", "$", module.dumps, values)
            for kind in (Shrinks, Grows):
                items: dict[str, Any] = {"b": 1, "c": 2}
                items["a"] = kind(items)
                self.fails(EncodeError, "TYPE", "$", module.dumps, items)
            self.assertRaises(KeyError, module.dumps, [Raises()])
            with self.assertRaisesRegex(EncodeError, "more items than the 3 of its len"):
                module.dumps(Endless())
            self.assertRaises(TypeError, module.dumps)
            self.assertRaises(TypeError, module.loads, "text")
            self.assertEqual(module.loads(bytearray(b"\x01")), 1)


class Extension(unittest.TestCase):
    def test_all_that_is_used_of_it_is_looked_for(self) -> None:
        package = pathlib.Path(PACKAGES) / "ipcctl"
        texts = [path.read_text() for path in package.glob("*.py") if path.name != "_pure.py"]
        used = {name for text in texts for name in re.findall(r"\bserver\.(\w+)", text)}
        self.assertLessEqual(used, set(_backend._names_of(_backend._pure.Server)))
        chosen = re.findall(r"\b_chosen\.(\w+)", (package / "_backend.py").read_text())
        self.assertLessEqual(set(chosen), set(_backend._TAKEN))


def plain(value: Any) -> Any:
    """A form that compares: dicts keep no order here, memoryviews and NumPy's arrays become lists."""
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return sorted((repr(plain(key)), plain(one)) for key, one in value.items())
    if isinstance(value, (set, frozenset)):
        return sorted(repr(plain(one)) for one in value)
    if isinstance(value, memoryview) or hasattr(value, "dtype"):
        return [len(value), value.tolist()]
    return value


class Decoding(Both):
    def test_malformed(self) -> None:
        cases = [
            ("", "MALFORMED", "$"),
            ("18", "MALFORMED", "$"),
            ("1b00000000", "MALFORMED", "$"),
            ("1c", "MALFORMED", "$"),
            ("5f4101ff", "MALFORMED", "$"),
            ("9fff", "MALFORMED", "$"),
            ("ff", "MALFORMED", "$"),
            ("e0", "MALFORMED", "$"),
            ("f818", "MALFORMED", "$"),
            ("0000", "MALFORMED", "$"),
            ("62c328", "MALFORMED", "$"),
            ("63eda080", "MALFORMED", "$"),
            ("820161", "SIZE", "$[1]"),
            ("8201", "SIZE", "$"),
            ("42", "SIZE", "$"),
            ("9bffffffffffffffff", "SIZE", "$"),
            ("bb8000000000000000", "SIZE", "$"),
            ("7bffffffffffffffff", "SIZE", "$"),
            ("a10102", "MALFORMED", "$"),
            ("a161616180", "MALFORMED", "$.a"),
            ("a16161a161621c", "MALFORMED", "$.a.b"),
            ("c2", "MALFORMED", "$"),
            ("c201", "MALFORMED", "$"),
            ("d8ff00", "MALFORMED", "$"),
            ("d84041aa", "MALFORMED", "$"),
            ("d8454101", "MALFORMED", "$"),
            ("d8284101", "MALFORMED", "$"),
            ("d828828103d8404101", "MALFORMED", "$"),
            ("d828828103014101", "MALFORMED", "$"),
            ("d828828a1bffffffffffffffff" * 1 + "00" * 9 + "d84040", "MALFORMED", "$"),
            ("d8254101", "MALFORMED", "$"),
            ("c06178", "MALFORMED", "$"),
            ("c1f4", "MALFORMED", "$"),
            ("c1fb7ff8000000000000", "MALFORMED", "$"),
            ("c1fb7fefffffffffffff", "MALFORMED", "$"),
            ("d903ec6a" + b"2023-02-29".hex(), "MALFORMED", "$"),
            ("c074" + b"2024-01-02T03:04:60Z".hex(), "MALFORMED", "$"),
            ("d9010281a0", "MALFORMED", "$[0]"),
            ("d90103a1a000", "MALFORMED", "$"),
        ]
        for module in self.each():
            for text, code, path in cases:
                with self.subTest(bytes=text):
                    self.fails(DecodeError, code, path, module.loads, bytes.fromhex(text))

    def test_many_keys_of_one_hash(self) -> None:
        """They would be compared with each other, which takes long."""
        modulus = sys.hash_info.modulus
        for module in self.each():
            for few in (64, 65):
                numbers = [n * modulus for n in range(1, few + 1)]
                for value in (set(numbers), dict.fromkeys(numbers), {frozenset([n]) for n in numbers}):
                    data = module.dumps(value)
                    if few == 64:
                        self.assertEqual(module.loads(data), value)
                    else:
                        with self.assertRaisesRegex(DecodeError, "more than 64 keys with one hash"):
                            module.loads(data)
            for many in ({n << 40 for n in range(5000)}, {n / 7 for n in range(5000)}, {str(n) for n in range(5000)}):
                self.assertEqual(module.loads(module.dumps(many)), many)

    def test_other_forms_of_the_same(self) -> None:
        for module in self.each():
            for text, value in [
                ("1800", 0),
                ("f93e00", 1.5),
                ("f90001", 2.0**-24),
                ("f9fc00", -math.inf),
                ("fa3fc00000", 1.5),
                ("c24101", 1),
                ("c240", 0),
                ("c341ff", -256),
                ("a2616101616102", {"a": 2}),
                ("d90103a2010101f5", {1: True}),
                ("c1190400", dt.datetime(1970, 1, 1, 0, 17, 4, tzinfo=UTC)),
                (
                    "c07818" + b"2024-01-02t03:04:05.123z".hex(),
                    dt.datetime(2024, 1, 2, 3, 4, 5, 123000, UTC),
                ),
            ]:
                self.assertEqual(module.loads(bytes.fromhex(text)), value)
            self.assertTrue(math.isnan(module.loads(b"\xf9\x7e\x01")))
            for half in range(65536):
                got = module.loads(b"\xf9" + half.to_bytes(2, "big"))
                wanted = struct.unpack(">e", half.to_bytes(2, "big"))[0]
                if got != wanted and not (math.isnan(got) and math.isnan(wanted)):
                    self.fail(f"half float {half:04x}: {got}")

    def test_mutations_end_in_decode_errors_and_both_agree(self) -> None:
        rnd = random.Random(SEED)
        seeds = [bytes.fromhex(row[1]) for row in GOLDEN]
        seeds += [PURE.dumps(random_value(rnd))[:600] for _ in range(60)]
        seeds.append(PURE.dumps(ValueError("x")))
        for turn in range(12000):
            data = bytearray(rnd.choice(seeds))
            for _ in range(rnd.randrange(1, 4)):
                how, at = rnd.randrange(4), rnd.randrange(len(data) + 1)
                if how == 0 and at < len(data):
                    data[at] = rnd.randrange(256)
                elif how == 1:
                    data[at:at] = rnd.randbytes(rnd.randrange(1, 5))
                elif how == 2:
                    del data[at : at + rnd.randrange(1, 9)]
                else:
                    data[at:at] = rnd.choice(seeds)[:40]
            results = [error_of(module.loads, bytes(data)) for module in IMPLEMENTATIONS.values()]
            for other in results[1:]:
                self.assertEqual(repr(plain(other)), repr(plain(results[0])), f"turn {turn}: {data.hex()}")

    def test_every_cut(self) -> None:
        value = {
            "a": [1, 2**40, 1.5, "text", b"bytes"],
            "t": dt.datetime(2024, 1, 1, tzinfo=UTC),
            "s": {1, 2},
        }
        for module in self.each():
            whole = module.dumps(value)
            for cut in range(len(whole)):
                self.assertRaises(DecodeError, module.loads, whole[:cut])


PYTHON = python_with_tables()

# In a process of its own: once NumPy is imported, all typed arrays arrive as NumPy's.
NUMPY_SCRIPT = """
import sys
sys.path[:0] = sys.argv[1:]
from support import IMPLEMENTATIONS
from ipcctl import EncodeError, DecodeError, _shared, shared
import numpy as np
kept = shared(64)
for name, m in IMPLEMENTATIONS.items():
    for code, tag in zip("HIQbhiqefd", (69, 70, 71, 72, 77, 78, 79, 84, 85, 86)):
        a = np.array([0, 1, 2, 100], code)
        data = m.dumps(a)
        assert data[:3] == bytes((0xd8, tag, 0x40 | a.nbytes)) or a.nbytes > 23, (code, data)
        b = m.loads(data)
        assert b.dtype == a.dtype and (a == b).all() and b.flags.writeable
        n = m.loads(m.dumps(a.reshape(2, 2)))
        assert n.shape == (2, 2) and n.dtype == a.dtype and (n == a.reshape(2, 2)).all()
        assert m.dumps(a[::2]) == m.dumps(a[::2].copy())
        assert m.dumps(a.reshape(2, 2).T) == m.dumps(np.ascontiguousarray(a.reshape(2, 2).T))
        assert m.dumps(a.astype(a.dtype.newbyteorder(">"))) == data
        assert m.loads(m.dumps(a[:0])).shape == (0,)
        assert m.loads(m.dumps(np.zeros((0, 3), code))).shape == (0, 3)
        z = m.loads(m.dumps(np.array(7, code)))
        assert z.shape == () and z == 7
    assert m.dumps(np.uint8([1, 2])) == b"\\x42\\x01\\x02"
    assert m.loads(m.dumps(np.uint8([[1], [2]]))).tolist() == [[1], [2]]
    assert [m.loads(m.dumps(x)) for x in (np.int8(-3), np.float32(1.5), np.float64(2.5), np.bool_(True), np.str_("s"))] \
        == [-3, 1.5, 2.5, True, "s"]
    one_way = [
        (np.array([True, False]), "420100"), (np.array([[True], [False]]), "d82882820201d840420100"),
        (np.array(["x", "yz"]), "8261786279" + "7a"), (np.array([["x"]]), "81816178"), (np.array("x"), "6178"),
        (np.datetime64("1970-01-01T00:00:01.5"), "c1fb3ff8000000000000"), (np.timedelta64(1500, "ms"), "fb3ff8000000000000"),
        (np.array(["1970", "NaT"], "M8[ns]"), "82c1fb0000000000000000f6"), (np.array([1500, "NaT"], "m8[ms]"), "82fb3ff8000000000000f6"),
        (np.datetime64("NaT"), "f6"), (np.timedelta64("NaT"), "f6"), (np.ma.masked, "f6"),
    ]
    for x, form in one_way:
        assert m.dumps(x).hex() == form, (x, m.dumps(x).hex())
    class Said(np.ndarray):
        shape, ndim, nbytes = (9, 9), 2, 1 << 43
        __array_interface__ = {"data": (1, False)}
        def __getitem__(self, at): return self
    assert m.dumps(np.zeros(1).view(Said)) == m.dumps(np.zeros(1))
    assert _shared._place(np.frombuffer(kept).view(Said))[1:] == _shared._place(np.frombuffer(kept))[1:]
    assert m.loads(m.dumps(np.timedelta64(2**62, "W"))) == 2**62 * 604800
    assert m.loads(m.dumps(np.datetime64("2024-02", "M"))).month == 2
    bad = [np.array([1j]), np.array([None]), np.datetime64(1, "as"), np.datetime64(2**62, "M"), np.timedelta64(1), np.datetime64("1970-01-01T00:00:00.000001"), np.datetime64("300000"), np.timedelta64(1, "M"),
           np.ma.array([1], mask=[1]), np.longdouble([1]), np.zeros(1, "i4,f4")]
    for x in bad:
        try: m.dumps([x])
        except EncodeError as e: assert (e.code, e.path) == ("TYPE", "$[0]")
        else: raise AssertionError(x)
    for x in ("d82882841b00000000ffffffff1b00000000ffffffff1b00000000ffffffff00d84040",):
        try: m.loads(bytes.fromhex(x))
        except DecodeError as e: assert e.code == "MALFORMED"
        else: raise AssertionError(x)
print("done")
"""

PANDAS_SCRIPT = """
import sys
sys.path[:0] = sys.argv[1:]
from support import IMPLEMENTATIONS
from ipcctl import EncodeError
import numpy as np, pandas as pd, pyarrow as pa
times = pd.to_datetime(["1970-01-01", None])
table = pd.DataFrame({"n": [1, 2], "when": times.tz_localize("UTC")})
zero = "c1fb0000000000000000"
one_way = [
    (table.to_dict("records"), "82a2616e01647768656e" + zero + "a2616e02647768656ef6"),
    (table.to_dict("list"), "a2616e820102647768656e82" + zero + "f6"),
    ([pd.NaT, pd.NA], "82f6f6"), (pd.Timedelta(1500, "ms"), "fb3ff8000000000000"),
    (pd.Series([1, 2], dtype="int8"), "d848420102"), (pd.Series([True]), "4101"), (pd.RangeIndex(1), "d84f480000000000000000"),
    (pd.Series(times), "82" + zero + "f6"), (table["when"], "82" + zero + "f6"), (table["when"].array, "82" + zero + "f6"),
    (pd.Series(["a", None]), "826161f6"), (pd.Series(["a", None], dtype="category"), "826161f6"),
    (pd.Series([1, None], dtype="Int64"), "8201f6"), (pd.Index(["a"]), "816161"), (pd.MultiIndex.from_tuples([(1, "a")]), "8182016161"),
]
bad = [
    ({"rows": [table]}, "$.rows[0]: cannot send DataFrame; send its to_dict('list'), or pyarrow.Table.from_pandas() of it"),
    ([pd.Timestamp("2024")], "$[0]: cannot send a naive Timestamp; give it a tzinfo, as with tz_localize('UTC')"),
    (pd.Series(pd.to_datetime(["1970-01-01 00:00:00.000001"])),
     "$[0]: cannot send 1970-01-01T00:00:00.000001, which is finer than milliseconds; send its astype('datetime64[ms]')"),
    (pd.Period("2024"), "$: cannot send Period; send str() of it"), (pa.scalar(1), "$: cannot send Int64Scalar; send its as_py()"),
    (pa.array([1]), "$: cannot send Int64Array; send its to_pylist()"),
]
class Itself(pd.Series):
    def to_numpy(self): return self
bad.append((Itself([1]), "$: more than 128 levels"))
for name, m in IMPLEMENTATIONS.items():
    for x, form in one_way:
        assert m.dumps(x).hex() == form, (name, x, m.dumps(x).hex())
    for x, message in bad:
        try: m.dumps(x)
        except EncodeError as e: assert str(e) == message, (name, e)
        else: raise AssertionError(x)
print("done")
"""


@skip_unless(PYTHON is not None, "NumPy, pandas and pyarrow from PyPI", "their arrays, scalars and columns")
class Tables(unittest.TestCase):
    def run_script(self, script: str) -> None:
        here = os.path.dirname(os.path.abspath(__file__))
        done = subprocess.run(
            [PYTHON or "", "-c", script, here, PACKAGES],
            capture_output=True,
            text=True,
            timeout=1200,
        )
        self.assertTrue(done.stdout.endswith("done\n"), done.stdout + done.stderr)

    def test_arrays_and_scalars_of_numpy(self) -> None:
        self.run_script(NUMPY_SCRIPT)

    def test_columns_and_missing_values_of_pandas(self) -> None:
        self.run_script(PANDAS_SCRIPT)


if __name__ == "__main__":
    unittest.main()
