"""Functions of clients, called from Python."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import itertools
import sys
import threading
import weakref
from collections.abc import Callable

from . import _console
from ._backend import BrokenChannel, shield, unshield
from ._backend import present as _request
from ._contract import TO_CLIENT_INVOKE as INVOKE
from ._evaluate import namespace

TYPE_CHECKING = False  # as typing has it, which takes long to load
if TYPE_CHECKING:
    from typing import Any
    from ._serving import Serving
    from ._session import Session

#: How often a thread that waits for a client's function checks whether it must fetch the answer itself.
_LOOK_SECONDS = 0.001
#: Stack frames reserved for the code that serves a client while its function is called: with fewer, a RecursionError
#: could tear a message.
_HEADROOM = 300


class Invocation:
    """One call of a client's function in progress."""

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


#: Whose code runs: that of an event loop's task, and of what it starts with ``asyncio.create_task`` and
#: ``asyncio.to_thread``.
client: contextvars.ContextVar[Session | None] = contextvars.ContextVar("client", default=None)


class _Handed(threading.local):
    """Work in this pool thread belongs to whoever submitted it, not to whoever started the thread."""

    is_work = False
    present: tuple[Session | None, int] | None = None


_handed = _Handed()


class Bound:
    """The functions that clients bind at present, by name, and the calls of them in progress.

    A name belongs to the client that binds it: code that runs for that client gets its function, whatever others bind
    under the same name. Code that runs for none of these clients gets the function of the only one, or an error if
    there are several.
    """

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._lenders: dict[str, list[Session]] = {}
        self.invocations: dict[int, Invocation] = {}
        self.numbers = itertools.count(1)
        #: Code that runs for a client without a request, and at which depth of turns.
        self._behalf: list[tuple[Session, int]] = []
        #: Threads that code of a request has started, with session and request number.
        self._threads: weakref.WeakKeyDictionary[threading.Thread, tuple[Session, int]] = weakref.WeakKeyDictionary()

    def bind(self, session: Session, name: str) -> None:
        """``f`` becomes a name of the script, ``o.f`` an attribute of one; a name that the script itself defines is
        left alone.
        """
        if not all(part.isidentifier() for part in name.split(".")) or name.count(".") > 1:
            raise BrokenChannel(f"{name!r} is not a function name")
        _note_threads()
        lenders = self._lenders.setdefault(name, [])
        if name not in session.lent:
            session.lent.add(name)
            lenders.append(session)
        scope = namespace(None)
        first, _, attribute = name.partition(".")
        place = scope.setdefault(first, BoundFunction(self, first))
        if attribute and isinstance(place, BoundFunction):
            place.__dict__[attribute] = BoundFunction(self, name)

    def unbind(self, session: Session, name: str) -> None:
        lenders = self._lenders.get(name, [])
        if name in session.lent:
            session.lent.remove(name)
            lenders.remove(session)
        if lenders or self._lenders.pop(name, None) is None:
            return
        scope = namespace(None)
        first, _, attribute = name.partition(".")
        place = scope.get(first)
        if not isinstance(place, BoundFunction):
            return
        if attribute:
            place.__dict__.pop(attribute, None)
        # A client may lend many functions: those of other names are not searched for each that ends.
        if first not in self._lenders and not any(isinstance(one, BoundFunction) for one in vars(place).values()):
            del scope[first]

    def forget(self, session: Session) -> None:
        """Its client is gone."""
        for name in list(session.lent):
            self.unbind(session, name)
        for invocation in [one for one in self.invocations.values() if one.session is session]:
            invocation.fail(ConnectionError("the client that bound this function is gone"))

    def run_for(self, session: Session, work: Callable[[], object]) -> None:
        """Code for a client that is not a request."""
        self._behalf.append((session, self._serving.depth))
        try:
            work()
        finally:
            self._behalf.pop()

    @property
    def is_behalf(self) -> bool:
        """What the serving thread runs is not code of a request."""
        return bool(self._behalf) and self._behalf[-1][1] == self._serving.depth

    def present(self) -> tuple[Session | None, int] | None:
        """Whose code this thread runs, and its request (0: none); the session is None once its channel is closed."""
        if self._serving.is_here and self.is_behalf:
            return self._behalf[-1][0], 0
        request = _request()
        if request is not None:
            channel, number = request
            return (None if channel is None else channel.session), number
        session = client.get()
        if session is not None:
            return session, 0
        if _handed.is_work:
            return _handed.present
        noted = self._threads.get(threading.current_thread())
        # A thread that outlives its request serves nobody in particular.
        return noted if noted is not None and noted[1] in noted[0].channel.server.running() else None

    def note(self, thread: threading.Thread) -> None:
        present = self.present()
        if present is not None and present[0] is not None and present[1] > 0:
            self._threads[thread] = present[0], present[1]

    def lender(self, name: str, *, is_own: bool = False) -> Session:
        """Whose function the calling code means."""
        lenders = self._lenders.get(name, [])
        present = self.present()
        if present is not None:
            session = present[0]
            if session is None or not session.channel.is_open:
                raise ConnectionError(f"the client that calls {name} is gone")
            if session in lenders:
                return session
        if is_own:
            raise LookupError(
                f"{name}.of_caller: this code runs for no client that binds it; call of_caller() in a call from one"
            )
        if not lenders:
            known = ", ".join(sorted(self._lenders)) or "none"
            raise LookupError(f"no client binds a function {name!r} at present; there is: {known}")
        if len(lenders) > 1:
            raise LookupError(
                f"{len(lenders)} clients bind a function {name!r}, and this code runs for none of them; "
                f"keep {name}.of_caller() from a call of the client you mean, and call that"
            )
        return lenders[0]

    def begin(
        self, number: int, name: str, session: Session | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Invocation:
        """The caller must remove its number from :attr:`invocations` again, whatever happens."""
        session = session or self.lender(name)
        invocation = self.invocations[number] = Invocation(session)
        if session.channel.is_open:
            session.channel.send([INVOKE, number, name, list(args), kwargs or None])
        if not session.channel.is_open and not invocation.is_done:
            invocation.fail(ConnectionError("the client that bound this function is gone"))
        return invocation

    def call(self, name: str, session: Session | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Blocks this thread only. The serving thread takes messages meanwhile, so that the function may call back."""
        serving = self._serving
        if serving.is_here and _is_deep():
            raise RecursionError(f"maximum recursion depth exceeded while calling {name} of the client")
        number = next(self.numbers)
        was_exposed = shield()  # an exception in between would leave the number behind
        try:
            invocation = self.begin(number, name, session, args, kwargs)
            if serving.is_here:
                serving.wait(invocation.session, lambda: invocation.is_done)
            else:
                # The serving thread may be busy with code that waits for this very thread: then the answer is fetched
                # here.
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
    """A function of the client, called from Python. Blocks the calling thread; ``await f.aio(…)`` does not block the
    event loop. Functions of an object are attributes of its name.
    """

    def __init__(self, bound: Bound, name: str, session: Session | None = None) -> None:
        self.__bound, self.__session = bound, session
        self.__name__ = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__bound.call(self.__name__, self.__session, args, kwargs)

    async def aio(self, *args: Any, **kwargs: Any) -> Any:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        bound = self.__bound
        number = next(bound.numbers)
        try:
            invocation = bound.begin(number, self.__name__, self.__session, args, kwargs)
            invocation.on_done(lambda: loop.call_soon_threadsafe(_settle, done))
            await done
        finally:
            bound.invocations.pop(number, None)
        return invocation.result()

    def of_caller(self) -> BoundFunction:
        """The function of the client that this code runs for, for use in threads and later, when other code or no code
        of that client runs.
        :raises LookupError: if it runs for no client that binds it
        """
        session = self.__session or self.__bound.lender(self.__name__, is_own=True)
        return BoundFunction(self.__bound, self.__name__, session)

    def __repr__(self) -> str:
        return f"<function {self.__name__} of the client>"


_has_noted = False


def _note_threads() -> None:
    """From now on, records for whom a thread started by a request runs, because Python passes nothing on from its
    starter.
    """
    global _has_noted
    if _has_noted:
        return
    _has_noted = True
    start = threading.Thread.start

    @functools.wraps(start)
    def noting(thread: threading.Thread) -> None:
        serving = _console.current()
        if serving is not None:
            serving.bound.note(thread)
        start(thread)

    setattr(threading.Thread, "start", noting)
    from concurrent.futures import ThreadPoolExecutor

    submit: Callable[..., Any] = ThreadPoolExecutor.submit

    @functools.wraps(submit)
    def handing(pool: ThreadPoolExecutor, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        serving = _console.current()
        return submit(pool, _do, None if serving is None else serving.bound.present(), work, *args, **kwargs)

    setattr(ThreadPoolExecutor, "submit", handing)


def _do(present: tuple[Session | None, int] | None, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    before = _handed.is_work, _handed.present
    _handed.is_work, _handed.present = True, present
    try:
        return work(*args, **kwargs)
    finally:
        _handed.is_work, _handed.present = before


def _settle(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)
