"""Reading every byte of a version, and telling all that is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ..catalog import Commit
from ..errors import DamageError
from ..format import Part
from ..format.keys import data_name
from ..store import Store
from ..store.aligned import empty as aligned_empty
from .index import read_groups, read_part
from .read import REQUEST, PartReader

Progress = Callable[[int], None]  # called with bytes just read


@dataclass(frozen=True)
class Damage:
    """One place where stored bytes are not what was written."""

    file: str | None
    offset: int | None
    object: str | None
    rank: int | None
    version: int | None
    message: str


def verify_version(store: Store, commit: Commit, threads: int, progress: Progress) -> Iterator[Damage]:
    """Every damage of a committed version, block by block (local)."""
    try:
        groups = read_groups(store, commit)
    except DamageError as error:
        yield _damage(error, commit)
        return
    seen: set[tuple[str | None, int | None]] = set()
    for rank in range(commit.ranks):
        try:
            part = read_part(store, commit, rank, groups)
        except DamageError as error:
            if (error.file, error.offset) not in seen:  # a bad header is one damage, not one for each rank
                seen.add((error.file, error.offset))
                yield _damage(error, commit)
            continue
        with PartReader(store, f"{commit.path}/{data_name(rank)}", part, threads) as reader:
            yield from _part(reader, part, commit, progress)


def _part(reader: PartReader, part: Part, commit: Commit, progress: Progress) -> Iterator[Damage]:
    for stored in part.objects:
        for buffer in stored.buffers:
            try:
                reader.read(buffer, None, stored.name)
            except DamageError as error:
                yield _damage(error, commit)
                if error.object is None:  # the file itself: everything else would say the same
                    return
            progress(buffer.nbytes)
    try:
        yield from _gaps(reader, part, commit)
    except DamageError as error:
        yield _damage(error, commit)


def _gaps(reader: PartReader, part: Part, commit: Commit) -> Iterator[Damage]:
    """What lies between buffers must be zero."""
    at = 0
    spans = sorted((b.offset, b.nbytes) for o in part.objects for b in o.buffers)
    for start, nbytes in [*spans, (part.nbytes, 0)]:
        if start > at:
            for first in range(at, start, REQUEST):  # a gap may be as long as the file claims to be
                gap = aligned_empty(min(REQUEST, start - first))
                reader.raw(first, gap)
                if gap.any():
                    where = first + int(np.flatnonzero(gap)[0])
                    yield _damage(reader.damage(where, None, f"is damaged at byte {where}, between objects"), commit)
                    break
        elif start < at:
            yield _damage(reader.damage(start, None, f"has buffers that overlap at byte {start}"), commit)
        at = max(at, start + nbytes)


def _damage(error: DamageError, commit: Commit) -> Damage:
    return Damage(error.file, error.offset, error.object, error.rank, commit.version, error.message)
