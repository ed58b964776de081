"""The worker's side of calls: takes messages from all clients in one thread, runs what they ask, and answers.

That thread is the console's until :func:`ipcctl.serve` is called, then the caller's, which usually is the main thread.
"""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import functools
import os
import platform
import select
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator

from . import _backend, _console, _contract
from ._bound import Bound
from ._channel import Channel, Segment, is_host, label_of_relay
from ._backend import BrokenChannel, DecodeError
from ._contract import CHANNEL_FDS
from ._contract import MEETING_HERE
from ._contract import PIPES_UNTAKEN_MAX as _PIPES_MAX
from ._contract import TO_CLIENT_HELLO as HELLO
from ._pipe import Pipe
from ._session import ANSWERS, Session
from ._shared import INT_BYTES, descriptors_of, here
from ._streams import Outgoing

TYPE_CHECKING = False  # as typing has it, which takes long to load
if TYPE_CHECKING:
    from typing import Any
    from ._end import Half

#: How long to busy-poll for the next message before sleeping: a caller that awaits calls in sequence finds us awake.
_SPIN_US = 60
#: How often a busy worker looks for new clients, and for the end of others.
_LOOK_AROUND_NS = 1_000_000
#: How often a thread that waits for the client checks whether it must fetch the answer itself.
_LOOK_SECONDS = 0.001
#: How long a thread waits at a time for its channel to the host, while another one serves.
_BESIDE_SECONDS = 0.01


class _Arrival:
    """A client that has come without the shim. Whoever takes it sets ``session``."""

    def __init__(
        self,
        payload: bytes,
        fds: list[int],
        exposed: dict[str, Callable[..., Any]] | None,
        on_end: Callable[[], None] | None,
    ) -> None:
        self.payload, self.fds, self.exposed, self.on_end = payload, fds, exposed, on_end
        self.session: Session | None = None
        self.is_left = False


