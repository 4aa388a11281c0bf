"""The page `docs/reliability.md`: what part G has found, kind by kind."""

from __future__ import annotations

from typing import Any

from .survive_job import EVERY, RANKS, SPARES
from .survive_kinds import KINDS
from .survive_measure import COMPLETED, IN_PLACE, RELAUNCHED, WENT_ON

LEAST = 30  # faults of each kind that are asked for
HEAD = f"""# Reliability

What `holdfast run` did about faults that were done to it from outside: part G of the [campaign](campaign.md), heat on {RANKS}
ranks with {SPARES} spares under Open MPI, on one machine and on stand-in nodes, and digits, one process. This page is written
by `tests/campaign/run.py --parts G --page docs/reliability.md`, which adds up what its runs have kept.

"""

LEGEND = f"""
*In place*: the group was repaired and the same processes went on; *relaunched*: the supervisor started the program again, or
was started again itself where it was killed; *went on*: no attempt ended; *completed*: the program came to its end before
anything was seen of a new attempt. *Noticed*: from the blow (the first of two) until a process was on its way to the repair,
or until one of the next start ran. *Repaired*: from there until the last rank had a new group. *Computing*: from the blow (the
last of two) until all ranks had done a step, or, where they went on, their next one. *Work lost*: steps that were done again
(their median) and the seconds before the blow in which they had been done; a checkpoint is taken every {EVERY} steps (5 in the
first runs). Seconds, median / 95th percentile, which of few faults is the longest. All {RANKS + SPARES} processes share the
cores, a start loads as many interpreters, and MPI waits by polling: these are times of such a machine, longer than where each
rank has a core.
"""
GOOD = "no wrong result, no resume from an older version than the newest durable one, no hang, nothing that needed a person"


def page(result: dict[str, Any], where: str) -> str:
    """The Markdown text: `result` is part G's summary, `where` says when and on what machine."""
    problems = len(result["problems"])
    verdict = f"**{problems} problems**, listed below" if problems else GOOD
    enough = result["with_enough_spares"]
    possible = sum(enough.values())
    tried = f"{result['faults']} faults in {result['jobs']} jobs ({result['seconds'] / 60:.0f} minutes)"
    idle = f"({result['idle']} more did not take effect or came too late, and are not counted)"
    told = f"{result['attempts']} attempts, {result['durable']} versions reported durable"
    became = f"{result['in_place']} were repaired in place, {result['relaunched']} led to a new start"
    kept = f"Of {possible} losses of ranks for which there were spares enough, {enough.get(IN_PLACE, 0)} were repaired in place"
    text = f"{HEAD}{where}: {tried} {idle}, {told}. {became}, through "
    text += f"{result['went_on']} the program went on. {kept}. Outcome: {verdict}.\n\n"
    text += table(result["kinds"]) + LEGEND
    rare = [f"{kind} ({result['kinds'].get(kind, {}).get('faults', 0)})" for kind in KINDS]
    rare = [
        one for one, kind in zip(rare, KINDS, strict=True) if result["kinds"].get(kind, {}).get("faults", 0) < LEAST
    ]
    if rare:
        text += f"\nFewer than {LEAST} faults so far: {', '.join(rare)}.\n"
    sources = "; ".join(
        f"{count} faults of source {source[:12]}{f' (commit {commit[:9]})' if commit else ''}, "
        f"seed{'s' * (len(seeds) != 1)} {', '.join(map(str, seeds))}"
        for commit, source, seeds, count in result["sources"]
    )
    text += f"\nTested: {sources}.\n"
    if result["reasons"]:
        shown = ", ".join(f"{reason} ({count})" for reason, count in sorted(result["reasons"].items()))
        text += f"\nWhat was printed where the program was started again (a start may have several): {shown}.\n"
    if problems:
        text += "\n## Problems\n\n" + "".join(f"- {one.splitlines()[0][:600]}\n" for one in result["problems"])
    return text


def table(kinds: dict[str, Any]) -> str:
    """A row for each kind and outcome."""
    head = ["fault", "outcome", "count", "noticed", "repaired", "computing", "work lost"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for kind, row in kinds.items():
        first = True
        for outcome in (IN_PLACE, RELAUNCHED, WENT_ON, COMPLETED):
            if outcome not in row["outcomes"]:
                continue
            cells = [kind if first else "", outcome, str(row["outcomes"][outcome])]
            cells += [_pair(row.get(f"{name}, {outcome}")) for name in ("detected", "repaired", "again")]
            lost = row.get(f"lost_seconds, {outcome}")
            cells.append(f"{row[f'lost_steps, {outcome}']:g} steps, {_pair(lost)}" if lost else "")
            lines.append("| " + " | ".join(cells) + " |")
            first = False
    return "\n".join(lines) + "\n"


def _pair(values: list[float] | None) -> str:
    return f"{values[0]:.2f} / {values[1]:.2f}" if values else ""
