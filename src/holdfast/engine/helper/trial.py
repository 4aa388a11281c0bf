"""Whether this machine lets the helper freeze the program's memory: tried out, on one page, with a write by a system
call.

The program makes the page and the userfaultfd; the helper reads the page, protects it, and resolves the fault of the
system call. In the user mode, all that an unprivileged process gets, that system call fails instead.
"""

from __future__ import annotations

import numpy as np

from ...capture import kernel
from .protection import unprotect


class Trial:
    """The helper's side."""

    def __init__(self, uffd: int, pid: int, address: int) -> None:
        self._uffd, self._pid, self._address = uffd, pid, address
        self._faults = 0

    @staticmethod
    def why_no_reading(pid: int, address: int, token: bytes) -> str | None:
        """None if the bytes at `address` of the program can be read, and are `token`; else why not."""
        out = np.zeros(len(token), np.uint8)
        try:
            kernel.process_vm_readv(pid, address, out)
        except OSError as error:
            return f"reading another process's memory is not permitted: {error}"
        return None if out.tobytes() == token else "reading the program's memory gave something else"

    def arm(self) -> str | None:
        """Protect the page; why that failed."""
        try:
            kernel.uffd_register(self._uffd, self._address, kernel.PAGE)
            kernel.uffd_write_protect(self._uffd, self._address, kernel.PAGE, True)
        except OSError as error:
            return f"write protection is refused: {error}"
        return None

    def faulted(self, address: int) -> None:
        self._faults += 1
        unprotect(self._uffd, address & -kernel.PAGE, kernel.PAGE)

    def end(self) -> int:
        """How many faults came."""
        try:
            kernel.uffd_unregister(self._uffd, self._address, kernel.PAGE)
        except OSError:
            unprotect(self._uffd, self._address, kernel.PAGE)
        return self._faults
