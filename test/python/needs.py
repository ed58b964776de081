"""What the tests need beyond a checkout, and what becomes of them where it is missing, as in needs.ts."""

from __future__ import annotations

import os
import subprocess
import tempfile
import unittest
from typing import TypeVar
from collections.abc import Callable

HERE = os.path.dirname(os.path.abspath(__file__))
Test = TypeVar("Test")


def skip_unless(has: bool, need: str, what: str) -> Callable[[Test], Test]:
    """A decorator that leaves out what follows unless the machine has what it needs."""
    if has:
        return lambda test: test
    line = f"skipped: {what}: no {need} here"
    with open(os.path.join(HERE, "../kernel-features"), encoding="utf-8") as file:
        features = file.read().splitlines()
    if os.environ.get("IPCCTL_TEST_REQUIRE") == "all" and need not in features:
        raise RuntimeError(f"{line}, and IPCCTL_TEST_REQUIRE=all")
    print(line)
    if path := os.environ.get("IPCCTL_TEST_SKIPPED"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
    return unittest.skip(line)


def has_tmpfs_mounts() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", folder]
        if os.getuid() != 0 or subprocess.run(mount, stderr=subprocess.DEVNULL).returncode != 0:
            return False
        subprocess.run(["umount", folder], check=True)
        return True
