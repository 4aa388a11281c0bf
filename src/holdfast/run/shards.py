"""Global arrays from the shards of all ranks: for another number of ranks, and for reading a run from outside."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import state
from ..catalog import Commit
from ..engine import open_part, read_groups
from ..errors import DamageError, UsageError
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
    """The global array of a sharded object, None if no rank has a shard of that name. UsageError if they don't cover it."""
    whole: npt.NDArray[np.generic] | None = None
    found = []
    for shape, offset, values in stored_shards(store, commit, threads, name):
        found.append([name, shape, offset, values.shape, str(values.dtype)])
        if whole is None:
            whole = np.zeros(shape, values.dtype)
        overlap = _overlap((0,) * len(shape), shape, offset, values.shape)
        if overlap is not None and whole.dtype == values.dtype:
            whole[overlap[0]] = values[overlap[1]]
    check_cover(found)
    return whole


def check_cover(shards: list[Any], whole: bool = True) -> None:
    """UsageError unless the shards of each name, [name, global shape, offset, shape, dtype] of all ranks, make up one
    global array: of one shape and dtype, without overlaps and, if they are to be the `whole` of it, without holes."""
    by_name: dict[str, list[Any]] = {}
    for name, *shard in shards:
        by_name.setdefault(name, []).append(shard)
    for name, found in by_name.items():
        if any((shard[0], shard[3]) != (found[0][0], found[0][3]) for shard in found):
            raise UsageError(f"The shards of {name!r} disagree in global shape or dtype: {_some(found)}.", object=name)
        for i, (_, at, shape, _) in enumerate(found[:_PAIRS]):
            for _, other_at, other, _ in found[i + 1 : _PAIRS]:
                if _overlap(at, shape, other_at, other) is not None:
                    text = f"The shards of {name!r} overlap: {shape} at {at} and {other} at {other_at}."
                    raise UsageError(f"{text} Protect what each rank owns, without its halo.", object=name)
        missing = math.prod(found[0][0]) - sum(math.prod(shape) for _, _, shape, _ in found)
        if missing > 0 and whole:
            raise UsageError(
                f"The shards of {name!r} leave {missing} elements of the global shape {found[0][0]} out: {_some(found)}. "
                "Nothing was changed. Give each rank's offset and the true global shape.",
                object=name,
            )


_PAIRS = 1000  # shards that are compared two by two; of more, the sum of their sizes is


def _some(found: list[Any]) -> str:
    shown = [f"{shape} at {at} of {whole} ({dtype})" for whole, at, shape, dtype in found[:4]]
    return ", ".join(shown) + (", …" if len(found) > 4 else "")


Slices = tuple[slice, ...]


def _overlap(
    at: Sequence[int], shape: Sequence[int], other_at: Sequence[int], other: Sequence[int]
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
