"""What boards and stacks of attempts that are over leave in memory, found and removed. Only files of our own directory, by
names of our own making; nothing of which it can't be told."""

from __future__ import annotations

import fcntl
import os
import re
import sys
from contextlib import suppress

from .layout import COUNT_AT, HEADER, SLOT, SLOTS, Identity, read_slots
from .phases import LEFT, STANDING
from .processes import is_dead, look

_NAME = re.compile(r"([0-9a-f]{32}-\d+-(\d+))(?:\.(\d+)-(\d+)\.(stacks|new))?")


def remove_leftovers(folder: str, ours: Identity) -> None:
    """Remove the boards below `folder` all of whose processes are dead or have left, or that are of an earlier boot, and
    what belongs to them (any process, at any time; never raises OSError). Of what bears the name of `ours`, what an earlier
    boot left alone: the rest is left to those who join it."""
    with suppress(OSError):
        for name in os.listdir(folder):
            found = _NAME.fullmatch(name)
            if found is None or (found[1] == ours.name and found[5] is not None):
                continue
            board, path = f"{folder}/{found[1]}", f"{folder}/{name}"
            with suppress(OSError):
                if found[5] is None:
                    _remove_if_over(path, ours)
                elif found[5] == "stacks":  # written only while there is a board
                    if not os.path.lexists(board):
                        os.unlink(path)
                elif int(found[2]) == ours.pidns and is_dead(look(int(found[3])), int(found[4])):
                    os.unlink(path)  # killed while it made a board


def remove(board: str) -> None:
    """Remove a board that is over, its lock held, then the stacks that its processes left."""
    os.unlink(board)
    folder, name = os.path.split(board)
    for other in os.listdir(folder):
        found = _NAME.fullmatch(other)
        if found is not None and found[1] == name and found[5] == "stacks":
            with suppress(FileNotFoundError):
                os.unlink(f"{folder}/{other}")


def left_alone(fd: int, ours: Identity) -> bool:
    """Whether nobody is on the board any more: all processes have left or are dead, or its boot is over. Not where nobody can
    tell, as with the pids of another namespace. Its lock is held."""
    identity = Identity.parse(os.pread(fd, COUNT_AT, 0))
    if identity is None or identity.uid != ours.uid:
        return False
    if identity.boot != ours.boot:
        return True
    if identity.pidns != ours.pidns:
        return False
    count = min(int.from_bytes(os.pread(fd, 8, COUNT_AT), sys.byteorder), SLOTS)
    slots = read_slots(os.pread(fd, count * SLOT, HEADER))
    return all(s.phase in (LEFT, STANDING) or is_dead(look(s.pid), s.start) for s in slots)


def _remove_if_over(path: str, ours: Identity) -> None:
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held: someone is joining
        identity = Identity.parse(os.pread(fd, COUNT_AT, 0))
        # What does not say the name it bears is no board of ours, whoever put it there.
        if identity not in (None, ours) and identity.name == os.path.basename(path) and left_alone(fd, ours):
            remove(path)
    finally:
        os.close(fd)
