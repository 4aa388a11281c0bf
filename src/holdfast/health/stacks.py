"""What all threads of a process are in, asked for from outside and before it is killed.

faulthandler writes the stacks in a signal handler: it needs neither the GIL nor memory, so that a process answers which
holds the GIL in compiled code or whose threads wait for each other. One that is stopped can't answer. While threads run it
reads what they change, and can crash the process for that: it is for those that are to be killed.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress

from .processes import send, signal_sets

# Real-time signals in the middle of the range: from below PAPI, HPCToolkit and libc count, from above Java and Valgrind.
_FIRST, _LAST = signal.SIGRTMIN + 17, signal.SIGRTMAX - 8
_POLL = 0.01
_QUIET = 0.05  # seconds without a further byte after which the writer counts as done
_MOST = 1 << 18  # bytes of one process's stacks that are read


def stacks_path(board: str, pid: int, start: int) -> str:
    """Where a process of a board writes its stacks."""
    return f"{board}.{pid}-{start}.stacks"


class Stacks:
    """This process, ready to write its stacks. Local; made by any thread.

    `signal`: the number that has it do so; 0 where it was refused: no free signal, no room for the file, or another Stacks
    of this process has it. A signal is free that is neither caught nor ignored nor blocked by now; who sets one later takes
    it, and then there are no stacks.
    """

    def __init__(self, board: str, pid: int, start: int) -> None:
        self.path = stacks_path(board, pid, start)
        self.signal = 0

    def arm(self) -> int:
        """Register with faulthandler; the signal's number, or 0. Never raises OSError."""
        global _registered, _user
        if _user is not None:
            return self.signal
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(self.path, flags, 0o600)
        except OSError:
            return 0
        try:
            if _registered is not None and _caught(os.getpid(), _registered[0]):
                os.dup2(fd, _registered[1], inheritable=False)
            elif (free := _free_signal()) != 0:
                kept = os.dup(fd)
                faulthandler.register(free, file=kept, all_threads=True, chain=False)
                _registered = (free, kept)
            else:
                raise OSError("no signal is free")
        except (OSError, RuntimeError, AttributeError):  # no descriptor is left; or no such function on this platform
            with suppress(OSError):
                os.unlink(self.path)
            return 0
        finally:
            os.close(fd)
        _user = self
        self.signal = _registered[0]
        return self.signal

    def disarm(self) -> None:
        """Undo `arm`, and remove the file. The handler stays, and writes to nowhere: a signal that is still on its way
        would end the process without it."""
        global _user
        if _user is not self or _registered is None:
            return
        with suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(nowhere, _registered[1], inheritable=False)
            os.close(nowhere)
        with suppress(OSError):
            os.unlink(self.path)
        _user, self.signal = None, 0


_registered: tuple[int, int] | None = (
    None  # the signal and the descriptor that its handler writes to, for the process's life
)
_user: Stacks | None = None


def dump(board: str, whom: Iterable[tuple[int, int, int]], timeout: float = 1.0) -> dict[int, str]:
    """The stacks of processes of a board that have armed (any process of the node): {pid: text}, "" for one that did not
    answer. `whom`: (pid, start, signal) of each; all are asked at once and waited for together, at most `timeout` seconds."""
    begun: dict[int, tuple[str, int]] = {}
    texts: dict[int, str] = {}
    for pid, start, number in whom:
        texts[pid] = ""
        path = stacks_path(board, pid, start)
        # Not caught, it would end the process: that is to happen to it, but not by this.
        caught = _FIRST <= number <= _LAST and _caught(pid, number)
        with suppress(OSError):
            size = os.lstat(path).st_size
            if caught and send(pid, start, number):
                begun[pid] = (path, size)
    deadline = time.monotonic() + timeout
    sizes: dict[int, tuple[int, float]] = {}
    waiting = set(begun)
    while waiting and (now := time.monotonic()) < deadline:
        time.sleep(_POLL)
        for pid in sorted(waiting):
            path, offset = begun[pid]
            size = _size(path)
            before, since = sizes.get(pid, (offset, now))
            if size != before or pid not in sizes:
                sizes[pid] = (size, now)
            elif size > offset and now - since >= _QUIET:
                waiting.discard(pid)
    for pid, (path, offset) in begun.items():
        texts[pid] = _text(path, offset)
    return texts


def _caught(pid: int, number: int) -> bool:
    return bool(signal_sets(pid).get("SigCgt", 0) >> (number - 1) & 1)


def _free_signal() -> int:
    sets = signal_sets()
    if not sets:
        return 0
    taken = 0
    for mask in sets.values():
        taken |= mask
    return next((n for n in range(_FIRST, _LAST + 1) if not taken >> (n - 1) & 1), 0)


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0


def _text(path: str, offset: int) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return os.pread(fd, _MOST, offset).decode(errors="replace")
        finally:
            os.close(fd)
    except OSError:
        return ""
