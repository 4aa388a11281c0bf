"""What follows from what happened: start again, or stop with a verdict. Pure rules, no clocks, no files.

The runs' own records decide. An exit code is believed only where no record can speak: of a program that never
opened a run, and as a sign that a death was violent (mpirun says 0 after some lost jobs, but never 137 after a good
one).
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from .. import errors
from ..errors import (
    EXIT_COMPLETE,
    EXIT_INTERRUPTED,
    EXIT_INTERRUPTED_NO_PROGRESS,
    EXIT_LAST_CHECKPOINT_FAILED,
    EXIT_NO_PROGRESS,
    EXIT_RESTARTS_EXHAUSTED,
)
from .facts import Execution, RunFacts, shown
from .wording import again, code_of, death, gives_up, over, safe, signal_name, will_come_again

EXIT_ERROR = 1  # Holdfast's own errors, as in the other commands

_INTERRUPTED = (0, EXIT_INTERRUPTED, EXIT_INTERRUPTED_NO_PROGRESS, EXIT_LAST_CHECKPOINT_FAILED)  # of ranks that left

TRIES = 2  # executions in a row without progress after which starting again is no use,
BACKOFF = 60.0  # seconds between starts at most
LOSSES = 8  # and that many where nodes were lost: no fault of the program's, but it can't go on for ever


@dataclass(frozen=True)
class Verdict:
    """The end of supervision: a word for programs, the exit code, and what to tell the user."""

    outcome: str
    exit: int
    message: str


def judge(
    executions: Sequence[Execution], *, asked: str | None = None, max_restarts: int | None = None, serial: bool = True
) -> Verdict | None:
    """The verdict after the newest of `executions` (oldest first, at least one); None: start the program again.

    `asked`: name of the signal by which the supervisor was asked to leave, or of the time limit; `max_restarts`: how often
    it may start again; `serial`: whether exit codes are the program's own, not mpirun's.
    """
    last = executions[-1]
    runs = last.runs
    if not runs:
        # That a launcher started nothing, a node went, or somebody killed a process is no word on the program: once more. So
        # when there were orphans: while they are asked to leave, one of them may take a lost one's place and hold the run.
        excused = last.stillborn or last.lost_nodes or _killed(last, serial) or (last.orphans and last.code != 0)
        excused = excused and not asked and max_restarts != 0
        return None if excused and len(executions) < TRIES else _never_opened(last, asked, len(executions))
    if last.complete:
        # Behind its runs a program may have more to do, further runs too. Who killed it had nothing against it: once more.
        if asked or not failed_behind(last):
            return Verdict("complete", EXIT_COMPLETE, f"complete. {safe(runs)}")
        once_more = (not serial or last.code < 0) and (len(executions) < TRIES or not failed_behind(executions[-TRIES]))
        return None if once_more and (max_restarts is None or len(executions) <= max_restarts) else _failed_after(last, serial)
    if gone := [run for run in runs if run.gone]:
        text = (
            f"attempt {gone[0].attempt}, which this program has begun there, is not in {shown(gone[0].url)}: the directory was "
            "emptied or exchanged, or what was mounted there is gone. The program is not started again, it would begin anew. "
            "Bring the directory back and give the same command again."
        )
        return Verdict("run gone", EXIT_ERROR, text)
    if rivals := [run for run in runs if run.rival]:
        where = shown(rivals[0].url)
        text = f"{where} has been taken over by {rivals[0].rival}; it is not started again here. {safe(runs)}"
        return Verdict("taken over", EXIT_ERROR, text)
    if last.overdue and not all(run.end is not None and run.end.outcome == "interrupted" for run in runs):
        text = f"{over(asked)} before the program had left: no last checkpoint. {safe(runs)}{again(runs)}"
        return Verdict("last checkpoint too late", EXIT_LAST_CHECKPOINT_FAILED, text)
    if asked or not _violent(last, serial):
        if failed := [run for run in runs if _last_checkpoint_failed(run)]:
            error = failed[0].end.error if failed[0].end else None
            late = failed[0].end is not None and failed[0].end.outcome == "interrupted"
            word = "came too late" if late else "failed"
            text = f"the last checkpoint {word} ({error or 'no reason recorded'}). {safe(runs)}{again(runs)}"
            return Verdict(f"last checkpoint {'too late' if late else word}", EXIT_LAST_CHECKPOINT_FAILED, text)
        if asked or any(run.end and run.end.outcome == "interrupted" for run in runs):
            by = asked or next((r.end.signal for r in runs if r.end and r.end.signal), None) or "a signal"
            return _interrupted(executions, f"interrupted by {'' if by.startswith('SIG') or by == 'a signal' else 'the '}{by}")
        if last.code == 0 and all(run.complete or (run.end and run.end.outcome == "closed") for run in runs):
            hint = (
                "the program left without completing its run, so it is not started again (if it was done, let it say "
                "so: `with holdfast.open(...) as run:` or `run.complete()`)"
            )
            return _interrupted(executions, hint)
    if mistaken := [run for run in runs if _mistake(run)]:
        return Verdict("program failed", EXIT_ERROR, will_come_again(last, mistaken[0], serial))
    if last.falls and _counts(last) and not any(run.places for run in runs) and not _passed(last):
        return Verdict("no progress", EXIT_NO_PROGRESS, gives_up([last], serial))
    barren = _barren(executions, since_fall=True)
    # What the last one left on its nodes alone the next start tells.
    enough = TRIES + any(run.places for run in last.runs)
    if len([e for e in barren if not e.lost_nodes]) >= enough or len(barren) >= LOSSES:
        return Verdict("no progress", EXIT_NO_PROGRESS, gives_up(barren, serial))
    if max_restarts is not None and len(executions) > max_restarts:
        named = ", ".join(f"attempt {r.attempt} of {shown(r.url)}" for r in runs if r.attempt) or "the program"
        allowed = f"{max_restarts} restart{'s' * (max_restarts != 1)} allowed and used"
        text = f"{named} died: {death(last, serial)}; {allowed}. {safe(runs)}{again(runs)}"
        return Verdict("restarts exhausted", EXIT_RESTARTS_EXHAUSTED, text)
    return None


def pause(executions: Sequence[Execution]) -> float:
    """Seconds to wait before the next start: none after progress or a first failure, then 1, 2, 4, ... up to BACKOFF. When a
    process was killed before any run was opened also after the first: what it was killed for, memory as a rule, may pass."""
    barren = len(_barren(executions))
    if not executions[-1].runs and _counts(executions[-1]):
        barren += 1
    return 0.0 if barren < 2 else min(BACKOFF, 2.0 ** min(barren - 2, 20))


def in_crash_loop(executions: Sequence[Execution]) -> bool:
    """After a verdict of no progress: whether the version from which the program gets nowhere may be to blame, so that going on
    from the one before may help. Not if that was tried, if nodes or storage were, or if it came to no run or ended well."""
    barren = _barren(executions, since_fall=True)
    return not any(
        e.falls or e.lost_nodes or e.stillborn or e.code == 0
        or not any(run.attempt for run in e.runs)
        or any(_error_type(run) in _ELSEWHERE for run in e.runs)
        for e in barren
    )  # fmt: skip


def fell_for(executions: Sequence[Execution]) -> bool:
    """Whether the newest has ended with the very errors for which runs were taken back before: they come whatever the state is,
    and a version that was written a step later by a clock is no progress against them."""
    errors = _errors(executions[-1])
    return bool(errors) and any(
        second.falls and _errors(first) == errors for first, second in pairwise(executions)
    )


def _errors(execution: Execution) -> list[str]:
    return [run.end.error for run in execution.runs if run.end and run.end.error]


def _counts(execution: Execution) -> bool:
    """Whether how far it came is the program's own doing."""
    return not (execution.lost_nodes or execution.stillborn)


