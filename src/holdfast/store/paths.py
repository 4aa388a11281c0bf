"""From keys to files below a directory: where each is, whether it may be written, and how it is opened.

Symbolic links below the root are refused where they are found; a process that plants them while we look is not defended
against, since it could as well write the files.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from holdfast.errors import StorageError
from holdfast.store import syscalls, trees
from holdfast.store.atomic import give_name
from holdfast.store.base import KeyMissingError
from holdfast.store.directories import Directories
from holdfast.store.failures import failing, kind_of, strange
from holdfast.store.files import FileReader, close_quietly
from holdfast.store.keys import TEMPORARY, check_key, check_prefix, parent

T = TypeVar("T")

NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
NEW_MAPPED = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # a FIFO's open would block otherwise
_FINISHED = 0o400  # what is never written again, where the store says so in its files' modes


class Paths:
    """What a `PosixStore` does its work with (see there for the arguments). Local, thread-safe."""

    def __init__(self, root: str, create: bool, read_only: bool = False, write_once: bool = False) -> None:
        self.location = os.path.abspath(root)  # the program may change its directory later
        self.read_only = read_only
        self._mode = _FINISHED if write_once else None
        self._directories = Directories(self.location)
        with failing("open", "", self.location, writes=create):
            if create and not read_only:
                self._directories.make_root()
            elif not self._directories.has_root():
                raise KeyMissingError(
                    f"no run at {self.location}: nothing is there. Check the path; nothing was changed.",
                    file=self.location,
                )

    def _path(self, key: str) -> str:
        return f"{self.location}/{key}" if key else self.location

    def _writable(self, key: str) -> str:
        """The path of a key that is about to be written."""
        path = self._path(check_key(key))
        self._refuse_if_read_only(key)
        return path

    def _refuse_if_read_only(self, key: str) -> None:
        if self.read_only:
            raise StorageError(
                f"{self._path(key)} belongs to a run that was opened read-only; nothing was changed. Open the run for "
                "writing.",
                file=key,
            )

    @staticmethod
    def _temporary(path: str) -> str:
        return f"{os.path.dirname(path)}/{TEMPORARY}{os.urandom(8).hex()}"

    def _give(self, key: str, fd: int, temporary: str) -> None:
        """Name the complete, fsynced file `temporary`, open as `fd`, after `key`, durably. KeyExistsError, StorageError."""
        path = self._writable(key)
        with failing("name", key, path, writes=True):
            if self._below(key, lambda: give_name(key, fd, temporary, path)):
                syscalls.unlink(temporary)
            self._directories.sync(parent(key))

    @staticmethod
    def _discard(fd: int, path: str) -> None:
        close_quietly(fd)
        with suppress(OSError):
            syscalls.unlink(path)

    def _open_new(self, key: str, path: str, flags: int = NEW) -> int:
        """Create the file `path` in the directory of `key`, which is made if it is not there."""
        return self._below(key, lambda: syscalls.open(path, flags))

    def _below(self, key: str, work: Callable[[], T]) -> T:
        """Do `work` in the directory of `key`, which is made if it is not there."""
        for again in (True, False):
            try:
                self._directories.make(parent(key))
                return work()
            except FileNotFoundError:
                if not again:
                    raise
                self._directories.forget(key.partition("/")[0])  # deleted since we last used it
        raise AssertionError("not reached")

    def _open_file(self, key: str, direct: bool) -> Opened:
        path = self._path(check_key(key))
        self._directories.require(parent(key), key)
        with failing("read", key, path, writes=False):
            fd = syscalls.open(path, _READ)
            try:
                found = syscalls.fstat(fd)
                if not stat.S_ISREG(found.st_mode):
                    raise strange(key, path, kind_of(found.st_mode))
            except BaseException:
                close_quietly(fd)
                raise
            return Opened(key, path, fd, found, direct)

    def _lstat(self, key: str) -> os.stat_result:
        path = self._path(check_key(key))
        self._directories.require(parent(key), key)
        with failing("look at", key, path, writes=False):
            return syscalls.lstat(path)

    def _stat_file(self, key: str) -> os.stat_result:
        found = self._lstat(key)
        if not stat.S_ISREG(found.st_mode):
            raise strange(key, self._path(key), kind_of(found.st_mode))
        return found

    def _scan(self, prefix: str) -> trees.Entries:
        path = self._path(check_prefix(prefix))
        with failing("list", prefix, path, writes=False):
            if self._directories.check(prefix):
                with suppress(FileNotFoundError):
                    return syscalls.scandir(path)
        return []


class Opened(FileReader):
    """A reader that also knows what `fstat` said."""

    def __init__(self, key: str, path: str, fd: int, found: os.stat_result, direct: bool) -> None:
        super().__init__(key, path, found.st_size, fd, direct)
        self.mtime = found.st_mtime
