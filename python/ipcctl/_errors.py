"""Exceptions as what crosses of them, and back: type, message, traceback, cause, and the parts of a group."""

from __future__ import annotations

import os
import traceback

from ._types import DecodeError, EncodeError, JavaScriptError, undefined

TYPE_CHECKING = False  # as typing has it, which takes long to load
if TYPE_CHECKING:
    from typing import Any

#: Two levels of a value each, so that telling of an error never ends in DEPTH.
_LEVELS_MAX = 16
#: Of all causes and parts of one error.
_ERRORS_MAX = 128
_OWN = os.path.dirname(__file__) + os.sep


def record_of(error: BaseException, seen: list[BaseException] | None = None, level: int = 0) -> dict[str, Any]:
    """Chains may be circular, long or wide in Python: what is beyond the limits is left out, for an error is always worth telling."""
    seen = [] if seen is None else seen
    seen.append(error)

    def below(other: Any) -> dict[str, Any] | None:
        if level >= _LEVELS_MAX or len(seen) >= _ERRORS_MAX or any(other is one for one in seen):
            return None
        if isinstance(other, BaseException):
            return record_of(other, seen, level + 1)
        return {"type": type(other).__name__, "message": _text(other), "traceback": None, "cause": None}

    cause: Any = error.__cause__
    if cause is None and isinstance(error, JavaScriptError):
        cause = error.cause
    if cause is None and not error.__suppress_context__:
        cause = error.__context__
    parts = error.exceptions if isinstance(error, (BaseExceptionGroup, JavaScriptError)) else ()
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(error, JavaScriptError):
        name = str(error.type)
    record: dict[str, Any] = {
        "type": _clean(name),
        "message": _text(error),
        "traceback": _traceback(error, name),
        "cause": None if cause is None else below(cause),
    }
    if parts:
        record["errors"] = [one for one in map(below, parts) if one is not None]
    if isinstance(error, (EncodeError, DecodeError)):
        record["code"] = error.code
    return record


def _traceback(error: BaseException, name: str) -> str | None:
    """With source lines, without frames of ours; of an error of the other side first where it was there."""
    try:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_OWN)]
        lines = ["Traceback (most recent call last):\n", *traceback.format_list(frames)] if frames else []
        if isinstance(error, JavaScriptError):
            stack = error.stack if isinstance(error.stack, str) else None
            if not frames:
                return None if stack is None else _clean(stack)
            lines = [*([stack.rstrip("\n") + "\n\n"] if stack else []), *lines, f"{name}: {_text(error)}\n"]
        else:
            lines += traceback.format_exception_only(error)
        return _clean("".join(lines))
    except Exception:  # of the user's
        return None


def _text(value: object) -> str:
    try:
        return _clean(str(value))
    except Exception as failure:  # a __str__ of the user's
        return f"<no text: {type(failure).__name__}>"


def _clean(text: str) -> str:
    """Text that has a UTF-8 form: a lone surrogate in a message must not hide the error that it tells of."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def error_of(record: Any, level: int = 0) -> JavaScriptError:
    """What the client says of an error, whatever it says."""
    if not isinstance(record, dict):
        return JavaScriptError(_text(record))
    stack = record.get("traceback")
    error = JavaScriptError(_text(record.get("message", "")), _text(record.get("type", "Error")), stack if type(stack) is str else None)
    cause = record.get("cause")
    if level < _LEVELS_MAX:
        if type(cause) is dict and "message" in cause:
            cause = error_of(cause, level + 1)
        parts = record.get("errors")
        if type(parts) is list:
            error.exceptions = tuple(error_of(part, level + 1) for part in parts[:_ERRORS_MAX])
    error.cause = None if cause is undefined else cause
    if isinstance(cause, BaseException):
        error.__cause__ = cause
    return error
