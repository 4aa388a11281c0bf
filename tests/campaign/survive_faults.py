"""What part G does to a job's ranks from outside: each kind of fault, and whether it took effect."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from . import survive_kinds as kinds
from .survive_job import HeatJob
from .survive_kinds import Fault
from .survive_notes import ALL, Moment, Process, What, start_of, state_of

LATE = 5.0  # seconds after which a moment is given up
TAKES = 3.0  # seconds in which an effect must be seen
CALM = 30_000  # microseconds that a step sleeps while it is looked at whether the job goes on


@dataclass
class Struck:
    """A fault that was carried out. `first`, `at`: times of its first and its last blow; `attempt` and `execution` before it;
    `pids`: whom it hit, with start times; `took`: whether it was seen to take effect, and in time; `why`: if not; `damaged`:
    versions in the run's store that are not whole any more; `spares` that waited before it; `printed`: length of the output
    before it; `later`: what is left to be looked at, or done, when the job computes again; `wrong`: problems seen
    then, `told`: what is worth to be counted of it."""

    kind: str
    attempt: int
    execution: str
    first: float = 0.0
    at: float = 0.0
    pids: list[tuple[int, int]] = field(default_factory=list)
    took: bool = False
    why: str = ""
    damaged: tuple[int, ...] = ()
    spares: int = 0
    printed: int = 0
    later: Callable[[], None] | None = None
    wrong: list[str] = field(default_factory=list)
    told: tuple[str, ...] = ()


Blow = Callable[[HeatJob, dict[int, Process], random.Random, Struck], bool]


def strike(job: HeatJob, fault: Fault, blow: Blow) -> Struck | None:
    """Carry out a fault on a job that computes; None if there is nobody for it to hit. Returns once its effect is seen."""
    chance = random.Random(fault.chance)
    attempt = job.attempt
    by_rank = job.holders(attempt)
    struck = Struck(fault.kind, attempt, by_rank[0].execution)
    struck.spares = job.idle(struck.execution)
    struck.printed = job.job.output.stat().st_size
    if fault.kind in kinds.GO_ON:
        job.orders.slow = CALM  # until it is seen that it goes on: not to its end before the faults behind this one
    return struck if blow(job, by_rank, chance, struck) else None


def hit(struck: Struck, processes: Iterable[tuple[int, int]], number: int = signal.SIGKILL) -> None:
    """Send a signal to all of them, and see to it that it took effect. They are named by pid and start time."""
    victims = [
        (pid, start) for pid, start in processes if start and start_of(pid) == start and state_of(pid) not in "ZX"
    ]
    struck.at = time.monotonic()  # before: on a busy machine others may notice sooner than this goes on
    for pid, _ in victims:
        with contextlib.suppress(ProcessLookupError):  # gone in between
            os.kill(pid, number)
    struck.first = struck.first or struck.at
    struck.pids += victims
    gone = "T" if number == signal.SIGSTOP else "ZX"
    until = struck.at + TAKES
    while any(start_of(pid) == start and state_of(pid) not in gone for pid, start in victims):
        if time.monotonic() > until:
            struck.took, struck.why = False, "the signal had no effect"
            return
        time.sleep(0.001)
    struck.took = bool(victims)
    struck.why = "" if victims else "nobody was left to be hit"


def _named(*processes: Process) -> list[tuple[int, int]]:
    return [(p.pid, p.start) for p in processes]


def _living(job: HeatJob, struck: Struck) -> list[Process]:
    """Ranks and spares of the start of the program that was hit."""
    return [p for p in job.look() if p.execution == struck.execution and p.alive]


def _ranks(choose: Callable[[random.Random, int], Iterable[int]], number: int = signal.SIGKILL) -> Blow:
    """`choose`: of so many ranks."""

    def blow(job: HeatJob, by_rank: dict[int, Process], chance: random.Random, struck: Struck) -> bool:
        hit(struck, _named(*(by_rank[rank] for rank in choose(chance, job.ranks))), number)
        return True

    return blow


def _any_rank(chance: random.Random, ranks: int) -> Iterable[int]:
    return [chance.randrange(ranks)]


def _spare(job: HeatJob, by_rank: dict[int, Process], chance: random.Random, struck: Struck) -> bool:
    idle = [p for p in _living(job, struck) if p.idle]
    if idle:
        hit(struck, _named(chance.choice(idle)))
    return bool(idle)


def _second(moment: Callable[[HeatJob, Struck, random.Random], bool]) -> Blow:
    """A rank, then, as soon as `moment` returns, another process of the same start; it says whether the moment is right."""

    def blow(job: HeatJob, by_rank: dict[int, Process], chance: random.Random, struck: Struck) -> bool:
        hit(struck, _named(by_rank[chance.randrange(job.ranks)]))
        first = struck.took
        right = moment(job, struck, chance)
        if living := _living(job, struck):
            hit(struck, _named(chance.choice(living)))
        else:
            struck.took, struck.why = False, "all had left before the second blow"
        if not right:
            struck.took, struck.why = False, "the second blow came too late"
        struck.took = struck.took and first
        return True

    return blow


def _later(job: HeatJob, struck: Struck, chance: random.Random) -> bool:
    time.sleep(chance.uniform(0.001, 0.2))
    return True


def _noted(begin: What, end: What, longest: float) -> Callable[[HeatJob, Struck, random.Random], bool]:
    """Between two notes: after the first `begin` of a process, before the first `end`."""

    def moment(job: HeatJob, struck: Struck, chance: random.Random) -> bool:
        until = struck.at + 15
        while not (begun := _after(job, struck, begin)) and time.monotonic() < until:
            time.sleep(0.0005)
        time.sleep(chance.uniform(0, longest))
        return begun and not _after(job, struck, end)

    return moment


def _after(job: HeatJob, struck: Struck, what: What) -> bool:
    found = (n for p in job.look() if p.execution == struck.execution for n in p.notes[-8:])
    return any(n.what is what and n.at > struck.first and n.attempt != struck.attempt for n in found)


def _collective(status: int) -> Blow:
    def blow(job: HeatJob, by_rank: dict[int, Process], chance: random.Random, struck: Struck) -> bool:
        rank = chance.randrange(job.ranks)
        victim = by_rank[rank]
        job.orders.trap_after, job.orders.trap_status = chance.randint(1000, 8000), status
        job.orders.trap = rank
        job.wait("a rank that leaves", lambda: not victim.alive, 30)
        victim.read()
        struck.first = struck.at = victim.notes[-1].at
        struck.pids = _named(victim)
        struck.took = victim.notes[-1].what is What.TRAPPED
        struck.why = "" if struck.took else "it ended in another way"
        return True

    return blow


def _moment(moment: Moment, choose: Callable[[random.Random, int], tuple[int, int]]) -> Blow:
    """A rank that kills itself in the midst of something; `choose`: which of so many ranks, and which of such calls."""

    def blow(job: HeatJob, by_rank: dict[int, Process], chance: random.Random, struck: Struck) -> bool:
        job.orders.moment_rank, job.orders.moment_skip = choose(chance, job.ranks)
        job.orders.moment = moment
        ended: list[Process] = []

        def dead() -> bool:
            ended[:] = [p for p in job.look() if p.last is not None and p.last.what is What.KILLED and not p.alive]
            ended[:] = [p for p in ended if p.notes[-1].at > began]
            return bool(ended) or time.monotonic() > began + LATE

        began = time.monotonic()
        job.wait("a rank that kills itself", dead)
        job.orders.moment = Moment.NONE
        if not ended:
            struck.first = struck.at = time.monotonic()
            struck.why = "the moment did not come"
            return False
        struck.first = struck.at = ended[0].notes[-1].at
        struck.pids, struck.took = _named(*ended), True
        return True

    return blow


def _checkpoint(job: HeatJob, by_rank: dict[int, Process], chance: random.Random, struck: Struck) -> bool:
    until = time.monotonic() + 10
    while not job.in_flight() and time.monotonic() < until:
        time.sleep(0.0005)
    hit(struck, _named(by_rank[chance.randrange(job.ranks)]))
    if not job.in_flight():
        struck.took, struck.why = False, "the version was committed before the blow"
    return True


RANK_BLOWS: dict[str, Blow] = {
    kinds.RANK: _ranks(lambda chance, ranks: [chance.randrange(1, ranks)]),
    kinds.ZERO: _ranks(lambda chance, ranks: [0]),
    kinds.TWO: _ranks(lambda chance, ranks: chance.sample(range(ranks), 2)),
    kinds.SPARE: _spare,
    kinds.SECOND: _second(_later),
    kinds.SEGV: _ranks(_any_rank, signal.SIGSEGV),
    kinds.COLLECTIVE: _collective(0),
    kinds.COLLECTIVE_3: _collective(3),
    kinds.STOP: _ranks(_any_rank, signal.SIGSTOP),
    kinds.CHECKPOINT: _checkpoint,
    kinds.CAPTURE: _moment(Moment.CAPTURE, lambda chance, ranks: (chance.randrange(ranks), 0)),
    kinds.ENCODE: _moment(Moment.ENCODE, lambda chance, ranks: (chance.randrange(ranks), 0)),
    kinds.COMMIT: _moment(Moment.COMMIT, lambda chance, ranks: (ALL, chance.randrange(2))),
    kinds.RESTORE: _second(_noted(What.OPENED, What.STEP, 0.01)),
    kinds.REPAIR: _second(_noted(What.REPAIRING, What.REPAIRED, 0.03)),
}
