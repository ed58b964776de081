"""A server of HTTP that answers as it is told, byte by byte, and knows what becomes of its connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

ENGINES = ("bun", "v8")
Answer = Callable[["Connection"], object]


class Connection:
    def __init__(self, socket_: Any, head: str, body: bytes) -> None:
        self._socket = socket_
        self.head, self.body = head, body
        self.method, self.path, _ = head.split("\r\n", 1)[0].split(" ", 2)
        lines = head.split("\r\n")[1:]
        self.headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        self.sent = 0

    def send(self, *parts: str | bytes) -> None:
        for part in parts:
            data = part.encode() if isinstance(part, str) else part
            self._socket.sendall(data)
            self.sent += len(data)

    def answer(self, body: str | bytes = b"", status: str = "200 OK", **headers: Any) -> None:
        data = body.encode() if isinstance(body, str) else body
        lines = [
            f"{name.replace('_', '-')}: {value}" for name, value in {"content_length": len(data), **headers}.items()
        ]
        self.send(f"HTTP/1.1 {status}\r\n" + "".join(f"{line}\r\n" for line in lines) + "\r\n", data)

    def for_ever(self, part: bytes) -> None:
        """Until the other side goes."""
        while True:
            self.send(part)

    def is_left(self, seconds: float = 10) -> bool:
        """The other side goes within this time, and says nothing until then."""
        self._socket.settimeout(seconds)
        try:
            return self._socket.recv(1) == b""
        except TimeoutError:
            return False
        except OSError:
            return True


class Site:
    """Answers of paths; a path that is not there is 404. Use it in ``with``."""

    def __init__(self, answers: dict[str, Answer], wrap: Callable[[socket.socket], Any] | None = None) -> None:
        self._answers, self._wrap = answers, wrap
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.host}"
        self.changed = threading.Condition()
        #: Connections now, the most of them at once, and bytes sent over those that have ended.
        self.open = self.most = self.count = self.sent = 0
        self.seen: list[Connection] = []

    def __enter__(self) -> Site:
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(accepted,), daemon=True).start()

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        with self.changed:
            self.count += 1
            self.open += 1
            self.most = max(self.most, self.open)
            self.changed.notify_all()
        try:
            yield
        finally:
            with self.changed:
                self.open -= 1
                self.changed.notify_all()

    def _serve(self, accepted: socket.socket) -> None:
        with self._counted(), contextlib.suppress(OSError, ValueError):
            one = self._wrap(accepted) if self._wrap is not None else accepted
            try:
                head, body = b"", b""
                while b"\r\n\r\n" not in head:
                    if not (part := one.recv(65536)):
                        return
                    head += part
                head, body = head.split(b"\r\n\r\n", 1)
                length = next(
                    (line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), b":0"
                )
                while len(body) < int(length.split(b":")[1]):
                    body += one.recv(65536)
                connection = Connection(one, head.decode("latin-1"), body)
                self.seen.append(connection)
                try:
                    missing: Answer = lambda asked: asked.answer("nothing here", "404 Not Found")  # noqa: E731
                    self._answers.get(connection.path.split("?")[0], missing)(connection)
                finally:
                    self.sent += connection.sent
            finally:
                one.close()

    def has_none_open(self, seconds: float = 10) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: self.open == 0, seconds)


def wait(runtime: Any, code: str, timeout: float | None = 20) -> Any:
    async def ask() -> Any:
        return await runtime.eval_async(code, timeout=timeout)

    return asyncio.run(ask())


def reason(runtime: Any, code: str) -> str:
    """Why it is rejected: name and message of an error of the guest's realm."""
    caught = "error instanceof Error ? `${error.name}: ${error.message}` : `no error of the guest: ${typeof error}`"
    return str(
        wait(
            runtime,
            f"(async () => {{ try {{ await {code}; return 'nothing' }} catch (error) {{ return {caught} }} }})()",
        )
    )


def runtimes(js: Any, *sites: Site, **settings: Any) -> Any:
    for engine in ENGINES:
        with js.Runtime(engine=engine, allow_net=[site.host for site in sites], **settings) as runtime:
            yield runtime
