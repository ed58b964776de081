"""A debugger: a client of the Chrome DevTools Protocol."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
from typing import Any

DEADLINE_SECONDS = 10.0


class Debugger:
    def __init__(self, url: str, *headers: str) -> None:
        _, _, host, path = url.split("/", 3)
        name, _, port = host.rpartition(":")
        self.connection = socket.create_connection((name.strip("[]"), int(port)), DEADLINE_SECONDS)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [f"GET /{path} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade"]
        lines += [f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", *headers]
        self.connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        self.source = self.connection.makefile("rb")
        self.status = int(self.source.readline().split()[1])
        while self.source.readline().strip():
            pass
        self._count = 0
        self._events: list[dict[str, Any]] = []

    def send(self, text: bytes, kind: int = 0x81) -> None:
        size = len(text)
        if size < 126:
            head = struct.pack(">BB", kind, 0x80 | size)
        elif size < 1 << 16:
            head = struct.pack(">BBH", kind, 0x80 | 126, size)
        else:
            head = struct.pack(">BBQ", kind, 0x80 | 127, size)
        mask = os.urandom(4)
        self.connection.sendall(head + mask + bytes(one ^ mask[at % 4] for at, one in enumerate(text)))

    def receive(self) -> dict[str, Any]:
        """:raises EOFError: if the connection is closed, with the code"""
        first, second = self._read(2)
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack(">H", self._read(2))
        elif size == 127:
            (size,) = struct.unpack(">Q", self._read(8))
        data = self._read(size)
        if first & 0x0F == 8:
            raise EOFError(int.from_bytes(data[:2], "big"))
        message: dict[str, Any] = json.loads(data)
        return message

    def _read(self, size: int) -> bytes:
        data = self.source.read(size)
        if len(data) < size:
            raise EOFError(0)
        return data

    def ask(self, method: str, **params: Any) -> Any:
        self._count += 1
        number = self._count
        self.send(json.dumps({"id": number, "method": method, "params": params}).encode())
        while (message := self.receive()).get("id") != number:
            self._events.append(message)
        return message["result"] if "result" in message else message["error"]

    def event(self, method: str) -> dict[str, Any]:
        """The first that nobody has taken."""
        while True:
            for at, message in enumerate(self._events):
                if message["method"] == method:
                    del self._events[at]
                    params: dict[str, Any] = message["params"]
                    return params
            self._events.append(self.receive())

    def close(self) -> None:
        self.source.close()
        self.connection.close()
