"""Modules of a runtime: what Python defines, how it resolves specifiers, and where it loads sources from."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .._contract import TO_ENGINE_DEFINE
from ._maps import SourceMaps
from ._packages import Packages

if TYPE_CHECKING:
    from ._session import Session

#: Specifier and URL of the module that imports it; None and "" leave it to the modules that are defined.
Resolver = Callable[[str, str], "str | None"]
Source = str | bytes
Loader = Callable[[str], "Source | Awaitable[Source]"]

_ASYNC_LOADER = (
    "An async module loader cannot be used with a synchronous evaluation (eval_module). "
    "Use eval_module_async() instead."
)


class Modules:
    def __init__(
        self,
        session: Session,
        number: Callable[[Callable[..., Any], str], tuple[int, bool]],
        packages: Packages | None,
        is_typescript: bool,
    ) -> None:
        """:param number: makes a function one that the engine may call"""
        self._session = session
        self._packages = packages
        #: URLs that the packages have given; a loader that a user has set is not asked for them.
        self._packaged: set[str] = set()
        self._maps = SourceMaps()
        session.locate = self._maps.locate
        self._is_typescript = is_typescript
        self._resolver: Resolver | None = None
        self._loader: Loader | None = None
        self._number = number
        if is_typescript or packages is not None:
            self._tell()

    def forget(self) -> None:
        """The runtime has ended: what its user has given is let go."""
        self._resolver = self._loader = None

    def define(self, name: str, source: Source) -> None:
        if not isinstance(name, str) or not name:
            raise TypeError(f"the name of a module must be a str that is not empty, not {name!r}")
        self._session.send(
            [TO_ENGINE_DEFINE, 0, name, self._source(source, f"jsrun://static/{name}", f"module {name!r}")]
        )

    def set_resolver(self, resolver: Resolver | None) -> None:
        self._resolver = _callable(resolver, "resolver")
        self._tell()

    def set_loader(self, loader: Loader | None) -> None:
        self._loader = _callable(loader, "loader")
        self._tell()

    @cached_property
    def _asked(self) -> tuple[list[int], list[int]]:
        """How the engine asks the resolver and the loader: for the thread that waits, and for an event loop."""
        resolving = [self._number(one, "resolver")[0] for one in (self._resolve, self._resolve_async)]
        return resolving, [self._number(one, "loader")[0] for one in (self._load, self._load_async)]

    def _tell(self) -> None:
        resolving, loading = self._asked
        told = {
            "resolver": None if self._resolver is None and self._packages is None else resolving,
            "loader": None if self._loader is None and self._packages is None else loading,
            "typescript": self._is_typescript,
        }
        self._session.send([TO_ENGINE_DEFINE, 0, "", told])

    def _resolve(self, specifier: str, referrer: str, is_defined: bool) -> str | None:
        url = None if self._resolver is None else self._resolver(specifier, referrer)
        if inspect.isawaitable(url):
            _discard(url)
            raise TypeError("The module resolver returned an awaitable; only the loader may be async")
        if url is not None and not isinstance(url, str):
            raise TypeError(f"The module resolver returned {type(url).__name__} for {specifier!r}, not a str or None")
        if not url and not is_defined and self._packages is not None:
            url = self._packages.resolve(specifier, referrer)
            if url is not None:
                self._packaged.add(url)
        return url

    async def _resolve_async(self, specifier: str, referrer: str, is_defined: bool) -> str | None:
        return self._resolve(specifier, referrer, is_defined)

    def _load(self, url: str, kind: str) -> Any:
        if url in self._packaged and self._packages is not None:
            return self._source(self._packages.load(url, kind), url, url)
        if _is_async(self._loader):
            raise RuntimeError(_ASYNC_LOADER)
        source = self._ask_loader(url)
        if inspect.isawaitable(source):
            _discard(source)
            raise RuntimeError(_ASYNC_LOADER)
        return self._source(source, url, f"The module loader, for {url!r}")

    async def _load_async(self, url: str, kind: str) -> Any:
        if url in self._packaged and self._packages is not None:
            return self._source(await asyncio.to_thread(self._packages.load, url, kind), url, url)
        source = self._ask_loader(url)
        if inspect.isawaitable(source):
            source = await source
        return self._source(source, url, f"The module loader, for {url!r}")

    def _ask_loader(self, url: str) -> Any:
        if self._loader is None:
            raise LookupError(f"no module loader is set, which {url!r} needs")
        return self._loader(url)

    def _source(self, source: Any, url: str, what: str) -> Source:
        if isinstance(source, (bytes, bytearray, memoryview)):
            return bytes(source)
        if not isinstance(source, str):
            raise TypeError(f"{what}: its source must be str or bytes, not {type(source).__name__}")
        return self._maps.take(url, str(source))


def _is_async(loader: Any) -> bool:
    return inspect.iscoroutinefunction(loader) or inspect.iscoroutinefunction(type(loader).__call__)


def _callable(function: Any, what: str) -> Any:
    if function is not None and not callable(function):
        raise TypeError(f"a module {what} must be callable, not {type(function).__name__}")
    return function


def _discard(work: Any) -> None:
    """A coroutine that never runs."""
    if inspect.iscoroutine(work):
        work.close()