def _passed(execution: Execution) -> bool:
    """Whether after a fall a run came beyond the version from which it had been taken back."""
    for fall in execution.falls:
        run = next((run for run in execution.runs if run.url == fall.url), None)
        if run is None or not run.gained:
            continue
        if run.step is None or fall.step is None:
            if run.gained > 1:  # one for that which was given up, one more
                return True
        elif run.step > fall.step:
            return True
    return False


def _barren(executions: Sequence[Execution], since_fall: bool = False) -> list[Execution]:
    """The newest of them, as far back as none made progress; `since_fall`: and nothing was taken back before one."""
    found: list[Execution] = []
    for at, execution in reversed(list(enumerate(executions))):
        if execution.gained:
            break
        found.insert(0, execution)
        if since_fall and execution.falls:
            break
        if at and _went_on(executions[at - 1], execution):
            break
    return found


def _went_on(first: Execution, second: Execution) -> bool:
    """Whether `second` began with a newer version than `first` had begun with, though none of them is in the run's store: nodes
    had kept it. Loops take a version there only when they come further, so that this is progress."""
    before = {run.url: run.based for run in first.runs}
    return any(run.places and run.based is not None and run.based > (before.get(run.url) or 0) for run in second.runs)


def _killed(last: Execution, serial: bool) -> bool:
    """Whether it ended by SIGKILL, which comes from outside: the kernel short of memory, a batch system, a person."""
    # Open MPI gives 137 for a rank, MPICH the bare signal, which a program's own status 9 looks like: it is tried once more.
    return last.code in (-signal.SIGKILL, 128 + signal.SIGKILL) or (not serial and last.code == signal.SIGKILL)


