"""How long until the next checkpoint: from what checkpoints cost here, and how often programs fail.

The model. A checkpoint costs C = s + b seconds: the program waits for s, and while the version is on its way to the disk
(L seconds, the flight) its steps take b longer in all. Failures come at random, one in M seconds on average (exponential),
and a restart takes R. With T seconds of work between two checkpoints, the part of the time that is lost is, to first order,

    C / T + (T / 2 + L + R) / M

because a failure undoes T / 2 on average, and a whole interval more if it meets the version in flight, which happens in
L / T of all cases. Neither L nor R has T beside it: they are lost whatever the interval is, and only C and M decide. L is a
bound nevertheless: one version is in flight at a time, so an interval shorter than L would make the program wait.
`benchmarks/goodput.py` simulates all this and compares with the best fixed interval.

Young (1974) minimises this: T = sqrt(2 C M), good while C is far below M (3 % too long at M = 200 C, 11 % at 20 C).
Daly (2006) takes failures during checkpoints and more than one failure in an interval into account; his estimate differs
from the exact optimum by less than 1 % while C < M / 2 and is defined up to C < 2 M, from where on he gives T = M.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

from ..catalog.failures import PRIOR_MTBF
from ..policy import Auto, Every

# Until the first checkpoint, as long as its cost is not known; a fifth of the MTBF if that is less. A minute, as it was, lost
# 43 % of the time where ranks fail every twenty seconds (two minutes of part H); one checkpoint a start is dear nowhere.
FIRST_SECONDS = 5.0
FIRST_PART = 0.2
MOST = 0.25  # of the time that checkpoints may take however often programs fail: at M = 20 C the optimum takes 15 %
MOST_FOR_LONGEST = 0.1  # of the time that keeping to `longest` may cost
SHORTEST_OVERHEAD = 1.0  # the shortest interval of `overhead`, seconds
ROOM = 1.5  # the shortest interval, as a multiple of the usual flight
SHORTEST_WINDOW = 0.02  # seconds of steps that are measured in one
_LAST = 5  # checkpoints that count
_RECENT = 20  # of which the dearest counts where it must not be too little: versions written whole come rarely
_WINDOWS = 25  # windows of steps outside of flights that count
_ENOUGH = 3  # of these before a slow-down is inferred from them


def young(cost: float, mtbf: float) -> float:
    """Young's first-order optimum: seconds of work between checkpoints that cost `cost` seconds; for cost << mtbf."""
    return math.sqrt(2 * cost * mtbf) if cost > 0 else 0.0


def daly(cost: float, mtbf: float) -> float:
    """Daly's higher-order optimum: seconds of work between checkpoints that cost `cost` seconds.

    sqrt(2 C M) (1 + sqrt(C / 2M) / 3 + C / 18M) - C for C < 2 M, else M. Made for C < M / 2.
    """
    if cost >= 2 * mtbf:
        return mtbf
    return young(cost, mtbf) * (1 + math.sqrt(cost / (2 * mtbf)) / 3 + cost / (18 * mtbf)) - max(cost, 0.0)


