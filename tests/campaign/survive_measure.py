"""What became of a fault, as the processes' notes tell: in place, started again, or gone on; and how long it took."""

from __future__ import annotations

from dataclasses import dataclass

from .survive_faults import Struck
from .survive_job import HeatJob, Trouble
from .survive_kinds import GO_ON
from .survive_notes import Note, Process, What

IN_PLACE, RELAUNCHED, WENT_ON, COMPLETED = "in place", "relaunched", "went on", "completed"
REASONS = {
    "Segmentation fault": "MPI failed (segmentation fault)",
    "no more than half": "no quorum",
    "was not over by its deadline": "a step of the repair hung",
    "spares. Committed": "too few spares",
    "times in a row at step": "taken for the program's own",
    "prte_": "the launcher failed",
    "An MPI communication peer process has unexpectedly disconnected": "a rank was disconnected",
}  # fmt: skip
SETTLED = 0.3  # seconds for which a job that goes on must have gone on


@dataclass
class Aftermath:
    """Of one fault that took effect. Seconds: `detected`, from the first blow until a process was on its way to the repair,
    or until a process of the next start ran; `repaired`, from then until the last rank had left the repair, in place only;
    `again`, from the last blow until all ranks had done a step. `lost_steps`, and the seconds in which they had been computed.
    None: not known. `enough`: whether there were as many spares as processes that were hit; `reasons`: what was printed
    of why it was started again."""

    kind: str
    outcome: str
    detected: float | None = None
    repaired: float | None = None
    again: float | None = None
    lost_steps: int = 0
    lost_seconds: float | None = None
    enough: bool = True
    reasons: tuple[str, ...] = ()


def await_aftermath(job: HeatJob, struck: Struck) -> Aftermath:
    """Wait until the job computes again, or is complete. Trouble."""
    hit = set(struck.pids)

    def settled() -> bool:
        return job.job.code == 0 or _attempt_after(job, struck, hit) is not None

    job.wait(f"the ranks to compute again after {struck.kind}", settled)
    job.look()
    attempt = _attempt_after(job, struck, hit)
    if attempt is None:
        return Aftermath(struck.kind, COMPLETED)
    by_rank = job.holders(attempt)
    again = job.again(attempt, struck.at)
    assert again is not None
    if attempt == struck.attempt:
        return Aftermath(struck.kind, WENT_ON, again=again - struck.at)
    aftermath = Aftermath(struck.kind, RELAUNCHED, again=again - struck.at)
    if by_rank[0].execution == struck.execution:
        aftermath.outcome = IN_PLACE
        _time_repair(job, struck, list(by_rank.values()), attempt, aftermath)
    else:
        others = [p for p in job.known.values() if p.execution != struck.execution]
        starts = [n.at for p in others for n in p.notes if n.what is What.STARTED]
        aftermath.detected = min((at for at in starts if at > struck.first), default=struck.first) - struck.first
        aftermath.reasons = _reasons(job, struck)
    aftermath.enough = struck.spares >= len(struck.pids)
    _count_lost(job, struck, by_rank[0], attempt, aftermath)
    return aftermath


def _attempt_after(job: HeatJob, struck: Struck, hit: set[tuple[int, int]]) -> int | None:
    """The oldest attempt in which, after the last blow, all ranks did a step, none of them a process that was hit."""
    job.look()
    same = struck.kind in GO_ON
    since = struck.at + (SETTLED if same else 0.0)
    for attempt in range(struck.attempt if same else struck.attempt + 1, job.attempt + 1):
        if len(by_rank := job.holders(attempt)) < job.ranks or any((p.pid, p.start) in hit for p in by_rank.values()):
            continue
        if job.again(attempt, since) is not None:
            return attempt
    return None


def _time_repair(job: HeatJob, struck: Struck, crew: list[Process], attempt: int, aftermath: Aftermath) -> None:
    noticed = [n.at for p in crew for n in p.notes if n.what is What.REPAIRING and n.at > struck.first]
    if not noticed:
        raise Trouble(f"attempt {attempt} goes on in place, and no repair was noted")
    aftermath.detected = min(noticed) - struck.first
    aftermath.repaired = max(_last_before(p, What.REPAIRED, attempt).at for p in crew) - min(noticed)


def _last_before(process: Process, what: What, attempt: int) -> Note:
    """The last such note before the process was called in this attempt."""
    opened = next(n.at for n in process.notes if n.what is What.OPENED and n.attempt == attempt)
    return max((n for n in process.notes if n.what is what and n.at <= opened), key=lambda n: n.at)


def _count_lost(job: HeatJob, struck: Struck, zero: Process, attempt: int, aftermath: Aftermath) -> None:
    """Steps done before the first blow that are done again, and how long ago the first of them was begun."""
    resumed = next(n.step for n in zero.notes if n.what is What.RESUMED and n.attempt == attempt)
    aftermath.lost_steps = max(0, job.reached(before=struck.first) - resumed)
    if aftermath.lost_steps == 0:
        aftermath.lost_seconds = 0.0
        return
    notes = [n for p in job.known.values() for n in p.notes if n.rank == 0 and n.at < struck.first]
    passed = [n.at for n in notes if n.what in (What.STEP, What.RESUMED) and n.step == resumed]
    if passed:
        aftermath.lost_seconds = struck.first - max(passed)


def _reasons(job: HeatJob, struck: Struck) -> tuple[str, ...]:
    """What the processes printed since the fault of why they left, as far as it is known here."""
    with job.job.output.open("rb") as f:
        f.seek(struck.printed)
        text = f.read().decode(errors="replace")
    return tuple(reason for words, reason in REASONS.items() if words in text) or ("not told",)
