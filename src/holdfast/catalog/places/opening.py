"""A run's place on this node: made where it lacks, found, and refused if it is not ours."""

from __future__ import annotations

import os
from contextlib import suppress

from ...errors import StorageError, UsageError
from ...store import KeyExistsError, KeyMissingError, PosixStore
from ...store.owned import own_directory
from .identity import KINDS, PLACE_KEY, Identity, put_identity, read_identity
from .members import is_hex
from .place import Place


class StalePlaceError(StorageError):
    """What stands in the place's directory was left by an earlier boot, or is another run's or another kind's: it was not
    touched. Clean it (`clean`) or have it removed, then open the place again."""


def open_place(kind: str, root: str, run_id: str, *, create: bool, where: str | None = None) -> Place:
    """The place of a run below `root` on this node: `<root>/holdfast-<uid>/<run id>/` (local; each rank opens it for itself).

    `kind`: memory (`root` is usually /dev/shm; what is there ends with the boot) or local; `run_id`: 32 hexadecimal digits;
    `create` makes it where it lacks; `where`: the run's own directory, by which `stale_places` later sees whether the run
    still is. Raises StorageError if a directory on the way is another user's, a link, or writable by others;
    StalePlaceError if what is there is not this run's or ended with an earlier boot; KeyMissingError if nothing is there
    and `create` is false; DamageError if its record is not whole.
    """
    if kind not in KINDS or not is_hex(run_id):
        raise UsageError(f"There is no place of kind {kind!r:.80} for a run {run_id!r:.80}; nothing was changed.")
    root = os.path.abspath(root)
    store = PosixStore(own_directory(root, f"{user_folder()}/{run_id}", create), create=False, write_once=True)
    identity = _identify(store, kind, run_id, where, create)
    if identity.run != run_id or identity.uid != os.geteuid() or identity.kind != kind:
        why = f"is the place of run {identity.run}, of user {identity.uid}, in {identity.kind}"
    elif identity.over:
        why = "was made under an earlier boot, and memory does not outlive its boot"
    else:
        return Place(kind, root, run_id, store, identity, [])
    raise _stale(store, why)


def user_folder() -> str:
    """The name of this user's directory below a root."""
    return f"holdfast-{os.geteuid()}"


def _identify(store: PosixStore, kind: str, run_id: str, where: str | None, create: bool) -> Identity:
    """The place's record, put if there is none and nothing else either."""
    had = bool(store.list("versions"))  # before the record is looked for: whoever writes a version has put that
    try:
        return read_identity(store)
    except KeyMissingError:
        if not create:
            raise
    if had:
        raise _stale(store, f"has versions, but no {PLACE_KEY} that says whose they are")
    with suppress(KeyExistsError):  # another rank of this node was first
        put_identity(store, Identity.new(kind, run_id, where))
    return read_identity(store)


def _stale(store: PosixStore, why: str) -> StalePlaceError:
    return StalePlaceError(
        f"{store.location} {why}. It was neither used nor changed: clean it or remove it, then start again.",
        file=store.location,
    )
