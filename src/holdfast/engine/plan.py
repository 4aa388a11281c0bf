"""A rank's state cut into units, and what was written put together as its index.

A buffer of a MiB or more is cut into blocks, each a unit of its own; smaller ones share units and are always written. Where
the version before holds the same buffer (`Base`), a block whose digest it knows need not be written again; where the pages
that may have changed since are known, only those are captured at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

from ..format import BLOCK, DataSource, Extent, Part, StoredBuffer, StoredFile, StoredObject, digest
from ..format.blocks import ALIGN, round_up
from ..format.extents import pack_runs
from ..format.layers import Sources, SourceTable, lay_over
from ..store.base import Bytes
from .sharing import Share
from .units import UNIT, Block, Piece, Unit, Written

TREE_INLINE = 4096  # bytes; a larger structure is stored as a buffer
OWN_UNIT = 1 << 20  # bytes from which a buffer's blocks are units of their own, which can be left out
_RUNS = 16384  # runs in one unit of pages, at most
_NOTHING = np.empty(0, np.uint8)


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
    """What one rank writes for a version. `units` in the order of writing; `expected`: the data file's size if each of them has
    to be written, else None; `state`: bytes of all buffers."""

    def __init__(
        self, rank: int, items: Sequence[Item], files: Sequence[StoredFile], sources: SourceTable, ranks: int = 1
    ) -> None:
        self.rank, self.items, self.files, self._sources = rank, items, files, sources
        self._spilled = [len(item.tree) > TREE_INLINE for item in items]
        self._counts = [len(item.buffers) + spill for item, spill in zip(items, self._spilled, strict=True)]
        self._buffers = [b for item, spill in zip(items, self._spilled, strict=True) for b in _buffers(item, spill)]
        self.units = list(_cut(self._buffers, rank, ranks))
        self.state = sum(b.memory.nbytes for b in self._buffers)
        skippable = any(unit.skippable and unit.mine for unit in self.units)
        self.expected = None if skippable else sum(unit.nbytes for unit in self.units if unit.mine)

    def let_go(self) -> None:
        """Hold the program's memory no longer: all units are captured, and who writes them has what is still to be read."""
        self.items = [item._replace(buffers=()) for item in self.items]
        self._buffers = [b._replace(memory=_NOTHING) for b in self._buffers]
        self.units = [unit._replace(pieces=()) for unit in self.units]

    def share(self, written: Sequence[Written], nbytes: int) -> Share:
        """What the other ranks need to know of the replicated objects (see `sharing`)."""
        told: dict[str, Any] = {
            item.name: [digest(item.tree), []] for item in self.items if item.replicated
        }
        for _, name, where, result, i in self._replicated(written):
            offset = -1 if result.offset is None else result.offset + where.at
            told[name][1].append([result.digests[i], offset])
        return [self.rank, nbytes, told]

    def _replicated(self, written: Sequence[Written]) -> Iterator[tuple[int, str, Block, Written, int]]:
        """(number of the buffer, object, block, what became of its unit, its number in there), object by object in an order
        that is the same on all ranks."""
        found = [
            (block.buffer, block.start, block, result, i)
            for unit, result in zip(self.units, written, strict=True)
            for i, block in enumerate(unit.blocks)
            if self._buffers[block.buffer].name
        ]
        for number, _, block, result, i in sorted(found, key=lambda one: one[:2]):
            yield number, self._buffers[number].name, block, result, i

    def _lay_shared(
        self, new: list[list[Extent]], written: Sequence[Written], version: str, merged: dict[str, Any]
    ) -> None:
        """Extents of what other ranks wrote."""
        told = {name: iter(blocks) for name, blocks in merged["blocks"].items()}
        for number, name, block, _, _ in self._replicated(written):
            where = next(told[name])
            if where is not None and where[0] != self.rank:
                rank, offset, digest = where
                source = self._sources.add(DataSource(version, "", rank, merged["sizes"][rank]))
                new[number].append(Extent(source, offset, block.nbytes, digest, block.start))

    def part(
        self, written: Sequence[Written], nbytes: int, version: str = "", merged: dict[str, Any] | None = None
    ) -> Part:
        """The index of what was written: `nbytes` bytes of data file; for version `version`, of whose replicated objects
        `merged` says where other ranks wrote them."""
        new: list[list[Extent]] = [[] for _ in self._buffers]
        if merged is not None:
            self._lay_shared(new, written, version, merged)
        for unit, result in zip(self.units, written, strict=True):
            if result.offset is None:
                continue
            for block, name in zip(unit.blocks, result.digests, strict=True):
                extent = Extent(0, result.offset + block.at, block.nbytes, name, block.start, block.packed)
                new[block.buffer].append(extent)
        stored = iter(_stored(b, extents) for b, extents in zip(self._buffers, new, strict=True))
        objects = [
            StoredObject(
                item.name,
                item.kind,
                item.late,
                item.shard,
                None if spill else item.tree,
                tuple(next(stored) for _ in range(count)),
            )
            for item, spill, count in zip(self.items, self._spilled, self._counts, strict=True)
        ]
        used, sources = _used(objects, self._sources)
        return Part(self.rank, nbytes, used, tuple(self.files), sources)


