"""The board's bytes: a header that says whose it is, then a slot for each process, then two words for each node of the job
(far.py). Native byte order, words of 8 bytes.

Every word is aligned and has one writer, but for VERDICT and VERDICT_AT, which any process of the node may set, and COUNT,
which is written under the file's lock. What is read at once need not belong together: each word has a meaning of its own.
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

from .processes import boot_id, pid_namespace

HEADER = 256  # bytes; the last word of it is COUNT
SLOT = 128  # bytes
SLOTS = 1024  # processes on a node, at most
NODES = 1024  # of a job that watch each other, at most
NODES_AT = HEADER + SLOTS * SLOT
BYTES = NODES_AT + NODES * 16
COUNT_AT = HEADER - 8
NO_RANK = -1  # a spare

# Words of a slot. Times are nanoseconds of CLOCK_MONOTONIC, which is the same for all processes of a boot.
PID, START, RANK, PHASE, BEATS, BEAT_AT, PROGRESS, PROGRESS_AT, STEP, SIGNAL, VERDICT, VERDICT_AT, NBYTES, CALL_AT = range(14)

_MAGIC = b"holdfast board 2"
_IDENTITY = struct.Struct("=16s5q32s40s")
_SLOT = struct.Struct("=14q16x")


class Slot(NamedTuple):
    """A slot as it was read: the words above, in their order. `pid` 0: nobody's yet; `call_at`: when the program's thread was
    last seen to wait in a call of MPI, 0 if it was not when it was last looked at."""

    pid: int
    start: int
    rank: int
    phase: int
    beats: int
    beat_at: int
    progress: int
    progress_at: int
    step: int
    signal: int
    verdict: int
    verdict_at: int
    nbytes: int
    call_at: int


class Identity(NamedTuple):
    """Whose a board is."""

    run: str
    attempt: int
    uid: int
    boot: str
    pidns: int

    @staticmethod
    def here(run: str, attempt: int) -> Identity:
        """Of this process's user, boot and pid namespace."""
        return Identity(run, attempt, os.geteuid(), boot_id(), pid_namespace())

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.run}-{self.attempt}-{self.pidns}"

    def header(self) -> bytes:
        """COUNT_AT bytes, equal for equal identities alone."""
        words = (SLOTS, SLOT, self.uid, self.attempt, self.pidns)
        return _IDENTITY.pack(_MAGIC, *words, self.run.encode(), self.boot.encode()[:40]).ljust(COUNT_AT, b"\0")

    @staticmethod
    def parse(header: bytes) -> Identity | None:
        """From the first COUNT_AT bytes of a file; None if it is no board of this layout."""
        if len(header) != COUNT_AT:
            return None
        magic, slots, slot, uid, attempt, pidns, run, boot = _IDENTITY.unpack_from(header)
        if (magic, slots, slot) != (_MAGIC, SLOTS, SLOT):
            return None
        try:
            return Identity(run.decode("ascii"), attempt, uid, boot.rstrip(b"\0").decode("ascii"), pidns)
        except UnicodeDecodeError:
            return None


def read_slots(data: bytes) -> list[Slot]:
    """From the bytes of whole slots."""
    return [Slot._make(words) for words in _SLOT.iter_unpack(data)]
