"""The program's memory as the helper reads it, and the helper's own staging memory."""

from __future__ import annotations

import mmap
import threading

import numpy as np

from ...capture import kernel
from ...store.aligned import address, is_aligned
from ...store.aligned import empty as aligned_empty
from ...store.base import Bytes
from ..units import UNIT
from .wire import Order

PAGE = kernel.PAGE


class ProgramMemory:
    """`zeros`: the address in the program of a page that is all zero."""

    def __init__(self, pid: int, zeros: int) -> None:
        self.pid, self._zeros = pid, zeros
        self._shares: list[tuple[int, int, Bytes]] = []

    def share(self, fd: int, address: int, nbytes: int) -> None:
        """Map the program's shared memory `fd`, which it has at `address`."""
        memory = mmap.mmap(fd, nbytes, prot=mmap.PROT_READ)
        self._shares = [s for s in self._shares if s[0] + s[1] <= address or s[0] >= address + nbytes]
        self._shares.append((address, nbytes, np.frombuffer(memory, np.uint8)))

    def unshare(self, address: int) -> None:
        self._shares = [s for s in self._shares if s[0] != address]

    def _shared(self, address: int, nbytes: int) -> Bytes | None:
        for start, size, memory in self._shares:
            if start <= address and address + nbytes <= start + size:
                return memory[address - start : address - start + nbytes]
        return None

    def as_it_stands(self, order: Order) -> Bytes | None:
        """The unit's memory if it can be written without a copy: one aligned piece of shared memory."""
        if len(order.pieces) != 1 or int(order.pieces[0, 2]) != order.nbytes:
            return None
        found = self._shared(int(order.pieces[0, 1]), order.nbytes)
        return found if found is not None and is_aligned(0, found) else None

    def fill(self, order: Order, out: Bytes) -> None:
        """Copy the unit to `out` (as long as it), zeros where it has no piece. OSError if the memory is not there or
        may not be read."""
        end = 0
        if self._shares:
            apart = [self._shared(int(a), int(n)) for _, a, n in order.pieces]
            if all(memory is not None for memory in apart):
                for at, memory in zip(order.pieces[:, 0].tolist(), apart, strict=True):
                    assert memory is not None
                    out[end:at] = 0
                    end = at + memory.nbytes
                    out[at:end] = memory
                out[end:] = 0
                return
        ranges = self._with_gaps(order)
        end = int(ranges[:, 1].sum())
        kernel.process_vm_readv_many(self.pid, ranges, out[:end])
        out[end:] = 0

    def _with_gaps(self, order: Order) -> kernel.Ranges:
        """The pieces' (address, bytes), and between them the page of zeros: one system call reads a thousand of
        either."""
        at, nbytes = order.pieces[:, 0], order.pieces[:, 2]
        ranges = order.pieces[:, 1:]
        gaps = at - np.concatenate(([0], (at + nbytes)[:-1])) if len(at) else at
        if not gaps.any():
            return ranges.astype(np.uint64)
        pages = -(-gaps // PAGE)  # a gap may be longer than the page
        total = pages + 1
        rows = np.repeat(np.arange(len(at)), total)
        ordinal = np.arange(len(rows)) - np.repeat(np.cumsum(total) - total, total)
        last = ordinal == pages[rows]
        filled = np.empty((len(rows), 2), np.int64)
        filled[:, 0] = np.where(last, ranges[rows, 0], self._zeros)
        filled[:, 1] = np.where(last, ranges[rows, 1], np.minimum(gaps[rows] - ordinal * PAGE, PAGE))
        return filled.astype(np.uint64)


class Staging:
    """At most `slots` slots of UNIT bytes, made when first asked for and kept from version to version."""

    def __init__(self, slots: int) -> None:
        self._free: list[Bytes] = []
        self._slots, self._made = slots, 0
        self._lock = threading.Lock()

    def resize(self, slots: int) -> None:
        """Have at most so many from now on; called while none is in use."""
        with self._lock:
            self._slots = slots
            while self._made > slots and self._free:
                self._free.pop()
                self._made -= 1

    def take(self) -> Bytes | None:
        """A slot; None if all are in use."""
        with self._lock:
            if self._free:
                return self._free.pop()  # the one used last: the fewest are ever touched
            if self._made >= self._slots:
                return None
            self._made += 1
        return aligned_empty(UNIT)

    def give(self, slot: Bytes) -> None:
        with self._lock:
            self._free.append(slot)

    def warm(self, slots: int) -> None:
        """Make so many slots, if there are fewer, and have the kernel give them their memory now: that takes several
        times as long as copying into them."""
        while True:
            with self._lock:
                if self._made >= min(slots, self._slots):
                    return
                self._made += 1
            slot = aligned_empty(UNIT)
            kernel.populate(address(slot), UNIT)
            with self._lock:
                self._free.insert(0, slot)
