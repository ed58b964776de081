"""The worker's side of calls: takes messages from all channels in one thread, runs what they ask, and answers.

That thread is the console's until :func:`ipcctl.serve` is called, then the caller's, which usually is the main one.
"""

from __future__ import annotations

import array
import asyncio
import functools
import inspect
import itertools
import os
import platform
import select
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from . import _codec
from ._channel import Channel, Segment
from ._codec import BrokenChannel, DecodeError, EncodeError, JavaScriptError, StreamRef
from ._contract import CHANNEL_FDS_FORWARDED
from ._contract import PIPES_UNTAKEN_MAX as _PIPES_MAX
from ._contract import STREAM_ITEMS_MAX as _WINDOW
from ._contract import TO_WORKER_CALL as CALL
from ._contract import TO_WORKER_EVAL as EVAL
from ._contract import TO_WORKER_CANCEL as CANCEL
from ._contract import TO_WORKER_CREDIT as CREDIT
from ._contract import TO_WORKER_BIND as BIND
from ._contract import TO_WORKER_RETURN as RETURN
from ._contract import TO_WORKER_THROW as THROW
from ._contract import TO_WORKER_UNBIND as UNBIND
from ._contract import TO_WORKER_PUSH as PUSH
from ._contract import TO_WORKER_CLOSE as CLOSE
from ._contract import TO_WORKER_FAIL as FAIL
from ._contract import TO_WORKER_FORGET as FORGET
from ._contract import TO_CLIENT_RESULT as RESULT
from ._contract import TO_CLIENT_ERROR as ERROR
from ._contract import TO_CLIENT_OUTPUT as OUTPUT
from ._contract import TO_CLIENT_STREAM as STREAM
from ._contract import TO_CLIENT_ITEM as ITEM
from ._contract import TO_CLIENT_END as END
from ._contract import TO_CLIENT_INVOKE as INVOKE
from ._contract import TO_CLIENT_HELLO as HELLO
from ._contract import TO_CLIENT_WANT as WANT
from ._contract import TO_CLIENT_LEAVE as LEAVE
from ._evaluate import Capture, forget_namespace, namespace, run
from ._pipe import Pipe
from ._shared import here

#: How long to look for the next message before going to sleep: a caller that awaits in a row finds us awake.
_SPIN_US = 60
#: How often a busy worker looks for new clients and for the end of others.
_LOOK_AROUND_NS = 1_000_000
#: How long a call waits for its function where nobody serves yet: the script may be in the middle of its imports.
_EXPOSE_SECONDS = 10.0
#: How often a thread that waits for a function of the client looks whether it must fetch the answer itself.
_LOOK_SECONDS = 0.001
#: Messages of one channel in a row before the others get their turn.
_TURN_MESSAGES = 64


