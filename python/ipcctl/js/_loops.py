"""The event loop that runs here: of asyncio, or trio in the shape of one. Trio is imported by whoever uses it."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Callable, Coroutine, Generator
from typing import Any


def running_loop() -> Any:
    """:raises RuntimeError: if none runs in this thread"""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        trio = sys.modules.get("trio")
        if trio is None:
            raise RuntimeError(_NO_LOOP) from None
        try:
            token = trio.lowlevel.current_trio_token()
        except RuntimeError:
            raise RuntimeError(f"{_NO_LOOP} or trio.run(main)") from None
    loop = _loop.get(None)
    if loop is None or loop.token is not token:
        loop = TrioLoop(trio, token)
        _loop.set(loop)
    return loop


_NO_LOOP = "no running event loop; call it in an async function, and that by asyncio.run(main())"
_loop: contextvars.ContextVar[TrioLoop | None] = contextvars.ContextVar("ipcctl_js_trio", default=None)


class TrioLoop:
    """As much of an event loop of asyncio as runtimes use. What it starts ends with trio at the latest."""

    def __init__(self, trio: Any, token: Any) -> None:
        self.trio, self.token = trio, token
        self._is_over = False
        trio.lowlevel.spawn_system_task(self._live)

    async def _live(self) -> None:
        try:
            await self.trio.sleep_forever()
        finally:
            self._is_over = True

    def is_running(self) -> bool:
        return not self._is_over

    def is_closed(self) -> bool:
        return self._is_over

    def create_future(self) -> _Future:
        return _Future(self.trio)

    def create_task(self, work: Coroutine[Any, Any, Any]) -> _Task:
        return _Task(self.trio, work)

    def call_later(self, seconds: float, act: Callable[..., object], *args: Any) -> _Timer:
        return _Timer(self.trio, seconds, lambda: act(*args))

    def call_soon_threadsafe(
        self, act: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> None:
        """:raises RuntimeError: if trio has ended"""
        if context is None:
            self.token.run_sync_soon(act, *args)
        else:
            self.token.run_sync_soon(lambda: context.run(act, *args))


class _Timer:
    def __init__(self, trio: Any, seconds: float, act: Callable[[], object]) -> None:
        self._scope = trio.CancelScope()

        async def run() -> None:
            with self._scope:
                await trio.sleep(seconds)
                act()

        trio.lowlevel.spawn_system_task(run)

    def cancel(self) -> None:
        self._scope.cancel()


class _Outcome:
    """What a future and a task share."""

    def __init__(self, trio: Any) -> None:
        self._trio = trio
        self._is_done = self._is_cancelled = False
        self._value: Any = None
        self._error: BaseException | None = None
        self._after: list[Callable[[Any], object]] = []

    def done(self) -> bool:
        return self._is_done

    def cancelled(self) -> bool:
        return self._is_cancelled

    def exception(self) -> BaseException | None:
        return self._error

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._value

    def add_done_callback(self, act: Callable[[Any], object]) -> None:
        if self._is_done:
            act(self)
        else:
            self._after.append(act)

    def _finish(self, value: Any, error: BaseException | None) -> None:
        if self._is_done:
            return
        self._is_done, self._value, self._error = True, value, error
        for act in self._after:
            act(self)


class _Future(_Outcome):
    """It begins at once, and may be awaited once or more. Whoever is cancelled while it waits cancels it."""

    def __init__(self, trio: Any) -> None:
        super().__init__(trio)
        self._ready = trio.Event()

    def set_result(self, value: Any) -> None:
        self._finish(value, None)
        self._ready.set()

    def set_exception(self, error: BaseException) -> None:
        self._finish(None, error)
        self._ready.set()

    def cancel(self) -> None:
        self._is_cancelled = not self._is_done
        self.set_exception(RuntimeError("it was cancelled"))

    def __await__(self) -> Generator[Any, None, Any]:
        return self._wait().__await__()

    async def _wait(self) -> Any:
        try:
            await self._ready.wait()
        except BaseException:
            self.cancel()
            raise
        return self.result()


class _Task(_Outcome):
    def __init__(self, trio: Any, work: Coroutine[Any, Any, Any]) -> None:
        super().__init__(trio)
        self._scope = trio.CancelScope()
        trio.lowlevel.spawn_system_task(self._run, work, context=contextvars.copy_context())

    async def _run(self, work: Coroutine[Any, Any, Any]) -> None:
        value, error = None, None
        try:
            with self._scope:
                value = await work
        except self._trio.Cancelled:
            self._is_cancelled = True
            raise
        except BaseException as raised:
            error = raised
        finally:
            self._is_cancelled = self._is_cancelled or self._scope.cancelled_caught
            self._finish(value, error)

    def cancel(self) -> None:
        self._scope.cancel()
