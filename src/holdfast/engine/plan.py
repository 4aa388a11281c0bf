"""A rank's state cut into units, and what was written put together as its index.

A buffer of a MiB or more is cut into blocks, each a unit of its own; smaller ones share units and are always written. Where
the version before holds the same buffer (`Base`), a block whose digest it knows need not be written again; where the pages
that may have changed since are known, only those are captured at all.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..format import BLOCK, DataSource, Extent, Part, StoredBuffer, StoredFile, StoredObject, digest
from ..format.blocks import ALIGN, round_up
from ..format.extents import pack_runs
from ..format.layers import SourceTable, lay_over
from ..store.base import Bytes
from .sharing import Share, share_out
from .units import UNIT, Block, Piece, Unit, Written

TREE_INLINE = 4096  # bytes; a larger structure is stored as a buffer
OWN_UNIT = 1 << 20  # bytes from which a buffer's blocks are units of their own, which can be left out
_RUNS = 16384  # runs in one unit of pages, at most


class Base(NamedTuple):
    """What the version before has of a buffer: `stored` with its sources already those of the new part. `dirty`: an int64
    array of shape (runs, 2), (start, bytes) of what may have changed since; None if that is not known."""

    stored: StoredBuffer
    dirty: Any | None = None


class Item(NamedTuple):
    """An object to write: its structure and its buffers (one-dimensional uint8, contiguous).

    `how`: for each buffer, how it is captured (copy, hold, direct, cow); `bases`: for each, what the version before has of
    it. Both may be empty: then all are captured as `hold`, memory that does not change, and written whole. `replicated`: the
    same on all ranks, to be written once.
    """

    name: str
    kind: str
    late: bool
    shard: tuple[tuple[int, ...], tuple[int, ...]] | None
    tree: bytes
    buffers: Sequence[Bytes]
    how: Sequence[str] = ()
    bases: Sequence[Base | None] = ()
    replicated: bool = False


class Plan:
    """What one rank writes for a version. `units` in the order of writing; `most`: the data file's size if each of them is
    written; `expected`: that, if each has to be, else None; `whole`: at most so much if nothing were known of the version
    before."""

    def __init__(
        self, rank: int, items: Sequence[Item], files: Sequence[StoredFile], sources: SourceTable, ranks: int = 1
    ) -> None:
        self.rank, self.files, self._sources = rank, files, sources
        self._objects: list[_Object] = []
        self._buffers: list[_Buffer] = []
        self._memory: list[Bytes] = []  # of the buffers; nothing once they are captured
        for item in items:
            self._add(item, ranks)
        self._ranks, self._owners = ranks, _owners(self._buffers, ranks) if ranks > 1 else {}
        # What can't change is cut when it is written: the program need not wait for that.
        self._later = [
            (i, self._memory[i]) for i, b in enumerate(self._buffers) if b.nbytes >= OWN_UNIT and b.how == "hold" and not b.name
        ]
        self.units = list(_cut(self._buffers, self._memory, rank, self._owners, {i for i, _ in self._later}))
        skippable = any(unit.skippable and unit.mine for unit in self.units)
        skippable = skippable or any(self._buffers[i].base for i, _ in self._later)
        later = sum(round_up(memory.nbytes) for _, memory in self._later)  # a block is a multiple of what is rounded up to
        self.whole = sum(round_up(buffer.nbytes) for buffer in self._buffers)
        self.most = later + sum(unit.nbytes for unit in self.units if unit.mine)
        self.expected = None if skippable else self.most

    def _add(self, item: Item, ranks: int) -> None:
        name = item.name if item.replicated and ranks > 1 else ""
        spill = len(item.tree) > TREE_INLINE
        sizes = [memory.nbytes for memory in item.buffers]
        for i, nbytes in enumerate(sizes):
            base = item.bases[i] if item.bases and nbytes >= OWN_UNIT else None
            self._buffers.append(_Buffer(item.how[i] if item.how else "hold", base, nbytes, name))
        self._memory += item.buffers
        if spill:
            self._buffers.append(_Buffer("hold", None, len(item.tree), name))
            self._memory.append(np.frombuffer(item.tree, np.uint8))
            sizes.append(len(item.tree))
        tree = None if spill else item.tree
        self._objects.append(_Object(item.name, item.kind, item.late, item.shard, tree, item.replicated, sizes))

    @property
    def holds(self) -> bool:
        """Whether anything is written from where the program has it, not from a copy."""
        return bool(self._later) or any(unit.how != "copy" for unit in self.units)

    def late_units(self) -> list[tuple[int, Unit]]:
        """The units of memory that can't change, with their numbers, from now on among `units`; once."""
        later, self._later = self._later, []
        units = [unit for i, memory in later for unit in _blocks(i, self._buffers[i], memory, self.rank, {})]
        first = len(self.units)
        self.units += [unit._replace(pieces=()) for unit in units]
        return list(enumerate(units, first))

    def let_go(self) -> None:
        """Hold the program's memory no longer: all units are captured, and who writes them has what is still to be read."""
        self._memory = []
        self.units = [unit._replace(pieces=()) for unit in self.units]

    def share(self, written: Sequence[Written], nbytes: int, version: str) -> Share:
        """What the other ranks need to know of the replicated objects in version `version` (see `sharing`)."""
        files = SourceTable()
        files.add(DataSource(version, "", self.rank, nbytes))
        found, before, sources = self._found(written), self._before(), self._sources.tuple()
        objects: dict[str, Any] = {}
        for obj in self._objects:
            if self._ranks > 1 and obj.replicated:
                lengths = b"".join(n.to_bytes(8, "big") for n in obj.sizes)
                objects[obj.name] = [digest(digest(obj.tree or b"") + lengths), [], []]
        for (number, start), owner in self._owners.items():
            name, offset = found[number, start]
            _, digests, told = objects[self._buffers[number].name]
            if owner == self.rank and offset is not None:
                told.append([len(digests), 0, offset])
            elif owner == self.rank:
                e = before[number, start]  # its digest was known: it is one extent there
                told.append([len(digests), files.add(sources[e.source - 1]) - 1, e.offset])
            digests.append(name)
        for told in objects.values():
            told[1] = digest(b"".join(told[1]))
        return [self.rank, [list(file) for file in files.tuple()], objects]

    def _found(self, written: Sequence[Written]) -> dict[tuple[int, int], tuple[bytes, int | None]]:
        """The digest of each block of replicated objects and where it was written; by number of the buffer and start."""
        return {
            (block.buffer, block.start): (name, None if result.offset is None else result.offset + block.at)
            for unit, result in zip(self.units, written, strict=True)
            for block, name in zip(unit.blocks, result.digests, strict=True)
            if self._buffers[block.buffer].name
        }

    def _before(self) -> dict[tuple[int, int], Extent]:
        """Where the version before has what begins there, in replicated objects; by number of the buffer and start."""
        return {
            (number, e.start): e
            for number, buffer in enumerate(self._buffers)
            if buffer.name and buffer.base is not None
            for e in buffer.base.stored.extents
            if e.packed is None
        }

    def _lay_shared(self, new: list[list[Extent]], written: Sequence[Written], version: str, merged: dict[str, Any]) -> None:
        """The extents of replicated objects: wherever their blocks are."""
        own = DataSource(version, "", self.rank, 0)
        files = [DataSource(*file) for file in merged["files"]]
        sources = [0 if file._replace(nbytes=0) == own else self._sources.add(file) for file in files]
        told = {name: iter(blocks) for name, blocks in merged["blocks"].items()}
        found = self._found(written)
        for number, start in self._owners:
            buffer = self._buffers[number]
            file, offset = next(told[buffer.name])
            nbytes = min(BLOCK, buffer.nbytes - start)
            new[number].append(Extent(sources[file], offset, nbytes, found[number, start][0], start))

    def part(
        self, written: Sequence[Written], nbytes: int, version: str = "", merged: dict[str, Any] | None = None
    ) -> Part:
        """The index of what was written: `nbytes` bytes of data file; for version `version`, of whose replicated objects
        `merged` says where their blocks are."""
        new: list[list[Extent]] = [[] for _ in self._buffers]
        if merged is not None:
            self._lay_shared(new, written, version, merged)
        for unit, result in zip(self.units, written, strict=True):
            if result.offset is None:
                continue
            for block, name in zip(unit.blocks, result.digests, strict=True):
                if not self._buffers[block.buffer].name:
                    extent = Extent(0, result.offset + block.at, block.nbytes, name, block.start, block.packed)
                    new[block.buffer].append(extent)
        stored = iter(_stored(b, extents) for b, extents in zip(self._buffers, new, strict=True))
        objects = [
            StoredObject(o.name, o.kind, o.late, o.shard, o.tree, tuple(next(stored) for _ in o.sizes), o.replicated)
            for o in self._objects
        ]
        return self._sources.compact(Part(self.rank, nbytes, tuple(objects), tuple(self.files)))


