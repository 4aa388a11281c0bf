"""What the user is told: lines on stderr while it happens, and a JSON report at the end."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..errors import EXIT_COMPLETE, EXIT_INTERRUPTED, EXIT_INTERRUPTED_NO_PROGRESS
from ..units import seconds_text
from .facts import Execution, Opened, shown
from .hosts import Roster
from .judge import Verdict, failed_behind
from .wording import death

REPORT_FORMAT = 1
_IN_ORDER = (EXIT_COMPLETE, EXIT_INTERRUPTED, EXIT_INTERRUPTED_NO_PROGRESS)  # after which nothing has to be done again


class Account:
    """Writes `holdfast: ...` lines to stderr, none if `quiet`."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet

    def say(self, text: str) -> None:
        if self._quiet:
            return
        lines = "".join(f"holdfast: {line}\n" for line in text.splitlines())
        with contextlib.suppress(OSError, ValueError):  # nobody reads any more: no reason to stop the program
            sys.stderr.write(lines)  # at once, so that ranks' own lines do not come in between
            sys.stderr.flush()

    def starts(self, what: str, nodes: Roster | None = None) -> None:
        placed = ", ".join(f"{seat.host.name} ({seat.ranks})" for seat in nodes.used) if nodes else ""
        spare = f"; spare: {', '.join(host.name for host in nodes.reserve)}" if nodes and nodes.reserve else ""
        self.say(f"starts {what}{' on ' if placed else ''}{placed}{spare}")

    def opened(self, one: Opened, base: str) -> None:
        self.say(f"attempt {one.attempt} of {shown(one.url)} {base}")

    def restored(self, one: Opened, source: str) -> None:
        """From what an attempt goes on, a repaired one too, and where its data came from (`origin`)."""
        step = "" if one.step is None else f" (step {one.step})"
        self.say(f"attempt {one.attempt} of {shown(one.url)}: version {one.version}{step}{source and ', from '}{source}")

    def resumed(self, one: Opened, before: Execution) -> None:
        """From where an attempt goes on, after `before`, whose nodes may have held more than the run's own store."""
        place = f"goes on from version {one.version}" if one.version is not None else "starts from the beginning"
        step = "" if one.step is None else f" (step {one.step})"
        self.say(f"{shown(one.url)} {place}{step}; {_lost(before.lost, [before])}")

    def died(self, execution: Execution, serial: bool, more: Sequence[str] = ()) -> None:
        """Tells of an execution after which another is to come: what it died of, `more`, what is resumed, what is lost."""
        seconds = seconds_text(execution.ended - execution.began)
        after = f", {seconds} after the start" if execution.repairs else f" after {seconds}"  # earlier attempts' time, too
        named = ", ".join(f"attempt {r.attempt} of {shown(r.url)}" for r in execution.runs if r.attempt)
        self.say(f"{named or 'the program'} died{after}: {death(execution, serial)}")
        for line in more:
            self.say(line)
        for run in execution.runs:
            if run.complete:
                continue
            place = "starts from the beginning"
            if run.version is not None:
                step = "" if run.step is None else f" (step {run.step})"
                place = f"resumes from version {run.version}{step}"
            if run.places:  # which one is found by the program's ranks, when all nodes are asked
                newer = "newer version" if run.version is not None else "version"
                place = f"resumes from a {newer} if the nodes still hold one, else {place}"
            self.say(f"{shown(run.url)} {place}; {_lost(execution.lost, [execution])}")

    def verdict(self, verdict: Verdict, executions: Sequence[Execution]) -> None:
        self.say(verdict.message)
        if repairs := sum(e.repairs for e in executions):
            lost = seconds_text(sum(e.repaired_lost for e in executions))
            self.say(f"{repairs} repair{'s' * (repairs != 1)} in place, {lost} of work lost")
        restarts = len(executions) - 1
        died = _died(verdict, executions)
        lost = _lost(sum(e.lost for e in died), died)
        if restarts > 0:
            self.say(f"{restarts} restart{'s' * (restarts != 1)}, {lost}")
        elif any(e.lost for e in died):
            self.say(lost)


def lost_seconds(verdict: Verdict, executions: Sequence[Execution]) -> float:
    """Seconds of work that were done twice, or will be: those lost by every execution that died, and behind repairs. At most,
    where nodes may have held newer versions than the run's own store, and it was never learnt."""
    return sum(e.lost for e in _died(verdict, executions)) + sum(e.repaired_lost for e in executions)


def _died(verdict: Verdict, executions: Sequence[Execution]) -> Sequence[Execution]:
    """Those with which work was lost: all but the last, and the last, too, unless it completed or left when it was asked to."""
    return executions if verdict.exit not in _IN_ORDER else executions[:-1]


def _lost(seconds: float, executions: Sequence[Execution]) -> str:
    bound = "at most " if any(run.places and not run.known for e in executions for run in e.runs) else ""
    return f"{bound}{seconds_text(seconds)} of work lost"


def report(verdict: Verdict, executions: Sequence[Execution], serial: bool) -> dict[str, Any]:
    """The report as a JSON-able object: the verdict, each execution with its runs, and how the runs stand now.

    Members: `format` (1), `outcome`, `exit`, `message`, `seconds` (from first start to last end), `restarts`,
    `lost_seconds`, `executions` (`number`, `began`, `ended`, `code`, `died` (null if it completed), `repairs` (in place),
    `repairs_lost_seconds`, `lost_nodes`, `lost_seconds`, `resumed`, `runs`), `runs` (`url`, `complete`, `version`, `step`).
    Times are seconds since 1970. `resumed` has `url`, `attempt`, `version`, `step`, `source` for each version that an attempt
    went on from; `source` says in words where its data came from, "" if that is not known.
    """
    last = executions[-1]
    return {
        "format": REPORT_FORMAT,
        "outcome": verdict.outcome,
        "exit": verdict.exit,
        "message": verdict.message,
        "seconds": last.ended - executions[0].began,
        "restarts": len(executions) - 1,
        "lost_seconds": lost_seconds(verdict, executions),
        "executions": [
            {
                "number": e.number,
                "began": e.began,
                "ended": e.ended,
                "code": e.code,
                "died": death(e, serial) if failed_behind(e) or not e.complete else None,
                "repairs": e.repairs,
                "repairs_lost_seconds": e.repaired_lost,
                "lost_nodes": list(e.lost_nodes),
                "lost_seconds": e.lost,
                "resumed": [
                    {"url": o.url, "attempt": o.attempt, "version": o.version, "step": o.step, "source": source}
                    for o, source in e.resumed
                ],
                "runs": [asdict(run) for run in e.runs],
            }
            for e in executions
        ],
        "runs": [{"url": r.url, "complete": r.complete, "version": r.version, "step": r.step} for r in last.runs],
    }


def write_report(path: str, content: dict[str, Any]) -> str | None:
    """Writes the report to `path`; a complaint if that fails (the verdict stands all the same)."""
    try:
        with open(path, "w", encoding="utf-8") as f:
            json.dump(content, f, indent=2)
            f.write("\n")
    except OSError as error:
        return f"the report could not be written to {path}: {error}"
    return None
