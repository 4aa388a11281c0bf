"""One rank's file that leaves a place, and the one that arrives at another: read with its proof, proved when it is whole."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from ..catalog.places import PARITY_BLOCK, Held, HeldSet, Member, Place
from ..catalog.process import current
from ..errors import DamageError, HoldfastError, UsageError
from ..format import digest
from ..format.blocks import DIGEST_BYTES
from ..group.channel import Channel
from ..store.base import Bytes
from .holdings import PLACES
from .member import LOCAL


class Done(NamedTuple):
    """What was done for a rank of a version. `what`: stream or parity; `how`: moved (from another node), rebuilt, or copied
    (from another place of the node); `place`: the kind of place where it is now; `nbytes`: of it; `seconds`: it took."""

    version: str
    rank: int
    what: str
    how: str
    place: str
    nbytes: int
    seconds: float


class Here(NamedTuple):
    """The process that carries a plan out: its node's places by kind, its channel, the node of each process, its failure
    domain. `done`, `errors`: what has come of it so far."""

    places: Mapping[str, Place]
    channel: Channel
    nodes: Sequence[str]
    domain: str
    timeout: float
    tell: Callable[[str], None]
    done: list[Done]
    errors: list[Exception]

    @property
    def node(self) -> str:
        return self.nodes[self.channel.rank]

    def place(self, number: int) -> Place:
        """By its index in PLACES. UsageError if the process was given none."""
        place = self.places.get(PLACES[number])
        if place is None:
            raise UsageError(
                f"Node {self.node} has no place of kind {PLACES[number]}, which the plan needs. Nothing was changed there."
            )
        return place

    def own(self, held: Held) -> Held:
        """The record as it is on this node, without a set."""
        return held._replace(boot=current().boot, uid=os.geteuid(), domain=self.domain, set=None)

    def finished(self, done: Done) -> None:
        self.done.append(done)
        self.tell(
            f"version {int(done.version.partition('-')[0])}, rank {done.rank}: {done.what} {done.how} into {done.place} of "
            f"{self.node} ({done.nbytes} bytes, {done.seconds:.2f} s)"
        )


class Leaving:
    """A rank's data file and part, or its parity file, to be read. What is in LOCAL is raised. `nbytes`: of the file;
    `part`: of a stream."""

    def __init__(self, place: Place, version: str, rank: int, parity: bool) -> None:
        self.held = held = place.read_held(version, rank)
        self.key = place.parity_key(version, rank) if parity else place.data_key(version, rank)
        self.part, self._parity = b"", b""
        if parity:
            if held.set is None:
                raise DamageError(f"{place.protected_key(version, rank)} is missing", file=self.key, rank=rank)
            place.check_parity(held)
            self.nbytes, self._parity = held.set.parity_bytes, held.set.parity
        else:
            place.check_data(held)
            self.nbytes, self.part = held.data_bytes, place.read_part(held)
        self._reader = place.store.open(self.key)

    def read(self, offset: int, block: Bytes) -> None:
        """Fill it from `offset` on, a multiple of 1 MiB. Parity is verified; data are when they are used."""
        self._reader.read(offset, block)
        if self._parity:
            for at in range(0, block.nbytes, PARITY_BLOCK):
                i = (offset + at) // PARITY_BLOCK * DIGEST_BYTES
                if digest(block[at : at + PARITY_BLOCK]) != self._parity[i : i + DIGEST_BYTES]:
                    raise DamageError(f"{self.key} is damaged", file=self.key, rank=self.held.rank, offset=offset + at)

    def close(self) -> None:
        self._reader.close()


class Arriving:
    """The same on its way into a place of this node: what stands there unproved goes first, `finish` proves it.

    What is in LOCAL is raised when it is made. Later it is kept in `error`, and the rest is dropped: who sends goes on."""

    def __init__(
        self, here: Here, place: int, held: Held, version: str, rank: int, *, parity: bool, keep: bool
    ) -> None:
        """`held`: the other's record; `keep`: the parity that is here with a stream that is no use is good. A parity
        arrives where the stream is already."""
        self._began = time.monotonic()
        self._place = there = here.place(place)
        self.error: Exception | None = None
        self._parity, self._part, self._proving = parity, b"", False
        if (held.run, held.version, held.rank) != (there.run, version, rank):
            raise DamageError(
                f"Rank {rank} of version {version} was to be sent; what came is rank {held.rank} of {held.version}. It was not "
                "taken; try again."
            )
        if parity:
            there.forget_parity(version, rank)
            self._held = there.read_held(version, rank)._replace(set=held.set)
            self._part = there.read_part(self._held)
            self.nbytes = 0 if held.set is None else held.set.parity_bytes
        else:
            self._held = here.own(held)
            self._held = self._held._replace(set=clear(there, self._held) if keep else None)
            if self._held.set is None:
                there.forget(version, rank)
            self.nbytes = held.data_bytes
        key = there.parity_key(version, rank) if parity else there.data_key(version, rank)
        self._writer = there.store.create(key, self.nbytes)

    def write(self, offset: int, block: Bytes) -> None:
        if self.error is None:
            try:
                self._writer.write(offset, block)
            except LOCAL as error:
                self.error = error

    def finish(self, part: bytes) -> Done | None:
        """Make it durable, and put the record. `part`: a stream's. None if there is an `error`."""
        held = self._held
        if self.error is None:
            try:
                self._writer.finish()
                self._proving = True
                self._place.put_held(held, self._part if self._parity else part)
                self._proving = False
            except LOCAL as error:
                self.error = error
        if self.error is not None:
            return None
        what, nbytes = ("parity", self.nbytes) if self._parity else ("stream", self.nbytes + held.part_bytes)
        seconds = time.monotonic() - self._began
        return Done(held.version, held.rank, what, "moved", self._place.kind, nbytes, seconds)

    def abort(self) -> None:
        """Remove it, unless it is proved. Raises nothing."""
        self._writer.abort()
        if self._proving:
            with suppress(HoldfastError):
                forget = self._place.forget_parity if self._parity else self._place.forget
                forget(self._held.version, self._held.rank)


def clear(place: Place, held: Held) -> HeldSet | None:
    """Remove what stands at a place in the way of the stream that `held` names, but for the parity of that very stream: its
    set. (Until the stream is there the parity is not proved: nothing is, that isn't whole.) None: there is no such parity."""
    version, rank = held.version, held.rank
    try:
        old = place.read_held(version, rank)
        place.check_parity(old)
    except LOCAL:
        return None
    if old.set is None or Member(rank, held.data_bytes, held.part_bytes, held.part_digest) not in old.set.members:
        return None
    for key in (place.protected_key, place.held_key, place.part_key, place.data_key):
        place.store.delete(key(version, rank))
    return old.set
