"""Which pages of an array were written, by the kernel's page scan with asynchronous write protection (Linux 6.7).

A write to a protected page costs one short fault, in which the kernel takes the protection off; a scan reports the pages
without protection and protects them again, as one step. Exact to the page, and blind to nothing that goes through the
processor's page tables: loops, `readinto`, `recv`, other processes' `process_vm_writev`. What it can't see is refused, or
answered with None, which means "anything may have changed":

- memory that is not private and anonymous: a file's or another process's writes go around our page table;
- memory that is pinned for a device (RDMA registrations, registered io_uring buffers: VmPin is not 0), which writes around
  it too. A driver that pins without the kernel's account (some GPUs' page-locked memory) can't be told: don't track such
  arrays;
- an array that moved or was resized. Freed pages scan as clean, so a question is always about a living array, which the
  caller has in hand: its pages are mapped, and had any been unmapped meanwhile, what is there now is not registered;
- pages that another userfaultfd holds (one tracker per range), or that lost their registration (moved by mremap);
- the child after a fork: it has neither the registration nor a pagemap of its own.

Watched huge pages are split at the first write to each and stay so; whoever sees that most pages change should `forget`
the array.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Hashable
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from . import kernel
from .kernel import PAGE
from .maps import private_anonymous
from .runs import union, within

Runs = npt.NDArray[np.int64]
Array = npt.NDArray[Any]

MIN_BYTES = 1 << 20  # below it a scan costs more than it saves
_FEATURES = kernel.UFFD_FEATURE_WP_ASYNC | kernel.UFFD_FEATURE_WP_UNPOPULATED


class _Watch:
    """One array under watch: its bytes, its pages [low, high), and what was found dirty in them by scans of others.

    Not a word of the array itself: a reference would keep it alive, and NumPy refuses to resize an array that has so much as a
    weak one.
    """

    def __init__(self, address: int, nbytes: int) -> None:
        self.address = address
        self.nbytes = nbytes
        self.low = address // PAGE * PAGE
        self.high = -(-(address + nbytes) // PAGE) * PAGE
        self.pending: list[Runs] = []
        self.sharing: list[_Watch] = []  # those that have some of its pages too
        self.broken = False

    def add(self, runs: Runs) -> None:
        if len(runs):
            self.pending.append(runs)
            if len(self.pending) > 16:
                self.pending = [union(self.pending)]

    def take(self) -> Runs:
        """The pending runs as (offset, bytes) in the array."""
        if not self.pending:
            return np.empty((0, 2), np.int64)
        runs, self.pending = union(self.pending), []
        runs = within(runs, self.address, self.address + self.nbytes)
        runs[:, 0] -= self.address
        return runs


class PageTracker:
    """Tells which bytes of arrays may have been written. Local to a rank; thread-safe. `close` it at the end.

    A watch has a `key`, one for each protected object: what is watched under it anew ends its watch before. Two that track
    the same bytes pass different keys, and neither hides writes from the other; nor do arrays that overlap or share a page.
    Without a key the array's own place is the key.
    """

    def __init__(self) -> None:
        """OSError where `available` gives a reason."""
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._watches: dict[Hashable, _Watch] = {}
        self._fds: list[int] = []
        try:
            # User mode is enough: asynchronous protection is resolved in the kernel, also for system calls.
            self._uffd = self._keep(kernel.userfaultfd(user_mode_only=True))
            kernel.uffd_api(self._uffd, _FEATURES)
            self._pagemap = self._keep(os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC))
            self._status = self._keep(os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC))
        except BaseException:
            self._close_fds()
            raise

    @staticmethod
    def available() -> str | None:
        """None if it works here, found by a trial on a few pages; else why not, in words."""
        try:
            tracker = PageTracker()
        except OSError as error:
            return f"the kernel's page scan can't be used: {error}"
        try:
            return tracker._trial()
        except OSError as error:
            return f"the kernel's page scan failed in a trial: {error}"
        finally:
            tracker.close()

    def watch(self, array: Array, key: Hashable = None) -> bool:
        """Begin to track `array` (any dtype and shape, contiguous, at least MIN_BYTES), from now on; False where it can't be.

        Holds no reference to it. Costs up to some 4 ms/GiB, and a fault at the next write to each page.
        """
        if os.getpid() != self._pid:
            return False
        name, fresh = _name(array, key), _Watch(_address(array), array.nbytes)
        with self._lock:
            before = self._drop(name)
            if before is not None and (before.low, before.high) != (fresh.low, fresh.high):
                self._release(before)
            if array.nbytes < MIN_BYTES or not _owns(array) or not self._fds:
                return False
            if not private_anonymous(fresh.low, fresh.high):
                return False
            try:
                kernel.uffd_register(self._uffd, fresh.low, fresh.high - fresh.low)
            except OSError:
                return False
            # What this look takes away from arrays that share pages with it is put to their account.
            fresh.sharing = [w for w in self._watches.values() if w.low < fresh.high and fresh.low < w.high]
            if not self._look(fresh) or self._pinned():
                self._release(fresh)
                return False
            fresh.pending.clear()
            for other in fresh.sharing:
                other.sharing.append(fresh)
            self._watches[name] = fresh
            return True

    def scan(self, array: Array, key: Hashable = None) -> Runs | None:
        """Bytes that may have been written since `array` was watched or last scanned: int64, shape (n, 2), (offset, bytes).

        In order; whole pages, cut to the array. They are protected again in the same step: a write is in this scan or in the
        next, never in none. The caller sees to it that what a failed checkpoint scanned is not lost: by `forget` and a full
        one. None if it can't be told; the watch is over then, and `watch` may begin another.
        """
        if os.getpid() != self._pid:
            return None
        name = _name(array, key)
        with self._lock:
            watch = self._watches.get(name)
            if watch is None:
                return None
            same = (watch.address, watch.nbytes) == (_address(array), array.nbytes) and _owns(array)
            # Pins are looked for after the look at the pages: what was pinned before and let go by then has been written by
            # now; what is pinned later faults its pages in for writing, and the next scan has them.
            if not same or watch.broken or not self._look(watch) or self._pinned():
                self._drop(name)
                self._release(watch)
                return None
            return watch.take()

    def forget(self, array: Array, key: Hashable = None) -> None:
        """End the watch of `array`; its pages cost nothing any more."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            watch = self._drop(_name(array, key))
            if watch is not None:
                self._release(watch)

    def close(self) -> None:
        """End all watches. Idempotent."""
        if (
            os.getpid() != self._pid
        ):  # an ioctl would work on the parent's memory; the lock may have been held at the fork
            return self._close_fds()
        with self._lock:
            for name in list(self._watches):  # by hand: a child that inherited the descriptor keeps registrations alive
                watch = self._drop(name)
                if watch is not None:
                    self._release(watch)
            self._close_fds()

    def _look(self, watch: _Watch) -> bool:
        """Scan the pages of `watch` and put what is dirty to the account of every watch that has it; False on an error."""
        try:
            found = kernel.pagemap_scan(self._pagemap, watch.low, watch.high - watch.low, protect=True)
        except OSError:
            for other in (watch, *watch.sharing):
                other.broken = True  # pages may have been protected again that were not reported
            return False
        runs = found.astype(np.int64)
        for other in watch.sharing:
            other.add(within(runs, other.low, other.high))
        watch.add(runs)
        return True

    def _drop(self, name: Hashable) -> _Watch | None:
        watch = self._watches.pop(name, None)
        if watch is not None:
            for other in watch.sharing:
                other.sharing.remove(watch)
        return watch

    def _release(self, watch: _Watch) -> None:
        """Unregister the pages of `watch` that no other one has."""
        at = watch.low
        others = sorted((other.low, other.high) for other in watch.sharing)
        for low, high in [*others, (watch.high, watch.high)]:
            if at < low:
                with suppress(OSError):  # all of it was unregistered, or unmapped, by others
                    # The array may have been freed and the place be under another userfaultfd, which kernels before 6.13
                    # would take it from. The scan refuses what is not under asynchronous protection.
                    kernel.pagemap_scan(self._pagemap, at, low - at, protect=False)
                    kernel.uffd_unregister(self._uffd, at, low - at)
            at = max(at, high)

    def _pinned(self) -> bool:
        """Whether a device may write to some memory of this process without the processor's page tables."""
        _, found, rest = os.pread(self._status, 1 << 14, 0).partition(b"VmPin:")
        return not found or int(rest.split(None, 1)[0]) != 0

    def _trial(self) -> str | None:
        if self._pinned():
            return "memory of this process is pinned for a device (VmPin in /proc/self/status), which can write unseen"
        pages = mmap.mmap(-1, 8 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory = np.frombuffer(pages, np.uint8)
        start = _address(memory)
        memory[: 6 * PAGE] = 1  # the last two are not touched
        kernel.uffd_register(self._uffd, start, memory.nbytes)
        kernel.pagemap_scan(self._pagemap, start, memory.nbytes, protect=True)
        clean = kernel.pagemap_scan(self._pagemap, start, memory.nbytes, protect=True)
        memory[1 * PAGE] = memory[6 * PAGE] = 2
        pages.madvise(mmap.MADV_DONTNEED, 3 * PAGE, PAGE)
        found = kernel.pagemap_scan(self._pagemap, start, memory.nbytes, protect=True)
        expected = [[start + page * PAGE, PAGE] for page in (1, 3, 6)]
        if len(clean) or found.tolist() != expected:
            return "the kernel's page scan does not report exactly the pages that were written in a trial"
        return None

    def _keep(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    def _close_fds(self) -> None:
        while self._fds:
            os.close(self._fds.pop())

    def __del__(self) -> None:
        for fd in getattr(self, "_fds", ()):
            with suppress(OSError):
                os.close(fd)


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def _name(array: Array, key: Hashable) -> Hashable:
    return (_address(array), array.nbytes) if key is None else key


def _owns(array: Array) -> bool:
    """Whether `array` is a contiguous part of an ndarray's own memory."""
    if not (array.flags.c_contiguous or array.flags.f_contiguous) or array.dtype.hasobject:
        return False
    owner: object = array
    while isinstance(owner, np.ndarray) and owner.base is not None:
        owner = owner.base
    if not isinstance(owner, np.ndarray) or not owner.flags.owndata:
        return False
    # A view outlives a resize of its owner (refcheck=False), and then stands on freed memory.
    start = _address(owner)
    return start <= _address(array) and _address(array) + array.nbytes <= start + owner.nbytes
