"""A runtime as a worker of the daemon: status shows it, and it ends with this program."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from .._client import Ipcctl, socket_path
from .._end import End, Ownership
from .._types import IpcError
from ._process import END_SECONDS, Engine
from ._template import (
    Options,
    environment_of,
    find_program,
    flags_of,
    installation,
    policy_of,
    readable,
    require_version,
)

_CLAIM_SECONDS = 10.0
_LINES = 8


class Owned(Engine):
    """One that ends with the connection by which it is owned."""

    _owner: Ownership

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._waiting = threading.Lock()

    def kill(self) -> None:
        """By its shim, at once: to the daemon it is one that was stopped, not one that has failed."""
        self._owner.begin_end()

    def wait(self, timeout: float) -> bool:
        with self._waiting:
            return self._owner.wait(timeout)

    def record(self) -> dict[str, str]:
        status = self._owner.status
        if status is None:
            return {}
        if os.WIFSIGNALED(status):
            return {"kind": "signal", "status": str(os.WTERMSIG(status))}
        return {"kind": "exit", "status": str(os.WEXITSTATUS(status))}

    def forsake(self) -> None:
        super().forsake()
        self._waiting = threading.Lock()


class Kept(Owned):
    def __init__(self, options: Options) -> None:
        """:raises RuntimeError: if no daemon answers, or it refuses it"""
        super().__init__(options)
        program = find_program(options.engine)
        try:
            with Ipcctl(socket_path(None), False) as daemon:
                self._name = daemon.start_app(_definition(options, program))["name"]
                self._socket = os.path.join(daemon.status(self._name)["log_dir"], "..", "sock")
                self._owner = Ownership(self._socket, self._name, _CLAIM_SECONDS)
        except IpcError as error:
            require_version(options.engine, program)
            hint = f"; {error.hint}" if error.hint else ""
            raise RuntimeError(f"ipcctl.js: the daemon starts no runtime: {error}{hint}") from error

    def open(self, end: End, deadline: float) -> None:
        self._meet(self._socket, end, deadline)

    def last_words(self) -> str:
        """What the daemon remembers of one that has failed."""
        try:
            with Ipcctl(socket_path(None), False) as daemon:
                return " ".join(daemon.last_lines(self._name, _LINES)["errors"])
        except IpcError:
            return ""

    def close(self) -> None:
        if not self.wait(END_SECONDS):
            self.signal(signal.SIGKILL)  # its shim hangs
        self._owner.close()
        self._let_go()


def _definition(options: Options, program: str) -> dict[str, Any]:
    allow = {"net": list(options.allow_net), "read": readable(options)}
    granted = {kind: some for kind, some in allow.items() if some}
    return {
        "name": "runtime",
        "kind": "runtime",
        "life": "ephemeral",
        "script": installation().program(options.engine),
        "interpreter": " ".join((program, *flags_of(options.engine, program))),
        "args": list(options.arguments),
        "cwd": "/",
        "base_env": {},
        "env": environment_of(options),
        "policy": policy_of(options, True) if options.confine else "trusted",
        **({"allow": granted} if granted and options.confine else {}),
        "stop_timeout": 0,
        "auto_start": True,
    }
