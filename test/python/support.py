"""Finds the package and both implementations of its lowest layer."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from types import ModuleType

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PACKAGES = os.path.join(ROOT, "python")
if PACKAGES not in sys.path:
    sys.path.insert(0, PACKAGES)


def _extension() -> ModuleType | None:
    # IPCCTL_TEST_EXTENSION: another build of it, as the one with sanitizers.
    path = os.environ.get("IPCCTL_TEST_EXTENSION")
    if path is None:
        if not os.path.exists(os.path.join(ROOT, "native/build/python/_ipcctl.abi3.so")):
            subprocess.run(["sh", os.path.join(ROOT, "native/build-python.sh"), sys.executable], check=True)
        from ipcctl._backend import load_extension

        return load_extension()
    spec = importlib.util.spec_from_file_location("ipcctl._ipcctl", path)
    assert spec is not None and spec.loader is not None
    sys.modules["ipcctl._ipcctl"] = module = importlib.util.module_from_spec(spec)
    setattr(module, "_types", importlib.import_module("ipcctl._types"))
    spec.loader.exec_module(module)
    return module


from ipcctl import _pure  # noqa: E402
from needs import skip_unless  # noqa: E402

C = _extension()
PURE = _pure
IMPLEMENTATIONS: dict[str, ModuleType] = {"pure": PURE}
if C is not None:
    IMPLEMENTATIONS["c"] = C
skip_unless(C is not None, "C extension", "the C half of what has two")


def python_with_tables() -> str | None:
    """One with NumPy, pandas and pyarrow: this one, or that of the virtual environment that the suite makes."""
    if all(importlib.util.find_spec(name) is not None for name in ("numpy", "pandas", "pyarrow")):
        return sys.executable
    python = os.path.join(ROOT, "build/test-python/bin/python")
    return python if os.path.exists(python) else None


def end_home(home: tempfile.TemporaryDirectory[str]) -> None:
    """Removes the home in which engines of JavaScript are, once none starts or ends there any more."""
    from ipcctl.js import _pool

    _pool._pool.close()
    _pool._pool.forsake()
    deadline = time.monotonic() + 60
    while True:
        try:
            return home.cleanup()
        except OSError:  # what is left of one is being removed by others, too
            if time.monotonic() > deadline:
                raise
        time.sleep(0.01)
