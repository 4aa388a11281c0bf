"""Decisions at loop heads: clocks that depend on costs, versions in flight, several ranks with clocks of their own."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import holdfast
from holdfast.group import SerialGroup
from holdfast.policy import Every
from holdfast.run import pacing
from holdfast.run.interval import Costs, daly
from holdfast.run.pacing import Decision, Pacer
from holdfast.run.signals import Interrupts

POLICY, LANDED = Decision("policy"), Decision("", 0, True)
FLIGHT = object()


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that the test sets."""
    clock = [1000.0]
    monkeypatch.setattr("holdfast.run.pacing.monotonic", lambda: clock[0])
    return clock


class Reduction:
    """A maximum over all ranks of a process: there when the last has begun it."""

    def __init__(self, size: int) -> None:
        self.given: list[tuple[int, ...]] = []
        self.size, self.whole = size, threading.Event()

    def add(self, values: tuple[int, ...]) -> None:
        self.given.append(values)
        if len(self.given) == self.size:
            self.whole.set()

    def test(self) -> tuple[int, ...] | None:
        return self.wait() if self.whole.is_set() else None

    def wait(self) -> tuple[int, ...]:
        assert self.whole.wait(10.0), "a rank waits for a round that another has not begun: they are out of step"
        return tuple(map(max, zip(*self.given, strict=True)))


class Rank(SerialGroup):
    """One of several ranks in this process; its rounds meet the others' in the order in which they are begun."""

    def __init__(self, rank: int, rounds: list[Reduction], size: int) -> None:
        self.rank, self.size, self._rounds, self._number = rank, size, rounds, 0  # type: ignore[misc]

    def begin_max(self, *values: int) -> Any:
        if len(self._rounds) == self._number:
            self._rounds.append(Reduction(self.size))
        self._number += 1
        self._rounds[self._number - 1].add(values)
        return self._rounds[self._number - 1]


def serial(every: Every, costs: Costs | None = None, landed: Any = None, start: int = 0) -> Pacer:
    return Pacer(every, SerialGroup(), Interrupts(), start, costs, landed)


# -- one rank -----------------------------------------------------------------------------------------------


def test_the_interval_follows_what_checkpoints_cost(now):
    costs = Costs()
    pacer = serial(holdfast.auto(2000.0), costs)
    heads = []
    for step in range(2000):
        if pacer.decide(step, False) == POLICY:
            heads.append(now[0])
            costs.took(2.0 if len(heads) < 8 else 20.0)
            pacer.taken(step)
        now[0] += 1.0
    gaps = [b - a for a, b in pairwise(heads)]
    assert heads[0] == 1000.0 + 5.0  # nothing is known
    assert gaps[:6] == [round(daly(2.0, 2000.0) + 0.5)] * 6  # 88.1: at the next head
    assert gaps[-1] == round(daly(20.0, 2000.0) + 0.5)


def test_a_fixed_time_is_a_bound_of_a_measured_one(now):
    costs = Costs()
    costs.took(1.0)
    pacer = serial(holdfast.auto(2000.0) | holdfast.seconds(30) | holdfast.steps(25), costs)
    decided = []
    for step in range(70):
        if pacer.decide(step, False) == POLICY:
            decided.append(step)
            pacer.taken(step)
        now[0] += 2.0
    assert decided == [15, 25, 40, 50, 65]


def test_a_measured_policy_needs_nobody_to_measure(now):
    """Without an engine's figures the first interval holds on."""
    pacer = serial(holdfast.overhead(0.02))
    assert pacer.decide(1, False) is None
    now[0] += 60
    assert pacer.decide(2, False) == POLICY


def test_a_landing_is_told_until_it_is_taken_over(now):
    over = []
    pacer = serial(holdfast.steps(10), landed=lambda: bool(over))
    over.append(1)
    assert pacer.decide(1, False) is None  # nothing is in flight
    over.clear()
    pacer.watch(FLIGHT)
    assert pacer.decide(2, False) is None
    over.append(1)
    assert pacer.decide(3, False) == pacer.decide(4, False) == LANDED
    assert pacer.decide(5, True) == Decision("request", 0, True)
    assert pacer.decide(10, False) == Decision("policy", 0, True)
    assert pacer.decide(10, False, final=True) == LANDED
    pacer._interrupts.pending = 15
    assert pacer.decide(11, False) == Decision("signal", 15, True)
    pacer.watch(None)
    assert pacer.decide(12, False) == Decision("signal", 15)


