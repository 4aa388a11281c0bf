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
            return Verdict("complete", EXIT_COMPLETE, f"complete. {_safe(runs)}")
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
        text = f"{where} has been taken over by {rivals[0].rival}; it is not started again here. {_safe(runs)}"
        return Verdict("taken over", EXIT_ERROR, text)
    if last.overdue and not all(run.end is not None and run.end.outcome == "interrupted" for run in runs):
        text = f"{_over(asked)} before the program had left: no last checkpoint. {_safe(runs)}{_again(runs)}"
        return Verdict("last checkpoint too late", EXIT_LAST_CHECKPOINT_FAILED, text)
    if asked or not _violent(last, serial):
        if failed := [run for run in runs if _last_checkpoint_failed(run)]:
            error = failed[0].end.error if failed[0].end else None
            late = failed[0].end is not None and failed[0].end.outcome == "interrupted"
            word = "came too late" if late else "failed"
            text = f"the last checkpoint {word} ({error or 'no reason recorded'}). {_safe(runs)}{_again(runs)}"
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
        return Verdict("program failed", EXIT_ERROR, _will_come_again(last, mistaken[0], serial))
    if last.falls and _counts(last) and not any(run.places for run in runs) and not _passed(last):
        return Verdict("no progress", EXIT_NO_PROGRESS, _gives_up([last], serial))
    barren = _barren(executions, since_fall=True)
    # What the last one left on its nodes alone the next start tells.
    enough = TRIES + any(run.places for run in last.runs)
    if len([e for e in barren if not e.lost_nodes]) >= enough or len(barren) >= LOSSES:
        return Verdict("no progress", EXIT_NO_PROGRESS, _gives_up(barren, serial))
    if max_restarts is not None and len(executions) > max_restarts:
        named = ", ".join(f"attempt {r.attempt} of {shown(r.url)}" for r in runs if r.attempt) or "the program"
        allowed = f"{max_restarts} restart{'s' * (max_restarts != 1)} allowed and used"
        text = f"{named} died: {death(last, serial)}; {allowed}. {_safe(runs)}{_again(runs)}"
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


def death(execution: Execution, serial: bool = True) -> str:
    """What an execution died of, as far as is known: its rank, exit code or signal, the error it recorded."""
    parts = list(execution.judged[execution.repairs :][-1:])  # the others may have been repaired
    told = any(run.end and run.end.error for run in execution.runs)  # then who was seen to go first tells nothing
    if not parts and not told and execution.first_dead and not serial:
        parts.append(f"rank {execution.first_dead[0]} (process {execution.first_dead[1]}) died first")
    code = execution.code
    number = -code if code < 0 else code - 128
    if name := _signal_name(number):
        who = "killed by" if serial else "mpirun was killed by" if code < 0 else "mpirun reports"
        parts.append(f"{who} {name}")
    elif serial or code:  # mpirun says 0 of jobs that it has lost, too
        parts.append(f"{'exit code' if serial else 'exit code of mpirun'} {code}")
    elif not parts and not told:
        parts.append("mpirun ended without a word")
    if lost := execution.lost_nodes:
        parts.append(f"{', '.join(lost)} no longer {'answers' if len(lost) == 1 else 'answer'}")
    for run in execution.runs:
        if run.end and run.end.error:
            parts.append(run.end.error.strip().splitlines()[0])
    return ", ".join(parts)


def code_of(code: int) -> int:
    """An exit code as the shell would see it: 128 + signal for a process that was killed."""
    return 128 - code if code < 0 else code


def _killed(last: Execution, serial: bool) -> bool:
    """Whether it ended by SIGKILL, which comes from outside: the kernel short of memory, a batch system, a person."""
    # Open MPI gives 137 for a rank, MPICH the bare signal, which a program's own status 9 looks like: it is tried once more.
    return last.code in (-signal.SIGKILL, 128 + signal.SIGKILL) or (not serial and last.code == signal.SIGKILL)


def _never_opened(last: Execution, asked: str | None, starts: int) -> Verdict:
    if last.overdue:
        text = f"{_over(asked)} before the program had opened a run: it was ended."
        return Verdict("last checkpoint too late", EXIT_LAST_CHECKPOINT_FAILED, text)
    if asked:
        return Verdict("interrupted", EXIT_INTERRUPTED_NO_PROGRESS, f"interrupted by {asked} before it opened a run.")
    if last.code == 0:
        return Verdict("no run", EXIT_COMPLETE, "the program ended well; it never opened a run.")
    often = "" if starts == 1 else f", {'twice' if starts == 2 else f'{starts} times'} in a row"
    text = f"the program failed before it opened a run{often} ({death(last)}): it is not started again."
    return Verdict("program failed", code_of(last.code), text)


