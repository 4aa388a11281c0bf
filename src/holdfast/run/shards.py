"""Global arrays from the shards of all ranks: for another number of ranks, and for reading a run from outside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from .. import state
from ..catalog import Commit
from ..engine import open_part, read_groups
from ..errors import DamageError
from ..store import Store
from .objects import Entry

if TYPE_CHECKING:
    import numpy.typing as npt


def stored_shards(
    store: Store, commit: Commit, threads: int, name: str
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], npt.NDArray[np.generic]]]:
    """(global shape, offset, values) of every rank's shard of `name`, one in memory at a time (local)."""
    read_groups(store, commit)
    for rank in range(commit.ranks):
        with open_part(store, commit, rank, threads) as reader:
            stored = reader.objects.get(name)
            if stored is None or stored.shard is None:
                continue
            values = state.decode(reader.tree(stored), reader.source(stored), name=name)
            if not isinstance(values, np.ndarray) or values.ndim != len(stored.shard[0]):
                raise DamageError(f"{reader.key}: the shard of {name!r} is no array of its shape", file=reader.key)
            yield (*stored.shard, values)


def fill(store: Store, commit: Commit, threads: int, entry: Entry) -> str | None:
    """Fill a sharded array from whatever stored shards cover it; why not, if they don't fit or don't cover it."""
    assert entry.shard is not None
    missing = np.ones(entry.obj.shape, bool)
    for shape, offset, values in stored_shards(store, commit, threads, entry.name):
        if shape != entry.shard.global_shape or values.dtype != entry.obj.dtype:
            return (
                f"stored: global shape {shape}, {values.dtype}; "
                f"the program has: {entry.shard.global_shape}, {entry.obj.dtype}"
            )
        overlap = _overlap(entry.shard.offset, entry.obj.shape, offset, values.shape)
        if overlap is not None:
            mine, theirs = overlap
            entry.obj[mine] = values[theirs]
            missing[mine] = False
    if missing.any():
        return f"{int(missing.sum())} of its {missing.size} elements are in no stored shard"
    return None


def assemble(store: Store, commit: Commit, threads: int, name: str) -> npt.NDArray[np.generic] | None:
    """The global array of a sharded object, None if no rank has a shard of that name. Elements in no shard are zero."""
    whole: npt.NDArray[np.generic] | None = None
    for shape, offset, values in stored_shards(store, commit, threads, name):
        if whole is None:
            whole = np.zeros(shape, values.dtype)
        overlap = _overlap((0,) * len(shape), shape, offset, values.shape)
        if overlap is not None and whole.dtype == values.dtype:
            whole[overlap[0]] = values[overlap[1]]
    return whole


Slices = tuple[slice, ...]


def _overlap(
    at: tuple[int, ...], shape: tuple[int, ...], other_at: tuple[int, ...], other: tuple[int, ...]
) -> tuple[Slices, Slices] | None:
    """Where two boxes (offset, shape) overlap, in the coordinates of each; None if nowhere."""
    mine, theirs = [], []
    for a, n, b, m in zip(at, shape, other_at, other, strict=True):
        first, last = max(a, b), min(a + n, b + m)
        if first >= last:
            return None
        mine.append(slice(first - a, last - a))
        theirs.append(slice(first - b, last - b))
    return tuple(mine), tuple(theirs)
