"""Which objects nobody has written to since they were filled: they need not be digested again to know what they hold.

The kernel tells which pages were written. Where it can't, or the memory is small, the answer is that nobody knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..engine import Item
from ..engine.plan import OWN_UNIT

if TYPE_CHECKING:
    from ..capture.tracker import PageTracker


class Untouched:
    """For one rank, from the first fill until the state is settled (local)."""

    def __init__(self) -> None:
        self._tracker: PageTracker | None = None
        self._impossible = False
        self._filled: dict[str, str] = {}  # the version that each object was filled from

    def filled(self, item: Item, version: str) -> None:
        """The object of `item` holds what `version` has, verified; its memory is watched from now on."""
        self._filled.pop(item.name, None)
        large = [(i, b) for i, b in enumerate(item.buffers) if b.nbytes >= OWN_UNIT]
        if large and self._ready():
            assert self._tracker is not None
            for i, memory in large:
                self._tracker.watch(memory, (item.name, i))
            self._filled[item.name] = version

    def written(self, item: Item, version: str) -> Sequence[Any]:
        """For each buffer what of it may not be as `version` has it: an int64 array of shape (runs, 2), (start, bytes); None if
        that is not known. Asked once: the watch ends.

        Some bytes at its ends are often among them: what else is in these pages was written to."""
        if self._tracker is None or self._filled.pop(item.name, None) != version:
            return [None] * len(item.buffers)
        return [
            self._tracker.scan(memory, (item.name, i)) if memory.nbytes >= OWN_UNIT else None
            for i, memory in enumerate(item.buffers)
        ]

    def close(self) -> None:
        """End all watches: from now on each would cost a fault at the first write to a page."""
        if self._tracker is not None:
            self._tracker.close()
            self._tracker = None
        self._filled.clear()

    def _ready(self) -> bool:
        if self._tracker is None and not self._impossible:
            from ..capture.tracker import PageTracker

            self._impossible = PageTracker.available() is not None
            if not self._impossible:
                self._tracker = PageTracker()
        return self._tracker is not None
