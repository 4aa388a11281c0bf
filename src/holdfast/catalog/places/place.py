"""What each rank holds at a place: put, proved by records, read, and removed. Nothing that stands is written again."""

from __future__ import annotations

import os
import re
from collections.abc import Container
from contextlib import suppress
from typing import NamedTuple

from ...errors import DamageError, FencedError, UsageError
from ...format import RECORD_LIMIT, decode_record, digest_hex, encode_record, parse_version
from ...format.keys import COMMIT_NAME, data_name
from ...store import KeyExistsError, KeyMissingError, PosixStore
from ...store.owned import free_bytes
from ..process import current
from .held import Held
from .identity import Identity
from .versions import RECORDS, remove_version, version_path

_RANK = re.compile(r"r([0-9]{6,12})")


class Place(NamedTuple):
    """A node's own store for one run, shared by the node's ranks. `kind`: memory or local; `root`: the directory that the
    user named; `run`: the run's id; `store`: where the bytes go; `identity`: the place's own record; `complaints`: damage
    that was found and did no harm.

    Keys are those of the run's own store (docs/format.md), and for each rank `part/`, `held/` (the record that proves data and
    part), `parity/` and `protected/` (the record that proves the parity too) below the version. Data and parity files are
    made with `store.create(key, nbytes)`, which reserves their room before a byte of it is written: a full memory is an error
    there, never a signal later. Nothing here is collective.
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
        return f"{version_path(version)}/{data_name(rank)}"

    @staticmethod
    def part_key(version: str, rank: int) -> str:
        """Of the rank's index part."""
        return f"{version_path(version)}/part/r{rank:06d}"

    @staticmethod
    def parity_key(version: str, rank: int) -> str:
        """Of the rank's share of its redundancy set's parity: its parities 0 to m - 1, one behind the other."""
        return f"{version_path(version)}/parity/r{rank:06d}"

    @staticmethod
    def held_key(version: str, rank: int) -> str:
        """Of the record that proves data file and part. Its `set` is None."""
        return f"{version_path(version)}/held/r{rank:06d}"

    @staticmethod
    def protected_key(version: str, rank: int) -> str:
        """Of the record that proves these and the parity file: as the one in `held/`, with the set."""
        return f"{version_path(version)}/protected/r{rank:06d}"

    @staticmethod
    def commit_key(version: str) -> str:
        """Of the version's commit record, the run's own."""
        return f"{version_path(version)}/{COMMIT_NAME}"

    # -- what there is ----------------------------------------------------------------------

    def free_bytes(self) -> int:
        """Bytes that the place's file system has left (`capture.room.memory_room` tells what of it is there as memory)."""
        return free_bytes(self.store.location)

    def versions(self) -> list[str]:
        """Names of the versions of which something is here, newest first, complete or not."""
        found = [(number, name) for name in self.store.list("versions") if (number := parse_version(name))]
        return [name for _, name in sorted(found, reverse=True)]

    def ranks(self, version: str) -> list[int]:
        """The ranks that have a record of this version here, in `held/` or `protected/`, in order. It has not been read."""
        top = version_path(version)
        names = {name for folder in RECORDS for name in self.store.list(f"{top}/{folder}")}
        matches = (_RANK.fullmatch(name) for name in names)
        return sorted({int(m[1]) for m in matches if m and m[0] == f"r{int(m[1]):06d}"})

    def read_held(self, version: str, rank: int, *, sealed: Container[int] | None = None) -> Held:
        """What the rank holds of the version, as its record says, with the set if its parity is there; the files are not
        looked at.

        A record in `protected/` that is no use is a complaint, and the one in `held/` serves. `sealed`: the attempts that were
        sealed; None if that does not matter here. KeyMissingError: there is neither. DamageError: none is whole and ours: of
        another run, version or rank, another user's, of an earlier boot (in memory), of an attempt that was never sealed.
        """
        key, damage = self.held_key(version, rank), None
        try:
            return self._read(self.protected_key(version, rank), version, rank, sealed)
        except KeyMissingError:
            pass
        except DamageError as error:
            damage = error
        try:
            held = self._read(key, version, rank, sealed)
        except KeyMissingError:
            if damage is not None:
                raise damage from None
            raise
        if damage is not None:
            self._complain(f"{damage.message} {key} was used in its place")
        return held

    def read_commit(self, version: str) -> bytes | None:
        """The version's commit record as it lies here, None if there is none; what it says has not been looked at. DamageError:
        it is too long, no regular file, or can be written by others."""
        key = self.commit_key(version)
        try:
            record = self.store.get(key, RECORD_LIMIT)
            own = self.store.owner_is_me(key)
        except KeyMissingError:
            return None
        if not own:
            raise _not_ours(key, _OTHERS)
        return record

    def read_part(self, held: Held) -> bytes:
        """The rank's part, whose size and digest are those of its record. DamageError if it is not, or is missing."""
        key = self.part_key(held.version, held.rank)
        self._check_size(key, held.part_bytes, held)
        part = self.store.get(key, held.part_bytes)
        if digest_hex(part) != held.part_digest:
            raise DamageError(f"{key} is damaged. {_ELSEWHERE}", file=key, rank=held.rank, offset=0)
        return part

    def check_files(self, held: Held) -> None:
        """DamageError unless the data file, and with a set the parity file, are there with their sizes."""
        self.check_data(held)
        self.check_parity(held)

    def check_data(self, held: Held) -> None:
        """DamageError unless the data file is there with its size."""
        self._check_size(self.data_key(held.version, held.rank), held.data_bytes, held)

    def check_parity(self, held: Held) -> None:
        """DamageError unless the parity file is there with its size. Nothing is looked at without a set."""
        if held.set is not None:
            self._check_size(self.parity_key(held.version, held.rank), held.set.parity_bytes, held)

    # -- put, remove ------------------------------------------------------------------------

    def put_held(self, held: Held, part: bytes) -> None:
        """Put a rank's part and the record that proves its files (by one process for each rank).

        Without a set: the part, then the record in `held/`; the data file must be finished. With one: these two if they are
        not there yet, then the record in `protected/`; the parity file must be finished too. StorageError: no room, say: what
        the record would have proved is not held, until `forget` or `forget_parity` and another try; KeyExistsError: it was put
        before. DamageError: files are missing, or part or record say something else here. UsageError: the record does not
        fit its files or this place; nothing was written.
        """
        version, rank = held.version, held.rank
        key = self.held_key(version, rank)
        if held.set is None:
            record = self._checked(held, part, key)
            self.store.put(self.part_key(version, rank), part)
            self.store.put(key, record)
            return
        bare = held._replace(set=None)
        record = self._checked(held, part, self.protected_key(version, rank))
        try:
            self.store.put(self.part_key(version, rank), part)
        except KeyExistsError:
            self.read_part(held)
        try:
            self.store.put(key, encode_record(bare.to_body())[0])
        except KeyExistsError:
            if self._read(key, version, rank, None) != bare:
                raise _another(key, rank) from None
        self.store.put(self.protected_key(version, rank), record)

    def put_commit(self, version: str, record: bytes) -> None:
        """Put the run's commit record, byte for byte (by one process of the node, once all ranks have their records).

        If it is there already, nothing is written. DamageError: what is there is another record, or none that is whole;
        StorageError.
        """
        key = self.commit_key(version)
        digest = decode_record(record, key)[1]
        try:
            self.store.put(key, record)
            return
        except KeyExistsError:
            found = self.read_commit(version)
        if found != record and (found is None or decode_record(found, key)[1] != digest):
            raise _another(key)

    def forget(self, version: str, rank: int) -> None:
        """Remove what the rank has of the version, whole or not: its records first (by the process that is to put it anew,
        while no other reads it). Missing is fine."""
        self.store.delete(self.protected_key(version, rank))
        self.store.delete(self.held_key(version, rank))
        for key in (self.part_key(version, rank), self.parity_key(version, rank), self.data_key(version, rank)):
            self.store.delete(key)

    def forget_parity(self, version: str, rank: int) -> None:
        """Remove the rank's parity, its record first; data and part stay held if `held/` says so. Otherwise as `forget`."""
        self.store.delete(self.protected_key(version, rank))
        self.store.delete(self.parity_key(version, rank))

    def remove(self, version: str) -> None:
        """Remove the version: commit first, then the records that prove its files, then the files (by the holder of the newest
        attempt, or on its word). Killed in between, it leaves no commit or record without its files. Missing is fine."""
        remove_version(self.store, version)

    # -- whose it is now ----------------------------------------------------------------------

    def put_fence(self, attempt: int) -> None:
        """Say that `attempt` uses the place from now on (by any process of the node; again is fine)."""
        with suppress(KeyExistsError):
            self.store.put(f"fence/{attempt:06d}", b"")

    def check_fence(self, attempt: int) -> None:
        """FencedError if a later attempt than `attempt` uses the place: known also while the run's store can't be asked."""
        newest = max((int(name) for name in self.store.list("fence") if name.isdigit()), default=0)
        if newest > attempt:
            raise FencedError(
                f"Attempt {attempt} is fenced off: attempt {newest} uses {self.store.location}. Nothing that this process "
                "writes from now on counts. End this process."
            )

    # -- helpers ----------------------------------------------------------------------------

    def _read(self, key: str, version: str, rank: int, sealed: Container[int] | None) -> Held:
        """The record `key`. See `read_held`."""
        body, _, complaints = decode_record(self.store.get(key, RECORD_LIMIT), key)
        held = Held.from_body(body, key)
        why = self._strange(held, version, rank)
        if why is None and (held.set is None) != (key == self.held_key(version, rank)):
            why = "has a set that belongs into protected/" if held.set else "has no set"
        if why is None and not self.store.owner_is_me(key):
            why = _OTHERS
        if why is None and sealed is not None and held.attempt not in sealed:
            why = f"is of attempt {held.attempt}, which was never sealed"
        if why is not None:
            raise _not_ours(key, why, rank)
        self._complain(*complaints)
        return held

    def _complain(self, *complaints: str) -> None:
        """Each once: a record is read more often than it is damaged."""
        self.complaints.extend(text for text in complaints if text not in self.complaints)

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
_OTHERS = "belongs to another user, or can be written by others"


def _not_ours(key: str, why: str, rank: int | None = None) -> DamageError:
    return DamageError(f"{key} {why}: it is not ours and not used. Nothing was changed.", file=key, rank=rank)


def _another(key: str, rank: int | None = None) -> DamageError:
    return DamageError(
        f"{key} is there and says something else than is to be put. It was not changed: forget it or remove the version, "
        "then put it again.",
        file=key,
        rank=rank,
    )


def verify_held(place: Place, version: str, rank: int) -> Held:
    """The rank's record, if its files are there with their sizes and its part is whole. The data are not read: their digests
    stand in the part. KeyMissingError: no such record. DamageError: anything else."""
    held = place.read_held(version, rank)
    place.check_files(held)
    place.read_part(held)
    return held
