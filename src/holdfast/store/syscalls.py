"""The one module that makes storage system calls, each a function of a line or two.

Tests replace these functions to kill, stop or fail the process at the Nth call, so the rest of `store/` calls
them as `syscalls.pwrite(...)` and touches storage in no other way. All raise `OSError`; interrupted calls are repeated.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import stat as _stat
from typing import Any

__all__ = [
    "close", "fallocate", "fchmod", "fs_type", "fsync", "fstat", "ftruncate", "link", "lstat", "map_shared", "mkdir", "open",
    "pread", "pread_cached", "pwrite", "rename", "rename_new", "rmdir", "scandir", "statvfs", "unlink", "utime",
]  # fmt: skip

TMPFS = 0x01021994  # what `fs_type` says of a file in memory

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1

_libc = ctypes.CDLL(None, use_errno=True)


def open(path: str, flags: int, mode: int = 0o644) -> int:
    return os.open(path, flags | os.O_CLOEXEC, mode)


def close(fd: int) -> None:
    os.close(fd)


def pwrite(fd: int, data: Any, offset: int) -> int:
    return os.pwrite(fd, data, offset)


def pread(fd: int, out: Any, offset: int) -> int:
    return os.preadv(fd, [out], offset)


def pread_cached(fd: int, out: Any, offset: int) -> int:
    """What the page cache has; BlockingIOError if that is nothing."""
    return os.preadv(fd, [out], offset, os.RWF_NOWAIT)


def fsync(fd: int) -> None:
    os.fsync(fd)


def fallocate(fd: int, nbytes: int) -> None:
    # not os.posix_fallocate: where the file system can't, libc writes a byte into each block instead
    call = getattr(_libc, "fallocate64", None) or getattr(_libc, "fallocate", None)
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    while call(fd, 0, ctypes.c_int64(0), ctypes.c_int64(nbytes)) != 0:
        if ctypes.get_errno() != errno.EINTR:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def fchmod(fd: int, mode: int) -> None:
    os.fchmod(fd, mode)


def ftruncate(fd: int, nbytes: int) -> None:
    os.ftruncate(fd, nbytes)


def link(old: str, new: str) -> None:
    os.link(old, new, follow_symlinks=False)


def rename_new(old: str, new: str) -> None:
    """Rename; `FileExistsError` if `new` exists."""
    call = getattr(_libc, "renameat2", None)
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if call(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), ctypes.c_uint(_RENAME_NOREPLACE)) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), old, None, new)


def rename(old: str, new: str) -> None:
    """Rename; over what is there. Of a directory that can only be an empty one."""
    os.rename(old, new)


def unlink(path: str) -> None:
    os.unlink(path)


def mkdir(path: str, mode: int = 0o777) -> None:
    os.mkdir(path, mode)


def rmdir(path: str) -> None:
    os.rmdir(path)


def utime(path: str) -> None:
    """Set both times to now by the file system's clock (over NFS, the server's)."""
    os.utime(path, None, follow_symlinks=False)


def lstat(path: str) -> os.stat_result:
    return os.lstat(path)


def fstat(fd: int) -> os.stat_result:
    return os.fstat(fd)


def statvfs(path: str) -> os.statvfs_result:
    return os.statvfs(path)


def fs_type(fd: int) -> int:
    """The magic number of the file system that the file is on (statfs(2))."""
    found = (ctypes.c_long * 32)()
    if _libc.fstatfs(fd, found) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(found[0])


def map_shared(fd: int, nbytes: int) -> mmap.mmap:
    """The file's first `nbytes` bytes as memory to be filled."""
    return mmap.mmap(fd, nbytes, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)


def scandir(path: str) -> list[tuple[str, int]]:
    """Names below the directory `path` and their types (`stat.S_IFDIR`, `S_IFREG`, `S_IFLNK`, 0 for others)."""
    found = []
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_symlink():
                kind = _stat.S_IFLNK
            elif entry.is_dir(follow_symlinks=False):
                kind = _stat.S_IFDIR
            else:
                kind = _stat.S_IFREG if entry.is_file(follow_symlinks=False) else 0
            found.append((entry.name, kind))
    return found
