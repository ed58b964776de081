"""Code strings: compiled as an expression, or as statements whose last expression is the value, with top-level
``await``.
"""

from __future__ import annotations

import _thread
import ast
import builtins
import inspect
import itertools
import linecache
import os
import sys
import threading
import time
import types
from collections.abc import Callable, Iterable

from ._backend import BrokenChannel, Interrupted, shield, unshield

TYPE_CHECKING = False  # as typing has it, which takes long to load
if TYPE_CHECKING:
    from typing import Any

_numbers = itertools.count(1)
#: Sources kept for tracebacks; older ones are forgotten.
_SOURCES_MAX = 64
_sources: list[str] = []
_namespaces: dict[str, dict[str, Any]] = {}


def namespace(name: str | None) -> dict[str, Any]:
    """The worker's own (``__main__``), or an isolated one by its name, created on first use."""
    if name is None:
        return sys.modules["__main__"].__dict__
    if name not in _namespaces:
        _namespaces[name] = {"__name__": name, "__builtins__": builtins}
    return _namespaces[name]


def forget_namespace(name: str) -> None:
    _namespaces.pop(name, None)


def run(code: str, scope: dict[str, Any]) -> Any:
    """The value of the code, or a coroutine for it if the code awaits. None if it does not end in an expression."""
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
    """Replaces ``sys.stdout`` and ``sys.stderr`` while code runs: output of this thread goes to the client, other
    output where it went before.

    Output is joined and sent a few milliseconds later by a thread of ours, so that it is visible while the code runs
    on; beyond a limit the code itself sends it, and waits while the client has no room.
    :param tell: sends text of a stream. The third argument says whether to wait for room; without waiting it returns
    False if there is none
    """

    def __init__(self, tell: Callable[[str, str, bool], bool]) -> None:
        self._tell = tell
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._parts: list[tuple[str, str]] = []
        self._chars = 0
        self._is_over = False

    def __enter__(self) -> None:
        self._before = (sys.stdout, sys.stderr)
        sys.stdout = _Tee(self._before[0], "stdout", self)
        sys.stderr = _Tee(self._before[1], "stderr", self)
        _captures.add(self)

    def __exit__(self, *_: object) -> None:
        sys.stdout, sys.stderr = self._before
        _captures.discard(self)
        try:
            self._send(True)
        except (BrokenChannel, Interrupted):
            pass  # the answer is next, and reports it
        self._is_over = True

    def write(self, below: Any, stream: str, text: str) -> int:
        if threading.get_ident() != self._thread or self._is_over:
            return int(below.write(text))
        if not text.isascii():
            if stream == "stderr":
                text = text.encode("utf-8", "backslashreplace").decode()
            else:
                text.encode()  # like Python's own stream: a lone surrogate is an error of the print
        was_exposed = shield()
        try:
            with self._lock:
                # In pieces from the beginning, without copying the rest of a long text for each.
                for at in range(0, len(text), _PIECE_CHARS):
                    self._parts.append((stream, text[at : at + _PIECE_CHARS]))
                self._chars += len(text)
                is_much = self._chars > _EAGER_CHARS
            if is_much:
                self._send(True)
            else:
                _flusher.arm(self)
        finally:
            if was_exposed:
                unshield()
        return len(text)

    def _send(self, is_paced: bool) -> bool:
        """False if the client has no room for it now."""
        while True:
            with self._lock:  # never while it waits: the printing code could not be interrupted
                if not self._parts:
                    return True
                stream = self._parts[0][0]
                count = size = 0
                for its, part in self._parts:
                    size += len(part)
                    if its != stream or (count > 0 and size > _PIECE_CHARS):
                        break
                    count += 1
                piece = "".join(part for _, part in self._parts[:count])
                del self._parts[:count]
                self._chars -= len(piece)
                if not is_paced:  # in order and without waiting: with the lock held
                    if self._tell(stream, piece, False):
                        continue
                    self._parts.insert(0, (stream, piece))
                    self._chars += len(piece)
                    return False
            self._tell(stream, piece, True)

    def flush_soon(self) -> bool:
        """Called by our thread. True if it must come again."""
        return not self._is_over and not self._send(False)

    def abandon(self) -> None:
        """In a forked child: the client is the parent's."""
        self._is_over = True
        self._parts.clear()


#: Characters that are sent together, and the most that wait for the thread.
_PIECE_CHARS = 32_768
_EAGER_CHARS = 16_384
_FLUSH_SECONDS = 0.004
_captures: set[Capture] = set()


class _Flusher:
    """Sends what was printed a moment ago, in a thread that the first print starts."""

    def __init__(self) -> None:
        self._armed: set[Capture] = set()
        self._has_some = threading.Event()
        self._is_started = False

    def arm(self, capture: Capture) -> None:
        self._armed.add(capture)
        if not self._has_some.is_set():
            self._has_some.set()
        if not self._is_started:
            self._is_started = True
            _thread.start_new_thread(self._run, ())

    def _run(self) -> None:
        while True:
            self._has_some.wait()
            time.sleep(_FLUSH_SECONDS)
            self._has_some.clear()
            for capture in list(self._armed):
                self._armed.discard(capture)
                try:
                    if capture.flush_soon():
                        self.arm(capture)
                except Exception:
                    capture.abandon()  # the client is gone


_flusher = _Flusher()


def _forget() -> None:
    global _flusher
    for capture in _captures:
        capture.abandon()
    _flusher = _Flusher()


os.register_at_fork(after_in_child=_forget)


class _Tee:
    def __init__(self, below: Any, stream: str, capture: Capture) -> None:
        self._below, self._stream, self._capture = below, stream, capture

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        return self._capture.write(self._below, self._stream, text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._below.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._below, name)
