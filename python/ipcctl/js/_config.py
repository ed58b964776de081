"""How a runtime is to be: limits, what runs first, what it may do."""

from __future__ import annotations

import ipaddress
import math
import os
import re
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Literal, TypedDict, TypeVar

from .._contract import VALUE_DEPTH, VALUE_SIZE

Seconds = float | int | timedelta
T = TypeVar("T")

_PORT_MAX = 65535
_HOST_AND_PORT = re.compile(r"(?P<host>[^\s\0]+):(?P<port>\d{1,5}|\*)\Z", re.ASCII)
#: Clocks of the engine and of the kernel count no further than some centuries.
_SECONDS_MAX = 1e9
#: Sizes and times of the kernel have 64 bits, some of them with a sign.
_BYTES_MAX = 2**62


def seconds_of(timeout: Any, name: str = "Timeout") -> float | None:
    """:raises ValueError: unless it is a positive, finite time, or None"""
    if timeout is None:
        return None
    if isinstance(timeout, timedelta):
        seconds = timeout.total_seconds()
    elif isinstance(timeout, (int, float)) and not isinstance(timeout, bool):
        try:
            seconds = float(timeout)
        except OverflowError:
            seconds = math.inf
    else:
        raise ValueError(f"{name} must be a number (int/float) or datetime.timedelta, not {type(timeout).__name__}")
    if not math.isfinite(seconds):
        raise ValueError(f"{name} must be finite, not {seconds}")
    if seconds < 0:
        raise ValueError(f"{name} cannot be negative: {seconds:g}")
    if seconds == 0:
        raise ValueError(f"{name} cannot be zero; leave it out{' to wait without end' if name == 'Timeout' else ''}")
    return min(seconds, _SECONDS_MAX)


def _several(name: str, value: Any) -> tuple[str, ...]:
    """One text, or a path, is one of them, and not its letters."""
    if isinstance(value, (str, os.PathLike)):
        value = (value,)
    if isinstance(value, bytes) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a str or several, such as a list of them, not {type(value).__name__}")
    found = tuple(os.fspath(one) if isinstance(one, os.PathLike) else one for one in value)
    for one in found:
        if not isinstance(one, str) or not one:
            raise ValueError(f"{name}: {one!r} is not a text that is not empty")
    return found


def permissions_of(value: Any) -> frozenset[str]:
    return frozenset(_several("permissions", value))


def _hosts(value: Any) -> tuple[str, ...]:
    hosts = _several("allow_net", value)
    for one in hosts:
        found = _HOST_AND_PORT.match(one)
        if not found or found["host"] == "*" or not (found["port"] == "*" or 0 < int(found["port"]) <= _PORT_MAX):
            raise ValueError(f"allow_net: {one!r} is not HOST:PORT, such as 'api.example.com:443' or '10.0.0.0/8:*'")
    return hosts


def _positive(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if value <= 0:
        raise ValueError(f"{name} must be a positive integer, not {value}")
    return min(value, _BYTES_MAX)


def _optional(name: str, value: Any, kind: type[T]) -> T | None:
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{name} must be {kind.__name__}, not {type(value).__name__}")
    return value


def _snapshot(value: Any) -> bytes:
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise TypeError(f"snapshot must be bytes, as SnapshotBuilder.build() gives them, not {type(value).__name__}")
    if len(value) == 0:
        raise ValueError("Snapshot cannot be empty")
    return bytes(value)


class InspectorConfig:
    """Where debuggers connect to."""

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 9229,
        wait_for_connection: bool = False,
        break_on_next_statement: bool = False,
        target_url: str | None = None,
        display_name: str | None = None,
    ) -> None:
        """:param port: 0 for any that is free
        :param wait_for_connection: nothing runs before a debugger is there
        """
        if isinstance(port, bool) or not isinstance(port, int):
            raise TypeError(f"port must be an int, not {type(port).__name__}")
        if not 0 <= port <= _PORT_MAX:
            raise ValueError(f"port {port} is not between 0 and {_PORT_MAX}")
        if not isinstance(host, str):
            raise TypeError(f"host must be str, not {type(host).__name__}")
        if not host:
            raise ValueError("host is empty; 127.0.0.1 is this machine")
        self._host, self._port = host, port
        self.wait_for_connection, self.break_on_next_statement = wait_for_connection, break_on_next_statement
        self.target_url, self.display_name = target_url, display_name

    @property
    def host(self) -> str:
        return self._host

    @property
    def port(self) -> int:
        return self._port

    def endpoint(self) -> str:
        try:
            is_v6 = ipaddress.ip_address(self._host).version == 6
        except ValueError:
            is_v6 = False
        return f"[{self._host}]:{self._port}" if is_v6 else f"{self._host}:{self._port}"

    def __repr__(self) -> str:
        return f"InspectorConfig(host={self._host!r}, port={self._port})"


