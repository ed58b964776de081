"""JavaScript for Python, each runtime in a confined process of its own.

``import ipcctl.js as jsrun`` ports a program.
"""

from __future__ import annotations

from ._config import InspectorConfig, RuntimeConfig
from ._default import bind_function, bind_object, close_default_runtime, eval, eval_async, get_default_runtime
from ._errors import BundleError, JavaScriptError, JsFrame, JsPermissionError, JsTimeout, RuntimeTerminated
from ._packages import bundle
from ._inspector import InspectorEndpoints
from ._profile import Profile
from ._runtime import JsFunction, Runtime, RuntimeStats
from ._snapshot import SnapshotBuilder
from ._streams import JsStream, PyStreamSource


from ._types import JsUndefined, undefined

__all__ = [
    "BundleError",
    "InspectorConfig",
    "JavaScriptError",
    "JsFrame",
    "JsFunction",
    "JsPermissionError",
    "JsTimeout",
    "JsUndefined",
    "JsStream",
    "Profile",
    "PyStreamSource",
    "SnapshotBuilder",
    "InspectorEndpoints",
    "Runtime",
    "RuntimeConfig",
    "RuntimeStats",
    "RuntimeTerminated",
    "bind_function",
    "bind_object",
    "bundle",
    "close_default_runtime",
    "eval",
    "eval_async",
    "get_default_runtime",
    "undefined",
]
