"""`examples/heat.py` for the account of goodput: the example's own code at the cadence that Holdfast chooses, steps tallied.

What differs from the example: `auto` stands in for its fixed interval, or no checkpoint at all for the undisturbed runs that
it is compared with.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import heat

import holdfast
from campaign.goodput_tally import Row, Tally
from campaign.survive_moments import note_repairs
from campaign.survive_notes import Notebook, What

DIRECTORY = Path(os.environ["GOODPUT_NOTES"])
CADENCE = os.environ.get("GOODPUT_CADENCE", "auto")  # "auto", "auto SECONDS" (the MTBF that it is told), "SECONDS", or "never"
BOOK, TALLY = Notebook(DIRECTORY), Tally(DIRECTORY)


def cadence() -> holdfast.Every:
    kind, _, mtbf = CADENCE.partition(" ")
    if kind == "auto":
        return holdfast.auto(float(mtbf) if mtbf else None)
    return holdfast.steps(1 << 40) if kind == "never" else holdfast.seconds(float(kind))


class Tallied:
    """The run as the example sees it, its steps counted and timed (all ranks)."""

    def __init__(self, run: holdfast.Run) -> None:
        self._run = run

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run, name)

    def steps(self, n: int, **_: Any) -> Iterator[int]:
        run, rank, clock = self._run, self._run.comm.rank, time.monotonic
        row = Row(attempt=run.attempt, rank=rank)
        version: object = None
        before, taken = math.nan, 0.0
        for step in run.steps(n, every=cadence()):
            began = clock()
            handle = run._x.writer.flying
            if math.isnan(before):
                row.first = row.done = step
                row.resumed_at = row.last_at = began
                TALLY.begin(row)
                BOOK.note(What.RESUMED, rank, run.attempt, step)
            else:
                row.heads += began - before
            if handle is not version:
                row.flown += began - taken if version is not None else 0.0
                row.taken += handle is not None
                version, taken = handle, began
            yield step
            before = clock()
            if handle is not None:
                row.flying += 1
                row.flying_seconds += before - began
            else:
                row.usual += 1
                row.usual_seconds += before - began
            row.done, row.last_at = step + 1, before
            TALLY.write()
            if step == row.first:
                BOOK.note(What.STEP, rank, run.attempt, step + 1)


def main() -> None:
    BOOK.note(What.STARTED)
    note_repairs(BOOK)
    heat_simulate: Any = heat.simulate

    def simulate(run: holdfast.Run, args: Any) -> None:
        BOOK.note(What.OPENED, run.comm.rank, run.attempt)
        heat_simulate(Tallied(run), args)

    heat.simulate = simulate
    heat.main()


if __name__ == "__main__":
    main()
