"""What part G keeps: a file of JSON lines, one for each job, so that runs add up; and the figures of all of them."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .survive import Outcome
from .survive_kinds import KINDS, REPAIRABLE
from .survive_measure import IN_PLACE, RELAUNCHED, WENT_ON, Aftermath

TIMES = ("detected", "repaired", "again", "lost_seconds")
SHOWN = "the end of its output:"  # with which a job's output begins among its problems


def append(path: Path, outcome: Outcome, source: str, seed: int, commit: str = "") -> None:
    """Put a job's outcome behind the others. `source`: digest of the package that was tested, `commit` its name in git."""
    line = {"source": source, "commit": commit, "seed": seed, "when": time.strftime("%Y-%m-%d"), **asdict(outcome)}
    with path.open("a") as f:
        f.write(json.dumps(line) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """All jobs that were kept; none if there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def aftermaths(jobs: Iterable[dict[str, Any]]) -> list[Aftermath]:
    return [Aftermath(**{**a, "reasons": tuple(a["reasons"])}) for job in jobs for a in job["aftermaths"]]


def counted(jobs: Iterable[dict[str, Any]]) -> Counter[str]:
    """Faults of each kind that took effect."""
    return Counter(a.kind for a in aftermaths(jobs))


def summary(jobs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All figures, as JSON has them: for each kind counts and times, and what went wrong."""
    some = aftermaths(jobs)
    table = {kind: row(of) for kind in KINDS if (of := [a for a in some if a.kind == kind])}
    short = Counter(a.outcome for a in some if a.kind in REPAIRABLE and a.enough)
    problems = [f"{job['setting']}: {one}" for job in jobs for one in job["problems"] if not one.startswith(SHOWN)]
    return {
        "jobs": len(jobs), "faults": len(some), "idle": sum(len(job["idle"]) for job in jobs),
        "in_place": sum(a.outcome == IN_PLACE for a in some), "relaunched": sum(a.outcome == RELAUNCHED for a in some),
        "went_on": sum(a.outcome == WENT_ON for a in some), "with_enough_spares": dict(short),
        "reasons": dict(Counter(r for a in some for r in a.reasons)),
        "attempts": sum(job["attempts"] for job in jobs), "durable": sum(job["durable"] for job in jobs),
        "seconds": round(sum(job["seconds"] for job in jobs)), "kinds": table,
        "sources": [[commit, source, *seeds] for (commit, source), seeds in _sources(jobs).items()],
        "why_idle": dict(Counter(f"{kind}: {why}" for job in jobs for kind, why in job["idle"])), "problems": problems,
    }  # fmt: skip


def _sources(jobs: Iterable[dict[str, Any]]) -> dict[tuple[str, str], list[Any]]:
    """By commit and digest of the package: the seeds that it was tested with, and how many faults that were."""
    found: dict[tuple[str, str], list[Any]] = {}
    for job in jobs:
        seeds, faults = found.setdefault((job["commit"], job["source"]), [[], 0])
        if job["seed"] not in seeds:
            seeds.append(job["seed"])
        found[job["commit"], job["source"]] = [seeds, faults + len(job["aftermaths"])]
    return found


def row(some: Sequence[Aftermath]) -> dict[str, Any]:
    """Counts by outcome; median and 95th percentile of each time, by outcome, in seconds; steps lost."""
    found: dict[str, Any] = {"faults": len(some), "outcomes": dict(Counter(a.outcome for a in some))}
    for outcome in found["outcomes"]:
        of = [a for a in some if a.outcome == outcome]
        found[f"lost_steps, {outcome}"] = statistics.median(a.lost_steps for a in of)
        for name in TIMES:
            if values := [value for a in of if (value := getattr(a, name)) is not None]:
                found[f"{name}, {outcome}"] = [round(statistics.median(values), 3), round(percentile(values, 0.95), 3)]
    return found


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest of the values that `part` of them do not exceed."""
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)]
