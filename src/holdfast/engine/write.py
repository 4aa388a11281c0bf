"""Buffers -> blocks -> one data file: digest and write in spans, in threads, through staging memory.

The file is cut into spans of 4 MiB. Each worker takes the next span, digests the blocks that begin in
it straight from the program's memory, gathers what belongs into its staging buffer (page-aligned,
as direct I/O asks; the program's arrays are not) and writes it in one request. Staging costs a memcpy
that overlaps with the other worker's write; writing from the program's memory instead would need it aligned.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..format import BLOCK, DIGEST_BYTES, Part, StoredBuffer, StoredFile, StoredObject, digest
from ..format.blocks import block_count, place
from ..store import Store, Writer
from ..store.aligned import empty as aligned_empty
from ..store.base import Bytes
from .workers import work_through

SPAN = 4 << 20
TREE_INLINE = 4096  # bytes; a larger structure is stored as a buffer


class Item(NamedTuple):
    """An object to write: its structure and its buffers (one-dimensional uint8, contiguous)."""

    name: str
    kind: str
    late: bool
    shard: tuple[tuple[int, ...], tuple[int, ...]] | None
    tree: bytes
    buffers: Sequence[Bytes]


def write_part(
    store: Store, key: str, rank: int, items: Sequence[Item], files: Sequence[StoredFile], threads: int
) -> Part:
    """Write all items' buffers to the data file `key`; durable when this returns (local).

    The buffers must not change meanwhile. Raises StorageError; then the file is gone, or unreachable.
    """
    spilled = [len(item.tree) > TREE_INLINE for item in items]
    per_item: list[list[Bytes]] = [
        [*item.buffers, np.frombuffer(item.tree, np.uint8)] if spill else list(item.buffers)
        for item, spill in zip(items, spilled, strict=True)
    ]
    buffers = [b for group in per_item for b in group]
    offsets, size = place(b.nbytes for b in buffers)
    writer = store.create(key, size)
    try:
        digests = _Job(writer, buffers, offsets, size).run(threads)
        writer.finish()
    except BaseException:
        writer.abort()
        raise
    stored = iter(
        StoredBuffer(offset, b.nbytes, name) for offset, b, name in zip(offsets, buffers, digests, strict=True)
    )
    objects = tuple(
        StoredObject(
            item.name,
            item.kind,
            item.late,
            item.shard,
            None if spill else item.tree,
            tuple(next(stored) for _ in group),
        )
        for item, group, spill in zip(items, per_item, spilled, strict=True)
    )
    return Part(rank, size, objects, tuple(files))


class _Job:
    """One data file being written by a few workers that share a counter of spans."""

    def __init__(self, writer: Writer, buffers: Sequence[Bytes], offsets: Sequence[int], size: int) -> None:
        self.writer, self.buffers, self.offsets, self.size = writer, buffers, offsets, size
        self.digests = [bytearray(DIGEST_BYTES * block_count(b.nbytes)) for b in buffers]

    def run(self, threads: int) -> list[bytes]:
        spans = range(0, self.size, SPAN)
        work_through(spans, threads, lambda: aligned_empty(min(SPAN, self.size)), self._write)
        return [bytes(d) for d in self.digests]

    def _write(self, start: int, staging: Bytes) -> None:
        stop = min(start + SPAN, self.size)
        self._fill(staging[: stop - start], start, stop)
        self.writer.write(start, staging[: stop - start])

    def _fill(self, staging: Bytes, start: int, stop: int) -> None:
        """Put the file's bytes from `start` to `stop` into `staging`; digest the blocks that begin there."""
        i = max(bisect.bisect_right(self.offsets, start) - 1, 0)
        at = start
        while i < len(self.buffers) and self.offsets[i] < stop:
            buffer, offset = self.buffers[i], self.offsets[i]
            first, last = max(start - offset, 0), min(stop - offset, buffer.nbytes)
            if first < last:
                self._digest(i, first, last)
                if offset + first > at:
                    staging[at - start : offset + first - start] = 0
                staging[offset + first - start : offset + last - start] = buffer[first:last]
                at = offset + last
            i += 1
        staging[at - start :] = 0

    def _digest(self, i: int, first: int, last: int) -> None:
        buffer, out = self.buffers[i], self.digests[i]
        if first == 0 and buffer.nbytes <= BLOCK:
            out[:] = digest(buffer)
            return
        for k in range(-(-first // BLOCK), -(-last // BLOCK)):
            out[k * DIGEST_BYTES : (k + 1) * DIGEST_BYTES] = digest(buffer[k * BLOCK : (k + 1) * BLOCK])
