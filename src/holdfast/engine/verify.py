"""Reading every byte of versions, and telling all that is wrong with them.

A block that several versions share is read once, and if it is damaged, each of them is: what an extent was found to be is
remembered by file, place and digest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ..catalog import Commit, check_refs
from ..errors import DamageError
from ..format import Extent, Part, StoredObject
from ..format.keys import data_name
from ..store import Store
from ..store.aligned import empty as aligned_empty
from ..store.base import Bytes
from .datafiles import DataFiles
from .index import read_groups, read_part
from .requests import REQUEST, Fetcher

Progress = Callable[[int], None]  # called with bytes just read
_Key = tuple[str, int, int, bytes]  # an extent: data file, offset, bytes, digest
_Place = tuple[str | None, int | None]  # file and offset of damage that is told once for a version


@dataclass(frozen=True)
class Damage:
    """One place where stored bytes are not what was written. `file`: the data file it is in, which may be an older
    version's; `version`: the one that is not whole for it."""

    file: str | None
    offset: int | None
    object: str | None
    rank: int | None
    version: int | None
    message: str


def verify_version(store: Store, commit: Commit, threads: int, progress: Progress) -> Iterator[Damage]:
    """Every damage of a committed version, also in the files of others that it refers to (local)."""
    yield from Verifier(store, threads).version(commit, progress)


def verify_own(store: Store, commit: Commit, part: Part) -> Iterator[Damage]:
    """Every damage of a rank's own data file, between its extents too (local). `store`: where the file is; the version's other
    files, and other versions', are not looked for there."""
    files = DataFiles(store, f"{commit.path}/{data_name(part.rank)}", part, named=False)
    try:
        yield from Verifier(store, 1, own=True).part(files, commit, lambda nbytes: None, set())
    finally:
        files.close()


class Verifier:
    """Verifies one version after the other and reads what they share once. `own`: only what stands in each version's own
    files, and no links."""

    def __init__(self, store: Store, threads: int, own: bool = False) -> None:
        self._store, self._threads, self._own = store, threads, own
        self._known: dict[_Key, DamageError | None] = {}  # what is wrong with an extent

    def version(self, commit: Commit, progress: Progress) -> Iterator[Damage]:
        """Every damage of a committed version, block by block (local)."""
        try:
            groups = read_groups(self._store, commit)
        except DamageError as error:
            yield _damage(error, commit)
            return
        seen: set[_Place] = set()
        for link in () if self._own else commit.refs:
            try:
                check_refs(self._store, [link])
            except DamageError as error:
                seen.add((error.file, error.offset))
                yield _damage(error, commit)
        for rank in range(commit.ranks):
            try:
                part = read_part(self._store, commit, rank, groups)
            except DamageError as error:
                if (error.file, error.offset) not in seen:  # a bad header is one damage, not one for each rank
                    seen.add((error.file, error.offset))
                    yield _damage(error, commit)
                continue
            # A damage is found once and told of each version that uses the block: as the block's, not as one version's.
            files = DataFiles(self._store, f"{commit.path}/{data_name(rank)}", part, named=False)
            try:
                yield from self.part(files, commit, progress, seen)
            finally:
                files.close()

    def part(self, files: DataFiles, commit: Commit, progress: Progress, seen: set[_Place]) -> Iterator[Damage]:
        """Every damage of one rank's part, but for those whose places were `seen` (local)."""
        part = files.part
        missing = set()
        for number in range(1 if self._own else len(files.keys)):
            try:
                files.open(number)
            except DamageError as error:  # everything in that file would say the same
                missing.add(number)
                if (error.file, error.offset) not in seen:
                    seen.add((error.file, error.offset))
                    yield _damage(error, commit)
        found = [(o, e) for o in part.objects for b in o.buffers for e in b.extents]
        found = [(o, e) for o, e in found if e.source not in missing and not (self._own and e.source)]
        self._read(files, found, progress)
        for stored, e in found:
            wrong = self._known[_key(files, e)]
            if wrong is not None:
                yield Damage(wrong.file, e.offset, stored.name, part.rank, commit.version, wrong.message)
        if 0 not in missing:
            try:
                yield from _gaps(files, commit)
            except DamageError as error:
                yield _damage(error, commit)

    def _read(self, files: DataFiles, found: list[tuple[StoredObject, Extent]], progress: Progress) -> None:
        """Read the extents that have not been read yet, and note what is wrong with them."""
        extents = [e for _, e in found]
        new = {_key(files, e): i for i, e in enumerate(extents) if _key(files, e) not in self._known}

        def whole(i: int, block: Bytes) -> None:
            self._known[_key(files, extents[i])] = None
            progress(extents[i].nbytes)

        def damaged(i: int, error: DamageError) -> None:
            self._known[_key(files, extents[i])] = error
            progress(extents[i].nbytes)

        fetcher = Fetcher(files, self._threads)
        fetcher.fetch(extents, new.values(), lambda i: found[i][0].name, whole, damaged)


def _key(files: DataFiles, e: Extent) -> _Key:
    return files.keys[e.source], e.offset, e.nbytes, e.digest


def _gaps(files: DataFiles, commit: Commit) -> Iterator[Damage]:
    """What lies between the extents in the part's own file must be zero."""
    part: Part = files.part
    at = 0
    spans = sorted((e.offset, e.nbytes) for o in part.objects for b in o.buffers for e in b.extents if not e.source)
    for start, nbytes in [*spans, (part.nbytes, 0)]:
        for first in range(at, start, REQUEST):  # a gap may be as long as the file claims to be
            gap = aligned_empty(min(REQUEST, start - first))
            files.read(0, first, gap)
            if gap.any():
                where = first + int(np.flatnonzero(gap)[0])
                yield _damage(files.damage(0, where, None, f"is damaged at byte {where}, between objects"), commit)
                break
        at = max(at, start + nbytes)


def _damage(error: DamageError, commit: Commit) -> Damage:
    return Damage(error.file, error.offset, error.object, error.rank, commit.version, error.message)
