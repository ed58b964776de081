"""What runs in a runtime before anything else, as bytes: scripts and modules that were tried once.

No picture of a heap: an engine that starts from one is slower than one that comes from the pool and runs the scripts.
That is why a snapshot can contain modules too, and works with each engine and version.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from .._backend import DecodeError, dumps, loads
from .._contract import MESSAGE_BYTES_MAX
from ._config import RuntimeConfig

if TYPE_CHECKING:
    from ._runtime import Runtime

_MAGIC, _VERSION = b"ipcctl.js snapshot\n", 1
#: Magic, version, digest of what follows.
_HEAD = struct.Struct(f"<{len(_MAGIC)}sH32s")
_BUILT = "Snapshot already built"

Kind = Literal["script", "module", "define"]
_KINDS = ("script", "module", "define")


class Step(NamedTuple):
    """One thing that is done at the start: a script is run; a module is defined, or evaluated by its name."""

    kind: Kind
    name: str
    source: str | bytes


class Snapshot:
    """What is in the bytes. Two with the same digest do the same."""

    def __init__(self, data: bytes) -> None:
        """:raises RuntimeError: if these are not bytes that ``SnapshotBuilder.build()`` gave"""
        why = _fault(data)
        if why is not None:
            raise RuntimeError(
                f"snapshot of {len(data)} bytes cannot be used: {why}; SnapshotBuilder.build() makes one"
            )
        self.digest = _HEAD.unpack_from(data)[2]
        try:
            self.steps = [_step(one) for one in loads(data[_HEAD.size :])]
        except (DecodeError, TypeError, ValueError) as error:
            raise RuntimeError(f"snapshot of {len(data)} bytes cannot be used: its steps are malformed") from error

    def replay(self, runtime: Runtime) -> None:
        """In a runtime in which nothing ran yet. :raises JavaScriptError: what a script throws now"""
        for step in self.steps:
            perform(runtime, step)


def perform(runtime: Runtime, step: Step) -> None:
    if step.kind == "script":
        runtime._run_first(str(step.source), step.name)
    elif step.kind == "define":
        runtime.add_static_module(step.name, step.source)
    else:
        runtime._load_first(step.name)


def _fault(data: bytes) -> str | None:
    if not data.startswith(_MAGIC[:8]):
        return "it is none of ipcctl.js (one of jsrun, or of V8, is an image of its heap)"
    if len(data) < _HEAD.size:
        return "it is truncated"
    magic, version, digest = _HEAD.unpack_from(data)
    if magic != _MAGIC:
        return "it is none of ipcctl.js"
    if version != _VERSION:
        return f"it is of version {version}, and this ipcctl reads version {_VERSION}"
    if hashlib.sha256(data[_HEAD.size :]).digest() != digest:
        return "it is truncated, or was changed"
    return None


def _step(form: Any) -> Step:
    kind, name, source = form
    if kind not in _KINDS or type(name) is not str or not isinstance(source, (str, bytes)):
        raise ValueError("a step of an unknown form")
    return Step(kind, name, source)


class SnapshotBuilder:
    """Collects scripts for ``RuntimeConfig(snapshot=…)``: each runs at once, in a runtime of the builder."""

    def __init__(self, bootstrap: str | None = None, enable_console: bool | None = False) -> None:
        """:param bootstrap: a script that runs first, as ``<bootstrap>``
        :param enable_console: what the console is told while the snapshot is made is printed
        :raises JavaScriptError: what the bootstrap throws
        """
        self._steps: list[Step] = []
        self._config = RuntimeConfig(enable_console=enable_console)
        self._runtime: Runtime | None = None
        self._is_built = False
        if bootstrap is not None:
            self.execute_script("<bootstrap>", bootstrap)

    def execute_script(self, name: str, source: str) -> None:
        """A classic script. One that fails does not become a part of the snapshot.

        :param name: of its file, in stacks of errors
        :raises JavaScriptError: what it throws, also a ``SyntaxError``
        :raises RuntimeError: after :meth:`build`
        """
        self._add(Step("script", _string("name", name), _string("source", source)))

    def add_static_module(self, name: str, source: str | bytes) -> None:
        """As :meth:`Runtime.add_static_module`, in each of the runtimes. :raises RuntimeError: after :meth:`build`"""
        self._add(Step("define", _string("name", name), source))

    def eval_module(self, specifier: str) -> None:
        """Evaluates a module that was added, so that runtimes have its state. :raises JavaScriptError, RuntimeError:"""
        self._add(Step("module", _string("specifier", specifier), ""))

    def _add(self, step: Step) -> None:
        if self._is_built:
            raise RuntimeError(_BUILT)
        if self._runtime is None:
            from ._runtime import Runtime

            self._runtime = Runtime(self._config)
        perform(self._runtime, step)
        self._steps.append(step)

    def build(self) -> bytes:
        """The snapshot, once. Equal scripts give equal bytes.

        :raises RuntimeError: if it was built before, or is too large
        """
        if self._is_built:
            raise RuntimeError(_BUILT)
        body: bytes = dumps([list(step) for step in self._steps], MESSAGE_BYTES_MAX)
        self._is_built = True
        self._steps = []
        runtime, self._runtime = self._runtime, None
        if runtime is not None:
            runtime.close()
        return _HEAD.pack(_MAGIC, _VERSION, hashlib.sha256(body).digest()) + body

    def create_snapshot(self) -> bytes:
        """Another name of :meth:`build`."""
        return self.build()

    def __repr__(self) -> str:
        return f"<SnapshotBuilder of {'a snapshot that is built' if self._is_built else f'{len(self._steps)} steps'}>"


def _string(what: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{what} must be str, not {type(value).__name__}")
    return value