class Serving:
    """One per process, created on first use."""

    def __init__(self) -> None:
        self.exposed: dict[str, Callable[..., Any]] = {}
        self.bound = Bound(self)
        #: Streams that may continue: a client has given them credit.
        self.ready: deque[Outgoing] = deque()
        #: :meth:`serve` was called; the console's thread gives way.
        self.is_wanted_elsewhere = False
        #: Called when the last client has closed its channel.
        self.on_last_client_gone: Callable[[], None] | None = None
        self._sessions: list[Session] = []
        #: Clients that have come from another thread, for the one that serves.
        self._arrived: deque[_Arrival] = deque()
        self._by_fd: dict[int, Session] = {}
        #: What the C path has left over and has not been taken yet: a nested turn may run out of stack on the way to
        #: it.
        self._owed: deque[tuple[Session, Any]] = deque()
        #: Of nested turns, when code waits for something of a client.
        self.depth = 0
        self._meeting: socket.socket | None = None
        #: Clients that another thread has met.
        self._met: deque[tuple[bytes, list[int]]] = deque()
        self._poll = select.poll()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._bell, select.POLLIN)
        self._thread: int | None = None
        self._looked_ns = 0
        self._pipes: dict[str, deque[Pipe]] = {}
        self._has_pipe = threading.Condition()
        #: The channel on which this worker asks the host.
        self._host: Pipe | None = None
        #: Channels of which this process gets the client's end, by their labels.
        self._relays: dict[str, Half] = {}
        #: How many wait for one. What comes when nobody does was given up.
        self._waiting_for_relays = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.RLock()
        #: In a forked child: the serving code continues there where it was, and must leave.
        self.is_abandoned = False

    # ---- meeting clients ----

    def attach(self, path: str) -> None:
        """Connects to the shim, which hands over channels. The folder's descriptor avoids the limit on the length of an
        address.
        """
        with self._lock:
            if self._meeting is not None:
                return
            passed = os.environ.pop("IPCCTL_PLANE_FD", None)
            if passed is not None:  # if no socket can be reached by path; this one is private
                meeting = socket.socket(fileno=int(passed))
                meeting.set_inheritable(False)
                meeting.setblocking(True)
                meeting.send(bytes((MEETING_HERE,)))  # says that something listens at this end
                self._meet_by(meeting)
                return
            meeting = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
            held = _console.held_plane()
            if held is not None:  # its path may be out of reach by now
                meeting.connect(f"/proc/self/fd/{held}")
                return self._meet_by(meeting)
            folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                meeting.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
            finally:
                os.close(folder)
            self._meet_by(meeting)

    def _meet_by(self, meeting: socket.socket) -> None:
        self._meeting = meeting
        self._poll.register(meeting, select.POLLIN)
        self.wake()

    def _meet(self) -> None:
        assert self._meeting is not None
        received = self._receive(self._meeting)
        if received is None:
            return
        data, fds = received
        if not data:
            self._poll.unregister(self._meeting)
            self._meeting.close()
            self._meeting = None
            return
        self._admit(data, fds)

    def _receive(self, meeting: socket.socket) -> tuple[bytes, list[int]] | None:
        """None if another thread has taken it."""
        size = CHANNEL_FDS * INT_BYTES
        try:
            data, ancillary, flags, _ = meeting.recvmsg(64, socket.CMSG_SPACE(size), socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        if flags & socket.MSG_CTRUNC:
            sys.stderr.write(
                "ipcctl: a client was turned away: this process has no file descriptor left for its channel\n"
            )
        return data, descriptors_of(ancillary)

    def _meet_beside(self, timeout: float) -> bool:
        """In another thread, while code of the script keeps the serving one: takes the channel to the host, and leaves
        all others to that.

        :returns: whether one has come
        """
        meeting = self._meeting
        try:
            if meeting is None or not select.select([meeting], [], [], timeout)[0]:
                return False
            received = self._receive(meeting)
        except (OSError, ValueError):
            return False  # the serving thread has closed it
        if received is None:
            return False
        data, fds = received
        if not data:
            time.sleep(timeout)  # the serving thread closes it
            return False
        if is_host(data) or label_of_relay(data) is not None:
            self._admit(data, fds)
            self.wake()  # it may wait for this channel as well
        else:
            self._met.append((data, fds))
            self.wake()
        return True

    def adopt(
        self,
        half: Half,
        exposed: dict[str, Callable[..., Any]] | None = None,
        on_end: Callable[[], None] | None = None,
    ) -> Callable[[], None]:
        """A client that has come without the shim.

        :param exposed: what this client alone may call; by default what all may
        :param on_end: called when it is gone
        :returns: leaves it, from any thread
        """
        fds, half.fds = half.fds, []
        os.close(fds.pop())  # of its life, which only a shim watches
        arrival = _Arrival(half.payload, fds, exposed, on_end)

        def leave() -> None:
            arrival.is_left = True
            if arrival.session is not None:
                arrival.session.channel.server.is_gone = True
            self.wake()

        self._arrived.append(arrival)
        self.wake()
        return leave

    def _take_arrived(self) -> None:
        while self._arrived:
            one = self._arrived.popleft()
            one.session = self._admit(one.payload, one.fds, one.exposed, one.on_end)
            if one.is_left and one.session is not None:
                one.session.channel.server.is_gone = True

    def _admit(
        self,
        data: bytes,
        fds: list[int],
        exposed: dict[str, Callable[..., Any]] | None = None,
        on_end: Callable[[], None] | None = None,
    ) -> Session | None:
        for fd in fds:
            os.set_inheritable(fd, False)
        label = label_of_relay(data)
        if label is not None and len(fds) == CHANNEL_FDS:
            from ._end import Half

            self._keep_relay(label, Half(data, fds))
            return None
        try:
            segment = Segment(data, fds)
        except (BrokenChannel, OSError, ValueError):
            for fd in fds:
                try:
                    os.close(fd)
                except OSError:
                    pass
            return None
        if segment.kind == _contract.CHANNEL_HOST:
            self._keep_host(Pipe(segment, is_sharing=True))
            return None
        if segment.name:
            self._keep_pipe(Pipe(segment))
            return None
        session = Session(self, segment, exposed, on_end)
        session.channel.sharing.on_forgotten = self.wake
        self._sessions.append(session)
        fd = session.channel.socket.fileno()
        self._by_fd[fd] = session
        self._poll.register(fd, select.POLLIN)
        about = {
            "pid": os.getpid(),
            "python": platform.python_version(),
            "implementation": _backend.implementation,
            "exposed": sorted(session.exposed),
        }
        self._guard(session, lambda: session.channel.send([HELLO, 0, about]))
        return session

    def _keep_pipe(self, pipe: Pipe) -> None:
        with self._has_pipe:
            if sum(map(len, self._pipes.values())) >= _PIPES_MAX:
                self._pipes = {name: deque(one for one in some if one.is_open) for name, some in self._pipes.items()}
            if sum(map(len, self._pipes.values())) >= _PIPES_MAX:
                return pipe.close()
            self._pipes.setdefault(pipe.name, deque()).append(pipe)
            self._has_pipe.notify_all()

    def _keep_host(self, pipe: Pipe) -> None:
        with self._has_pipe:
            self._host = pipe
            self._has_pipe.notify_all()

    def _keep_relay(self, label: str, half: Half) -> None:
        with self._has_pipe:
            if self._waiting_for_relays == 0:
                return half.close()
            self._relays[label] = half
            left = [self._relays.pop(one) for one in list(self._relays)[: -_contract.POLICY_RUNTIMES_MAX]]
            self._has_pipe.notify_all()
        for one in left:
            one.close()

    def take_relay(self, label: str, timeout: float) -> Half | None:
        """The client's end of a channel, of whose label the host has told us; None if it does not come in time."""
        self._wait_for(lambda: label in self._relays, timeout)
        with self._has_pipe:
            return self._relays.pop(label, None)

    @contextlib.contextmanager
    def relays(self) -> Iterator[None]:
        """Around what has the host send channels. Those that were not taken are closed in the end, or when the next one
        is asked for: perhaps nobody serves, and one that lies there keeps what is behind it.
        """
        self._take_sent()
        with self._has_pipe:
            self._waiting_for_relays += 1
        try:
            yield
        finally:
            self._take_sent()
            with self._has_pipe:
                self._waiting_for_relays -= 1
                left = list(self._relays.values()) if self._waiting_for_relays == 0 else []
                if left:
                    self._relays.clear()
            for one in left:
                one.close()

    def _take_sent(self) -> None:
        while self._meet_beside(0):
            pass

    def wait_host(self, timeout: float) -> Pipe | None:
        """The channel to the host, once it is open; answers calls meanwhile if nobody else does. None where none comes
        in time, or this process is turned away.
        """
        self._wait_for(lambda: not self.is_met or (self._host is not None and self._host.is_open), timeout)
        return self._host if self._host is not None and self._host.is_open else None

    @property
    def is_met(self) -> bool:
        """Whether the shim hands channels to this process: it does to one of a worker."""
        return self._meeting is not None

    def _wait_for(self, is_there: Callable[[], bool], timeout: float) -> None:
        if is_there():
            return
        deadline = time.monotonic() + timeout

        def is_over() -> bool:
            return is_there() or time.monotonic() >= deadline

        alarm = threading.Timer(timeout, self.wake)  # whoever serves sleeps until something comes
        alarm.daemon = True
        alarm.start()
        try:
            while not is_over():
                self._stay_with_parent()
                if self.is_here:  # code that runs for a client
                    self._turn_shielded()
                    continue
                if not self.is_wanted_elsewhere and self.serve_if_free(lambda: is_over() or self.is_wanted_elsewhere):
                    continue
                self._meet_beside(_BESIDE_SECONDS)
        finally:
            alarm.cancel()

    def take_pipe(self, name: str, timeout: float | None) -> Pipe:
        """Waits for a client to open it; answers calls meanwhile if nobody else does."""
        deadline = None if timeout is None else time.monotonic() + timeout

        def is_over() -> bool:
            return bool(self._pipes.get(name)) or (deadline is not None and time.monotonic() >= deadline)

        while True:
            self._stay_with_parent()
            with self._has_pipe:
                if self._pipes.get(name):
                    return self._pipes[name].popleft()
            if is_over():
                raise TimeoutError(f"no client opened a pipe {name!r} within {timeout} s")
            if deadline is None and not self.is_wanted_elsewhere:
                if self.serve_if_free(lambda: is_over() or self.is_wanted_elsewhere):
                    continue
            with self._has_pipe:
                self._has_pipe.wait_for(lambda: bool(self._pipes.get(name)), 0.05)

    def _guard(self, session: Session, work: Callable[[], Any]) -> Any:
        """An error with one client costs that client, and nothing else. None if there was one."""
        try:
            return work()
        except RecursionError as error:
            if self.depth > 1:
                raise  # the user's code must give way; what is left over stays
            return self._drop(session, error)
        except Exception as error:
            return self._drop(session, error)

    def _drop(self, session: Session, cause: BaseException | None = None) -> None:
        if session not in self._sessions:
            return
        self._sessions.remove(session)
        fd = session.channel.socket.fileno()
        self._by_fd.pop(fd, None)
        self._poll.unregister(fd)
        try:
            session.end(cause)
        except RecursionError:
            raise
        except Exception:  # a generator's clean-up, perhaps
            traceback.print_exc()
        if not self._sessions and self.on_last_client_gone is not None:
            self.on_last_client_gone()

    # ---- the loop ----

    def serve(self, until: Callable[[], bool]) -> None:
        """Takes and answers messages in this thread until ``until`` holds. The console's thread, if it serves, hands
        over first.
        """
        self.is_wanted_elsewhere = True
        try:
            while not self.serve_if_free(until):
                self.wake()
                time.sleep(0.001)
        finally:
            self.is_wanted_elsewhere = False

    def serve_if_free(self, until: Callable[[], bool]) -> bool:
        """The same; False at once if another thread serves."""
        if self.is_abandoned:
            return True
        with self._lock:
            if self._thread is not None:
                return False
            self._thread = threading.get_ident()
        try:
            while not until():
                self._turn()
                if self.is_abandoned:
                    break
        finally:
            self._thread = None
        return True

    @property
    def is_served(self) -> bool:
        return self._thread is not None

    @property
    def is_here(self) -> bool:
        """This is the serving thread."""
        return self._thread == threading.get_ident()

    def wake(self) -> None:
        """Makes the serving thread look around."""
        if self.is_abandoned:
            return
        for session in list(self._sessions):
            session.channel.server.is_leaving = True
        os.eventfd_write(self._bell, 1)

    def wait(self, session: Session, is_done: Callable[[], bool]) -> None:
        """Blocks code that runs for a client until something has arrived. The serving thread takes other requests
        meanwhile.
        :raises Interrupted: if the request of that code is interrupted
        :raises ConnectionError: in a process that was forked from the worker
        """
        if not self.is_here:
            while not is_done():
                time.sleep(_LOOK_SECONDS)
                self.fetch_answers(session)
            return
        was_exposed = _backend.shield()
        try:
            while not is_done():
                if not self.bound.is_behalf:  # otherwise the innermost request is one that waits further out
                    _backend.check()
                self._turn()
                self._stay_with_parent()
        finally:
            if was_exposed:
                _backend.unshield()

    def _turn_shielded(self) -> None:
        """Interrupts wait until the code that waits goes on."""
        was_exposed = _backend.shield()
        try:
            self._turn()
        finally:
            if was_exposed:
                _backend.unshield()

    def _turn(self) -> None:
        """Handles everything that has arrived; else busy-polls briefly; else sleeps until a bell."""
        self.depth += 1
        try:
            self._take_turn()
        except RecursionError:
            if self.depth > 1:
                raise  # the user's code must give way; what is left over stays
            traceback.print_exc()
        except Exception:  # an error of ours must not end a worker
            traceback.print_exc()
            time.sleep(_LOOK_SECONDS)
        finally:
            self.depth -= 1

    def _take_turn(self) -> None:
        self._take_arrived()
        is_any, has_early = self._settle()
        is_any = self._work_off() or is_any
        for session in list(self._sessions):
            if session.channel.is_behind:
                is_any = self._guard(session, functools.partial(self._catch_up, session)) or is_any
        sessions = self._sessions
        servers = tuple([session.channel.server for session in sessions])
        # What was just done may be what the outer code waits for: no sleep before it has looked.
        is_busy = is_any or bool(self.ready or has_early or any(session.channel.is_behind for session in sessions))
        meeting = -1 if self._meeting is None else self._meeting.fileno()
        done = _backend.turn(servers, here, 0 if is_busy or not servers else _SPIN_US, meeting, self._bell)
        if type(done) is bool:
            is_any = done or is_any
        else:
            is_any = True
            if done[0] is not None:  # its client has left while its code ran
                self._owed.append((done[0].session, done[1]))
                del done  # an exception in it would hold the frames of its code, and they hold this one
                self._work_off()
        for _ in range(len(self.ready)):
            if self.is_abandoned:
                break
            is_any = True
            stream = self.ready.popleft()
            self._guard(stream.session, stream.pump)
        if self.is_abandoned:
            return
        if not is_any:
            return self._sleep(has_early)
        now = time.monotonic_ns()
        if now - self._looked_ns > _LOOK_AROUND_NS:
            self._looked_ns = now
            for fd, events in self._poll.poll(0):
                self._on_ready(fd, events)

    def _settle(self) -> tuple[bool, bool]:
        """Handles clients that are gone, and requests that must end or may start now: returns whether there were any,
        and whether calls wait for their function.
        """
        is_any = has_early = False
        while self._met:
            self._admit(*self._met.popleft())
            is_any = True
        for session in list(self._sessions):
            server = session.channel.server
            if server.has_news:
                session.channel.look()
            if server.is_gone or not session.channel.is_open:
                self._drop(session)
                is_any = True
                continue
            if server.wanted:
                is_any = self._guard(session, session.settle_interrupts) or is_any
            if session.calls.early:
                is_any = self._guard(session, session.calls.retry_early) or is_any
                has_early = has_early or bool(session.calls.early)
        return is_any, has_early

    def _work_off(self) -> bool:
        """What the C path has left over. If the stack ends before an answer is sent, it stays for the next turn."""
        is_any = bool(self._owed)
        while self._owed:
            session, done = self._owed.popleft()
            try:
                self._guard(session, lambda: self._take(session, done))
            except RecursionError:
                if type(done) is tuple:
                    self._owed.appendleft((session, done))
                raise
        return is_any

    def _catch_up(self, session: Session) -> bool:
        """What another thread has read for this one, and what waits for room. False if there was nothing to handle."""
        channel = session.channel
        channel.flush()
        channel.tell_forgotten()
        if not channel.backlog:
            return False
        message = channel.next()
        if message is not None:
            self._handle(session, message)
        return True

    def _take(self, session: Session, done: Any) -> None:
        channel = session.channel
        if done is False:
            raise BrokenChannel("the client broke the rules of the channel")
        if type(done) is tuple:
            return session.calls.finish(*done)
        if type(done) is bytes:
            return self._handle(session, channel.read(done))
        message = channel.next() if done is None else channel.judge(done)
        if message is not None:
            self._handle(session, message)

    def _handle(self, session: Session, message: list[Any]) -> None:
        """A message for which the stack is too small stays for a turn with more of it."""
        begun = session.channel.server.last
        try:
            session.handle(message)
        except RecursionError:
            if session.channel.server.last == begun:
                session.channel.put_back(message)
            raise

    def _sleep(self, has_early: bool) -> None:
        timeout: int | None = 20 if has_early else None
        asleep: list[Channel] = []
        try:
            for session in list(self._sessions):
                channel = session.channel
                if channel.is_rung and not channel.drain_bell():
                    self._drop(session)
                    continue
                try:
                    if not channel.rx.prepare_sleep():
                        return
                except BrokenChannel as error:
                    self._drop(session, error)
                    continue
                asleep.append(channel)
                if channel.backlog or channel.server.has_news:
                    return
                self._guard(session, channel.tell_forgotten)
                if not self._guard(session, channel.flush):
                    timeout = 100  # it rings once there is room; this covers a missed bell
            for fd, events in self._poll.poll(timeout):
                self._on_ready(fd, events)
        finally:
            for channel in asleep:
                channel.rx.cancel_sleep()

    def _on_ready(self, fd: int, events: int) -> None:
        if fd == self._bell:
            os.eventfd_read(fd)
        elif self._meeting is not None and fd == self._meeting.fileno():
            self._meet()
        elif (session := self._by_fd.get(fd)) is not None:
            if events & (select.POLLHUP | select.POLLERR):
                session.channel.server.is_gone = True  # nothing of it is started any more
            else:
                session.channel.is_rung = True  # drained before the next sleep: the message comes first

    def fetch_answers(self, session: Session) -> None:
        """For a thread that waits for the client while the user's code keeps the serving thread busy.
        :raises ConnectionError: in a process that was forked from the worker
        """
        self._stay_with_parent()
        channel = session.channel
        if not any(one.channel.server.running() for one in list(self._sessions)):
            return
        if not channel.reading.acquire(blocking=False):
            return
        try:
            channel.server.is_paused = True
            while (message := channel.receive()) is not None:
                if message[0] in ANSWERS:
                    session.take_answer(message)
                else:
                    channel.backlog.append(message)
        except (BrokenChannel, DecodeError, IndexError):
            channel.server.is_gone = True  # the serving thread drops it
        finally:
            channel.server.is_paused = bool(channel.backlog)
            channel.reading.release()
        self.wake()

    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of async functions, in its own thread."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            _thread.start_new_thread(self._loop.run_forever, ())
        return self._loop

    # ---- interrupts ----

    def on_signal(self) -> None:
        """SIGURG, in the main thread: a client wants something interrupted, or is gone.
        :raises Interrupted: if it is what this very thread runs
        """
        was_exposed = _backend.shield()  # another signal in the middle of this one raises nothing
        try:
            for session in list(self._sessions):
                if session.channel.server.has_news:
                    session.channel.look()
        finally:
            if was_exposed:
                _backend.unshield()
        _backend.deliver()

    def _stay_with_parent(self) -> None:
        if self.is_abandoned:
            raise ConnectionError("this client belongs to the process that this one was forked from; connect again")

    def abandon(self) -> None:
        """In a forked child: channels and threads are the parent's. A descriptor left open would take its messages."""
        self.is_abandoned = True
        for session in self._sessions:
            session.channel.abandon()
        self._sessions.clear()
        for arrival in self._arrived:
            for fd in arrival.fds:
                os.close(fd)
        self._arrived.clear()
        self._owed.clear()
        if self._meeting is not None:
            self._meeting.close()
        os.close(self._bell)
        if self._loop is not None:
            self._loop.stop()  # it may be the thread that has forked
        _backend.forget()


_serving: Serving | None = None
_making = threading.Lock()


def serving() -> Serving:
    global _serving
    if _serving is None:
        with _making:  # the console's thread may come at the same time
            if _serving is None:
                _serving = Serving()
    return _serving


def forget() -> None:
    """In a forked child: only the parent serves."""
    global _serving, _making
    if _serving is not None:
        _serving.abandon()
    _serving, _making = None, threading.Lock()


_console.current = lambda: _serving
os.register_at_fork(after_in_child=forget)
