"""What goes wrong in JavaScript, as Python sees it."""

from __future__ import annotations

import re
from typing import Any, TypedDict


class JsFrame(TypedDict, total=False):
    """One call of a stack: lines and columns count from 1."""

    function_name: str
    file_name: str
    line_number: int
    column_number: int


class JavaScriptError(Exception):
    """JavaScript threw something that nothing there caught.

    ``__cause__`` is the Python exception of a bound function, if that is where it began; else ``cause`` of the error.
    """

    #: Class of the error, such as ``"TypeError"``; None for a value that is no error.
    name: str | None
    message: str | None
    #: The error and the calls that led to it, without those of ipcctl.
    stack: str | None
    frames: list[JsFrame]
    #: Own properties of the error that are text, numbers or booleans.
    properties: dict[str, Any]
    #: Those of an ``AggregateError``.
    errors: list[JavaScriptError]

    def __init__(
        self,
        text: str = "",
        *,
        name: str | None = None,
        message: str | None = None,
        stack: str | None = None,
        frames: list[JsFrame] | None = None,
        properties: dict[str, Any] | None = None,
        errors: list[JavaScriptError] | None = None,
    ) -> None:
        super().__init__(text)
        self.name, self.message, self.stack = name, message, stack
        self.frames = [] if frames is None else frames
        self.properties = {} if properties is None else properties
        self.errors = [] if errors is None else errors

    @property
    def cause(self) -> BaseException | None:
        return self.__cause__


class RuntimeTerminated(RuntimeError):
    """The process of the runtime has ended: by ``terminate()``, by a limit, or by itself."""


class JsTimeout(RuntimeError, TimeoutError):
    """JavaScript did not end in time. The runtime can be used again."""


class BundleError(RuntimeError):
    """Code, or a package, of which no module can be made."""


class JsPermissionError(PermissionError):
    """A permission that is not declared: names it, and what would declare it."""


_PREFIX = {
    "eval": "Evaluation failed",
    "module": "Module evaluation failed",
    "call": "Function call failed",
    "stream": "Stream failed",
}


def error_of(record: Any, kind: str, origin: Any = None, level: int = 0) -> JavaScriptError:
    """:param record: what the engine says of it: everything in it may be something else
    :param origin: gives the Python exception behind the number of a call of a bound function, if there is one
    """
    form = record if type(record) is dict else {}
    name, message = _text(form.get("name")), _text(form.get("message"))
    shown = message or ""
    if name is not None:
        shown = f"{name}: {message}" if message else name
    error = JavaScriptError(
        f"{_PREFIX[kind]}: {shown}" if level == 0 else shown,
        name=name,
        message=message,
        stack=_text(form.get("stack")),
        frames=_frames(form.get("frames")),
        properties=_properties(form.get("properties")),
        errors=[error_of(one, kind, origin, level + 1) for one in _list(form.get("errors"))] if level < 16 else [],
    )
    raised = origin(form.get("origin")) if origin is not None and type(form.get("origin")) is int else None
    if raised is not None:
        error.__cause__ = raised
    elif type(form.get("cause")) is dict and level < 16:
        error.__cause__ = error_of(form["cause"], kind, origin, level + 1)
    return error


def _text(value: Any) -> str | None:
    return value if type(value) is str else None


def _list(value: Any) -> list[Any]:
    return value if type(value) is list else []


def _frames(value: Any) -> list[JsFrame]:
    kinds = {"function_name": str, "file_name": str, "line_number": int, "column_number": int}
    frames: list[JsFrame] = []
    for one in _list(value):
        if type(one) is dict:
            frame: Any = {key: one[key] for key, kind in kinds.items() if type(one.get(key)) is kind}
            frames.append(frame)
    return frames


def _properties(value: Any) -> dict[str, Any]:
    plain = (str, int, float, bool, type(None))
    return {key: one for key, one in value.items() if type(one) in plain} if type(value) is dict else {}


_MODULE = re.compile(r"^\s*(?:import\b(?!\s*[(.])|export\b)", re.MULTILINE)
_AWAIT = re.compile(r"\bawait\b")
_BIND = "runtime.bind_function(name, function) lends it a function of Python"
#: What browsers or Node have, and the way to it here.
_ELSEWHERE = {
    "require": "runtime.eval_module(name) and `import` load packages of npm, from the folder of the setting modules=",
    "process": _BIND,
    "Buffer": "bytes of Python are a Uint8Array",
    "fetch": "the setting allow_net=['host:443'] lets it fetch from there, or " + _BIND,
    **dict.fromkeys(("XMLHttpRequest", "URL", "URLSearchParams", "TextEncoder", "TextDecoder"), _BIND),
    **dict.fromkeys(("crypto", "structuredClone", "atob", "btoa", "performance", "setImmediate"), _BIND),
}
_MISSING = re.compile(r"(\w+) is not defined\Z")


def advise(error: BaseException | None, code: Any) -> None:
    """What may help, of an error of syntax or a name: the engine knows nothing of Python's ways."""
    if type(error) is not JavaScriptError or type(code) is not str:
        return
    if error.name == "ReferenceError":
        found = _MISSING.match(error.message or "")
        if found and (way := _ELSEWHERE.get(found[1])):
            error.add_note(f"Note: a runtime has no {found[1]}, which belongs to browsers and Node: {way}")
    elif error.name != "SyntaxError":
        return
    elif _MODULE.search(code):
        error.add_note(
            "Note: this is evaluated as a script; `import` and `export` belong into modules: "
            "runtime.add_static_module(name, source), then runtime.eval_module(name)"
        )
    elif _AWAIT.search(code):
        error.add_note(
            "Note: a script has no top-level `await`; wrap it: runtime.eval_async('(async () => { … })()'), "
            "or make it a module, for eval_module()"
        )
