"""Deleting versions: the commit record first, the data after."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from ..errors import DamageError
from ..format.keys import COMMIT_NAME, ROOT_NAME, Kind, folder
from ..policy import Keep
from ..store import KeyMissingError, Store
from .attempts import check_fence
from .commits import read_commit
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


def surplus(names: Iterable[str], keep: int) -> list[str]:
    """Of names newest first, those beyond the newest `keep`, oldest first: so that a kill half-way leaves no hole."""
    return list(names)[keep:][::-1]


def find_surplus(store: Store, lineage: list[str], keep: Keep) -> dict[str, int]:
    """The checkpoints of the lineage (names, newest first) beyond `keep.last`, oldest first, with their bytes.

    What is damaged is not among them: it is evidence, not surplus, and goes only when asked for.
    """
    found = {}
    for name in surplus(lineage, keep.last):
        with suppress(KeyMissingError, DamageError):
            found[name] = read_commit(store, "checkpoint", name)[0].nbytes
    return found


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


def remove_unfinished(store: Store, attempt: int, below: int) -> None:
    """Delete fragments that were never completely written: of attempts before `attempt`, or of it with a number
    below `below`.

    One with a root index is left to `holdfast prune`: it may be a version that lost its commit, which is damage.
    """
    snapshot = Snapshot(store)
    for kind, names in snapshot.names.items():
        for n in names:
            if n.attempt > attempt or (n.attempt == attempt and n.number >= below):
                continue
            path = f"{folder(kind)}/{n.name}"
            if not store.exists(f"{path}/{COMMIT_NAME}") and not store.exists(f"{path}/{ROOT_NAME}"):
                store.delete_tree(path)
