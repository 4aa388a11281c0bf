"""A file in memory, read where it stands: one copy less than reading it takes.

Only on a tmpfs, where no read can fail for a disk, and only for files that nobody changes any more: what ends before the
mapping does would be a signal, not an error. So the length is looked at again before each piece is handed out.
"""

from __future__ import annotations

import mmap

import numpy as np

from holdfast.store import syscalls
from holdfast.store.base import Bytes
from holdfast.store.files import FileReader

TMPFS = 0x01021994


class MappedReader(FileReader):
    """A `FileReader` of which `view` gives pieces without copying them, where the file is in memory."""

    _map: mmap.mmap | None = None
    _mapped = True  # until it turns out that it can't be

    def view(self, offset: int, nbytes: int) -> Bytes | None:
        """The file's bytes as they stand there (uint8, one-dimensional, not writeable), valid as long as they are referred to;
        None if they have to be read. DamageError if the file has become shorter. Thread-safe."""
        with self._handles.use(self.key):
            if not self._mapped or self.nbytes == 0:
                return None
            fd = self._handles.buffered
            try:
                size = syscalls.fstat(fd).st_size
                if self._map is None:
                    self._mapped = syscalls.fs_type(fd) == TMPFS
                    if not self._mapped:
                        return None
                    self._map = syscalls.map_shared(fd, self.nbytes)
            except (OSError, ValueError):  # reading it will say what there is to say
                self._mapped = False
                return None
            if size < self.nbytes or offset < 0 or offset + nbytes > self.nbytes:
                raise self._cut_short(min(size, self.nbytes), offset + nbytes)
            return np.frombuffer(self._map, np.uint8, nbytes, offset)
