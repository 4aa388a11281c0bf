"""Layered buffers: which bytes of which extent are seen, what may be left out, and how a later version takes them over.

Extents are laid one over the other in their order, so that of two that have a byte the later one gives it. Everything here is
vectorised over runs, and takes n log n steps however they overlap: an index is not to be trusted with more.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import Any, NamedTuple

import numpy as np

from .extents import DataSource, Extent, StoredBuffer
from .index import Part
from .records import Link

Sources = tuple[DataSource, ...]


class Visible(NamedTuple):
    """The bytes of a buffer by where they come from: four int64 arrays of one length, in the order of the buffer, without gaps.

    `start`, `nbytes`: where in the buffer; `extent`: the extent's number; `at`: where in the extent's content.
    """

    start: Any
    nbytes: Any
    extent: Any
    at: Any


def visible(buffer: StoredBuffer) -> Visible:
    """Which extent each byte of the buffer comes from."""
    extents = buffer.extents
    counts = np.array([1 if e.packed is None else len(e.packed) // 16 for e in extents], np.int64)
    if not len(extents):
        empty = np.empty(0, np.int64)
        return Visible(empty, empty, empty, empty)
    runs = np.concatenate([e.runs for e in extents])
    starts, lengths = runs[:, 0], runs[:, 1]
    extent = np.repeat(np.arange(len(extents)), counts)
    # Where in its extent's content each run begins: the bytes before it, less those before the extent's first run.
    before = np.cumsum(lengths) - lengths
    at = before - np.repeat(before[np.cumsum(counts) - counts], counts)
    edges = np.unique(np.concatenate([starts, starts + lengths]))
    top = _topmost(np.searchsorted(edges, starts), np.searchsorted(edges, starts + lengths), len(edges) - 1)
    # Neighbouring stretches of one run are one stretch.
    first = np.flatnonzero(np.concatenate([[True], top[1:] != top[:-1]]))
    run, begin = top[first], edges[first]
    end = edges[np.append(first[1:], len(edges) - 1)]
    return Visible(begin, end - begin, extent[run], at[run] + begin - starts[run])


def _topmost(low: Any, high: Any, n: int) -> Any:
    """For each of `n` cells the greatest i with low[i] <= cell < high[i].

    A sparse table backwards: each range is two overlapping ones whose length is a power of two, and each power hands its
    maxima down to the two halves below.
    """
    power = np.frexp(high - low)[1] - 1
    cells = np.full(n, -1, np.int64)
    for k in range(int(power.max()), -1, -1):
        own = np.flatnonzero(power == k)
        np.maximum.at(cells, low[own], own)
        np.maximum.at(cells, high[own] - (1 << k), own)
        if k:
            half = 1 << (k - 1)
            np.maximum(cells[half:], cells[:-half].copy(), out=cells[half:])
    return cells


def drop_hidden(buffer: StoredBuffer) -> StoredBuffer:
    """The buffer without the extents of which no byte is seen."""
    seen = np.zeros(len(buffer.extents), bool)
    seen[visible(buffer).extent] = True
    if seen.all():
        return buffer
    return StoredBuffer(buffer.nbytes, tuple(compress(buffer.extents, seen.tolist())))


def lay_over(old: StoredBuffer, new: Sequence[Extent]) -> StoredBuffer:
    """`old` with `new` extents over it, in their order, and without what they hide."""
    return drop_hidden(StoredBuffer(old.nbytes, (*old.extents, *new))) if new else old


class SourceTable:
    """The sources of a part that is being made: what its extents name, each once, numbered from 1."""

    def __init__(self) -> None:
        self._numbers: dict[DataSource, int] = {}

    def add(self, source: DataSource) -> int:
        """The number of `source`, a new one if it has none yet."""
        return self._numbers.setdefault(source, len(self._numbers) + 1)

    def tuple(self) -> Sources:
        """All of them, as `Part.sources` wants them."""
        return (*self._numbers,)

    def compact(self, part: Part) -> Part:
        """`part`, whose extents are numbered by this table, with the sources that they use and no others."""
        used = sorted({e.source for o in part.objects for b in o.buffers for e in b.extents} - {0})
        numbers = {0: 0} | {old: new for new, old in enumerate(used, 1)}
        all_sources = self.tuple()
        sources = tuple(all_sources[k - 1] for k in used)
        if len(used) == len(all_sources):
            return part._replace(sources=sources)
        return part._replace(
            sources=sources,
            objects=tuple(
                o._replace(buffers=tuple(_renumbered(b, numbers) for b in o.buffers)) for o in part.objects
            ),
        )


def adopt(table: SourceTable, previous: Part, link: Link, buffer: StoredBuffer) -> StoredBuffer:
    """A buffer of `previous`, the part of the version `link`, as a later version's part with the sources `table` names it.

    Only sources that the buffer uses enter the table.
    """
    used = sorted({e.source for e in buffer.extents})
    return _renumbered(buffer, {k: table.add(_source(previous, link, k)) for k in used})


def _renumbered(buffer: StoredBuffer, numbers: dict[int, int]) -> StoredBuffer:
    extents = buffer.extents
    if all(e.source == numbers[e.source] for e in extents):
        return buffer
    return StoredBuffer(buffer.nbytes, tuple(e._replace(source=numbers[e.source]) for e in extents))


def _source(part: Part, link: Link, number: int) -> DataSource:
    """What source `number` of `part` is called by others, who know the commit's digest."""
    if number == 0:
        return DataSource(link.name, link.digest, part.rank, part.nbytes)
    source = part.sources[number - 1]
    return source if source.digest else DataSource(link.name, link.digest, source.rank, source.nbytes)


def versions_used(part: Part) -> set[Link]:
    """The other versions that the part's extents are in: (name, digest of the commit)."""
    return {Link(s.version, s.digest) for s in part.sources if s.digest}
