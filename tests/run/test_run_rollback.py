"""Going back to any kept version: before the loop, inside of it, after it."""

from __future__ import annotations

import numpy as np
import pytest
from run_support import go

import holdfast

EACH = holdfast.steps(1)


def history(start, n=6):
    """A run with versions 1.. of steps 1..; u == step."""
    run = start(keep=holdfast.Keep(last=20))
    u = run.protect("u", np.zeros(1))
    for _ in run.steps(n, every=EACH):
        u += 1
    return run, u


def statuses(run):
    return {(v.number, v.attempt): v.status for v in run.versions}


def test_before_the_loop(start):
    history(start)
    run = start(keep=holdfast.Keep(last=20))
    run.rollback(2)
    u = run.protect("u", np.zeros(1))
    assert u[0] == 2
    assert go(run, 6, every=EACH) == [2, 3, 4, 5]
    assert run.restored.version == 2
    found = statuses(run)
    assert [found[n, 1] for n in (1, 2, 3, 4, 5)] == ["current", "current", "abandoned", "abandoned", "abandoned"]
    new = sorted(number for number, attempt in found if attempt == run.attempt)
    assert new[0] > 5  # numbers never come back


def test_objects_protected_before_the_rollback_are_restored_too(start):
    history(start)
    run = start()
    u = run.protect("u", np.zeros(1))
    assert u[0] == 5
    run.rollback(3)
    run.ready()
    assert u[0] == 3


def test_inside_of_the_loop(start):
    run, back, seen = start(keep=holdfast.Keep(last=20)), [], []
    u = run.protect("u", np.zeros(1))
    for step in run.steps(7, every=EACH):
        assert u[0] == step
        u += 1
        seen.append(step)
        if step == 5 and not back:
            back.append(run.rollback(3))
    assert seen == [0, 1, 2, 3, 4, 5, 3, 4, 5, 6]
    assert u[0] == 7
    numbers = [v.number for v in run.versions]
    assert len(numbers) == len(set(numbers))
    assert {v.status for v in run.versions if v.number in (4, 5)} == {"abandoned"}
    run = start()
    u = run.protect("u", u)
    assert go(run, 7) == [6]


def test_to_another_version_of_the_same_loop_twice(start):
    run, targets, seen = start(keep=holdfast.Keep(last=20)), [2, 1], []
    u = run.protect("u", np.zeros(1))
    for step in run.steps(4, every=EACH):
        u += 1
        seen.append(step)
        if step == 2 and targets:
            run.rollback(targets.pop(0))
    assert seen == [0, 1, 2, 2, 1, 2, 3]
    assert u[0] == 4


def test_after_the_loop(start):
    run, u = history(start)
    run.rollback(4)
    assert (u[0], run.step, run.restored.version) == (4, 4, 4)
    assert go(run, 6, every=EACH) == [4, 5]


def test_of_a_complete_run(tmp_path):
    with holdfast.open(tmp_path / "run", keep=holdfast.Keep(last=20)) as run:
        go(run, 5, every=EACH)
    with holdfast.open(tmp_path / "run") as run:
        run.rollback(2)
        assert go(run, 5, every=EACH) == [2, 3, 4]
    assert run.versions[0].complete


def test_to_an_abandoned_version(start):
    history(start)
    run = start(keep=holdfast.Keep(last=20))
    run.rollback(2)
    u = run.protect("u", np.zeros(1))
    go(run, 3, every=EACH)
    run = start(keep=holdfast.Keep(last=20))
    run.rollback(5)
    u = run.protect("u", u)
    assert go(run, 7) == [5, 6]
    found = statuses(run)
    assert (found[5, 1], found[3, 1]) == ("current", "current")
    assert [s for (_, attempt), s in found.items() if attempt == 2] == []


def test_survives_a_kill(start):
    history(start)
    run = start(keep=holdfast.Keep(last=20))
    run.rollback(2)
    u = run.protect("u", np.zeros(1))
    run.ready()
    run = start()
    u = run.protect("u", np.zeros(1))
    run.ready()
    assert u[0] == 2


@pytest.mark.parametrize("version", [17, 0, -1])
def test_to_nothing(start, version):
    run, _ = history(start)
    with pytest.raises(holdfast.UsageError, match=r"no checkpoint.*5, 4, 3, 2, 1"):
        run.rollback(version)


def test_to_a_record_is_refused(start):
    run = start()
    with run.transaction("r") as txn:
        txn.put("x", 1)
    with pytest.raises(holdfast.UsageError, match="no checkpoint 1"):
        run.rollback(1)


def test_records_made_after_the_version_are_abandoned_with_it(start):
    run = start(keep=holdfast.Keep(last=20))
    run.checkpoint()  # 1
    with run.transaction("early") as txn:
        txn.put("x", 1)
    run.checkpoint()  # 3
    with run.transaction("late") as txn:
        txn.put("x", 2)
    run.rollback(1)
    found = {v.label: v.status for v in run.versions if v.kind == "record"}
    assert found == {"early": "current", "late": "abandoned"}
    assert run.load("x") == 1


def test_records_at_a_rollback_before_the_loop(start):
    test_records_made_after_the_version_are_abandoned_with_it(start)
    run = start(keep=holdfast.Keep(last=20))
    run.rollback(3)
    run.ready()
    found = {v.label: v.status for v in run.versions if v.kind == "record"}
    assert found == {"early": "current", "late": "abandoned"}


def test_in_nested_loops_is_refused(start):
    run = start(keep=holdfast.Keep(last=20))
    with pytest.raises(holdfast.UsageError, match="nested"):
        for i in run.steps(3, every=EACH, name="outer"):
            for _ in run.steps(3, every=EACH, name="inner"):
                if i == 1:
                    run.rollback(1)


def test_a_rollback_does_not_cross_loops(start):
    """To a version of a loop that was left, the loop that runs can't go: nothing is changed."""
    run = start()
    u, w = run.protect("u", np.zeros(1)), run.protect("w", np.zeros(1))
    for _ in run.steps(4, name="a", every=holdfast.steps(2)):
        u += 1
    for i in run.steps(4, name="b"):
        w += u
        if i == 1:
            with pytest.raises(holdfast.UsageError, match="not taken in the loop 'b'"):
                run.rollback(1)
    run.complete()
    assert (u[0], w[0]) == (4, 16)


def test_what_was_dropped_is_there_again_at_a_version_before(start):
    run = start(keep=holdfast.Keep(last=9))
    a = run.protect("a", np.ones(1))
    back = False
    for i in run.steps(8, every=holdfast.steps(2)):
        if i < 5:
            a *= 2
        if i == 5 and not back:
            run.drop("a")
        if i == 6 and not back:
            back = True
            run.rollback(1)
    assert a[0] == 2**5


def test_a_rollback_that_no_head_follows_is_told(start):
    run = start(keep=holdfast.Keep(last=9))
    u = run.protect("u", np.zeros(1))
    for i in run.steps(5, every=holdfast.steps(1)):
        u += 1
        if i == 3:
            run.rollback(1)
            break
    with pytest.raises(holdfast.UsageError, match="no loop head"):
        run.complete()
