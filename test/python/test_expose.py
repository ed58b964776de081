"""What is exposed under a name, and what takes its place."""

from __future__ import annotations

import importlib
import pathlib
import sys
import tempfile
import unittest

import support  # noqa: F401 - finds the package
import ipcctl
from ipcctl import _serving

MODULE = """
import functools
import ipcctl

@ipcctl.expose
def hello(): return 1

@ipcctl.expose
@functools.lru_cache
def cached(): return 1

class Model:
    def __call__(self): return 1

ipcctl.expose(name="model")(Model())
ipcctl.expose(name="partial")(functools.partial(hello))
"""


class Expose(unittest.TestCase):
    def setUp(self) -> None:
        _serving.forget()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.addCleanup(sys.path.remove, folder.name)
        sys.path.insert(0, folder.name)
        self.folder = pathlib.Path(folder.name)
        self.was_writing, sys.dont_write_bytecode = sys.dont_write_bytecode, True
        self.addCleanup(setattr, sys, "dont_write_bytecode", self.was_writing)

    def load(self, name: str, source: str) -> None:
        (self.folder / f"{name}.py").write_text(source)
        importlib.invalidate_caches()
        if name in sys.modules:
            importlib.reload(sys.modules[name])
        else:
            self.addCleanup(sys.modules.pop, name, None)
            importlib.import_module(name)

    def test_a_module_that_is_reloaded_replaces_what_it_exposed(self) -> None:
        self.load("exposes", MODULE)
        self.load("exposes", MODULE.replace("return 1", "return 2"))
        exposed = _serving.serving().exposed
        self.assertEqual(
            {name: exposed[name]() for name in exposed}, {"hello": 2, "cached": 2, "model": 2, "partial": 2}
        )

    def test_another_module_does_not(self) -> None:
        self.load("exposes", MODULE)
        with self.assertRaisesRegex(ValueError, "expose: another function is exposed as 'hello' already"):
            self.load("exposes_too", MODULE)
        with self.assertRaisesRegex(ValueError, "another function is exposed as 'hello' already"):
            ipcctl.expose(name="hello")(print)
        self.assertEqual(_serving.serving().exposed["hello"](), 1)


if __name__ == "__main__":
    unittest.main()
