"""What jsrun has in its compiled module, by that name."""

from __future__ import annotations

from . import *  # noqa: F403
from ._streams import PyStreamSource as PyStreamSource
