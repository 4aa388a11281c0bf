"""The program's memory under write protection, from the freeze until every unit of it is copied."""

from __future__ import annotations

import bisect
import threading
from collections.abc import Sequence
from contextlib import suppress

from ...capture import kernel
from .failures import CaptureError
from .granules import PAGE, Granules, plan, private_mappings, runs
from .wire import Order


class Protection:
    """`orders` are the units that it covers; units are named by their place in there."""

    def __init__(self, uffd: int, pid: int, orders: Sequence[Order]) -> None:
        self._uffd = uffd
        try:
            with open(f"/proc/{pid}/maps", encoding="latin-1") as file:
                mappings = private_mappings(file.read())
        except OSError as error:
            raise CaptureError(f"the program's mappings can't be read: {error}") from error
        self._plan: Granules = plan(mappings, [o.pieces[:, 1:] for o in orders])
        self._left = [len(u) for u in self._plan.units]  # units of each granule that are not copied yet
        self._lock = threading.Lock()
        self._gate = threading.Lock()  # held while protecting or lifting, so that neither undoes half of the other
        self._lifted = False

    def protect(self) -> None:
        """Protect all of it. CaptureError, with nothing protected, if that fails. Faults may come before it returns."""
        p = self._plan
        with self._gate:
            if self._lifted:
                raise CaptureError("the version was given up")
            try:
                for start, nbytes in p.register:
                    kernel.uffd_register(self._uffd, start, nbytes)
                for start, nbytes in runs(p.start, p.stop, range(len(p.start))):
                    kernel.uffd_write_protect(self._uffd, start, nbytes, True)
            except OSError as error:
                self._lift()
                raise CaptureError(f"the kernel refuses to protect it: {error}") from error

    def units_at(self, address: int) -> Sequence[int]:
        """The units that must be copied before the page at `address` may be written; none if it is not protected."""
        g = bisect.bisect_right(self._plan.start, address) - 1
        if g < 0 or address >= self._plan.stop[g] or not self._left[g]:
            return ()
        return self._plan.units[g]

    def copied(self, unit: int) -> None:
        """The unit is copied, called once for each: free the granules that no other unit needs."""
        free = []
        with self._lock:
            for g in self._plan.of[unit]:
                self._left[g] -= 1
                if not self._left[g]:
                    free.append(g)
        for start, nbytes in runs(self._plan.start, self._plan.stop, free):
            unprotect(self._uffd, start, nbytes)

    def lift(self) -> None:
        """End it, copied or not; once and for all. Raises nothing, whatever became of the program's mappings."""
        with self._gate:
            if not self._lifted:
                self._lift()

    def _lift(self) -> None:
        self._lifted = True
        for start, nbytes in self._plan.register:
            try:
                kernel.uffd_unregister(self._uffd, start, nbytes)
                kernel.uffd_wake(self._uffd, start, nbytes)  # the kernel wakes there only who waits for missing pages
            except OSError:  # the program has unmapped some of it, or mapped a file in its place
                for low, high in zip(self._plan.start, self._plan.stop, strict=True):
                    if start <= low < start + nbytes:
                        unprotect(self._uffd, low, high - low)


def unprotect(uffd: int, start: int, nbytes: int) -> None:
    """End protection and wake who waits there. Raises nothing: what is not mapped any more needs it no more."""
    try:
        kernel.uffd_write_protect(uffd, start, nbytes, False)
    except OSError:
        # Some of it is gone; the kernel stops there, and what comes after it must be freed all the same.
        if nbytes > PAGE:
            half = nbytes // 2 & -PAGE
            unprotect(uffd, start, half)
            unprotect(uffd, start + half, nbytes - half)
        else:
            with suppress(OSError):
                kernel.uffd_wake(uffd, start, nbytes)
