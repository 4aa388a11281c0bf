"""Which versions there are and which of them count (docs/format.md, section 8).

`Snapshot` looks once at the names and reads commits only when asked: opening a run with hundreds of
versions costs three directory listings and one commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from typing import NamedTuple

from ..errors import DamageError
from ..format import Link, parse_version, version_name
from ..format.keys import COMMIT_NAME, Kind, folder
from ..store import KeyMissingError, Store
from .attempts import Attempt, list_attempts, read_attempt
from .commits import Commit, read_commit


class Name(NamedTuple):
    """A version directory's name, taken apart. Sorts by number."""

    number: int
    attempt: int
    name: str


class Snapshot:
    """The run's names as they were at one moment, newest first, and their commits on demand."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.attempts = list_attempts(store)
        self.names: dict[Kind, list[Name]] = {kind: _names(store, kind) for kind in ("checkpoint", "record")}
        newest = max(self.attempts, default=None)
        for n in (n for names in self.names.values() for n in names):
            if newest is None or n.attempt < newest:
                self.attempts.setdefault(n.attempt, set())  # its records are lost; that it has been there, versions tell
        self._commits: dict[tuple[Kind, str], tuple[Commit, str] | DamageError | KeyMissingError] = {}
        self.complaints: list[str] = []
        self._placed: dict[int, bool] = {}

    def on_nodes(self, name: str) -> bool:
        """Whether nodes had places for the attempt that made this version: then it need not be in the run's own store, and
        that it is not there is no damage."""
        attempt = _age(name)[1]
        if attempt not in self._placed:
            found = read_attempt(self.store, attempt, self.attempts.get(attempt, set()) & {"json"})
            self._placed[attempt] = bool(found.places)
        return self._placed[attempt]

    @property
    def newest_attempt(self) -> int:
        return max(self.attempts, default=0)

    @cached_property
    def sealed(self) -> Attempt | None:
        """The newest sealed attempt. One whose base is missing was sealed nevertheless if it has committed: a base that
        is lost must not make a later version an abandoned one."""
        newest = max((n for n, suffixes in self.attempts.items() if "base" in suffixes), default=0)
        for n in self.names["checkpoint"]:
            if n.attempt > newest and n.attempt in self.attempts:
                newest = n.attempt if self.store.exists(f"versions/{n.name}/{COMMIT_NAME}") else newest
        return read_attempt(self.store, newest, self.attempts[newest]) if newest else None

    def commit(self, kind: Kind, name: str) -> tuple[Commit, str]:
        """(commit, its digest); KeyMissingError for a fragment, DamageError if it is not valid."""
        found = self._commits.get((kind, name))
        if found is None:
            try:
                commit, digest, complaints = read_commit(self.store, kind, name)
                self.complaints += complaints
                found = commit, digest
            except (DamageError, KeyMissingError) as error:
                found = error
            self._commits[kind, name] = found
        if isinstance(found, Exception):
            raise found
        return found

    @cached_property
    def lineage(self) -> list[Link | Name]:
        """The checkpoints that count by their names, newest first: those of the newest sealed attempt as `Name`s,
        the base and what is behind it as `Link`s, whose digests a commit must have to be meant."""
        if self.sealed is None:
            return []
        own: list[Link | Name] = [n for n in self.names["checkpoint"] if n.attempt == self.sealed.number]
        if self.sealed.base is not None:
            behind = [link for link in (self.sealed.base.version, *self.sealed.base.chain) if link is not None]
        else:
            behind = self._behind([n for n in own if isinstance(n, Name)])
        present = {n.name for n in self.names["checkpoint"]}
        return own + [link for link in behind if link.name in present]

    def _behind(self, own: list[Name]) -> list[Link]:
        """What the attempt went on from when its base record can't be read: the way back by parents."""
        links: list[Link] = []
        for name in reversed(own):
            try:
                link = self.commit("checkpoint", name.name)[0].parent
                while link is not None and len(links) < 1000:
                    if parse_version(link.name) and not link.name.endswith(f"-a{name.attempt:06d}"):
                        links.append(link)
                    link = self._meant(link).parent
                return links
            except (DamageError, KeyMissingError):
                if links:
                    return links
        return links

    def _meant(self, link: Link) -> Commit:
        commit, digest = self.commit("checkpoint", link.name)
        if digest != link.digest:
            raise DamageError(f"versions/{link.name}/commit is not the record that was sealed", file=link.name)
        return commit

    def counting(self, entry: Link | Name) -> tuple[Commit, Link]:
        """The commit of an entry of the lineage and its link; DamageError or KeyMissingError if it is not whole."""
        if isinstance(entry, Link):
            return self._meant(entry), entry
        commit, digest = self.commit("checkpoint", entry.name)
        return commit, Link(entry.name, digest)

    @cached_property
    def lost_base(self) -> bool:
        """True if the newest sealed attempt's base can't be read and no version of its own tells it either."""
        return self.sealed is not None and self.sealed.base is None and not self.lineage

    @cached_property
    def records(self) -> list[Name]:
        """The records that count, newest first."""
        if self.sealed is None:
            return []
        base, number = self.sealed.base, self.sealed.number
        listed = set(base.records) if base is not None else self._records_behind(number)
        return [n for n in self.names["record"] if n.attempt == number or n.name in listed]

    def _records_behind(self, number: int) -> set[str]:
        """Records of attempts before `number` whose base can't be read: all but those known to be abandoned."""
        lineage = {entry.name for entry in self.lineage}
        abandoned = {n.name for n in self.names["checkpoint"]} - lineage
        found = set()
        for n in self.names["record"]:
            with suppress(DamageError, KeyMissingError):
                parent = self.commit("record", n.name)[0].parent
                if n.attempt < number and (parent is None or parent.name not in abandoned):
                    found.add(n.name)
        return found

    @cached_property
    def last_told(self) -> str | None:
        """The version that the newest sealed attempt named when it ended, if that attempt made it."""
        end = self.sealed.end if self.sealed else None
        if end is None or self.sealed is None:
            return None
        told = (end.version, self.sealed.number)
        return next((n.name for n in self.names["checkpoint"] if (n.number, n.attempt) == told), None)

    @cached_property
    def lost(self) -> set[str]:
        """Names of what counts and has lost its commit: a base, a child, or the attempt's end proves that it had one.

        Older than all whole ones it is no loss: deletion goes from the oldest, and one was interrupted.
        """
        proven = {entry.name for entry in self.lineage if isinstance(entry, Link)} | {self.last_told}
        oldest: str | None = None
        missing: list[str] = []
        for entry in self.lineage:
            try:
                commit = self.commit("checkpoint", entry.name)[0]
                oldest = entry.name
                proven.add(commit.parent.name if commit.parent else None)
            except KeyMissingError:
                missing.append(entry.name)
            except DamageError:
                continue
        lost = {name for name in missing if name in proven and (oldest is None or _age(name) > _age(oldest))}
        sealed = self.sealed.base.records if self.sealed and self.sealed.base else ()
        present = {n.name for n in self.names["record"]}
        for name in present.intersection(sealed):
            try:
                self.commit("record", name)
            except KeyMissingError:
                lost.add(name)
            except DamageError:
                continue
        return lost

    @cached_property
    def missing(self) -> list[Link | Name]:
        """Checkpoints of which nothing is left although the newest sealed attempt ended with them, or, if it has none of
        its own, went on from them."""
        if self.sealed is None:
            return []
        present = {n.name for n in self.names["checkpoint"]}
        base, end = self.sealed.base, self.sealed.end
        origin = base.version if base is not None else None
        expected: list[Link | Name] = []
        if end is not None and end.version is not None and (origin is None or _age(origin.name)[0] != end.version):
            number = self.sealed.number
            expected.append(Name(end.version, number, version_name(end.version, number)))
        if origin is not None and not any(n.attempt == self.sealed.number for n in self.names["checkpoint"]):
            expected.append(origin)
        return [entry for entry in expected if entry.name not in present]

    def counting_records(self, chain: Sequence[Link]) -> tuple[str, ...]:
        """Names of the records that go on counting when the lineage is `chain`, newest first: not those made later than
        its newest version. A parent that retention has deleted is older than all that is left."""
        newest = _age(chain[0].name) if chain else (0, 0)
        lineage = {link.name for link in chain}
        found = []
        for n in self.records:
            with suppress(DamageError, KeyMissingError):
                parent = self.commit("record", n.name)[0].parent
                if parent is None or parent.name in lineage or _age(parent.name) < newest:
                    found.append(n.name)
        return tuple(found)

    def next_number(self) -> int:
        """A number that no version has had: greater than all names, and not below any readable attempt's first."""
        known = [n.number for names in self.names.values() for n in names]
        number = max([*known, *(_age(entry.name)[0] for entry in self.missing)], default=0) + 1
        for attempt in sorted(self.attempts, reverse=True):
            found = read_attempt(self.store, attempt, self.attempts[attempt] & {"json"})
            if found.damaged is None:
                return max(number, found.first_version)
        return number


def _age(name: str) -> tuple[int, int]:
    return parse_version(name) or (0, 0)


def _names(store: Store, kind: Kind) -> list[Name]:
    found = [Name(*parsed, name) for name in store.list(folder(kind)) if (parsed := parse_version(name))]
    return sorted(found, reverse=True)
