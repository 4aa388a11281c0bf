"""Which of the storage calls faults are aimed at, where not at all of them: one of those at which the outcome can't differ.

`make campaign` (part E) goes through all of them.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Iterable, Sequence

from faults import Call

_READING = {"close", "fs_type", "fstat", "fsync", "lstat", "pread", "pread_cached", "scandir", "statvfs"}
_OPEN_ALREADY = {"close", "fs_type", "fstat", "fsync", "pread", "pread_cached", "statvfs"}


def changes(call: Call) -> bool:
    """Whether a process that is killed before this call leaves something else than one that is killed after it. An fsync
    makes no difference: what it forces to the disk, the machine that goes on has anyway."""
    creating = (call.flags or 0) & (os.O_CREAT | os.O_TRUNC)
    return bool(creating) if call.name == "open" else call.name not in _READING


def meets(call: Call) -> bool:
    """Whether it matters if another process comes before or after this call: it looks a name up, or changes something. What
    is open already is a file that nobody else changes, and that stays readable when its name is gone."""
    return call.name not in _OPEN_ALREADY


def one_of_each(calls: Sequence[Call], told_apart: Callable[[Call], bool], seed: int, every: int = 1) -> list[Call]:
    """One call, at random, of each stretch that ends with one that is `told_apart`: a fault before any other of the stretch
    would meet the same. Of these, each `every`-th stretch, and one of each kind that would be missing then."""
    rng = random.Random(seed)
    stretches: list[list[Call]] = [[]]
    for call in calls:
        stretches[-1].append(call)
        if told_apart(call):
            stretches.append([])
    stretches = [stretch for stretch in stretches if stretch]
    chosen = set(range(rng.randrange(every), len(stretches), every))
    kinds: dict[str, list[int]] = {}
    for i, stretch in enumerate(stretches):
        kinds.setdefault(_kind(stretch[-1]), []).append(i)
    chosen |= {rng.choice(found) for found in kinds.values() if chosen.isdisjoint(found)}
    return [rng.choice(stretches[i]) for i in sorted(chosen)]


def of_process(points: Iterable[Call], share: tuple[int, int]) -> list[Call]:
    """Those that fall to this process: from the k-th on, each n-th."""
    return list(points)[share[0] :: share[1]]


def _kind(call: Call) -> str:
    """What is done to which file, whatever its version, attempt and rank."""
    return re.sub(r"\d+", "#", re.sub(r"\.tmp-.*", ".tmp", f"{call.name} {call.path}"))
