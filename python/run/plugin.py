"""The process of one plugin in Python: ``plugin.py FOLDER``. Answers what the router passes on.

It holds the plugin's credentials, and takes them out of all that the handler says before anything leaves it.
"""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from typing import Any

import ipcctl
from ipcctl._redact import Redactor

_running: dict[str, Any] = {}
_redactor = Redactor([])


class _Printed:
    """What a handler prints comes into a log."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(_redactor.text(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _set_up(setup: dict[str, Any]) -> list[str]:
    """Told by the daemon. One that is set up stays as it is.

    :returns: the names of its tools
    :raises RuntimeError: if the handler does not start
    """
    global _redactor
    if not _running:
        _redactor = Redactor([*setup["credentials"].values(), *setup["secrets"]])
        try:
            handler: Any = importlib.import_module("handler")
            _running.update(handler.start(setup["config"], setup["credentials"], setup["data"]))
        except Exception as error:
            raise RuntimeError(f"the handler did not start: {_said(error)}") from None
    return list(_running["tools"])


def _invoke(tool: str, args: str, request: dict[str, Any]) -> dict[str, Any]:
    try:
        result = _running["tools"][tool](json.loads(args), request)
        return {"json": _redactor.json(json.dumps(result, ensure_ascii=False, allow_nan=False))}
    except Exception as error:
        code = getattr(error, "code", None)
        if type(error).__name__ != "ToolError" or not isinstance(code, str):
            return {"crash": _said(error)}
        field = getattr(error, "field", None)
        told = _redactor.value({"message": str(error), "field": field if isinstance(field, str) else ""})
        refusal = {"code": code, "message": told["message"], "retriable": getattr(error, "retriable", False) is True}
        return {"refusal": {**refusal, "field": told["field"] or None}}


def _verify() -> str | None:
    try:
        if _running.get("verify"):
            _running["verify"]()
        return None
    except Exception as error:
        return _said(error)


def _said(error: Exception) -> str:
    return _redactor.text("".join(traceback.format_exception(error)))


sys.stdout, sys.stderr = _Printed(sys.stdout), _Printed(sys.stderr)
sys.path.insert(0, sys.argv[1])
ipcctl.expose(name="setUp")(_set_up)
ipcctl.expose(name="invoke")(_invoke)
ipcctl.expose(name="verify")(_verify)
ipcctl.serve()
# After SIGTERM. Whoever has sent it ends us if this takes too long.
if _running.get("shutdown"):
    _running["shutdown"]()
