"""Walking and removing whole directories, while others may be deleting the same."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import TypeAlias

from holdfast.store import syscalls
from holdfast.store.keys import is_component

Entries: TypeAlias = list[tuple[str, int]]

_ROUNDS = 3  # passes over a tree into which someone else still writes


def files(top: str) -> Entries:
    """Path below `top` and size in bytes of each regular file whose path is a key, in order. No recursion: a hostile
    tree may be deeper than Python's stack."""
    found: Entries = []
    pending = [""]
    while pending:
        below = pending.pop()
        try:
            names = syscalls.scandir(top + "/" + below if below else top)
        except FileNotFoundError:
            continue
        for name, kind in names:
            path = f"{below}/{name}" if below else name
            if not is_component(name):
                continue
            if kind == stat.S_IFDIR:
                pending.append(path)
            elif kind == stat.S_IFREG:
                with suppress(FileNotFoundError):
                    found.append((path, syscalls.lstat(f"{top}/{path}").st_size))
    return sorted(found)


def remove(top: str) -> None:
    """Remove `top`, whatever it is, and all below: files, then directories; links never followed. Missing is fine.

    Raises `OSError`; ENOTEMPTY if someone keeps writing into it.
    """
    try:
        mode = syscalls.lstat(top).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        _unlink(top)
        return
    for left in reversed(range(_ROUNDS)):
        try:
            _remove_once(top)
            return
        except OSError as error:
            if error.errno != errno.ENOTEMPTY or not left:
                raise


def remove_unless(top: str, name: str) -> bool:
    """Remove the directory `top` and all below, unless it has `name` directly below; then False, and nothing is done.

    Only the very directory that was looked at is emptied, whatever has the name `top` by then: another one that was given this
    name meanwhile stays whole. Raises `OSError`; `FileNotFoundError` if there is none.
    """
    fd = syscalls.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        itself = f"/proc/self/fd/{fd}"
        if any(found == name for found, _ in syscalls.scandir(itself)):
            return False
        for found, _ in syscalls.scandir(itself):
            remove(f"{itself}/{found}")
    finally:
        syscalls.close(fd)
    try:
        syscalls.rmdir(top)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:  # another one's
            raise
    return True


def _remove_once(top: str) -> None:
    directories = [top]
    for directory in directories:  # grows while it is walked
        with suppress(FileNotFoundError):
            for name, kind in syscalls.scandir(directory):
                path = f"{directory}/{name}"
                if kind == stat.S_IFDIR:
                    directories.append(path)
                else:
                    _unlink(path)
    for directory in reversed(directories):
        with suppress(FileNotFoundError):
            syscalls.rmdir(directory)


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        syscalls.unlink(path)
