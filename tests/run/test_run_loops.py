"""`run.steps`: the numbers it yields, after kills, breaks, completion; several loops, nested loops."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from run_support import go

import holdfast

EACH = holdfast.steps(1)


def test_numbers_and_resume(start):
    assert go(start(), 10, 7, every=holdfast.steps(3)) == [0, 1, 2, 3, 4, 5, 6]
    run = start()
    assert not hasattr(run.steps, "__next__")
    assert go(run, 10, every=holdfast.steps(3)) == [6, 7, 8, 9]
    assert (run.restored.version, run.restored.step) == (2, 6)


def test_step_tells_where_it_is(start):
    run = start()
    assert run.step is None
    for step in run.steps(3, every=EACH):
        assert run.step == step
    assert run.step == 3
    run = start()
    assert run.step is None
    run.ready()
    assert run.step == 2


def test_without_an_end(start):
    run = start()
    assert go(run, None, 5, every=holdfast.steps(2)) == [0, 1, 2, 3, 4]
    assert go(start(), None, 8, every=holdfast.steps(2)) == [4, 5, 6, 7]


def test_nothing_to_do(start):
    assert go(start(), 0) == []


@pytest.mark.parametrize("n", [-1, 2.5, "3"])
def test_bad_numbers(start, n):
    with pytest.raises(holdfast.UsageError, match="number of steps"):
        start().steps(n)


def test_every_must_be_one(start):
    with pytest.raises(holdfast.UsageError, match=r"holdfast\.steps"):
        start().steps(3, every=5)


def test_numpy_integers_will_do(start):
    assert go(start(), np.int64(2)) == [0, 1]


# -- completion ---------------------------------------------------------------------------------------------


def complete(path, n, die=None, **options):
    """A program from its start to its normal end: (what was yielded, the final value)."""
    with holdfast.open(path, **options) as run:
        u = run.protect("u", np.zeros(1))
        seen = []
        for step in run.steps(n, every=EACH):
            u += 1
            seen.append(step)
            if step == die:
                break
        return seen, float(u[0])


def test_a_complete_run_yields_nothing_and_says_so_in_one_line(tmp_path, caplog):
    assert complete(tmp_path / "run", 5) == ([0, 1, 2, 3, 4], 5)
    versions = holdfast.open(tmp_path / "run", mode="r").versions
    assert (versions[0].complete, versions[0].reason, versions[0].step) == (True, "final", 5)
    with caplog.at_level(logging.WARNING, "holdfast"):
        assert complete(tmp_path / "run", 5) == ([], 5)
    (line,) = caplog.records
    assert "complete" in line.message
    assert holdfast.open(tmp_path / "run", mode="r").versions == versions  # nothing was written


def test_a_smaller_number_does_not_reopen(tmp_path):
    complete(tmp_path / "run", 5)
    assert complete(tmp_path / "run", 3) == ([], 5)


def test_a_larger_number_reopens(tmp_path):
    complete(tmp_path / "run", 5)
    assert complete(tmp_path / "run", 8) == ([5, 6, 7], 8)
    assert complete(tmp_path / "run", 8) == ([], 8)


def test_a_break_on_convergence_completes(tmp_path):
    assert complete(tmp_path / "run", 100, 3) == ([0, 1, 2, 3], 4)
    assert holdfast.open(tmp_path / "run", mode="r").versions[0].complete
    assert complete(tmp_path / "run", 100, 3) == ([], 4)


def test_a_break_out_of_a_loop_without_end_completes(tmp_path):
    assert complete(tmp_path / "run", None, 3) == ([0, 1, 2, 3], 4)
    assert complete(tmp_path / "run", None, 3) == ([], 4)


def test_an_exception_leaves_it_resumable(tmp_path):
    with pytest.raises(ZeroDivisionError), holdfast.open(tmp_path / "run") as run:
        for step in run.steps(10, every=EACH):
            if step == 4:
                raise ZeroDivisionError
    assert not run.versions[0].complete
    assert run._x.closed
    with holdfast.open(tmp_path / "run") as run:  # free again
        assert go(run, 10) == [4, 5, 6, 7, 8, 9]


def test_complete_without_a_with_block(start):
    run = start()
    u = run.protect("u", np.ones(1))
    go(run, 3)
    run.complete()
    run.close()
    run = start()
    assert run.protect("u", u) == 1
    assert go(run, 3) == []


def test_complete_without_a_loop(tmp_path):
    with holdfast.open(tmp_path / "run") as run:
        u = run.protect("u", np.zeros(1))
        run.ready()
        u += 1
    assert run.versions[0].complete
    with holdfast.open(tmp_path / "run") as run:
        assert run.protect("u", np.zeros(1)) == 1


def test_close_does_not_complete(start):
    run = start()
    go(run, 3, every=EACH)
    run.close()
    assert go(start(), 3) == [2]


def test_leaving_a_block_in_which_nothing_was_used_writes_nothing(tmp_path):
    with holdfast.open(tmp_path / "run"):
        pass
    assert holdfast.open(tmp_path / "run", mode="r").versions == []


# -- several loops ---------------------------------------------------------------------------------------------


def phases(run, die=None):
    """Two loops one after the other, the same work in each; die = (loop, step)."""
    seen = []
    for name, n in (("warm", 3), ("main", 4)):
        for step in run.steps(n, every=EACH, name=name):
            if (name, step) == die:
                return seen
            seen.append((name, step))
    return seen


ALL = [("warm", 0), ("warm", 1), ("warm", 2), ("main", 0), ("main", 1), ("main", 2), ("main", 3)]


@pytest.mark.parametrize("die", ALL)
def test_loops_in_sequence_resume_in_the_middle_of_each(start, die):
    before = phases(start(), die)
    at = ALL.index(die)
    assert before == ALL[:at]
    after = phases(start())
    # At the head of a loop's first step nothing new is to be saved: the step before it is done again.
    assert after == ALL[at - 1 if die == ("main", 0) else at :]


def test_loops_in_sequence_die_in_each(start):
    phases(start(), ("warm", 2))
    phases(start(), ("main", 2))
    assert phases(start()) == [("main", 2), ("main", 3)]


def nested(run, die=None):
    seen = []
    for i in run.steps(3, every=EACH, name="outer"):
        for j in run.steps(2, every=EACH, name="first"):
            if ("first", i, j) == die:
                return seen
            seen.append(("first", i, j))
        for j in run.steps(2, every=EACH, name="second"):
            if ("second", i, j) == die:
                return seen
            seen.append(("second", i, j))
    return seen


NESTED = [(name, i, j) for i in range(3) for name in ("first", "second") for j in range(2)]


def test_nested_loops_undisturbed(start):
    assert nested(start()) == NESTED


@pytest.mark.parametrize("die", NESTED[1:])
def test_nested_loops_resume_in_the_middle_of_each(start, die):
    assert nested(start(), die) == NESTED[: NESTED.index(die)]
    name, i, j = die
    again = 0
    if j == 0:  # the head of an inner loop's first step is no checkpoint, the outer's head is
        again = 1 if name == "second" else 0
    assert nested(start()) == NESTED[NESTED.index(die) - again :]


def test_a_loop_inside_of_itself_is_refused(start):
    run = start()
    with pytest.raises(holdfast.UsageError, match="another name="):
        for _ in run.steps(3):
            for _ in run.steps(3):
                pass


def test_two_loops_of_one_name_are_refused(start):
    """On a resume the first would take the second's position for its own."""
    run = start()
    go(run, 3)
    with pytest.raises(holdfast.UsageError, match="another name="):
        go(run, 3)


