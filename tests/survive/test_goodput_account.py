"""The account of goodput: a job whose every second is known by construction, and the model against a simulation."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from campaign.goodput_account import PARTS, Account, account
from campaign.goodput_job import RANKS, Kill, Seen
from campaign.goodput_model import efficiency, optimum
from campaign.goodput_tally import Row, Tally, read_rows
from campaign.survive_notes import Note, What

from holdfast.run.interval import daly


def simulated(interval: float, cost: float, restart: float, mtbf: float, failures: int = 200_000) -> float:
    chance, work, time = random.Random(1), 0.0, 0.0
    for _ in range(failures):
        gap = chance.expovariate(1 / mtbf)
        time += gap
        work += interval * max(0, math.floor((gap - restart) / (interval + cost)))
    return work / time


@pytest.mark.parametrize(("interval", "cost", "restart", "mtbf"), [(1.0, 0.05, 0.3, 20.0), (5.0, 1.0, 4.0, 20.0)])
def test_the_model_is_what_a_simulation_gives(interval: float, cost: float, restart: float, mtbf: float) -> None:
    assert efficiency(interval, cost, restart, mtbf) == pytest.approx(simulated(interval, cost, restart, mtbf), rel=0.01)


@pytest.mark.parametrize(("cost", "mtbf"), [(0.01, 20.0), (0.5, 60.0), (5.0, 20.0)])
def test_no_other_interval_is_better_than_the_optimum(cost: float, mtbf: float) -> None:
    interval, best = optimum(cost, 0.5, mtbf)
    assert all(efficiency(interval * factor, cost, 0.5, mtbf) < best for factor in (0.5, 0.9, 1.1, 2.0))
    assert interval == pytest.approx(daly(cost, mtbf), rel=0.01)


class Told:
    """What is read of a process."""

    def __init__(self, execution: str, *notes: tuple[float, What, int, int]) -> None:
        self.execution = execution
        self.notes = [Note(at, what, rank, attempt, -1) for at, what, rank, attempt in notes]


def test_every_second_of_a_job_is_accounted_for() -> None:
    """Started at 100, computes at 103; killed at 113, computes again at 114 in place; killed at 124, started again, computes at
    128; looked at at 138. Steps take 0.1 s undisturbed and 0.11 s here, 0.2 s while a version is in flight."""
    heads = {"heads": 0.3, "taken": 2, "flown": 0.4}
    row: dict[str, Any] = {**heads, "usual": 80, "usual_seconds": 8.8, "flying": 4, "flying_seconds": 0.8}
    rows = [Row(1, rank, 0, 84, **row, resumed_at=103.0, last_at=112.9) for rank in range(RANKS)]
    rows += [Row(2, rank, 74, 158, **row, resumed_at=114.0, last_at=123.9) for rank in range(RANKS)]
    rows += [Row(3, 0, 158, 158, resumed_at=125.0, last_at=125.0)]  # the others never got there
    rows += [Row(4, rank, 158, 242, **row, resumed_at=128.0, last_at=137.9) for rank in range(RANKS)]
    first = [
        Told("a", (102.0, What.OPENED, r, 1), (113.2, What.REPAIRING, r, -1), (113.7, What.OPENED, r, 2)) for r in range(RANKS)
    ]
    second = [Told("b", (126.0, What.STARTED, -1, -1), (127.5, What.OPENED, r, 4)) for r in range(RANKS)]
    processes: Any = first + second
    found = account(Seen(100.0, 138.0, [Kill(113.0, 1), Kill(124.0, 2)], rows, processes), 0.1)
    assert sum(getattr(found, part) for part in PARTS) == pytest.approx(found.wall) == pytest.approx(38.0)
    assert (found.start_up, found.stall) == pytest.approx((3.0, 0.9))
    assert (found.detection, found.repair, found.restore) == pytest.approx((0.2 + 2.0, 0.5 + 1.5, 0.3 + 0.5))
    assert (found.steps, found.lost_steps, found.checkpoints) == (242, 10, 6)
    assert found.useful == pytest.approx(24.2)
    assert found.flying == pytest.approx(12 * 0.2 - 12 * 0.11)
    assert found.lost == pytest.approx(10 * 9.6 / 84 + 3 * (10 - 9.9))
    assert [kind for kind, _ in found.outages] == ["in place", "relaunched"]
    costs = found.costs()
    assert (costs["mtbf"], costs["stall"], costs["restart"]) == pytest.approx((17.5, 0.15, 2.5))
    assert 0 < found.goodput < found.best()[1] < 1


def test_what_rank_0_does_while_others_resume_or_are_dead_counts_once() -> None:
    """It waits 2 s in its first step; its last one ends 0.5 s after the kill at 20."""
    first = [Row(1, r, 0, 50, usual=50, usual_seconds=12.5, resumed_at=8.0, last_at=20.5) for r in range(RANKS)]
    first[3].resumed_at = 10.0
    second = [Row(2, r, 40, 60, usual=20, usual_seconds=4.0, resumed_at=21.0, last_at=25.0) for r in range(RANKS)]
    crew: Any = [Told("a", (7.0, What.OPENED, 0, 1), (20.2, What.REPAIRING, 0, -1), (20.6, What.OPENED, 0, 2))]
    found = account(Seen(5.0, 25.0, [Kill(20.0, 1)], first + second, crew), 0.2)
    assert sum(getattr(found, part) for part in PARTS) == pytest.approx(found.wall) == pytest.approx(20.0)
    assert (found.lost, found.usual) == pytest.approx((2.0, 0.2))
    assert (found.slower, found.detection, found.repair, found.restore) == pytest.approx((0.0, 0.2, 0.4, 0.4))


def test_heads_take_time_without_checkpoints_too() -> None:
    """100 steps of 0.1 s, of which 10 are done again, with heads of 10 ms; two checkpoints for half a second more."""
    row: dict[str, Any] = {"heads": 1.5, "taken": 2, "usual": 100, "usual_seconds": 10.0}
    rows = [Row(1, r, 0, 100, **row, resumed_at=10.0, last_at=21.5) for r in range(RANKS)]
    rows += [Row(2, r, 90, 190, **row, resumed_at=22.0, last_at=33.5) for r in range(RANKS)]
    crew: Any = [Told("a", (9.0, What.OPENED, 0, 1), (21.6, What.REPAIRING, 0, -1), (21.8, What.OPENED, 0, 2))]
    found = account(Seen(9.0, 33.5, [Kill(21.5, 1)], rows, crew), 0.1, 0.01)
    assert sum(getattr(found, part) for part in PARTS) == pytest.approx(found.wall) == pytest.approx(24.5)
    assert (found.useful, found.stall, found.lost, found.slower) == pytest.approx((190 * 0.11, 1.0, 10 * 0.11, 0.0))
    assert (found.usual, found.costs()["stall"]) == pytest.approx((0.11, 0.25))


def test_a_job_that_nothing_happened_to() -> None:
    rows = [Row(1, rank, 0, 100, usual=100, usual_seconds=10.0, resumed_at=10.0, last_at=20.0) for rank in range(RANKS)]
    found = account(Seen(8.0, 20.0, [], rows, []), 0.1)
    assert (found.useful, found.lost, found.goodput) == pytest.approx((10.0, 0.0, 10 / 12))
    assert isinstance(found, Account) and found.outages == []


def test_a_tally_is_read_as_it_was_written(tmp_path: Any) -> None:
    tally = Tally(tmp_path)
    assert read_rows(tmp_path) == []
    tally.begin(Row(2, 1, 40, 40, resumed_at=3.5))
    tally.begin(Row(3, 0, 50, 50, resumed_at=5.0))
    tally.row.done, tally.row.heads = 51, 0.25
    tally.write()
    assert [(r.attempt, r.rank, r.done, r.heads) for r in read_rows(tmp_path)] == [(2, 1, 40, 0), (3, 0, 51, 0.25)]


def test_a_kill_belongs_to_the_attempt_that_it_ended() -> None:
    """Repairs may take less time than a look: the kill that ended an attempt lies right before the next one."""
    rows = [
        Row(n, r, 10 * n, 10 * n + 10, usual=10, usual_seconds=9.9, resumed_at=at, last_at=at + 9.9)
        for n, at in ((1, 10.0), (2, 20.1), (3, 30.2)) for r in range(RANKS)
    ]  # fmt: skip
    notes = [(20.02, What.REPAIRING, 0, -1), (20.05, What.OPENED, 0, 2)]
    notes += [(30.12, What.REPAIRING, 0, -1), (30.15, What.OPENED, 0, 3)]
    crew: Any = [Told("a", (9.0, What.OPENED, 0, 1), *notes)]
    found = account(Seen(9.0, 40.2, [Kill(20.0, 1), Kill(30.1, 2)], rows, crew), 0.99)
    assert [seconds for _, seconds in found.outages] == pytest.approx([0.1, 0.1])
    assert found.detection == pytest.approx(0.04) and found.useful == pytest.approx(29.7)
