"""Part G: heat on 4 ranks with spares, every kind of fault, repaired in place or started again; timed from outside.

The kinds are in `survive_kinds.py`, how each is done in `survive_faults.py`, what is measured in `survive_measure.py`.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from holdfast.run import maintenance

from .heat_truth import HeatTruth
from .survive_faults import Struck, strike
from .survive_job import RANKS, SIZE, HeatJob, Trouble
from .survive_kinds import KINDS, LATEST, PER_JOB, REPAIRABLE, Fault, plan
from .survive_measure import IN_PLACE, RELAUNCHED, WENT_ON, Aftermath, await_aftermath

Tell = Callable[[str], None]
TIMES = ("detected", "repaired", "again", "lost_seconds")
MARGIN = 20  # steps beyond the last fault


def steps_for(faults: int) -> int:
    return faults * (LATEST + 2) + MARGIN


@dataclass
class Outcome:
    """One job: faults that took effect (`aftermaths`), that did not (`idle`, and why), problems."""

    aftermaths: list[Aftermath] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    attempts: int = 0
    durable: int = 0
    seconds: float = 0.0


def play(base: Path, faults: Sequence[Fault], truth: HeatTruth, memory: bool) -> Outcome:
    """One job with these faults, to its completion and its judgement. Leaves no process behind; its directory stays."""
    outcome, began = Outcome(), time.monotonic()
    job = HeatJob(base, truth.steps, memory)
    damaged: list[Struck] = []
    try:
        job.start()
        for fault in faults:
            if not _wait_for(job, fault):
                outcome.idle.append(f"{fault.kind}: the job was complete before")
                continue
            struck = strike(job, fault)
            if struck is None:
                outcome.idle.append(f"{fault.kind}: nobody there to be hit")
                continue
            damaged += [struck] if struck.damaged else []
            aftermath = await_aftermath(job, struck)
            job.orders.slow = 0
            if struck.took:
                outcome.aftermaths.append(aftermath)
            else:
                outcome.idle.append(f"{fault.kind}: {struck.why}")
        job.wait("completion", lambda: job.job.code == 0, tick=0.02)
        _judge(job, truth, damaged, outcome)
    except Trouble as trouble:
        outcome.problems.append(str(trouble))
    finally:
        job.end()
    outcome.seconds = time.monotonic() - began
    return outcome


def _wait_for(job: HeatJob, fault: Fault) -> bool:
    """Until all ranks compute, and are further by so many steps than they have ever been; False if the job is complete."""
    target = job.reached() + fault.after

    def ready() -> bool:
        job.look()
        attempt = job.attempt
        return job.job.code == 0 or (job.again(attempt, 0.0) is not None and job.reached(attempt) >= target)

    job.wait("progress", ready)
    time.sleep(fault.delay)
    return job.job.code is None


def _judge(job: HeatJob, truth: HeatTruth, damaged: list[Struck], outcome: Outcome) -> None:
    lines = job.ledger.lines()
    outcome.attempts = job.attempt
    outcome.durable = sum(line["event"] == "durable" for line in lines)
    for line in lines:
        if line["event"] == "durable":  # a report that bears no state
            line["digest"] = truth.digests[line["step"], line["rank"]]
    problems: list[str] = []
    # What a flipped bit has damaged can't be resumed from by the attempts after that; all other rules hold.
    spoilt = {(version, struck.attempt) for struck in damaged for version in struck.damaged}
    sound = [
        line
        for line in lines
        if line["event"] != "durable" or not any(line["version"] == v and line["attempt"] <= a for v, a in spoilt)
    ]
    problems += truth.audit(sound) + truth.compare(job.base / "out.npy", job.base / "log.csv")
    for line in lines:
        if line["event"] == "resumed" and any(line["version"] == v and line["attempt"] > a for v, a in spoilt):
            problems.append(f"resumed from what was damaged: {line}")
    known = {version for version, _ in spoilt}
    problems += [f"damage: {one}" for one in maintenance.verify(job.base / "run") if one.version not in known]
    until = time.monotonic() + 10
    while (left := job.job.processes()) and time.monotonic() < until:
        time.sleep(0.05)
    problems += [f"process {pid} outlives its job: {_command(pid)}" for pid in left]
    if problems:
        outcome.problems += [*problems, job.tail()]


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200]
    return "gone meanwhile"


def campaign(
    base: Path, jobs: int, seed: int, tell: Tell, kinds: Sequence[str] = KINDS, seconds: float = math.inf
) -> dict[str, Any]:
    """`jobs` jobs with PER_JOB faults each, every other one with the node's memory as its first level; none is begun after
    `seconds`. Those that fail keep their directories, and what could be repaired in place and was not its output."""
    until = time.monotonic() + seconds
    truth = HeatTruth(SIZE, steps_for(PER_JOB), RANKS)
    outcomes, problems = [], []
    for number, faults in enumerate(plan(jobs, seed, kinds)):
        if time.monotonic() > until:
            tell(f"time is over after {number} of {jobs} jobs")
            break
        place = base / f"job{number:03d}"
        outcome = play(place, faults, truth, memory=number % 2 == 1)
        outcomes.append(outcome)
        shown = ", ".join(fault.kind for fault in faults)
        problems += [f"job {number} ({shown}): {problem}" for problem in outcome.problems]
        tell(f"{number + 1} of {jobs}: {_line(outcome)}")
        if not outcome.problems:
            if any(_unexplained(aftermath) for aftermath in outcome.aftermaths):
                shutil.copy(place / "output.txt", base / f"{place.name}.txt")
            shutil.rmtree(place)
    return summary(outcomes, problems)


def _line(outcome: Outcome) -> str:
    shown = [f"{a.kind}: {a.outcome}{_after(a)}" for a in outcome.aftermaths]
    shown += [f"({idle})" for idle in outcome.idle]
    verdict = f"FAILED ({outcome.problems[0][:160]})" if outcome.problems else "same result"
    return f"{'; '.join(shown)}; {outcome.attempts} attempts, {outcome.seconds:.1f} s: {verdict}"


def _after(aftermath: Aftermath) -> str:
    time_ = f" {aftermath.again:.2f} s" if aftermath.again is not None else ""
    return time_ + (f" ({', '.join(aftermath.reasons)})" if aftermath.reasons else "")


def summary(outcomes: Sequence[Outcome], problems: Sequence[str]) -> dict[str, Any]:
    """All figures, as JSON has them: for each kind counts and times, and all faults one by one."""
    aftermaths = [a for outcome in outcomes for a in outcome.aftermaths]
    table = {kind: row(some) for kind in KINDS if (some := [a for a in aftermaths if a.kind == kind])}
    in_place = sum(a.outcome == IN_PLACE for a in aftermaths)
    short = Counter(a.outcome for a in aftermaths if a.kind in REPAIRABLE and a.enough)
    return {
        "jobs": len(outcomes), "faults": len(aftermaths), "idle": sum(len(o.idle) for o in outcomes),
        "in_place": in_place, "relaunched": sum(a.outcome == RELAUNCHED for a in aftermaths),
        "went_on": sum(a.outcome == WENT_ON for a in aftermaths),
        "with_enough_spares": dict(short), "reasons": dict(Counter(r for a in aftermaths for r in a.reasons)),
        "attempts": sum(o.attempts for o in outcomes), "durable": sum(o.durable for o in outcomes),
        "kinds": table, "why_idle": dict(Counter(idle for o in outcomes for idle in o.idle)),
        "all": [asdict(a) for a in aftermaths], "problems": list(problems),
    }  # fmt: skip


def _unexplained(aftermath: Aftermath) -> bool:
    """Whether there were spares enough and it was started again nevertheless."""
    return aftermath.kind in REPAIRABLE and aftermath.enough and aftermath.outcome == RELAUNCHED


def row(aftermaths: Sequence[Aftermath]) -> dict[str, Any]:
    """Counts by outcome; median and 95th percentile of each time, by outcome, in seconds; steps lost."""
    found: dict[str, Any] = {"faults": len(aftermaths), "outcomes": dict(Counter(a.outcome for a in aftermaths))}
    found["lost_steps"] = statistics.median(a.lost_steps for a in aftermaths)
    for outcome in found["outcomes"]:
        for name in TIMES:
            some = [value for a in aftermaths if a.outcome == outcome and (value := getattr(a, name)) is not None]
            if some:
                found[f"{name}, {outcome}"] = [round(statistics.median(some), 3), round(percentile(some, 0.95), 3)]
    return found


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest of the values that `part` of them do not exceed."""
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)]