def _stored(buffer: _Buffer, extents: list[Extent]) -> StoredBuffer:
    if buffer.base is not None and not buffer.name:
        return lay_over(buffer.base.stored, extents)
    return StoredBuffer(buffer.nbytes, tuple(sorted(extents, key=_start)))


def _start(extent: Extent) -> int:
    return extent.start


class _Object(NamedTuple):
    """What the index says of an object beside its buffers, of which `sizes` has the bytes. `tree` None: the last of them."""

    name: str
    kind: str
    late: bool
    shard: tuple[tuple[int, ...], tuple[int, ...]] | None
    tree: bytes | None
    replicated: bool
    sizes: list[int]


class _Buffer(NamedTuple):
    how: str
    base: Base | None
    nbytes: int
    name: str = ""  # of the object, if it is replicated and there are other ranks


def _owners(buffers: Sequence[_Buffer], ranks: int) -> dict[tuple[int, int], int]:
    """Which rank writes each block of replicated objects, by (number of the buffer, start): in an order that is the same on all
    ranks, which need not have protected the objects in the same one."""
    blocks = sorted(
        (b.name, number, start, min(BLOCK, b.nbytes - start))
        for number, b in enumerate(buffers)
        if b.name
        for start in range(0, b.nbytes, BLOCK)
    )
    owners = share_out([nbytes for _, _, _, nbytes in blocks], ranks)
    return {(number, start): owner for (_, number, start, _), owner in zip(blocks, owners, strict=True)}


