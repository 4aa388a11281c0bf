"""A file in memory, filled where it stands before it has its key: what is captured into it need not be written.

Only on a tmpfs. All of its room is had before a byte of it is touched, so that a full memory is an error here, never a signal
later. Until it is finished it has a name of its own that nobody reads; what is left of one is nobody's.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import numpy as np

from holdfast.errors import UsageError
from holdfast.store import syscalls
from holdfast.store.base import Bytes
from holdfast.store.failures import failing
from holdfast.store.files import close_quietly


class MemoryFile:
    """`nbytes` bytes of memory, `view`, to become the file of a key by `finish`. Local; views may be filled by any thread.

    `give(key, fd, path)`: names the file after `key`, durably; `mode`: as for `FileWriter`.
    """

    def __init__(
        self, key: str, path: str, fd: int, nbytes: int, give: Callable[[str, int, str], None], mode: int | None
    ) -> None:
        self.key, self.nbytes = key, nbytes
        self._path, self._fd = path, fd
        self._give, self._mode = give, mode
        self._over = False
        try:
            with failing("have room for", key, path, writes=True):
                syscalls.fallocate(fd, nbytes)
                # A child by fork has the mapping too, until it ends. Rejected: MADV_DONTFORK, which leaves a hole there, in
                # which the child's own memory comes to lie, until its copy of this object goes and takes that along.
                self._memory: Bytes | None = np.frombuffer(syscalls.map_shared(fd, nbytes), np.uint8)
        except BaseException:
            self.abort()
            raise

    @property
    def view(self) -> Bytes:
        """The memory: uint8, shape (nbytes,), page-aligned. It may be filled until `finish`, and not be touched from then on.
        UsageError after that."""
        if self._memory is None:
            raise UsageError(f"{self.key} is over: its memory is a file now, or given back. Make another one.", file=self.key)
        return self._memory

    def finish(self, key: str, nbytes: int) -> None:
        """Make its first `nbytes` bytes the file of `key`, durably, and let go of it. KeyExistsError if the key is taken;
        StorageError; then `abort`."""
        with failing("make durable", key, self._path, writes=True):
            self._memory = None  # what is beyond the end must not be touched once the file is cut
            syscalls.ftruncate(self._fd, nbytes)
            if self._mode is not None:
                syscalls.fchmod(self._fd, self._mode)
            syscalls.fsync(self._fd)
        self._give(key, self._fd, self._path)
        self._over = True
        close_quietly(self._fd)

    def abort(self) -> None:
        """Give it back; memory that a thread still fills goes with its last view. Raises nothing; nothing after `finish`."""
        if not self._over:
            self._over = True
            self._memory = None
            close_quietly(self._fd)
            with suppress(OSError):
                syscalls.unlink(self._path)
