"""How often a run has failed, from its attempts on record."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from catalog_support import Hand
from hypothesis import given
from hypothesis import strategies as st

from holdfast.catalog import End, put_end
from holdfast.catalog.failures import NEWEST, PRIOR_MTBF, Failures, read_failures


@pytest.fixture
def hand(tmp_path: Path) -> Hand:
    return Hand(tmp_path / "run")


def attempt(hand: Hand, number: int, seconds: float, outcome: str | None = None, **changes: Any) -> None:
    """An attempt that ran for `seconds` and ended by itself, with `outcome`, or without a word."""
    began = time.time() - 1000.0
    hand.attempt(number, created=began, **changes)
    hand.seal(number)
    os.utime(hand.path / f"attempts/{number:06d}.lease", (began + seconds,) * 2)
    if outcome is not None:
        put_end(hand.store, number, End(outcome, began + seconds))


def seen(hand: Hand, below: int = 100) -> tuple[int, float]:
    failed, seconds = read_failures(hand.store, below)
    return failed, round(seconds)


def test_nothing_on_record(hand: Hand) -> None:
    assert read_failures(hand.store, 1) == (0, 0.0)
    assert Failures().mtbf() == PRIOR_MTBF


def test_deaths_and_errors_are_failures_and_other_ends_are_not(hand: Hand) -> None:
    attempt(hand, 1, 100.0)
    attempt(hand, 2, 10.0, "failed")
    assert seen(hand) == (2, 110)
    for number, outcome in enumerate(("complete", "interrupted", "closed"), 3):
        attempt(hand, number, 200.0, outcome)
    assert seen(hand) == (2, 710)


def test_what_does_not_count(hand: Hand) -> None:
    attempt(hand, 1, 50.0)
    attempt(hand, 2, 70.0, kind="prune")
    hand.attempt(3)  # it never came to seal a base
    attempt(hand, 4, 70.0)
    hand.spoil("attempts/000004.json")
    attempt(hand, 5, 70.0)
    (hand.path / "attempts/000005.lease").unlink()
    attempt(hand, 6, -30.0)  # clocks that disagree
    attempt(hand, 7, 70.0)  # this one
    assert seen(hand, below=7) == (2, 50)


def test_the_newest_attempts_count(hand: Hand) -> None:
    for number in range(1, NEWEST + 3):
        attempt(hand, number, 10.0 if number > 2 else 900.0)
    assert seen(hand) == (NEWEST, NEWEST * 10)


def test_a_few_failures_move_the_estimate_by_orders_of_magnitude() -> None:
    assert Failures(0, 3600.0).mtbf() == PRIOR_MTBF + 3600.0
    assert Failures(1, 10.0).mtbf() == pytest.approx(930, rel=0.01)
    assert Failures(3, 300.0).mtbf() == pytest.approx(542, rel=0.01)
    assert Failures(10, 1000.0).mtbf() == pytest.approx(185, rel=0.01)
    assert Failures(5, 0.0).mtbf() > 1.0


@given(st.integers(1, 1000), st.floats(0, 1e9), st.floats(1.0, 1e7))
def test_the_estimate_lies_between_the_prior_and_what_was_seen(failed: int, seconds: float, prior: float) -> None:
    mean = max(1.0, seconds / failed)
    got = Failures(failed, seconds).mtbf(prior)
    assert min(mean, prior) * (1 - 1e-9) <= got <= max(mean, prior) * (1 + 1e-9)
