"""The kinds of faults of part G, and a seeded plan that has each of them equally often."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

EXITS = False  # whether Open MPI tells of a process that exits by itself with another status than 0: none has noticed it yet
HANGS = True  # whether stopped ranks are found and ended: by `health`, after two seconds

RANK, ZERO, TWO, SPARE, SECOND = "a rank", "rank 0", "two ranks at once", "a spare", "a second death, 1 to 200 ms later"
SEGV, STOP = "SIGSEGV", "a rank hangs (SIGSTOP)"
COLLECTIVE, COLLECTIVE_3 = "exit in a collective, status 0", "exit in a collective, status 3"
CHECKPOINT = "death during a checkpoint"
RESTORE, REPAIR = "a second death, while restoring", "a second death, in the repair"
MPIRUN, SUPERVISOR, EVERYTHING = "mpirun", "the supervisor", "everything, with the node's memory"
EIO, FULL, FLIP = "EIO on a rank", "disk full on all ranks", "everything, and a bit flips in the newest version"

KINDS = (
    RANK, ZERO, TWO, SPARE, SECOND, SEGV, COLLECTIVE, *((COLLECTIVE_3,) if EXITS else ()), *((STOP,) if HANGS else ()),
    CHECKPOINT, RESTORE, REPAIR,
    MPIRUN, SUPERVISOR, EVERYTHING, EIO, FULL, FLIP,
)  # fmt: skip

GO_ON = (SPARE, EIO, FULL)  # the program may go on as if nothing had been
# In place, given enough spares.
REPAIRABLE = (RANK, ZERO, TWO, SECOND, SEGV, COLLECTIVE, COLLECTIVE_3, STOP, CHECKPOINT, RESTORE, REPAIR)
PER_JOB = 4  # faults of one job
SOONEST, LATEST = 6, 24  # steps of progress before a fault: at least one version is written in between


@dataclass(frozen=True)
class Fault:
    """`after` steps of progress, then `delay` seconds; `chance`: seed of what is chosen within (victims, times)."""

    kind: str
    after: int
    delay: float
    chance: int


def plan(jobs: int, seed: int, kinds: Sequence[str] = KINDS, per_job: int = PER_JOB) -> list[list[Fault]]:
    """The faults of each job. Kinds are dealt from a shuffled deck that holds each once, anew when it is empty."""
    chance = random.Random(seed)
    deck: list[str] = []
    planned = []
    for _ in range(jobs):
        faults = []
        for _ in range(per_job):
            if not deck:
                deck = chance.sample(kinds, len(kinds))
            when = chance.randint(SOONEST, LATEST), chance.uniform(0, 0.02)
            faults.append(Fault(deck.pop(), *when, chance.getrandbits(32)))
        # While there are spares: later there may be none, and the kind would never be hit.
        planned.append(sorted(faults, key=lambda fault: fault.kind != SPARE))
    return planned
