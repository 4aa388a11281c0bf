"""Runs of bytes: arrays of shape (n, 2), each row (start, bytes), in order and apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T", np.int64, np.uint64)


def union(parts: Sequence[npt.NDArray[T]]) -> npt.NDArray[T]:
    """All bytes of one or more arrays of rows (start, bytes) in any order, overlapping or not, as runs."""
    rows = np.concatenate(parts) if len(parts) > 1 else parts[0]
    if len(rows) < 2:
        return rows
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    ends = np.maximum.accumulate(rows[:, 0] + rows[:, 1])
    opens = np.concatenate(([True], rows[1:, 0] > ends[:-1]))
    closes = np.concatenate((opens[1:], [True]))
    return np.stack((rows[opens, 0], ends[closes] - rows[opens, 0]), axis=1)


def within(runs: npt.NDArray[np.int64], low: int, high: int) -> npt.NDArray[np.int64]:
    """The parts of `runs` that lie in [low, high)."""
    found = np.empty_like(runs)
    np.maximum(runs[:, 0], low, out=found[:, 0])
    np.subtract(np.minimum(runs[:, 0] + runs[:, 1], high), found[:, 0], out=found[:, 1])
    return found[found[:, 1] > 0]