def test_the_slow_down_is_measured_in_whole_steps(now):
    """Steps of 0.5 s that take 0.6 s while a version is in flight, for 2.9 s after each checkpoint."""
    costs = Costs()
    lands = [0.0]
    pacer = serial(holdfast.auto(5000.0), costs, lambda: now[0] >= lands[0])
    flights = 0
    for step in range(1000):
        decision = pacer.decide(step, False)
        if decision is not None and decision.landed:
            costs.landed(2.9)
            pacer.watch(None)
            now[0] += 0.2  # what taking it over took is no step
        if decision is not None and decision.reason:
            now[0] += 1.0
            costs.took(1.0)
            lands[0] = now[0] + 2.9
            for call in (pacer.taken, pacer.watch) if flights % 2 else (pacer.watch, pacer.taken):
                call(step if call == pacer.taken else FLIGHT)
            flights += 1
        now[0] += 0.6 if now[0] < lands[0] else 0.5
    assert flights > 3
    assert costs.slowdown == pytest.approx(5 * 0.1)
    assert costs.interval(holdfast.auto(5000.0)) == pytest.approx(0.5 + daly(1.5, 5000.0))


def test_what_steps_are_measured_and_as_what(now):
    costs = Costs()
    costs.recall(1.0, 2.0)  # so windows of 2 s
    told: list[Any] = []
    costs.stepped = lambda *given: told.append(given)  # type: ignore[method-assign]
    over = [False]
    pacer = serial(holdfast.auto(5000.0), costs, lambda: over[0])

    def go(first: int, last: int) -> list[Any]:
        """Steps of a second each, up to the head of `last`; what was told at their heads."""
        for step in range(first, last + 1):
            pacer.decide(step, False)
            now[0] += 1.0
        found, told[:] = list(told), []
        return found

    assert go(0, 5) == [(2.0, 2, False), (2.0, 2, False)]
    pacer.taken(5)
    pacer.watch(FLIGHT)
    assert go(6, 10) == []
    over[0] = True
    assert go(11, 11) == [(5.0, 6, True)]  # the clock stood still during the checkpoint, and so in the first of these steps
    pacer.watch(None)
    over[0] = False
    now[0] += 50.0  # what taking the outcome over takes is in no window
    assert go(12, 16) == [(2.0, 2, False), (2.0, 2, False)]
    pacer.watch(FLIGHT)  # of which no head is known at which it began
    assert go(17, 20) == []
    over[0] = True
    assert go(21, 21) == []
    pacer.watch(None)
    assert go(22, 24) == [(2.0, 2, False)]
    over[0] = False
    pacer.taken(25)
    pacer.watch(FLIGHT)
    assert go(26, 30) == []
    pacer.watch(None)  # waited for by the program, within a step
    assert go(31, 33) == [(2.0, 2, False)]


def test_a_rollback_forgets_the_clock_and_the_window(now):
    costs = Costs()
    costs.recall(1.0, 2.0)
    told: list[Any] = []
    costs.stepped = lambda *given: told.append(given)  # type: ignore[method-assign]
    pacer = serial(holdfast.auto(200.0), costs)
    for step in range(4):
        assert pacer.decide(step, False) is None
        now[0] += 1.0
    assert told == [(2.0, 2, False)]
    pacer.moved(1)
    now[0] += 1.0
    assert pacer.decide(2, False) is None
    now[0] += 1.0
    assert pacer.decide(3, False) is None
    assert told == [(2.0, 2, False), (2.0, 2, False)]


# -- several ranks ----------------------------------------------------------------------------------------


class Ranks:
    """Ranks in lockstep, each with its own costs and clock; what is decided must be the same on all."""

    def __init__(self, size: int, every: Every, now: list[float], skew: float = 0.0) -> None:
        rounds: list[Reduction] = []
        self.now, self.skew, self.lands = now, skew, [10**9] * size  # the step at which each rank's flight is over
        self.step = 0
        self.costs = [Costs() for _ in range(size)]
        self.interrupts = [Interrupts() for _ in range(size)]
        self.pacers = [
            Pacer(every, Rank(r, rounds, size) if size > 1 else SerialGroup(), self.interrupts[r], 0, self.costs[r],
                  lambda r=r: self.step >= self.lands[r])
            for r in range(size)
        ]  # fmt: skip

    def decide(self, step: int) -> Decision | None:
        self.step = step
        found = []
        for rank, pacer in enumerate(self.pacers):
            self.now[0] += self.skew * (rank + 1)
            found.append(pacer.decide(step, False))
        assert all(d == found[0] for d in found), found
        return found[0]

    def each(self, name: str, *args: Any) -> None:
        for pacer in self.pacers:
            getattr(pacer, name)(*args)


