"""What an execution died of, what is safe, and what to do next: in words, for verdicts and for the account."""

from __future__ import annotations

import signal
from collections.abc import Sequence

from .facts import Execution, RunFacts, shown


def death(execution: Execution, serial: bool = True) -> str:
    """What an execution died of, as far as is known: its rank, exit code or signal, the error it recorded."""
    parts = list(execution.judged[execution.repairs :][-1:])  # the others may have been repaired
    told = any(run.end and run.end.error for run in execution.runs)  # then who was seen to go first tells nothing
    if not parts and not told and execution.first_dead and not serial:
        parts.append(f"rank {execution.first_dead[0]} (process {execution.first_dead[1]}) died first")
    code = execution.code
    number = -code if code < 0 else code - 128
    if name := signal_name(number):
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


def safe(runs: Sequence[RunFacts]) -> str:
    """What of each run is kept."""
    def one(run: RunFacts) -> str:
        if run.version is None:
            if run.places:
                return f"what nodes hold of {shown(run.url)}, and nothing in its own directory yet"
            return f"nothing is stored yet in {shown(run.url)}"
        return f"version {run.version}{'' if run.step is None else f' (step {run.step})'} of {shown(run.url)}"

    return f"Safe: {', '.join(map(one, runs))}."


def again(runs: Sequence[RunFacts]) -> str:
    """That the same command goes on, where there is something to go on from."""
    return " The same command goes on from there." if any(r.version is not None for r in runs) else ""


def over(asked: str | None) -> str:
    """Which time was over: that behind a signal, or the limit."""
    return f"the time after {asked} was over" if asked and asked.startswith("SIG") else "the time limit was over"


def will_come_again(last: Execution, run: RunFacts, serial: bool) -> str:
    error = run.end.error if run.end and run.end.error else ""
    return (
        f"attempt {run.attempt} of {shown(run.url)} failed with an error that would come again, so it is not started again. "
        f"{safe(last.runs)}\n  {error}"
    )


def gives_up(barren: Sequence[Execution], serial: bool) -> str:
    """Why it is not tried again, what each of the `barren` executions died of, and what to do."""
    falls = barren[0].falls
    if falls:
        back = ", ".join(f"version {fall.to} of {shown(fall.url)}" for fall in falls)
        past = ", ".join(f"{fall.crashed}" for fall in falls)
        lines = [f"gives up: from the version before it gets no further either (from {back}, not beyond {past})."]
    else:
        lines = [f"gives up: {'two' if len(barren) == 2 else len(barren)} attempts in a row made no progress."]
    for execution in barren:
        named = ", ".join(f"attempt {r.attempt} of {shown(r.url)}" for r in execution.runs if r.attempt)
        seconds = execution.ended - execution.began
        lines.append(f"  {named or 'a start that opened no run'}: {death(execution, serial)}, after {seconds:.1f} s")
    runs = barren[-1].runs
    where = next((shown(run.url) for run in runs if not run.complete), shown(runs[0].url))
    lines.append(safe(runs))
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


def signal_name(number: int) -> str | None:
    try:
        return signal.Signals(number).name
    except ValueError:
        return None
