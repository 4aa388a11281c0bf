"""What became of each attempt, as far as the records tell: also of those that did not live to say so."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ..catalog import Attempt, Process


class Outcome(NamedTuple):
    """`word`: as its end record says (complete, interrupted, failed, closed); without one: running, died, repaired (ranks were
    replaced while the job went on), went on (the same processes went on as a later attempt, after a rollback or a repair),
    lost (on other machines, and no sign of it any more), unknown. `replaced`: ranks; `without`: machines that the attempt
    after it did without; `later`: that attempt's number."""

    word: str
    replaced: tuple[int, ...] = ()
    without: tuple[str, ...] = ()
    later: int | None = None

    def note(self) -> str:
        """For people."""
        if self.replaced:
            which = ", ".join(map(str, self.replaced))
            return f"rank{'s' * (len(self.replaced) > 1)} {which} replaced, attempt {self.later} went on"
        if self.without:
            return f"attempt {self.later} did without {', '.join(self.without)}"
        return f"as attempt {self.later}" if self.word == "went on" else ""


def outcomes(attempts: Sequence[Attempt], held: bool) -> dict[int, Outcome]:
    """By number. `attempts`: oldest first; `held`: whether somebody holds the run, which is the newest one's holder."""
    found: dict[int, Outcome] = {}
    for i, one in enumerate(attempts):
        after = next((a for a in attempts[i + 1 :] if a.kind == "run"), None)
        found[one.number] = _outcome(one, after, held and i == len(attempts) - 1)
    return found


def _outcome(one: Attempt, after: Attempt | None, held: bool) -> Outcome:
    if one.end is not None:
        return Outcome(one.end.outcome)
    if held:
        return Outcome("running")
    if one.holder is None:
        return Outcome("unknown")
    if after is not None and one.execution is not None and after.execution == one.execution:
        pairs = zip(one.processes, after.processes, strict=False)
        replaced = tuple(rank for rank, (then, now) in enumerate(pairs) if then != now)
        return Outcome("repaired" if replaced else "went on", replaced, later=after.number)
    everyone = {one.holder, *one.processes}
    if any(p.here and p.alive for p in everyone):
        return Outcome("running")  # fenced off, which it finds when it wants to write
    if all(p.here for p in everyone):
        return Outcome("died")
    lacking = _hosts(everyone) - _hosts(after.processes) if after is not None else set()
    return Outcome("lost", without=tuple(sorted(lacking)), later=after.number if after is not None else None)


def _hosts(processes: Sequence[Process] | set[Process]) -> set[str]:
    return {p.host for p in processes}


def elsewhere(attempts: Sequence[Attempt]) -> bool:
    """Whether the run has ever been on another machine than this one."""
    here = os.uname().nodename
    return any(p.host != here for a in attempts for p in (a.holder, *a.processes) if p is not None)
