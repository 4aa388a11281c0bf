"""A directory as a store: a key is a path below its root.

Rejected: renaming over the final name (overwrites), a lock file around creation (stale after a crash; NFS), and
openat from a descriptor of the root (a descriptor held for the run's life keeps file systems busy and breaks
`fork`).
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress

import numpy as np

from holdfast.errors import DamageError, HoldfastError
from holdfast.store import syscalls, trees
from holdfast.store.atomic import give_name, rename_directory, write_all
from holdfast.store.base import Capabilities, KeyMissingError, Names
from holdfast.store.failures import failing
from holdfast.store.files import FileReader, FileWriter, close_quietly
from holdfast.store.keys import TEMPORARY, check_key, check_prefix, is_component, parent
from holdfast.store.memoryfile import MemoryFile
from holdfast.store.paths import NEW, NEW_MAPPED, Paths


class PosixStore(Paths):
    """Objects as files below the directory `root` (`location`: its absolute path).

    `create=True` makes the directory, durably, and those above it; otherwise a missing one is a
    `KeyMissingError`. `read_only=True` refuses all that writes. `write_once=True` leaves what is finished readable by
    its owner alone and writable by nobody. The interface is `holdfast.store.Store`.
    Local: each rank opens its own. Thread-safe, and usable in a forked child.
    """

    def __repr__(self) -> str:
        return f"PosixStore({self.location!r}, read_only={self.read_only})"

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(atomic_create=True, direct_io=True, conditional_put=False)

    # -- small objects ----------------------------------------------------------------------

    def put(self, key: str, data: bytes | bytearray | memoryview) -> None:
        """Store a small object if the key is free: all of it or nothing, durable on return. See `Store.put`."""
        path = self._writable(key)
        view = memoryview(data).cast("B")
        temporary = self._temporary(path)
        with failing("write", key, path, writes=True):
            fd = self._open_new(key, temporary)
            try:
                write_all(fd, view)
                if self._mode is not None:
                    syscalls.fchmod(fd, self._mode)
                syscalls.fsync(fd)
                linked = give_name(key, fd, temporary, path)
            except BaseException:
                with suppress(OSError):
                    syscalls.unlink(temporary)
                raise
            finally:
                close_quietly(fd)
            try:
                self._directories.sync(parent(key))
            finally:
                if linked:
                    with suppress(OSError):
                        syscalls.unlink(temporary)

    def get(self, key: str, limit: int) -> bytes:
        """The whole object, if it has no more than `limit` bytes. See `Store.get`."""
        with self._open_file(key, direct=False) as reader:
            if reader.nbytes > limit:
                raise DamageError(
                    f"{self._path(key)} has {reader.nbytes} bytes where at most {limit} belong; it was not read. "
                    "An older version may be whole.",
                    file=key,
                    offset=limit,
                )
            data = np.empty(reader.nbytes, np.uint8)
            reader.read(0, data)
            return data.tobytes()

    # -- large objects ----------------------------------------------------------------------

    def create(self, key: str, nbytes: int | None) -> FileWriter:
        """Begin a file of `nbytes` bytes, its space reserved where the file system can. See `Store.create`."""
        path = self._writable(key)
        with failing("create", key, path, writes=True):
            fd = self._open_new(key, path)
            writer = FileWriter(key, path, nbytes, fd, lambda: self._directories.sync(parent(key)), self._mode)
            try:
                if nbytes:
                    writer.reserve(nbytes)
            except BaseException:
                writer.abort()
                raise
            return writer

    def create_in_memory(self, key: str, nbytes: int) -> MemoryFile | None:
        """Begin a file of `nbytes` bytes (at least 1) that is filled where it stands, named `key` until it gets its own;
        None where the store's files are not in memory. StorageError: no room."""
        path = self._writable(key)
        with failing("create", key, path, writes=True):
            fd = self._open_new(key, path, NEW_MAPPED)
            try:
                if syscalls.fs_type(fd) == syscalls.TMPFS:
                    return MemoryFile(key, path, fd, nbytes, self._give, self._mode)
            except HoldfastError:
                raise  # it has cleared up after itself
            except BaseException:
                self._discard(fd, path)
                raise
            self._discard(fd, path)
            return None

    def open(self, key: str) -> FileReader:
        """Open a file for reading in parts. See `Store.open`."""
        return self._open_file(key, direct=True)

    # -- names ------------------------------------------------------------------------------

    def list(self, prefix: str) -> Names:
        """Sorted names directly below; no symbolic links, nothing that is no key. See `Store.list`."""
        kinds = (stat.S_IFDIR, stat.S_IFREG)
        return sorted(name for name, kind in self._scan(prefix) if kind in kinds and is_component(name))

    def strangers(self) -> Names:
        """Sorted names of all kinds directly below the root, also such as can't be keys, but hidden ones: for telling a
        directory that is somebody else's from an empty one."""
        return sorted(name for name, _ in self._scan("") if not name.startswith("."))

    def is_copy(self, where: str, key: str) -> bool:
        """Whether `where` is another directory than this store's root, and has the object `key` too."""
        try:
            # With the dot a link to the directory counts as the directory.
            here, there = syscalls.lstat(f"{self.location}/."), syscalls.lstat(f"{where}/.")
            syscalls.lstat(f"{where}/{key}")
        except (OSError, ValueError):
            return False
        return (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino)

    def tree(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Key and size in bytes of every regular file below, in the order of keys. See `Store.tree`."""
        top = self._path(check_prefix(prefix))
        with failing("list", prefix, top, writes=False):
            found = trees.files(top) if self._directories.check(prefix) else []
        return iter([(f"{prefix}/{name}" if prefix else name, nbytes) for name, nbytes in found])

    def size(self, key: str) -> int:
        """Bytes of the file. See `Store.size`."""
        return self._stat_file(key).st_size

    def exists(self, key: str) -> bool:
        """Whether anything at all has this name. See `Store.exists`."""
        try:
            self._lstat(key)
        except KeyMissingError:
            return False
        return True

    def owner_is_me(self, key: str) -> bool:
        """Whether the file belongs to the effective user and neither group nor others can write it."""
        found = self._stat_file(key)
        return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)

    # -- deletion ---------------------------------------------------------------------------

    def delete(self, key: str) -> None:
        """Unlink, durably; missing is fine. See `Store.delete`."""
        path = self._writable(key)
        with failing("delete", key, path, writes=True):
            if self._directories.check(parent(key)):
                with suppress(FileNotFoundError):
                    syscalls.unlink(path)
                with suppress(FileNotFoundError):
                    self._directories.sync(parent(key))  # also if the key was gone: perhaps not yet durably

    def delete_tree(self, prefix: str) -> None:
        """Remove all below `prefix` and itself; symbolic links are removed, not followed. See `Store.delete_tree`."""
        path = self._writable(prefix)
        with failing("delete", prefix, path, writes=True):
            if self._directories.check(parent(prefix)):
                self._directories.forget(prefix)
                trees.remove(path)
                with suppress(FileNotFoundError):
                    self._directories.sync(parent(prefix))

    def delete_unless(self, prefix: str, name: str) -> bool:
        """Remove all below `prefix`, unless it has `name`. See `Store.delete_unless`."""
        path = self._writable(prefix)
        check_key(name)
        with failing("delete", prefix, path, writes=True):
            if self._directories.check(parent(prefix)):
                self._directories.forget(prefix)
                with suppress(FileNotFoundError):
                    if self._directories.check(prefix) and not trees.remove_unless(path, name):
                        return False
                self._directories.forget(prefix)
                with suppress(FileNotFoundError):
                    self._directories.sync(parent(prefix))
        return True

    def move(self, source: str, target: str) -> None:
        """Rename a directory, durably, if nothing has the new name. See `Store.move`."""
        old, new = self._writable(source), self._writable(target)
        self._directories.require(parent(source), source)
        with failing("name", target, new, writes=True):
            self._directories.forget(source)
            self._below(target, lambda: rename_directory(source, target, old, new))
            self._directories.sync(parent(target))  # first: it is to be seen below one of the names after a power loss
            with suppress(FileNotFoundError):
                self._directories.sync(parent(source))

    def leftovers(self, prefix: str) -> Names:
        """Sorted names of temporary files directly below."""
        return sorted(name for name, kind in self._scan(prefix) if name.startswith(TEMPORARY) and kind != stat.S_IFDIR)

    def remove_leftovers(self, prefix: str) -> None:
        """Unlink temporary files directly below. See `Store.remove_leftovers` for who may."""
        self._refuse_if_read_only(prefix)
        names = self.leftovers(prefix)
        path = self._path(prefix)
        with failing("clean", prefix, path, writes=True):
            for name in names:  # no fsync: one that comes back after a power loss is removed the next time
                with suppress(FileNotFoundError):
                    syscalls.unlink(f"{path}/{name}")

    # -- time and durability ----------------------------------------------------------------

    def touch(self, key: str) -> None:
        """Set the modification time to now, by the clock of the file system. `KeyMissingError`."""
        path = self._writable(key)
        self._directories.require(parent(key), key)
        with failing("touch", key, path, writes=False):
            syscalls.utime(path)

    def age(self, key: str) -> float:
        """Seconds since the last modification, never negative.

        Measured against a temporary file touched beside it, so that two hosts' clocks don't matter; against this
        host's clock if the store is read-only.
        """
        # opened, not lstat: over NFS only an open asks the server for attributes that are not minutes old
        with self._open_file(key, direct=False) as reader:
            modified = reader.mtime
        if self.read_only:
            return max(0.0, time.time() - modified)
        path = self._path(key)
        temporary = self._temporary(path)
        with failing("tell the time beside", key, path, writes=True):
            fd = syscalls.open(temporary, NEW)
            try:
                syscalls.utime(temporary)
                now = syscalls.fstat(fd).st_mtime
            finally:
                close_quietly(fd)
                with suppress(OSError):
                    syscalls.unlink(temporary)
        return max(0.0, now - modified)

    def sync(self, prefix: str) -> None:
        """fsync the directory, so that the names in it are durable whoever made them."""
        path = self._path(check_prefix(prefix))
        self._refuse_if_read_only(prefix)
        self._directories.require(prefix, prefix)
        with failing("make durable", prefix, path, writes=False):
            self._directories.sync(prefix)

    def sync_root(self) -> None:
        """fsync the directories directly below the root, the root, and the directory that the root is in."""
        self._refuse_if_read_only("")
        with failing("make durable", "", self.location, writes=True):
            for name, kind in sorted(self._scan("")):
                if kind == stat.S_IFDIR and is_component(name):
                    self._directories.sync(name)
            self._directories.sync("")
            self._directories.sync_above_root()
