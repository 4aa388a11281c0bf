"""Which objects nobody has written to since they were filled: they need not be digested again to know what they hold.

The kernel tells which pages were written. Where it can't, or the memory is small, the answer is that nobody knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

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

    def buffers(self, item: Item, version: str) -> Sequence[bool]:
        """For each buffer whether it surely still holds what `version` has. Asked once: the watch ends."""
        if self._tracker is None or self._filled.pop(item.name, None) != version:
            return [False] * len(item.buffers)
        found = []
        for i, memory in enumerate(item.buffers):
            written = self._tracker.scan(memory, (item.name, i)) if memory.nbytes >= OWN_UNIT else None
            found.append(written is not None and not len(written))
        return found

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
