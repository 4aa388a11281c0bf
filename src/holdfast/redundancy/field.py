"""The field with 256 elements in which parity is computed, and the coefficients of a set's parities.

Elements are bytes, polynomials over {0, 1} modulo x^8 + x^4 + x^3 + x^2 + 1 (0x11d), as ISA-L has them. Addition is XOR.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ..errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Matrix: TypeAlias = NDArray[np.uint8]
else:
    Matrix = np.ndarray

MOST = 128  # members of a set, at most: far more than anybody waits for, and 2 * 128 elements are all there are


def _tables() -> tuple[list[int], list[int]]:
    powers, logarithms, x = [0] * 510, [0] * 256, 1
    for i in range(255):
        powers[i] = powers[i + 255] = x
        logarithms[x] = i
        x = x << 1 ^ (0x11D if x & 0x80 else 0)
    return powers, logarithms


_POWERS, _LOGARITHMS = _tables()


def multiply(a: int, b: int) -> int:
    """The product of two elements."""
    return _POWERS[_LOGARITHMS[a] + _LOGARITHMS[b]] if a and b else 0


def inverse(a: int) -> int:
    """The element whose product with `a` is 1. ZeroDivisionError for 0."""
    if not a:
        raise ZeroDivisionError("0 has no inverse")
    return _POWERS[255 - _LOGARITHMS[a]]


@lru_cache(maxsize=256)
def products(a: int) -> Matrix:
    """The products of `a` with all elements: uint8, shape (256,)."""
    table = np.array([multiply(a, b) for b in range(256)], np.uint8)
    table.flags.writeable = False
    return table


@lru_cache(maxsize=256)
def generator(k: int, m: int) -> tuple[tuple[int, ...], ...]:
    """k + m rows of k coefficients: row i < k is the i-th of k data symbols, row k + j the j-th parity of these.

    Any k rows are independent, so that any k symbols give all others. The parity rows are a Cauchy matrix, all of whose square
    parts are invertible (J. Blömer et al., "An XOR-based erasure-resilient coding scheme", ICSI TR-95-048), each column
    divided by its first element, which changes nothing of that: the first parity is the XOR of the data. UsageError beyond
    MOST.
    """
    if not (k >= 1 and m >= 0 and k + m <= MOST):
        raise UsageError(
            f"a redundancy set of {k + m} members with {m} parities can't be: 1 to {MOST} members, fewer parities."
        )
    rows = [tuple(int(i == q) for q in range(k)) for i in range(k)]
    for j in range(m):
        # x = k + j, y = q: all different, so that their sum is never 0
        cauchy = [inverse((k + j) ^ q) for q in range(k)]
        rows.append(tuple(multiply(c, k ^ q) for q, c in enumerate(cauchy)))
    return tuple(rows)


@lru_cache(maxsize=4096)
def combination(k: int, m: int, wanted: int, known: Sequence[int]) -> tuple[int, ...]:
    """With which coefficients the k `known` symbols (numbers of rows of `generator`, hashable) add up to symbol `wanted`."""
    rows = generator(k, m)
    if len(known) != k:
        raise UsageError(f"{k} symbols are needed to compute another one, {len(known)} are known.")
    # Solve x * A = w for the row vector x, that is A^T * x^T = w^T, by elimination.
    system = [[rows[known[c]][r] for c in range(k)] + [rows[wanted][r]] for r in range(k)]
    for c in range(k):
        pivot = next(r for r in range(c, k) if system[r][c])  # there is one: any k rows are independent
        system[c], system[pivot] = system[pivot], system[c]
        factor = inverse(system[c][c])
        system[c] = [multiply(factor, value) for value in system[c]]
        for r in range(k):
            if r != c and (factor := system[r][c]):
                system[r] = [a ^ multiply(factor, b) for a, b in zip(system[r], system[c], strict=True)]
    return tuple(row[k] for row in system)
