"""The states that are checkpointed, and ways to change them. NumPy alone: the peers' environment has no Holdfast."""

from __future__ import annotations

from typing import Any

import numpy as np
from row import MiB

PAGE = 4096
LARGE = 4
SMALL = 200

State = dict[str, np.ndarray]


def few_large(nbytes: int) -> State:
    """Four large arrays of float64 and 200 small ones, `nbytes` together; no two blocks alike, nothing compressible."""
    rng = np.random.default_rng(1)
    arrays = {f"small {i}": rng.random(1000) for i in range(SMALL)}
    each = (nbytes - sum(a.nbytes for a in arrays.values())) // LARGE // 8
    tile = rng.random(8 * MiB)
    for k in range(LARGE):
        large = np.empty(each)
        for at in range(0, each, tile.size):
            n = min(tile.size, each - at)
            np.add(tile[:n], k + at / tile.size, out=large[at : at + n])
        arrays[f"large {k}"] = large
    return arrays


def many_small() -> dict[str, Any]:
    """200 small arrays of some dtypes, and scalars."""
    rng = np.random.default_rng(2)
    kinds = [np.float64, np.float32, np.int64, np.uint8]
    values: dict[str, Any] = {f"array {i}": (rng.random(50 + 5 * i) * 100).astype(kinds[i % 4]) for i in range(SMALL)}
    return values | {"count": 7, "residual": 1e-9, "converged": True, "name": "small"}


def like(arrays: State, touched: bool) -> State:
    """Arrays of the same shapes and types: fresh memory, or memory that was written before."""
    return {name: np.full_like(a, 1) if touched else np.empty_like(a) for name, a in arrays.items()}


def nbytes(arrays: State) -> int:
    return sum(a.nbytes for a in arrays.values())


def rewrite(arrays: State) -> int:
    """Change every byte's page; the bytes changed."""
    for array in arrays.values():
        np.add(array, 1.0, out=array)
    return nbytes(arrays)


def dirty_contiguous(arrays: State, rng: np.random.Generator) -> int:
    """Change 1 % in one piece, whole pages; the bytes changed."""
    pages = _pages(arrays["large 0"])
    count = nbytes(arrays) // 100 // PAGE
    first = int(rng.integers(0, len(pages) - count))
    pages[first : first + count] += 1
    return count * PAGE


def dirty_scattered(arrays: State, rng: np.random.Generator) -> int:
    """Change 1 % in single pages anywhere in the large arrays; the bytes changed."""
    changed = 0
    for k in range(LARGE):
        pages = _pages(arrays[f"large {k}"])
        chosen = rng.choice(len(pages), nbytes(arrays) // 100 // PAGE // LARGE, replace=False)
        pages[chosen] += 1
        changed += len(chosen) * PAGE
    return changed


def _pages(array: np.ndarray) -> np.ndarray:
    """The array's whole pages of memory, as an array of shape (pages, 4096), uint8."""
    data = array.reshape(-1).view(np.uint8)
    skip = -data.ctypes.data % PAGE
    return data[skip : skip + (data.nbytes - skip) // PAGE * PAGE].reshape(-1, PAGE)
