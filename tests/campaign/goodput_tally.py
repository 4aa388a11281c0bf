"""What each rank tells of its steps for the account of goodput, in memory that outlives it: a row for each attempt.

A file per process, `tally-PID-START` in one directory, mapped into memory. Times are the monotonic clock's, the same for all
processes of the machine. A row is written by the one thread that computes and read when that thread is dead or at any moment:
a reader may see a step's time and not yet its number, which is one step of thousands.
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass, fields
from pathlib import Path

from .survive_notes import start_of

_ROWS = 128  # attempts of one process
_ROW = struct.Struct("<qqqqqqqdddddd")
PREFIX = "tally-"


@dataclass
class Row:
    """One rank in one attempt.

    `first`: the step it resumed at, `done`: steps that are done, by number of the run. `usual`, `flying`: steps by whether a
    version was in flight when they began; `taken`: heads of the loop at which a checkpoint was taken. In seconds: `resumed_at`,
    at the first head, all state restored; `last_at`, at the end of the last step; `heads`, spent at the loop's heads in all;
    `usual_seconds`, `flying_seconds`, within steps; `flown`, from heads at which a checkpoint was taken to those at which its
    version was known to be durable.
    """

    attempt: int = 0
    rank: int = -1
    first: int = 0
    done: int = 0
    usual: int = 0
    flying: int = 0
    taken: int = 0
    resumed_at: float = 0.0
    last_at: float = 0.0
    heads: float = 0.0
    usual_seconds: float = 0.0
    flying_seconds: float = 0.0
    flown: float = 0.0

    def pack(self) -> bytes:
        return _ROW.pack(*(getattr(self, field.name) for field in fields(self)))


class Tally:
    """This process's own file."""

    def __init__(self, directory: Path) -> None:
        pid = os.getpid()
        with (directory / f"{PREFIX}{pid}-{start_of(pid)}").open("w+b") as f:
            f.truncate(_ROWS * _ROW.size)
            self._memory = mmap.mmap(f.fileno(), 0)
        self._rows = 0
        self.row = Row()

    def begin(self, row: Row) -> None:
        """From now on `row` is the one that `write` writes."""
        if self._rows == _ROWS:
            raise RuntimeError("the tally is full")
        self.row, self._rows = row, self._rows + 1
        self.write()

    def write(self) -> None:
        at = (self._rows - 1) * _ROW.size
        self._memory[at : at + _ROW.size] = self.row.pack()


def read_rows(directory: Path) -> list[Row]:
    """All rows of all processes that have begun one, oldest attempt first, by rank."""
    rows = []
    for path in directory.glob(f"{PREFIX}*"):
        for values in _ROW.iter_unpack(path.read_bytes()):
            if values[0]:
                rows.append(Row(*values))
    return sorted(rows, key=lambda row: (row.attempt, row.rank))
