"""Which pages to protect, in which pieces, and which units must be copied before each piece may be written again.

Protection goes by *granules*: what is to be frozen within one aligned 2 MiB of one mapping, as one range. A huge page
that is protected whole stays a huge page, and one fault frees 2 MiB. What lies between small arrays in a granule is
protected with them; a write there costs one fault. A granule is freed when all units that have a byte in it are
copied, since arrays share pages, and may overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...capture import kernel
from .failures import CaptureError

PAGE = kernel.PAGE
HUGE = 2 << 20
_SHIFT = 21
_LOW = np.int64((1 << 32) - 1)

Longs = npt.NDArray[np.int64]


class Granules(NamedTuple):
    """`start`, `stop`: the granules' addresses, in order, apart from each other. `units[g]`: the units (by their
    place in the sequence planned) with bytes in granule g; `of[u]`: the granules of unit u, in order. `register`:
    ranges to register."""

    start: list[int]
    stop: list[int]
    units: list[list[int]]
    of: list[list[int]]
    register: list[tuple[int, int]]


def private_mappings(maps: str) -> list[tuple[int, int]]:
    """From the text of /proc/PID/maps, (start, stop) of each mapping of private memory that no file stands behind:
    writes to others need not come through the program's page table."""
    found = []
    for line in maps.splitlines():
        where, rights, _, _, inode = line.split(None, 5)[:5]
        if rights[3] == "p" and inode == "0":
            start, _, stop = where.partition("-")
            found.append((int(start, 16), int(stop, 16)))
    return [m for m in found if m[1] < 1 << 62]  # the kernel shows a page of its own as the last one


def plan(mappings: Sequence[tuple[int, int]], units: Sequence[Longs]) -> Granules:
    """Granules for units, each given by its pieces as int64 of shape (n, 2): address, bytes. CaptureError if a byte
    of them is not in one of the mappings, which are in order."""
    start, stop, unit, mapping, bounds = _within_mappings(mappings, units)
    low, high = start & -PAGE, -(-stop & -PAGE)
    large = _in_large_runs(low, high)
    # One row for each granule that each range touches
    first = low >> _SHIFT
    count = ((high - 1) >> _SHIFT) - first + 1
    row = np.repeat(np.arange(len(low)), count)
    region = first[row] + np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    left, right = region << _SHIFT, (region + 1) << _SHIFT
    # A large array's first and last huge page are protected whole, lest they be split
    inner, outer = bounds[mapping[row], 0], bounds[mapping[row], 1]
    left = np.maximum(left, np.where(large[row], inner, low[row]))
    right = np.minimum(right, np.where(large[row], outer, high[row]))
    keys, granule = np.unique(region << np.int64(32) | mapping[row], return_inverse=True)
    lows = np.full(len(keys), np.iinfo(np.int64).max)
    highs = np.zeros(len(keys), np.int64)
    np.minimum.at(lows, granule, left)
    np.maximum.at(highs, granule, right)
    # One that has most of a huge page takes all of it: cheaper to protect, and not split
    wide = highs - lows >= HUGE // 2
    area, owner = keys >> 32, keys & _LOW
    lows = np.where(wide, np.maximum(area << _SHIFT, bounds[owner, 0]), lows)
    highs = np.where(wide, np.minimum((area + 1) << _SHIFT, bounds[owner, 1]), highs)
    pairs = np.unique(unit[row].astype(np.int64) << np.int64(32) | granule)
    of: list[list[int]] = [[] for _ in units]
    inside: list[list[int]] = [[] for _ in keys]
    for u, g in zip((pairs >> 32).tolist(), (pairs & _LOW).tolist(), strict=True):
        of[u].append(g)
        inside[g].append(u)
    return Granules(lows.tolist(), highs.tolist(), inside, of, _to_register(owner, lows, highs, bounds))


def runs(starts: Sequence[int], stops: Sequence[int], chosen: Sequence[int]) -> list[tuple[int, int]]:
    """The chosen granules (in order) as (start, bytes), those that touch each other joined."""
    joined: list[tuple[int, int]] = []
    for g in chosen:
        if joined and sum(joined[-1]) == starts[g]:
            joined[-1] = (joined[-1][0], stops[g] - joined[-1][0])
        else:
            joined.append((starts[g], stops[g] - starts[g]))
    return joined


def _within_mappings(
    mappings: Sequence[tuple[int, int]], units: Sequence[Longs]
) -> tuple[Longs, Longs, Longs, Longs, Longs]:
    """All pieces as (start, stop, unit, mapping), cut where a mapping ends; the mappings as an array."""
    bounds = np.array(mappings, np.int64).reshape(-1, 2)
    ranges = np.concatenate([*units, np.empty((0, 2), np.int64)])
    unit = np.repeat(np.arange(len(units)), [len(u) for u in units])
    some = ranges[:, 1] > 0
    start, stop, unit = ranges[some, 0], ranges[some].sum(axis=1), unit[some]
    parts = []
    while len(start):
        mapping = np.searchsorted(bounds[:, 0], start, "right") - 1
        if (mapping < 0).any() or (start >= bounds[mapping, 1]).any():
            raise CaptureError(
                "some of it is not private memory of the program's own: a file or other processes share it"
            )
        cut = np.minimum(stop, bounds[mapping, 1])
        parts.append((start, cut, unit, mapping))
        more = cut < stop
        start, stop, unit = cut[more], stop[more], unit[more]
    empty = np.empty(0, np.int64)
    joined = [np.concatenate([empty, *(p[i] for p in parts)]).astype(np.int64) for i in range(4)]
    return joined[0], joined[1], joined[2], joined[3], bounds


def _in_large_runs(low: Longs, high: Longs) -> npt.NDArray[np.bool_]:
    """Whether each range is in a run of ranges, touching each other, as long as a huge page."""
    if not len(low):
        return np.zeros(0, np.bool_)
    order = np.argsort(low, kind="stable")
    reached = np.maximum.accumulate(high[order])
    new = np.concatenate(([True], low[order][1:] > reached[:-1]))
    firsts = np.flatnonzero(new)
    lasts = np.append(firsts[1:], len(low)) - 1
    length = reached[lasts] - low[order][firsts]
    large = np.empty(len(low), np.bool_)
    large[order] = (length >= HUGE)[np.cumsum(new) - 1]
    return large


def _to_register(mapping: Longs, lows: Longs, highs: Longs, bounds: Longs) -> list[tuple[int, int]]:
    """(start, bytes) in each mapping, from its first granule to its last, those that touch each other joined: few ranges,
    since each splits a mapping; ends at huge pages' ends, since splitting a mapping elsewhere splits a huge page."""
    if not len(mapping):
        return []
    new = np.flatnonzero(mapping[1:] != mapping[:-1]) + 1  # granules are in the order of addresses, so of mappings
    firsts, lasts = np.concatenate(([0], new)), np.append(new, len(mapping)) - 1
    starts = np.maximum(lows[firsts] & -HUGE, bounds[mapping[firsts], 0])
    stops = np.minimum(-(-highs[lasts] & -HUGE), bounds[mapping[lasts], 1])
    return runs(starts.tolist(), stops.tolist(), range(len(starts)))
