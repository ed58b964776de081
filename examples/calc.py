"""Functions for a TypeScript program, or for `ipcctl call calc add 2 3`."""

from collections.abc import Iterator

import ipcctl


@ipcctl.expose
def add(a: int, b: int) -> int:
    return a + b


@ipcctl.expose
def primes(limit: int) -> Iterator[int]:
    """Each prime below the limit, found as it is asked for."""
    found: list[int] = []
    for number in range(2, limit):
        if all(number % prime for prime in found):
            found.append(number)
            yield number


ipcctl.serve()
