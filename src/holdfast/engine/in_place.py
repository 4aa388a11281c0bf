"""Units captured into the data file itself, where that is a file in memory: nothing is left to be written.

Each unit is copied, while the program waits, to where it stands if all of them are kept. Beside the program they are digested
there; what turns out to be as the version before has it goes, and what stands behind it moves up, so that the file is as
compact as a written one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from itertools import accumulate

from ..store.memoryfile import MemoryFile
from .freeze import ALONE, LONGEST, SHORTEST, fill_run, runs_of
from .units import Unit, Written
from .workers import step_back, work_through
from .write import fill, unit_digests


class InPlaceWriting:
    """A data file that is captured into (a `Writing`). `file`: at least `Plan.most` bytes; `key`: the data file's; `threads`:
    how many digest beside the program."""

    def __init__(self, file: MemoryFile, key: str, threads: int) -> None:
        self._file, self._key, self._threads = file, key, threads
        self._units: list[Unit] = []
        self._late: set[int] = set()  # numbers of the units whose memory is not in the file yet

    def capture(self, units: Sequence[Unit], threads: int) -> None:
        """Copy all units, numbered from 0, to their places in the file, by `threads` threads; then the program may go on. What
        is to be held is copied by `finish`."""
        memory = self._file.view
        places = _places(units)
        numbered = list(enumerate(units))
        copied = [pair for pair in numbered if pair[1].how == "copy"]
        total = sum(unit.nbytes for _, unit in copied)
        threads = 1 if total < ALONE else threads
        runs = list(runs_of(copied, max(SHORTEST, min(LONGEST, total // threads))))

        def copy(i: int, _: None) -> None:
            run = runs[i]
            first, last = places[run[0][0]], places[run[-1][0]] + run[-1][1].nbytes
            fill_run(run, memory[first:last])

        work_through(range(len(runs)), threads, lambda: None, copy)
        self._units = [unit if unit.how == "hold" else unit._replace(pieces=()) for unit in units]
        self._late = {number for number, unit in numbered if unit.how == "hold"}

    def put(self, number: int, unit: Unit, release: Callable[[], None]) -> None:
        """A further unit, of memory that does not change; in the order of numbers."""
        self._late.add(number)
        self._units.append(unit)
        release()  # nobody waits to have it back

    def begin(self) -> None:
        """Nothing waits for what was put before."""

    def finish(self) -> tuple[list[Written], int]:
        written, end = self._compact()
        self._units = []
        self._file.finish(self._key, end)
        return written, end

    def _compact(self) -> tuple[list[Written], int]:
        """Digest all, and close the gaps of what is as it was: what became of each unit, and where the last one ends."""
        memory, units = self._file.view, self._units
        places = _places(units)
        digests: list[Sequence[bytes]] = [()] * len(units)

        def look(number: int, _: None) -> None:
            unit = units[number]
            here = memory[places[number] : places[number] + unit.nbytes]
            if number in self._late:
                fill(unit, here)
            digests[number] = unit_digests(unit, here)

        caller = threading.get_ident()  # which may be the program's own thread

        def begin() -> None:
            if threading.get_ident() != caller:
                step_back()

        work_through(range(len(units)), self._threads, begin, look)
        written, end = [], 0
        for unit, place, found in zip(units, places, digests, strict=True):
            if unit.skippable and all(d == b.known for d, b in zip(found, unit.blocks, strict=True)):
                written.append(Written(None, found))
                continue
            if end < place:
                memory[end : end + unit.nbytes] = memory[place : place + unit.nbytes]
            written.append(Written(end, found))
            end += unit.nbytes
        return written, end

    def abort(self) -> None:
        self._units = []
        self._file.abort()


def _places(units: Sequence[Unit]) -> list[int]:
    """Where each unit stands if all are kept: one behind the other."""
    return [0, *accumulate(unit.nbytes for unit in units)][:-1]


__all__ = ["InPlaceWriting"]
