"""JavaScript's ``undefined``: the same object as ``ipcctl.undefined``."""

from .._types import Undefined as JsUndefined
from .._types import undefined

__all__ = ["JsUndefined", "undefined"]
