"""What a node's places hold, looked up: the report from which, with those of all other nodes, a recovery is planned.

A version counts here by its commit record, and what a rank has of it by the rank's own record, the files' sizes and the part's
digest. Data and parity are not read: they are verified when they are used, and what turns out to be damaged then is
excluded from the next report.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from ..catalog.commits import Commit, read_commit
from ..catalog.places import Held, Place
from ..errors import DamageError, StorageError, UsageError
from ..redundancy.field import MOST
from .holdings import PLACES, Kept, NodeReport, Sets
from .wire import MAX_RANKS, Ints, frozen

log = logging.getLogger("holdfast")


def report(
    node: str, domain: str, places: Sequence[Place], exclude: Collection[tuple[str, str, int]] = ()
) -> tuple[NodeReport, dict[str, bytes], list[str]]:
    """What the node's places hold (local; called in one process of the node): the report, the commit record files by the digest
    of their record (32 hexadecimal digits), and notes for people on what was left out, a line each.

    `node`: its name, which no other node has; `domain`: what fails together with it; `places`: at most one of each kind;
    `exclude`: (kind of place, version's name, rank) of what is known to be bad, left out whatever it looks like.

    A version without a commit record is left out silently: it was never finished. What is damaged, another run's, another
    user's or of an earlier boot is left out with a note; so is what the file system does not give out now. No damage raises.
    UsageError: two places of one kind.
    """
    if len({place.kind for place in places}) != len(places):
        raise UsageError(f"Node {node} has two places of one kind. Nothing was changed; give one of each kind at most.")
    commits: dict[str, bytes] = {}
    notes: list[str] = []
    found: dict[str, dict[str, Kept]] = {}
    for place in sorted(places, key=lambda place: PLACES.index(place.kind)):
        bad = {(version, rank) for kind, version, rank in exclude if kind == place.kind}
        versions = _Look(place, node, notes).all(bad, commits)
        if versions:
            found[place.kind] = versions
    return NodeReport(node, domain, found), commits, notes


class _Look:
    """A look into one place."""

    def __init__(self, place: Place, node: str, notes: list[str]) -> None:
        self._place = place
        self._node = node
        self._notes = notes

    def all(self, bad: Collection[tuple[str, int]], commits: dict[str, bytes]) -> dict[str, Kept]:
        """Version's name -> what is kept of it, where anything is. The commit records found are added to `commits`."""
        found: dict[str, Kept] = {}
        versions: list[str] = []
        with self._noting():
            versions = self._place.versions()
        for version in versions:
            with self._noting():
                record = self._place.read_commit(version)
                if record is not None:
                    commit, digest = self._commit(version, record, commits)
                    kept = self._kept(commit, digest, {rank for name, rank in bad if name == version})
                    if kept is not None:
                        found[version] = kept
        return found

    def _commit(self, version: str, record: bytes, commits: dict[str, bytes]) -> tuple[Commit, str]:
        """(commit, its digest), the record being added to `commits`. DamageError."""
        commit, digest, complaints = read_commit(self._place.store, "checkpoint", version)
        if commit.ranks > MAX_RANKS:
            key = self._place.commit_key(version)
            raise DamageError(
                f"{key} tells of {commit.ranks} ranks; {MAX_RANKS} is the most. It is not used.", file=key
            )
        if complaints:
            again, same = commit.encode()
            record = again if same == digest else record  # whole again, for those who are to put it elsewhere
        self._note(*complaints)
        commits.setdefault(digest, record)
        return commit, digest

    def _kept(self, commit: Commit, digest: str, bad: Collection[int]) -> Kept | None:
        place = self._place
        data, part, parity = list[int](), list[int](), list[int]()
        sets: dict[tuple[int, int], set[tuple[int, ...]]] = {}
        for rank in place.ranks(commit.name):
            with self._noting():
                held = self._held(commit, rank)
                if held.set is not None:  # told also if this rank's parity is lost: it is no less a member
                    members = tuple(member.rank for member in held.set.members)
                    sets.setdefault((held.set.n, held.set.m), set()).add(members)
                if rank in bad:
                    self._note(f"what rank {rank} has of version {commit.name} was found to be damaged and is left out")
                    continue
                for ranks, check in ((data, place.check_data), (part, place.read_part)):
                    with self._noting():
                        check(held)
                        ranks.append(rank)
                if held.set is not None:
                    place.check_parity(held)
                    parity.append(rank)
        if not (data or part or parity):
            return None
        there = _ranks(data)
        kinds = tuple(Sets(m, frozen(np.array(sorted(each), np.int32))) for (_, m), each in sorted(sets.items()))
        return Kept(digest, there, there if part == data else _ranks(part), _ranks(parity), kinds)

    def _held(self, commit: Commit, rank: int) -> Held:
        """The rank's record; DamageError also if it does not go with the commit, or can't be planned with."""
        told = len(self._place.complaints)
        held = self._place.read_held(commit.name, rank)
        self._note(*self._place.complaints[told:])
        key = self._place.held_key(commit.name, rank)
        if held.ranks != commit.ranks:
            raise DamageError(
                f"{key} tells of {held.ranks} ranks, the commit of {commit.ranks}. It is not used.", file=key
            )
        if held.set is not None and held.set.n > MOST:
            raise DamageError(f"{key} tells of a set of {held.set.n}; {MOST} is the most. It is not used.", file=key)
        return held

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """Damage, and what the file system refuses, end the block and leave a note."""
        try:
            yield
        except (DamageError, StorageError) as error:
            self._note(error.message)

    def _note(self, *texts: str) -> None:
        for text in texts:
            self._notes.append(f"{self._place.kind} of {self._node}: {text}")
            log.debug("a look at what is held: %s", self._notes[-1])


def _ranks(ranks: list[int]) -> Ints:
    found: Ints = frozen(np.array(ranks, np.int32))
    return found
