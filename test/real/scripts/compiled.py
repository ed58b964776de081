"""numba: machine code, kept in a cache."""

import numba
import numpy


@numba.njit(cache=True)
def total(values: numpy.ndarray) -> float:
    result = 0.0
    for value in values:
        result += value
    return result


print(total(numpy.ones(1000)))
