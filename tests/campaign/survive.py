"""Part G: heat on 4 ranks with spares, every kind of fault, repaired in place or started again; timed from outside.

The kinds are in `survive_kinds.py`, how each is done in `survive_faults.py` and `survive_storage.py`, what is measured in
`survive_measure.py`, what is kept of it in `survive_record.py`; nodes and links have jobs of their own, in `survive_nodes.py`.
"""

from __future__ import annotations

import ctypes
import math
import os
import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

from .digits_truth import DigitsTruth
from .heat_truth import HeatTruth
from .survive_digits import DigitsJob
from .survive_faults import RANK_BLOWS, Blow, Struck, strike
from .survive_job import PAUSE, RANKS, SIZE, SPARES, HeatJob, Trouble
from .survive_judge import judge
from .survive_kinds import COSTLY, ENOUGH, KINDS, LATEST, REPAIRABLE, Fault, Setting, choose, fault, possible
from .survive_measure import RELAUNCHED, Aftermath, await_aftermath
from .survive_storage import STORAGE_BLOWS

Tell = Callable[[str], None]
Next = Callable[[HeatJob], Fault | None]
BLOWS = {**RANK_BLOWS, **STORAGE_BLOWS}
STEPS = 400  # of a job of the campaign
LAST_STEPS = 900.0  # seconds for those that are left when there is no time for more faults
FEW = 2  # spares of a job with kinds that take long
MARGIN = 20  # steps beyond the last fault
DIGITS = 4  # of so many jobs one is the other example
NEWNS = 0x20000


def steps_for(faults: int) -> int:
    return faults * (LATEST + 8) + MARGIN


@dataclass
class Outcome:
    """One job: faults that took effect (`aftermaths`), that did not (`idle`: kind and why), problems."""

    setting: str = ""
    aftermaths: list[Aftermath] = field(default_factory=list)
    idle: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    attempts: int = 0
    durable: int = 0
    seconds: float = 0.0


def one_after_the_other(faults: Iterable[Fault]) -> Next:
    left = iter(faults)
    return lambda job: next(left, None)


def play(job: HeatJob, truth: HeatTruth, following: Next, blows: Mapping[str, Blow] = BLOWS) -> Outcome:
    """A job with the faults that `following` says, each when the one before is over, to its completion and its judgement.
    Leaves no process behind; its directory stays."""
    outcome, began = Outcome(job.name), time.monotonic()
    done: list[Struck] = []
    at = "its start"
    try:
        job.start()
        while (coming := following(job)) is not None:
            at = coming.kind
            if not _wait_for(job, coming):
                outcome.idle.append((coming.kind, "the job was complete before"))
                break
            struck = strike(job, coming, blows[coming.kind])
            if struck is None:
                job.orders.slow = PAUSE
                outcome.idle.append((coming.kind, "nobody there to be hit, or no such moment"))
                continue
            done.append(struck)
            aftermath = await_aftermath(job, struck)
            if struck.later is not None:
                struck.later()
                outcome.problems += [f"{coming.kind}: {one}" for one in struck.wrong]
                aftermath.reasons += struck.told
            job.orders.slow = PAUSE
            if struck.took:
                outcome.aftermaths.append(aftermath)
            else:
                outcome.idle.append((coming.kind, struck.why))
        at = "its end"
        job.orders.slow = 0
        job.wait("completion", lambda: job.job.code == 0, LAST_STEPS, tick=0.02)
        outcome.attempts = job.attempt
        outcome.durable, problems = judge(job, truth, done)
        outcome.problems += [*problems, job.tail()] if problems else []
    except Trouble as trouble:
        outcome.problems.append(f"{at}: {trouble}")
    finally:
        job.end()
    outcome.seconds = time.monotonic() - began
    return outcome


def _wait_for(job: HeatJob, fault: Fault) -> bool:
    """Until all ranks compute, and are further by so many steps than they have ever been; False if the job is complete."""
    target = job.reached() + fault.after

    def ready() -> bool:
        attempt = job.attempt
        return job.job.code == 0 or (job.reached() >= target and job.again(attempt, 0.0) is not None)

    job.wait("progress", ready)
    time.sleep(fault.delay)
    return job.job.code is None


