"""Debuggers of a runtime: they connect to this program, since the runtime has no network, and speak with it through a
socket pair. What they say is the Chrome DevTools Protocol, which the engine's thread for debuggers serves
(``src/engine/debugger-node.ts``).
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import socket
import struct
import sys
import threading
import uuid
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from .._contract import TO_ENGINE_DEBUG
from ._websocket import HEAD_BYTES_MAX, Closed, WebSocket, accept_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._config import InspectorConfig
    from ._process import Guest
    from ._session import Session

#: At once, of one runtime.
DEBUGGERS_MAX = 8
#: Until a client has said what it wants, and for one message to it.
_PATIENCE_SECONDS = 10.0
_HEAD = struct.Struct("<II")
_PYTHON = 0
_KEY_CHARS = 24
_READ_BYTES = 4096
_FRONTEND = "devtools://devtools/bundled/js_app.html"
_FAVICON = "https://nodejs.org/static/images/favicons/favicon.ico"


class InspectorEndpoints(NamedTuple):
    """Where debuggers find a runtime."""

    id: str
    websocket_url: str
    devtools_frontend_url: str
    title: str
    description: str
    target_url: str
    favicon_url: str
    host: str


class Inspector:
    """Listens from the beginning; serves once it is attached to a runtime."""

    def __init__(self, config: InspectorConfig) -> None:
        """:raises RuntimeError: if the place cannot be listened on"""
        self._config = config
        self._lock = threading.Lock()
        self._debuggers: dict[int, WebSocket] = {}
        self._next = 1
        self._is_open = True
        #: Nothing runs before a debugger says so.
        self.is_waiting = config.wait_for_connection or config.break_on_next_statement
        self._released: Callable[[], None] = lambda: None
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            self._listener = socket.socket(family, kind, protocol)
            try:
                self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                self._listener.bind(address)
                self._listener.listen()
            except OSError:
                self._listener.close()
                raise
        except OSError as error:
            raise RuntimeError(
                f"inspector: nothing can listen on {config.endpoint()}: {error.strerror or error}; "
                "port=0 takes one that is free, and inspector_endpoints() tells which"
            ) from error
        port = self._listener.getsockname()[1]
        at = f"[{config.host}]:{port}" if ":" in config.host else f"{config.host}:{port}"
        name = str(uuid.uuid4())
        title = (
            config.display_name or f"ipcctl.js runtime of {os.path.basename(sys.argv[0] or 'python')}[{os.getpid()}]"
        )
        self.endpoints = InspectorEndpoints(
            id=name,
            websocket_url=f"ws://{at}/ws/{name}",
            devtools_frontend_url=f"{_FRONTEND}?ws={at}/ws/{name}&experiments=true&v8only=true",
            title=title,
            description="JavaScript of a Python program",
            target_url=config.target_url or "file://",
            favicon_url=_FAVICON,
            host=at,
        )
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

    def attach(self, session: Session, guest: Guest) -> None:
        """To a new runtime, before it runs any code."""
        guest.end.sharing.hand_over(self._theirs.fileno())
        session.send([TO_ENGINE_DEBUG, 0])
        self._theirs.close()
        session.is_debugged = lambda: self.is_debugged

        def interrupt() -> None:
            guest.interrupt()
            self._tell(_PYTHON, b'{"resume":true}')  # code that is stopped goes on, and is interrupted

        session.interrupt = interrupt
        self._released = session.let_go
        if self.is_waiting:
            session.hold()
        self._tell(
            _PYTHON,
            json.dumps({"title": self.endpoints.title, "isStopping": self._config.break_on_next_statement}).encode(),
        )
        for work, what in ((self._listen, "listens"), (self._hear, "hears")):
            threading.Thread(target=work, daemon=True, name=f"ipcctl-js-inspector-{what}").start()
        if self.is_waiting:
            print(f"ipcctl.js: waits for a debugger on {self.endpoints.websocket_url}", file=sys.stderr, flush=True)

    @property
    def is_debugged(self) -> bool:
        """Somebody takes their time."""
        return self._is_open and (self.is_waiting or bool(self._debuggers))

    def close(self) -> None:
        with self._lock:
            if not self._is_open:
                return
            self._is_open = False
            debuggers = list(self._debuggers.values())
            self._debuggers.clear()
        for one in debuggers:
            one.close()
        for end in (self._listener, self._ours):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._theirs.close()

    def forsake(self) -> None:
        """In a forked child: the parent still uses it."""
        self._is_open = False
        for end in (self._listener, self._ours, self._theirs):
            end.close()

    # ---- the engine ----

    def _tell(self, number: int, text: bytes) -> None:
        with self._lock, contextlib.suppress(OSError):
            self._ours.sendall(_HEAD.pack(len(text), number) + text)

    def _hear(self) -> None:
        """What the engine has for debuggers. It may be in the hands of its guest: nothing of it is believed."""
        with contextlib.suppress(OSError, EOFError), self._ours.makefile("rb") as source:
            while head := source.read(_HEAD.size):
                if len(head) < _HEAD.size:
                    break
                size, number = _HEAD.unpack(head)
                text = source.read(size)
                if number == _PYTHON:
                    self.is_waiting = False
                    self._released()
                    continue
                debugger = self._debuggers.get(number)
                if debugger is None:
                    continue
                try:
                    if text:
                        debugger.send(text)
                    else:
                        debugger.close()
                except Closed:
                    debugger.close()
        # The engine has ended; what still waits is told by its session.
        self.close()

    # ---- clients ----

    def _listen(self) -> None:
        while self._is_open:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._meet, args=(connection,), daemon=True, name="ipcctl-js-debugger").start()

    def _meet(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, ValueError, Closed):
            connection.settimeout(_PATIENCE_SECONDS)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            head, early = _read_head(connection)
            lines = head.split("\r\n")
            method, path, _ = lines[0].split(" ", 2)
            headers = {
                name.strip().lower(): value.strip() for name, _, value in (one.partition(":") for one in lines[1:])
            }
            status, body = self._answer(method, path, headers)
            if status == 101:
                accepted = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept_key(body)}"
                connection.sendall(f"HTTP/1.1 101 Switching Protocols\r\n{accepted}\r\n\r\n".encode())
                self._debug(connection, early)
                return
            data = body.encode()
            kind = "application/json" if status == 200 else "text/plain"
            connection.sendall(
                f"HTTP/1.1 {status} {'OK' if status == 200 else 'Refused'}\r\nContent-Type: {kind}; charset=UTF-8\r\n"
                f"Cache-Control: no-cache\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode()
                + data
            )

    def _answer(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        """Status and body; for 101 the key of the client."""
        if not self._is_known(headers.get("host", "")):
            return 403, "Host: an IP address, localhost, or the name that the inspector was configured with\n"
        if not _is_debugger(headers.get("origin")):
            return 403, "Origin: no web page may debug\n"
        if method != "GET":
            return 405, "GET\n"
        if headers.get("upgrade", "").lower() == "websocket":
            if path != f"/ws/{self.endpoints.id}":
                return 404, "no such target\n"
            key = headers.get("sec-websocket-key", "")
            if headers.get("sec-websocket-version") != "13" or len(key) != _KEY_CHARS:
                return 400, "WebSocket: version 13 and a key\n"
            return (101, key) if len(self._debuggers) < DEBUGGERS_MAX else (503, f"{DEBUGGERS_MAX} debuggers already\n")
        route = path.split("?", 1)[0].rstrip("/")
        if route in ("/json", "/json/list"):
            return 200, json.dumps([self._target()], indent=2)
        if route == "/json/version":
            return 200, json.dumps({"Browser": "ipcctl.js", "Protocol-Version": "1.3", "V8-Version": ""})
        return 404, "/json/list and /json/version are here\n"

    def _target(self) -> dict[str, str]:
        ours = self.endpoints
        return {
            "description": ours.description,
            "devtoolsFrontendUrl": ours.devtools_frontend_url,
            "faviconUrl": ours.favicon_url,
            "id": ours.id,
            "title": ours.title,
            "type": "node",
            "url": ours.target_url,
            "webSocketDebuggerUrl": ours.websocket_url,
        }

    def _is_known(self, host: str) -> bool:
        """A page of elsewhere whose name was made to mean this machine names itself here."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name == "localhost" or name.endswith(".localhost") or name == self._config.host.lower():
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _debug(self, connection: socket.socket, early: bytes) -> None:
        debugger = WebSocket(connection, early)
        connection.settimeout(None)
        # A debugger that does not read is given up, and one that says nothing is not.
        patience = struct.pack("ll", int(_PATIENCE_SECONDS), 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
        with self._lock:
            if not self._is_open:
                return
            number, self._next = self._next, self._next + 1
            self._debuggers[number] = debugger
        try:
            while True:
                text = debugger.receive().encode()
                if text:
                    self._tell(number, text)
        finally:
            with self._lock:
                self._debuggers.pop(number, None)
            if self._is_open:
                self._tell(number, b"")


def _read_head(connection: socket.socket) -> tuple[str, bytes]:
    """The request line with the headers, and what came behind them. :raises ValueError, OSError:"""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(_READ_BYTES)
        if not part or len(data) + len(part) > HEAD_BYTES_MAX:
            raise ValueError("no request")
        data += part
    head, _, early = data.partition(b"\r\n\r\n")
    return head.decode("latin-1"), early


def _is_debugger(origin: str | None) -> bool:
    """Web pages say where they are from; programs do not. DevTools are a page of the browser itself."""
    return origin is None or urlsplit(origin).scheme in ("devtools", "chrome-devtools")
