"""Page-aligned memory for direct reads and writes, huge pages where there are some, allocated once and reused.

First use of fresh memory costs several times a copy into warm memory: hence the pool.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from holdfast.errors import DeadlineError, UsageError
from holdfast.store.base import ALIGNMENT, Bytes

_HUGE = 2 << 20
_MADV_POPULATE_WRITE = 23  # Linux 5.14; Python has no name for it


def address(array: Bytes) -> int:
    """The address of the first byte."""
    return int(array.__array_interface__["data"][0])


def is_aligned(offset: int, array: Bytes) -> bool:
    """Whether `array` at `offset` bytes of a file makes a direct request: all multiples of 4096, and not empty."""
    return array.nbytes > 0 and (offset | array.nbytes | address(array)) % ALIGNMENT == 0


def empty(nbytes: int, *, warm: bool = False) -> Bytes:
    """A uint8 array of shape `(nbytes,)`, all zero, that begins at a page (2 MiB if it has as much).

    `warm=True` has the kernel provide all pages at once. The memory is given back with the last reference.
    """
    if nbytes <= 0:
        return np.empty(0, np.uint8)
    slack = _HUGE if nbytes >= _HUGE else 0
    # private: shared anonymous memory gets no huge pages
    memory = mmap.mmap(-1, nbytes + slack, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    whole = np.frombuffer(memory, np.uint8)
    start = -address(whole) % _HUGE if slack else 0
    if slack:
        _advise(memory, getattr(mmap, "MADV_HUGEPAGE", None), start, nbytes)
    array = whole[start : start + nbytes]
    if warm and not _advise(memory, _MADV_POPULATE_WRITE, start, nbytes):
        array[:: mmap.PAGESIZE] = 0
    return array


def _advise(memory: mmap.mmap, advice: int | None, start: int, nbytes: int) -> bool:
    if advice is None:
        return False
    try:
        memory.madvise(advice, start, nbytes)
    except OSError:  # a kernel without it: advice is only advice
        return False
    return True


class Pool:
    """At most `count` aligned buffers of `nbytes` bytes each, allocated when first needed, then reused.

    Thread-safe. What a buffer holds when it is lent is undefined.
    """

    def __init__(self, nbytes: int, count: int) -> None:
        if nbytes < 1 or count < 1:
            raise UsageError(f"a pool needs buffers: {count} of {nbytes} bytes is not possible; nothing was allocated")
        self.nbytes, self.count = nbytes, count
        self._free: list[Bytes] = []  # a stack: the buffer used last is the warmest
        self._made = 0
        self._change = threading.Condition()

    def take(self, timeout: float = 600.0) -> Bytes:
        """A buffer that is the caller's until `give`. Waits `timeout` seconds for one, then `DeadlineError`."""
        with self._change:
            if not self._change.wait_for(lambda: self._free or self._made < self.count, timeout):
                raise DeadlineError(
                    f"none of {self.count} buffers came back within {timeout:g} s: the storage they wait for hangs. "
                    "What was stored before is intact; look at the storage, or allow more time."
                )
            if self._free:
                return self._free.pop()
            self._made += 1
        try:
            return empty(self.nbytes, warm=True)
        except BaseException:
            with self._change:
                self._made -= 1
                self._change.notify()
            raise

    def give(self, buffer: Bytes) -> None:
        """Hand back what `take` gave; the caller must not use it any more."""
        with self._change:
            self._free.append(buffer)
            self._change.notify()

    @contextmanager
    def lend(self, timeout: float = 600.0) -> Iterator[Bytes]:
        """`take`, and `give` when the block is left."""
        buffer = self.take(timeout)
        try:
            yield buffer
        finally:
            self.give(buffer)