def test_a_broken_off_nested_loop_begins_anew(start):
    run = start()
    seen = []
    for i in run.steps(3, every=EACH, name="outer"):
        for j in run.steps(10, every=EACH, name="inner"):
            if j == 2:
                break
            seen.append((i, j))
    assert seen == [(i, j) for i in range(3) for j in range(2)]


def test_a_renamed_loop_is_not_run_again_on_the_advanced_state(start):
    go(start(), 9, 5, every=holdfast.steps(1))
    run = start()
    with pytest.raises(holdfast.MismatchError, match=r"no loop 'main'.*'steps' at step 5"):
        next(run.steps(9, name="main"))
    assert next(start(objects_changed="accept").steps(9, name="main")) == 0


def test_a_renamed_loop_of_a_complete_run_is_told(tmp_path):
    with holdfast.open(tmp_path / "run") as run:
        assert list(run.steps(3)) == [0, 1, 2]
    with pytest.raises(holdfast.MismatchError, match="'steps', complete"), holdfast.open(tmp_path / "run") as run:
        list(run.steps(3, name="main"))


def test_the_step_that_break_ends_is_not_done_again(tmp_path):
    for n, expected in ((10, [0, 1, 2, 3, 4]), (10, []), (7, []), (12, [5, 6, 7, 8, 9, 10, 11])):
        done = []
        with holdfast.open(tmp_path / "run") as run:
            for step in run.steps(n):
                done.append(step)
                if step == 4:
                    break
        assert done == expected
    assert run.step == 12


def test_break_out_of_an_outer_loop_forgets_the_inner_one(tmp_path):
    for n, stop in ((3, 1), (5, None)):
        with holdfast.open(tmp_path / "run") as run:
            u = run.protect("u", np.zeros(1))
            for i in run.steps(n, name="outer"):
                for _ in run.steps(2, name="inner"):
                    u += 1
                if i == stop:
                    break
    assert u[0] == 10


def test_complete_within_a_loop_ends_the_step(tmp_path):
    for n in (10, 20):
        with holdfast.open(tmp_path / "run") as run:
            u = run.protect("u", np.zeros(1))
            for i in run.steps(n):
                u += 1
                if i == 4:
                    run.complete()
                    break
    assert u[0] == 20


def test_complete_within_an_inner_loop(tmp_path, recwarn):
    with holdfast.open(tmp_path / "run") as run:
        u = run.protect("u", np.zeros(1))
        for _ in run.steps(3, name="outer"):
            for _ in run.steps(3, name="inner"):
                u += 1
                run.complete()
                break
            break
    assert u[0] == 1
    assert run.versions[0].complete
    assert not recwarn.list
