"""Memory for captured units: allocated once, faulted in ahead of its use, handed out in slots of one size.

A copy into memory that was never touched runs at a fraction of the speed, and the first touch of a page is slower still
where the machine is virtual; so the arena is kept for the program's life and populated beside it.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from contextlib import suppress

import numpy as np

from ..errors import UsageError
from ..format.blocks import BLOCK
from ..store.aligned import address, empty
from . import kernel
from .kernel import Bytes
from .memory import available_bytes

SLOT = BLOCK  # bytes
MIN_BYTES = 64 << 20  # of what `default_bytes` gives, if the state is as large
_MADV_WIPEONFORK = 18  # Linux 4.14

_UNTOUCHED, _POPULATING, _WARM, _TAKEN = range(4)


class Arena:
    """Slots of SLOT bytes in one piece of page-aligned memory. Local to a rank; any thread may take and give, in any order.

    `nbytes`: at least 1, rounded up to slots. `shared`: a memfd (`fd`) that a helper process can map; no huge pages then.
    `fd` is -1 for private memory. `address`: of slot 0; slot i stands SLOT * i bytes behind it, also in the memfd.
    OSError where the memory can't be had.
    """

    def __init__(self, nbytes: int, *, shared: bool = False) -> None:
        self.slots = max(1, -(-nbytes // SLOT))
        self.nbytes = self.slots * SLOT
        self.fd = -1
        self._memory: Bytes | None = self._share() if shared else self._private()
        self.address = address(self._memory)
        self._state = [_UNTOUCHED] * self.slots
        # Warm slots are taken last-in first-out: what was used just now may still lie in a cache. Untouched ones are
        # taken from the far end, away from the slot that `populate` works on.
        self._warm: list[int] = []
        self._untouched = list(range(self.slots))
        self._changed = threading.Condition()

    def take(self, timeout: float) -> int | None:
        """A free slot's index, of a populated one if there is; waits at most `timeout` seconds. None if none came, or after
        `close`."""
        with self._changed:
            if not self._wait_for_one(timeout):
                return None
            slot = (self._warm or self._untouched).pop()
            self._state[slot] = _TAKEN
            return slot

    def take_run(self, most: int, timeout: float) -> range | None:
        """As `take`, but up to `most` neighbouring slots, for one copy into all of them: the longest row that is free now.

        One memcpy of many MiB can be far faster than many of a slot each: from a size that depends on the processor's cache
        (GLIBC: about 3/4 of it) it writes past the cache and need not read what it overwrites.
        """
        with self._changed:
            if not self._wait_for_one(timeout):
                return None
            pool, free = (self._warm, _WARM) if self._warm else (self._untouched, _UNTOUCHED)
            best, start = range(0), 0
            for slot, state in enumerate(self._state):
                if state != free:
                    start = slot + 1
                elif slot + 1 - start > len(best):
                    best = range(start, slot + 1)
                    if len(best) >= most:
                        break
            pool[:] = [slot for slot in pool if slot not in best]
            for slot in best:
                self._state[slot] = _TAKEN
            return best

    def _wait_for_one(self, timeout: float) -> bool:
        """Whether a slot is free, within `timeout` seconds; the lock is held."""
        deadline = time.monotonic() + timeout
        while self._memory is not None:
            if self._warm or self._untouched:
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                break
            self._changed.wait(left)
        return False

    def give(self, slot: int) -> None:
        """Give back a slot that was taken. UsageError if it was not."""
        with self._changed:
            if self._state[slot] != _TAKEN:
                raise UsageError(
                    f"slot {slot} of the arena is given back, but was not taken; give each slot back once."
                )
            self._rest(slot)

    def view(self, slot: int, count: int = 1) -> Bytes:
        """The memory of `count` slots from `slot`: uint8, shape (count * SLOT,). UsageError after `close`."""
        memory = self._memory
        if memory is None or not 0 <= slot < slot + count <= self.slots:
            raise UsageError(f"the arena has no slot {slot}: it has {self.slots if memory is not None else 0}.")
        return memory[slot * SLOT : (slot + count) * SLOT]

    def populate(self, stop: threading.Event) -> None:
        """Fault free slots in, one after the other, until all are or `stop` is set: for a thread beside the program.

        A slot is out of reach while it is populated (some milliseconds), so that nobody writes to it. OSError (ENOMEM) where
        the memory is not to be had; all slots can still be taken.
        """
        while not stop.is_set():
            with self._changed:
                if self._memory is None or not self._untouched:
                    return
                slot = self._untouched.pop(0)
                self._state[slot] = _POPULATING
                memory = self._memory  # held: close() only drops its own reference
            try:
                kernel.populate(address(memory) + slot * SLOT, SLOT)
            except BaseException:
                with self._changed:
                    self._rest(slot, _UNTOUCHED)
                raise
            with self._changed:
                self._rest(slot)

    @property
    def populated(self) -> int:
        """Slots that were faulted in or used at least once."""
        with self._changed:
            return sum(state in (_WARM, _TAKEN) for state in self._state)

    def close(self) -> None:
        """Give the memory back, when the last view of it is gone; who waits in `take` gets None. Idempotent."""
        with self._changed:
            self._memory = None
            self._warm.clear()
            self._untouched.clear()
            self._changed.notify_all()
            if self.fd >= 0:
                os.close(self.fd)
                self.fd = -1

    def _rest(self, slot: int, state: int = _WARM) -> None:
        self._state[slot] = state
        if self._memory is not None:
            (self._warm if state == _WARM else self._untouched).append(slot)
            self._changed.notify()

    def _private(self) -> Bytes:
        memory = empty(self.nbytes)
        # A fork would make every later capture copy pages, and the child has no use for them.
        with suppress(OSError):
            kernel.advise(address(memory), self.nbytes, _MADV_WIPEONFORK)
        return memory

    def _share(self) -> Bytes:
        self.fd = os.memfd_create("holdfast-arena", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self.fd, self.nbytes)
            return np.frombuffer(mmap.mmap(self.fd, self.nbytes), np.uint8)
        except BaseException:
            os.close(self.fd)
            raise


def default_bytes(state_bytes: int, local_ranks: int) -> int:
    """The arena's size for `staging="auto"`: as large as the state, rounded up to slots, but at most this rank's share of a
    quarter of the memory that the machine and its cgroups leave. The bound is never below MIN_BYTES."""
    share = max(available_bytes() // 4 // max(local_ranks, 1), MIN_BYTES) // SLOT
    return min(max(-(-state_bytes // SLOT), 1), share) * SLOT
