"""Where the bytes of a buffer are: extents of data files, later ones laid over earlier ones (docs/format.md, section 4).

An extent is what one digest covers: at most a block, contiguous in its data file. A buffer that was written whole has
an extent for each of its blocks; one of which only some pages were written again keeps the old extents, in the files of older
versions, and has extents of pages over them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ..errors import DamageError
from .blocks import ALIGN, BLOCK, DIGEST_BYTES, block_count
from .keys import parse_version

_PAIR = np.dtype(("<u8", 2))


class DataSource(NamedTuple):
    """A data file that is not the part's own: of a checkpoint (name, digest of its commit; "" for the version that the part
    belongs to, which can't know it), of a rank; its size in bytes."""

    version: str
    digest: str
    rank: int
    nbytes: int

    @staticmethod
    def parse(value: Any) -> DataSource:
        version, digest, rank, nbytes = value
        require(isinstance(version, str) and parse_version(version) is not None)
        require(isinstance(digest, str) and len(digest) in (0, 32) and set(digest) <= set("0123456789abcdef"))
        require(number(nbytes) % ALIGN == 0)
        return DataSource(version, digest, number(rank), nbytes)


class Extent(NamedTuple):
    """At most a block of a data file with one digest. `source`: 0 for the part's own file, k for its k-th source; `offset`,
    `nbytes`: the place in that file; `start`: where in the buffer its bytes belong, if they belong together; else `packed` are
    its runs, pairs of little-endian 64-bit integers (start in the buffer, bytes), in the order of its bytes."""

    source: int
    offset: int
    nbytes: int
    digest: bytes
    start: int
    packed: bytes | None = None

    @property
    def runs(self) -> Any:
        """An int64 array of shape (runs, 2): start in the buffer, bytes."""
        if self.packed is None:
            return np.array([[self.start, self.nbytes]], np.int64)
        return np.frombuffer(self.packed, "<u8").reshape(-1, 2).astype(np.int64)


def pack_runs(runs: Any) -> bytes:
    """(start, bytes) pairs as an extent holds them; an integer array of shape (n, 2)."""
    return np.ascontiguousarray(runs, "<u8").tobytes()


