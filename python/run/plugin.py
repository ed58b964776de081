"""The process of one plugin in Python: ``plugin.py FOLDER``. Answers what the router passes on.

It holds no credential: what takes those out of answers exists in TypeScript only.
"""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from typing import Any

import ipcctl

_running: dict[str, Any] = {}


def _set_up(setup: dict[str, Any]) -> list[str]:
    """Told by the daemon. One that is set up stays as it is.

    :returns: the names of its tools
    :raises RuntimeError: if the handler does not start
    """
    if not _running:
        try:
            handler: Any = importlib.import_module("handler")
            _running.update(handler.start(setup["config"], setup["credentials"], setup["data"]))
        except Exception as error:
            raise RuntimeError(f"the handler did not start: {_said(error)}") from None
    return list(_running["tools"])


def _invoke(tool: str, args: str, request: dict[str, Any]) -> dict[str, Any]:
    try:
        result = _running["tools"][tool](json.loads(args), request)
        return {"json": json.dumps(result, ensure_ascii=False, allow_nan=False)}
    except Exception as error:
        code = getattr(error, "code", None)
        if type(error).__name__ != "ToolError" or not isinstance(code, str):
            return {"crash": _said(error)}
        field = getattr(error, "field", None)
        is_retriable = getattr(error, "retriable", False) is True
        refusal = {"code": code, "message": str(error), "retriable": is_retriable}
        return {"refusal": {**refusal, "field": field if isinstance(field, str) else None}}


def _verify() -> str | None:
    try:
        if _running.get("verify"):
            _running["verify"]()
        return None
    except Exception as error:
        return _said(error)


def _shut_down() -> None:
    if _running.get("shutdown"):
        _running["shutdown"]()


def _said(error: Exception) -> str:
    return "".join(traceback.format_exception(error))


sys.path.insert(0, sys.argv[1])
ipcctl.expose(name="setUp")(_set_up)
ipcctl.expose(name="invoke")(_invoke)
ipcctl.expose(name="verify")(_verify)
ipcctl.expose(name="shutDown")(_shut_down)
ipcctl.serve()
