"""One large file being written, one being read: direct where offset, length and address allow, buffered for the rest.

Both keep two descriptors of the same file. Mixing them is sound: the kernel writes back and drops cached pages
in the range of a direct request, and fsync of either descriptor covers the file.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from holdfast.errors import DamageError, UsageError
from holdfast.store import syscalls
from holdfast.store.aligned import is_aligned
from holdfast.store.base import Bytes, Data
from holdfast.store.failures import failing

if TYPE_CHECKING:
    from typing_extensions import Self

_O_DIRECT = getattr(os, "O_DIRECT", 0)
NO_FALLOCATE = {errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}
_PATIENCE = 16  # requests that go to the disk without asking the page cache, after one that was not in it
AHEAD = 64 << 20  # bytes reserved beyond what is written to a file whose size is not known


def close_quietly(fd: int) -> None:
    """Close a descriptor whose data is durable, or of no more interest."""
    with suppress(OSError):
        syscalls.close(fd)


class _Handles:
    """A file's buffered and direct descriptor, closed when the last request on them has returned.

    Closing under a request would let it hit whatever file gets the number next.
    """

    def __init__(self, path: str, flags: int, buffered: int, direct: bool = True) -> None:
        self._path, self._flags = path, flags
        self.buffered = buffered
        self._direct: int | None = None  # None: not tried yet; -1: the file system refuses
        self._refused = not (direct and _O_DIRECT)
        self._users, self._closing = 0, False
        self._lock = threading.Lock()

    def direct(self) -> int:
        """The direct descriptor, opened when first asked for; -1 if there is none."""
        with self._lock:
            if self._direct is None and not self._refused and not self._closing:
                # A second open, not O_DIRECT with O_EXCL: a file system that refuses has by then created the file.
                # Whatever it says, the buffered descriptor will do.
                try:
                    self._direct = syscalls.open(self._path, self._flags | _O_DIRECT | os.O_NOFOLLOW | os.O_NONBLOCK)
                except OSError:
                    self._refused = True
            return -1 if self._direct is None or self._refused else self._direct

    def refuse_direct(self) -> None:
        """Direct requests fail with EINVAL: go on without. (The descriptor stays: others may be using it.)"""
        with self._lock:
            self._refused = True

    def choose(self, offset: int, part: Bytes) -> int:
        """The descriptor for this request."""
        fd = self.direct() if is_aligned(offset, part) else -1
        return self.buffered if fd < 0 else fd

    def request(self, call: Callable[[int, Any, int], int], part: Bytes, offset: int) -> int:
        """Make a request, direct where it may be; buffered if the file system turns out to refuse that."""
        fd = self.choose(offset, part)
        try:
            return call(fd, part, offset)
        except OSError as error:
            if error.errno != errno.EINVAL or fd == self.buffered:
                raise
        self.refuse_direct()
        return call(self.buffered, part, offset)

    @contextmanager
    def use(self, key: str) -> Iterator[None]:
        with self._lock:
            if self._closing:
                raise UsageError(f"{key} is closed: nothing was read or written. Open it again.", file=key)
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                last = self._closing and self._users == 0
            if last:
                self._close()

    def close(self) -> None:
        with self._lock:
            now = not self._closing and self._users == 0
            self._closing = True
        if now:
            self._close()

    def _close(self) -> None:
        close_quietly(self.buffered)
        if self._direct is not None:
            close_quietly(self._direct)


class FileWriter:
    """A file created under its own name. As a context manager it aborts unless `finish` has returned.

    `mode`: the permissions that it has from then on; None leaves those with which it was created."""

    def __init__(
        self,
        key: str,
        path: str,
        nbytes: int | None,
        fd: int,
        sync_directory: Callable[[], None],
        mode: int | None = None,
    ) -> None:
        self.key, self.nbytes = key, nbytes
        self._mode = mode
        self._path = path
        self._reserved, self._reserving = 0, threading.Lock()
        self._handles = _Handles(path, os.O_WRONLY, fd)
        self._sync_directory = sync_directory
        self._done = False

    @property
    def direct(self) -> bool:
        """True if writes with offset, length and address in multiples of 4096 bypass the page cache."""
        return self._handles.direct() >= 0

    def reserve(self, nbytes: int) -> None:
        """Have room for the first `nbytes` bytes, where the file system can (called with the size, or as the file grows).

        A direct write beyond a file's end waits for all others, one into reserved room does not. OSError: no room.
        """
        with self._reserving:
            if nbytes <= self._reserved:
                return
            for wanted in (nbytes + AHEAD, nbytes) if self.nbytes is None else (nbytes,):
                try:
                    syscalls.fallocate(self._handles.buffered, wanted)
                except OSError as error:
                    if error.errno in NO_FALLOCATE:
                        wanted = 1 << 62  # never tried again
                    elif wanted > nbytes:
                        continue  # what is not needed yet may not fit
                    else:
                        raise
                self._reserved = wanted
                return

    def write(self, offset: int, data: Data) -> None:
        """Write all of `data`, C-contiguous, at `offset` bytes. Threads may write disjoint ranges at the same time.

        Any offset, length and address will do; multiples of 4096 are fast. Raises `StorageError`.
        """
        buffer: Any = data
        view = memoryview(buffer)
        if not view.c_contiguous or offset < 0:
            raise UsageError(f"{self.key} takes contiguous data at an offset of 0 or more; nothing was written")
        rest = np.frombuffer(view, np.uint8) if view.nbytes else np.empty(0, np.uint8)
        with self._handles.use(self.key), failing("write", self.key, self._path, writes=True):
            if self.nbytes is None:
                self.reserve(offset + rest.nbytes)
            while rest.nbytes:
                n = self._handles.request(syscalls.pwrite, rest, offset)
                if n <= 0:
                    raise OSError(errno.EIO, "the system wrote nothing and gave no reason")
                # after a short write the rest is seldom aligned, and then goes through the buffered descriptor
                rest, offset = rest[n:], offset + n

    def finish(self, nbytes: int | None = None) -> None:
        """Make file and name durable, and close; `nbytes`: the size, if it was not known before. All writes must have
        returned. Raises `StorageError`, after
        which only `abort` is of use: the kernel reports lost data once, a second fsync would lie."""
        if (nbytes is None) == (self.nbytes is None):
            raise UsageError(f"{self.key}: a file's size is given once, to `create` or to `finish`; it is not finished")
        with self._handles.use(self.key), failing("make durable", self.key, self._path, writes=True):
            if nbytes is not None:
                syscalls.ftruncate(self._handles.buffered, nbytes)
                self.nbytes = nbytes
            if self._mode is not None:
                # Only now: a direct descriptor is a second open for writing, which the mode would refuse.
                syscalls.fchmod(self._handles.buffered, self._mode)
            syscalls.fsync(self._handles.buffered)
            self._sync_directory()
        self._done = True
        self._handles.close()

    def abort(self) -> None:
        """Close and remove the file. Raises nothing; does nothing after `finish`."""
        if not self._done:
            self._done = True
            self._handles.close()
            with suppress(OSError):
                syscalls.unlink(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()


class FileReader:
    """A regular file open for reading; `nbytes` is its size when it was opened. A context manager.

    What the page cache has is taken from there, several times as fast as the disk gives it; what it has not is read past it. A
    request that finds nothing there costs a system call and a few pages of the kernel's reading ahead: so a miss is taken to
    hold for the next requests too.
    """

    def __init__(self, key: str, path: str, nbytes: int, fd: int, direct: bool = True) -> None:
        self.key, self.nbytes = key, nbytes
        self._path = path
        self._unasked = 0  # requests for which the page cache is not asked; two threads may lose a count, which is no harm
        self._handles = _Handles(path, os.O_RDONLY, fd, direct)
        self._in_memory: bool | None = None

    @property
    def in_memory(self) -> bool:
        """Whether no device is waited for: the file is on a tmpfs."""
        if self._in_memory is None:
            with self._handles.use(self.key), failing("look at", self.key, self._path, writes=False):
                self._in_memory = syscalls.fs_type(self._handles.buffered) == syscalls.TMPFS
            if self._in_memory:
                self._handles.refuse_direct()
        return self._in_memory

    @property
    def direct(self) -> bool:
        """True if reads with offset, length and address in multiples of 4096 bypass the page cache."""
        return self._handles.direct() >= 0

    def read(self, offset: int, out: Bytes) -> None:
        """Fill `out` (uint8, 1-D, contiguous, writable) from `offset` bytes on. Thread-safe.

        Raises `DamageError` if the file ends before, `StorageError` if the system fails to read.
        """
        if out.dtype != np.uint8 or out.ndim != 1 or not out.flags.c_contiguous or not out.flags.writeable:
            raise UsageError(f"{self.key} can only be read into a writable, contiguous uint8 array of one dimension")
        with self._handles.use(self.key), failing("read", self.key, self._path, writes=False):
            if offset < 0 or offset + out.nbytes > self.nbytes:
                raise self._cut_short(self.nbytes, offset + out.nbytes)
            while out.nbytes:
                direct = self._handles.choose(offset, out) != self._handles.buffered
                n = self._cached(out, offset) if direct else 0
                if n == 0:
                    n = self._handles.request(syscalls.pread, out, offset)
                    if n <= 0:
                        raise self._cut_short(offset, offset + out.nbytes)
                out, offset = out[n:], offset + n

    def _cached(self, out: Bytes, offset: int) -> int:
        """How many bytes of a direct request the page cache gave instead."""
        if self._unasked > 0:
            self._unasked -= 1
            return 0
        try:
            return syscalls.pread_cached(self._handles.buffered, out, offset)
        except BlockingIOError:
            self._unasked = _PATIENCE
        except OSError:  # such a request is not known here; if it is the disk, the request proper will say so
            self._unasked = sys.maxsize
        return 0

    def _cut_short(self, end: int, wanted: int) -> DamageError:
        return DamageError(
            f"{self._path} is cut short: it ends at byte {end}, byte {wanted} was asked for. Nothing was changed; an "
            "older version may be whole.",
            file=self.key,
            offset=end,
        )

    def close(self) -> None:
        """Let go of the file. Reads still under way in other threads end well."""
        self._handles.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
