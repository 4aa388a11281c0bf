"""Capture: the memory of units frozen, so that the program can go on while they are written.

`copy`: into slots of an arena. With more state than the arena has slots, the writers begin at once and the copy goes on as
they give slots back: the program waits longer, and memory stays bounded. `hold`: memory that can't change is only referred
to. `direct`: likewise, and the caller has the program wait until it is written.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from ..capture.arena import SLOT, Arena
from ..errors import DeadlineError
from ..store.base import Bytes
from .units import Piece, Unit, no_release
from .workers import work_through
from .write import Writing, fill

# Bytes that one copy moves. A copy of more than about three quarters of the last cache writes past it, and is nearly twice as
# fast as one in pieces of a slot; but all threads are to have something to do.
SHORTEST, LONGEST = 64 << 20, 256 << 20
_LOOK = 0.1  # seconds after which who waits for room looks whether the version is given up, by an interrupt
ALONE = 16 << 20  # bytes that are copied sooner than a second thread has begun


def freeze(
    units: Sequence[tuple[int, Unit]], arena: Arena | None, writing: Writing, threads: int, patience: float
) -> float:
    """Capture all units and put them to `writing`; when this returns the program may go on (except for `direct`).

    Copies with `threads` threads. Returns the seconds that it waited for room in the arena. DeadlineError if none came
    free for `patience` seconds.
    """
    for number, unit in units:
        if unit.how != "copy":
            writing.put(number, unit, no_release)
    copied = [pair for pair in units if pair[1].how == "copy"]
    if not copied:
        return 0.0
    assert arena is not None
    whole, bundles = _sort(copied)
    total = sum(u.nbytes for _, u in copied)
    if total < ALONE:
        threads = 1
    runs = list(runs_of(whole, max(SHORTEST, min(LONGEST, total // threads))))
    waited = 0.0
    given_up: list[BaseException] = []
    if len(whole) + len(bundles) > arena.slots:
        writing.begin()

    def take(count: int) -> range:
        nonlocal waited
        began = time.perf_counter()
        slots = arena.take_run(count, 0)
        if slots is None:
            writing.begin()
            while slots is None and not given_up and time.perf_counter() - began < patience:
                slots = arena.take_run(count, min(patience, _LOOK))
            waited += time.perf_counter() - began
        if slots is None:
            raise DeadlineError(
                f"Capturing the state waited {patience:.4g} s for the disk to take what was captured before. The version is "
                "given up; those before are intact. See whether the disk hangs; raise the option `timeout` if it is slow."
            )
        return slots

    def copy(i: int, _: None) -> None:
        if i >= len(runs):
            return _bundle(bundles[i - len(runs)], arena, take(1)[0], writing)
        run = runs[i]
        while run:
            slots = take(len(run))
            _copy(run[: len(slots)], arena, slots, writing)
            run = run[len(slots) :]

    work_through(range(len(runs) + len(bundles)), threads, lambda: None, copy, given_up)
    return waited


def slots(sizes: Iterable[int]) -> int:
    """How many slots of an arena units of these sizes take, in bytes."""
    whole, bundles = _sort([(i, Unit(nbytes, (), ())) for i, nbytes in enumerate(sizes)])
    return len(whole) + len(bundles)


def _sort(units: Sequence[tuple[int, Unit]]) -> tuple[list[tuple[int, Unit]], list[list[tuple[int, Unit]]]]:
    """(units that have a slot each, bundles of smaller ones that share one)."""
    whole, bundles, room = [], [], 0
    for pair in units:
        nbytes = pair[1].nbytes
        if 2 * nbytes > SLOT:
            whole.append(pair)
            continue
        if nbytes > room:
            bundles.append([pair])
            room = SLOT
        else:
            bundles[-1].append(pair)
        room -= nbytes
    return whole, bundles


def runs_of(units: Sequence[tuple[int, Unit]], most: int) -> Iterator[list[tuple[int, Unit]]]:
    """Units whose memory is one piece after the other, together up to `most` bytes; others alone."""
    run: list[tuple[int, Unit]] = []
    for number, unit in units:
        if run and not (_follows(run[-1][1], unit) and len(run) * SLOT < most):
            yield run
            run = []
        run.append((number, unit))
    if run:
        yield run


def _follows(before: Unit, unit: Unit) -> bool:
    """Whether the unit's bytes are those behind `before`, which fills its slot: one copy will do for both."""
    if len(before.pieces) != 1 or len(unit.pieces) != 1 or before.pieces[0].memory.nbytes != SLOT:
        return False
    return before.blocks[0].buffer == unit.blocks[0].buffer and before.blocks[0].start + SLOT == unit.blocks[0].start


def _copy(run: Sequence[tuple[int, Unit]], arena: Arena, slots: range, writing: Writing) -> None:
    """Copy a run into neighbouring slots and put its units."""
    memory = arena.view(slots[0], len(slots))
    try:
        fill_run(run, memory)
    except BaseException:
        for slot in slots:
            arena.give(slot)
        raise
    for k, (number, unit) in enumerate(run):
        piece = memory[k * SLOT : k * SLOT + unit.nbytes]
        writing.put(number, unit._replace(pieces=(Piece(0, piece),), how="frozen"), _giver(arena, slots[k]))


def fill_run(run: Sequence[tuple[int, Unit]], memory: Bytes) -> None:
    """Gather a run's units in `memory`, one behind the other: all but the last fill a slot. By one copy where it can be."""
    if len(run) == 1:
        return fill(run[0][1], memory[: run[0][1].nbytes])
    first, last = run[0][1].pieces[0].memory, run[-1][1].pieces[0].memory
    nbytes = (len(run) - 1) * SLOT + last.nbytes
    # The pieces are views of one buffer, one after the other.
    memory[:nbytes] = np.lib.stride_tricks.as_strided(first, (nbytes,), (1,))
    memory[nbytes : (len(run) - 1) * SLOT + run[-1][1].nbytes] = 0


def _bundle(bundle: Sequence[tuple[int, Unit]], arena: Arena, slot: int, writing: Writing) -> None:
    """Copy some units into one slot and put them; it is given back when the last of them is written."""
    memory, at = arena.view(slot), 0
    held = threading.Semaphore(len(bundle) - 1)  # units that are still to be written beside this one

    def release() -> None:
        if not held.acquire(blocking=False):
            arena.give(slot)

    try:
        for _, unit in bundle:
            fill(unit, memory[at : at + unit.nbytes])
            at += unit.nbytes
    except BaseException:
        arena.give(slot)
        raise
    at = 0
    for number, unit in bundle:
        piece = Piece(0, memory[at : at + unit.nbytes])
        writing.put(number, unit._replace(pieces=(piece,), how="frozen"), release)
        at += unit.nbytes


def _giver(arena: Arena, slot: int) -> Callable[[], None]:
    return lambda: arena.give(slot)
