"""What a disk may hold after a power loss: images built from a block log (see `blocklog`), cut by cut.

A flush promises that all writes acknowledged before it are on the disk. Of the writes since the last flush a disk
may have kept all, none, or any of them, and of a large one any sectors.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .blocklog import FLUSH, RECORD

PIECE = 4096  # bytes that are kept or lost together


@dataclass(frozen=True)
class Entry:
    """One write (`offset`, data at `at` in the log) or flush (`offset` == FLUSH); `end`: the log's size after it."""

    offset: int
    at: int
    nbytes: int
    end: int


@dataclass(frozen=True)
class Cut:
    """A moment at which the power goes. `kind`: "flush" (all writes before the last flush, none after it), "prefix" (all
    that were acknowledged), "subset" (a random part of those since the last flush). `entries`: how many log entries
    have been answered; `end`: the log's size: what was reported at or before it must be there."""

    kind: str
    entries: int
    end: int


class Log:
    """A block log, read whole (some tens of MiB), and the image from which it starts."""

    def __init__(self, log: Path, image: Path) -> None:
        self.bytes = log.read_bytes()
        self.image = bytearray(image.read_bytes())
        self.entries: list[Entry] = []
        at = 0
        while at < len(self.bytes):
            offset, nbytes = RECORD.unpack_from(self.bytes, at)
            self.entries.append(Entry(offset, at + RECORD.size, nbytes, at + RECORD.size + nbytes))
            at = self.entries[-1].end
        self.flushes = [i for i, entry in enumerate(self.entries) if entry.offset == FLUSH]

    def cuts(self, begin: int, each: int, chance: random.Random) -> Iterator[Cut]:
        """Cuts from log size `begin` on, in order: one at each flush, and between two flushes up to `each` random
        prefixes and `each` random subsets."""
        after = [*self.flushes[1:], len(self.entries)]
        for flush, following in zip(self.flushes, after, strict=True):
            # The latest moment with this image is just before the next flush is answered: the most has been promised.
            last = self.entries[following - 1].end
            if last < begin:
                continue
            yield Cut("flush", flush + 1, last)
            between = range(flush + 2, following + 1)
            for kind in ("prefix", "subset"):
                for entries in sorted(chance.sample(between, min(each, len(between)))):
                    yield Cut(kind, entries, self.entries[entries - 1].end)

    def images(self, cuts: Iterator[Cut], chance: random.Random) -> Iterator[tuple[Cut, bytearray]]:
        """Each cut with its image."""
        base, done = bytearray(self.image), 0  # all entries before `done`, which lies behind a flush, applied
        for cut in cuts:
            flushed = max((f + 1 for f in self.flushes if f < cut.entries), default=0)
            for entry in self.entries[done:flushed]:
                self._apply(entry, base, None)
            done = max(done, flushed)
            image = bytearray(base)
            for entry in self.entries[flushed : cut.entries]:
                self._apply(entry, image, chance if cut.kind == "subset" else None)
            yield cut, image

    def _apply(self, entry: Entry, image: bytearray, chance: random.Random | None) -> None:
        if entry.offset == FLUSH:
            return
        for start in range(0, entry.nbytes, PIECE):
            stop = min(start + PIECE, entry.nbytes)
            if chance is None or chance.random() < 0.5:
                image[entry.offset + start : entry.offset + stop] = self.bytes[entry.at + start : entry.at + stop]