class Runtime:
    """One per process, made on first use."""

    def __init__(self) -> None:
        self.exposed: dict[str, Callable[..., Any]] = {}
        self._channels: list[Channel] = []
        self._meeting: socket.socket | None = None
        self._poll = select.poll()
        self._by_fd: dict[int, Channel] = {}
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._bell, select.POLLIN)
        self._thread: int | None = None
        #: Somebody called :meth:`serve`; the console's thread makes room.
        self.is_wanted_elsewhere = False
        #: Calls of functions that the script, which may still be importing, has not exposed yet: until when, and what.
        self._early: list[tuple[float, Channel, list[Any]]] = []
        self._looked_ns = 0
        #: Called when the last client has closed its channel.
        self.on_last_client_gone: Callable[[], None] | None = None
        self._pipes: dict[str, deque[Pipe]] = {}
        self._has_pipe = threading.Condition()
        self._streams: dict[tuple[Channel, int], _Stream] = {}
        self._tasks: dict[tuple[Channel, int], Any] = {}
        self._invocations: dict[int, _Invocation] = {}
        self._incoming: dict[tuple[Channel, int], IncomingStream] = {}
        self._numbers = itertools.count(1)
        self._bound: dict[str, Channel] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.RLock()

    # ---- meeting clients ----

    def attach(self, path: str) -> None:
        """Connects to the shim, which hands over channels. The folder's descriptor leads around the length of an address."""
        with self._lock:
            if self._meeting is not None:
                return
            passed = os.environ.pop("IPCCTL_PLANE_FD", None)
            if passed is not None:  # where no socket can be reached by its path; it is ours alone
                meeting = socket.socket(fileno=int(passed))
                meeting.set_inheritable(False)
                meeting.setblocking(True)
                meeting.send(b"a")  # says that somebody listens at this end
                self._meet_by(meeting)
                return
            meeting = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
            folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                meeting.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
            finally:
                os.close(folder)
            self._meet_by(meeting)

    def _meet_by(self, meeting: socket.socket) -> None:
        self._meeting = meeting
        self._poll.register(meeting, select.POLLIN)
        self._wake()

    def _meet(self) -> None:
        assert self._meeting is not None
        size = CHANNEL_FDS_FORWARDED * array.array("i").itemsize
        data, ancillary, _, _ = self._meeting.recvmsg(64, socket.CMSG_SPACE(size))
        if not data:
            self._poll.unregister(self._meeting)
            self._meeting.close()
            self._meeting = None
            return
        fds = array.array("i")
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
        for fd in fds:
            os.set_inheritable(fd, False)
        try:
            segment = Segment(data, list(fds))
        except (BrokenChannel, OSError, ValueError):
            for fd in fds:
                try:
                    os.close(fd)
                except OSError:
                    pass
            return
        if segment.name:
            return self._keep_pipe(Pipe(segment))
        channel = Channel(segment, self.exposed)
        channel.sharing.on_forgotten = self._wake
        self._channels.append(channel)
        fd = channel.socket.fileno()
        self._by_fd[fd] = channel
        self._poll.register(fd, select.POLLIN)
        about = {
            "pid": os.getpid(),
            "python": platform.python_version(),
            "implementation": _codec.implementation,
            "exposed": sorted(self.exposed),
        }
        self._safely(channel, lambda: channel.send([HELLO, 0, about]))

    def _keep_pipe(self, pipe: Pipe) -> None:
        with self._has_pipe:
            if sum(map(len, self._pipes.values())) >= _PIPES_MAX:
                self._pipes = {name: deque(one for one in some if one.is_open) for name, some in self._pipes.items()}
            if sum(map(len, self._pipes.values())) >= _PIPES_MAX:
                return pipe.close()
            self._pipes.setdefault(pipe.name, deque()).append(pipe)
            self._has_pipe.notify_all()

    def take_pipe(self, name: str, timeout: float | None) -> Pipe:
        """Waits for a client to open it; answers calls meanwhile where nobody else does."""
        deadline = None if timeout is None else time.monotonic() + timeout

        def is_over() -> bool:
            return bool(self._pipes.get(name)) or (deadline is not None and time.monotonic() >= deadline)

        while True:
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

    def _safely(self, channel: Channel, work: Callable[[], Any]) -> Any:
        """What goes wrong with a channel costs the channel, and nothing else. None if it did."""
        try:
            return work()
        except (BrokenChannel, DecodeError):
            self._drop(channel)
            return None

    def _drop(self, channel: Channel) -> None:
        if channel not in self._channels:
            return
        self._channels.remove(channel)
        fd = channel.socket.fileno()
        self._by_fd.pop(fd, None)
        self._poll.unregister(fd)
        for key in [key for key in self._streams if key[0] is channel]:
            self._streams.pop(key).close()
        for key in [key for key in self._tasks if key[0] is channel]:
            self._cancel_task(key)
        for name in [name for name, owner in self._bound.items() if owner is channel]:
            self._unbind(name)
        for key in [key for key in self._incoming if key[0] is channel]:
            self._incoming.pop(key).fail(ConnectionError("the client whose stream this is is gone"))
        for invocation in [one for one in self._invocations.values() if one.channel is channel]:
            invocation.fail(ConnectionError("the client that bound this function is gone"))
        channel.close()
        if not self._channels and self.on_last_client_gone is not None:
            self.on_last_client_gone()

    # ---- the loop ----

    def serve(self, until: Callable[[], bool]) -> None:
        """Takes and answers messages in this thread until ``until`` holds. The console's thread, if it serves, hands over first."""
        self.is_wanted_elsewhere = True
        try:
            while not self.serve_if_free(until):
                self._wake()
                time.sleep(0.001)
        finally:
            self.is_wanted_elsewhere = False

    def serve_if_free(self, until: Callable[[], bool]) -> bool:
        """The same; False at once if another thread serves."""
        with self._lock:
            if self._thread is not None:
                return False
            self._thread = threading.get_ident()
        try:
            while not until():
                self._turn()
        finally:
            self._thread = None
        return True

    @property
    def is_served(self) -> bool:
        return self._thread is not None

    def _wake(self) -> None:
        for channel in self._channels:
            channel.server.is_leaving = True
        os.eventfd_write(self._bell, 1)

    def _turn(self) -> None:
        """Everything that is there; else a short look out for more; else sleep until a bell."""
        if self._early:
            self._retry_early()
        is_busy = bool(self._streams or self._early)
        is_any = False
        for channel in self._channels:
            if channel.is_behind:
                is_busy = True
                is_any = self._safely(channel, functools.partial(self._catch_up, channel)) or is_any
                break  # the list may be another one now
        servers = tuple([channel.server for channel in self._channels])
        meeting = -1 if self._meeting is None else self._meeting.fileno()
        done = _codec.turn(servers, here, 0 if is_busy or not servers else _SPIN_US, meeting, self._bell)
        if type(done) is bool:
            is_any = done or is_any
        else:
            is_any = True
            self._safely(done[0], functools.partial(self._take, *done))
        for stream in list(self._streams.values()):
            is_any = stream.pump() or is_any
        if not is_any:
            return self._sleep()
        now = time.monotonic_ns()
        if now - self._looked_ns > _LOOK_AROUND_NS:
            self._looked_ns = now
            for fd, events in self._poll.poll(0):
                self._on_ready(fd, events)

    def _catch_up(self, channel: Channel) -> bool:
        """What another thread has read for this one, and what waits for room. False if there was nothing to handle."""
        channel.flush()
        channel.tell_forgotten()
        if not channel.backlog:
            return False
        self._handle(channel, channel.backlog.popleft())
        return True

    def _take(self, channel: Channel, done: Any) -> None:
        """What the quick way has left over."""
        if done is False:
            raise BrokenChannel("the client wrote what it must not")
        if type(done) is tuple:
            self._finish(channel, *done)
        else:
            message = channel.next() if done is None else channel.judge(done)
            if message is not None:
                self._handle(channel, message)
        if not channel.is_open:
            self._drop(channel)

    def _sleep(self) -> None:
        timeout: int | None = 20 if self._early else None
        asleep: list[Channel] = []
        try:
            for channel in list(self._channels):
                if channel.is_rung and not channel.drain_bell():
                    self._drop(channel)
                    continue
                try:
                    if not channel.rx.prepare_sleep():
                        return
                except BrokenChannel:
                    self._drop(channel)
                    continue
                asleep.append(channel)
                if channel.backlog:
                    return
                self._safely(channel, channel.tell_forgotten)
                if not self._safely(channel, channel.flush):
                    timeout = 1  # the client has no way to say that there is room again
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
        elif (channel := self._by_fd.get(fd)) is not None:
            channel.is_rung = True  # drained before the next sleep: the message comes first

    # ---- messages ----

    def _handle(self, channel: Channel, message: list[Any]) -> None:
        kind, number = message[0], message[1]
        if type(number) is not int:
            raise BrokenChannel("the number of a message is an integer")
        try:
            if kind in (CALL, EVAL) and channel.is_cancelled(number):
                interrupted = KeyboardInterrupt("interrupted by the client before it began")
                return self._fail(channel, number, interrupted, time.monotonic_ns())
            if kind == CALL:
                _, _, name, args, kwargs = message
                if name not in self.exposed and not self.is_wanted_elsewhere:
                    self._early.append((time.monotonic() + _EXPOSE_SECONDS, channel, message))
                    return
                for one in args:  # a loop: any() over a generator would cost more than the call
                    if type(one) is StreamRef:
                        args = [self._receive_stream(channel, other) for other in args]
                        break
                self._answer(channel, number, self._call, name, args, kwargs)
            elif kind == EVAL:
                _, _, code, options = message
                self._evaluate(channel, number, code, options)
            elif kind == CANCEL:
                self._cancel(channel, number)
            elif kind == CREDIT:
                stream = self._streams.get((channel, number))
                if stream is not None:
                    stream.grant(message[2])
            elif kind == BIND:
                self._bind(channel, message[2])
            elif kind == UNBIND:
                self._unbind(message[2])
            elif kind in _ANSWERS:
                self._take_answer(channel, message)
            elif kind == FORGET:
                channel.sharing.forget(number)
            else:
                raise BrokenChannel(f"no message is of kind {kind}")
        except BrokenChannel:
            raise
        except Exception as error:  # whatever the client sent, it costs it its channel and us nothing
            raise BrokenChannel(f"a malformed message of kind {kind}: {error}") from error

    def _retry_early(self) -> None:
        now = time.monotonic()
        waiting, self._early = self._early, []
        for until, channel, message in waiting:
            if not channel.is_open:
                continue
            name = message[2]
            if name in self.exposed:
                self._safely(channel, functools.partial(self._handle, channel, message))
            elif now < until and not self.is_wanted_elsewhere:
                self._early.append((until, channel, message))
            else:
                self._safely(channel, functools.partial(self._answer, channel, message[1], self._call, name, [], None))

    def _call(self, name: str, args: list[Any], kwargs: dict[str, Any] | None) -> Any:
        try:
            function = self.exposed[name]
        except KeyError:
            known = ", ".join(sorted(self.exposed)) or "none"
            raise LookupError(f"no function {name!r} is exposed; there is: {known}") from None
        return function(*args, **kwargs) if kwargs else function(*args)

    def _evaluate(self, channel: Channel, number: int, code: str, options: dict[str, Any]) -> None:
        mode = options.get("mode", "value")
        if mode == "forget":
            return self._answer(channel, number, forget_namespace, options["namespace"])

        def execute() -> Any:
            value = run(code, namespace(options.get("namespace")))
            if inspect.iscoroutine(value):
                return _then(value, lambda result: _shown(result, mode))
            return _shown(value, mode)

        if not options.get("capture"):
            return self._answer(channel, number, execute)
        with Capture(lambda stream, text: channel.send([OUTPUT, number, stream, text])):
            self._answer(channel, number, execute)

    def _answer(self, channel: Channel, number: int, work: Callable[..., Any], *args: Any) -> None:
        """Runs it and sends its value, its error, or the beginning of a stream."""
        began = time.monotonic_ns()
        try:
            value, is_error = self.run_as(channel, number, lambda: work(*args)), False
        except BaseException as error:  # noqa: B036 - KeyboardInterrupt and SystemExit of the called code are its answer
            value, is_error = error, True
        self._finish(channel, number, value, is_error, began)

    def _finish(self, channel: Channel, number: int, value: Any, is_error: bool, began: int) -> None:
        """Of a request that ran, whatever it gave."""
        if is_error:
            return self._fail(channel, number, value, began)
        try:
            if type(value) in _PLAIN:
                pass
            elif inspect.isawaitable(value):
                return self._later(channel, number, value, began)
            elif isinstance(value, (Iterator, AsyncIterator)):
                return self._stream(channel, number, value, began)
            channel.send([RESULT, number, value], began)
        except BrokenChannel:
            raise
        except BaseException as error:  # noqa: B036
            self._fail(channel, number, error, began)

    def _fail(self, channel: Channel, number: int, error: BaseException, began: int | None = None) -> None:
        channel.send([ERROR, number, describe(error)], began)

    # ---- async ----

    def _later(self, channel: Channel, number: int, awaitable: Any, began: int) -> None:
        key = (channel, number)

        async def finish() -> None:
            try:
                value = await awaitable
                channel.send([RESULT, number, value], began)
            except BrokenChannel:
                pass
            except BaseException as error:  # noqa: B036
                if isinstance(error, asyncio.CancelledError):
                    error = KeyboardInterrupt()
                try:
                    self._fail(channel, number, error, began)
                except BrokenChannel:
                    pass
            finally:
                self._tasks.pop(key, None)

        self._tasks[key] = asyncio.run_coroutine_threadsafe(finish(), self.loop())

    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of async functions, in a thread of its own."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="ipcctl-asyncio", daemon=True).start()
        return self._loop

    def _cancel_task(self, key: tuple[Channel, int]) -> None:
        task = self._tasks.pop(key, None)
        if task is not None:
            task.cancel()

    # ---- streams ----

    def _stream(self, channel: Channel, number: int, items: Any, began: int) -> None:
        key = (channel, number)
        is_async = isinstance(items, AsyncIterator)
        self._streams[key] = (_AsyncStream if is_async else _Stream)(self, channel, number, items)
        channel.send([STREAM, number], began)

    def end_stream(self, channel: Channel, number: int) -> None:
        self._streams.pop((channel, number), None)

    def run_as(self, channel: Channel, number: int, work: Callable[[], Any]) -> Any:
        """So that an interrupt finds what runs."""
        before = channel.server.running
        channel.server.running = number
        try:
            return work()
        finally:
            channel.server.running = before

    @property
    def _is_running(self) -> bool:
        return any(channel.server.running for channel in self._channels)

    def _cancel(self, channel: Channel, number: int) -> None:
        key = (channel, number)
        self._cancel_task(key)
        stream = self._streams.pop(key, None)
        if stream is not None:
            stream.close()

    # ---- functions of the client ----

    def _bind(self, channel: Channel, name: str) -> None:
        """``f`` becomes a name of the script, ``o.f`` an attribute of one; what the script calls so itself stays as it is."""
        if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")) or name.count(".") > 1:
            raise BrokenChannel(f"{name!r} is no name of a function")
        self._bound[name] = channel
        scope = namespace(None)
        first, _, attribute = name.partition(".")
        if first in scope and not isinstance(scope[first], (BoundFunction, BoundObject)):
            return
        if not attribute:
            scope[first] = BoundFunction(self, name)
            return
        if not isinstance(scope.get(first), BoundObject):
            scope[first] = BoundObject()
        setattr(scope[first], attribute, BoundFunction(self, name))

    def _unbind(self, name: str) -> None:
        self._bound.pop(name, None)
        scope = namespace(None)
        first, _, attribute = name.partition(".")
        held = scope.get(first)
        if not attribute and isinstance(held, BoundFunction):
            del scope[first]
        elif isinstance(held, BoundObject):
            held.__dict__.pop(attribute, None)
            if not held.__dict__:
                del scope[first]

    def begin_invoke(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Invocation:
        channel = self._bound.get(name)
        if channel is None:
            known = ", ".join(sorted(self._bound)) or "none"
            raise LookupError(f"no client binds a function {name!r} at present; there is: {known}")
        invocation = _Invocation(channel)
        number = next(self._numbers)
        self._invocations[number] = invocation
        invocation.on_done(lambda: self._invocations.pop(number, None))
        channel.send([INVOKE, number, name, list(args), kwargs or None])
        return invocation

    def invoke(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Blocks this thread only. In the serving thread messages are taken meanwhile, so that the function may call back."""
        invocation = self.begin_invoke(name, args, kwargs)
        if self._thread == threading.get_ident():
            while not invocation.is_done:
                self._turn()
            return invocation.result()
        # The serving thread may be busy with code that waits for this very thread: then the answer is fetched here.
        while not invocation.wait(_LOOK_SECONDS):
            if self._is_running:
                self._fetch_answers(invocation.channel)
        return invocation.result()

    def _fetch_answers(self, channel: Channel) -> None:
        if not channel.reading.acquire(blocking=False):
            return
        try:
            channel.server.is_paused = True
            while (message := channel.receive()) is not None:
                if message[0] in _ANSWERS:
                    self._take_answer(channel, message)
                else:
                    channel.backlog.append(message)
        except (BrokenChannel, DecodeError, IndexError):
            channel.is_open = False  # the serving thread drops it
        finally:
            channel.server.is_paused = False
            channel.reading.release()
        self._wake()

    def _take_answer(self, channel: Channel, message: list[Any]) -> None:
        """Of a function or a stream of the client; for what nobody waits any more nothing happens."""
        kind, number = message[0], message[1]
        if kind in (RETURN, THROW):
            invocation = self._invocations.get(number)
            if invocation is None:
                return
            if kind == RETURN:
                invocation.finish(message[2])
            else:
                invocation.fail(_javascript_error(message[2]))
            return
        stream = self._incoming.get((channel, number))
        if stream is None:
            return
        if kind == PUSH:
            stream.push(message[2])
            return
        del self._incoming[channel, number]
        stream.fail(_javascript_error(message[2]) if kind == FAIL else None)

    # ---- streams of the client ----

    def _receive_stream(self, channel: Channel, value: Any) -> Any:
        if type(value) is not StreamRef:
            return value
        stream = IncomingStream(self, channel, value.number)
        self._incoming[channel, value.number] = stream
        return stream

    def leave_stream(self, channel: Channel, number: int) -> None:
        if self._incoming.pop((channel, number), None) is not None:
            channel.send([LEAVE, number])

    def wait_for(self, channel: Channel, is_done: Callable[[], bool]) -> None:
        """Blocks this thread until something of the channel has come."""
        while not is_done():
            if self._thread == threading.get_ident():
                self._turn()
                continue
            time.sleep(_LOOK_SECONDS)
            if self._is_running:
                self._fetch_answers(channel)

    # ---- interrupts ----

    def on_signal(self) -> None:
        """SIGURG, in the main thread: a client has written into its segment what is to be interrupted."""
        for channel in self._channels:
            number = channel.take_interrupt()
            if number == 0:
                continue
            if (channel, number) in self._tasks:
                self._cancel_task((channel, number))
            elif (running := channel.server.running) and number in (running & _ANYTHING, _ANYTHING):
                if self._thread == threading.get_ident():
                    raise KeyboardInterrupt("interrupted by the client")
                channel.server.is_leaving = True  # so that no later call is hit
                _raise_in_thread(self._thread)
            elif number != _ANYTHING:
                channel.cancel_ahead(number)


#: As the number of an interrupt: whatever of this client runs; it is going away.
_ANYTHING = 0xFFFFFFFF
#: Values that are neither awaitable nor a stream: most answers, told apart quickly.
_PLAIN = frozenset((type(None), bool, int, float, str, bytes, list, dict, tuple, set, memoryview))


def _raise_in_thread(thread: int | None) -> None:
    import ctypes

    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread or 0), ctypes.py_object(KeyboardInterrupt))


async def _then(awaitable: Any, change: Callable[[Any], Any]) -> Any:
    return change(await awaitable)


def _shown(value: Any, mode: str) -> Any:
    if mode == "repr":
        return None if value is None else repr(value)
    return None if mode == "exec" else value


class _Stream:
    """A generator, pulled as far as the client has given credit."""

    def __init__(self, runtime: Runtime, channel: Channel, number: int, items: Any) -> None:
        self._runtime, self.channel, self._number, self._items = runtime, channel, number, items
        self._credit = 0
        #: The generator runs, perhaps inside a call of the client's function that takes messages meanwhile.
        self._is_running = False
        self._is_closed = False

    def grant(self, credit: object) -> None:
        if type(credit) is not int or not 0 < credit <= 1 << 20:
            raise BrokenChannel(f"{credit!r} is no credit")
        self._credit += credit

    def pump(self) -> bool:
        """At most a few items, so that other messages get their turn. True if there was something to do."""
        if self._is_running:
            return False
        for _ in range(min(self._credit, _TURN_MESSAGES)):
            self._credit -= 1
            try:
                self._is_running = True
                item = self._runtime.run_as(self.channel, self._number, lambda: next(self._items, _END))
                self._is_running = False
                if self._is_closed:
                    self.close()
                    return True
                if item is _END:
                    self._runtime.end_stream(self.channel, self._number)
                    self.channel.send([END, self._number])
                    return True
                self.channel.send([ITEM, self._number, item])
            except BrokenChannel:
                self._runtime._drop(self.channel)
                return True
            except BaseException as error:  # noqa: B036
                self._is_running = False
                self._runtime.end_stream(self.channel, self._number)
                if not self._is_closed:
                    self._runtime._fail(self.channel, self._number, error)
                return True
        return self._credit > 0

    def close(self) -> None:
        self._is_closed = True
        close = getattr(self._items, "close", None)
        if close is None or self._is_running:
            return  # what runs is closed when it next gives something
        try:
            close()
        except BaseException:  # noqa: B036 - nobody is left to tell
            traceback.print_exc()


class _AsyncStream(_Stream):
    """An async generator, in the event loop's thread."""

    def __init__(self, runtime: Runtime, channel: Channel, number: int, items: Any) -> None:
        super().__init__(runtime, channel, number, items)
        self._allowed = asyncio.Semaphore(0)
        self._task = asyncio.run_coroutine_threadsafe(self._run(), runtime.loop())

    def grant(self, credit: object) -> None:
        super().grant(credit)
        granted, self._credit = self._credit, 0
        loop = self._runtime.loop()
        for _ in range(granted):
            loop.call_soon_threadsafe(self._allowed.release)

    def pump(self) -> bool:
        return False

    async def _run(self) -> None:
        try:
            while True:
                await self._allowed.acquire()
                try:
                    item = await self._items.__anext__()
                except StopAsyncIteration:
                    self.channel.send([END, self._number])
                    return
                self.channel.send([ITEM, self._number, item])
        except (BrokenChannel, asyncio.CancelledError):
            pass
        except BaseException as error:  # noqa: B036
            self._runtime._fail(self.channel, self._number, error)
        finally:
            close = getattr(self._items, "aclose", None)
            if close is not None:
                await close()
            self._runtime.end_stream(self.channel, self._number)

    def close(self) -> None:
        self._task.cancel()


_END = object()
#: Messages that answer something of Python's; any thread may take them.
_ANSWERS = frozenset((RETURN, THROW, PUSH, CLOSE, FAIL))


class IncomingStream(Iterator[Any], AsyncIterator[Any]):
    """An async iterable of the client as an iterator; ``async for`` works as well. Leaving it (``close``) closes the client's."""

    def __init__(self, runtime: Runtime, channel: Channel, number: int) -> None:
        self._runtime, self._channel, self._number = runtime, channel, number
        self._items: deque[Any] = deque()
        self._error: BaseException | None = None
        self._is_over = False
        self._wanted = 0

    def push(self, item: Any) -> None:
        if len(self._items) > _WINDOW:
            raise BrokenChannel("the client sent more of a stream than was wanted")
        self._items.append(item)

    def fail(self, error: BaseException | None) -> None:
        self._error, self._is_over = error, True

    def __next__(self) -> Any:
        if not self._items and not self._is_over:
            if self._wanted == 0:
                self._channel.send([WANT, self._number, _WINDOW])
                self._wanted = _WINDOW
            self._runtime.wait_for(self._channel, lambda: bool(self._items) or self._is_over)
        if self._items:
            self._wanted -= 1
            return self._items.popleft()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        raise StopIteration

    def __aiter__(self) -> IncomingStream:
        return self

    async def __anext__(self) -> Any:
        item = await asyncio.get_running_loop().run_in_executor(None, lambda: next(self, _END))
        if item is _END:
            raise StopAsyncIteration
        return item

    def close(self) -> None:
        self._is_over = True
        self._items.clear()
        self._runtime.leave_stream(self._channel, self._number)

    def __del__(self) -> None:
        if not self._is_over:
            try:
                self.close()
            except Exception:  # the channel is over, and with it the stream
                pass


class _Invocation:
    """One call of a client's function that is under way."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._event = threading.Event()
        self._value: Any = None
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[], Any]] = []

    @property
    def is_done(self) -> bool:
        return self._event.is_set()

    def on_done(self, callback: Callable[[], Any]) -> None:
        self._callbacks.append(callback)

    def finish(self, value: Any) -> None:
        self._value = value
        self._end()

    def fail(self, error: BaseException) -> None:
        self._error = error
        self._end()

    def _end(self) -> None:
        self._event.set()
        for callback in self._callbacks:
            callback()

    def wait(self, seconds: float) -> bool:
        return self._event.wait(seconds)

    def result(self) -> Any:
        self._event.wait()
        if self._error is not None:
            raise self._error
        return self._value


class BoundFunction:
    """A function of the client, called from Python. Blocks the calling thread; ``await f.aio(…)`` does not block the event loop."""

    def __init__(self, runtime: Runtime, name: str) -> None:
        self._runtime = runtime
        self.__name__ = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._runtime.invoke(self.__name__, args, kwargs)

    async def aio(self, *args: Any, **kwargs: Any) -> Any:
        loop = asyncio.get_running_loop()
        invocation = self._runtime.begin_invoke(self.__name__, args, kwargs)
        done: asyncio.Future[None] = loop.create_future()
        invocation.on_done(lambda: loop.call_soon_threadsafe(_settle, done))
        if not invocation.is_done:
            await done
        return invocation.result()

    def __repr__(self) -> str:
        return f"<function {self.__name__} of the client>"


def _settle(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


class BoundObject:
    """Functions of the client under one name."""


def describe(error: BaseException, depth: int = 0) -> dict[str, Any]:
    """What crosses of an exception: type, message, traceback with source lines, cause."""
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    frames = traceback.extract_tb(error.__traceback__)
    own = os.path.dirname(__file__)
    theirs = [frame for frame in frames if not frame.filename.startswith(own + os.sep)]
    lines = ["Traceback (most recent call last):\n", *traceback.format_list(theirs)] if theirs else []
    lines += traceback.format_exception_only(error)
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    return {
        "type": name,
        "message": _text(error),
        "traceback": "".join(lines).encode("utf-8", "replace").decode(),
        "cause": None if cause is None or depth >= 8 else describe(cause, depth + 1),
        "code": error.code if isinstance(error, (EncodeError, DecodeError)) else None,
    }


def _text(error: BaseException) -> str:
    try:
        return str(error).encode("utf-8", "replace").decode()
    except Exception as failure:  # a __str__ of the user's
        return f"<no text: {type(failure).__name__}>"


def _javascript_error(error: Any) -> BaseException:
    if not isinstance(error, dict):
        return JavaScriptError(str(error))
    made = JavaScriptError(str(error.get("message", "")))
    made.type = str(error.get("type", "Error"))
    made.stack = str(error.get("traceback") or "")
    return made


_runtime: Runtime | None = None
_making = threading.Lock()


def runtime() -> Runtime:
    global _runtime
    if _runtime is None:
        with _making:  # the console's thread may come at the same time
            if _runtime is None:
                _runtime = Runtime()
    return _runtime


def forget() -> None:
    """In a forked child: channels and threads are the parent's."""
    global _runtime
    _runtime = None


os.register_at_fork(after_in_child=forget)
assert sys.version_info >= (3, 11)
