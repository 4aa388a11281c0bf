"""Capture: the memory of units frozen, so that the program can go on while they are written.

`copy`: into slots of an arena. With more state than the arena has slots, the writers begin at once and the copy goes on as
they give slots back: the program waits longer, and memory stays bounded. `hold`: memory that can't change is only referred
to. `direct`: likewise, and the caller has the program wait until it is written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ..capture.arena import Arena
from ..errors import DeadlineError
from .units import Piece, Unit
from .workers import work_through
from .write import Writing, fill


def freeze(
    units: Sequence[tuple[int, Unit]], arena: Arena | None, writing: Writing, threads: int, patience: float
) -> float:
    """Capture all units and put them to `writing`; when this returns the program may go on (except for `direct`).

    Copies with `threads` threads. Returns the seconds that it waited for room in the arena. DeadlineError if none came
    free for `patience` seconds.
    """
    for number, unit in units:
        if unit.how != "copy":
            writing.put(number, unit, _nothing)
    copied = [pair for pair in units if pair[1].how == "copy"]
    if not copied:
        return 0.0
    assert arena is not None
    waited = 0.0
    if len(copied) > arena.slots:
        writing.begin()

    def copy(i: int, _: None) -> None:
        nonlocal waited
        number, unit = copied[i]
        began = time.perf_counter()
        slot = arena.take(0)
        if slot is None:
            writing.begin()
            slot = arena.take(patience)
            waited += time.perf_counter() - began
        if slot is None:
            raise DeadlineError(
                f"Capturing the state waited {patience:.4g} s for the disk to take what was captured before. The version is "
                "given up; those before are intact. See whether the disk hangs; raise the option `timeout` if it is slow."
            )
        memory = arena.view(slot)[: unit.nbytes]
        try:
            fill(unit, memory)
        except BaseException:
            arena.give(slot)
            raise
        writing.put(number, unit._replace(pieces=(Piece(0, memory),), how="frozen"), _giver(arena, slot))

    work_through(range(len(copied)), threads, lambda: None, copy)
    return waited


def _giver(arena: Arena, slot: int) -> Callable[[], None]:
    return lambda: arena.give(slot)


def _nothing() -> None:
    return None