class StoredBuffer(NamedTuple):
    """A buffer in an index: its length in bytes and its extents, which together cover it."""

    nbytes: int
    extents: tuple[Extent, ...]

    @property
    def simple(self) -> bool:
        """Whether it stands in the part's own file in one piece, block after block."""
        at, first = 0, self.extents[0].offset if self.extents else 0
        for e in self.extents:
            if e.source or e.packed is not None or e.start != at or e.offset != first + at:
                return False
            if e.nbytes != min(BLOCK, self.nbytes - at):
                return False
            at += e.nbytes
        return at == self.nbytes

    @property
    def stored(self) -> int:
        """Bytes of all extents: what a reader reads if none is hidden altogether."""
        return sum(e.nbytes for e in self.extents)

    def block_digests(self) -> list[bytes | None]:
        """The digest of each block of the buffer, None where it is made of several extents or of pages."""
        if self.simple:
            return [e.digest for e in self.extents]
        known: list[bytes | None] = [None] * block_count(self.nbytes)
        for e in self.extents:
            if e.packed is not None:
                runs = e.runs
                for k in np.union1d(runs[:, 0] // BLOCK, (runs[:, 0] + runs[:, 1] - 1) // BLOCK).tolist():
                    known[k] = None
                continue
            first = e.start // BLOCK
            for k in range(first, -(-(e.start + e.nbytes) // BLOCK)):
                known[k] = None
            if e.start == first * BLOCK and e.nbytes == min(BLOCK, self.nbytes - e.start):
                known[first] = e.digest
        return known

    def plain(self) -> list[Any]:
        """As MessagePack holds it."""
        if self.simple:
            return [self.extents[0].offset if self.extents else 0, self.nbytes, b"".join(e.digest for e in self.extents)]
        return [
            self.nbytes,
            [[e.source, e.offset, e.nbytes, e.digest, e.start if e.packed is None else e.packed] for e in self.extents],
        ]

    @staticmethod
    def parse(value: Any, sizes: Sequence[int]) -> StoredBuffer:
        """Checked: within the data files (of `sizes` bytes), within the buffer, covering it. ValueError and the like."""
        if len(value) == 3:
            return _simple(value, sizes[0])
        nbytes, plain = value
        nbytes = number(nbytes)
        extents = tuple(_extent(e, nbytes, sizes) for e in plain)
        _check_covered(extents, nbytes)
        return StoredBuffer(nbytes, extents)


def simple_buffer(offset: int, nbytes: int, digests: bytes) -> StoredBuffer:
    """A buffer in one piece at `offset` of the part's own file, with the joined digests of its blocks."""
    return StoredBuffer(
        nbytes,
        tuple(
            Extent(0, offset + at, min(BLOCK, nbytes - at), digests[i * DIGEST_BYTES : (i + 1) * DIGEST_BYTES], at)
            for i, at in enumerate(range(0, nbytes, BLOCK))
        ),
    )


def _simple(value: Any, size: int) -> StoredBuffer:
    offset, nbytes, digests = value
    offset, nbytes = number(offset), number(nbytes)
    require(offset + nbytes <= size and isinstance(digests, bytes))
    require(len(digests) == DIGEST_BYTES * block_count(nbytes))
    return simple_buffer(offset, nbytes, digests)


def _extent(value: Any, buffer: int, sizes: Sequence[int]) -> Extent:
    source, offset, nbytes, name, where = value
    source, offset, nbytes = number(source), number(offset), number(nbytes)
    require(source < len(sizes) and 0 < nbytes <= BLOCK and offset + nbytes <= sizes[source])
    require(isinstance(name, bytes) and len(name) == DIGEST_BYTES)
    if not isinstance(where, bytes):
        require(number(where) + nbytes <= buffer)
        return Extent(source, offset, nbytes, name, where)
    require(len(where) > 0 and len(where) % _PAIR.itemsize == 0)
    runs = np.frombuffer(where, "<u8").reshape(-1, 2)
    require(bool((runs < 1 << 62).all()))
    starts, lengths = runs[:, 0].astype(np.int64), runs[:, 1].astype(np.int64)
    ends = starts + lengths
    require(bool((lengths > 0).all() and (ends <= buffer).all() and (starts[1:] >= ends[:-1]).all()))
    require(int(lengths.sum()) == nbytes)
    return Extent(source, offset, nbytes, name, int(starts[0]), where)


def _check_covered(extents: Sequence[Extent], nbytes: int) -> None:
    """Every byte of the buffer is in some extent: what is not would come back as whatever memory held."""
    if not extents:
        require(nbytes == 0)
        return
    runs = np.concatenate([e.runs for e in extents])
    runs = runs[np.argsort(runs[:, 0], kind="stable")]
    reached = np.maximum.accumulate(runs[:, 0] + runs[:, 1])
    require(int(runs[0, 0]) == 0 and int(reached[-1]) == nbytes and bool((runs[1:, 0] <= reached[:-1]).all()))


def check_apart(buffers: Sequence[StoredBuffer], sources: int) -> None:
    """No two extents share bytes of a data file: a small file could stand for any amount of data otherwise."""
    spans = sorted((e.source, e.offset, e.nbytes) for b in buffers for e in b.extents)
    for (source, offset, nbytes), (other, other_offset, _) in pairwise(spans):
        require(source != other or offset + nbytes <= other_offset)


# -- checks ------------------------------------------------------------------------------------

MALFORMED = (AssertionError, TypeError, ValueError, KeyError, OverflowError, DamageError, UnicodeError)


def require(condition: bool) -> None:
    if not condition:
        raise ValueError("malformed")


def number(value: Any) -> int:
    require(isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62)
    return int(value)
