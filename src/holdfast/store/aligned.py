"""Page-aligned memory for direct reads and writes, huge pages where there are some."""

from __future__ import annotations

import mmap
from contextlib import suppress

import numpy as np

from holdfast.store.base import ALIGNMENT, Bytes

_HUGE = 2 << 20


def address(array: Bytes) -> int:
    """The address of the first byte."""
    return int(array.__array_interface__["data"][0])


def is_aligned(offset: int, array: Bytes) -> bool:
    """Whether `array` at `offset` bytes of a file makes a direct request: all multiples of 4096, and not empty."""
    return array.nbytes > 0 and (offset | array.nbytes | address(array)) % ALIGNMENT == 0


def empty(nbytes: int) -> Bytes:
    """A uint8 array of shape `(nbytes,)`, all zero, that begins at a page (2 MiB if it has as much).

    The memory is given back with the last reference.
    """
    if nbytes <= 0:
        return np.empty(0, np.uint8)
    slack = _HUGE if nbytes >= _HUGE else 0
    # private: shared anonymous memory gets no huge pages
    memory = mmap.mmap(-1, nbytes + slack, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    whole = np.frombuffer(memory, np.uint8)
    start = -address(whole) % _HUGE if slack else 0
    if slack and hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without it: advice is only advice
            memory.madvise(mmap.MADV_HUGEPAGE, start, nbytes)
    return whole[start : start + nbytes]
