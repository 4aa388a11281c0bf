"""Deleting versions: which are not needed any more; the commit record first, the data after."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import NamedTuple

from ..errors import DamageError
from ..format.keys import COMMIT_NAME, ROOT_NAME, Kind, folder
from ..policy import Keep
from ..store import KeyMissingError, Store
from .attempts import check_fence
from .commits import Commit, check_refs, read_commit, read_linked
from .lineage import Snapshot


def remove(store: Store, kind: Kind, name: str) -> None:
    """Delete a version. Killed in between, it leaves a fragment, never a commit without its data.

    The root index goes second: a directory without commit and root is taken for what it is, unfinished, and cleaned up
    by the next attempt; one that has a root might be a version that has lost its commit.
    """
    path = f"{folder(kind)}/{name}"
    store.delete(f"{path}/{COMMIT_NAME}")
    store.delete(f"{path}/{ROOT_NAME}")
    store.delete_tree(path)


class Kept(NamedTuple):
    """Why a version beyond the newest `keep.last` is kept: the one at the position `needed` of the lineage refers to it, or to
    one behind it; or, if `spare`, it is the one that shares no block with that one, or on the way to it."""

    needed: int
    spare: bool


def plan(refs: Sequence[frozenset[str] | None], names: Sequence[str], last: int) -> dict[int, Kept]:
    """Which versions of a lineage are kept besides the newest `last`, and for which: by position, 0 the newest.

    `names`: of the lineage, newest first; `refs`: the names that each refers to; None if it can't be told: then all that is
    behind it is kept. What is kept is the newest end of the lineage, without holes: down to the oldest version that a kept one
    refers to. With `last` of 2 or more one of them shares no block with the newest, if there is such a one: one bad block
    does not take all.
    """
    position = {name: i for i, name in enumerate(names)}
    kept: dict[int, Kept] = {}

    def reach(cut: int, through: int, why: Kept) -> int:
        for i in range(cut, through + 1):
            kept[i] = why
        return max(cut, through + 1)

    def follow(looked: int, cut: int) -> int:
        """What the versions from `looked` on need, and what these need in turn."""
        while looked < cut:
            needs = refs[looked]
            oldest = len(names) - 1 if needs is None else max((position.get(name, 0) for name in needs), default=0)
            cut = reach(cut, oldest, Kept(looked, False))
            looked += 1
        return cut

    cut = follow(0, min(last, len(names)))
    if last >= 2 and (spare := _spare(refs, names)) is not None:
        follow(cut, reach(cut, spare, Kept(0, True)))
    return kept


def since_full(store: Store, commit: Commit, most: int) -> tuple[int, int]:
    """How many versions behind `commit` the newest one is that refers to no other, 0 if it is that itself; at most `most`,
    also if what is between can't be read; and the bytes that all of these have written (local).

    That is how many versions retention must keep for it: what it refers to refers further back, until a version stands alone.
    A writer that writes a full version when this reaches a bound keeps at most `keep.last` and twice that bound.
    """
    behind, nbytes = 0, commit.nbytes
    while commit.refs and behind < most:
        if commit.parent is None:
            return most, nbytes
        try:
            commit = read_linked(store, commit.parent)
        except (DamageError, KeyMissingError):
            return most, nbytes
        behind, nbytes = behind + 1, nbytes + commit.nbytes
    return behind, nbytes


def has_spare(store: Store, lineage: Sequence[str]) -> bool:
    """Whether a version of the lineage (names, newest first) shares no block with the newest (local). What can't be read is
    none."""
    refs: list[frozenset[str] | None] = []
    for name in lineage:
        try:
            refs.append(_refs(read_commit(store, "checkpoint", name)[0]))
        except (DamageError, KeyMissingError):
            refs.append(None)
    return _spare(refs, lineage) is not None


def _spare(refs: Sequence[frozenset[str] | None], names: Sequence[str]) -> int | None:
    """The position of the newest version that shares no block with the newest of all; None if there is none."""
    if not names or refs[0] is None:
        return None
    shared = {names[0], *refs[0]}
    apart = (i for i in range(1, len(names)) if (needs := refs[i]) is not None and shared.isdisjoint({names[i], *needs}))
    return next(apart, None)


def find_surplus(
    store: Store, lineage: Sequence[str], keep: Keep, known: dict[str, Commit | None] | None = None
) -> dict[str, int]:
    """The checkpoints of the lineage (names, newest first) that need not be kept, oldest first, with their bytes.

    What is damaged is not among them: it is evidence, not surplus, and goes only when asked for. If it is among what is kept,
    nothing behind it is surplus, since nobody can tell what it refers to. `known`: commits read before, by name (None: there is
    none), which are read once.
    """
    commits = {} if known is None else known
    for gone in set(commits) - set(lineage):
        del commits[gone]
    damaged = set()
    for name in lineage:
        if name not in commits:
            try:
                commits[name] = read_commit(store, "checkpoint", name)[0]
            except KeyMissingError:
                commits[name] = None
            except DamageError:
                damaged.add(name)
    refs = [None if name in damaged else _refs(commits[name]) for name in lineage]
    kept = plan(refs, lineage, keep.last)
    first = max(keep.last, *(i + 1 for i in kept)) if kept else keep.last
    found = {}
    for name in lineage[first:][::-1]:
        commit = commits.get(name)
        if commit is not None:
            found[name] = commit.nbytes
    return found


def _refs(commit: Commit | None) -> frozenset[str]:
    return frozenset(link.name for link in commit.refs) if commit is not None else frozenset()


def remove_all(store: Store, attempt: int, names: Iterable[str]) -> None:
    """Delete these checkpoints. FencedError, right before anything is deleted, if there is a later attempt than `attempt`:
    it may have been rolled back to just that version."""
    for name in names:
        check_fence(store, attempt)
        remove(store, "checkpoint", name)


def remove_surplus_records(store: Store, attempt: int, snapshot: Snapshot, keep: Keep) -> None:
    """Delete the counting records beyond the newest `keep.records` of each label. FencedError as above."""
    if keep.records is None:
        return
    seen: dict[str | None, int] = {}
    for name in snapshot.records:
        try:
            label = snapshot.commit("record", name.name)[0].label
        except (DamageError, KeyMissingError):
            continue
        seen[label] = seen.get(label, 0) + 1
        if seen[label] > keep.records:
            check_fence(store, attempt)
            remove(store, "record", name.name)


def remove_unfinished(store: Store, attempt: int, below: int, spare: Container[str] = ()) -> None:
    """Delete fragments that were never completely written: of attempts before `attempt`, or of it with a number
    below `below`; not those by the names `spare`, which are being written.

    One with a root index is left to `holdfast prune`: it may be a version that lost its commit, which is damage.
    """
    snapshot = Snapshot(store)
    for kind, names in snapshot.names.items():
        for n in names:
            if n.name in spare or n.attempt > attempt or (n.attempt == attempt and n.number >= below):
                continue
            path = f"{folder(kind)}/{n.name}"
            if not store.exists(f"{path}/{COMMIT_NAME}") and not store.exists(f"{path}/{ROOT_NAME}"):
                store.delete_tree(path)


__all__ = [
    "Kept", "check_refs", "find_surplus", "plan", "remove", "remove_all", "remove_surplus_records", "remove_unfinished",
    "since_full",
]  # fmt: skip