class Settings(TypedDict, total=False):
    """Those of :class:`RuntimeConfig` as keywords of :class:`Runtime`, which type checkers know by this."""

    max_heap_size: int | None
    initial_heap_size: int | None
    bootstrap: str | None
    timeout: Seconds | None
    enable_console: bool | None
    inspector: InspectorConfig | None
    snapshot: bytes | None
    max_serialization_depth: int | None
    max_serialization_bytes: int | None
    permissions: Iterable[str] | None
    engine: Literal["bun", "v8"] | None
    confine: bool | Literal["auto"]
    allow_net: Iterable[str]
    allow_read: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
    max_memory: int | None
    max_cpu: float | None
    typescript: bool
    modules: str | os.PathLike[str] | None
    daemon: bool


class RuntimeConfig:
    """Settings of a :class:`Runtime`. A runtime takes a copy: later changes concern those that are made later."""

    def __init__(
        self,
        max_heap_size: int | None = None,
        initial_heap_size: int | None = None,
        bootstrap: str | None = None,
        timeout: Seconds | None = None,
        enable_console: bool | None = False,
        inspector: InspectorConfig | None = None,
        snapshot: bytes | None = None,
        max_serialization_depth: int | None = None,
        max_serialization_bytes: int | None = None,
        *,
        permissions: Iterable[str] | None = None,
        engine: Literal["bun", "v8"] | None = None,
        confine: bool | Literal["auto"] = "auto",
        allow_net: Iterable[str] = (),
        allow_read: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] = (),
        max_memory: int | None = None,
        max_cpu: float | None = None,
        daemon: bool = False,
        typescript: bool = False,
        modules: str | os.PathLike[str] | None = None,
    ) -> None:
        """:param max_heap_size: bytes of memory that JavaScript may use, buffers included; the whole process is meant
        :param bootstrap: code that runs first, as ``<bootstrap>``
        :param timeout: seconds for each evaluation and call that names none
        :param enable_console: what the console is told is printed
        :param snapshot: what :meth:`SnapshotBuilder.build` gave
        :param max_serialization_depth: levels of a value that crosses; more than 120 is 120
        :param permissions: those that bound functions may ask for; None: all
        :param engine: ``"v8"`` is Node, which ``inspector`` needs
        :param confine: ``"auto"``: in a sandbox, or an error where there can be none; False: without one
        :param allow_net: ``host:port`` that it may ``fetch`` from
        :param allow_read: files and folders that it may read by ``readFile``
        :param max_memory: bytes that its code may have beyond its engine, as ``max_heap_size``; the lower one counts
        :param max_cpu: seconds of processor time of its whole life
        :param daemon: it is a worker of the daemon, which has to run, and ``ipcctl status --all`` shows it
        :param typescript: all code is TypeScript, unless the name of a module says otherwise; types are not checked
        :param modules: a folder with ``node_modules``, whose packages can be imported
        """
        self._heap: int | None = None
        self._initial: int | None = None
        self._timeout: float | None = None
        self._depth, self._bytes = VALUE_DEPTH, VALUE_SIZE
        self._bootstrap = _optional("bootstrap", bootstrap, str)
        self._snapshot = None if snapshot is None else _snapshot(snapshot)
        self._enable_console = bool(enable_console)
        self.inspector = inspector
        if snapshot is not None and bootstrap is not None:
            raise ValueError("snapshot and bootstrap cannot be used together")
        if max_heap_size is not None:
            self.max_heap_size = max_heap_size
        if initial_heap_size is not None:
            self.initial_heap_size = initial_heap_size
        if timeout is not None:
            self._timeout = seconds_of(timeout)
        if max_serialization_depth is not None:
            self.max_serialization_depth = max_serialization_depth
        if max_serialization_bytes is not None:
            self.max_serialization_bytes = max_serialization_bytes
        if engine not in (None, "bun", "v8"):
            raise ValueError(f"engine {engine!r} is not known; there are 'bun' and 'v8'")
        if confine not in (True, False, "auto"):
            raise ValueError(f"confine {confine!r} is not known; there are 'auto', True and False")
        self.permissions = None if permissions is None else permissions_of(permissions)
        self.engine = engine
        self.confine = confine
        self.allow_net, self.allow_read = _hosts(allow_net), _several("allow_read", allow_read)
        self.max_memory = None if max_memory is None else _positive("max_memory", max_memory)
        self.max_cpu = seconds_of(max_cpu, "max_cpu")
        self.daemon = _optional("daemon", daemon, bool) or False
        self.typescript = _optional("typescript", typescript, bool) or False
        if modules is not None and not isinstance(modules, (str, os.PathLike)):
            raise TypeError(f"modules must be the path of a folder, as str or Path, not {type(modules).__name__}")
        self.modules = None if modules is None else os.fspath(modules)

    @property
    def max_heap_size(self) -> int | None:
        return self._heap

    @max_heap_size.setter
    def max_heap_size(self, value: int) -> None:
        self._heap = _positive("max_heap_size", value)

    @property
    def initial_heap_size(self) -> int | None:
        return self._initial

    @initial_heap_size.setter
    def initial_heap_size(self, value: int) -> None:
        self._initial = _positive("initial_heap_size", value)

    @property
    def bootstrap(self) -> str | None:
        return self._bootstrap

    @bootstrap.setter
    def bootstrap(self, source: str) -> None:
        if self._snapshot is not None:
            raise ValueError("snapshot and bootstrap cannot be used together")
        self._bootstrap = _optional("bootstrap", source, str)

    @property
    def snapshot(self) -> bytes | None:
        return self._snapshot

    @snapshot.setter
    def snapshot(self, value: bytes) -> None:
        if self._bootstrap is not None:
            raise ValueError("snapshot and bootstrap cannot be used together")
        self._snapshot = _snapshot(value)

    @property
    def timeout(self) -> float | None:
        return self._timeout

    @timeout.setter
    def timeout(self, value: Seconds | None) -> None:
        self._timeout = seconds_of(value)

    @property
    def enable_console(self) -> bool:
        return self._enable_console

    @property
    def max_serialization_depth(self) -> int:
        return self._depth

    @max_serialization_depth.setter
    def max_serialization_depth(self, value: int) -> None:
        self._depth = _positive("max_serialization_depth", value)

    @property
    def max_serialization_bytes(self) -> int:
        return self._bytes

    @max_serialization_bytes.setter
    def max_serialization_bytes(self, value: int) -> None:
        self._bytes = _positive("max_serialization_bytes", value)

    def check(self) -> None:
        """:raises RuntimeError: if two settings exclude each other
        :raises TypeError, ValueError: of one that was set since, or if it may read what is not there
        """
        _optional("inspector", self.inspector, InspectorConfig)
        for path in self.allow_read:
            if not os.path.exists(path):
                raise ValueError(f"allow_read: there is no file or folder {path!r}")
        if self._initial is not None:
            if self._heap is None:
                raise RuntimeError("initial_heap_size requires max_heap_size to be set")
            if self._initial > self._heap:
                raise RuntimeError(f"initial_heap_size ({self._initial}) cannot exceed max_heap_size ({self._heap})")

    def __repr__(self) -> str:
        shown = {
            "max_heap_size": self._heap,
            "initial_heap_size": self._initial,
            "timeout": self._timeout,
            "bootstrap": None if self._bootstrap is None else f"{len(self._bootstrap)} characters",
            "snapshot": None if self._snapshot is None else f"{len(self._snapshot)} bytes",
            "inspector": self.inspector,
            "permissions": None if self.permissions is None else sorted(self.permissions),
            "engine": self.engine,
            "confine": None if self.confine == "auto" else self.confine,
            "allow_net": list(self.allow_net) or None,
            "allow_read": list(self.allow_read) or None,
            "max_memory": self.max_memory,
            "max_cpu": self.max_cpu,
            "typescript": self.typescript or None,
            "modules": self.modules,
            "daemon": self.daemon or None,
        }
        parts = [f"{name}={value}" for name, value in shown.items() if value is not None]
        return f"RuntimeConfig({', '.join([*parts, f'enable_console={self._enable_console}'])})"
