"""Snapshots of ``ipcctl.js``: what runs in a runtime before anything else."""

from __future__ import annotations

import os
import tempfile
import unittest
from typing import Any

import support
from ipcctl.js import JavaScriptError, Runtime, RuntimeConfig, SnapshotBuilder
from ipcctl.js._snapshot import Snapshot, Step

home = tempfile.TemporaryDirectory(prefix="ipcctl-js-test-")


def setUpModule() -> None:
    os.environ["IPCCTL_HOME"] = home.name


def tearDownModule() -> None:
    support.end_home(home)


def built(*scripts: str) -> bytes:
    builder = SnapshotBuilder()
    for at, script in enumerate(scripts):
        builder.execute_script(f"script-{at}.js", script)
    return builder.build()


class Snapshots(unittest.TestCase):
    def runtime(self, snapshot: bytes, **settings: Any) -> Runtime:
        runtime = Runtime(RuntimeConfig(snapshot=snapshot, **settings))
        self.addCleanup(runtime.close)
        return runtime

    def refused(self, snapshot: bytes) -> str:
        with self.assertRaises(RuntimeError) as caught:
            Runtime(RuntimeConfig(snapshot=snapshot))
        return str(caught.exception)

    def test_scripts_run_in_order_in_each_runtime(self) -> None:
        snapshot = built("var order = ['a']; const kept = { n: 1 };", "order.push('b'); kept.n++;")
        for _ in range(2):
            runtime = self.runtime(snapshot)
            self.assertEqual((runtime.eval("order"), runtime.eval("kept.n++")), (["a", "b"], 2))

    def test_runtimes_share_nothing(self) -> None:
        snapshot = built("globalThis.count = 0")
        first, second = self.runtime(snapshot), self.runtime(snapshot)
        self.assertEqual((first.eval("++count"), first.eval("++count"), second.eval("++count")), (1, 2, 1))

    def test_what_a_script_comes_to_need_not_be_a_value_of_python(self) -> None:
        snapshot = built("const ring = {}; ring.self = ring; ring", "Symbol('one')", "function last() { return 5 }")
        self.assertEqual(self.runtime(snapshot).eval("ring.self === ring && last()"), 5)

    def test_a_bootstrap_runs_before_the_scripts(self) -> None:
        builder = SnapshotBuilder(bootstrap="globalThis.first = 1", enable_console=False)
        builder.execute_script("second.js", "globalThis.second = first + 1")
        self.assertEqual(self.runtime(builder.create_snapshot()).eval("second"), 2)

    def test_errors_are_told_where_the_script_is_given_and_name_its_file(self) -> None:
        builder = SnapshotBuilder()
        for source, name in (("x = ;", "SyntaxError"), ("\n  throw new TypeError('boom')", "TypeError")):
            with self.assertRaises(JavaScriptError) as caught:
                builder.execute_script("faulty.js", source)
            self.assertEqual(caught.exception.name, name)
            self.assertEqual(caught.exception.frames[0]["file_name"], "faulty.js")
        builder.execute_script("right.js", "globalThis.right = true")
        self.assertIs(self.runtime(builder.build()).eval("right"), True)

    def test_a_builder_builds_once(self) -> None:
        builder = SnapshotBuilder()
        builder.build()
        for again in (builder.build, builder.create_snapshot, lambda: builder.execute_script("a.js", "1")):
            with self.assertRaisesRegex(RuntimeError, "Snapshot already built"):
                again()

    def test_equal_scripts_give_equal_bytes(self) -> None:
        self.assertEqual(built("1", "2"), built("1", "2"))
        self.assertNotEqual(built("1", "2"), built("12"))

    def test_modules_are_a_part_of_it_with_their_state(self) -> None:
        builder = SnapshotBuilder()
        builder.add_static_module("counter", "export let n = 0; export const next = () => ++n;")
        builder.add_static_module("started", "import { next } from 'counter'; next(); globalThis.next = next;")
        builder.eval_module("started")
        runtime = self.runtime(builder.build())
        self.assertEqual(runtime.eval("next()"), 2)

    def test_bytes_that_are_no_snapshot_are_refused_with_the_reason(self) -> None:
        whole = built("globalThis.a = 1")
        self.assertIn("truncated", self.refused(whole[:-1]))
        self.assertIn("truncated", self.refused(whole[:12]))
        self.assertIn("was changed", self.refused(whole[:-1] + b"x"))
        self.assertIn("none of ipcctl.js", self.refused(b"\x06\0\0\0" + bytes(700)))
        self.assertIn("version 2", self.refused(whole.replace(b"snapshot\n\x01", b"snapshot\n\x02")))
        with self.assertRaisesRegex(ValueError, "empty"):
            RuntimeConfig(snapshot=b"")
        with self.assertRaisesRegex(ValueError, "cannot be used together"):
            RuntimeConfig(snapshot=whole, bootstrap="1")

    def test_what_fails_only_at_the_start_is_told_there(self) -> None:
        snapshot = built("globalThis.made = 1")
        broken = Snapshot(snapshot)
        broken.steps.append(Step("script", "late.js", "throw new Error('only later')"))
        runtime = self.runtime(snapshot)
        with self.assertRaisesRegex(JavaScriptError, "only later"):
            broken.replay(runtime)


if __name__ == "__main__":
    unittest.main()
