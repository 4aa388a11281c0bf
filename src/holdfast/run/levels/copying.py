"""A rank's data file of a version copied from its node's place to another store, each of its blocks verified on the way."""

from __future__ import annotations

from collections.abc import Iterator

from ...catalog import Commit
from ...catalog.places import Place
from ...errors import DamageError
from ...format import BLOCK, Extent, Part, digest
from ...format.blocks import ALIGN
from ...format.keys import data_name
from ...store import Store
from ...store.aligned import empty as aligned_empty


def own_part(place: Place, version: str, rank: int) -> Part:
    """The rank's index as it lies at the place. KeyMissingError: it holds nothing there; DamageError."""
    held = place.read_held(version, rank)
    return Part.decode(place.read_part(held), rank, place.part_key(version, rank))


def copy_data(place: Place, commit: Commit, part: Part, to: Store) -> Iterator[int]:
    """Copy the data file of `part.rank` to the same key in `to`, step by step; after each the bytes that have been copied.
    What has gone through to the end has copied a whole file, durable (local). DamageError, StorageError."""
    key = f"{commit.path}/{data_name(part.rank)}"
    with place.store.open(key) as reader, to.create(key, part.nbytes) as writer:
        staging = aligned_empty(2 * BLOCK)
        for start, stop, extents in _spans(part):
            block = staging[: stop - start]
            reader.read(start, block)
            for e in extents:
                if digest(block[e.offset - start : e.offset - start + e.nbytes]) != e.digest:
                    raise DamageError(
                        f"{key} in {place.store.location} is damaged at byte {e.offset}; version {commit.version} is "
                        "not copied from there. Other versions are as they were.",
                        file=key, offset=e.offset, rank=part.rank, version=commit.version,
                    )  # fmt: skip
            writer.write(start, block)
            yield stop
        writer.finish()


def _spans(part: Part) -> Iterator[tuple[int, int, list[Extent]]]:
    """The part's own data file in pieces of at most two blocks, each with the extents that are in it: (start, stop, extents).

    Pieces begin where a unit of writing began, at a multiple of 4096, and no extent is in two."""
    own = {e.offset: e for o in part.objects for b in o.buffers for e in b.extents if e.source == 0}
    start, some = 0, list[Extent]()
    for offset in sorted(own):
        if some and offset % ALIGN == 0 and offset + own[offset].nbytes - start > BLOCK:
            yield start, offset, some
            start, some = offset, []
        some.append(own[offset])
    if part.nbytes > start:
        yield start, part.nbytes, some
