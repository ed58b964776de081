"""A process for a runtime, by what its user has configured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import _pool
from ._template import Options, resolve_confine

if TYPE_CHECKING:
    from ._config import RuntimeConfig
    from ._process import Guest


def options_of(config: RuntimeConfig) -> Options:
    """What of it concerns the process."""
    return Options(confine=resolve_confine("auto"))


def take(config: RuntimeConfig) -> Guest:
    """:raises RuntimeError: that says what is missing, and what to do"""
    return _pool.take(options_of(config))
