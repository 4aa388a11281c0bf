"""What each process of a job notes for part G, in memory that outlives it, and what the driver orders it to do.

A file per process, `PID-START-SEAT` in one directory (SEAT: its number among those of its start), mapped into memory: a note
costs a microsecond, and none is lost by SIGKILL.
Times are the monotonic clock's, the same for all processes of the machine.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

_HOST, _HEAD, _ENTRY, _ROOM = 96, 128, struct.Struct("<diiii"), 20000
_ORDERS = struct.Struct("<iiiiiiiii")
ORDERS = "orders"
NOBODY, ALL = -1, -2


class What(IntEnum):
    STARTED = 1  # the program was imported
    STANDING = 2  # a spare waits
    REPAIRING = 3  # has noticed a failure, joins the repair
    REPAIRED = 4
    OPENED = 5  # the program's function is called
    RESUMED = 6  # the loop's first head: all state is restored
    STEP = 7  # a step is done; `step`: how many are
    TRAPPED = 8  # leaves in the middle of a collective
    FAILED = 9  # a storage call was made to fail
    LEFT = 10  # the program's function has returned
    KILLED = 11  # it kills itself at the moment that was ordered: its last note
    REFUSED = 12  # the kernel has refused a storage call for want of room
    DAMAGE = 13  # the library has found damage


class Moment(IntEnum):
    """Where a rank is to kill itself (`Orders.moment`)."""

    NONE = 0
    CAPTURE = 1  # while state is copied
    ENCODE = 2  # while parity is computed
    COMMIT = 3  # right before a commit is put, or right behind it


class Note(NamedTuple):
    """`rank`, `attempt`, `step`: -1 where they are not known."""

    at: float
    what: What
    rank: int
    attempt: int
    step: int


class Notebook:
    """This process's own file; any thread may note."""

    def __init__(self, directory: Path) -> None:
        pid = os.getpid()
        path = directory / f"{pid}-{start_of(pid)}-{os.environ.get('OMPI_COMM_WORLD_RANK', '')}"
        with path.open("w+b") as f:
            f.truncate(_HEAD + _ROOM * _ENTRY.size)
            self._memory = mmap.mmap(f.fileno(), 0)
        name = os.environ.get("_HOLDFAST_EXECUTION", "").encode()[: _HOST - 8]  # which start of the program it is
        self._memory[8 : 8 + len(name)] = name
        host = os.uname().nodename.encode()[: _HEAD - _HOST]
        self._memory[_HOST : _HOST + len(host)] = host
        self._lock, self._count = threading.Lock(), 0

    def note(self, what: What, rank: int = -1, attempt: int = -1, step: int = -1) -> None:
        with self._lock:
            if self._count == _ROOM:
                raise RuntimeError("the notebook is full")
            at = _HEAD + self._count * _ENTRY.size
            self._memory[at : at + _ENTRY.size] = _ENTRY.pack(time.monotonic(), what, rank, attempt, step)
            self._count += 1
            self._memory[:8] = struct.pack("<q", self._count)  # last: a reader never sees half a note


class Process:
    """A process of the job as its notes tell, read by the driver; `notes`: oldest first."""

    def __init__(self, path: Path) -> None:
        pid, start, *_ = path.name.split("-")
        self.pid, self.start = int(pid), int(start)  # as it sees itself: on a stand-in node not what others see
        self.notes: list[Note] = []
        self.of: dict[int, list[Note]] = {}  # by attempt, where one is known
        self.furthest = 0  # steps done, in any attempt
        self._fd = os.open(path, os.O_RDONLY)
        self.execution = self.host = ""

    def read(self) -> None:
        """What is new; any number of times."""
        head = os.pread(self._fd, _HEAD, 0)
        count = struct.unpack_from("<q", head)[0] if len(head) == _HEAD else 0
        self.execution, self.host = (part.rstrip(b"\0").decode() for part in (head[8:_HOST], head[_HOST:]))
        if count > (n := len(self.notes)):
            data = os.pread(self._fd, (count - n) * _ENTRY.size, _HEAD + n * _ENTRY.size)
            self.add(Note(at, What(what), *rest) for at, what, *rest in _ENTRY.iter_unpack(data))

    def add(self, notes: Iterable[Note]) -> None:
        """Take note of what came behind the others."""
        for note in notes:
            self.notes.append(note)
            if note.attempt >= 0:
                self.of.setdefault(note.attempt, []).append(note)
            if note.what is What.STEP:
                self.furthest = max(self.furthest, note.step)

    def close(self) -> None:
        os.close(self._fd)

    @property
    def alive(self) -> bool:
        return start_of(self.pid) == self.start and state_of(self.pid) not in "ZX"

    @property
    def last(self) -> Note | None:
        return self.notes[-1] if self.notes else None

    @property
    def idle(self) -> bool:
        """A spare that waits."""
        return self.last is not None and self.last.what is What.STANDING


class Orders:
    """From the driver to the processes: who is to leave in a collective (`trap`), who is to kill itself at which `moment`,
    whose storage calls fail, and how; how long a step takes (`slow`)."""

    def __init__(self, directory: Path, make: bool = False) -> None:
        path = directory / ORDERS
        if make:
            path.write_bytes(_ORDERS.pack(NOBODY, 0, NOBODY, 0, 0, 0, 0, NOBODY, 0))
        with path.open("r+b") as f:
            self._memory = mmap.mmap(f.fileno(), 0)

    def _get(self, i: int) -> int:
        return int(struct.unpack_from("<i", self._memory, 4 * i)[0])

    def _set(self, i: int, value: int) -> None:
        struct.pack_into("<i", self._memory, 4 * i, value)

    trap = property(lambda self: self._get(0), lambda self, rank: self._set(0, rank))  # a rank, or NOBODY
    trap_after = property(lambda self: self._get(1), lambda self, us: self._set(1, us))  # microseconds
    failing = property(lambda self: self._get(2), lambda self, rank: self._set(2, rank))  # a rank, ALL or NOBODY
    errno = property(lambda self: self._get(3), lambda self, number: self._set(3, number))
    trap_status = property(lambda self: self._get(4), lambda self, status: self._set(4, status))  # it leaves with
    slow = property(lambda self: self._get(5), lambda self, us: self._set(5, us))  # microseconds that a step sleeps
    moment = property(lambda self: self._get(6), lambda self, moment: self._set(6, moment))  # a Moment
    moment_rank = property(lambda self: self._get(7), lambda self, rank: self._set(7, rank))  # a rank, or ALL
    moment_skip = property(lambda self: self._get(8), lambda self, n: self._set(8, n))  # such calls that pass before


def start_of(pid: int) -> int:
    """When it was started, in the kernel's ticks: with the pid this names one process. 0: there is none."""
    found = _stat(pid)
    return int(found[19]) if found else 0


def state_of(pid: int) -> str:
    """The kernel's letter: R, S, D, T, Z ...; X: there is none."""
    found = _stat(pid)
    return found[0] if found else "X"


def _stat(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()
    except OSError:
        return []
