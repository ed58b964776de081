"""CPU profiles of a runtime, in the format of V8."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self


class Profile:
    """``with runtime.profile() as profile: …``: where the time of JavaScript went meanwhile."""

    def __init__(self, ask: Callable[[int | None], Any], interval: int) -> None:
        self._ask, self._interval = ask, interval
        self._data: bytes | None = None

    def __enter__(self) -> Self:
        self._ask(self._interval)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            self._data = bytes(self._ask(None))
        except RuntimeError:
            if error is None:
                raise  # else it is told why the runtime has ended

    @property
    def data(self) -> bytes:
        """A ``.cpuprofile``, as Chrome's DevTools, VS Code and speedscope open it.

        :raises RuntimeError: before the end of the block
        """
        if self._data is None:
            raise RuntimeError("the profile is complete only after its `with` block")
        return self._data

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes it, usually with the extension ``.cpuprofile``. :raises OSError, RuntimeError:"""
        with open(path, "wb") as file:
            file.write(self.data)

    def tree(self) -> dict[str, Any]:
        """The same as a dict: ``nodes``, ``samples``, ``timeDeltas``, …. :raises RuntimeError:"""
        return cast("dict[str, Any]", json.loads(self.data))
