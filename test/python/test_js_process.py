"""How the processes in which JavaScript runs start, are held to limits, and end."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import unittest
from typing import Any
from unittest import mock

import support
from ipcctl import _contract, connect
from ipcctl._backend import BrokenChannel
from ipcctl._client import socket_path
from ipcctl.js import Runtime, RuntimeConfig, _pool, _process, _template
from ipcctl.js._process import Guest
from ipcctl.js._template import Options
from needs import has_tmpfs_mounts, skip_unless
from waiting import DEADLINE, until

MIB = 1024 * 1024
BUN = os.path.join(support.ROOT, "node_modules/bun/bin/bun.exe")
OPEN_ENGINE = os.path.join(support.ROOT, "test/js/open-engine.ts")
#: Within which memory beyond the limit is noticed, and how much of it there is by then.
NOTICED_BYTES = 50 * MIB
#: More than the second after which a socket that is open would wake Bun up.
QUIET_SECONDS = 2.5

home = tempfile.TemporaryDirectory(prefix="ipcctl-js-test-")
engines = os.path.join(home.name, "engines")


def setUpModule() -> None:
    os.environ["IPCCTL_HOME"] = os.path.join(home.name, "home")
    built = [BUN, "build", "--target=bun", OPEN_ENGINE, "--outfile", os.path.join(engines, "engine.js")]
    subprocess.run(built, check=True, stdout=subprocess.DEVNULL)


def tearDownModule() -> None:
    support.end_home(home)


def is_gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True


def ask(guest: Guest, code: str) -> Any:
    """Of an open engine, or of the real one."""
    guest.end.send([_contract.TO_ENGINE_EVAL, 1, code, "<test>", None, False])
    answer = guest.end.receive(DEADLINE)
    return answer[2]


def asked_for_too_much(guest: Guest, code: str) -> str | None:
    with guest.running(), contextlib.suppress(BrokenChannel):
        return f"it answered {ask(guest, code)}"
    return guest.how_it_ended(DEADLINE)


class Open(unittest.TestCase):
    """With engines whose guest has escaped."""

    def setUp(self) -> None:
        patched = mock.patch.dict(os.environ, IPCCTL_JS_ENGINE=os.path.join(engines, "engine.js"))
        patched.start()
        self.addCleanup(patched.stop)

    def start(self, **options: Any) -> Guest:
        guest = _process.start(Options(**options))
        self.addCleanup(guest.dispose)
        return guest

    def test_what_a_guest_that_has_escaped_can_do(self) -> None:
        secret = os.path.join(home.name, "secret")
        with open(secret, "w", encoding="utf-8") as file:
            file.write("kept")
        os.environ["JS_TEST_SECRET"] = "kept"
        self.addCleanup(os.environ.pop, "JS_TEST_SECRET")
        read = f"process.getBuiltinModule('fs').readFileSync({json.dumps(secret)}, 'utf8')"
        cases = {
            read: "kept",
            "process.getBuiltinModule('fs').readdirSync('/').includes('root') || process.getBuiltinModule('fs').existsSync('/root')": "True",
            "process.getBuiltinModule('fs').writeFileSync('/tmp/mine', 'x')": "None",
            "process.getBuiltinModule('child_process').execFileSync('/bin/true').length": "0",
            "Bun.spawnSync(['/proc/self/exe', '-e', '1']).exitCode": "0",
            "fetch('http://127.0.0.1:1').catch((e) => { throw e })": "ConnectionRefused",
            "process.env.JS_TEST_SECRET": "kept",
            "process.kill(process.ppid, 0)": "True",
            f"process.getBuiltinModule('fs').readFileSync('/proc/{os.getpid()}/status', 'utf8').length > 0": "True",
            f"process.getBuiltinModule('fs').readFileSync('/proc/{os.getpid()}/mem').length": "",
        }
        guest = self.start()
        self.assertTrue(guest.is_confined)
        for code, granted in cases.items():
            with self.subTest(code):
                said = str(ask(guest, code))
                self.assertNotIn("kept", said)
                self.assertNotEqual(said, granted)
        free = self.start(confine=False)
        self.assertFalse(free.is_confined)
        self.assertEqual(ask(free, read), "kept")
        self.assertIsNone(ask(free, "process.env.JS_TEST_SECRET"))
        before = os.getcwd()
        os.chdir(home.name)
        self.addCleanup(os.chdir, before)
        shown = self.start(allow_read=(os.path.basename(secret),))
        self.assertEqual(ask(shown, read), "kept")
        self.assertNotEqual(
            ask(shown, f"process.getBuiltinModule('fs').writeFileSync({json.dumps(secret)}, 'x')"), None
        )

    def test_network_of_the_hosts_that_are_named(self) -> None:
        import http.server

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"hello")

            def log_message(self, *_: object) -> None:
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            self.addCleanup(server.shutdown)
            port = server.server_address[1]
            guest = self.start(allow_net=(f"127.0.0.1:{port}",))
            self.assertEqual(ask(guest, f"fetch('http://127.0.0.1:{port}').then((r) => r.text())"), "hello")
            self.assertNotEqual(ask(guest, "fetch('http://127.0.0.1:1').then((r) => r.text())"), "hello")
            alone = self.start()
            self.assertNotEqual(ask(alone, f"fetch('http://127.0.0.1:{port}').then((r) => r.text())"), "hello")
            server.shutdown()

    def test_the_engine_has_its_arguments_and_time_zone(self) -> None:
        with mock.patch.dict(os.environ, TZ="Asia/Kolkata"):
            guest = self.start(arguments=("one", "two words"))
        self.assertEqual(guest.hello["arguments"], ["one", "two words"])
        self.assertEqual(ask(guest, "new Date(0).getHours()"), 5)

    def test_threads_have_an_end(self) -> None:
        bomb = """
            const source = URL.createObjectURL(new Blob(["setInterval(() => 0, 1e6)"]));
            const all = []; for (let i = 0; i < 200; i++) all.push(new Worker(source)); all.length
        """
        guest, beside = self.start(), self.start()
        with contextlib.suppress(BrokenChannel):
            ask(guest, bomb)
        with contextlib.suppress(OSError):
            self.assertLess(len(os.listdir(f"/proc/{guest.pid}/task")), 70)
        self.assertEqual(ask(beside, "1 + 1"), 2)


class Life(unittest.TestCase):
    def start(self, **options: Any) -> Guest:
        guest = _process.start(Options(**options))
        self.addCleanup(guest.dispose)
        return guest

    def test_it_starts_answers_and_is_disposed_of(self) -> None:
        for confine in (True, False):
            with self.subTest(confine=confine):
                guest = self.start(confine=confine)
                self.assertEqual(guest.hello["engine"], "bun")
                self.assertTrue(guest.hello["jit"])
                self.assertEqual(ask(guest, "6 * 7"), 42)
                self.assertGreater(guest.resident_bytes(), MIB)
                self.assertIsNone(guest.how_it_ended(0))
                guest.dispose()
                guest.dispose()
                self.assertEqual(guest.how_it_ended(DEADLINE), "killed by signal 9")
                self.assertEqual(guest.resident_bytes(), 0)
                self.assertTrue(is_gone(guest.pid))
                until(lambda: not os.path.exists(guest._shim._folder), "its folder is removed")

    def test_one_that_is_disposed_of_holds_no_open_file_though_it_is_kept(self) -> None:
        def descriptors() -> set[tuple[str, str]]:
            links = ((fd, f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd"))
            return {(fd, os.readlink(link)) for fd, link in links if os.path.islink(link)}

        before = descriptors()
        guest = self.start()
        self.assertEqual(ask(guest, "1"), 1)
        guest.dispose()
        guest.how_it_ended(DEADLINE)
        until(lambda: not os.path.exists(guest._shim._folder), "its folder is removed")
        left = {one for one in descriptors() - before if "memfd" in one[1] or "socket" in one[1]}
        self.assertEqual(left, set())

    def test_one_that_waits_does_not_wake_up(self) -> None:
        guest = self.start()
        self.assertEqual(ask(guest, "1 + 1"), 2)

        def wakes() -> int:
            """Of the thread that runs JavaScript."""
            with open(f"/proc/{guest.pid}/status", encoding="ascii") as file:
                return sum(int(line.split()[1]) for line in file if "ctxt_switches" in line)

        def is_quiet() -> bool:
            before = wakes()
            time.sleep(QUIET_SECONDS)
            return wakes() == before

        until(is_quiet, "it sleeps")
        self.assertEqual(ask(guest, "6 * 7"), 42)

    def test_one_that_is_roused_in_vain_sleeps_again(self) -> None:
        guest = self.start()
        for number in range(3):
            guest.end.rouse()
            self.assertEqual(ask(guest, f"{number} + 1"), number + 1)
            guest.end.rouse()
            time.sleep(0.02)
            self.assertEqual(ask(guest, f"{number} + 2"), number + 2)
        guest.dispose()
        guest.end.rouse()

    def test_more_bells_than_anybody_rings(self) -> None:
        guest = self.start()
        self.assertEqual(ask(guest, "1 + 1"), 2)
        bell, resident = guest.end._bell, guest.resident_bytes()
        is_over = threading.Event()

        def flood() -> None:
            while not is_over.is_set():
                with contextlib.suppress(BlockingIOError):
                    bell.send(b"\1" * 65_536)

        thread = threading.Thread(target=flood)
        thread.start()
        try:
            for number in range(50):
                self.assertEqual(ask(guest, f"{number} + 1"), number + 1)
                time.sleep(0.01)
        finally:
            is_over.set()
            thread.join()
        self.assertLess(guest.resident_bytes() - resident, 100 * MIB)
        bell.shutdown(socket.SHUT_RDWR)
        self.assertEqual(guest.how_it_ended(DEADLINE), "exit status 0")

    def test_an_engine_that_is_killed(self) -> None:
        guest, beside = self.start(), self.start()
        os.kill(guest.pid, signal.SIGKILL)
        with self.assertRaises(BrokenChannel):
            guest.end.receive(DEADLINE)
        self.assertEqual(guest.how_it_ended(DEADLINE), "killed by signal 9")
        self.assertEqual(ask(beside, "1 + 1"), 2)

    def test_a_shim_that_is_killed(self) -> None:
        guest = self.start()
        os.kill(guest._shim._process.pid, signal.SIGKILL)
        with self.assertRaises(BrokenChannel):
            guest.end.receive(DEADLINE)
        self.assertIn("with its shim", guest.how_it_ended(DEADLINE) or "")
        until(lambda: is_gone(guest.pid), "its engine ends")

    def test_an_engine_that_nobody_holds(self) -> None:
        guest = _process.start(Options(max_memory=64 * MIB))
        pid = guest.pid
        del guest
        until(lambda: is_gone(pid), "it ends")

    def test_a_kill_has_its_first_reason_and_comes_from_any_thread(self) -> None:
        guest = self.start()
        threads = [threading.Thread(target=guest.kill, args=(f"reason {number}",)) for number in range(8)]
        guest.kill("the first")
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(guest.how_it_ended(DEADLINE), "the first")

    def test_an_interrupt_reaches_it_and_none_comes_of_one_that_has_ended(self) -> None:
        guest = self.start()
        with open(f"/proc/{guest.pid}/status", encoding="ascii") as file:
            caught = int(next(line for line in file if line.startswith("SigCgt")).split()[1], 16)
        guest.interrupt()
        if not caught & (1 << (signal.SIGINT - 1)):
            self.assertEqual(guest.how_it_ended(DEADLINE), "killed by signal 2")
        guest.dispose()
        guest.interrupt()

    def test_memory_of_each_kind_has_its_limit(self) -> None:
        limit = 32 * MIB
        for code in (
            "let a = []; for (let i = 0; ; i++) a.push('x'.repeat(1000) + i)",
            "let a = []; for (let i = 0; ; i++) a.push({ i, b: [i] })",
            "let a = []; for (;;) a.push(new Array(1e5).fill(1.5))",
            "let a = []; for (;;) a.push(new Uint8Array(256 * 1024).fill(1))",
            "let a = []; for (;;) a.push(new Uint8Array(256 * 1024))",
            "let m = new WebAssembly.Memory({ initial: 1, maximum: 65536 }); for (;;) { m.grow(16);"
            " new Uint8Array(m.buffer).fill(1, m.buffer.byteLength - (1 << 20)) }",
        ):
            with self.subTest(code):
                guest = self.start(max_memory=limit)
                before = guest.resident_bytes()
                self.assertIn("heap limit", asked_for_too_much(guest, code) or "")
                most = int(guest._shim.record()["max_rss_bytes"])
                self.assertLess(most - before, limit + NOTICED_BYTES)
        guest = self.start(max_memory=limit)
        with guest.running():
            self.assertIn("Out of memory", ask(guest, "new Array(1e8).fill(1.5).length")["message"])
            self.assertEqual(ask(guest, "1 + 1"), 2)

    def test_memory_within_the_limit_is_granted_and_one_that_waits_is_not_looked_at(self) -> None:
        guest = self.start(max_memory=64 * MIB)
        with guest.running():
            self.assertEqual(
                ask(guest, "let n = 0; for (let i = 0; i < 1e6; i++) n += [i, { i }].length; n"), 2_000_000
            )
            code = "let s = 0; for (let i = 0; i < 200; i++) s += new Uint8Array(1 << 20).fill(1).length; s"
            self.assertEqual(ask(guest, code), 200 * MIB)
            self.assertEqual(ask(guest, "new Uint8Array(40 << 20).fill(1).length"), 40 * MIB)
        until(lambda: _process._watch._is_asleep, "nothing is looked at while no code runs")

    def test_processor_time_has_its_limit(self) -> None:
        for pooled in (False, True):
            with self.subTest(pooled=pooled):
                options = Options(max_cpu=1)
                guest = _pool.take(options) if pooled else _process.start(options)
                self.addCleanup(guest.dispose)
                guest.end.send([_contract.TO_ENGINE_EVAL, 1, "for (;;);", "<test>", None, False])
                with self.assertRaises(BrokenChannel):
                    guest.end.receive(DEADLINE)
                self.assertIn("processor time limit", guest.how_it_ended(DEADLINE) or "")


class Pool(unittest.TestCase):
    def test_as_many_are_ready_as_were_taken_up_to_the_limit(self) -> None:
        """runtimesReady."""
        pool = _pool._Pool()
        self.addCleanup(pool.close)
        for taken in range(1, _contract.RUNTIMES_READY_MAX + 2):
            guest = pool.take(Options())
            self.addCleanup(guest.dispose)
            wanted = min(taken, _contract.RUNTIMES_READY_MAX)
            until(lambda: len(pool._kinds[Options()].ready) == wanted, f"{wanted} are ready")
        ready = pool._kinds[Options()].ready[0]
        guest = pool.take(Options())
        self.addCleanup(guest.dispose)
        self.assertIs(guest, ready)

    def test_kinds_that_were_asked_for_long_ago_have_none_ready(self) -> None:
        """runtimeKindsReady."""
        pool = _pool._Pool()
        self.addCleanup(pool.close)
        kinds = [Options(arguments=(str(number),)) for number in range(_contract.RUNTIME_KINDS_READY_MAX + 1)]
        for kind in kinds[:-1]:
            pool.take(kind).dispose()
        until(lambda: all(len(pool._kinds[kind].ready) == 1 for kind in kinds[:-1]), "each kind has one ready")
        oldest = pool._kinds[kinds[0]].ready[0]
        pool.take(kinds[-1]).dispose()
        until(lambda: kinds[0] not in pool._kinds and is_gone(oldest.pid), "the oldest kind has none")
        self.assertEqual(set(pool._kinds), set(kinds[1:]))

    def test_one_that_was_killed_while_it_waited_is_not_given(self) -> None:
        pool = _pool._Pool()
        self.addCleanup(pool.close)
        pool.take(Options()).dispose()
        until(lambda: bool(pool._kinds[Options()].ready), "one is ready")
        waiting = pool._kinds[Options()].ready[0]
        os.kill(waiting.pid, signal.SIGKILL)
        until(lambda: not waiting.is_alive, "it has ended")
        with pool.take(Options()) as guest:
            self.assertIsNot(guest, waiting)
            self.assertEqual(ask(guest, "1 + 1"), 2)

    def test_a_hundred_at_once(self) -> None:
        answers: list[Any] = []

        def take() -> None:
            with _pool.take(Options()) as guest:
                answers.append(ask(guest, "1 + 1"))

        threads = [threading.Thread(target=take) for _ in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(answers, [2] * 100)


class Kept(unittest.TestCase):
    """By a daemon."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.command([os.path.join(support.ROOT, "bin/ipcctl"), "daemon"])

    @classmethod
    def command(cls, words: list[str]) -> None:
        daemon = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        cls.addClassCleanup(daemon.wait)
        cls.addClassCleanup(daemon.terminate)
        until(lambda: os.path.exists(socket_path(None)), "a daemon listens")
        cls.client = connect(autostart=False)
        cls.addClassCleanup(cls.client.close)

    def start(self, **options: Any) -> Guest:
        guest = _process.start(Options(by_daemon=True, **options))
        self.addCleanup(guest.dispose)
        return guest

    def shown(self, pid: int) -> Any:
        """As status shows it, while it runs."""
        return next((one for one in self.client.status() if one["kind"] == "runtime" and one["pid"] == pid), None)

    def test_status_shows_it_and_it_is_as_any_other(self) -> None:
        for confine in (True, False):
            with self.subTest(confine=confine):
                guest = self.start(confine=confine)
                self.assertEqual(ask(guest, "6 * 7"), 42)
                shown = self.shown(guest.pid)
                self.assertEqual(shown["life"], "ephemeral")
                guest.kill()
                self.assertRegex(guest.how_it_ended(DEADLINE) or "", "killed by signal (9|15)$")
                guest.dispose()
                until(lambda: shown["name"] not in self.client.list(), "it is not known any more")

    def test_by_the_public_api(self) -> None:
        with Runtime(RuntimeConfig(daemon=True)) as runtime:
            self.assertEqual(runtime.eval("6 * 7"), 42)
            self.assertIsNotNone(self.shown(runtime.get_stats().pid))

    def test_its_limits(self) -> None:
        guest = self.start(max_memory=32 * MIB)
        self.assertIn(
            "heap limit", asked_for_too_much(guest, "let a = []; for (;;) a.push(new Array(1e5).fill(1))") or ""
        )
        guest = self.start(max_cpu=1)
        self.assertIn("processor time", asked_for_too_much(guest, "for (;;);") or "")

    def test_a_kill_and_the_end_of_its_program(self) -> None:
        guest = self.start()
        os.kill(guest.pid, signal.SIGKILL)
        self.assertEqual(guest.how_it_ended(DEADLINE), "killed by signal 9")
        guest.dispose()
        for end in ("", "os.kill(os.getpid(), signal.SIGKILL)", "os._exit(0)"):
            done = run(f"guest = _pool.take(Options(by_daemon=True))\nprint(guest.pid, flush=True)\n{end}")
            self.assertEqual(done.stderr, "")
            pid = int(done.stdout)
            until(lambda: is_gone(pid) and self.shown(pid) is None, "it ends with its program")

    def test_a_forked_child(self) -> None:
        guest = self.start()
        child = os.fork()
        if child == 0:
            guest.kill()
            guest.dispose()
            os._exit(0)
        os.waitpid(child, 0)
        self.assertEqual(ask(guest, "1 + 1"), 2)

    def test_without_a_daemon(self) -> None:
        done = run(
            "try: _process.start(Options(by_daemon=True))\nexcept RuntimeError as error: print(error)",
            IPCCTL_SOCKET=os.path.join(home.name, "nobody"),
        )
        self.assertEqual(done.stderr, "")
        self.assertIn("daemon", done.stdout)


