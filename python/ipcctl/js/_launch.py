"""A process for a runtime, by what its user has configured."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

from .. import _console, _contract
from . import _pool
from ._template import WAY_OUT, Options, readable, resolve_confine, resolve_engine

if TYPE_CHECKING:
    from ._config import RuntimeConfig
    from ._process import Guest


_INTERPRETED = (
    "ipcctl.js: the engine of this runtime makes no machine code here, so that JavaScript runs many times slower: "
    "something denies it memory for that, or memory that it may execute"
)

#: Those of a system are some 250 KB.
_CERTIFICATES_MAX = 2_000_000
_UNBOUNDED = (
    "ipcctl.js: allow_net and allow_read need the sandbox, which alone keeps JavaScript to what they name: leave away "
    "confine=False and IPCCTL_JS_UNCONFINED=1, or bind a function that reads and fetches"
)


def options_of(config: RuntimeConfig) -> Options:
    """What of it concerns the process."""
    limits = [one for one in (config.max_memory, config.max_heap_size) if one is not None]
    return Options(
        engine="v8" if config.inspector is not None else resolve_engine(config.engine),
        confine=resolve_confine(config.confine),
        allow_net=config.allow_net,
        allow_read=config.allow_read,
        max_memory=min(limits) if limits else None,
        max_cpu=config.max_cpu,
        by_daemon=config.daemon,
    )


def grant(config: RuntimeConfig) -> list[Any]:
    """The message by which its JavaScript has ``fetch`` and ``readFile``. What they reach is the sandbox's business.

    :raises ValueError: if SSL_CERT_FILE names what cannot be read
    """
    authorities = os.environ.get("SSL_CERT_FILE") if config.allow_net else None
    told = {
        "net": bool(config.allow_net),
        "read": readable(options_of(config)),
        "authorities": _certificates(authorities) if authorities else None,
    }
    return [_contract.TO_ENGINE_GRANT, 0, told]


def _certificates(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            text = file.read(_CERTIFICATES_MAX + 1)
    except OSError as error:
        raise ValueError(f"allow_net: SSL_CERT_FILE names {path!r}, which cannot be read: {error.strerror}") from error
    if len(text) > _CERTIFICATES_MAX or "BEGIN CERTIFICATE" not in text:
        raise ValueError(f"allow_net: SSL_CERT_FILE names {path!r}, which has no certificates as PEM, or too many")
    return text


def take(config: RuntimeConfig) -> Guest:
    """:raises RuntimeError: that says what is missing, and what to do
    :raises PermissionError: in a worker whose policy grants none, or not what is asked for
    """
    guest = _take(options_of(config))
    if guest.hello.get("jit") is not True:
        warnings.warn(_INTERPRETED, RuntimeWarning, stacklevel=3)
    return guest


def _take(options: Options) -> Guest:
    if _contract.RUNTIMES_VARIABLE in os.environ:
        from . import _asked  # takes long to load

        return _asked.start(options)
    if not options.confine and (options.allow_net or options.allow_read):
        raise RuntimeError(_UNBOUNDED)
    try:
        return _pool.take(options)
    except RuntimeError as error:
        if not _may_be_confined():
            raise
        if os.environ.get("IPCCTL_PLANE") is None and _console.plane is None:
            raise RuntimeError(f"{error}. If ipcctl confines this program: {WAY_OUT}") from None
        why = f"ipcctl.js: this worker may start no runtime of JavaScript itself: {WAY_OUT} ({error})"
        raise PermissionError(why) from None


def _may_be_confined() -> bool:
    """By what ipcctl sets for those that it confines, and hides from the most confined ones."""
    try:
        with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
            return any(line.split() == ["NoNewPrivs:", "1"] for line in file)
    except OSError:
        return True
