"""The interval that follows from what checkpoints cost: `auto`, `overhead`, and what is measured for them."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import holdfast
from holdfast.errors import ConfigError
from holdfast.policy import Auto
from holdfast.run.interval import FIRST_SECONDS, MOST, ROOM, Costs, daly, young

SECONDS = st.floats(1e-4, 1e4)


def costs(*stalls: float, flight: float = 0.0, mtbf: float = 86400.0) -> Costs:
    c = Costs(mtbf)
    for stall in stalls:
        c.took(stall)
        if flight:
            c.landed(flight)
    return c


def optimum(cost: float, mtbf: float) -> float:
    """The exact optimum, by bisection: where the expected time per second of work, M (exp((T + C) / M) - 1) / T, is least."""
    low, high = 0.0, 10 * mtbf
    for _ in range(200):
        t = (low + high) / 2
        rising = t / mtbf * math.exp((t + cost) / mtbf) > math.expm1((t + cost) / mtbf)
        low, high = (low, t) if rising else (t, high)
    return low


# -- the formulas ----------------------------------------------------------------------------------------


@given(st.floats(1e-3, 1e3), st.floats(2.0, 1e5))
def test_daly_is_the_optimum_in_its_range(cost, ratio):
    assert daly(cost, ratio * cost) == pytest.approx(optimum(cost, ratio * cost), rel=0.01)


@pytest.mark.parametrize(("ratio", "off"), [(20, 0.115), (200, 0.035), (1e5, 0.002)])
def test_young_is_the_optimum_for_rare_failures(ratio, off):
    best = optimum(1.0, ratio)
    assert best < young(1.0, ratio) < best * (1 + off)


def test_the_ends_of_the_range():
    assert daly(2.0, 1.0) == daly(50.0, 1.0) == 1.0
    assert daly(0.0, 100.0) == young(0.0, math.inf) == 0.0
    assert daly(1.0, math.inf) == math.inf


# -- what users say -----------------------------------------------------------------------------------------


def test_what_makes_no_sense_is_refused():
    for bad in (0, -1.0, math.nan, "60", True):
        with pytest.raises(ConfigError, match=r"holdfast\.auto\(mtbf="):
            holdfast.auto(bad)
        with pytest.raises(ConfigError, match=r"holdfast\.overhead"):
            holdfast.overhead(bad)
    for bounds in ({"shortest": 0}, {"longest": math.nan}, {"shortest": 20, "longest": 10}):
        with pytest.raises(ConfigError, match=r"holdfast\.auto\(shortest="):
            holdfast.auto(60, **bounds)
    with pytest.raises(ConfigError, match="fraction"):
        holdfast.overhead(1.0)
    with pytest.raises(ConfigError, match="seconds"):
        holdfast.seconds("60")


def test_policies_combine():
    both = holdfast.auto(60) | holdfast.steps(5) | holdfast.overhead(0.5) | holdfast.auto(90, longest=100)
    assert both == holdfast.Every(5, None, Auto(90.0, 1.0, 100.0), 0.5)
    assert both.measured and not (holdfast.steps(1) | holdfast.seconds(1)).measured
    c = costs(1.0)
    first, second = holdfast.auto(1e4), holdfast.overhead(0.1)
    assert c.interval(first) != c.interval(second)
    assert c.interval(first | second) == min(c.interval(first), c.interval(second))
    assert c.interval(holdfast.steps(3)) == math.inf


# -- intervals ------------------------------------------------------------------------------------------------


def test_auto_is_dalys_estimate_for_the_median_cost():
    assert costs(2.0, 1.0, 30.0).interval(holdfast.auto(2000.0)) == daly(2.0, 2000.0)
    assert costs(9, 9, 9, 9, 9, 1, 1, 1).interval(holdfast.auto(2000.0)) == daly(1.0, 2000.0)


def test_the_first_checkpoint_is_early():
    c = Costs()
    assert c.interval(holdfast.auto()) == c.interval(holdfast.overhead(0.01)) == FIRST_SECONDS
    assert c.interval(holdfast.auto(20.0)) == 4.0
    assert c.interval(holdfast.auto(200.0, longest=3.0)) == 3.0
    assert c.interval(holdfast.auto(2.0)) == 1.0
    c.recall(1.0, 8.0)
    assert (c.stall, c.flight) == (1.0, 8.0)
    assert c.interval(holdfast.auto(2000.0)) == daly(1.0, 2000.0)


def test_without_a_given_mtbf_the_observed_one_counts():
    assert costs(1.0, mtbf=500.0).interval(holdfast.auto()) == daly(1.0, 500.0)
    assert costs(1.0, mtbf=500.0).interval(holdfast.auto(900.0)) == daly(1.0, 900.0)


def test_the_longest_interval_yields_where_it_would_cost_much():
    assert costs(1.0).interval(holdfast.auto(math.inf)) == 3600.0
    assert costs(1.0).interval(holdfast.auto(math.inf, longest=20.0)) == 20.0
    assert costs(1.0).interval(holdfast.auto(math.inf, longest=5.0)) == pytest.approx(9.0)  # a tenth of the time


@given(
    st.lists(SECONDS, min_size=1, max_size=9), st.floats(0, 100), st.floats(1e-2, 1e8),
    st.floats(1e-2, 1e3), st.floats(1, 1e3),
)  # fmt: skip
def test_auto_keeps_its_bounds(stalls, flight, mtbf, shortest, factor):
    c = costs(*stalls, flight=flight)
    longest = shortest * factor
    got = c.interval(holdfast.auto(mtbf, shortest=shortest, longest=longest))
    assert got >= max(shortest, ROOM * flight) * (1 - 1e-12)
    assert c.stall / (c.stall + got) <= MOST * (1 + 1e-9)
    assert got <= max(longest, 9.01 * c.stall, ROOM * flight)
    assert math.isfinite(got)
    if ROOM * flight < got < longest and c.stall / (c.stall + got) < MOST * 0.999 and got > shortest:
        assert got == pytest.approx(daly(c.stall, mtbf))


@given(st.lists(SECONDS, min_size=1, max_size=9), st.floats(0, 100), st.floats(0.001, 0.9))
def test_overhead_keeps_its_promise(stalls, flight, fraction):
    c = costs(*stalls, flight=flight)
    got = c.interval(holdfast.overhead(fraction))
    for cost in (c.stall, stalls[-1]):
        assert cost / (cost + got) <= fraction * (1 + 1e-9)
    assert got >= max(1.0, ROOM * flight)
    if got > max(1.0, ROOM * flight):
        assert got == pytest.approx(max(c.stall, stalls[-1]) * (1 / fraction - 1))


def test_overhead_follows_dearer_checkpoints_at_once_and_cheaper_ones_slowly():
    c = costs(1.0, 1.0, 1.0, 1.0, 1.0)
    assert c.interval(holdfast.overhead(0.1)) == pytest.approx(9.0)
    c.took(3.0)
    assert c.interval(holdfast.overhead(0.1)) == pytest.approx(27.0)
    c.took(0.1)
    assert c.interval(holdfast.overhead(0.1)) == pytest.approx(9.0)


# -- the slow-down of steps during a flight ---------------------------------------------------------------


def test_a_slow_down_is_part_of_the_cost_and_no_work():
    c = costs(1.0, 1.0, 1.0, flight=10.0)
    for _ in range(9):
        c.stepped(10.0, 100, flying=False)
    for seconds in (11.0, 13.0, 12.0):
        c.stepped(seconds, 100, flying=True)
    assert c.slowdown == pytest.approx(2.0)
    assert c.interval(holdfast.auto(1e4)) == pytest.approx(2.0 + daly(3.0, 1e4))
    # 3 s in each 100 s: one that the program waits, and 2 of the 99 in which it steps.
    assert c.interval(holdfast.overhead(0.03)) == pytest.approx(99.0)


def test_nothing_is_inferred_from_too_little():
    c = costs(1.0, flight=1.0)
    c.stepped(50.0, 10, flying=True)
    c.stepped(10.0, 10, flying=False)
    c.stepped(10.0, 10, flying=False)
    assert c.slowdown == 0.0
    c.stepped(10.0, 10, flying=False)
    assert c.slowdown == 40.0


@pytest.mark.parametrize("period", [2, 3, 10])
def test_steps_of_different_lengths_are_no_slow_down(period):
    """One in `period` steps takes ten times as long; a flight lasts a third of the shorter ones, so it always has one step."""
    c = Costs()
    lengths = [10.0 if i % period == period - 1 else 1.0 for i in range(300)]
    for i, length in enumerate(lengths):
        c.stepped(length, 1, flying=i % 7 == 0)
    assert c.slowdown == 0.0


def test_flights_over_many_uneven_steps():
    c = Costs()
    for i in range(40):
        flying = i % 4 == 0
        c.stepped((2.0 + (i % 3) * 0.02) * (1.3 if flying else 1.0), 50 + i % 5, flying)
    assert 0.4 < c.slowdown < 0.65


def test_windows_are_as_long_as_flights():
    assert Costs().window == costs(1.0).window == math.inf
    assert costs(1.0, flight=3.0).window == 3.0
    assert costs(1.0, flight=1e-5).window == 0.02


# -- all of it --------------------------------------------------------------------------------------------------


def test_goodput_is_that_of_the_best_fixed_interval(monkeypatch):
    """`make bench` simulates more failures of more machines."""
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[2] / "benchmarks"), *sys.path])
    import goodput_simulated as goodput

    few = [case for case in goodput.CASES if case.mtbf <= 400 * case.stall]
    assert len(few) >= 8
    for result in goodput.measure(few, failures=400, seed=7):
        assert 0.99 < result["ratio"] <= 1.03, result  # fewer failures than in the bench: a single one weighs more
