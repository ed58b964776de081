"""``IPCCTL_TRACE=1`` shows each message of a call on the side that writes it: docs/internals/calls.md has the form of a
line.
"""

from __future__ import annotations

import os
import time

from . import _contract

TYPE_CHECKING = False  # as typing has it, which takes long to load
if TYPE_CHECKING:
    from typing import Any

is_on = os.environ.get("IPCCTL_TRACE") == "1"
#: Characters of one value.
_SHOWN_MAX = 100


def _names(prefix: str) -> dict[int, str]:
    return {
        value: name.removeprefix(prefix).lower()
        for name, value in vars(_contract).items()
        if name.startswith(prefix) and type(value) is int
    }


_NAMES = {"client": _names("TO_CLIENT_"), "server": _names("TO_WORKER_")}


def show(role: str, arrow: str, message: Any) -> None:
    """:param role: of this side; what goes to the other one has its numbers"""
    to = role if arrow == "←" else "server" if role == "client" else "client"
    kind, number, *fields = message
    shown = "".join(f" {_text(field)}" for field in fields)
    say(role, f"{arrow} {_NAMES[to].get(kind, f'kind {kind}')} {number}{shown}")


def say(role: str, what: str) -> None:
    """Seconds since the epoch, so that lines of both sides can be sorted."""
    line = f"ipcctl trace {time.time():.6f} {role}[{os.getpid()}] {what}\n"
    try:
        os.write(2, line.encode("utf-8", "backslashreplace"))
    except OSError:
        pass


def _text(value: Any) -> str:
    try:
        text = repr(value)
    except Exception as error:  # of the user's
        text = f"<no repr: {type(error).__name__}>"
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}…"


def traced(carrier: Any, role: str) -> Any:
    """What carries messages itself, or where tracing is on the same with a line for each message."""
    return _Traced(carrier, role) if is_on else carrier


class _Traced:
    def __init__(self, carrier: Any, role: str) -> None:
        self._carrier, self._role = carrier, role

    def send(self, message: Any) -> None:
        show(self._role, "→", message)
        self._carrier.send(message)

    def receive(self, timeout: float | None) -> Any:
        message = self._carrier.receive(timeout)
        if message is not None:
            show(self._role, "←", message)
        return message

    def interrupt(self, number: int) -> None:
        say(self._role, f"→ interrupt {number}")
        self._carrier.interrupt(number)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._carrier, name)
