"""What code prints goes to the client in pieces, whole and in order."""

from __future__ import annotations

import io
import sys
import time
import unittest

import support  # noqa: F401 - finds the package
from ipcctl._evaluate import Capture


class Printing(unittest.TestCase):
    def test_much_at_once_takes_no_more_than_its_size_says(self) -> None:
        pieces: list[tuple[str, str]] = []

        def tell(stream: str, text: str, is_paced: bool) -> bool:
            pieces.append((stream, text))
            return True

        kept = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
        try:
            began = time.thread_time()
            with Capture(tell):
                print("a")
                print("b", file=sys.stderr)
                print("x" * 100_000_000)
                print("c", file=sys.stderr)
            took = time.thread_time() - began  # of ours alone, however busy the machine is
        finally:
            sys.stdout, sys.stderr = kept
        for stream, whole in ("stdout", "a\n" + "x" * 100_000_000 + "\n"), ("stderr", "b\nc\n"):
            self.assertTrue("".join(text for its, text in pieces if its == stream) == whole)
        self.assertLessEqual(max(len(text) for _, text in pieces), 32_768)
        self.assertEqual([stream for stream, _ in pieces[:2]], ["stdout", "stderr"])
        self.assertLess(took, 5)
