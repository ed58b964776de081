"""A process for a runtime, by what its user has configured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import _pool
from ._template import Options, resolve_confine, resolve_engine

if TYPE_CHECKING:
    from ._config import RuntimeConfig
    from ._process import Guest


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


def take(config: RuntimeConfig) -> Guest:
    """:raises RuntimeError: that says what is missing, and what to do"""
    return _pool.take(options_of(config))