def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A program of its own."""
    prelude = f"""
        import os, signal, sys, threading, time
        sys.path[:0] = [{support.PACKAGES!r}, {os.path.dirname(os.path.abspath(__file__))!r}]
        from ipcctl.js import Runtime, RuntimeConfig, _pool, _process, _template
        from ipcctl.js._template import Options
        import ipcctl.js
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(prelude) + textwrap.dedent(code)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )


class End(unittest.TestCase):
    def folders(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return os.listdir(os.path.join(os.environ["IPCCTL_HOME"], "run/js"))
        return []

    def check(self, code: str, status: int = 0) -> list[int]:
        """Nothing of what it starts is left, and it says nothing but pids."""
        before = set(self.folders())
        done = run(code)
        self.assertEqual((done.returncode, done.stderr), (status, ""))
        pids = [int(word) for word in done.stdout.split()]
        self.assertTrue(pids)
        for pid in pids:
            until(lambda: is_gone(pid), f"{pid} ends")
        if status == 0:
            self.assertEqual(set(self.folders()) - before, set())
        return pids

    def test_of_a_program_with_engines(self) -> None:
        self.check("""
            guests = [_pool.take(Options()) for _ in range(3)]
            print(*(guest.pid for guest in guests))
        """)

    def test_of_a_program_while_engines_are_started(self) -> None:
        for _ in range(5):
            self.check("print(_pool.take(Options()).pid)")

    def test_of_a_program_in_another_thread_that_waits(self) -> None:
        self.check("""
            guest = _pool.take(Options(max_memory=1 << 26))
            guest.begin()
            def wait():
                try: guest.end.receive(None)
                except Exception: pass
            threading.Thread(target=wait, daemon=True).start()
            print(guest.pid)
        """)

    def test_of_a_program_that_is_killed(self) -> None:
        self.check(
            """
            guests = [_pool.take(Options()) for _ in range(2)]
            print(*(guest.pid for guest in guests), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
            """,
            -signal.SIGKILL,
        )
        left = self.folders()
        self.check("print(_process.start(Options()).pid)")
        self.assertLess(len(self.folders()), len(left) + 1)

    def test_of_forked_children(self) -> None:
        self.check("""
            guest = _pool.take(Options(max_memory=1 << 26))
            time.sleep(0.2)
            print(guest.pid, flush=True)
            for act in (lambda: None, lambda: os._exit(0), guest.dispose, guest.kill, lambda: take(), lambda: sys.exit()):
                def take():
                    other = _pool.take(Options())
                    assert other.pid != guest.pid
                    print(other.pid, flush=True)
                child = os.fork()
                if child == 0:
                    act()
                    sys.exit()
                assert os.waitpid(child, 0)[1] == 0
                assert guest.is_alive and guest.how_it_ended(0) is None
                with guest.running():
                    guest.end.send([1, 1, "1 + 1", "<test>", None, False])
                    assert guest.end.receive(10)[2] == 2
        """)

    def test_a_child_that_lives_on_keeps_no_engine(self) -> None:
        done = run("""
            guest = _pool.take(Options())
            child = os.fork()
            if child == 0:
                os.close(1), os.close(2)
                time.sleep(30)
                os._exit(0)
            print(child, guest.pid)
        """)
        child, engine = map(int, done.stdout.split())
        try:
            until(lambda: is_gone(engine), "the engine ends with the program that started it")
            self.assertFalse(is_gone(child))
        finally:
            os.kill(child, signal.SIGKILL)


class Machine(unittest.TestCase):
    """What may be missing."""

    def setUp(self) -> None:
        self.folder = tempfile.mkdtemp(dir=home.name)
        self.home = os.path.join(self.folder, "home")

    def refused(self, code: str, **variables: str) -> str:
        done = run(f"try: {code}\nexcept RuntimeError as error: print(error)", IPCCTL_HOME=self.home, **variables)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout

    def program(self, name: str, says: str) -> str:
        """A program that is none of ours: compiled, so that it counts as one."""
        path = os.path.join(self.folder, name)
        source = f'#include <stdio.h>\nint main(void) {{ puts("{says}"); return 3; }}\n'
        subprocess.run(["cc", "-x", "c", "-o", path, "-"], input=source, text=True, check=True)
        return path

    def test_without_bun(self) -> None:
        said = self.refused("_process.start(Options())", IPCCTL_JS_BUN="/nowhere/bun")
        self.assertIn("IPCCTL_JS_BUN", said)
        text = os.path.join(self.folder, "bun")
        with open(text, "w", encoding="utf-8") as file:
            file.write("echo no install script ran\n")
        os.chmod(text, 0o755)
        self.assertIn("no program of Bun 1.4.4", self.refused("_process.start(Options())", IPCCTL_JS_BUN=text))

    @skip_unless(shutil.which("cc") is not None, "C compiler", "a Bun of another version")
    def test_a_bun_of_another_version(self) -> None:
        old = self.program("bun", "1.2.3")
        for options in ("Options()", "Options(confine=False)"):
            said = self.refused(f"_process.start({options})", IPCCTL_JS_BUN=old)
            self.assertIn("1.2.3", said)
            self.assertIn("1.4.4 or newer", said)

    @skip_unless(shutil.which("cc") is not None, "C compiler", "a Node of another version")
    def test_a_node_of_another_version(self) -> None:
        old = self.program("node", "v20.20.2")
        engine = os.path.join(engines, "engine.js")
        start = "_process.start(Options(engine='v8'))"
        self.assertIn("22.21", self.refused(start, IPCCTL_JS_NODE=old, IPCCTL_JS_ENGINE=engine))

    @skip_unless(shutil.which("cc") is not None, "C compiler", "a Bun that cannot be executed")
    def test_a_bun_that_cannot_be_executed(self) -> None:
        path = self.program("bun", "1.4.5")
        with open(path, "r+b") as file:
            file.truncate(64)
        said = self.refused("_process.start(Options())", IPCCTL_JS_BUN=path)
        self.assertIn(f"{path} cannot be executed", said)

    def test_a_machine_that_cannot_confine(self) -> None:
        """It says what is missing, and the ways out."""
        shim = self.refused("_process.start(Options(allow_read=('/nowhere',)))")
        self.assertIn("/nowhere", shim)
        self.assertIn("confine=False", shim)
        self.assertIn("IPCCTL_JS_UNCONFINED=1", shim)

    def test_what_decides_whether_it_is_confined(self) -> None:
        for value, auto in (("1", False), ("", True), ("0", True)):
            with mock.patch.dict(os.environ, IPCCTL_JS_UNCONFINED=value):
                self.assertEqual(_template.resolve_confine("auto"), auto)
                self.assertTrue(_template.resolve_confine(True))
                self.assertFalse(_template.resolve_confine(False))

    def test_one_compiles_and_others_read_it(self) -> None:
        code = """
            compiled = []
            original = _template._compiled
            _template._compiled = lambda *words: compiled.append(1) or original(*words)
            _process.start(Options()).dispose()
            print(len(compiled))
        """
        results: list[str] = []
        threads = [
            threading.Thread(target=lambda: results.append(run(code, IPCCTL_HOME=self.home).stdout)) for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(sorted(results), ["0\n"] * 5 + ["1\n"])
        self.assertEqual(run(code, IPCCTL_HOME=self.home).stdout, "0\n")
        folder = os.path.join(self.home, "cache/js")
        (kept,) = [name for name in os.listdir(folder) if name != "lock"]
        path = os.path.join(folder, kept)
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
        with open(path, encoding="utf-8") as file:
            whole = file.read()
        other = json.loads(whole)
        other["facts"]["boot_id"] = "another"
        for damaged in (whole[: len(whole) // 2], "", "{}", json.dumps(other)):
            with open(path, "w", encoding="utf-8") as file:
                file.write(damaged)
            self.assertEqual(run(code, IPCCTL_HOME=self.home).stdout, "1\n")
        self.assertEqual(run(code, IPCCTL_HOME=self.home).stdout, "0\n")

    def test_templates_that_are_kept(self) -> None:
        """runtimeTemplates."""
        folder = os.path.join(self.folder, "cache")
        os.mkdir(folder)
        for number in range(_contract.RUNTIME_TEMPLATES_MAX + 1):
            _template._keep(folder, f"{number}.json", {"compact": []})
            os.utime(os.path.join(folder, f"{number}.json"), (number + 1, number + 1))
        _template._keep(folder, "last.json", {"compact": []})
        left = set(os.listdir(folder))
        self.assertEqual(len(left), _contract.RUNTIME_TEMPLATES_MAX)
        self.assertIn("last.json", left)
        self.assertNotIn("0.json", left)

    def test_a_cache_folder_that_cannot_be_written(self) -> None:
        os.makedirs(self.home)
        with open(os.path.join(self.home, "cache"), "w", encoding="utf-8"):
            pass  # where the folder would be
        done = run("guest = _pool.take(Options())\nprint(guest.pid)", IPCCTL_HOME=self.home)
        self.assertEqual(done.stderr, "")
        self.assertTrue(is_gone(int(done.stdout)))

    def test_without_descriptors(self) -> None:
        """None is lost by what could not be started."""
        done = run(
            """
            import resource
            _process._reaper.finish()  # each is waited for from now on
            _process.start(Options()).dispose()
            before = len(os.listdir("/proc/self/fd"))
            failed = set()
            for more in range(16):
                resource.setrlimit(resource.RLIMIT_NOFILE, (before + more, 1024))
                try: _process.start(Options()).dispose()
                except (RuntimeError, OSError) as error: failed.add(type(error).__name__)
            resource.setrlimit(resource.RLIMIT_NOFILE, (512, 1024))
            _process.start(Options()).dispose()
            print(sorted(failed), len(os.listdir("/proc/self/fd")) - before)
            """,
            IPCCTL_HOME=self.home,
        )
        self.assertEqual((done.stdout, done.stderr), ("['RuntimeError'] 0\n", ""))

    @skip_unless(has_tmpfs_mounts(), "tmpfs mounts", "a full disk of engines")
    def test_a_full_disk(self) -> None:
        folder = os.path.join(self.home, "run")
        os.makedirs(folder)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k,nr_inodes=64", "tmpfs", folder], check=True)
        try:
            said = self.refused("print(_process.start(Options()).hello['engine'])")
            self.assertTrue("bun" in said or "room" in said or "space" in said, said)
            self.assertEqual(os.listdir(os.path.join(folder, "js")) if os.path.exists(folder + "/js") else [], [])
        finally:
            subprocess.run(["umount", folder], check=True)


if __name__ == "__main__":
    unittest.main()
