"""Exceptions in the form that is sent, and back: type, message, traceback, cause, and the parts of a group."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable

from ._contract import ERROR_CHARS_MAX as _CHARACTERS_MAX
from ._contract import ERROR_LEVELS_MAX as _LEVELS_MAX
from ._contract import ERROR_PARTS_MAX as _ERRORS_MAX
from ._contract import STREAM_CREDIT_MAX as _CREDIT_MAX
from ._types import BrokenChannel, DecodeError, EncodeError, IpcError, JavaScriptError, RemoteError, undefined

TYPE_CHECKING = False  # as typing has it, which takes long to load
if TYPE_CHECKING:
    from types import CodeType, TracebackType
    from typing import Any, TypeVar

    _T = TypeVar("_T")

_OWN = os.path.dirname(__file__) + os.sep


def record_of(error: BaseException) -> dict[str, Any]:
    """Whatever the error and its classes do: an error must always be reported, and must never cause another one."""
    return _Telling().record(error, 0)


class _Telling:
    """One error. Chains in Python may be circular, long or wide, and texts endless: what exceeds the limits is left
    out.
    """

    def __init__(self) -> None:
        self._seen: list[object] = []
        self._room = _CHARACTERS_MAX

    def record(self, error: BaseException, level: int) -> dict[str, Any]:
        self._seen.append(error)
        is_theirs = isinstance(error, RemoteError)
        name = self._text(lambda: str(error.type) if is_theirs else _name_of(type(error)))  # type: ignore[attr-defined]
        record: dict[str, Any] = {
            "type": name,
            "message": self._text(lambda: str(error)),
            "traceback": self._traceback(error, name),
            "cause": self._below(_cause_of(error), level),
        }
        parts = (
            _tried(lambda: error.exceptions, lambda failure: None)  # type: ignore[attr-defined]
            if is_theirs
            else _parts_of(error)
        )
        if type(parts) is tuple and parts:
            told = (self._below(one, level) for one in parts[:_ERRORS_MAX])
            record["errors"] = [one for one in told if one is not None]
        if isinstance(error, (IpcError, RemoteError, EncodeError, DecodeError)):
            code = _tried(lambda: error.code, lambda failure: None)
            if isinstance(code, str):
                record["code"] = self._text(lambda: code)
        return record

    def _below(self, other: Any, level: int) -> dict[str, Any] | None:
        if (
            other is None
            or level >= _LEVELS_MAX
            or len(self._seen) >= _ERRORS_MAX
            or any(other is one for one in self._seen)
        ):
            return None
        if isinstance(other, BaseException):
            return self.record(other, level + 1)
        self._seen.append(other)
        return {
            "type": type(other).__name__,
            "message": self._text(lambda: str(other)),
            "traceback": None,
            "cause": None,
        }

    def _traceback(self, error: BaseException, name: str) -> str | None:
        """With source lines, without our frames; an error from the other side begins with its traceback there."""
        text = _tried(lambda: _traceback(error, name), lambda failure: None)
        return None if text is None else self._text(lambda: text)

    def _text(self, make: Callable[[], str]) -> str:
        text = _tried(lambda: _clean(make()), lambda failure: f"<no text: {type(failure).__name__}>")
        if len(text) > self._room:
            text = f"{text[: self._room]}… ({len(text)} characters)"
        self._room = max(0, self._room - len(text))
        return text


def _tried(work: Callable[[], _T], otherwise: Callable[[BaseException], _T]) -> _T:
    """Runs code of the user, such as ``__str__``: an exception in it is not the request's error, and SystemExit in it
    is not meant.
    """
    try:
        return work()
    except KeyboardInterrupt:  # from outside
        raise
    except BaseException as failure:
        return otherwise(failure)


def _name_of(kind: type) -> str:
    return (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )


# Python's own attribute of an error, whatever its class defines under the same name.
_cause, _context = BaseException.__dict__["__cause__"], BaseException.__dict__["__context__"]
_is_suppressed, _parts = BaseException.__dict__["__suppress_context__"], BaseExceptionGroup.__dict__["exceptions"]


def _cause_of(error: BaseException) -> Any:
    cause = _cause.__get__(error)
    if cause is None and isinstance(error, RemoteError):
        cause = _tried(lambda: error.cause, lambda failure: None)
    return _context.__get__(error) if cause is None and not _is_suppressed.__get__(error) else cause


def _parts_of(error: BaseException) -> tuple[BaseException, ...]:
    parts: tuple[BaseException, ...] = _parts.__get__(error) if isinstance(error, BaseExceptionGroup) else ()
    return parts


def _is_large(error: BaseException) -> bool:
    """Whether there is more behind it than is reported. To print its one line Python would look at all of that, again
    at each step.
    """
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting and len(seen) <= _ERRORS_MAX:
        one = waiting.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            waiting += (_cause.__get__(one), _context.__get__(one), *_parts_of(one)[: _ERRORS_MAX + 1])
    return len(seen) > _ERRORS_MAX


#: What a place in the code looks like in a traceback, by the identity of the code, which is kept: equal code may be in
#: two files. Python asks the disk for the file and parses the line, which takes longer than a caller busy-polls for the
#: answer, and most errors come from the same few places.
_places: dict[tuple[int, int], tuple[CodeType, str]] = {}
_PLACES_MAX = 256


def _frames(trace: TracebackType | None) -> list[str]:
    steps: list[tuple[TracebackType, CodeType, tuple[int, int]]] = []
    step = trace
    while step is not None and len(steps) < _PLACES_MAX:
        code = step.tb_frame.f_code
        if not code.co_filename.startswith(_OWN):
            steps.append((step, code, (id(code), step.tb_lasti)))
        step = step.tb_next
    lines = {(place[0], at.tb_lineno) for at, _, place in steps}
    if step is not None or len(lines) < len(steps):  # Python counts repeated lines
        own = [frame for frame in traceback.extract_tb(trace) if not frame.filename.startswith(_OWN)]
        return traceback.format_list(own)
    if len(_places) > _PLACES_MAX:
        _places.clear()
    texts = []
    for step, code, place in steps:
        known = _places.get(place)
        if known is None:
            known = _places[place] = code, "".join(traceback.format_list(traceback.extract_tb(step, 1)))
        texts.append(known[1])
    return texts


def _traceback(error: BaseException, name: str) -> str | None:
    frames = _frames(error.__traceback__)
    lines = ["Traceback (most recent call last):\n", *frames] if frames else []
    if isinstance(error, RemoteError):
        stack = error.stack if isinstance(error.stack, str) else None
        if not frames:
            return stack
        return "".join([*([stack.rstrip("\n") + "\n\n"] if stack else []), *lines, f"{name}: {error}\n"])
    return "".join([*lines, *([f"{name}: {error}\n"] if _is_large(error) else traceback.format_exception_only(error))])


def _clean(text: str) -> str:
    """Text that can be encoded as UTF-8: a lone surrogate in a message must not hide the error."""
    return str.encode(text, "utf-8", "backslashreplace").decode("utf-8")


def error_of(record: Any, kind: type[RemoteError] = JavaScriptError, level: int = 0) -> RemoteError:
    """What the other side says about an error, whatever that is."""
    if not isinstance(record, dict):
        return kind(_clean(str(record)))
    stack = record.get("traceback")
    error = kind(
        _clean(str(record.get("message", ""))),
        _clean(str(record.get("type", "Error"))),
        stack if type(stack) is str else None,
    )
    code = record.get("code")
    error.code = _clean(code) if isinstance(code, str) else None
    cause = record.get("cause")
    if level < _LEVELS_MAX:
        if type(cause) is dict and "message" in cause:
            cause = error_of(cause, kind, level + 1)
        parts = record.get("errors")
        if type(parts) is list:
            error.exceptions = tuple(error_of(part, kind, level + 1) for part in parts[:_ERRORS_MAX])
    error.cause = None if cause is undefined else cause
    if isinstance(cause, BaseException):
        error.__cause__ = cause
    return error


def credit_of(value: object) -> int:
    """How many items of a stream a message grants. :raises BrokenChannel:"""
    if type(value) is int and 0 < value <= _CREDIT_MAX:
        return value
    raise BrokenChannel(f"the credit of a stream must be from 1 to {_CREDIT_MAX} items")


def fault_of_call(message: list[Any]) -> IpcError | None:
    """Of a CALL, or of an INVOKE, whose number could be read: what it is answered with, where it is not one."""
    if len(message) == 5:
        _, _, name, args, kwargs = message
        if type(name) is str and type(args) is list and (kwargs is None or type(kwargs) is dict):
            return None
    return IpcError("BAD_REQUEST", "malformed: a call has a name, a list of arguments, and keyword arguments or null")