def test_the_dearest_ranks_interval_holds(now):
    """The first rank waits 10 ms for a checkpoint, the last 4 s: not a checkpoint every second."""
    ranks = Ranks(3, holdfast.auto(2000.0), now)
    heads = []
    for step in range(500):
        decision = ranks.decide(step)
        if decision is not None:
            assert decision == POLICY
            heads.append(now[0])
            for costs, stall in zip(ranks.costs, (0.01, 0.1, 4.0), strict=True):
                costs.took(stall)
            ranks.each("taken", step)
        now[0] += 1.0
    gaps = [b - a for a, b in pairwise(heads)]
    assert len(gaps) == 3 and all(0 <= gap - daly(4.0, 2000.0) <= 3 for gap in gaps[1:])


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_landings_clocks_and_signals_are_heeded_alike_and_none_is_lost(data):
    size = data.draw(st.integers(1, 4), "ranks")
    every = data.draw(st.sampled_from([
        holdfast.seconds(0.5), holdfast.steps(7), holdfast.auto(10.0, shortest=0.1), holdfast.overhead(0.1),
        holdfast.seconds(1.0) | holdfast.steps(11),
    ]), "every")  # fmt: skip
    pace = data.draw(st.sampled_from([0.0005, 0.004, 0.3]), "seconds per step")
    flights = data.draw(st.lists(st.lists(st.integers(0, 60), min_size=size, max_size=size), min_size=12, max_size=12))
    end = data.draw(st.integers(20, 150), "signal at")
    now = [0.0]
    slack = 2 * 16 + 1 if size > 1 else 0  # two rounds
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pacing, "monotonic", lambda: now[0])
        ranks = Ranks(size, every, now, skew=pace / size)
        flying = False
        for step in range(end + slack + 1):
            if step == end:
                ranks.interrupts[-1].pending = 10
            decision = ranks.decide(step)
            if decision is not None and decision.landed:
                assert flying and step >= min(ranks.lands), "an outcome that is another flight's, or nobody's"
            assert not flying or decision not in (None, POLICY) or step <= min(ranks.lands) + slack, "a landing is lost"
            if decision is None:
                continue
            if decision.signal:
                assert decision.signal == 10 and step >= end
                break
            assert decision.reason in ("", "policy")
            if flying and (decision.landed or decision.reason):
                flying = False
                ranks.lands = [10**9] * size
                for costs in ranks.costs:
                    costs.landed(0.2)
                ranks.each("watch", None)
            if decision.reason and flights:
                for costs in ranks.costs:
                    costs.took(0.01)
                ranks.each("taken", step)
                ranks.lands = [step + 1 + more for more in flights.pop()]
                ranks.each("watch", FLIGHT)
                flying = True
            elif decision.reason:
                ranks.each("taken", step)
        else:
            raise AssertionError("the signal was not heeded")
        ranks.each("finish")


def test_at_the_loops_end_nothing_that_a_rank_knows_is_left_unsaid(now):
    ranks = Ranks(3, holdfast.seconds(1.0), now)
    for step in range(3):
        assert ranks.decide(step) is None
    ranks.each("watch", FLIGHT)
    assert ranks.decide(3) is None
    ranks.lands[1] = 3
    ranks.interrupts[2].pending = 10
    now[0] += 5.0
    with ThreadPoolExecutor(3) as pool:  # here a rank does wait for the others
        found = list(pool.map(lambda pacer: pacer.decide(4, False, final=True), ranks.pacers))
    assert found == [Decision("signal", 10, True)] * 3


def test_a_round_that_began_before_the_flight_says_nothing_of_it(now):
    """Flight 1 lands on a rank; a request takes it over and starts flight 2 at the head at which that was about to be known."""
    ranks = Ranks(2, holdfast.steps(100), now, skew=0.003)
    ranks.each("watch", FLIGHT)
    ranks.lands[0] = 5
    heard = [step for step in range(1, 12) if ranks.decide(step) == LANDED]
    assert heard and heard[0] > 5
    ranks = Ranks(2, holdfast.steps(100), now, skew=0.003)
    ranks.each("watch", FLIGHT)
    ranks.lands[0] = 5
    for step in range(1, heard[0]):
        assert ranks.decide(step) is None
    ranks.lands = [10**9] * 2
    ranks.each("watch", None)
    ranks.each("watch", FLIGHT)
    for step in range(heard[0], heard[0] + 40):
        assert ranks.decide(step) is None
