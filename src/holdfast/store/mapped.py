"""A file in memory, read where it stands: one copy less than reading it takes.

Only on a tmpfs, where no read can fail for a disk, and only for files that nobody changes any more: what ends before the
mapping does would be a signal, not an error. So the length is looked at again before each piece is handed out.
"""

from __future__ import annotations

import mmap
import time
from _thread import start_new_thread
from contextlib import suppress

import numpy as np

from holdfast.store import syscalls
from holdfast.store.base import Bytes
from holdfast.store.files import FileReader

TMPFS = 0x01021994
_LARGE = 64 << 20  # bytes; less is given back at once, in a millisecond or two
_MOMENT = 0.2  # seconds in which a program that restarts is back at work


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
            mapping = self._map
            try:
                size = syscalls.fstat(fd).st_size
                if mapping is None:
                    self._mapped = syscalls.fs_type(fd) == TMPFS
                    if not self._mapped:
                        return None
                    mapping = self._map = syscalls.map_shared(fd, self.nbytes)
            except (OSError, ValueError):  # reading it will say what there is to say
                self._mapped = False
                return None
            if size < self.nbytes or offset < 0 or offset + nbytes > self.nbytes:
                raise self._cut_short(min(size, self.nbytes), offset + nbytes)
            return np.frombuffer(mapping, np.uint8, nbytes, offset)

    def close(self) -> None:
        """Let go of the file. Reads still under way in other threads end well, views stay valid.

        A large mapping is given back a moment later, by a thread of its own: the kernel takes a fifth of the time of copying
        what is mapped, and the process's other threads can't be given memory meanwhile."""
        super().close()
        last = [self._map]
        self._map = None

        def let_go() -> None:
            time.sleep(_MOMENT)
            last.clear()

        if self.nbytes >= _LARGE and last[0] is not None:
            with suppress(RuntimeError):  # no thread can be had: then here
                start_new_thread(let_go, ())
