"""The commonest mistake with NumPy, `u, new = new, u`: what helps against it, and what tells of it."""

from __future__ import annotations

import numpy as np
import pytest
from run_support import go

import holdfast


def undisturbed(n):
    u, new = np.zeros(3), np.zeros(3)
    for step in range(n):
        new[...] = u + step
        u, new = new, u
    return u.tolist()


def swapping_state(run, n, die=None):
    s = run.state(u=np.zeros(3), new=np.zeros(3))
    for step in run.steps(n, every=holdfast.steps(1)):
        if step == die:
            break
        s.new[...] = s.u + step
        s.u, s.new = s.new, s.u
    return s.u.tolist()


def swapping_protected(run, n, die=None):
    u = run.protect("u", np.zeros(3))
    new = np.zeros(3)
    for step in run.steps(n, every=holdfast.steps(1)):
        if step == die:
            break
        new[...] = u + step
        u, new = new, u
        run.protect("u", u)
    return u.tolist()


@pytest.mark.parametrize("program", [swapping_state, swapping_protected])
def test_buffers_may_be_swapped(start, program):
    program(start(), 10, 4)
    program(start(), 10, 7)
    assert program(start(), 10) == undisturbed(10)


def test_protecting_again_binds_and_does_not_restore(start):
    run = start()
    u = run.protect("u", np.ones(3))
    run.checkpoint()
    run = start()
    u = run.protect("u", np.zeros(3))
    other = np.full(3, 5.0)
    assert run.protect("u", other) is other
    assert other.tolist() == [5, 5, 5]
    assert u.tolist() == [1, 1, 1]
    for _ in run.steps(2):
        another = np.full(3, 6.0)
        run.protect("u", another)
        assert another.tolist() == [6, 6, 6]
    run.checkpoint()
    assert start().load("u").tolist() == [6, 6, 6]


def test_a_swap_of_protected_buffers_is_found_at_the_next_checkpoint(start):
    run = start()
    u = run.protect("u", np.zeros(3))
    with pytest.raises(holdfast.StaleObjectError) as caught:
        for step in run.steps(10, every=holdfast.steps(2)):
            u = u + step
    text = str(caught.value)
    assert caught.value.object == "u"
    assert step == 1  # two steps were done when it was found
    assert "u[...] =" in text and "run.protect('u', u)" in text and "run.state" in text
    assert run.versions == [] or all(v.status != "current" for v in run.versions)


def test_it_is_found_at_the_end_of_a_loop_without_checkpoints(start):
    run = start()
    u = run.protect("u", np.zeros(3))
    with pytest.raises(holdfast.StaleObjectError):
        for step in run.steps(10):
            u = u + step
    assert step == 9


def test_it_is_raised_even_if_failed_checkpoints_only_warn(start):
    run = start(on_error="warn")
    u = run.protect("u", np.zeros(3))
    with pytest.raises(holdfast.StaleObjectError):
        for step in run.steps(10, every=holdfast.steps(1)):
            u = u + step


def test_the_version_before_is_intact(start):
    run = start()
    u = run.protect("u", np.zeros(3))
    for _ in run.steps(3, every=holdfast.steps(1)):
        u += 1
    run.checkpoint()
    with pytest.raises(holdfast.StaleObjectError):
        for step in run.steps(3, every=holdfast.steps(1), name="second"):
            u = u + step
    run = start()
    u = run.protect("u", np.zeros(3))
    run.ready()
    assert u.tolist() == [3, 3, 3]


def test_arrays_of_a_function_that_has_returned_are_not_called_stale(tmp_path):
    def simulate(run):
        u = run.protect("u", np.zeros(3))
        for _ in run.steps(3, every=holdfast.steps(1)):
            u += 1

    with holdfast.open(tmp_path / "run") as run:
        simulate(run)
    assert holdfast.open(tmp_path / "run", mode="r").load("u").tolist() == [3, 3, 3]


def test_a_view_whose_base_is_in_use_is_not_called_stale(start):
    run = start()
    full = np.zeros(5)
    run.protect("inner", full[1:-1])
    for step in run.steps(3, every=holdfast.steps(1)):
        full += step
    run.checkpoint()
    assert start().load("inner").tolist() == [3, 3, 3]


def test_arrays_that_only_an_object_holds_are_not_called_stale(start):
    class Grid:
        def __init__(self):
            self.u = np.zeros(3)

    grid = Grid()
    run = start()
    run.protect("u", grid.u)
    for _ in run.steps(3, every=holdfast.steps(1)):
        grid.u += 1
    run.checkpoint()
    assert start().load("u").tolist() == [3, 3, 3]


def test_an_array_in_a_protected_dict_may_be_replaced(start):
    run = start()
    d = run.protect("d", {"u": np.zeros(3)})
    for _ in run.steps(3, every=holdfast.steps(1)):
        d["u"] = d["u"] + 1
    run.checkpoint()
    run = start()
    d = run.protect("d", {"u": np.zeros(3)})
    run.ready()
    assert d["u"].tolist() == [3, 3, 3]


