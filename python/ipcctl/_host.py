"""The worker's end of the channel to the host: requests and answers in JSON, told apart by their correlations."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Mapping

from . import _console, _contract
from ._backend import BrokenChannel
from ._pipe import Pipe
from ._serving import serving

TYPE_CHECKING = False  # as typing has it, which takes long to load
if TYPE_CHECKING:
    from typing import Any

#: How long a call waits for its answer unless it says otherwise: a person may be asked meanwhile.
DEADLINE_SECONDS = 330.0
#: How long the daemon may take to open the channel.
_OPEN_SECONDS = 30.0
#: A reader that another thread waits for gives way after this long.
_TURN_SECONDS = 0.05
_BYTES_MAX = _contract.HOST_MESSAGE_BYTES_MAX
_TOPIC = _contract.TOOL_TOPIC
_CANCEL = _contract.CANCEL_TOPIC


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

    __slots__ = ("answer", "arguments", "future", "loop", "tool")

    def __init__(self, tool: str, arguments: Mapping[str, Any]) -> None:
        self.tool = tool
        self.arguments = arguments
        self.answer: dict[str, Any] | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.future: asyncio.Future[None] | None = None

    def bytes(self, correlation: str) -> bytes:
        """Topic and correlation come first, so that the host can answer what it refuses to parse.

        :raises HostError: for arguments that are not JSON, or are too long
        """
        try:
            text = json.dumps(
                {"topic": _TOPIC + self.tool, "correlation": correlation, "arguments": self.arguments},
                ensure_ascii=False,
                allow_nan=False,
                separators=(",", ":"),
            ).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise HostError("VALIDATION_FAILED", f"{self.tool}: the arguments are not JSON: {error}") from error
        if len(text) > _BYTES_MAX:
            raise HostError("TOO_LARGE", f"{self.tool}: {len(text)} bytes, and a request has at most {_BYTES_MAX}")
        return text

    def settle(self, answer: dict[str, Any]) -> None:
        self.answer = answer
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
    """Any thread may call; one of those that wait reads for all."""

    def __init__(self, is_forked: bool = False) -> None:
        self._is_forked = is_forked
        self._pipe: Pipe | None = None
        self._opening = threading.Lock()
        self._sending = threading.Lock()
        self._reading = threading.Lock()
        self._pending: dict[str, Request] = {}
        #: Told when an answer was taken, and when the reader has left.
        self._changed = threading.Condition()
        self._next = 1
        self._loops: dict[asyncio.AbstractEventLoop, int] = {}

    # ---- calls ----

    def call(self, request: Request, deadline: float) -> Any:
        correlation = self._begin(request)
        self._wait({correlation: request}, deadline)
        return request.result()

    def batch(self, requests: list[Request], deadline: float) -> list[Any]:
        waiting: dict[str, Request] = {}
        for request in requests:
            try:
                waiting[self._begin(request)] = request
            except HostError as error:
                request.answer = {"error": vars(error)}
        self._wait(waiting, deadline)
        return [_outcome(request) for request in requests]

    async def acall(self, request: Request, deadline: float) -> Any:
        loop = request.loop = asyncio.get_running_loop()
        request.future = loop.create_future()
        if self._pipe is None or not self._pipe.is_open:
            await loop.run_in_executor(None, self._open)
        pipe = self._open()
        correlation = self._begin(request)
        self._watch(loop, pipe)
        try:
            async with asyncio.timeout(deadline):
                if request.answer is None:
                    await request.future
        except TimeoutError:
            self._give_up(correlation, request, _late(request, deadline))
        except asyncio.CancelledError:
            self._give_up(correlation, request, {"code": "CANCELLED", "message": "cancelled", "retriable": False})
            raise
        finally:
            self._unwatch(loop, pipe)
        return request.result()

    # ---- the channel ----

    def _open(self) -> Pipe:
        """:raises HostError: if there is none, and none comes"""
        pipe = self._pipe
        if pipe is not None and pipe.is_open:
            return pipe
        if self._is_forked:
            raise HostError("UNAUTHORIZED", "a forked process has no channel to the host: ask in the worker itself")
        path = os.environ.get("IPCCTL_PLANE") or _console.plane
        if path is None or "IPCCTL_TRANSPORT" not in os.environ:
            raise HostError(
                "UNAUTHORIZED",
                "this process was not given any tools; for a worker: ipcctl start SCRIPT --policy analysis --allow-tools=GLOB",
            )
        with self._opening:
            if self._pipe is not None and self._pipe.is_open:
                return self._pipe
            one = serving()
            one.attach(path)
            found = one.wait_host(_OPEN_SECONDS)
            if found is None:
                raise HostError(
                    "PLUGIN_UNAVAILABLE", f"the host has not answered within {_OPEN_SECONDS:.0f} s", retriable=True
                )
            self._pipe = found
            return found

    def _begin(self, request: Request) -> str:
        pipe = self._open()
        with self._sending:
            correlation = f"{self._next:x}"
            self._next += 1
            data = request.bytes(correlation)
            self._pending[correlation] = request
            try:
                pipe.send(data, timeout=_OPEN_SECONDS)
            except (BrokenPipeError, TimeoutError) as error:
                self._pending.pop(correlation, None)
                raise HostError("PLUGIN_UNAVAILABLE", f"the host takes no requests: {error}", retriable=True) from error
        return correlation

    def _take(self, pipe: Pipe, timeout: float) -> bool:
        """Takes one answer, by whoever reads. False if none came in time."""
        try:
            data = pipe.receive(timeout)
        except TimeoutError:
            return False
        except BrokenChannel:
            data = None
        self._settle(pipe, data)
        return True

    def _settle(self, pipe: Pipe, data: bytes | None) -> None:
        if data is None:
            return self._end(pipe)
        answer = json.loads(data)
        request = self._pending.pop(answer["correlation"], None) if answer["correlation"] else None
        if request is not None:
            request.settle(answer)

    def _end(self, pipe: Pipe) -> None:
        """The host is gone. Nobody knows how far it got with what it has been asked."""
        pipe.close()
        pending, self._pending = self._pending, {}
        for request in pending.values():
            request.settle(
                {
                    "error": {
                        "code": "UNKNOWN_OUTCOME",
                        "message": f"{request.tool}: the host ended before it answered",
                        "retriable": False,
                        "stage": "route",
                    }
                }
            )

    def _wait(self, requests: dict[str, Request], deadline: float) -> None:
        end = time.monotonic() + deadline
        for correlation, request in requests.items():
            while request.answer is None:
                left = end - time.monotonic()
                if left <= 0:
                    self._give_up(correlation, request, _late(request, deadline))
                else:
                    self._wait_turn(request, min(left, _TURN_SECONDS))

    def _wait_turn(self, request: Request, timeout: float) -> None:
        """Reads, for all that wait; or waits for the one that reads."""
        pipe = self._pipe
        if pipe is None or not self._reading.acquire(blocking=False):
            with self._changed:
                self._changed.wait_for(lambda: request.answer is not None or not self._reading.locked(), timeout)
            return
        try:
            # Another one may have taken it, and left, since the caller's look.
            while request.answer is None and self._take(pipe, timeout):
                if self._pending:
                    self._tell()
        finally:
            self._reading.release()
            self._tell()

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _give_up(self, correlation: str, request: Request, error: dict[str, Any]) -> None:
        if self._pending.pop(correlation, None) is None and request.answer is not None:
            return
        request.answer = {"error": error}
        if self._pipe is None:
            return
        text = json.dumps({"topic": _CANCEL, "correlation": correlation, "arguments": {}}, separators=(",", ":"))
        with self._sending:
            try:
                self._pipe.try_send(text.encode())
            except BrokenPipeError:
                pass

    # ---- event loops ----

    def _watch(self, loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
        """The loop reads as long as one of its calls waits."""
        self._loops[loop] = self._loops.get(loop, 0) + 1
        if self._loops[loop] == 1:
            loop.add_reader(pipe.fileno(), self._drain, pipe)
        self._drain(pipe)

    def _unwatch(self, loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
        self._loops[loop] -= 1
        if self._loops[loop] == 0:
            del self._loops[loop]
            if pipe.fileno() >= 0:
                loop.remove_reader(pipe.fileno())

    def _drain(self, pipe: Pipe) -> None:
        """Takes all that is there, and asks for a bell."""
        if not self._reading.acquire(blocking=False):
            return  # a thread reads, and takes our answers as well
        try:
            while True:
                try:
                    data = pipe.take_or_arm()
                except BrokenChannel:
                    return self._settle(pipe, None)
                if data is None:
                    if not pipe.is_open:
                        self._settle(pipe, None)
                    return
                self._settle(pipe, data)
        finally:
            self._reading.release()
            self._tell()


def _outcome(request: Request) -> Any:
    try:
        return request.result()
    except HostError as error:
        return error


def _late(request: Request, deadline: float) -> dict[str, Any]:
    return {
        "code": "UNKNOWN_OUTCOME",
        "message": f"{request.tool}: no answer within {deadline:g} s",
        "retriable": False,
        "stage": "route",
    }
