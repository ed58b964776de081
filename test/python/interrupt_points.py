"""An interrupt at every instruction: a worker and its clients in one process, and a tracer that has a client interrupt
a request at the k-th instruction that the package, and the code that is called, executes after it was taken; for every
k. Run by test_interrupts.py, once for each way to serve and each implementation.

    python3 interrupt_points.py main|thread SCENARIO [STRIDE [OFFSET]]

No list of dangerous places: code that is added is tried as well.
"""

from __future__ import annotations

import array
import asyncio
import faulthandler
import fcntl
import mmap
import os
import signal
import socket
import struct
import sys
import threading
import time
from typing import Any

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "python"))
import ipcctl
from ipcctl import _backend, _console, _pure, _serving

PACKAGE = os.path.dirname(os.path.abspath(ipcctl.__file__)) + os.sep
#: For one answer; a request that is lost would be waited for without end.
DEADLINE_SECONDS = float(os.environ.get("IPCCTL_TEST_DEADLINE", "60"))
CALL, EVAL, CANCEL, CREDIT, BIND, RETURN = 1, 2, 3, 4, 5, 6
RESULT, ERROR, OUTPUT, STREAM, ITEM, END, INVOKE, HELLO = range(1, 9)
CAPACITY, DATA = 1 << 16, 4096
ended: dict[int, int] = {}


class Lost(Exception):
    """What was awaited did not come."""


