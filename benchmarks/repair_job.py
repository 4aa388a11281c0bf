"""The program of `repair.py`: a state of so many MiB on each rank, in steps of some milliseconds; notes what it does.

    repair_job.py MIB EVERY [fresh]

A step rewrites a sixteenth of the state and meets the other ranks. SIGUSR2 makes a rank hang: its program does not come back.
The array is made once in each process, spares included, and filled by the program if there is nothing to resume from; with
`fresh` each call makes and fills one, whose memory is touched for the first time then.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from campaign.survive_moments import note_repairs
from campaign.survive_notes import Notebook, What

import holdfast

PARTS = 16
PAUSE = 0.002  # seconds of sleep in a step
BOOK = Notebook(Path(os.environ["GOODPUT_NOTES"]))


def hang(*_: object) -> None:
    """As a loop that does not end."""
    BOOK.note(What.TRAPPED)
    while True:
        time.sleep(3600)


def simulate(run: holdfast.Run) -> None:
    """Without an end: the driver ends it."""
    comm, known = run.comm, (run.comm.rank, run.attempt)
    BOOK.note(What.OPENED, *known)
    signal.signal(signal.SIGUSR2, hang)
    values = np.empty(MIB << 17) if FRESH else ARRAY
    if FRESH or not run.resumed:
        values[:] = comm.rank
    u = run.protect("u", values)
    part, first = u.size // PARTS, True
    for step in run.steps(every=holdfast.seconds(EVERY)):
        if first:
            BOOK.note(What.RESUMED, *known, step)
        at = step % PARTS * part
        u[at : at + part] += 1.0
        comm.allreduce(step)
        if first or step % 50 == 0:  # a book has room for thousands, not for all
            BOOK.note(What.STEP, *known, step + 1)
            check(u, comm.rank, step)
        first = False
        time.sleep(PAUSE)


def check(u: np.ndarray, rank: int, step: int) -> None:
    """What was restored must be what it was: each part has been added to once in PARTS steps."""
    for i in range(PARTS):
        expected = rank + (step - i) // PARTS + 1
        if u[i * (u.size // PARTS)] != expected or u[(i + 1) * (u.size // PARTS) - 1] != expected:
            raise SystemExit(f"rank {rank}, step {step}: part {i} is {u[i * (u.size // PARTS)]}, not {expected}")


if __name__ == "__main__":
    MIB, EVERY, FRESH = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:] == ["fresh"]
    ARRAY = np.full(0 if FRESH else MIB << 17, -1.0)
    BOOK.note(What.STARTED)
    note_repairs(BOOK)
    holdfast.launch(simulate, "run")
