"""Asks the host by HTTP, where the worker was started with that transport, which is for development."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from ._host import HostError, Request, late, lost, outcome, unfolded

TYPE_CHECKING = False  # as typing has it, which takes long to load
if TYPE_CHECKING:
    from typing import Any

#: As many of a batch, or of the calls of event loops, are under way at once.
_THREADS = 16
#: Between two attempts to reach a listener that starts anew.
_AGAIN_SECONDS = 0.1


class HttpHost:
    """Each call has a connection of its own: whether it was sent is known, and hanging up gives it up."""

    def __init__(self) -> None:
        self._place = urlsplit(os.environ["IPCCTL_HOST_URL"])
        self._token = os.environ["IPCCTL_HOST_TOKEN"]
        #: Another process of the worker may ask as well, and must not be taken for it.
        self._prefix = os.urandom(4).hex()
        self._next = 1
        self._counting = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def call(self, request: Request, deadline: float) -> Any:
        self._ask(request, deadline, [])
        return request.result()

    def batch(self, requests: list[Request], deadline: float) -> list[Any]:
        def ask(request: Request) -> Any:
            try:
                self._ask(request, deadline, [])
            except HostError as error:
                return error
            return outcome(request)

        return list(self._threads().map(ask, requests))

    async def acall(self, request: Request, deadline: float) -> Any:
        connections: list[http.client.HTTPConnection] = []
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._threads(), self._ask, request, deadline, connections)
        except asyncio.CancelledError:
            for one in connections:
                if one.sock is not None:
                    one.sock.shutdown(2)  # wakes the thread, and tells the host
            raise
        return request.result()

    def forget(self) -> None:
        """In a forked process: it may ask as its parent does, by connections of its own."""

    def _threads(self) -> ThreadPoolExecutor:
        with self._counting:
            self._pool = self._pool or ThreadPoolExecutor(_THREADS, "ipcctl-host")
            return self._pool

    def _ask(self, request: Request, deadline: float, connections: list[http.client.HTTPConnection]) -> None:
        """:param connections: is given each, for whoever gives the call up
        :raises HostError: for arguments that are not JSON, or are too long
        """
        with self._counting:
            request.correlation = f"{self._prefix}-{self._next}"
            self._next += 1
        request.data = request.encode()
        end = time.monotonic() + deadline
        connection = self._connect(request, end, connections)
        if connection is None:
            return
        try:
            connection.request("POST", "/call", request.data, {"Authorization": f"Bearer {self._token}"})
            answer = json.loads(connection.getresponse().read())
        except TimeoutError:
            request.settle({"error": late(request, deadline)})
        except (OSError, http.client.HTTPException, ValueError):
            request.settle({"error": lost(request)})
        else:
            request.settle(unfolded(answer))
        finally:
            connection.close()

    def _connect(
        self, request: Request, end: float, connections: list[http.client.HTTPConnection]
    ) -> http.client.HTTPConnection | None:
        """Until this was done nothing was sent. None, and the answer says why, if it was not."""
        while True:
            left = max(end - time.monotonic(), 0.001)
            one = http.client.HTTPConnection(self._place.hostname or "", self._place.port, timeout=left)
            connections[:] = [one]
            try:
                one.connect()
                return one
            except OSError as error:
                one.close()
                if time.monotonic() + _AGAIN_SECONDS >= end:
                    message = f"nobody listens at {self._place.geturl()}: {error}"
                    request.settle({"error": {"code": "PLUGIN_UNAVAILABLE", "message": message, "retriable": True}})
                    return None
            time.sleep(_AGAIN_SECONDS)
