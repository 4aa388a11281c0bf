"""A small file, or a whole directory, complete before it gets its name."""

from __future__ import annotations

import errno
import stat

from holdfast.errors import StorageError
from holdfast.store import syscalls
from holdfast.store.failures import exists, kind_of, missing, strange

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


def rename_directory(source: str, key: str, old: str, new: str) -> None:
    """Name the directory `old` `new` (keys: `source`, `key`), if nothing has that name.

    Raises `OSError`, `KeyExistsError`, `KeyMissingError` if there is no `old`, `DamageError` if it is something else."""
    try:
        mine = syscalls.lstat(old)
    except FileNotFoundError:
        raise missing(source, old) from None
    if not stat.S_ISDIR(mine.st_mode):
        raise strange(source, old, f"{kind_of(mine.st_mode)} in the place of a directory")
    try:
        try:
            syscalls.rename_new(old, new)
        except OSError as error:
            if error.errno not in {*_NO_LINKS, errno.EINVAL}:
                raise
            # Over NFS and on some file systems for clusters. A directory replaces none that has anything in it, so that
            # whoever comes second is refused here too. One that is empty is refused while it is seen.
            if _inode(new) is not None:
                raise exists(key, new) from None
            syscalls.rename(old, new)
    except OSError as error:
        # Over NFS a rename can succeed and its repetition after a lost answer fail.
        if _inode(new) == (mine.st_dev, mine.st_ino):
            return
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise exists(key, new) from None
        raise


def _inode(path: str) -> tuple[int, int] | None:
    try:
        found = syscalls.lstat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
