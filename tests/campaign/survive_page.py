"""The page `docs/reliability.md`: what part G has found, kind by kind."""

from __future__ import annotations

from typing import Any

from .survive_measure import COMPLETED, IN_PLACE, RELAUNCHED, WENT_ON

HEAD = """# Reliability

What `holdfast run` did about faults that were done to it from outside: part G of the [campaign](campaign.md), heat on 4 ranks
with 2 spares under Open MPI. This page is written by `tests/campaign/run.py --parts G --page docs/reliability.md`.

"""

LEGEND = """
*In place*: the group was repaired and the same processes went on; *relaunched*: the supervisor started the program again, or
was started again itself where it was killed; *went on*: no attempt ended; *completed*: the program came to its end before
anything was seen of a new attempt. *Noticed*: from the blow (the first of two) until a process was on its way to the repair,
or until one of the next start ran. *Repaired*: from there until the last rank had a new group. *Computing*: from the blow (the
last of two) until all ranks had done a step, or, where they went on, their next one. *Work lost*: steps that were done again
(their median) and the seconds before the blow in which they had been done; a checkpoint is taken every 5 steps. Seconds, median
/ 95th percentile, which of few faults is the longest.
"""
SHOWN = "the end of its output:"
GOOD = "no wrong result, no resume from an older version than the newest durable one, no hang, nothing that needed a person"


def page(result: dict[str, Any], source: str, seed: int, when: str, where: str) -> str:
    """The Markdown text: `result` is part G's, `source` the digest of what was tested, `where` says on what machine."""
    problems = sum(SHOWN not in one for one in result["problems"])
    verdict = f"**{problems} problems**, listed below" if problems else GOOD
    enough = result["with_enough_spares"]
    possible = sum(enough.values())
    tried = f"{result['faults']} faults in {result['jobs']} jobs"
    idle = f"({result['idle']} more did not take effect or came too late, and are not counted)"
    told = f"{result['attempts']} attempts, {result['durable']} versions reported durable"
    became = f"{result['in_place']} were repaired in place, {result['relaunched']} led to a new start"
    kept = f"Of {possible} losses of ranks for which there were spares enough, {enough.get(IN_PLACE, 0)} were repaired in place"
    text = f"{HEAD}{when}, {where}; source {source[:12]}, seed {seed}: {tried} {idle}, {told}. {became}, through "
    text += f"{result['went_on']} the program went on. {kept}. Outcome: {verdict}.\n\n"
    text += table(result["kinds"]) + LEGEND
    if result["reasons"]:
        shown = ", ".join(f"{reason} ({count})" for reason, count in sorted(result["reasons"].items()))
        text += f"\nWhat was printed where the program was started again (a start may have several): {shown}.\n"
    if problems:
        text += "\n## Problems\n\n" + "".join(
            f"- {one.splitlines()[0][:600]}\n" for one in result["problems"] if SHOWN not in one
        )
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
            cells.append(f"{row['lost_steps']:g} steps, {_pair(lost)}" if lost else "")
            lines.append("| " + " | ".join(cells) + " |")
            first = False
    return "\n".join(lines) + "\n"


def _pair(values: list[float] | None) -> str:
    return f"{values[0]:.2f} / {values[1]:.2f}" if values else ""
