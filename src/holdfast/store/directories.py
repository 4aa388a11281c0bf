"""The directories of a `PosixStore`: made durably, and found to be directories before anything goes through them."""

from __future__ import annotations

import errno
import os
import stat

from holdfast.store import syscalls
from holdfast.store.failures import failing, kind_of, missing, strange
from holdfast.store.files import close_quietly
from holdfast.store.keys import ancestors

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


class Directories:
    """What a store knows of the directories below `root` (absolute). Prefixes are keys, the root is the empty one.

    Methods raise `OSError`, and `DamageError` for a link or file in a directory's place.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        # Facts, not handles: each is checked once. Sets change in one step each, so threads need no lock.
        self._real: set[str] = set()  # known to be directories
        self._durable: set[str] = set()  # and known to be durable entries of the directory above

    def path(self, prefix: str) -> str:
        return f"{self.root}/{prefix}" if prefix else self.root

    def has_root(self) -> bool:
        try:
            close_quietly(syscalls.open(self.root, _DIRECTORY))  # may be a link: the root is the user's choice
        except FileNotFoundError:
            return False
        return True

    def make_root(self) -> None:
        """Make the root and what lacks above it, each durable in the directory above."""
        lacking, tried = [self.root], {self.root}
        while lacking:
            path = lacking[-1]
            try:
                syscalls.mkdir(path)
            except FileNotFoundError:
                above = os.path.dirname(path)
                if above in tried:  # it is there, and takes no directory: /proc, or an automounter's
                    raise
                tried.add(above)
                lacking.append(above)
                continue
            except FileExistsError:
                pass
            else:
                self._sync_name(path)
            lacking.pop()
        self.has_root()  # raises if a file stands there

    def make(self, prefix: str) -> None:
        """Make the directory and those above it where they lack; all durable on return.

        A directory found is made durable too when first used: its maker may not have come to it, and what is put
        below counts on it.
        """
        if not prefix or prefix in self._durable:
            return
        above = ""
        for one in [*ancestors(prefix), prefix]:
            if one not in self._durable:
                try:
                    syscalls.mkdir(self.path(one))
                except FileExistsError:
                    self._look(one)
                self.sync(above)
                self._real.add(one)
                self._durable.add(one)
            above = one

    def check(self, prefix: str) -> bool:
        """Whether the directory is there. Raises `DamageError` if it, or one above, is something else."""
        if not prefix or prefix in self._real:
            return True
        for one in [*ancestors(prefix), prefix]:
            if one not in self._real:
                try:
                    self._look(one)
                except FileNotFoundError:
                    return False
                self._real.add(one)
        return True

    def require(self, prefix: str, key: str) -> None:
        """As `check`, on behalf of `key`; `KeyMissingError` for it if the directory is not there."""
        path = self.path(key)
        with failing("look for", key, path, writes=False):
            if not self.check(prefix):
                raise missing(key, path)

    def forget(self, prefix: str) -> None:
        """What is known of the directory and those below no longer holds."""
        for known in (self._real, self._durable):
            for one in list(known):
                if one == prefix or one.startswith(prefix + "/"):
                    known.discard(one)

    def sync(self, prefix: str) -> None:
        """Make the names in the directory durable."""
        self._sync_path(self.path(prefix), os.O_NOFOLLOW if prefix else 0)

    def sync_above_root(self) -> None:
        """Make the root's own name durable."""
        self._sync_name(self.root)

    def _look(self, prefix: str) -> None:
        mode = syscalls.lstat(self.path(prefix)).st_mode
        if not stat.S_ISDIR(mode):
            raise strange(prefix, self.path(prefix), f"{kind_of(mode)} in the place of a directory")

    def _sync_name(self, path: str) -> None:
        """Make the name `path`, at or above the root, durable."""
        try:
            self._sync_path(os.path.dirname(path))
        except PermissionError:
            # A directory that we may pass through or write, but not read, can't be fsynced. The file systems that
            # journal commit a new directory together with its name.
            self._sync_path(path)

    @staticmethod
    def _sync_path(path: str, flags: int = 0) -> None:
        fd = syscalls.open(path, _DIRECTORY | flags)
        try:
            syscalls.fsync(fd)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a file system without fsync of directories creates synchronously
                raise
        finally:
            close_quietly(fd)