class Client:
    """The client's end of a channel, with numbers of its own."""

    number = 0

    def __init__(self, meeting: socket.socket) -> None:
        size = DATA + 2 * CAPACITY
        memory = os.memfd_create("test", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
        os.ftruncate(memory, size)
        fcntl.fcntl(memory, 1033, 2 | 4)
        self.map = mmap.mmap(memory, size)
        self.map[:8] = b"IPCCTL\x03\x00"
        self.bell, theirs = socket.socketpair()
        self.bell.setblocking(False)
        mine, sharing = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._mine = mine
        rights = array.array("i", [memory, theirs.fileno(), sharing.fileno()])
        meeting.sendmsg([struct.pack("<IIB", 3, CAPACITY, 0)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        for one in (theirs, sharing):
            one.close()
        os.close(memory)
        self.tx = _pure.SharedRingBuffer(self.map, 256, DATA, CAPACITY, True)
        self.rx = _pure.SharedRingBuffer(self.map, 512, DATA + CAPACITY, CAPACITY, False)
        self.slots = memoryview(self.map)[1536:2048].cast("Q")
        self.words = memoryview(self.map)[:4096].cast("I")
        self.answers: dict[int, list[Any]] = {}
        self.until(lambda: HELLO in self._kinds, "HELLO")

    _kinds: set[int] = set()
    on_invoke: Any = None

    def send(self, *message: Any) -> None:
        assert self.tx.try_send(_backend.dumps(list(message)))
        if self.tx.needs_bell():
            self.ring()

    def ring(self) -> None:
        try:
            self.bell.send(b"b")
        except BlockingIOError:
            pass

    def ask(self, kind: int, *fields: Any) -> int:
        Client.number += 1
        self.send(kind, Client.number, *fields)
        return Client.number

    def want(self, number: int) -> None:
        """As docs/internals/shm-layout.md has it; the signal is sent by who calls."""
        slot = next(at for at, one in enumerate(self.slots) if one == 0)
        self.slots[slot] = number
        self.words[17] += 1
        self.ring()

    @property
    def taken(self) -> int:
        """How far the worker has read."""
        return self.words[64]

    def take(self) -> bool:
        frame = self.rx.try_receive()
        if frame is None:
            return False
        if self.rx.needs_bell():
            self.ring()
        kind, number, *rest = _backend.loads(frame)
        self._kinds = self._kinds | {kind}
        if kind in (RESULT, ERROR, END):
            self.answers[number] = [kind, *rest]
        elif kind == INVOKE:
            self.on_invoke(number)
        return True

    def until(self, is_so: Any, what: str) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not is_so():
            for one in {*clients, self}:
                while one.take():
                    pass
            if not is_so():
                time.sleep(0.0002)
            if time.monotonic() > deadline:
                raise Lost(what)

    def answer(self, number: int) -> list[Any]:
        self.until(lambda: number in self.answers, f"the answer to {number}")
        return self.answers.pop(number)


clients: list[Client] = []


class Shot:
    """At the k-th instruction of the package after a request was taken: has it interrupted, once."""

    def __init__(self) -> None:
        self.client: Client | None = None
        self.number = self.left = self.taken = 0
        self.has_fired = self.is_late = False
        self.where = ""

    def aim(self, client: Client, number: int, left: int) -> None:
        self.number, self.left, self.taken, self.has_fired, self.is_late = number, left, client.taken, False, False
        self.client = client

    def __call__(self, frame: Any, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE) and frame.f_code not in USER:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self.step

    def step(self, frame: Any, event: str, argument: Any) -> Any:
        client = self.client
        if event == "opcode" and client is not None and client.taken != self.taken:
            self.left -= 1
            if self.left < 0:
                self.client, self.has_fired = None, True
                self.is_late = self.number in ended
                self.where = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno} {frame.f_code.co_name}"
                client.want(self.number)
                clients[1].want(1)  # something of another client's, which ended long ago
                strike()
        return self.step


shot = Shot()
handled = 0


def on_signal(number: int, frame: object) -> None:
    global handled
    try:
        _console.on_signal()
    finally:
        handled += 1


def strike() -> None:
    """SIGURG, and its handler has run; what it raises in this thread comes out of here. It is sent ever less often
    until then, as a client does: one that comes just before the main thread sleeps in the kernel does not end that
    sleep.
    """
    before = handled
    now = time.monotonic()
    deadline, again, pause = now + DEADLINE_SECONDS, now, 0.05
    while handled == before:
        now = time.monotonic()
        if now > deadline:
            raise Lost("the handler of SIGURG")
        if now >= again:
            again, pause = now + pause, 2 * pause
            os.kill(os.getpid(), signal.SIGURG)
        time.sleep(0)


class Struck:
    """A lock that is struck by a signal as soon as it is held."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if not self._lock.acquire(blocking, timeout):
            return False
        if threading.current_thread() is threading.main_thread():
            os.kill(os.getpid(), signal.SIGURG)
        return True

    def release(self) -> None:
        self._lock.release()


# --- what is interrupted ---


def work(number: int) -> int:
    try:
        for _ in range(10):
            pass
        return number
    finally:
        ended[number] = 1


def ask(number: int) -> int:
    try:
        return int(lent(number))  # type: ignore[name-defined]  # noqa: F821
    finally:
        ended[number] = 1


async def nap(number: int) -> int:
    try:
        for _ in range(100):  # as long as the serving thread may still be at it
            await asyncio.sleep(0.002)
            if shot.has_fired:
                await asyncio.sleep(DEADLINE_SECONDS)
        return number
    finally:
        ended[number] = 1


def rows(number: int) -> Any:
    try:
        for at in range(3):
            yield at
    finally:
        ended[number] = 1


def add(a: int, b: int = 1) -> int:
    sys.settrace(shot)  # an exception out of a tracer ends the tracing
    return a + b


for function in (work, ask, nap, rows, add):
    ipcctl.expose(function)
#: Code of the user's that is interrupted at each instruction as well.
USER = {work.__code__, ask.__code__, rows.__code__}


def call(client: Client, name: str) -> int:
    return client.ask(CALL, name, [Client.number + 1], None)


def keywords(client: Client) -> int:
    return client.ask(CALL, "work", [], {"number": Client.number + 1})


def code(client: Client, capture: bool) -> int:
    number = Client.number + 1
    return client.ask(
        EVAL, f"print('.', end='')\nwork({number})" if capture else f"work({number})", {"capture": capture}
    )


def stream(client: Client) -> int:
    number = call(client, "rows")
    client.send(CREDIT, number, 10)
    return number


def lending(client: Client) -> int:
    """Its inner call, of another client, is to be unharmed."""
    other = clients[1]
    inner = []

    def on_invoke(invocation: int) -> None:
        inner.append(other.ask(CALL, "work", [Client.number + 1], None))
        waiting.append((inner[0], client, invocation))

    client.on_invoke = on_invoke
    return call(client, "ask")


#: Inner calls under way: their number, and what is answered once they are.
waiting: list[tuple[int, Client, int]] = []

SCENARIOS = {
    "call": lambda client: call(client, "work"),
    "keywords": keywords,
    "code": lambda client: code(client, False),
    "capture": lambda client: code(client, True),
    "async": lambda client: call(client, "nap"),
    "stream": stream,
    "lending": lending,
}


def settle(client: Client, number: int) -> list[Any]:
    """The answer; inner calls are answered on the way to it, and must not have been interrupted."""
    while True:
        client.until(
            lambda: number in client.answers or any(one[0] in clients[1].answers for one in waiting),
            f"the answer to {number}",
        )
        for one in [one for one in waiting if one[0] in clients[1].answers]:
            waiting.remove(one)
            inner = clients[1].answers.pop(one[0])
            if inner[0] != RESULT:
                raise Lost(f"the value of another client's call: it got {inner}")
            one[1].send(RETURN, one[2], one[0])
        if number in client.answers:
            return client.answers.pop(number)


def shoot(scenario: str, left: int) -> bool:
    """False if the request had ended before that instruction."""
    client = clients[0]
    shot.client = None
    taken = client.taken
    shot.aim(client, Client.number + 1, left)
    shot.taken = taken
    number = SCENARIOS[scenario](client)
    kind, *rest = settle(client, number)
    while waiting:  # the request was interrupted, and left an inner call behind that has to come to its end
        inner = waiting.pop()
        if clients[1].answer(inner[0])[0] != RESULT:
            raise Lost("the value of another client's call")
    shot.client = None
    is_interrupted = kind == ERROR and rest[0]["type"] == "KeyboardInterrupt"
    if kind == ERROR and not is_interrupted:
        raise Lost(f"a value, or an interrupt: it got {rest[0]}")
    if shot.has_fired and not shot.is_late and not is_interrupted and number in ended and scenario != "stream":
        raise Lost(f"an interrupt: it got {[kind, *rest]}")
    if not shot.has_fired and is_interrupted:
        raise Lost("a value: nobody has interrupted it")
    for other in clients:
        if other.answer(other.ask(CALL, "add", [1], {"b": 2})) != [RESULT, 3]:
            raise Lost("1 + 2")
    serving = _serving.serving()
    for session in serving._sessions:
        client.until(lambda one=session: not one.calls.tasks, "the end of its tasks")
        session.channel.server.is_leaving = True
    for other in clients:
        other.answer(other.ask(EVAL, "1", {}))
    for session in serving._sessions:
        left_over = [
            session.channel.server.wanted,
            session.calls.early,
            session.streams,
            session.incoming,
            serving.bound.invocations,
        ]
        if any(left_over) or session.channel.server.running():
            raise Lost(f"nothing that is left over: there is {left_over}, {session.channel.server.running()} runs")
    ended.clear()
    return shot.has_fired


def drive(meeting: socket.socket, scenario: str, stride: int, offset: int) -> None:
    at, points = offset, 0
    try:
        clients.append(Client(meeting))
        clients.append(Client(meeting))
        clients[0].send(BIND, 0, "lent")
        _serving.serving()._sessions[1].channel._looking = Struck()  # when the other client's interrupt is known
        for _ in range(3):  # first times import this and that
            shoot(scenario, sys.maxsize)
        while shoot(scenario, at):
            at, points = at + stride, points + 1
        if points == 0:
            raise Lost("one instruction at least")
        print(f"{_backend.implementation} {scenario}: interrupted at {points} instructions")
        sys.stdout.flush()
        os._exit(0)
    except BaseException as error:
        print(
            f"{_backend.implementation} {scenario}, instruction {at} ({shot.where}, after its end: {shot.is_late}): not there: {error}",
            flush=True,
        )
        if not isinstance(error, Lost):
            import traceback

            traceback.print_exc()
        faulthandler.dump_traceback(all_threads=True)
        os._exit(1)


def serve() -> None:
    try:
        _serving.serving().serve(lambda: False)
    except BaseException:
        import traceback

        traceback.print_exc()
        print(f"serve() ended, at {shot.where}", flush=True)
        os._exit(1)


def main() -> None:
    where, scenario = sys.argv[1:3]
    stride = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    offset = int(sys.argv[4]) if len(sys.argv) > 4 else 0
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    os.environ["IPCCTL_PLANE_FD"] = str(theirs.detach())
    signal.signal(signal.SIGURG, on_signal)
    _serving.serving().attach("")
    assert ours.recv(1) == b"a"
    threading.Thread(target=drive, args=(ours, scenario, stride, offset), daemon=True).start()
    if where == "main":
        serve()
    else:
        threading.Thread(target=serve, daemon=True).start()
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main()
