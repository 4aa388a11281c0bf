"""The version that an execution goes on from: provisional while objects are protected, then settled by agreement.

Until `settle`, each rank fills objects from the newest candidate it finds whole. `settle` then finds the newest candidate that
is whole on *all* ranks, makes every protected object hold exactly its state, and reports what was passed over.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from ..catalog import Commit, check_refs, read_commit
from ..engine import PartReader, open_part
from ..errors import DamageError, MismatchError, NoWholeVersionError, StorageError
from ..format import Link, StoredFile, StoredObject
from ..format.keys import data_name
from ..group import Group, together
from ..store import KeyMissingError, Store
from . import objects, shards
from .objects import Entry, Objects
from .untouched import Untouched

if TYPE_CHECKING:
    from .levels.recover import Recovery

log = logging.getLogger("holdfast")

Candidate = tuple[str, str]  # a version's name, and its commit's digest ("": whatever it is)


class Restored(NamedTuple):
    """What an execution goes on from. `version`: its number, `step`: steps completed then, `source`: where its bytes
    were read, `skipped`: (version's name, what was wrong with it) of each newer one that was passed over; `sources`: where
    nodes hold it, for each rank from where it came, and in `read` the bytes of data files that all ranks opened, by where these
    are: "memory", "local", "global"."""

    version: int
    step: int | None
    source: str
    skipped: tuple[tuple[str, str], ...] = ()
    sources: tuple[str, ...] = ()
    read: tuple[tuple[str, int], ...] = ()


@dataclass
class _Findings:
    """What one rank found in a candidate."""

    damage: str | None = None
    mismatches: list[str] = field(default_factory=list)


class Resume:
    """One rank's view of the candidates, newest first. `strict`: False if objects may differ from the stored ones."""

    def __init__(
        self,
        store: Store,
        group: Group,
        candidates: Sequence[Candidate],
        threads: int,
        strict: bool,
        recovery: Recovery | None = None,
    ) -> None:
        self._store, self._group, self._candidates = store, group, list(candidates)
        self._threads, self._strict = threads, strict
        self._index = 0
        self._skipped: dict[int, str] = {}
        self._reader: PartReader | None = None
        self._commit: Commit | None = None
        self._untouched = Untouched()
        self._recovery = recovery
        self._arranged: set[int] = set()
        self._arrange()

    @property
    def commit(self) -> Commit | None:
        """The commit of the newest candidate that this rank has not found damaged; None if there is none."""
        self._open()
        return self._commit

    @property
    def at_a_loss(self) -> bool:
        """Whether there are candidates and this rank has found none of them whole: `settle` will raise (local)."""
        return self._open() is None and bool(self._candidates)

    @property
    def may_return(self) -> bool:
        """Whether `settle` may yet find a newer candidate whole than this rank does: what is damaged here, the ranks together
        may rebuild (local)."""
        self._open()
        return self._recovery is not None and self._index > 0

    @property
    def link(self) -> Link:
        name, digest = self._candidates[self._index]
        return Link(name, digest)

    @property
    def behind(self) -> list[Link]:
        """The candidates behind the current one whose digests are known or can be read."""
        found = []
        for name, digest in self._candidates[self._index + 1 :]:
            try:
                found.append(Link(name, digest or read_commit(self._store, "checkpoint", name)[1]))
            except (DamageError, KeyMissingError):
                continue
        return found

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        return tuple((self._candidates[i][0], why) for i, why in sorted(self._skipped.items()) if i < self._index)

    # -- before it is settled ------------------------------------------------------------------

    def provide(self, entry: Entry) -> None:
        """Fill an object from the current candidate if it is there and fits; a mismatch is for `settle` to report."""
        while (reader := self._open()) is not None:
            try:
                if self.recut:
                    self._recut(reader, entry)
                    return
                stored = reader.objects.get(entry.name)
                if stored is not None and entry.mismatch(reader, stored) is None:
                    entry.fill(reader, stored)
                    self._untouched.filled(entry.item(), self.link.name)
                return
            except MismatchError:
                return
            except DamageError as error:
                self._damaged(error)

    @property
    def recut(self) -> bool:
        """Whether the version was written by another number of ranks (accepted when the run was opened)."""
        return self._commit is not None and self._commit.ranks != self._group.size

    def _recut(self, reader: PartReader, entry: Entry) -> str | None:
        """Fill an object from a version of another number of ranks: a sharded array from the shards of all ranks, a replicated
        one from any rank's part; why not, if that can't be."""
        assert self._commit is not None
        stored = reader.objects.get(entry.name)
        if stored is not None and stored.replicated:
            why = entry.mismatch(reader, stored)
            if why is None and not entry.equals(reader, stored, self._untouched, self.link.name):
                try:
                    entry.fill(reader, stored)
                except MismatchError as error:  # found only inside
                    return error.message
            return why
        if entry.shard is None:
            return "stored: not replicated, and without a shard its value belongs to a rank; the number of ranks has changed"
        return shards.fill(self._store, self._commit, self._threads, entry)

    def files(self) -> tuple[StoredFile, ...]:
        """The output files that the current candidate knows: this rank's, or those of all ranks if these have been other
        in number. DamageError."""
        reader = self._open()
        if reader is None or not self.recut:
            return reader.part.files if reader else ()
        assert self._commit is not None
        found: list[StoredFile] = []
        for rank in range(self._commit.ranks):
            with open_part(self._store, self._commit, rank, self._threads) as part:
                found += part.part.files
        return tuple(found)

    def known_files(self) -> tuple[StoredFile, ...]:
        """`files` of the newest candidate that can tell."""
        while True:
            try:
                return self.files()
            except DamageError as error:
                self._damaged(error)

    @property
    def reader(self) -> PartReader | None:
        """This rank's reader of the current candidate."""
        return self._open()

    def _open(self) -> PartReader | None:
        """The reader of the current candidate; passes over those whose commit or index is not whole."""
        while self._reader is None and self._index < len(self._candidates):
            name, digest = self._candidates[self._index]
            try:
                commit, found, _ = read_commit(self._store, "checkpoint", name)
                if digest and found != digest:
                    raise DamageError(f"versions/{name}/commit is not the record that was sealed", file=name)
                self._candidates[self._index] = (name, found)
                check_refs(self._store, commit.refs)
                # With another number of ranks, only shards and what is replicated have a meaning: any part will do to look at.
                rank = min(self._group.rank, commit.ranks - 1)
                self._reader = open_part(self._store, commit, rank, self._threads)
                self._commit = commit
            except (DamageError, StorageError) as error:  # missing, wrong, or not given back by the disk
                self._damaged(error)
        return self._reader

    def _damaged(self, error: DamageError | StorageError) -> None:
        if self._recovery is not None and isinstance(error, DamageError):
            self._recovery.view.blame(error)
        self._advance(error.message)

    def _arrange(self, worse: bool = False) -> bool:
        """Have the newest candidate that can be had brought to this node, as far as nodes hold it; again when there is less to
        do it with (`worse`), or an older one is needed. Whether that was so (collective)."""
        if self._recovery is None or not self._candidates:
            return False
        first, anew = self._index, not self._arranged
        if self._arranged and worse:
            first = 0
            self._arranged.clear()
        if first in self._arranged or first >= len(self._candidates):
            return False
        found = self._recovery.arrange(self._candidates[first:])
        self.close()
        if found.unsafe and anew:  # later, objects may have been filled from it already: the program's own values are gone
            if self._group.rank == 0:
                text = "%s, the run's first, had neither parity nor a copy yet when a part of it was lost: the run begins anew"
                log.warning(text, self._candidates[0][0])
            self._candidates = []
            return True
        self._index = first + found.start
        self._skipped = {i: why for i, why in self._skipped.items() if i < self._index}
        for i, why in found.passed.items():
            self._skipped.setdefault(first + i, why)
        self._arranged.add(self._index)
        return True

    def _advance(self, why: str | None) -> None:
        if why is not None:
            self._skipped.setdefault(self._index, why)
        self._index += 1
        self.close()

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._reader = self._commit = None

    # -- settling -------------------------------------------------------------------------------

    @property
    def standing(self) -> list[Any]:
        """Where this rank stands, for `settle` (local)."""
        self._open()
        worse = self._recovery is not None and self._recovery.worse
        return [self._index, [[i, why] for i, why in self._skipped.items()], worse]

    def settle(
        self, protected: Objects, dropped: Container[str], held: list[Any], standing: list[Any]
    ) -> PartReader | None:
        """Find the newest candidate whole on all ranks and restore from it (collective). `held`: the shards that all ranks have
        protected, as `shards.check_cover` wants them; `standing`: where all ranks stand, in their order.

        Returns this rank's reader of it, None to start from the beginning. Raises on all ranks alike: MismatchError,
        NoWholeVersionError.
        """
        try:
            # A process alone may hold a part of something larger; ranks together hold all of it.
            shards.check_cover(held, whole=self._group.size > 1)
            return self._settle(protected, dropped, standing)
        finally:
            self._untouched.close()

    def _settle(self, protected: Objects, dropped: Container[str], standing: list[Any] | None) -> PartReader | None:
        while True:
            worse = self._together_at_one(standing or self._exchange("telling which version is whole", self.standing))
            standing = None
            if self._arranged and self._arrange(worse):
                self._together_at_one(self._exchange("telling what was rebuilt", self.standing))
            reader = self._open()
            findings = _Findings()
            failed: Exception | None = None
            if reader is not None:
                try:
                    findings = self._restore(reader, protected, dropped)
                except DamageError as error:
                    findings = _Findings(damage=error.message)
                    if self._recovery is not None:
                        self._recovery.view.blame(error)
                except Exception as error:  # of the program's objects: all ranks are to hear of it
                    failed = error
            elif self._candidates:
                findings = _Findings(damage=self._skipped.get(self._index - 1, "no version is whole"))
            mine = [self._index, findings.damage, findings.mismatches]
            exchanged = self._exchange("settling which version to resume from", mine, failed)
            if len({index for index, _, _ in exchanged}) > 1:
                continue  # opening it, a rank found its own part damaged and moved on: all follow
            everyone = [_Findings(damage, mismatches) for _, damage, mismatches in exchanged]
            damage = next((f"rank {r}: {f.damage}" for r, f in enumerate(everyone) if f.damage), None)
            if damage is None:
                mismatches = [f"rank {r}: {m}" for r, f in enumerate(everyone) for m in f.mismatches]
                if mismatches and self._strict:
                    raise self._mismatch(mismatches)
                if reader is not None:
                    reader.close()  # its memory and files; should anything be carried, they come again
                return reader
            if self._index >= len(self._candidates):
                raise self._none_whole()
            self._advance(damage)

    def _together_at_one(self, found: list[Any]) -> bool:
        """All ranks, which stand as they have `found`, move to the oldest candidate that any of them has reached, and share
        why. Whether any of them has found damage at a place that the others don't know of."""
        for _, reasons, _ in found:
            for i, why in reasons:
                self._skipped.setdefault(i, why)
        target = max(index for index, _, _ in found)
        while self._index < target:
            self._advance(None)
        return any(worse for _, _, worse in found)

    def _exchange(self, what: str, mine: list[Any], error: Exception | None = None) -> list[Any]:
        return together(self._group, what, data=mine, error=error)

    def _restore(self, reader: PartReader, protected: Objects, dropped: Container[str]) -> _Findings:
        findings = _Findings()
        if self.recut:
            self.files()  # whole, or this candidate is passed over
            for entry in protected:
                if (why := self._recut(reader, entry)) is not None:
                    findings.mismatches.append(f"{entry.name!r}: {why}")
            return findings
        for entry in protected:
            if entry.name in dropped:
                continue
            stored = reader.objects.get(entry.name)
            why = "stored: nothing of this name; the program has it" if stored is None else entry.mismatch(reader, stored)
            if why is not None:
                findings.mismatches.append(f"{entry.name!r}: {why}")
            elif stored is not None and not entry.equals(reader, stored, self._untouched, self.link.name):
                try:
                    entry.fill(reader, stored)
                except MismatchError as error:  # found only inside: reported with the others, by all ranks
                    findings.mismatches.append(error.message)
        for stored in reader.part.objects:
            if stored.name not in protected and stored.name not in dropped:
                objects.verify(reader, stored)
                if objects.is_foreign_pickle(reader, reader.tree(stored)):
                    findings.mismatches.append(f"{stored.name!r}: {objects.FOREIGN}")
                    continue
                if not stored.late:
                    what = _describe(reader, stored)
                    findings.mismatches.append(f"{stored.name!r}: stored: {what}; the program has not protected it")
        return findings

    def _mismatch(self, mismatches: list[str]) -> MismatchError:
        shown = mismatches[:20] + ([f"… and {len(mismatches) - 20} more"] if len(mismatches) > 20 else [])
        lines = "\n  ".join(shown)
        return MismatchError(
            f"The program's objects are not those of version {self.link.name}:\n  {lines}\n"
            "Nothing was changed. Start the program that belongs to this run, or give objects up with run.drop(name), or "
            "accept with holdfast.open(..., objects_changed='accept'): the program's own value then stands where the "
            "stored one is missing or does not fit, and stored objects that it has not protected are carried along."
        )

    def _none_whole(self) -> NoWholeVersionError:
        lines = "\n  ".join(f"{name}: {why}" for name, why in self.skipped)
        return NoWholeVersionError(
            f"None of the run's versions is whole:\n  {lines}\n"
            "Nothing was started, nothing was changed. Restore the run's files from elsewhere, look for "
            "abandoned versions with "
            "`holdfast ls` and go back to one with `holdfast rollback`, or start anew in another directory."
        )


def _describe(reader: PartReader, stored: StoredObject) -> str:
    from .. import state

    about = state.describe(reader.tree(stored))
    return ", ".join(f"{k} {v}" for k, v in about.items())


def reader_of(store: Store, commit: Commit, part: Any, rank: int, threads: int) -> PartReader:
    """A reader of a version that this process has just written and whose index it still has."""
    return PartReader(store, f"{commit.path}/{data_name(rank)}", part, threads)