def _over(asked: str | None) -> str:
    return f"the time after {asked} was over" if asked and asked.startswith("SIG") else "the time limit was over"


def _failed_after(last: Execution, serial: bool) -> Verdict:
    """What it does after its runs is the program's own affair, and may fail."""
    text = f"complete. {_safe(last.runs)} The program failed afterwards: {death(last, serial)}."
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


def _will_come_again(last: Execution, run: RunFacts, serial: bool) -> str:
    error = run.end.error if run.end and run.end.error else ""
    return (
        f"attempt {run.attempt} of {shown(run.url)} failed with an error that would come again, so it is not started again. "
        f"{_safe(last.runs)}\n  {error}"
    )


def _interrupted(executions: Sequence[Execution], why: str) -> Verdict:
    runs = executions[-1].runs
    if any(e.gained for e in executions):
        return Verdict("interrupted", EXIT_INTERRUPTED, f"{why}. {_safe(runs)}{_again(runs)}")
    text = f"{why}, without a new version. {_safe(runs)}{_again(runs)}"
    return Verdict("interrupted without progress", EXIT_INTERRUPTED_NO_PROGRESS, text)


def _gives_up(barren: Sequence[Execution], serial: bool) -> str:
    falls = barren[0].falls
    if falls:
        back = ", ".join(f"version {fall.to} of {shown(fall.url)}" for fall in falls)
        past = ", ".join(f"{fall.crashed}" for fall in falls)
        lines = [f"gives up: from the version before it gets no further either (from {back}, not beyond {past})."]
    else:
        lines = [f"gives up: {'two' if len(barren) == TRIES else len(barren)} attempts in a row made no progress."]
    for execution in barren:
        named = ", ".join(f"attempt {r.attempt} of {shown(r.url)}" for r in execution.runs if r.attempt)
        seconds = execution.ended - execution.began
        lines.append(f"  {named or 'a start that opened no run'}: {death(execution, serial)}, after {seconds:.1f} s")
    runs = barren[-1].runs
    where = next((shown(run.url) for run in runs if not run.complete), shown(runs[0].url))
    lines.append(_safe(runs))
    for fall in falls:
        lines.append(
            f"Version {fall.crashed} is kept, abandoned: `holdfast rollback {shown(fall.url)} {fall.crashed}` goes back to it."
        )
    if any(e.code == 0 and not e.lost_nodes for e in barren):  # mpirun says 0 when it has lost a node
        lines.append("If the program was done, let it say so: `with holdfast.open(...) as run:` or `run.complete()`.")
    what = "What to do: mend the cause and give the same command again"
    if any(run.version is not None for run in runs):
        what += f"; `holdfast verify {where}` tells whether what is stored is whole; if the state itself is bad, "
        what += f"`holdfast rollback {where} VERSION` goes back to an earlier one"
    lines.append(f"{what}.")
    return "\n".join(lines)


def _violent(last: Execution, serial: bool) -> bool:
    """Whether it did not leave by itself: then what its ranks recorded in their last moments was not asked for.

    mpirun: Open MPI gives the code of the first rank to fail or 128 + its signal, MPICH the bare signal. When a node is lost
    it asks the ranks that are left to end, by SIGTERM, and may say 0.
    """
    if last.cleared or last.code < 0 or last.lost_nodes:
        return True
    if last.spares and any(run.end is not None and run.end.outcome == "interrupted" for run in last.runs):
        return False  # ranks that were lost and replaced before are in mpirun's code too; it asks nobody to end, then
    return _signal_name(last.code - 128) is not None if serial else last.code not in _INTERRUPTED


def _last_checkpoint_failed(run: RunFacts) -> bool:
    end = run.end
    return end is not None and (
        (end.outcome == "failed" and end.signal is not None) or (end.outcome == "interrupted" and end.error is not None)
    )


def _safe(runs: Sequence[RunFacts]) -> str:
    def one(run: RunFacts) -> str:
        if run.version is None:
            if run.places:
                return f"what nodes hold of {shown(run.url)}, and nothing in its own directory yet"
            return f"nothing is stored yet in {shown(run.url)}"
        return f"version {run.version}{'' if run.step is None else f' (step {run.step})'} of {shown(run.url)}"

    return f"Safe: {', '.join(map(one, runs))}."


def _again(runs: Sequence[RunFacts]) -> str:
    return " The same command goes on from there." if any(r.version is not None for r in runs) else ""


def _signal_name(number: int) -> str | None:
    try:
        return signal.Signals(number).name
    except ValueError:
        return None
