"""The worker's end of the channel to the host: requests and answers in JSON, told apart by their correlations."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections import deque
from collections.abc import Mapping

from . import _console, _contract
from ._backend import BrokenChannel
from ._pipe import Pipe
from ._serving import serving
from ._types import Unheld

TYPE_CHECKING = False  # as typing has it, which takes long to load
if TYPE_CHECKING:
    from typing import Any

#: How long a call waits for its answer unless it says otherwise: a person may be asked meanwhile.
DEADLINE_SECONDS = 330.0
#: How long the daemon may take to open the channel.
_OPEN_SECONDS = 30.0
#: A reader that another thread waits for gives way after this long.
_TURN_SECONDS = 0.05
#: Between two looks whether a full channel has room.
_ROOM_SECONDS = 0.0005
_BYTES_MAX = _contract.HOST_MESSAGE_BYTES_MAX
#: Made once: json.dumps() with these arguments makes one for each call.
_to_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_from_json = json.JSONDecoder().raw_decode
_TOPIC = _contract.TOOL_TOPIC
_CANCEL = _contract.CANCEL_TOPIC
_LET_GO = _contract.LET_GO_TOPIC


class HostError(Exception):
    """A call to the host that has no result."""

    def __init__(
        self,
        code: str,
        message: str,
        retriable: bool = False,
        stage: str | None = None,
        field: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(code, message)
        #: What went wrong, such as ``"RATE_LIMITED"``: docs/host.md lists them.
        self.code = code
        self.message = message
        #: The same call may succeed later, and was not carried out.
        self.retriable = retriable
        #: Which step of the host said so.
        self.stage = stage
        #: Where in the arguments, by names with dots between.
        self.field = field
        #: Seconds until the next call may pass.
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class Request:
    """One call. Whoever takes its answer sets ``answer``."""

    __slots__ = ("answer", "arguments", "correlation", "data", "done", "future", "loop", "tool")

    def __init__(self, tool: str, arguments: Mapping[str, Any]) -> None:
        self.tool = tool
        self.arguments = arguments
        self.answer: dict[str, Any] | None = None
        self.correlation = ""
        #: As it is sent.
        self.data = b""
        #: Set with the answer, for a thread that only waits.
        self.done: threading.Event | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.future: asyncio.Future[None] | None = None

    def encode(self) -> bytes:
        """Topic and correlation come first, so that the host can answer what it refuses to parse.

        :raises HostError: for arguments that are not JSON, or are too long
        """
        try:
            text = _to_json(
                {"topic": _TOPIC + self.tool, "correlation": self.correlation, "arguments": self.arguments}
            ).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise HostError("VALIDATION_FAILED", f"{self.tool}: the arguments are not JSON: {error}") from error
        if len(text) > _BYTES_MAX:
            raise HostError("TOO_LARGE", f"{self.tool}: {len(text)} bytes, and a request has at most {_BYTES_MAX}")
        return text

    def settle(self, answer: dict[str, Any]) -> None:
        self.answer = answer
        if self.done is not None:
            self.done.set()
        if self.future is not None and self.loop is not None:
            try:
                self.loop.call_soon_threadsafe(self._end)
            except RuntimeError:
                pass  # the loop is closed: nobody waits

    def _end(self) -> None:
        if self.future is not None and not self.future.done():
            self.future.set_result(None)

    def result(self) -> Any:
        assert self.answer is not None
        error = self.answer.get("error")
        if error is None:
            return self.answer.get("result")
        raise HostError(
            error["code"],
            error["message"],
            error["retriable"],
            error.get("stage"),
            error.get("field"),
            error.get("retry_after"),
        )


class Host:
    """Any thread may call; one of those that wait reads for all. When the router has ended, the next one is asked the
    same again: it knows what was begun, and carries out nothing twice.
    """

    def __init__(self, is_forked: bool = False) -> None:
        self._is_forked = is_forked
        self._pipe: Pipe | None = None
        self._sending = threading.Lock()
        self._reading = threading.Lock()
        self._pending: dict[str, Request] = {}
        #: Told when an answer was taken, and when the reader has left.
        self._changed = threading.Condition()
        #: Threads that wait to be told.
        self._listeners = 0
        #: Another process of the worker may ask after this one, and must not be taken for it.
        self._prefix = os.urandom(4).hex()
        self._next = 1
        #: Tables whose memory is gone, by their channels and numbers: the host is told with the next request.
        self._unused: deque[tuple[Pipe, int]] = deque()
        #: Event loops with calls: how many, and the descriptor that each looks at.
        self._loops: dict[asyncio.AbstractEventLoop, list[int]] = {}

    # ---- calls ----

    def call(self, request: Request, deadline: float) -> Any:
        self._begin(request)
        self._wait([request], deadline)
        return request.result()

    def batch(self, requests: list[Request], deadline: float) -> list[Any]:
        for request in requests:
            try:
                self._begin(request)
            except HostError as error:
                request.answer = {"error": vars(error)}
        self._wait(requests, deadline)
        return [outcome(request) for request in requests]

    async def acall(self, request: Request, deadline: float) -> Any:
        loop = request.loop = asyncio.get_running_loop()
        request.future = loop.create_future()
        if self._pipe is None or not self._pipe.is_open:
            await self._open_in(loop)
        self._begin(request)
        self._watch(loop)
        try:
            async with asyncio.timeout(deadline):
                if request.answer is None:
                    await request.future
        except TimeoutError:
            self._give_up(request, late(request, deadline))
        except asyncio.CancelledError:
            self._give_up(request, {"code": "CANCELLED", "message": "cancelled", "retriable": False})
            raise
        finally:
            self._unwatch(loop)
        return request.result()

    def forget(self) -> None:
        """In a forked process: the channel stays its parent's."""

    # ---- the channel ----

    def _open(self, timeout: float = _OPEN_SECONDS) -> Pipe:
        """:raises HostError: if there is none, and none comes"""
        pipe = self._pipe
        if pipe is not None and pipe.is_open:
            return pipe
        if self._is_forked:
            raise HostError("UNAUTHORIZED", "a forked process has no channel to the host: ask in the worker itself")
        path = os.environ.get("IPCCTL_PLANE") or _console.plane
        transport = os.environ.get("IPCCTL_TRANSPORT")
        if path is None or transport is None:
            raise HostError(
                "UNAUTHORIZED",
                "this process was not given any tools; for a worker: ipcctl start SCRIPT --policy analysis --allow-tools=GLOB",
            )
        one = serving()
        one.attach(path)
        found = one.wait_host(timeout)
        if found is None and not one.is_met:
            why = "another process of the worker has its channel to the host: ask there, or by the command ipc"
            raise HostError("UNAUTHORIZED", why)
        if found is None:
            raise HostError("PLUGIN_UNAVAILABLE", f"the host has not answered within {timeout:.0f} s", retriable=True)
        with self._sending:
            if self._pipe is not found:
                self._pipe = found
                self._send_again(found)
        return found

    def _send_again(self, pipe: Pipe) -> None:
        for request in list(self._pending.values()):
            try:
                pipe.send(request.data, timeout=_OPEN_SECONDS)
            except (BrokenPipeError, TimeoutError):
                return  # it has ended as well: there will be another one
        for loop in list(self._loops):
            loop.call_soon_threadsafe(self._look_at, loop)

    async def _open_in(self, loop: asyncio.AbstractEventLoop) -> None:
        if serving().is_here:
            self._open()  # nobody else would take the channel
        else:
            await loop.run_in_executor(None, self._open)

    def _begin(self, request: Request) -> None:
        """:raises HostError: if it was not sent"""
        pipe = self._pipe
        with self._sending:
            request.correlation = f"{self._prefix}-{self._next}"
            self._next += 1
            if pipe is not None:
                pipe.rouse()
        request.data = request.encode()
        while True:
            if pipe is None or pipe.is_over:  # else whoever reads will notice, and ask the next router
                pipe = self._open()
            with self._sending:
                if self._pipe is pipe:
                    self._pending[request.correlation] = request
                    try:
                        self._let_go(pipe)
                        return self._send(pipe, request.data)
                    except BrokenPipeError:
                        self._pipe = None
                        del self._pending[request.correlation]
                    except TimeoutError as error:
                        del self._pending[request.correlation]
                        message = f"the host takes no requests: {error}"
                        raise HostError("PLUGIN_UNAVAILABLE", message, retriable=True) from error
            pipe = self._pipe

    def _send(self, pipe: Pipe, data: bytes) -> None:
        """Answers are taken meanwhile: the host reads no more while there is no room for them.

        :raises BrokenPipeError: if the host has ended
        :raises TimeoutError: if there was no room within the time
        """
        end = time.monotonic() + _OPEN_SECONDS
        while not pipe.try_send(data):
            if time.monotonic() >= end:
                raise TimeoutError(f"it read nothing for {_OPEN_SECONDS:.0f} s")
            if not pipe.is_open:
                raise BrokenPipeError
            if not self._take_now(pipe):
                time.sleep(_ROOM_SECONDS)

    def _take_now(self, pipe: Pipe) -> bool:
        """Takes one answer, if there is one and nobody else reads."""
        if not self._reading.acquire(blocking=False):
            return False
        try:
            data = pipe.try_receive()
            return data is not None and self._settle(pipe, data)
        except BrokenChannel as error:
            raise BrokenPipeError from error
        finally:
            self._reading.release()
            self._tell()

    def _take(self, pipe: Pipe, timeout: float) -> bool:
        """Takes one answer, by whoever reads. False if none came in time, or none will come."""
        try:
            data = pipe.receive(timeout)
        except TimeoutError:
            return False
        except BrokenChannel:
            data = None
        return self._settle(pipe, data)

    def _settle(self, pipe: Pipe, data: bytes | None) -> bool:
        if data is None:
            self._end(pipe)
            return False
        answer, _ = _from_json(data.decode())
        if "table" in answer:  # also of a call that was given up: it stands before the next one
            answer = self._with_table(pipe, answer)
        request = self._pending.pop(answer["correlation"], None) if answer["correlation"] else None
        if request is not None:
            request.settle(answer)
        return True

    def _with_table(self, pipe: Pipe, answer: dict[str, Any]) -> dict[str, Any]:
        assert pipe.sharing is not None
        number = answer["table"]
        try:
            table = pipe.sharing.take_over(number, lambda: self._unused.append((pipe, number)))
        except (BrokenChannel, Unheld) as error:
            self._unused.append((pipe, number))
            code = "TOO_LARGE" if isinstance(error, Unheld) else "PLUGIN_ERROR"
            message = f"the table that the host handed over cannot be taken: {error}"
            return {**answer, "error": {"code": code, "message": message, "retriable": False}}
        return {**answer, "result": {**answer["result"], "table": table}}

    def _let_go(self, pipe: Pipe) -> None:
        """Says which tables are no longer used. To be called with the lock for sending.

        :raises BrokenPipeError: if the channel is closed
        """
        while self._unused:
            owner, number = self._unused.popleft()
            said = {"topic": _LET_GO, "correlation": "-", "arguments": {"table": number}}
            if owner is pipe:
                pipe.send(json.dumps(said, separators=(",", ":")).encode(), timeout=_OPEN_SECONDS)

    def _end(self, pipe: Pipe) -> None:
        with self._sending:
            if self._pipe is pipe:
                self._pipe = None
        for loop in list(self._loops):
            loop.call_soon_threadsafe(self._look_away, loop)
        pipe.close()

    def _wait(self, requests: list[Request], deadline: float) -> None:
        end = time.monotonic() + deadline
        for request in requests:
            while request.answer is None:
                left = end - time.monotonic()
                if left <= 0:
                    self._give_up(request, late(request, deadline))
                elif self._pipe is None:
                    self._reopen(request, left)
                else:
                    self._wait_turn(request, min(left, _TURN_SECONDS))

    def _reopen(self, request: Request, timeout: float) -> None:
        """The router that was asked has ended."""
        try:
            self._open(min(timeout, _OPEN_SECONDS))
        except HostError:
            self._give_up(request, lost(request))

    def _wait_turn(self, request: Request, timeout: float) -> None:
        """Reads, for all that wait; or waits for the one that reads."""
        pipe = self._pipe
        if pipe is None or not self._reading.acquire(blocking=False):
            with self._changed:
                self._listeners += 1
                try:
                    self._changed.wait_for(lambda: request.answer is not None or not self._reading.locked(), timeout)
                finally:
                    self._listeners -= 1
            return
        try:
            # Another one may have taken it, and left, since the caller's look.
            while request.answer is None and self._take(pipe, timeout):
                self._tell()
        finally:
            self._reading.release()
            self._tell()

    def _tell(self) -> None:
        """Whoever is not counted yet looks by itself, after it has been."""
        if self._listeners == 0:
            return
        with self._changed:
            self._changed.notify_all()

    def _give_up(self, request: Request, error: dict[str, Any]) -> None:
        if self._pending.pop(request.correlation, None) is None and request.answer is not None:
            return
        request.settle({"error": error})
        cancel = {"topic": _CANCEL, "correlation": request.correlation, "arguments": {}}
        with self._sending:
            try:
                if self._pipe is not None:
                    self._pipe.try_send(json.dumps(cancel, separators=(",", ":")).encode())
            except BrokenPipeError:
                pass

    # ---- event loops ----

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop reads as long as one of its calls waits."""
        watched = self._loops.setdefault(loop, [0, -1])
        watched[0] += 1
        self._look_at(loop)

    def _look_at(self, loop: asyncio.AbstractEventLoop) -> None:
        """In the loop: takes what is there, and hears of what comes."""
        pipe, watched = self._pipe, self._loops.get(loop)
        if pipe is None or watched is None:
            return
        if watched[1] != pipe.fileno():
            watched[1] = pipe.fileno()
            loop.add_reader(pipe.fileno(), self._drain, loop, pipe)
        self._drain(loop, pipe)

    def _look_away(self, loop: asyncio.AbstractEventLoop) -> None:
        """Its descriptor was closed, and the next channel may get the same number."""
        watched = self._loops.get(loop)
        if watched is not None and watched[1] >= 0:
            loop.remove_reader(watched[1])
            watched[1] = -1

    def _unwatch(self, loop: asyncio.AbstractEventLoop) -> None:
        watched = self._loops[loop]
        watched[0] -= 1
        if watched[0] == 0:
            del self._loops[loop]
            if watched[1] >= 0:
                loop.remove_reader(watched[1])

    def _drain(self, loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
        """Takes all that is there, and asks for a bell."""
        if not self._reading.acquire(blocking=False):
            return  # a thread reads, and takes our answers as well
        is_over = False
        try:
            while True:
                try:
                    data = pipe.take_or_arm()
                except BrokenChannel:
                    data, is_over = None, True
                if data is None:
                    is_over = is_over or not pipe.is_open
                    break
                self._settle(pipe, data)
        finally:
            self._reading.release()
            self._tell()
        if is_over:
            self._look_away(loop)
            self._end(pipe)
            if serving().is_here:
                self._reopen_all()
            else:
                loop.run_in_executor(None, self._reopen_all)

    def _reopen_all(self) -> None:
        try:
            self._open()
        except HostError:
            for request in list(self._pending.values()):
                self._give_up(request, lost(request))


def outcome(request: Request) -> Any:
    try:
        return request.result()
    except HostError as error:
        return error


def unfolded(answer: dict[str, Any]) -> dict[str, Any]:
    """Where an error is a text beside its fields, as lines have it, and what a listener itself refuses."""
    error = answer.get("error")
    if not isinstance(error, str):
        return answer
    return {"error": {**answer, "message": error.removeprefix(f"{answer['code']}: ")}}


def untaken(request: Request, deadline: float) -> dict[str, Any]:
    return {
        "code": "PLUGIN_UNAVAILABLE",
        "message": f"{request.tool}: the host takes no requests for {deadline:g} s",
        "retriable": True,
        "stage": "route",
    }


def lost(request: Request) -> dict[str, Any]:
    return {
        "code": "UNKNOWN_OUTCOME",
        "message": f"{request.tool}: the host ended before it answered, and no other one came",
        "retriable": False,
        "stage": "route",
    }


def late(request: Request, deadline: float) -> dict[str, Any]:
    return {
        "code": "UNKNOWN_OUTCOME",
        "message": f"{request.tool}: no answer within {deadline:g} s",
        "retriable": False,
        "stage": "route",
    }
