"""Cases that each run in a process of their own: whatever happens to it, the others run.

python FILE list                      names and titles, as JSON
python FILE run NAME [MODULE]         one, here; the last line of its output says what was seen, as JSON
python FILE all [MODULE [PYTHON]]     all, each by PYTHON in a process; a line of JSON for each
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

#: What a process of a case may take, with its start and its end.
DEADLINE_SECONDS = 30.0


@dataclass(frozen=True)
class Case:
    name: str
    title: str
    work: Callable[[Any], None]
    #: What jsrun has of its own, which is another case for it.
    only_ours: bool = False


CASES: dict[str, Case] = {}


def case(title: str, *, only_ours: bool = False) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """A function that takes the module, and raises AssertionError if something is not right."""

    def register(work: Callable[[Any], None]) -> Callable[[Any], None]:
        assert work.__name__ not in CASES
        CASES[work.__name__] = Case(work.__name__, title, work, only_ours)
        return work

    return register


def main() -> None:
    verb, *rest = sys.argv[1:]
    if verb == "list":
        print(json.dumps([[one.name, one.title] for one in CASES.values()]))
    elif verb == "run":
        _run(CASES[rest[0]], rest[1] if len(rest) > 1 else "ipcctl.js")
    else:
        for outcome in outcomes(*rest):
            print(json.dumps(outcome), flush=True)


def _run(one: Case, module: str) -> None:
    js = importlib.import_module(module)
    seen = "holds"
    try:
        one.work(js)
    except BaseException as error:
        traceback.print_exc()
        seen = f"{type(error).__name__}: {error}" if not isinstance(error, AssertionError) else str(error)
    print(json.dumps({"seen": seen or "it does not hold"}), flush=True)


def outcomes(module: str = "ipcctl.js", python: str = sys.executable) -> Iterator[dict[str, str]]:
    for one in CASES.values():
        if not (one.only_ours and module != "ipcctl.js"):
            yield {"name": one.name, "seen": outcome(one.name, module, python)}


def outcome(name: str, module: str, python: str) -> str:
    """``"holds"``, or what was seen."""
    command = [python, os.path.abspath(sys.argv[0]), "run", name, module]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=DEADLINE_SECONDS)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        said = seen_in(output)
        return "hangs" if said is None else f"{said}; then Python does not end"
    said = seen_in(output)
    if process.returncode < 0:
        end = f"Python ends by {signal.Signals(-process.returncode).name}"
        return end if said in (None, "holds") else f"{said}; then {end}"
    return said if said is not None else f"Python ends with status {process.returncode}"


def seen_in(output: bytes) -> str | None:
    for line in reversed(output.decode(errors="replace").splitlines()):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            return str(json.loads(line)["seen"])
    return None


# ---- what cases share ----


def expect(is_right: object, otherwise: str) -> None:
    if not is_right:
        raise AssertionError(otherwise)


def equal(seen: Any, right: Any, what: str = "") -> None:
    if not (same(seen, right)):
        raise AssertionError(f"{what + ': ' if what else ''}{_short(seen)}, not {_short(right)}")


def same(one: Any, other: Any) -> bool:
    """Equal, of one type, with the sign of zeros, and NaN like NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return repr(one) == repr(other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 100 else f"{text[:97]}…"


def fails(act: Callable[[], Any], kind: type[BaseException], text: str = "") -> BaseException:
    try:
        value = act()
    except kind as error:
        expect(text.lower() in str(error).lower(), f"{type(error).__name__}: {error}")
        return error
    raise AssertionError(f"nothing is raised; the value is {_short(value)}")


class Took:
    """How long a block took."""

    seconds = 0.0

    def __enter__(self) -> Took:
        self._began = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._began


def in_thread(work: Callable[[], Any], seconds: float) -> Any:
    """What it gives in a thread; an AssertionError that says that it hangs, if it takes longer."""
    given: list[Any] = []

    def run() -> None:
        try:
            given.append((work(), None))
        except BaseException as error:
            given.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not given:
        # A process whose interpreter waits for what never ends would tell nothing.
        print(json.dumps({"seen": f"hangs: more than {seconds:g} s"}), flush=True)
        os._exit(0)
    value, error = given[0]
    if error is not None:
        raise error
    return value


def until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