def _never_opened(last: Execution, asked: str | None, starts: int) -> Verdict:
    if last.overdue:
        text = f"{over(asked)} before the program had opened a run: it was ended."
        return Verdict("last checkpoint too late", EXIT_LAST_CHECKPOINT_FAILED, text)
    if asked:
        return Verdict("interrupted", EXIT_INTERRUPTED_NO_PROGRESS, f"interrupted by {asked} before it opened a run.")
    if last.code == 0:
        return Verdict("no run", EXIT_COMPLETE, "the program ended well; it never opened a run.")
    often = "" if starts == 1 else f", {'twice' if starts == 2 else f'{starts} times'} in a row"
    text = f"the program failed before it opened a run{often} ({death(last)}): it is not started again."
    return Verdict("program failed", code_of(last.code), text)


def _failed_after(last: Execution, serial: bool) -> Verdict:
    """What it does after its runs is the program's own affair, and may fail."""
    text = f"complete. {safe(last.runs)} The program failed afterwards: {death(last, serial)}."
    return Verdict("program failed", code_of(last.code), text)


def failed_behind(execution: Execution) -> bool:
    """Whether a program whose runs are complete has failed behind them. What mpirun says of a job that has lost ranks or spares
    and gone on, or that the supervisor has ended or that never came to start a rank, is no word on that."""
    said = not (execution.put_down or execution.overdue or execution.cleared or execution.stillborn)
    said = said and not (execution.repairs or execution.spares_lost)
    return said and execution.code != 0 and execution.complete


# The program's mistakes, which come again as often as it is started; and what has its cause elsewhere than in the state.
_MISTAKES = {cls.__name__ for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.UsageError)} | {
    errors.MismatchError.__name__
}
_ELSEWHERE = {"StorageError", "CheckpointError", "RunInUseError", "FencedError"}


def _mistake(run: RunFacts) -> bool:
    """Whether what it ended with is an error of the program's against the library, which comes again as often as it is
    started."""
    return _error_type(run) in _MISTAKES


def _error_type(run: RunFacts) -> str:
    """The class of the exception with which the program recorded its end, "" if it did not."""
    end = run.end
    return end.error.split(":")[0] if end and end.outcome == "failed" and not end.signal and end.error else ""


def _interrupted(executions: Sequence[Execution], why: str) -> Verdict:
    runs = executions[-1].runs
    if any(e.gained for e in executions):
        return Verdict("interrupted", EXIT_INTERRUPTED, f"{why}. {safe(runs)}{again(runs)}")
    text = f"{why}, without a new version. {safe(runs)}{again(runs)}"
    return Verdict("interrupted without progress", EXIT_INTERRUPTED_NO_PROGRESS, text)


def _violent(last: Execution, serial: bool) -> bool:
    """Whether it did not leave by itself: then what its ranks recorded in their last moments was not asked for.

    mpirun: Open MPI gives the code of the first rank to fail or 128 + its signal, MPICH the bare signal. When a node is lost
    it asks the ranks that are left to end, by SIGTERM, and may say 0.
    """
    if last.cleared or last.code < 0 or last.lost_nodes:
        return True
    if last.spares and any(run.end is not None and run.end.outcome == "interrupted" for run in last.runs):
        return False  # ranks that were lost and replaced before are in mpirun's code too; it asks nobody to end, then
    return signal_name(last.code - 128) is not None if serial else last.code not in _INTERRUPTED


def _last_checkpoint_failed(run: RunFacts) -> bool:
    end = run.end
    return end is not None and (
        (end.outcome == "failed" and end.signal is not None) or (end.outcome == "interrupted" and end.error is not None)
    )
