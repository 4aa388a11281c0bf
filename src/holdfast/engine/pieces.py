"""What is seen of each extent of a buffer, and copying it to its place."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..format import StoredBuffer, visible
from ..store.base import Bytes


class Pieces:
    """The visible parts of a buffer's extents. `extents`: the numbers of those of which a byte is seen, in order."""

    def __init__(self, buffer: StoredBuffer) -> None:
        self._all = buffer.extents
        self._by_extent: dict[int, Any] | None = None
        if buffer.simple:  # each extent is one piece
            self.extents = list(range(len(buffer.extents)))
            return
        seen = visible(buffer)
        order = np.argsort(seen.extent, kind="stable")
        numbers, first = np.unique(seen.extent[order], return_index=True)
        self.extents = numbers.tolist()
        rows = np.stack([seen.start[order], seen.at[order], seen.nbytes[order]], axis=1)
        self._by_extent = dict(zip(self.extents, np.split(rows, first[1:]), strict=True))

    def whole(self, i: int) -> bool:
        """Whether every byte of extent `i` is seen."""
        return self._by_extent is None or int(self._by_extent[i][:, 2].sum()) == self._all[i].nbytes

    def copy(self, i: int, block: Bytes, out: Bytes) -> None:
        """Copy what is seen of extent `i`, whose content is `block`, to its place in `out`."""
        for start, at, nbytes in self._pieces(i):
            out[start : start + nbytes] = block[at : at + nbytes]

    def equal(self, i: int, block: Bytes, memory: Bytes) -> bool:
        """Whether what is seen of extent `i` is what stands there in `memory`."""
        return all(
            np.array_equal(memory[start : start + n], block[at : at + n]) for start, at, n in self._pieces(i)
        )

    def _pieces(self, i: int) -> Any:
        """(start in the buffer, start in the extent's content, bytes) of each visible part."""
        if self._by_extent is None:
            return ((self._all[i].start, 0, self._all[i].nbytes),)
        return self._by_extent[i].tolist()
