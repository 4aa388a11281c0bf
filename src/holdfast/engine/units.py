"""What is written to a data file, cut into units: each one request of the disk, one slot of memory, a few digests.

A unit is a contiguous range of at most UNIT bytes, a multiple of 4096. Where in the file it lands is decided when it is
written: a unit whose blocks are all as the version before has them is not written, and leaves no hole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..format import BLOCK
from ..store.base import Bytes

UNIT = BLOCK


def no_release() -> None:
    """The `release` of memory that nobody waits to have back."""


class Piece(NamedTuple):
    """`memory` (one-dimensional uint8, contiguous) goes to `at` bytes from the unit's start. Pieces do not overlap and are in
    order; what lies between them is zero."""

    at: int
    memory: Bytes


class Block(NamedTuple):
    """What one digest covers: `nbytes` bytes at `at` of the unit. `known`: the digest that the version before has for these
    bytes of the same buffer; None if it has none. `buffer`: the number of the buffer in the job; `start`, `packed`: where in
    it the bytes belong (see `Extent`)."""

    at: int
    nbytes: int
    buffer: int
    start: int
    packed: bytes | None = None
    known: bytes | None = None


class Unit(NamedTuple):
    """`nbytes`: a multiple of 4096, at most UNIT. `how`: by which capture strategy its memory is frozen. `mine`: whether this
    rank writes it; one that another rank writes is only digested."""

    nbytes: int
    pieces: Sequence[Piece]
    blocks: Sequence[Block]
    how: str = "copy"
    mine: bool = True

    @property
    def skippable(self) -> bool:
        """Whether it needs not be written if all its blocks are as before."""
        return not self.mine or all(b.known is not None for b in self.blocks)


class Written(NamedTuple):
    """What became of a unit: its place in the data file, None if nothing had changed; the digests of its blocks."""

    offset: int | None
    digests: Sequence[bytes]