def _cut(
    buffers: Sequence[_Buffer],
    memory: Sequence[Bytes],
    rank: int,
    owners: Mapping[tuple[int, int], int],
    later: Container[int],
) -> Iterator[Unit]:
    small: dict[tuple[str, bool], list[tuple[int, Bytes]]] = {}
    for number, (buffer, its) in enumerate(zip(buffers, memory, strict=True)):
        if number in later:
            continue
        if buffer.nbytes >= OWN_UNIT:
            if buffer.base is not None and buffer.base.dirty is not None and not buffer.name:
                yield from _pages(number, buffer, its)
            else:
                yield from _blocks(number, buffer, its, rank, owners)
        elif buffer.nbytes:
            # Too small to be worth a request each; and copied sooner than protected.
            how = "hold" if buffer.how == "hold" else "copy"
            mine = not buffer.name or owners[number, 0] == rank
            small.setdefault((how, mine), []).append((number, its))
    for (how, mine), some in small.items():
        yield from _shared(some, how, mine)


def _blocks(
    number: int, buffer: _Buffer, whole: Bytes, rank: int, owners: Mapping[tuple[int, int], int]
) -> Iterator[Unit]:
    known = buffer.base.stored.block_digests() if buffer.base is not None else None
    for k, start in enumerate(range(0, buffer.nbytes, BLOCK)):
        memory = whole[start : start + BLOCK]
        block = Block(0, memory.nbytes, number, start, None, known[k] if known is not None else None)
        mine = owners.get((number, start), rank) == rank
        yield Unit(round_up(memory.nbytes), (Piece(0, memory),), (block,), buffer.how, mine)


def _pages(number: int, buffer: _Buffer, whole: Bytes) -> Iterator[Unit]:
    """The runs that may have changed, packed: as many as a block holds share an extent and its digest."""
    assert buffer.base is not None and buffer.base.dirty is not None
    pieces: list[Piece] = []
    runs: list[tuple[int, int]] = []
    at = 0
    for start, nbytes in _split(buffer.base.dirty.tolist()):
        if at + nbytes > UNIT or len(runs) == _RUNS:
            yield _packed(number, pieces, runs, at, buffer.how)
            pieces, runs, at = [], [], 0
        pieces.append(Piece(at, whole[start : start + nbytes]))
        runs.append((start, nbytes))
        at += nbytes
    if runs:
        yield _packed(number, pieces, runs, at, buffer.how)


def _packed(number: int, pieces: list[Piece], runs: list[tuple[int, int]], nbytes: int, how: str) -> Unit:
    packed = pack_runs(runs) if len(runs) > 1 else None
    return Unit(round_up(nbytes), tuple(pieces), (Block(0, nbytes, number, runs[0][0], packed),), how)


def _split(runs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    for start, nbytes in runs:
        for at in range(start, start + nbytes, UNIT):
            yield at, min(UNIT, start + nbytes - at)


def _shared(buffers: Sequence[tuple[int, Bytes]], how: str, mine: bool) -> Iterator[Unit]:
    """Small buffers one after the other, each at a multiple of 8 (of 4096 from 64 KiB on)."""
    pieces: list[Piece] = []
    blocks: list[Block] = []
    at = 0
    for number, memory in buffers:
        nbytes = memory.nbytes
        begin = round_up(at, ALIGN) if nbytes >= 64 << 10 else (at + 7) & ~7
        if begin + nbytes > UNIT:
            yield Unit(round_up(at), pieces, blocks, how, mine)
            pieces, blocks, begin = [], [], 0
        pieces.append(Piece(begin, memory))
        blocks.append(Block(begin, nbytes, number, 0))
        at = begin + nbytes
    if pieces:
        yield Unit(round_up(at), pieces, blocks, how, mine)
