"""Places with something in them."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from holdfast.catalog.places import PARITY_BLOCK, Held, HeldSet, Member, Place
from holdfast.catalog.places.held import chunk_of
from holdfast.catalog.process import current
from holdfast.format import digest, digest_hex

RUN = "0123456789abcdef" * 2
OTHER_RUN = "fedcba9876543210" * 2
FIRST, SECOND, THIRD = "00000001-a000001", "00000002-a000001", "00000003-a000002"


def noise(nbytes: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(nbytes)


def digests(parity: bytes) -> bytes:
    """Of each MiB of a parity file."""
    return b"".join(digest(parity[at : at + PARITY_BLOCK]) for at in range(0, len(parity), PARITY_BLOCK))


def held_for(version: str, rank: int, data: bytes, part: bytes, *, run: str = RUN, ranks: int = 4) -> Held:
    """The record of a rank without redundancy."""
    attempt = int(version.partition("-a")[2])
    uid, boot = os.geteuid(), current().boot
    return Held(run, version, attempt, rank, ranks, boot, uid, "node-1", len(data), len(part), digest_hex(part))


def with_set(held: Held, m: int, others: Sequence[tuple[int, int]], seed: int = 1) -> tuple[Held, bytes]:
    """The record as a member of a set with the ranks after it, whose data and parts have these sizes; and some parity."""
    own = Member(held.rank, held.data_bytes, held.part_bytes, held.part_digest)
    more = [
        Member((held.rank + i) % held.ranks, data, part, digest_hex(b"%d" % i))
        for i, (data, part) in enumerate(others, 1)
    ]
    members = (own, *more)
    chunk = chunk_of(members, len(members), m)
    parity = noise(m * chunk, seed)
    return held._replace(set=HeldSet(len(members), m, chunk, members, digests(parity))), parity


def write(place: Place, key: str, data: bytes) -> None:
    """A file as an engine writes it: its size reserved, then filled, then finished."""
    with place.store.create(key, len(data)) as writer:
        writer.write(0, data)
        writer.finish()


def put(place: Place, version: str, rank: int, nbytes: int = 20_000, *, m: int = 1, ranks: int = 4) -> Held:
    """All that a rank holds of a version, with parity if `m` is not 0."""
    data, part = noise(nbytes, rank + 1), noise(nbytes // 10 + 1, rank + 2)
    held, parity = held_for(version, rank, data, part, run=place.run, ranks=ranks), b""
    if m:
        held, parity = with_set(held, m, [(nbytes // 2, 100)] * (ranks - 1))
        write(place, place.parity_key(version, rank), parity)
    write(place, place.data_key(version, rank), data)
    place.put_held(held, part)
    return held


def commit(place: Place, version: str) -> None:
    """Something in the place of its commit record."""
    place.store.put(f"versions/{version}/commit", b"committed\n")