def _used(objects: Sequence[StoredObject], table: SourceTable) -> tuple[tuple[StoredObject, ...], Sources]:
    """The objects with sources numbered anew, and the sources: only those of which anything is still seen."""
    used = sorted({e.source for o in objects for b in o.buffers for e in b.extents} - {0})
    sources = table.tuple()
    numbers = {old: new for new, old in enumerate(used, 1)}
    if len(used) == len(sources):
        return tuple(objects), sources
    kept = tuple(sources[old - 1] for old in used)
    return tuple(o._replace(buffers=tuple(_renumbered(b, numbers) for b in o.buffers)) for o in objects), kept


def _renumbered(buffer: StoredBuffer, numbers: dict[int, int]) -> StoredBuffer:
    if all(numbers.get(e.source, 0) == e.source for e in buffer.extents):
        return buffer
    return StoredBuffer(
        buffer.nbytes, tuple(e._replace(source=numbers.get(e.source, 0)) for e in buffer.extents)
    )


def _stored(buffer: _Buffer, extents: list[Extent]) -> StoredBuffer:
    if buffer.base is not None:
        return lay_over(buffer.base.stored, extents)
    return StoredBuffer(buffer.nbytes, tuple(sorted(extents, key=_start)))


def _start(extent: Extent) -> int:
    return extent.start


class _Buffer(NamedTuple):
    memory: Bytes
    how: str
    base: Base | None
    nbytes: int
    name: str = ""  # of the object, if it is replicated


def _buffers(item: Item, spill: bool) -> Iterator[_Buffer]:
    hows = item.how or ["hold"] * len(item.buffers)
    bases = item.bases or [None] * len(item.buffers)
    name = item.name if item.replicated else ""
    for memory, how, base in zip(item.buffers, hows, bases, strict=True):
        yield _Buffer(memory, how, base if memory.nbytes >= OWN_UNIT else None, memory.nbytes, name)
    if spill:
        yield _Buffer(np.frombuffer(item.tree, np.uint8), "hold", None, len(item.tree))


def _cut(buffers: Sequence[_Buffer], rank: int, ranks: int) -> Iterator[Unit]:
    small: dict[tuple[str, bool], list[tuple[int, Bytes]]] = {}
    for number, buffer in enumerate(buffers):
        # Ranks take turns, from a rank that the name alone decides: they need not have protected in the same order.
        turn = (rank - crc32(buffer.name.encode())) % ranks
        if buffer.memory.nbytes >= OWN_UNIT:
            if buffer.base is not None and buffer.base.dirty is not None and not buffer.name:
                yield from _pages(number, buffer)
            else:
                yield from _blocks(number, buffer, turn, ranks)
        elif buffer.memory.nbytes:
            # Too small to be worth a request each; and copied sooner than protected.
            how = "hold" if buffer.how == "hold" else "copy"
            small.setdefault((how, not buffer.name or turn == 0), []).append((number, buffer.memory))
    for (how, mine), some in small.items():
        yield from _shared(some, how, mine)


def _blocks(number: int, buffer: _Buffer, turn: int, ranks: int) -> Iterator[Unit]:
    known = buffer.base.stored.block_digests() if buffer.base is not None else None
    for k, start in enumerate(range(0, buffer.memory.nbytes, BLOCK)):
        memory = buffer.memory[start : start + BLOCK]
        block = Block(0, memory.nbytes, number, start, None, known[k] if known is not None else None)
        mine = not buffer.name or k % ranks == turn
        yield Unit(round_up(memory.nbytes), (Piece(0, memory),), (block,), buffer.how, mine)


def _pages(number: int, buffer: _Buffer) -> Iterator[Unit]:
    """The runs that may have changed, packed: as many as a block holds share an extent and its digest."""
    assert buffer.base is not None and buffer.base.dirty is not None
    pieces: list[Piece] = []
    runs: list[tuple[int, int]] = []
    at = 0
    for start, nbytes in _split(buffer.base.dirty.tolist()):
        if at + nbytes > UNIT or len(runs) == _RUNS:
            yield _packed(number, pieces, runs, at, buffer.how)
            pieces, runs, at = [], [], 0
        pieces.append(Piece(at, buffer.memory[start : start + nbytes]))
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
        begin = round_up(at, ALIGN if memory.nbytes >= 64 << 10 else 8)
        if begin + memory.nbytes > UNIT:
            yield Unit(round_up(at), pieces, blocks, how, mine)
            pieces, blocks, begin = [], [], 0
        pieces.append(Piece(begin, memory))
        blocks.append(Block(begin, memory.nbytes, number, 0))
        at = begin + memory.nbytes
    if pieces:
        yield Unit(round_up(at), pieces, blocks, how, mine)
