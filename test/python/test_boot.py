"""What every Python runs that is started: also those that are older than the package supports."""

import ast
import importlib.util
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import unittest.mock
from collections.abc import Callable
from types import ModuleType
from typing import Any

from needs import skip_unless

BOOT = pathlib.Path(__file__).parents[2] / "python" / "boot"


class Boot(unittest.TestCase):
    def test_old_pythons_read_it(self) -> None:
        for path in BOOT.glob("*.py"):
            tree = ast.parse(path.read_text(), feature_version=(3, 6))
            for node in ast.walk(tree):
                if isinstance(node, (ast.FunctionDef, ast.arg, ast.AnnAssign)):
                    annotation = node.returns if isinstance(node, ast.FunctionDef) else node.annotation
                    unions = (
                        [part for part in ast.walk(annotation) if isinstance(part, ast.BinOp)] if annotation else []
                    )
                    self.assertEqual(
                        unions, [], f"{path.name}:{node.lineno}: an annotation that Python 3.9 cannot evaluate"
                    )

    def test_old_pythons_are_told_what_is_needed(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            ours = library(folder)
            with unittest.mock.patch.object(sys, "version_info", (3, 10, 0, "final", 0)):
                self.assertRaisesRegex(
                    ImportError, r"needs Python 3\.11 or newer; this is 3\.10$", ours.module, "ipcctl._console"
                )

    @skip_unless(os.geteuid() == 0, "root", "a child that leaves root")
    def test_a_child_that_leaves_root_holds_no_socket(self) -> None:
        script = """
import os, sys
def held():
    with os.scandir("/proc/self/fd") as names:
        return [one.name for one in names if os.readlink(one.path) == sys.argv[1]]
if os.fork() == 0:
    os.setuid(0)
    os._exit(len(held()))
_, status = os.wait()
os.setuid(0)
print(os.waitstatus_to_exitcode(status), len(held()))
"""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(os.path.realpath(folder), "plane")
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as plane:
                plane.bind(path)
                environment = {**os.environ, "PYTHONPATH": str(BOOT), "IPCCTL_PLANE": path}
                done = subprocess.run(
                    [sys.executable, "-c", script, path], env=environment, capture_output=True, text=True
                )
        self.assertEqual((done.stdout, done.stderr), ("0 1\n", ""))


#: For a condition on a busy machine.
DEADLINE_SECONDS = 60.0


def library(folder: str) -> Any:
    spec = importlib.util.spec_from_file_location("_ipcctl_library", BOOT / "_ipcctl_library.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Library(folder)


class TwoThreads(unittest.TestCase):
    """The console's thread and the script's load what serves them at the same time."""

    def setUp(self) -> None:
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        loaded = unittest.mock.patch.dict(sys.modules)
        loaded.start()
        self.addCleanup(loaded.stop)
        sys.modules.pop("ipcctl._console", None)  # of other tests
        self.folder = pathlib.Path(scratch.name) / "ipcctl"
        self.folder.mkdir()
        self.library = library(scratch.name)
        self.has_begun, self.may_end = threading.Event(), threading.Event()
        self.addCleanup(self.may_end.set)
        self.given: dict[str, Any] = {}
        for module in ("__init__", "slow", "child", "user"):
            (self.folder / f"{module}.py").write_text("")
        # A module stops in its middle until it is let go.
        gate = self.library.modules["gate"] = ModuleType("gate")
        gate.__dict__.update(has_begun=self.has_begun, may_end=self.may_end)

    def write(self, module: str, *lines: str) -> None:
        (self.folder / f"{module}.py").write_text("\n".join(lines))

    def begin(self, name: str) -> threading.Thread:
        def load() -> None:
            try:
                self.given[name] = self.library.module(name)
            except BaseException as error:  # it is what is looked at
                self.given[name] = error

        thread = threading.Thread(target=load, daemon=True)
        thread.start()
        return thread

    def wait(self, what: str, holds: Callable[[], bool]) -> None:
        until = time.monotonic() + DEADLINE_SECONDS
        while not holds():
            self.assertLess(time.monotonic(), until, what)
            time.sleep(0.001)

    def both(self, first: str, second: str) -> None:
        one = self.begin(first)
        self.assertTrue(self.has_begun.wait(DEADLINE_SECONDS))
        other = self.begin(second)

        def is_held() -> bool:
            frame = sys._current_frames().get(other.ident or 0)
            while frame is not None and frame.f_code.co_name != "acquire":
                frame = frame.f_back
            return frame is not None or not other.is_alive()

        self.wait(f"{second} waits", is_held)
        self.may_end.set()
        for thread in (one, other):
            thread.join(DEADLINE_SECONDS)
            self.assertFalse(thread.is_alive())

    def test_what_is_half_loaded_is_waited_for(self) -> None:
        self.write(
            "slow",
            "import gate",
            "gate.has_begun.set()",
            f"gate.may_end.wait({DEADLINE_SECONDS})",
            "current = 'nobody'",
        )
        self.write("user", "from . import slow", "slow.current = 'somebody'")
        self.both("ipcctl.slow", "ipcctl.user")
        self.assertEqual(self.given["ipcctl.slow"].current, "somebody")
        self.assertIs(self.given["ipcctl.user"].slow, self.given["ipcctl.slow"])

    def test_a_signal_does_not_meet_half_a_console(self) -> None:
        self.write(
            "_console",
            "import gate",
            "def on_signal(): serve()",
            "gate.has_begun.set()",
            f"gate.may_end.wait({DEADLINE_SECONDS})",
            "serve = print",
        )
        thread = self.begin("ipcctl._console")
        self.assertTrue(self.has_begun.wait(DEADLINE_SECONDS))
        self.assertIsNone(self.library.loaded_console())
        self.may_end.set()
        thread.join(DEADLINE_SECONDS)
        self.assertIs(self.library.loaded_console(), self.given["ipcctl._console"])

    def test_neither_holds_what_the_other_one_needs(self) -> None:
        self.write(
            "__init__",
            "import gate",
            "gate.has_begun.set()",
            f"gate.may_end.wait({DEADLINE_SECONDS})",
            "from . import child",
        )
        self.both("ipcctl", "ipcctl.child")
        self.assertIs(self.given["ipcctl"].child, self.given["ipcctl.child"])


if __name__ == "__main__":
    unittest.main()
