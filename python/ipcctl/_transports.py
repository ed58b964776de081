"""Calls over a stream of bytes, where there is no shared memory: a socket, two pipes, stdin and stdout."""

from __future__ import annotations

import json
import math
import os
import select
import sys
import threading
import time

from ._backend import BrokenChannel, EncodeError, StreamRef, dumps, loads
from ._contract import MESSAGE_BYTES_MAX, VALUE_DEPTH_MAX
from ._contract import TO_WORKER_CALL as CALL
from ._types import DecodeError

TYPE_CHECKING = False  # as typing has it, which takes long to load
if TYPE_CHECKING:
    from typing import Any, Literal, Protocol

    class HasDescriptor(Protocol):
        def fileno(self) -> int: ...


_HEAD_BYTES = 4
_READ_BYTES = 1 << 16
#: Beyond this, a number in JSON is another number on the other side.
_SAFE_MAX = (1 << 53) - 1
#: Positions in a CALL: its arguments, and the places of streams among them.
_ARGUMENTS, _STREAMS = 3, 5


class _Bytes:
    """Reads and writes; one thread reads at a time, any may write."""

    def __init__(self, reader: HasDescriptor | int, writer: HasDescriptor | int | None = None) -> None:
        """
        :param reader: a socket or a file, or its descriptor; it is kept as long as this
        :param writer: likewise; for a socket, the same one
        """
        self._files = reader, writer
        self._in = reader if isinstance(reader, int) else reader.fileno()
        chosen = self._in if writer is None else writer if isinstance(writer, int) else writer.fileno()
        self._out = os.dup(chosen)
        self._in, standard = os.dup(self._in), (self._in, chosen)
        _free_standard(standard)
        self._writing = threading.Lock()
        self._held = bytearray()
        self._scanned = 0
        self._is_over = False
        self._woken, self._wake = os.pipe2(os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._in, select.POLLIN)
        self._poll.register(self._woken, select.POLLIN)
        #: Role of this side, once it is known.
        self.role: Literal["client", "server"] = "client"

    def read(self, timeout: float | None = None) -> bytes | None:
        """The next message in CBOR, or None if the time is over.

        :raises BrokenChannel: at the end, or if the other side violated the protocol
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            message = self._next()
            if message is not None:
                return message
            if self._is_over:
                raise BrokenChannel("the other side is gone")
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = [fd for fd, _ in self._poll.poll(None if left is None else left * 1000)]
            if self._woken in ready:
                raise BrokenChannel("the transport was closed")
            if not ready:
                return None
            try:
                more = os.read(self._in, _READ_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                more = b""
            self._is_over = more == b""
            self._held += more

    def write(self, message: bytes) -> None:
        """Writes a message in CBOR. :raises EncodeError: if this form cannot hold it; BrokenChannel:"""
        data = memoryview(self._form(message))
        with self._writing:
            while data:
                try:
                    data = data[os.write(self._out, data) :]
                except BlockingIOError:
                    room = select.poll()
                    room.register(self._out, select.POLLOUT)
                    room.poll()
                except OSError as error:
                    raise BrokenChannel(f"the other side is gone: {os.strerror(error.errno or 0)}") from None

    def close(self) -> None:
        """The reader notices it. Must be called only once."""
        os.write(self._wake, b"x")
        with self._writing:
            os.close(self._out)
            self._out = -1

    def __del__(self) -> None:
        for fd in (self._in, self._out, self._woken, self._wake):
            if fd >= 0:
                os.close(fd)

    def _next(self) -> bytes | None:
        raise NotImplementedError

    def _form(self, message: bytes) -> bytes:
        raise NotImplementedError


def _free_standard(taken: tuple[int, int]) -> None:
    """Output of the program must not mix with messages: it goes to standard error, and standard input is empty."""
    if taken[1] == 1:
        if sys.stdout is not None:
            sys.stdout.flush()
        os.dup2(2, 1)
    if taken[0] == 0:
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(null, 0)
        os.close(null)


class Frames(_Bytes):
    """``[u32 length, little-endian][CBOR]``: every value that a channel carries; arrays in shared memory are copied."""

    def _next(self) -> bytes | None:
        held = self._held
        if len(held) < _HEAD_BYTES:
            return None
        length = int.from_bytes(held[:_HEAD_BYTES], "little")
        if length > MESSAGE_BYTES_MAX:
            raise BrokenChannel(f"a message of more than {MESSAGE_BYTES_MAX} bytes")
        end = _HEAD_BYTES + length
        if len(held) < end:
            return None
        message = bytes(memoryview(held)[_HEAD_BYTES:end])
        del held[:end]
        return message

    def _form(self, message: bytes) -> bytes:
        return len(message).to_bytes(_HEAD_BYTES, "little") + message


class Lines(_Bytes):
    """A message is a line of JSON. A value that JSON cannot hold is an error of its call, and is never replaced by
    another.
    """

    def _next(self) -> bytes | None:
        held = self._held
        while True:
            end = held.find(b"\n", self._scanned)
            if end < 0:
                self._scanned = len(held)
            if (len(held) if end < 0 else end) > MESSAGE_BYTES_MAX:
                raise BrokenChannel(f"a line of more than {MESSAGE_BYTES_MAX} bytes")
            if end < 0:
                return None
            line = bytes(memoryview(held)[:end])
            del held[: end + 1]
            self._scanned = 0
            return self._parsed(line)

    def _parsed(self, line: bytes) -> bytes:
        try:
            message = json.loads(line.decode("utf-8"), parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise BrokenChannel(f"a line that is not JSON: {line[:60]!r}: {error}") from None
        if type(message) is not list or len(message) < 2:
            raise BrokenChannel(f"a line that is not a message: {line[:60]!r}")
        if self.role == "server" and message[0] == CALL and len(message) == _STREAMS + 1:
            _put_streams(message)
        try:
            data: bytes = dumps(message, MESSAGE_BYTES_MAX)
            return data
        except EncodeError as error:
            raise BrokenChannel(f"a line that is too deep, or not text: {error}") from None

    def _form(self, message: bytes) -> bytes:
        try:
            value = loads(message)
        except DecodeError as error:  # an error of this module
            raise EncodeError(error.code, error.path, error.detail) from None
        if self.role == "client" and value[0] == CALL:
            _take_streams(value)
        _require_json(value, "$", 0)
        line = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        if len(line) > MESSAGE_BYTES_MAX:
            raise EncodeError("SIZE", "$", f"more than {MESSAGE_BYTES_MAX} bytes")
        return line


def _no_constant(name: str) -> Any:
    raise ValueError(f"JSON has no {name}")


def _take_streams(message: list[Any]) -> None:
    """JSON cannot hold a stream: a call with streams among its arguments has one more field that says where."""
    args = message[_ARGUMENTS]
    streams = [[at, one.number] for at, one in enumerate(args) if type(one) is StreamRef]
    if streams:
        message[_ARGUMENTS] = [None if type(one) is StreamRef else one for one in args]
        message.append(streams)


def _put_streams(message: list[Any]) -> None:
    """If there are none in those places, the message is unchanged: with one field too many it is malformed."""
    args, streams = message[_ARGUMENTS], message[_STREAMS]
    if type(args) is not list:
        return
    filled = list(args)
    try:
        for at, number in streams:
            if type(at) is not int or type(number) is not int or not 0 <= at < len(args):
                return
            filled[at] = StreamRef(number)
    except (TypeError, ValueError):
        return
    message[_ARGUMENTS:] = [filled, *message[_ARGUMENTS + 1 : _STREAMS]]


def _require_json(value: Any, path: str, depth: int) -> None:
    """:raises EncodeError: names the place of a value that JSON cannot hold"""
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return
    if kind is int:
        if abs(value) > _SAFE_MAX:
            raise EncodeError("TYPE", path, f"JSON has no integer as large as {value}; send it as text")
        return
    if kind is float:
        if not math.isfinite(value):
            raise EncodeError("TYPE", path, f"JSON has no {value}")
        return
    if depth >= VALUE_DEPTH_MAX:
        raise EncodeError("DEPTH", path, f"more than {VALUE_DEPTH_MAX} levels")
    if kind is list:
        for index, item in enumerate(value):
            _require_json(item, f"{path}[{index}]", depth + 1)
    elif kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise EncodeError("TYPE", path, f"JSON has no key {key!r}, which is not text")
            _require_json(item, f"{path}[{json.dumps(key)}]", depth + 1)
    else:
        raise EncodeError("TYPE", path, f"JSON has no {kind.__name__}")
