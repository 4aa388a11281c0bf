"""Directories of one user's own in a place where others write too, such as /dev/shm, and the room that there is.

A directory is known to be ours by its owner. What stands where ours should be and is not, is neither followed nor read:
another user may have put it there before us.
"""

from __future__ import annotations

import os
import stat
import sys
from contextlib import suppress

from holdfast.errors import StorageError
from holdfast.store import syscalls
from holdfast.store.directories import Directories
from holdfast.store.failures import failing, kind_of
from holdfast.store.keys import ancestors, check_key

_PRIVATE = 0o700
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def own_directory(root: str, prefix: str, create: bool) -> str:
    """The path of the directory `prefix` (a key: `a/b`) below `root` (absolute), of which each component is ours (local).

    `create` makes what lacks, readable by its owner alone and durable; several processes may do so at once. The root must be
    there, and be one in which others can't put something in our directory's place. Raises `StorageError` for what is not
    ours, `KeyMissingError` if it is not there and `create` is false.
    """
    _check_root(root)
    for one in [*ancestors(check_key(prefix)), prefix]:
        path = f"{root}/{one}"
        if create:
            # made before, or by another rank just now: whose it is will be seen
            with failing("create", one, path, writes=True), suppress(FileExistsError):
                syscalls.mkdir(path, _PRIVATE)
        check_own(path)
        if create:
            # Also one that was found: its maker may not have come to it.
            with failing("make durable", one, path, writes=True):
                Directories(path).sync_above_root()
    return f"{root}/{prefix}"


def check_own(path: str) -> os.stat_result:
    """What `lstat` says of the directory `path`. `StorageError` unless it is a directory, belongs to the effective user, and
    nobody else can write into it; `KeyMissingError` if nothing is there."""
    with failing("look at", path, path, writes=False):
        found = syscalls.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise _refused(path, f"is {kind_of(found.st_mode)} in the place of a directory")
    if found.st_uid != os.geteuid():
        raise _refused(path, f"belongs to user {found.st_uid}, not to user {os.geteuid()}, who runs this process")
    if found.st_mode & _OTHERS_WRITE:
        raise _refused(path, "can be written by other users")
    return found


def free_bytes(path: str) -> int:
    """Bytes that the file system of the directory `path` has left for this user; `sys.maxsize` if it has no limit of its
    own, as a tmpfs of size 0. `KeyMissingError`, `StorageError`."""
    with failing("look at the free space of", path, path, writes=False):
        found = syscalls.statvfs(path)
    return found.f_bavail * found.f_frsize if found.f_blocks else sys.maxsize


def same_file_system(one: str, other: str) -> bool:
    """Whether two directories are on one file system. `KeyMissingError`, `StorageError`."""
    with failing("look at", one, one, writes=False):
        return syscalls.lstat(f"{one}/.").st_dev == syscalls.lstat(f"{other}/.").st_dev


def _check_root(root: str) -> None:
    """A directory in which nobody but root and its owner can rename what is ours; it may be reached by a link."""
    with failing("open", root, root, writes=True):
        mode = syscalls.lstat(f"{root}/.").st_mode
    # A group that may write there was given that by the user, who named the place; everybody was not.
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise _refused(
            root, "can be written by everybody and has no sticky bit, so that anyone could replace what is ours"
        )


def _refused(path: str, what: str) -> StorageError:
    return StorageError(
        f"{path} {what}; it was neither used nor changed. Have it removed or its rights mended, or name another directory.",
        file=path,
    )