# -- the namespace ------------------------------------------------------------------------------------


def test_state_holds_values_of_any_kind_and_size(start):
    def begin(run):
        return run.state(u=np.zeros(2), best=float("inf"), label="none", path=(), seen=None)

    run = start()
    s = begin(run)
    for step in run.steps(3, every=holdfast.steps(1)):
        s.u = np.append(s.u, step)  # another size
        s.best, s.label, s.path, s.seen = min(s.best, 10.0 - step), f"step {step}", (*s.path, step), {step}
    run.checkpoint()
    run = start()
    s = begin(run)
    assert s.u.tolist() == [0, 0, 0, 1, 2]  # at once, so that later code can depend on it
    s.best = 0.0
    run.ready()
    assert (s.best, s.label, s.path, s.seen) == (8.0, "step 2", (0, 1, 2), {2})


def test_a_second_call_adds_to_the_one_namespace(start):
    run = start()
    s = run.state(a=1)
    assert run.state(b=2, a=9) is s
    assert dict(s) == {"a": 1, "b": 2}
    go(run, 2)
    run.checkpoint()
    run = start()
    s = run.state(a=0)
    run.state(b=0)
    run.ready()
    assert dict(s) == {"a": 1, "b": 2}


def test_attributes_that_came_later_are_restored(start):
    run = start()
    s = run.state(a=1)
    for _ in run.steps(2):
        s.later = np.arange(3)
    run.checkpoint()
    run = start()
    s = run.state(a=0)
    run.ready()
    assert s.later.tolist() == [0, 1, 2]


def test_what_the_namespace_can_not_hold_is_said_at_the_checkpoint(start):
    run = start()
    s = run.state(a=1)
    s.f = lambda: 1
    with pytest.raises(holdfast.UnsupportedError, match=r"state\.f"):
        run.checkpoint()
    del s.f
    run.checkpoint()
    assert start().load("state")["a"] == 1


# -- random numbers ---------------------------------------------------------------------------------------


def test_rng_is_a_generator_of_its_own_stream_per_rank_and_resumes(start):
    def draw(run, die=None):
        rng, drawn = run.rng(7), run.protect("drawn", [])
        assert isinstance(rng, np.random.Generator)
        for step in run.steps(6, every=holdfast.steps(1)):
            if step == die:
                break
            drawn.append(rng.random())
        return drawn

    expected = np.random.default_rng(np.random.SeedSequence(7, spawn_key=(0,))).random(6).tolist()
    draw(start(), 2)
    draw(start(), 5)
    assert draw(start()) == expected


def test_two_generators_by_name(start):
    run = start()
    a, b = run.rng(1), run.rng(2, name="other")
    assert a.random() != b.random()
    run.checkpoint()
    expected = a.random(), b.random()
    run = start()
    a, b = run.rng(1), run.rng(2, name="other")
    run.ready()
    assert (a.random(), b.random()) == expected


def test_the_namespace_shares_no_memory_with_other_objects(start):
    """A resume would make two arrays of what was one."""
    run = start()
    u, s = run.protect("u", np.zeros(5)), run.state(v=None)
    s.v = u[1:3]
    with pytest.raises(holdfast.UsageError, match="shares its memory with the object protected as 'u'"):
        run.checkpoint()
    s.v = u[1:3].copy()
    s.w = s.v  # within the namespace one array stays one
    run.checkpoint()
    assert run._x.newest == 2


@pytest.mark.parametrize("kind", ["dict", "state"])
def test_views_of_one_another_inside_of_an_object_are_refused(start, kind):
    run = start()
    x = np.arange(100.0)
    if kind == "dict":
        run.protect("o", {"u": x, "v": x[:10]})
    else:
        run.state(u=x, v=x[:10])
    run.ready()
    with pytest.raises(holdfast.UsageError, match="share memory") as caught:
        run.checkpoint()
    assert caught.value.object == ("o" if kind == "dict" else "state")


def test_one_array_met_twice_and_views_of_what_can_not_change_are_no_aliases(start):
    run = start()
    x, frozen = np.arange(100.0), np.arange(10.0)
    frozen.flags.writeable = False
    run.protect("o", {"u": x, "again": x, "neighbours": [np.zeros(3), np.zeros(3)]})
    run.state(a=frozen, b=frozen[:4])
    run.ready()
    assert run.checkpoint().durable


def test_an_alias_is_found_behind_another_view(start):
    """Sorted by address, `v` stands between the two that share memory."""
    run = start()
    x = np.arange(100.0)
    run.state(u=x)
    run.protect("c", x[50:])
    run.protect("b", x[10:20])
    run.ready()
    with pytest.raises(holdfast.UsageError, match="shares its memory with the object protected as"):
        run.checkpoint()
