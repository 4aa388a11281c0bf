"""The cases of repairs give the figures that are promised, under the names under which they are looked for."""

from __future__ import annotations

import pytest
import repair
from promises import PROMISES, judge
from repair import STALL, Loss
from row import Row
from run import plan


def losses(in_place: int, relaunched: int, computing: float, gone: float | None = None) -> list[Loss]:
    one = [Loss(True, 0.02, 0.05, 0.08, 0.1, computing, gone)]
    return one * in_place + [Loss(False, 2.0, None, 2.5, 2.9, 3.0, gone)] * relaunched


def held(rows: list[Row]) -> dict[str, bool]:
    names = {row.program for row in rows}
    return {v.promise.text: v.held for v in judge(rows, [], [p for p in PROMISES if p.program in names])}


@pytest.mark.parametrize(("computing", "relaunched", "kept"), [(0.149, 1, [True, True]), (0.151, 2, [False, False])])
def test_in_place(computing: float, relaunched: int, kept: list[bool]) -> None:
    rows = repair.rows_of("in-place", losses(10 - relaunched, relaunched, computing))
    assert list(held(rows).values()) == kept
    assert {row.metric for row in rows} == {*repair.PARTS, "not in place"}


def test_nothing_was_repaired_in_place() -> None:
    found = held(repair.rows_of("in-place", losses(0, 4, 0.0)))
    assert list(found.values()) == [False, False]


def test_relaunch() -> None:
    rows = repair.rows_of("relaunch", losses(0, 3, 0.0))
    assert list(held(rows).values()) == [True]
    assert {row.metric for row in rows} == set(repair.PARTS) - {"repaired"}


@pytest.mark.parametrize(("late", "kept"), [(0.9, True), (1.1, False)])
def test_the_latest_hang_counts(late: float, kept: bool) -> None:
    some = losses(3, 0, STALL + 0.5, STALL + 0.2) + losses(1, 0, STALL + 2, STALL + late)
    assert held(repair.rows_of("hang", some)) == {PROMISES_HANG: kept}


PROMISES_HANG = "a rank hangs: noticed within `stall_timeout` + 1 s, at worst"


def test_the_bench_has_all_cases() -> None:
    assert {task.case for task in plan([1 << 28], 2, peers=False) if task.script == "repair.py"} == set(repair.CASES)
