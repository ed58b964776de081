"""Functions of clients, called from Python."""

from __future__ import annotations

import asyncio
import itertools
import sys
import threading
from collections.abc import Callable

from ._codec import BrokenChannel, shield, unshield
from ._contract import TO_CLIENT_INVOKE as INVOKE
from ._evaluate import namespace

TYPE_CHECKING = False  # as typing has it, which takes long to load
if TYPE_CHECKING:
    from typing import Any
    from ._serving import Serving
    from ._session import Session

#: How often a thread that waits for a function of the client looks whether it must fetch the answer itself.
_LOOK_SECONDS = 0.001
#: Frames that must be left for what serves a client while its function is called: with fewer a message could be torn by RecursionError.
_HEADROOM = 300


class Invocation:
    """One call of a client's function that is under way."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._event = threading.Event()
        self._value: Any = None
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[], Any]] = []

    @property
    def is_done(self) -> bool:
        return self._event.is_set()

    def on_done(self, callback: Callable[[], Any]) -> None:
        self._callbacks.append(callback)
        if self.is_done:
            callback()

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
        if self._error is not None:
            raise self._error
        return self._value


class Bound:
    """The functions that clients lend at present, by their names, and the calls of them that are under way."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._owners: dict[str, Session] = {}
        self.invocations: dict[int, Invocation] = {}
        self.numbers = itertools.count(1)

    def bind(self, session: Session, name: object) -> None:
        """``f`` becomes a name of the script, ``o.f`` an attribute of one; what the script calls so itself stays as it is."""
        if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")) or name.count(".") > 1:
            raise BrokenChannel(f"{name!r} is no name of a function")
        self._owners[name] = session
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

    def unbind(self, name: str) -> None:
        self._owners.pop(name, None)
        scope = namespace(None)
        first, _, attribute = name.partition(".")
        held = scope.get(first)
        if not attribute and isinstance(held, BoundFunction):
            del scope[first]
        elif isinstance(held, BoundObject):
            held.__dict__.pop(attribute, None)
            if not held.__dict__:
                del scope[first]

    def forget(self, session: Session) -> None:
        """Its client is gone."""
        for name in [name for name, owner in self._owners.items() if owner is session]:
            self.unbind(name)
        for invocation in [one for one in self.invocations.values() if one.session is session]:
            invocation.fail(ConnectionError("the client that bound this function is gone"))

    def begin(self, number: int, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Invocation:
        """The caller takes its number out of :attr:`invocations` again, however it goes on."""
        session = self._owners.get(name)
        if session is None:
            known = ", ".join(sorted(self._owners)) or "none"
            raise LookupError(f"no client binds a function {name!r} at present; there is: {known}")
        invocation = self.invocations[number] = Invocation(session)
        session.channel.send([INVOKE, number, name, list(args), kwargs or None])
        if not session.channel.is_open and not invocation.is_done:
            invocation.fail(ConnectionError("the client that bound this function is gone"))
        return invocation

    def call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Blocks this thread only. In the serving thread messages are taken meanwhile, so that the function may call back."""
        serving = self._serving
        if serving.is_here and _is_deep():
            raise RecursionError(f"maximum recursion depth exceeded while calling {name} of the client")
        number = next(self.numbers)
        was_exposed = shield()  # an exception in the middle would leave the number behind
        try:
            invocation = self.begin(number, name, args, kwargs)
            if serving.is_here:
                serving.wait(invocation.session, lambda: invocation.is_done)
            else:
                # The serving thread may be busy with code that waits for this very thread: then the answer is fetched here.
                while not invocation.wait(_LOOK_SECONDS):
                    serving.fetch_answers(invocation.session)
            return invocation.result()
        finally:
            self.invocations.pop(number, None)
            if was_exposed:
                unshield()


def _is_deep() -> bool:
    try:
        sys._getframe(max(1, sys.getrecursionlimit() - _HEADROOM))
    except ValueError:
        return False
    return True


class BoundFunction:
    """A function of the client, called from Python. Blocks the calling thread; ``await f.aio(…)`` does not block the event loop."""

    def __init__(self, bound: Bound, name: str) -> None:
        self._bound = bound
        self.__name__ = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._bound.call(self.__name__, args, kwargs)

    async def aio(self, *args: Any, **kwargs: Any) -> Any:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        number = next(self._bound.numbers)
        try:
            invocation = self._bound.begin(number, self.__name__, args, kwargs)
            invocation.on_done(lambda: loop.call_soon_threadsafe(_settle, done))
            await done
        finally:
            self._bound.invocations.pop(number, None)
        return invocation.result()

    def __repr__(self) -> str:
        return f"<function {self.__name__} of the client>"


def _settle(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


class BoundObject:
    """Functions of the client under one name."""
