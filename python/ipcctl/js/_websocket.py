"""The server's half of RFC 6455, as debuggers need it: messages of text, no extensions.

It is here, and no library, because debugging must work with what ``pip install ipcctl`` brings, and this half is small:
a client has to mask, and a server must not.
"""

from __future__ import annotations

import base64
import hashlib
import socket
import struct
import threading

#: Of one message of a debugger, which may contain the new source of a script.
MESSAGE_BYTES_MAX = 64 * 1024 * 1024
#: Of the request line and the headers.
HEAD_BYTES_MAX = 16 * 1024
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10
_CONTROL_BYTES_MAX = 125
#: Of the first byte of a frame that is the last one of its message, and of the second one if the data is masked.
_LAST = _MASKED = 0x80
_READ_BYTES = 65536
#: Whose size no longer fits into two bytes.
_LONG_BYTES = 65536
_PROTOCOL_ERROR, _UNSUPPORTED, _INVALID, _TOO_BIG = 1002, 1003, 1007, 1009


class Closed(Exception):
    """The other side is gone, or was sent away."""


def accept_key(key: str) -> str:
    return base64.b64encode(hashlib.sha1(key.encode() + _GUID).digest()).decode()


class WebSocket:
    """A connection whose handshake is done. One thread receives; any may send."""

    def __init__(self, connection: socket.socket, early: bytes = b"") -> None:
        """:param early: bytes that arrived with the handshake"""
        self._connection, self._early = connection, early
        self._lock = threading.Lock()

    def receive(self) -> str:
        """The next message. :raises Closed:"""
        parts: list[bytes] = []
        size = 0
        while True:
            is_last, kind, data = self._frame(MESSAGE_BYTES_MAX - size)
            if kind == _CLOSE:
                self.close(1000)
                raise Closed("the debugger has closed the connection")
            if kind == _PING:
                self._send(_PONG, data)
            if kind >= _CLOSE:
                continue
            if kind == _BINARY:
                raise self._refused(_UNSUPPORTED, "it sent a binary message")
            if (kind == _TEXT) == bool(parts):
                raise self._refused(_PROTOCOL_ERROR, "it mixed up the parts of messages")
            parts.append(data)
            size += len(data)
            if is_last:
                try:
                    return b"".join(parts).decode()
                except UnicodeDecodeError:
                    raise self._refused(_INVALID, "it sent a text that is not UTF-8") from None

    def _frame(self, most: int) -> tuple[bool, int, bytes]:
        first, second = self._read(2)
        kind, size = first & 0x0F, second & 0x7F
        if first & 0x70 or second & _MASKED == 0 or kind not in (0, 1, 2, 8, 9, 10):
            raise self._refused(_PROTOCOL_ERROR, "it sent a frame that is malformed, or not masked")
        if kind >= _CLOSE and (size > _CONTROL_BYTES_MAX or first & _LAST == 0):
            raise self._refused(_PROTOCOL_ERROR, "it sent a control frame that is too long")
        if size == 126:
            (size,) = struct.unpack(">H", self._read(2))
        elif size == 127:
            (size,) = struct.unpack(">Q", self._read(8))
        if size > most:
            raise self._refused(_TOO_BIG, f"it sent a message of more than {MESSAGE_BYTES_MAX} bytes")
        mask = self._read(4)
        return first & _LAST != 0, kind, _masked(self._read(size), mask)

    def _read(self, size: int) -> bytes:
        out, self._early = self._early[:size], self._early[size:]
        parts = [out]
        missing = size - len(out)
        while missing > 0:
            try:
                part = self._connection.recv(min(missing, _READ_BYTES))
            except OSError as error:
                raise Closed(str(error)) from None
            if not part:
                raise Closed("the debugger is gone")
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def send(self, text: bytes) -> None:
        """:raises Closed:"""
        self._send(_TEXT, text)

    def _send(self, kind: int, data: bytes) -> None:
        size = len(data)
        if size <= _CONTROL_BYTES_MAX:
            head = struct.pack(">BB", _LAST | kind, size)
        elif size < _LONG_BYTES:
            head = struct.pack(">BBH", _LAST | kind, 126, size)
        else:
            head = struct.pack(">BBQ", _LAST | kind, 127, size)
        try:
            with self._lock:
                self._connection.sendall(head + data)
        except OSError as error:
            raise Closed(str(error)) from None

    def _refused(self, code: int, why: str) -> Closed:
        self.close(code)
        return Closed(why)

    def close(self, code: int = 1001) -> None:
        try:
            self._send(_CLOSE, struct.pack(">H", code))
            self._connection.shutdown(socket.SHUT_RDWR)
        except (Closed, OSError):
            pass  # it is gone


def _masked(data: bytes, mask: bytes) -> bytes:
    size = len(data)
    whole = int.from_bytes(mask * (size // 4 + 1), "little") & ((1 << 8 * size) - 1)
    return (int.from_bytes(data, "little") ^ whole).to_bytes(size, "little")
