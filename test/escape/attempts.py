"""
Runs attempts to get out of a sandbox, in this process, one after the other.

    attempts.py WHERE --list         what there is, as JSON
    attempts.py WHERE name,name,…    runs these: a line before each, and a line after it with what came of it

WHERE is a JSON object, as peer.py prints it. A process that is killed shows by its last line which attempt it was in.
"""

import gc
import importlib
import json
import os
import resource
import signal
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(HERE, "attempts"))
import _attempt  # noqa: E402

FAMILIES = (
    *("network", "control", "reading", "writing", "metadata", "persistence"),
    *("environment", "processes", "programs", "ipc", "kernel", "resources"),
)
SECONDS = 8
ALONE_SECONDS = 60


def load() -> None:
    for family in FAMILIES:
        importlib.import_module(family)


def say(line: dict) -> None:
    os.write(1, json.dumps(line).encode() + b"\n")


def state() -> dict[str, object]:
    """What an attempt may not leave behind for the next one."""
    gc.collect()
    mask = os.umask(0o22)
    os.umask(mask)
    found: dict[str, object] = {"cwd": os.getcwd(), "umask": mask}
    for name, folder in (("descriptors", "/proc/self/fd"), ("threads", "/proc/self/task")):
        try:
            found[name] = len(os.listdir(folder))
        except OSError:
            found[name] = "?"
    try:
        with open("/proc/self/task/%d/children" % os.getpid()) as file:
            found["children"] = file.read()
    except OSError:
        found["children"] = "?"
    return found


def late(*_: object) -> None:
    raise TimeoutError("took too long")


def keep_no_dumps() -> None:
    """Some attempts die of it: no file, and with 1 the kernel hands the dump to no program that would keep and report
    it either.
    """
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (min(1, hard) if hard != resource.RLIM_INFINITY else 1, hard))
    except (OSError, ValueError):
        pass


def run(names: list[str]) -> None:
    mine = os.getpid()
    keep_no_dumps()
    signal.signal(signal.SIGALRM, late)
    before = state()
    for name in names:
        one = _attempt.REGISTER[name]
        say({"begin": name})
        started = time.monotonic()
        why = ""
        signal.setitimer(signal.ITIMER_REAL, ALONE_SECONDS if one.alone else SECONDS)
        try:
            escaped = one.run() is True
        except BaseException as error:
            escaped, why = False, f"{type(error).__name__}: {error}"
        finally:
            if os.getpid() != mine:
                os._exit(3)  # a child that lost its way
            signal.setitimer(signal.ITIMER_REAL, 0)
        line: dict[str, object] = {"end": name, "escaped": escaped, "ms": round((time.monotonic() - started) * 1000)}
        if why:
            line["why"] = why[:200]
        if not one.alone:
            end = time.monotonic() + 0.5
            while left := {key: [before[key], value] for key, value in state().items() if value != before[key]}:
                if left.keys() - {"threads"} or time.monotonic() > end:
                    break  # threads of the kernel's own take a while to go
                time.sleep(0.01)
            if left:
                line["left"] = left
                before = state()
        say(line)


if __name__ == "__main__":
    load()
    if sys.argv[2] == "--list":
        rows = ({key: value for key, value in vars(one).items() if key != "run"} for one in _attempt.REGISTER.values())
        print(json.dumps(list(rows)))
    else:
        _attempt.where.update(json.loads(sys.argv[1]))
        if not _attempt.where.get("scratch"):
            _attempt.where["scratch"] = os.environ.get("TMPDIR", "/tmp")
        run(sys.argv[2].split(","))
        os._exit(0)
