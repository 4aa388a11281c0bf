"""When, at a loop's heads, to take a checkpoint or to leave: the same answer at the same step on all ranks.

Steps are counted alike everywhere; clocks and signals are not. Ranks agree on those in rounds: at a step that all know, each
contributes what it wishes to a nonblocking reduction and computes on; at the next such step, a few further on, the reduction
has long been done and its result holds for all. So no step waits for a slower rank's step, and a decision is at most
two rounds old. How far apart the rounds are is agreed in the same reduction: some 20 ms, and never more than 16 steps, so
that a loop whose steps suddenly become long is not left without an ear.
"""

from __future__ import annotations

from time import monotonic
from typing import NamedTuple

from ..group import Group, Pending
from ..policy import Every
from .signals import Interrupts

_AHEAD_SECONDS = 0.02
_AHEAD_STEPS = 16
_DUE = 1  # a wish: the clock says so; greater ones are _DUE + a signal's number


class Decision(NamedTuple):
    """Take a checkpoint, because of `policy`, `request` or `signal`; `signal` is its number, 0 if none."""

    reason: str
    signal: int = 0


class Pacer:
    """Decides for one loop. `decide(step)` is called at each head, by all ranks with the same steps."""

    def __init__(self, every: Every, group: Group, interrupts: Interrupts, start: int) -> None:
        self._steps, self._seconds = every.steps, every.seconds
        self._group, self._interrupts, self._start = group, interrupts, start
        self._serial = group.size == 1
        self._due = monotonic() + (every.seconds or 0)
        self._round: Pending | None = None
        self._next = start  # the head at which the round under way ends and the next begins
        self._begun = start  # the head at which it began
        self._ahead = 1
        self._taken = -1  # the head of the last checkpoint
        self._last = monotonic()

    def decide(self, step: int, requested: bool, final: bool = False) -> Decision | None:
        """What to do at this head; `final`: the loop is over, only requests and signals count."""
        if self._serial:
            due = self._seconds is not None and monotonic() >= self._due
            if not (due or requested or self._interrupts.pending):  # the way of nearly every step: as short as can be
                if self._steps is None or step % self._steps or final or step == self._start:
                    return None
                return Decision("policy")
            wish = self._wish()
        else:
            wish = self._agree(step, final) if final or step >= self._next else 0
        if wish > _DUE:
            return Decision("signal", wish - _DUE)
        if requested:
            return Decision("request")
        if final or step == self._start:
            return None
        if wish == _DUE or (self._steps is not None and step % self._steps == 0):
            return Decision("policy")
        return None

    def taken(self, step: int) -> None:
        """A checkpoint was tried at this head: the clock starts anew."""
        self._taken = step
        if self._seconds is not None:
            self._due = monotonic() + self._seconds

    def moved(self, step: int) -> None:
        """The loop goes on from another step (rollback): rounds go on from there, on all ranks alike."""
        self.finish()
        self._start = self._next = self._begun = step
        self._ahead, self._taken = 1, -1
        self._last = monotonic()
        self._due = monotonic() + (self._seconds or 0)

    def finish(self) -> None:
        """Let the round under way end: MPI does not like being left with one. Bounded by the group's deadline."""
        if self._round is not None:
            self._round.wait()
            self._round = None

    def _wish(self) -> int:
        if self._interrupts.pending:
            return _DUE + self._interrupts.pending
        return _DUE if self._seconds is not None and monotonic() >= self._due else 0

    def _agree(self, step: int, final: bool) -> int:
        wish, span = 0, max(1, step - self._begun)
        if self._round is not None:
            wish, self._ahead = self._round.wait()
            self._round = None
            if wish == _DUE and self._taken >= self._begun:
                wish = 0  # a clock that had not yet seen the checkpoint at the head where the round began
        now = monotonic()
        per_step = (now - self._last) / span
        mine = min(_AHEAD_STEPS, max(1, int(_AHEAD_SECONDS / max(per_step, 1e-9))))
        self._last = now
        self._begun, self._next = step, step + self._ahead
        self._round = self._group.begin_max(self._wish(), mine)
        if final:  # no head comes after this one: what was wished since the last round began is asked for here
            wish = max(wish, self._round.wait()[0])
            self._round = None
        return wish
