"""Places that nobody will come back to: found, and removed with a word. Never another user's, never through a link."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ...errors import DamageError, StorageError
from ...format import RECORD_LIMIT, decode_record, parse_version
from ...format.keys import RUN_KEY
from ...store import KeyMissingError, PosixStore
from ...store.owned import check_own, own_directory
from ...units import bytes_text
from .identity import Identity, read_identity
from .members import is_hex
from .opening import user_folder
from .versions import remove_version

UNFINISHED = 3600.0  # seconds after which a place without a record, and without anything else, is nobody's beginning


class StalePlace(NamedTuple):
    """A place of this user that can go. `path`: its directory, `run`: the run's id; `identity`: its record, None if it never
    got one; `nbytes`: of its files; `why`: what ended it, for people."""

    path: str
    run: str
    identity: Identity | None
    nbytes: int
    why: str


def run_is_gone(identity: Identity) -> str | None:
    """Why the run of a place is known to be no more, None if it is not known: a place may hold the only copy of a state.

    The run's directory must be missing from a directory that is there and has something in it (an empty one may be where a
    file system is not mounted just now), or hold another run.
    """
    where = identity.where
    if where is None or not os.path.isabs(where):
        return None
    try:
        body, _, _ = decode_record(PosixStore(where, create=False, read_only=True).get(RUN_KEY, RECORD_LIMIT), RUN_KEY)
    except KeyMissingError:
        return f"its run {where} is gone" if _gone(where) else None
    except (StorageError, DamageError):  # not now, perhaps later
        return None
    run = body.get("run")
    return f"{where} is another run's now" if is_hex(run) and run != identity.run else None


def stale_places(root: str, over: Callable[[Identity], str | None] = run_is_gone) -> list[StalePlace]:
    """The places below `root` on this node that belong to this user and can go (by one process of the node), in order of
    their runs: memory of an earlier boot, what was begun and never finished, and those of which `over` gives a reason.

    A place whose record is damaged is not among them: nobody can tell whose it is. Empty if there are none. StorageError if the
    directory that should be this user's is not.
    """
    root = os.path.abspath(root)
    try:
        top = own_directory(root, user_folder(), create=False)
        names = PosixStore(top, create=False, read_only=True).list("")
    except KeyMissingError:
        return []
    found = (_look(top, name, over) for name in names if is_hex(name))
    return [stale for stale in found if stale is not None]


def clean(places: Iterable[StalePlace]) -> list[str]:
    """Remove these places, version by version, each one's commit first; a line for each that went (local).

    What is not as it was found is left alone: another process may have cleaned it, and the run begun anew there. Killed in
    between, it leaves a place that is still stale. StorageError: the rest is left.
    """
    lines = []
    for place in places:
        if _remove(place):
            lines.append(f"removed {place.path} ({bytes_text(place.nbytes)}): {place.why}")
    return lines


def _look(top: str, run: str, over: Callable[[Identity], str | None]) -> StalePlace | None:
    """The place of `run` if it can go; None also if it is not ours, or vanishes meanwhile."""
    path = f"{top}/{run}"
    try:
        changed = check_own(path).st_mtime
        store = PosixStore(path, create=False, read_only=True)
        nbytes = sum(size for _, size in store.tree(""))
        try:
            identity = read_identity(store)
        except KeyMissingError:
            begun = nbytes == 0 and time.time() - changed > UNFINISHED
            return StalePlace(path, run, None, 0, "it was begun and never finished") if begun else None
        if identity.uid != os.geteuid() or identity.run != run:
            return None
        why = "it was memory of an earlier boot" if identity.over else over(identity)
        return None if why is None else StalePlace(path, run, identity, nbytes, why)
    except (StorageError, DamageError):
        return None


def _remove(place: StalePlace) -> bool:
    try:
        check_own(os.path.dirname(place.path))
        check_own(place.path)
        store = PosixStore(place.path, create=False)
        if _identity(store) != place.identity:
            return False
    except (KeyMissingError, DamageError):
        return False
    for version in store.list("versions"):
        if parse_version(version):
            remove_version(store, version)
    # The record goes last: until then what is left can be told, and nobody takes it for a new place.
    store.delete_tree("versions")
    PosixStore(os.path.dirname(place.path), create=False).delete_tree(place.run)
    return True


def _identity(store: PosixStore) -> Identity | None:
    try:
        return read_identity(store)
    except KeyMissingError:
        return None


def _gone(where: str) -> bool:
    """Whether the directory `where` is missing from one that is there and has something in it."""
    above, name = os.path.split(where.rstrip("/"))
    try:
        PosixStore(where, create=False, read_only=True)
        return False  # it is there, perhaps just being made
    except KeyMissingError:
        pass
    try:
        others = PosixStore(above or "/", create=False, read_only=True).strangers()
    except (StorageError, DamageError):
        return False
    return bool(others) and name not in others
