"""What must hold of a job of part G that is complete: by its ledger, its result, what is stored, and who is left."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from holdfast.run import maintenance

from .heat_truth import HeatTruth
from .survive_faults import Struck
from .survive_job import HeatJob
from .survive_kinds import EVERYTHING, FLIP, FLIP_LOCAL, FLIP_MEMORY, Setting

LEFT = 10.0  # seconds for the job's processes to be gone
_PLACES_LOST = (EVERYTHING, FLIP, FLIP_MEMORY, FLIP_LOCAL)  # kinds behind which nodes need not hold what they held


def judge(job: HeatJob, truth: HeatTruth, done: Sequence[Struck]) -> tuple[int, list[str]]:
    """How many versions were reported to be safe, and what is wrong. `done`: the faults that were done to the job."""
    lines = job.ledger.lines()
    # What a flipped bit has damaged can't be resumed from by the attempts after that; all other rules hold.
    spoilt = {(version, struck.attempt) for struck in done for version in struck.damaged}
    safe = [
        line
        for line in _safe(job, truth, lines, done)
        if not any(line["version"] == v and line["attempt"] <= a for v, a in spoilt)
    ]
    states = [line for line in lines if line["event"] in ("resumed", "state")]
    problems = truth.audit([*states, *safe]) + truth.compare(job.out, job.log)
    for line in states:
        if line["event"] == "resumed" and any(line["version"] == v and line["attempt"] > a for v, a in spoilt):
            problems.append(f"resumed from what was damaged: {line}")
    known = {version for version, _ in spoilt}
    wrong = [one for one in maintenance.verify(job.run) if one.version not in known]
    problems += [f"damage: {one}" for one in wrong if "between objects" not in one.message]  # by a flip that nobody had to see
    until = time.monotonic() + LEFT
    while (left := job.job.processes()) and time.monotonic() < until:
        time.sleep(0.05)
    problems += [f"process {pid} outlives its job: {_command(pid)}" for pid in left]
    return len(safe), problems


def _safe(
    job: HeatJob, truth: HeatTruth, lines: Sequence[dict[str, Any]], done: Sequence[Struck]
) -> list[dict[str, Any]]:
    """Reports by which a resume must not fall behind a version: it came to the run's own store, or, where the ranks share one
    node, to that node, and nothing was done to what the node holds since. Those of the run's store last."""
    placed = {line["version"]: line for line in lines if line["event"] == "placed"}
    lost = max((struck.attempt for struck in done if struck.kind in _PLACES_LOST), default=0)
    found = []
    if job.setting in (Setting.MEMORY, Setting.LOCAL):
        found += [line for line in placed.values() if line["attempt"] > lost]
    found += [
        {**line, "step": placed[line["version"]]["step"]}
        for line in lines
        if line["event"] == "reached" and line["version"] in placed
    ]
    found += [line for line in lines if line["event"] == "durable"]
    return [
        {
            **line,
            "event": "durable",
            "digest": truth.digests[line["step"], line["rank"]],
        }  # a report that bears no state
        for line in found
    ]


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200]
    return "gone meanwhile"
