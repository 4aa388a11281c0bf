"""A small file, complete before it gets its name."""

from __future__ import annotations

import errno

from holdfast.errors import StorageError
from holdfast.store import syscalls
from holdfast.store.failures import exists

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS}


def write_all(fd: int, data: memoryview) -> None:
    """`pwrite` from the file's start until all is written."""
    done = 0
    while done < len(data):
        n = syscalls.pwrite(fd, data[done:], done)
        if n <= 0:
            raise OSError(errno.EIO, "the system wrote nothing and gave no reason")
        done += n


def give_name(key: str, fd: int, temporary: str, path: str) -> bool:
    """Name the complete, fsynced file `temporary`, open as `fd`, `path`, if nothing else has that name.

    True if the temporary name is still there too. Raises `OSError`, `KeyExistsError`, or `StorageError` where the
    file system can do this in no way. Rejected then: creating the file under its own name, which a crash tears.
    """
    try:
        syscalls.link(temporary, path)
        return True
    except OSError as error:
        # Over NFS a link can succeed and its repetition after a lost answer fail: the link count tells.
        if syscalls.fstat(fd).st_nlink == 2:
            return True
        if error.errno not in _NO_LINKS:
            raise
    try:
        syscalls.rename_new(temporary, path)
        return False
    except FileExistsError:
        raise exists(key, path) from None
    except OSError as error:
        if error.errno not in {*_NO_LINKS, errno.EINVAL}:
            raise
        raise StorageError(
            f"can't write {path}: its file system can't name a file only if the name is free (neither by link nor "
            f"by rename: {error.strerror}). What was stored before is intact; put the run on another file system.",
            file=key,
        ) from error
