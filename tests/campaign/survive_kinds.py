"""The kinds of faults of part G, the settings in which each can be done, and seeded plans and choices of them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

RANK, ZERO, TWO, SPARE, SECOND = "a rank", "rank 0", "two ranks at once", "a spare", "a second death, 1 to 200 ms later"
SEGV, STOP = "SIGSEGV", "a rank hangs (SIGSTOP)"
COLLECTIVE, COLLECTIVE_3 = "exit in a collective, status 0", "exit in a collective, status 3"
CHECKPOINT = "death during a checkpoint"
CAPTURE, ENCODE, COMMIT = "death during capture", "death while parity is computed", "death at the commit"
RESTORE, REPAIR = "a second death, while restoring", "a second death, in the repair"
MPIRUN, SUPERVISOR, EVERYTHING = "mpirun", "the supervisor", "everything, with the nodes' memory"
EIO, FULL, FULL_DISK = "EIO on a rank", "ENOSPC on all ranks", "a full file system"
ZOMBIES = "everything stops, and comes back behind the next start"
FLIP, FLIP_MEMORY = "everything, a bit flips in the run's store", "everything, a bit flips in memory"
FLIP_LOCAL, FLIP_SET = "everything, a bit flips at the local level", "everything, a bit flips, with redundancy"
NODE, LINK = "a node", "a node's link is cut"

ON_NODES = (NODE, LINK)  # in jobs on stand-in nodes (`survive_nodes.py`)
GO_ON = (SPARE, EIO, FULL, FULL_DISK)  # the program may go on as if nothing had been
# In place, given enough spares.
REPAIRABLE = (
    RANK, ZERO, TWO, SECOND, SEGV, COLLECTIVE, COLLECTIVE_3, STOP, CHECKPOINT, CAPTURE, ENCODE, COMMIT, RESTORE, REPAIR,
)  # fmt: skip
ANEW = (MPIRUN, SUPERVISOR, EVERYTHING, ZOMBIES, FLIP, FLIP_MEMORY, FLIP_LOCAL, FLIP_SET)  # the program is started again
KINDS = (*REPAIRABLE, *GO_ON, *ANEW, *ON_NODES)
# Kinds that take long, or end in a new start more often than not; and how many of them will do.
COSTLY, ENOUGH = (COLLECTIVE_3, STOP, SECOND, RESTORE, REPAIR, *ANEW), 31
SOONEST, LATEST = 4, 8  # steps of progress before a fault: at least one version is written in between


class Setting(Enum):
    """Where a job's versions go. SEATS is replaced by levels of redundancy in turn: each process is a node of its own there."""

    STORE = "global"
    MEMORY = "memory,global"
    LOCAL = "local,global"
    XOR = "memory,xor,global"
    PARTNER = "memory,partner,global"
    SMALL = "global, a small file system"  # a tmpfs of its own, which can be filled up
    DIGITS = "global, one process"  # `examples/digits.py` in the place of heat on several ranks

    @property
    def seats(self) -> bool:
        """Whether each process is a node of its own. Then nobody beside it sees that it stands still, or left by itself."""
        return self in (Setting.XOR, Setting.PARTNER)


# With one process there are neither spares nor others to go on: all of it is started again.
_ALONE = (ZERO, SEGV, CHECKPOINT, CAPTURE, COMMIT, EIO, FULL, SUPERVISOR, EVERYTHING, ZOMBIES, FLIP)

# Kinds that are not for all settings.
_ONLY: dict[str, tuple[Setting, ...]] = {
    ENCODE: (Setting.XOR,),
    FULL_DISK: (Setting.SMALL,),
    FLIP: (Setting.STORE, Setting.SMALL, Setting.DIGITS),
    FLIP_MEMORY: (Setting.MEMORY,),
    FLIP_LOCAL: (Setting.LOCAL,),
    FLIP_SET: (Setting.XOR, Setting.PARTNER),
}


def possible(kind: str, setting: Setting) -> bool:
    if kind in ON_NODES or (setting.seats and kind in (STOP, COLLECTIVE_3)):
        return False
    if setting is Setting.DIGITS and kind not in _ALONE:
        return False
    return kind not in _ONLY or setting in _ONLY[kind]


def spares_for(kind: str) -> int:
    """Spares that have to wait for the fault to be repaired in place."""
    return 2 if kind in (TWO, SECOND, RESTORE, REPAIR) else 1 if kind in REPAIRABLE else 0


@dataclass(frozen=True)
class Fault:
    """`after` steps of progress, then `delay` seconds; `chance`: seed of what is chosen within (victims, times)."""

    kind: str
    after: int
    delay: float
    chance: int


def fault(kind: str, chance: random.Random) -> Fault:
    return Fault(kind, chance.randint(SOONEST, LATEST), chance.uniform(0, 0.02), chance.getrandbits(32))


def choose(
    chance: random.Random,
    setting: Setting,
    counts: Mapping[str, int],
    spares: int,
    costly: bool,
    kinds: Sequence[str] = KINDS,
) -> str | None:
    """The rarest kind so far, of those that are possible and for which there are `spares` enough. None if there is none.

    `costly`: of those that take long, while there have not been enough of them; else of the others, and, where the spares are
    used up, of those that start the program anew."""
    can = [kind for kind in kinds if possible(kind, setting)]
    if setting is Setting.DIGITS:
        return min(can, key=lambda kind: (counts.get(kind, 0), chance.random()), default=None)
    anew = [kind for kind in can if kind in ANEW]
    here = [kind for kind in can if kind not in ANEW and spares_for(kind) <= spares and (kind != SPARE or spares)]
    cheap = [kind for kind in here if kind not in COSTLY]
    slow = [kind for kind in (*here, *anew) if kind in COSTLY and counts.get(kind, 0) < ENOUGH]
    some = slow if costly and slow else cheap if spares >= 2 else anew or cheap
    return min(some, key=lambda kind: (counts.get(kind, 0), chance.random()), default=None)


def plan(jobs: int, seed: int, kinds: Sequence[str], per_job: int) -> list[list[Fault]]:
    """The faults of each job. Kinds are dealt from a shuffled deck that holds each once, anew when it is empty."""
    chance = random.Random(seed)
    deck: list[str] = []
    planned = []
    for _ in range(jobs):
        faults = []
        for _ in range(per_job):
            if not deck:
                deck = chance.sample(kinds, len(kinds))
            faults.append(fault(deck.pop(), chance))
        # While there are spares: later there may be none, and the kind would never be hit.
        planned.append(sorted(faults, key=lambda fault: fault.kind != SPARE))
    return planned
