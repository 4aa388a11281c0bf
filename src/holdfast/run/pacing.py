"""When, at a loop's heads, to take a checkpoint or to leave: the same answer at the same step on all ranks.

Steps are counted alike everywhere; clocks, signals and disks are not. Ranks agree on those in rounds: at a step that all know,
each contributes what it wishes to a nonblocking reduction and computes on; at the next such step, a few further on, the
reduction has long been done and its result holds for all. So no step waits for a slower rank's step, and a decision is at most
two rounds old. How far apart the rounds are is agreed in the same reduction: some 20 ms, and never more than 16 steps, so
that a loop whose steps suddenly become long is not left without an ear.

Likewise agreed: that a version in flight has landed on some rank, so that all take over its outcome at the same step; and,
where the interval follows from what checkpoints cost, the interval: the longest holds. (Each rank's own would not do. Ranks
with little state wait for little, would be due often, and make those with much state wait each time.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple

from ..group import Group, Pending
from ..policy import Every
from .interval import Costs
from .signals import TIME_LIMIT, Interrupts
from .timelimit import Limit

_AHEAD_SECONDS = 0.02
_AHEAD_STEPS = 16
_DUE = 1  # a wish: the clock says so; greater ones are _DUE + a signal's number, or that of the time limit
_LANDED = 256  # added to how far ahead the next round shall be: this greatest value tells that one rank has said so
_MICRO = 1e6
_LONGEST = 1e12  # seconds that an interval is told as at most: an integer of microseconds must fit 64 bits


class Decision(NamedTuple):
    """Take a checkpoint, because of `policy`, `request` or `signal`; `signal` is its number or TIME_LIMIT, 0 if none.
    `landed`: first take over the outcome of the version in flight, waiting for it where it is not known yet; `reason` is ""
    if that is all."""

    reason: str
    signal: int = 0
    landed: bool = False


class Pacer:
    """Decides for one loop. `decide(step)` is called at each head, by all ranks with the same steps.

    `costs`: what checkpoints cost, for `auto` and `overhead`, else unused; the engine tells it before it calls `taken` and
    `watch`. `landed()`: whether this rank knows the outcome of the version in flight; asked only while there is one, at each
    head where there is one rank, so it must be cheap. `limit`: when to leave because the time is over.
    """

    def __init__(
        self,
        every: Every,
        group: Group,
        interrupts: Interrupts,
        start: int,
        costs: Costs | None = None,
        landed: Callable[[], bool] | None = None,
        limit: Limit | None = None,
    ) -> None:
        self._every, self._steps = every, every.steps
        self._costs = (costs or Costs()) if every.measured else None
        self._timed = every.seconds is not None or every.measured
        self._group, self._interrupts, self._start = group, interrupts, start
        self._serial = group.size == 1
        self._limit = limit if limit is not None and limit.active else None
        self._late = False  # whether it is time to leave
        self.outcome = landed
        self._watched: Callable[[], bool] | None = None  # `outcome` while a version is in flight
        self._changed = False  # since the round under way began, a flight has: what was said of it there is out of date
        self._round: Pending | None = None
        self._agreed = 0.0  # the longest interval of all ranks, as of the last round
        self._restart(start)

    def decide(self, step: int, requested: bool, final: bool = False) -> Decision | None:
        """What to do at this head; `final`: the loop is over, only requests, signals and landings count."""
        if self._serial:
            watched = self._watched
            if self._limit is not None and self._limit.due(monotonic()):
                self._late = True
            if not (
                requested
                or self._interrupts.pending
                or self._late
                or (self._timed and monotonic() >= self._wake)
                or (watched is not None and watched())
            ):  # the way of nearly every step: as short as can be
                if self._steps is None or step % self._steps or final or step == self._start:
                    return None
                return Decision("policy")
            now, landed = monotonic(), self._has_landed()
            self._measure(now, step, landed)
            wish = self._wish(now)
        elif final or step >= self._next:
            wish, landed = self._agree(step, final)
        else:
            wish, landed = 0, False
        if wish > _DUE:
            return Decision("signal", wish - _DUE, landed)
        if requested:
            return Decision("request", 0, landed)
        due = wish == _DUE or (self._steps is not None and step % self._steps == 0)
        if due and not (final or step == self._start):
            return Decision("policy", 0, landed)
        return Decision("", 0, True) if landed else None

    def taken(self, step: int) -> None:
        """A checkpoint was tried at this head: the clock starts anew, with the interval that now holds."""
        self._taken, self._since = step, monotonic()
        self._pause()
        self._window = self._since, step
        self._arm(self._since)

    def watch(self, flight: object | None) -> None:
        """A version is in flight from now on (any object but None), or none is any more (None).

        To be called by all ranks in the same step, in either order with `taken`, and for every loop that runs; a loop that is
        entered while a version is in flight is told as well.
        """
        self._watched = self.outcome if flight is not None else None
        self._changed = True
        if flight is None or self._window[1] != self._taken:
            self._window = 0.0, -1  # whole steps from the next head on: this one may have waited for the outcome
        self._pause()
        self._arm(monotonic())

    def _pause(self) -> None:
        if self._limit is not None:
            self._limit.paused()

    def moved(self, step: int) -> None:
        """The loop goes on from another step (rollback): rounds go on from there, on all ranks alike."""
        self.finish()
        self._start = step
        self._restart(step)

    def finish(self) -> None:
        """Let the round under way end: MPI does not like being left with one. Bounded by the group's deadline."""
        if self._round is not None:
            self._round.wait()
            self._round = None

    def _restart(self, step: int) -> None:
        self._next = step  # the head at which the round under way ends and the next begins
        self._begun = step  # the head at which it began
        self._ahead = 1
        self._taken = -1  # the head of the last checkpoint
        self._last = self._since = monotonic()  # when the last round began, and the clock
        self._window = self._since, step  # when and where the steps that are being measured began; -1: none are
        self._pause()
        self._arm(self._since)

    def _arm(self, now: float) -> None:
        """Set when a checkpoint is due, and when to look at the clock in earnest: then, or when steps have been measured."""
        if not self._timed:
            self._due = self._wake = math.inf
            return
        self._due = self._wake = self._since + max(self._interval(), self._agreed)
        if self._costs is not None and self._watched is None:
            self._wake = min(self._due, now + self._costs.window) if self._window[1] >= 0 else now

    def _interval(self) -> float:
        """Seconds from one checkpoint to the next as far as this rank knows."""
        seconds = math.inf if self._every.seconds is None else self._every.seconds
        return seconds if self._costs is None else min(seconds, self._costs.interval(self._every))

    def _measure(self, now: float, step: int, landed: bool) -> None:
        """At a head: tell `costs` how long the steps since the last such head took, if they make up a window."""
        if self._costs is None:
            return
        began, first = self._window
        flying = self._watched is not None
        if first >= 0:
            if not (landed if flying else now >= self._wake) or step <= first:
                return
            self._costs.stepped(now - began, step - first, flying)
        elif flying:
            return  # a flight that did not begin at a head
        self._window = now, step
        self._arm(now)

    def _has_landed(self) -> bool:
        return self._watched is not None and self._watched()

    def _wish(self, now: float) -> int:
        if self._interrupts.pending:
            return _DUE + self._interrupts.pending
        if self._late:
            return _DUE + TIME_LIMIT
        return _DUE if self._timed and now >= self._due else 0

    def _agree(self, step: int, final: bool) -> tuple[int, bool]:
        wish, landed, span = 0, False, max(1, step - self._begun)
        if self._round is not None:
            wish, landed = self._take_round(self._round)
            if wish == _DUE and self._taken >= self._begun:
                wish = 0  # a clock that had not yet seen the checkpoint at the head where the round began
            landed = landed and not self._changed
        now = monotonic()
        per_step = (now - self._last) / span
        mine = min(_AHEAD_STEPS, max(1, int(_AHEAD_SECONDS / max(per_step, 1e-9))))
        self._measure(now, step, landed)
        if self._limit is not None and self._limit.due(now):
            self._late = True
        self._last = now
        self._begun, self._next = step, step + self._ahead
        self._changed = False
        self._round = self._begin_round(self._wish(now), mine)
        if final:  # no head comes after this one: what was wished since the last round began is asked for here
            late, landed_late = self._take_round(self._round)
            wish, landed = max(wish, late), landed or landed_late
        return wish, landed

    def _begin_round(self, wish: int, ahead: int) -> Pending:
        values = [wish, ahead + _LANDED * self._has_landed()]
        if self._costs is not None:
            values.append(int(min(self._interval(), _LONGEST) * _MICRO))
        return self._group.begin_max(*values)

    def _take_round(self, pending: Pending) -> tuple[int, bool]:
        wish, ahead, *interval = pending.wait()
        self._round = None
        self._ahead = ahead % _LANDED
        if interval and interval[0] / _MICRO != self._agreed:
            self._agreed = interval[0] / _MICRO
            self._arm(monotonic())
        return wish, ahead >= _LANDED