class Costs:
    """What checkpoints cost one execution, as measured on this rank, and the interval that follows (local).

    All that is told here is in seconds. Medians of the last five checkpoints count: one slow fsync changes nothing, a new
    size of the state does after three. `mtbf`: what stands in for `auto()`'s None.

    Ranks need not tell each other: each reckons its own interval, and the pacer lets the longest hold for all. It is that
    of the rank for which checkpoints are dearest, and a program whose ranks work together is as slow as that rank.
    """

    def __init__(self, mtbf: float = PRIOR_MTBF) -> None:
        self.mtbf = mtbf
        self._stalls: deque[float] = deque(maxlen=_LAST)
        self._flights: deque[float] = deque(maxlen=_LAST)
        self._flying: deque[tuple[float, int]] = deque(maxlen=_LAST)  # steps during flights: seconds, number
        self._whole: deque[float] = deque(maxlen=_RECENT)  # seconds from a checkpoint's beginning until it was durable
        self._usual: deque[float] = deque(maxlen=_WINDOWS)  # seconds per step outside of them, one for each window

    # -- what the engine tells -----------------------------------------------------------------

    def took(self, stall: float) -> None:
        """The program waited `stall` seconds in all for a checkpoint; to be told before the pacer's `taken`."""
        self._stalls.append(max(0.0, stall))

    def landed(self, flight: float) -> None:
        """A version became durable `flight` seconds after it was captured, while the program went on; to be told before the
        pacer's `watch(None)`. Nothing to tell of a checkpoint for which the program waited until it was durable."""
        self._flights.append(max(0.0, flight))

    def durable(self, seconds: float) -> None:
        """A checkpoint was durable in the run's own store `seconds` after it was begun, whoever waited for it."""
        self._whole.append(max(0.0, seconds))

    def recall(self, stall: float, flight: float = 0.0) -> None:
        """What a checkpoint cost in an earlier execution, from the version that was restored. Counts as one measurement, so
        that a program that fails often does not learn anew each time."""
        self.took(stall)
        if flight > 0:
            self.landed(flight)

    def stepped(self, seconds: float, steps: int, flying: bool) -> None:
        """`steps` whole steps took `seconds`: from a capture to the head at which the version was known to be durable
        (`flying`), or outside of any flight. The pacer tells."""
        if flying:
            self._flying.append((seconds, steps))
        else:
            self._usual.append(seconds / steps)

    # -- what follows ----------------------------------------------------------------------------

    @property
    def known(self) -> bool:
        """Whether any checkpoint has been measured."""
        return bool(self._stalls)

    @property
    def stall(self) -> float:
        return _quantile(self._stalls, 0.5)

    @property
    def flight(self) -> float:
        return _quantile(self._flights, 0.5)

    @property
    def dearest(self) -> float | None:
        """The longest that any of the recent checkpoints took until it was durable; None before there was one."""
        return max(self._whole, default=None)

    @property
    def _room(self) -> float:
        """Seconds to leave a version to land. Flights vary: where they are as long as intervals, waiting for every second one
        costs more than rarer checkpoints do."""
        return ROOM * self.flight

    @property
    def slowdown(self) -> float:
        """Seconds by which the steps during a flight take longer than as many usual ones; 0 if not known.

        Steps differ in length by themselves, so what is usual is the upper quartile of windows about as long as a flight, and
        the median flight counts: long steps here and there are no slow-down. The price: one that is smaller than the steps'
        own spread is not seen.
        """
        if len(self._usual) < _ENOUGH:
            return 0.0
        usual = _quantile(self._usual, 0.75)
        return _quantile([max(0.0, seconds - steps * usual) for seconds, steps in self._flying], 0.5)

    @property
    def window(self) -> float:
        """How many seconds of steps outside of flights to measure in one: a flight's; inf where there are no flights."""
        return max(SHORTEST_WINDOW, self.flight) if self._flights else math.inf

    def interval(self, every: Every) -> float:
        """Seconds from one checkpoint's end to the next by `every.auto` and `every.overhead`: the shorter of the two; inf
        if `every` has neither."""
        return min(
            self._auto(every.auto) if every.auto is not None else math.inf,
            self._overhead(every.overhead) if every.overhead is not None else math.inf,
        )

    def _auto(self, auto: Auto) -> float:
        mtbf = self.mtbf if auto.mtbf is None else auto.mtbf
        if not self.known:
            return max(auto.shortest, min(FIRST_SECONDS, FIRST_PART * mtbf, auto.longest))
        slow = self.slowdown
        cost = self.stall + slow
        best = min(daly(cost, mtbf), max(auto.longest, _work(cost, MOST_FOR_LONGEST)))
        # The slow-down is part of the seconds between two checkpoints, but no work.
        return max(slow + max(best, _work(cost, MOST)), auto.shortest, self._room)

    def _overhead(self, fraction: float) -> float:
        if not self.known:
            return FIRST_SECONDS
        # A promise, unlike the optimum: the last one counts if it was dearer than is usual.
        slow = self.slowdown
        cost = max(self.stall, self._stalls[-1]) + slow
        return max(slow + _work(cost, fraction), SHORTEST_OVERHEAD, self._room)


def _work(cost: float, part: float) -> float:
    """Seconds of work for each checkpoint of `cost` seconds, of which checkpoints then take `part` of the time."""
    return cost / part - cost


def _quantile(values: Iterable[float], part: float) -> float:
    """The quantile between two values that `part` of the others lie below, by linear interpolation; 0 if there is none.
    (The module `statistics` would cost each start 5 ms.)"""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    place = part * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
