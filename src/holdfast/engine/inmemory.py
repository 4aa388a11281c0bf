"""Extents of files in memory, handed over where they stand, in long runs: all of a run verified before any of it is.

The time that this takes is that of moving memory, so no byte is moved that need not be: nothing is read into staging memory,
and a run is so long that copying it does not read first what it overwrites, as a memcpy of a few blocks does. Between
verifying and copying nothing changes: a data file that has a name is never written to.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from ..errors import DamageError
from ..format import Extent, digest
from ..store.base import Bytes
from .datafiles import DataFiles
from .workers import work_through

RUN = 128 << 20  # bytes of a run at least, if there is so much for each thread: some C libraries ask for 100 MiB

# Called with numbers of extents of one file, and with memory that has the file's bytes from a byte on: that byte comes first.
Deliver = Callable[[Sequence[int], int, Bytes], None]


def hand_over(
    files: DataFiles, threads: int, extents: Sequence[Extent], numbers: Sequence[int], name: str, deliver: Deliver
) -> Sequence[int]:
    """Verify the extents with these numbers that are in files in memory, and `deliver` them in runs, by at most `threads`
    threads. Returns the numbers of the others, which have to be read. `name`: the object, for messages.

    The first DamageError is raised; of that run nothing was delivered."""
    threads = min(threads, len(os.sched_getaffinity(0)))  # nothing here waits for a device: more would take turns
    looked_at = {source: _in_memory(files, source) for source in {extents[i].source for i in numbers}}
    here = [i for i in numbers if looked_at[extents[i].source]]
    if not here:
        return numbers
    rest = [i for i in numbers if not looked_at[extents[i].source]]
    runs = list(_cut(extents, here, _length(sum(extents[i].nbytes for i in here), threads)))

    def work(k: int, _: None) -> None:
        run = runs[k]
        for i in run:
            e = extents[i]
            block = files.view(e.source, e.offset, e.nbytes)
            if block is None:  # not any more: whoever reads the file will say why
                rest.extend(run)
                return
            if digest(block) != e.digest:
                raise files.damage(e.source, e.offset, name, f"is damaged in the block at byte {e.offset}")
        source, first = extents[run[0]].source, extents[run[0]].offset
        memory = files.view(source, first, max(extents[i].offset + extents[i].nbytes for i in run) - first)
        if memory is None:
            rest.extend(run)
        else:
            deliver(run, first, memory)

    work_through(range(len(runs)), threads, lambda: None, work)
    return rest


def _in_memory(files: DataFiles, source: int) -> bool:
    with suppress(DamageError):  # a file that is cut short is told with the object that needs it
        return files.view(source, 0, 0) is not None
    return False


def _length(nbytes: int, threads: int) -> int:
    """Of a run of `nbytes` in all: RUN or more, and as many runs for each thread, so that none waits long for the last."""
    return -(-nbytes // (threads * max(1, nbytes // (threads * RUN))))


def _cut(extents: Sequence[Extent], numbers: Sequence[int], length: int) -> Iterator[list[int]]:
    """Runs of extents of one file each, in the order of the files, of at most `length` bytes or one extent."""
    run: list[int] = []
    nbytes = 0
    for i in sorted(numbers, key=lambda i: (extents[i].source, extents[i].offset)):
        e = extents[i]
        if run and (e.source != extents[run[0]].source or nbytes + e.nbytes > length):
            yield run
            run, nbytes = [], 0
        run.append(i)
        nbytes += e.nbytes
    if run:
        yield run
