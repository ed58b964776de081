"""Code strings: compiled as an expression or as statements whose last expression is the value, with top-level ``await``."""

from __future__ import annotations

import ast
import inspect
import itertools
import linecache
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

_numbers = itertools.count(1)
#: Sources kept for tracebacks; older ones are forgotten.
_SOURCES_MAX = 64
_sources: list[str] = []
_namespaces: dict[str, dict[str, Any]] = {}


def namespace(name: str | None) -> dict[str, Any]:
    """The worker's own (``__main__``), or an isolated one by its name, made on first use."""
    if name is None:
        return sys.modules["__main__"].__dict__
    if name not in _namespaces:
        _namespaces[name] = {"__name__": name, "__builtins__": __builtins__}
    return _namespaces[name]


def forget_namespace(name: str) -> None:
    _namespaces.pop(name, None)


def run(code: str, scope: dict[str, Any]) -> Any:
    """The value of the code, or a coroutine that gives it if the code awaits. None where it ends in no expression."""
    filename = f"<eval-{next(_numbers)}>"
    linecache.cache[filename] = (len(code), None, code.splitlines(True), filename)
    _sources.append(filename)
    if len(_sources) > _SOURCES_MAX:
        linecache.cache.pop(_sources.pop(0), None)
    tree = ast.parse(code, filename, "exec")
    last: ast.Expression | None = None
    if tree.body and isinstance(tree.body[-1], ast.Expr):
        last = ast.Expression(tree.body.pop().value)  # type: ignore[attr-defined]
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    body = compile(tree, filename, "exec", flags, dont_inherit=True) if tree.body else None
    value = compile(last, filename, "eval", flags, dont_inherit=True) if last is not None else None
    if any(part is not None and part.co_flags & inspect.CO_COROUTINE for part in (body, value)):
        return _run_async(body, value, scope)
    if body is not None:
        exec(body, scope)
    return None if value is None else eval(value, scope)


async def _run_async(body: types.CodeType | None, value: types.CodeType | None, scope: dict[str, Any]) -> Any:
    for part in (body, value):
        if part is None:
            continue
        result = eval(part, scope)
        if inspect.iscoroutine(result):
            result = await result
    return None if value is None else result


class Capture:
    """Stands in for ``sys.stdout`` and ``sys.stderr`` while code runs: what this thread writes goes to the client, all else where it went."""

    def __init__(self, tell: Callable[[str, str], None]) -> None:
        self._tell = tell
        self._thread = threading.get_ident()

    def __enter__(self) -> None:
        self._before = (sys.stdout, sys.stderr)
        sys.stdout = _Tee(self._before[0], "stdout", self)
        sys.stderr = _Tee(self._before[1], "stderr", self)

    def __exit__(self, *_: object) -> None:
        sys.stdout, sys.stderr = self._before

    def write(self, below: Any, stream: str, text: str) -> int:
        if threading.get_ident() != self._thread:
            return int(below.write(text))
        if text:
            self._tell(stream, text)
        return len(text)


class _Tee:
    def __init__(self, below: Any, stream: str, capture: Capture) -> None:
        self._below, self._stream, self._capture = below, stream, capture

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        return self._capture.write(self._below, self._stream, text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._below, name)