class Chooser:
    """What comes next in a job of the campaign: the kind that is the rarest so far, until the job's steps or the time is over.

    `counts`: faults by kind so far; it goes on counting. `wanted`: faults in all. `costly`: whether kinds that take long are
    looked for, see `choose`."""

    def __init__(self, seed: int, counts: Counter[str], wanted: int, until: float, kinds: Sequence[str]) -> None:
        self._chance, self._counts, self._wanted = random.Random(seed), counts, wanted
        self._until, self._kinds, self.costly = until, kinds, False
        self._dealt: Counter[str] = Counter()  # in the job that is under way

    @property
    def over(self) -> bool:
        return self._counts.total() >= self._wanted or time.monotonic() > self._until

    def rare(self, setting: Setting) -> bool:
        """Whether there are kinds that take long, and of which there have not been enough."""
        kinds = [kind for kind in self._kinds if kind in COSTLY and possible(kind, setting)]
        return any(self._counts[kind] < ENOUGH for kind in kinds)

    def settle(self, outcome: Outcome) -> None:
        """A job is over: what took no effect, or was not over, does not count."""
        self._counts.subtract(self._dealt)
        self._counts.update(aftermath.kind for aftermath in outcome.aftermaths)
        self._dealt.clear()

    def setting(self, settings: Sequence[Setting], costly: bool) -> Setting:
        """For the next job: where the rarest kind is possible."""
        self.costly = costly

        def rarest(setting: Setting) -> tuple[int, float]:
            kinds = [kind for kind in self._kinds if (kind in COSTLY) == costly and possible(kind, setting)]
            return min(self._counts[kind] for kind in kinds), self._chance.random()

        return min(settings, key=rarest)

    def __call__(self, job: HeatJob) -> Fault | None:
        if self.over or job.reached() > job.steps - LATEST - MARGIN:
            return None
        attempt, spares = job.attempt, job.spares
        if attempt:
            spares = job.idle(job.holders(attempt)[0].execution)
        kind = choose(self._chance, job.setting, self._counts, spares, self.costly, self._kinds)
        if kind is None:
            return None
        self._counts[kind] += 1
        self._dealt[kind] += 1
        return fault(kind, self._chance)


def campaign(
    base: Path, wanted: int, seed: int, tell: Tell, keep: Callable[[Outcome], None], counts: Counter[str],
    kinds: Sequence[str] = KINDS, seconds: float = math.inf, costly: Sequence[bool] = (False, True),
) -> list[str]:  # fmt: skip
    """Jobs until there are `wanted` faults or `seconds` are over; the problems. `keep` gets each job's outcome, `counts` says
    how many of each kind there were before; `costly`: jobs with kinds that do not take long, jobs with those that do, or both
    in turn. Jobs that fail keep their directories."""
    began = time.monotonic()
    chooser = Chooser(seed, counts, wanted, began + seconds, kinds)
    heat, digits = HeatTruth(SIZE, STEPS, RANKS), DigitsTruth(STEPS)
    problems: list[str] = []
    mounts = _own_mounts()
    settings = [s for s in Setting if s is not Setting.DIGITS and (mounts or s is not Setting.SMALL)]
    if not mounts:
        problems.append("no file system can be mounted: none was filled up")
    done = 0
    for number, slow in enumerate(cycle(costly)):
        if slow and not any(map(chooser.rare, settings)):
            if False in costly:
                continue
            return problems
        if chooser.over:
            return problems
        spares = FEW if slow else SPARES  # many of these start all anew, with all spares
        place, cache = base / f"job{number:03d}", base / "cache"
        if number % DIGITS == DIGITS - 2:  # one without kinds that take long, where these take turns
            setting = Setting.DIGITS
            outcome = play(DigitsJob(place, STEPS, cache), digits, chooser)
        else:
            setting = chooser.setting(settings, slow)
            outcome = play(HeatJob(place, STEPS, setting, spares, cache), heat, chooser)
        chooser.settle(outcome)
        keep(outcome)
        done += len(outcome.aftermaths)
        problems += [f"job {number} ({setting.value}): {problem}" for problem in outcome.problems]
        rate = 60 * done / (time.monotonic() - began)
        left = (wanted - counts.total()) / rate if rate else math.inf
        tell(f"{counts.total()} of {wanted} faults, {rate:.1f} a minute, {left:.0f} min left. {line(outcome)}")
        if not outcome.problems:
            if any(_unexplained(aftermath) for aftermath in outcome.aftermaths):
                shutil.copy(place / "output.txt", base / f"{place.name}.txt")
            shutil.rmtree(place)
    return problems


def _own_mounts() -> bool:
    """Mounts of this process's own from now on, which end with it; whether that is possible."""
    if os.geteuid() != 0 or ctypes.CDLL(None, use_errno=True).unshare(NEWNS) != 0:
        return False
    words = ["mount", "--make-rprivate", "/"]
    return subprocess.run(words, capture_output=True, timeout=20).returncode == 0


def line(outcome: Outcome) -> str:
    """For people."""
    shown = [f"{a.kind}: {a.outcome}{_after(a)}" for a in outcome.aftermaths]
    shown += [f"({kind}: {why})" for kind, why in outcome.idle]
    verdict = f"FAILED ({outcome.problems[0][:160]})" if outcome.problems else "same result"
    return f"{outcome.setting}: {'; '.join(shown)}; {outcome.attempts} attempts, {outcome.seconds:.1f} s: {verdict}"


def _after(aftermath: Aftermath) -> str:
    time_ = f" {aftermath.again:.2f} s" if aftermath.again is not None else ""
    return time_ + (f" ({', '.join(aftermath.reasons)})" if aftermath.reasons else "")


def _unexplained(aftermath: Aftermath) -> bool:
    """Whether there were spares enough and it was started again nevertheless."""
    return aftermath.kind in REPAIRABLE and aftermath.enough and aftermath.outcome == RELAUNCHED
