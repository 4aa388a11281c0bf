"""The undisturbed heat computation without Holdfast, without MPI, and what a ledger must agree with."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples"))
import heat

Lines = list[dict[str, Any]]


def digest(u: np.ndarray, trace: np.ndarray) -> str:
    """Of one rank's rows and marks."""
    h = xxhash.xxh3_128(np.ascontiguousarray(u))
    h.update(trace)
    return str(h.hexdigest())


def marks() -> np.ndarray:
    """A MiB of which each step changes one page: versions have most of it in common."""
    return np.zeros(1 << 17)


def mark(trace: np.ndarray, u: np.ndarray, step: int) -> None:
    trace[step * 4099 % trace.size] = float(u[0, 0]) + step


class HeatTruth:
    """Each rank's digest after each number of steps, the final field and the output file."""

    def __init__(self, size: int, steps: int, ranks: int) -> None:
        field = np.zeros((size + 2, size + 2))
        u = field[1:-1, 1:-1]
        u[:] = heat.hot_disc(size, 0, size)
        rows = [slice(*heat.rows_of(rank, ranks, size)) for rank in range(ranks)]
        self.steps, self.ranks, self.output = steps, ranks, ""
        traces = [marks() for _ in rows]
        self.digests = {(0, rank): digest(u[part], traces[rank]) for rank, part in enumerate(rows)}
        for step in range(1, steps + 1):
            heat.advance(field, u)
            for rank, part in enumerate(rows):
                mark(traces[rank], u[part], step - 1)
                self.digests[step, rank] = digest(u[part], traces[rank])
            if step % 10 == 0:
                self.output += f"{step},{math.fsum(u.sum(axis=1))!r}\n"
        self.field = u.copy()

    def audit(self, lines: Lines) -> list[str]:
        """What in a ledger contradicts: states that are not the undisturbed ones of their step, resumes behind what
        had been reported durable, ranks that resumed from different versions."""
        problems = []
        for line in lines:
            if line["digest"] != self.digests[line["step"], line["rank"]]:
                problems.append(f"not the undisturbed state of step {line['step']}: {line}")
        durable = [line for line in lines if line["event"] == "durable"]
        resumed = [line for line in lines if line["event"] == "resumed"]
        for line in resumed:
            # By attempt, not by place in the file: a report may be written down late, but never be given too much.
            before = [d for d in durable if d["attempt"] < line["attempt"]]
            newest = max(before, key=lambda d: d["version"], default=None)
            if newest and ((line["version"] or 0) < newest["version"] or line["step"] < newest["step"]):
                problems.append(f"resumed from version {line['version']}, {newest['version']} was durable: {line}")
        for attempt in {line["attempt"] for line in resumed}:
            found = {(line["version"], line["step"]) for line in resumed if line["attempt"] == attempt}
            if len(found) != 1:
                problems.append(f"attempt {attempt}: ranks resumed from different versions: {found}")
        if len({d["version"] for d in durable}) != len({(d["version"], d["step"]) for d in durable}):
            problems.append("a version's number was reported twice")
        if not durable or durable[-1]["step"] != self.steps:
            problems.append("the final version was not reported durable")
        return problems

    def compare(self, out: Path, log: Path) -> list[str]:
        """What differs in the final field and the output file."""
        problems = []
        if not out.exists() or not np.array_equal(np.load(out), self.field):
            problems.append("the final field differs")
        if not log.exists() or log.read_text() != self.output:
            problems.append("the output file differs")
        return problems
