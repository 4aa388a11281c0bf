"""A node's own store for one run: made and found safely, what each rank holds there put and read, versions removed."""

from __future__ import annotations

import os
import re
from collections.abc import Container
from contextlib import suppress
from typing import NamedTuple

from ...errors import DamageError, StorageError, UsageError
from ...format import RECORD_LIMIT, decode_record, digest_hex, encode_record, parse_version
from ...format.keys import COMMIT_NAME, data_name
from ...store import KeyExistsError, KeyMissingError, PosixStore
from ...store.owned import free_bytes, own_directory
from ..process import current
from .held import Held
from .identity import KINDS, PLACE_KEY, Identity, put_identity, read_identity
from .members import is_hex

_RANK = re.compile(r"r([0-9]{6,12})")


class StalePlaceError(StorageError):
    """What stands in the place's directory was left by an earlier boot, or is another run's or another kind's: it was not
    touched. Clean it (`clean`) or have it removed, then open the place again."""


class Place(NamedTuple):
    """A node's own store for one run, shared by the node's ranks. `kind`: memory or local; `root`: the directory that the
    user named; `run`: the run's id; `store`: where the bytes go; `identity`: the place's own record; `complaints`: damage
    that was found and did no harm.

    Keys are those of the run's own store (docs/format.md), and for each rank `held/`, `part/` and `parity/` below the
    version. Data and parity files are made with `store.create(key, nbytes)`, which reserves their room before a byte of
    it is written: a full memory is an error there, never a signal later. Nothing here is collective.
    """

    kind: str
    root: str
    run: str
    store: PosixStore
    identity: Identity
    complaints: list[str]

    # -- names ------------------------------------------------------------------------------

    @staticmethod
    def data_key(version: str, rank: int) -> str:
        """Of the rank's data file."""
        return f"{_version(version)}/{data_name(rank)}"

    @staticmethod
    def part_key(version: str, rank: int) -> str:
        """Of the rank's index part."""
        return f"{_version(version)}/part/r{rank:06d}"

    @staticmethod
    def parity_key(version: str, rank: int) -> str:
        """Of the rank's share of its redundancy set's parity: its parities 0 to m - 1, one behind the other."""
        return f"{_version(version)}/parity/r{rank:06d}"

    @staticmethod
    def held_key(version: str, rank: int) -> str:
        """Of the record that proves the three."""
        return f"{_version(version)}/held/r{rank:06d}"

    # -- what there is ----------------------------------------------------------------------

    def free_bytes(self) -> int:
        """Bytes that the place's file system has left (`capture.room.memory_room` tells what of it is there as memory)."""
        return free_bytes(self.store.location)

    def versions(self) -> list[str]:
        """Names of the versions of which something is here, newest first, complete or not."""
        found = [(number, name) for name in self.store.list("versions") if (number := parse_version(name))]
        return [name for _, name in sorted(found, reverse=True)]

    def ranks(self, version: str) -> list[int]:
        """The ranks that have a held record of this version here, in order. The record has not been read."""
        matches = (_RANK.fullmatch(name) for name in self.store.list(f"{_version(version)}/held"))
        return sorted({int(m[1]) for m in matches if m and m[0] == f"r{int(m[1]):06d}"})

    def read_held(self, version: str, rank: int, *, sealed: Container[int] | None = None) -> Held:
        """What the rank holds of the version, as its record says; the files are not looked at.

        `sealed`: the attempts that were sealed; None if that does not matter here. KeyMissingError: no such record.
        DamageError: it is not whole, or not ours: of another run, version or rank, another user's, of an earlier boot (in
        memory), of an attempt that was never sealed.
        """
        key = self.held_key(version, rank)
        body, _, complaints = decode_record(self.store.get(key, RECORD_LIMIT), key)
        self.complaints.extend(complaints)
        held = Held.from_body(body, key)
        why = self._strange(held, version, rank)
        if why is None and not self.store.owner_is_me(key):
            why = "belongs to another user, or can be written by others"
        if why is None and sealed is not None and held.attempt not in sealed:
            why = f"is of attempt {held.attempt}, which was never sealed"
        if why is not None:
            raise DamageError(f"{key} {why}: it is not ours and not used. Nothing was changed.", file=key, rank=rank)
        return held

    def read_part(self, held: Held) -> bytes:
        """The rank's part, whose size and digest are those of its record. DamageError if it is not, or is missing."""
        key = self.part_key(held.version, held.rank)
        self._check_size(key, held.part_bytes, held)
        part = self.store.get(key, held.part_bytes)
        if digest_hex(part) != held.part_digest:
            raise DamageError(f"{key} is damaged. {_ELSEWHERE}", file=key, rank=held.rank, offset=0)
        return part

    def check_files(self, held: Held) -> None:
        """DamageError unless the data file and the parity file are there with their sizes."""
        self._check_size(self.data_key(held.version, held.rank), held.data_bytes, held)
        if held.set is not None:
            self._check_size(self.parity_key(held.version, held.rank), held.set.parity_bytes, held)

    # -- put, remove ------------------------------------------------------------------------

    def put_held(self, held: Held, part: bytes) -> None:
        """Put a rank's part, and then the record that proves its files (by one process for each rank).

        Its data file, and its parity file if `held.set` is given, must be finished. StorageError: no room, for example: the
        rank holds nothing of the version then, until `forget` and another try; KeyExistsError: it was put before. UsageError:
        the record does not fit its files or this place; nothing was written.
        """
        key = self.held_key(held.version, held.rank)
        data = self._checked(held, part, key)
        self.store.put(self.part_key(held.version, held.rank), part)
        self.store.put(key, data)

    def forget(self, version: str, rank: int) -> None:
        """Remove what the rank has of the version, whole or not: its record first (by the process that is to put it anew, while
        no other reads it). Missing is fine."""
        self.store.delete(self.held_key(version, rank))
        for key in (self.part_key(version, rank), self.parity_key(version, rank), self.data_key(version, rank)):
            self.store.delete(key)

    def remove(self, version: str) -> None:
        """Remove the version: commit first, then the records that prove its files, then the files (by the holder of the newest
        attempt, or on its word). Killed in between, it leaves no commit or record without its files. Missing is fine."""
        remove_version(self.store, version)

    # -- helpers ----------------------------------------------------------------------------

    def _checked(self, held: Held, part: bytes, key: str) -> bytes:
        """The bytes of the record file; UsageError if it would not be read, or not be true."""
        try:
            held = Held.from_body(held.to_body(), key)
            why = self._strange(held, held.version, held.rank)
        except DamageError as error:
            why = error.message
        if why is None and (len(part), digest_hex(part)) != (held.part_bytes, held.part_digest):
            why = "the part is not the one that the record names"
        data = encode_record(held.to_body())[0] if why is None else b""
        if len(data) > RECORD_LIMIT:
            why = f"the record would have {len(data)} bytes, and may have {RECORD_LIMIT}"
        if why is not None:
            raise UsageError(f"{key} can't be put: {why}. Nothing was written.", file=key, rank=held.rank)
        self.check_files(held)
        return data

    def _strange(self, held: Held, version: str, rank: int) -> str | None:
        """Why a record can't be ours; None if it can."""
        if (held.version, held.rank) != (version, rank):
            return f"tells of rank {held.rank}, version {held.version}"
        if held.run != self.run:
            return "is of another run"
        if held.uid != os.geteuid():
            return f"is of user {held.uid}"
        if self.kind == "memory" and held.boot != current().boot:
            return "is of another boot, whose memory is gone"
        return None

    def _check_size(self, key: str, nbytes: int, held: Held) -> None:
        try:
            found = self.store.size(key)
            own = self.store.owner_is_me(key)
        except KeyMissingError as error:
            raise DamageError(f"{key} is missing. {_ELSEWHERE}", file=key, rank=held.rank, offset=0) from error
        if not own:
            raise DamageError(f"{key} is another user's. {_ELSEWHERE}", file=key, rank=held.rank, offset=0)
        if found != nbytes:
            raise DamageError(
                f"{key} has {found} bytes, not {nbytes}. {_ELSEWHERE}",
                file=key,
                rank=held.rank,
                offset=min(found, nbytes),
            )


_ELSEWHERE = "Nothing was changed; what it held may be had from elsewhere."


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


def remove_version(store: PosixStore, version: str) -> None:
    """See `Place.remove`."""
    top = _version(version)
    store.delete(f"{top}/{COMMIT_NAME}")
    store.delete_tree(f"{top}/held")
    store.delete_tree(top)


def verify_held(place: Place, version: str, rank: int) -> Held:
    """The rank's record, if its files are there with their sizes and its part is whole. The data are not read: their digests
    stand in the part. KeyMissingError: no such record. DamageError: anything else."""
    held = place.read_held(version, rank)
    place.check_files(held)
    place.read_part(held)
    return held


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


def _version(name: str) -> str:
    if parse_version(name) is None:  # it becomes part of a path
        raise UsageError(f"{name!r:.80} is no version's name; nothing was read or changed.")
    return f"versions/{name}"
