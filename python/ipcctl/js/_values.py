"""Values of Python, as JavaScript can have them, and the limits on their size."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

from .._contract import (
    LARGE_BYTES_TO_ENGINE,
    REFERENCE_GUEST_FUNCTION,
    REFERENCE_OPERATION,
)
from .. import _types
from .._shared import is_shared, shared
from .._types import Tagged, Undefined, undefined

_SAFE = 2**53 - 1
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
#: Of the way to a value that is refused: more are not read by anybody.
_PLACE_PARTS = 8
_PLACE_CHARS = 40
#: What values count towards the limit on their bytes.
_COST_TEXT, _COST_NUMBER, _COST_LIST, _COST_ITEM, _COST_DICT = 16, 8, 16, 8, 24


class ValueRefused(RuntimeError):
    """A value that JavaScript cannot have."""

    #: Where it is in what was sent, from the inside out.
    _place: tuple[str, ...] = ()

    def inside(self, part: str) -> None:
        """What it is a part of has it there."""
        self._place += (part,)

    def __str__(self) -> str:
        text = super().__str__()
        if not self._place:
            return text
        parts = self._place[: -_PLACE_PARTS - 1 : -1]
        more = "…" if len(self._place) > len(parts) else ""
        return f"{text} (at {''.join(parts)}{more})"


class Limits:
    """:param depth: levels, a value that contains nothing being one
    :param size: bytes, roughly as memory of JavaScript counts
    """

    __slots__ = ("depth", "size")

    def __init__(self, depth: int, size: int) -> None:
        self.depth, self.size = depth, size


class Lowering:
    """Makes what can be encoded of one value, or of the arguments of one call.

    :param function: gives the number of a JsFunction, or raises
    :param stream: gives what a reference to a stream says; None for anything else. Or raises
    :param operation: gives number and mode of a Python callable; None if callables are refused
    """

    __slots__ = ("_function", "_limits", "_open", "_operation", "_size", "_stream")

    def __init__(
        self,
        limits: Limits,
        function: Callable[[Any], int | None],
        stream: Callable[[Any], tuple[int, ...] | None],
        operation: Callable[[Any, str], tuple[int, bool]] | None = None,
    ) -> None:
        self._limits, self._function, self._stream, self._operation = limits, function, stream, operation
        self._size = 0
        self._open: set[int] = set()

    def value(self, value: Any, depth: int = 1, name: str = "") -> Any:
        """:raises ValueRefused, TypeError:"""
        if depth > self._limits.depth:
            raise ValueRefused(f"Depth exceeded maximum limit of {self._limits.depth}")
        kind = type(value)
        if value is None or kind is bool or kind is Undefined:
            return value
        if kind is int or kind is float:
            self._pay(_COST_NUMBER)
            return value
        if kind is str:
            return self._text(value)
        if kind is bytes or kind is bytearray or kind is memoryview:
            return self._bytes(value)
        if kind is list:
            return self._items(value, "list", depth)
        if kind is dict:
            return self._dict(value, depth)
        return self._other(value, depth, name)

    def _pay(self, size: int) -> None:
        self._size += size
        if self._size > self._limits.size:
            raise ValueRefused(f"Size ({self._size} bytes) exceeded maximum limit of {self._limits.size} bytes")

    def _text(self, value: str) -> str:
        size = len(value)
        if size > self._limits.size or (not value.isascii() and (size := _bytes_of(value)) > self._limits.size):
            raise ValueRefused(f"String size limit exceeded: {size} > {self._limits.size}")
        self._pay(size + _COST_TEXT)
        return value

    def _bytes(self, value: Any) -> Any:
        size = len(value) if type(value) is not memoryview else value.nbytes
        if _types.share is not None and is_shared(value):
            return value
        self._pay(size)
        made = _once(value, size) if size >= LARGE_BYTES_TO_ENGINE else None
        return made if made is not None else value if type(value) is not memoryview else _lowered(value)

    def _enter(self, value: Any, what: str) -> int:
        identity = id(value)
        if identity in self._open:
            raise ValueRefused(f"Circular reference detected while converting Python {what}")
        self._open.add(identity)
        return identity

    def _items(self, value: Any, what: str, depth: int) -> list[Any]:
        identity = self._enter(value, what)
        self._pay(_COST_LIST + _COST_ITEM * len(value))
        made: list[Any] = []
        try:
            for one in value:
                made.append(self.value(one, depth + 1))
        except ValueRefused as error:
            error.inside(f"[{len(made)}]")
            raise
        self._open.discard(identity)
        return made

    def _dict(self, value: dict[Any, Any], depth: int) -> dict[str, Any]:
        identity = self._enter(value, "dict")
        self._pay(_COST_DICT + _COST_LIST * len(value))
        made = {}
        key: Any = ""
        try:
            for key, one in value.items():
                if not isinstance(key, str):
                    raise TypeError(
                        f"a dict with the key {key!r} has no counterpart in JavaScript; its keys must be strings"
                    )
                self._pay((len(key) if key.isascii() else _bytes_of(key)) + _COST_ITEM)
                made[str(key)] = self.value(one, depth + 1, key)
        except ValueRefused as error:
            error.inside(f"[{key!r:.{_PLACE_CHARS}}]")
            raise
        self._open.discard(identity)
        return made

    def _other(self, value: Any, depth: int, name: str) -> Any:
        number = self._function(value)
        if number is not None:
            return Tagged(27, ["ipcctl.Reference", REFERENCE_GUEST_FUNCTION, number])
        if isinstance(value, (set, frozenset)):
            return Tagged(258, self._items(value, "set", depth))
        if isinstance(value, tuple):
            return self._items(value, "tuple", depth)
        if isinstance(value, datetime.datetime):
            return _date(value)
        if isinstance(value, str):
            return self._text(str.__str__(value))
        if isinstance(value, (int, float, bytes, bytearray)):
            return self.value(_plain(value), depth)
        if isinstance(value, list):
            return self._items(list(value), "list", depth)
        if isinstance(value, dict):
            return self._dict(dict(value), depth)
        stream = self._stream(value)
        if stream is not None:
            return Tagged(27, ["ipcctl.Reference", *stream])
        if self._operation is not None and callable(value):
            number, is_async = self._operation(value, name)
            return Tagged(27, ["ipcctl.Reference", REFERENCE_OPERATION, number, is_async, name])
        if _is_array(value):
            if _types.share is None or not is_shared(value):
                self._pay(memoryview(value).nbytes if type(value).__name__ == "array" else int(value.nbytes))
                return _lowered(value)
            return value
        for convert in (lambda: int(value.__index__()), lambda: float(value.__float__())):
            try:
                return self.value(convert(), depth)
            except (AttributeError, TypeError):  # a class has the methods, too
                continue
        raise ValueRefused(
            f"Unsupported Python type for JSValue conversion: {type(value).__name__}; "
            + (
                "bind_function() lends JavaScript a function"
                if callable(value)
                else "send None, bool, int, float, str, bytes, list, tuple, dict, set, datetime or a JsFunction"
            )
        )


def _once(value: Any, size: int) -> memoryview | None:
    """The same in memory that JavaScript gets as its own: copied once. None where there is no such memory, or of a form
    that this one cannot have.
    """
    try:
        memory = shared(size)
        if type(value) is not memoryview:
            memory[:] = value
            return memory
        memory[:] = value.cast("B")
        return memory.cast(value.format, value.shape)  # type: ignore[call-overload,no-any-return]
    except (OSError, TypeError, ValueError):
        return None


def _lowered(value: Any) -> Any:
    """Of an array what the codec would make of it. :raises ValueRefused: that says what to do"""
    try:
        tag, form = _types.lower(value)
    except _types.Refused as error:
        said = str(error).removeprefix("cannot send ")
        raise ValueRefused(f"Unsupported Python type for JSValue conversion: {said}") from None
    return form if tag is None else _types.Tagged(tag, form)


def _bytes_of(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise ValueRefused(
            "Unsupported Python type for JSValue conversion: str with a lone surrogate; "
            "text.encode(errors='replace').decode() mends it"
        ) from None


def _plain(value: Any) -> Any:
    """Of a subclass, such as an enum or a bool of a library."""
    if isinstance(value, int):
        return int.__int__(value)
    return float.__float__(value) if isinstance(value, float) else bytes(value)


def _date(value: datetime.datetime) -> Tagged:
    """In milliseconds, which is what a Date has; without a zone it is taken as UTC."""
    aware = value if value.tzinfo is not None else value.replace(tzinfo=datetime.timezone.utc)
    ms = round((aware - _EPOCH) / datetime.timedelta(milliseconds=1))
    return Tagged(1, ms / 1000)


def _is_array(value: Any) -> bool:
    return hasattr(value, "nbytes") and hasattr(value, "dtype") or type(value).__name__ == "array"


__all__ = ["Limits", "Lowering", "ValueRefused", "undefined"]
