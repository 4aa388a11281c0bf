"""What can be protected, and that it comes back: every kind, in place, exactly, settled by `steps` or `ready`."""

from __future__ import annotations

import datetime
import enum
import random
from dataclasses import dataclass, field

import numpy as np
import pytest
from run_support import data_file, flip, go

import holdfast


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass
class Particle:
    x: np.ndarray
    name: str = "p"
    tags: list = field(default_factory=list)


class Model:
    """As of a library for learning: its state is what it says."""

    def __init__(self, value):
        self.weights = np.full(3, float(value))
        self.count = value

    def state_dict(self):
        return {"weights": self.weights, "count": self.count}

    def load_state_dict(self, state):
        self.weights[...] = state["weights"]
        self.count = state["count"]


class Plain:
    def __init__(self, value):
        self.value = value


class Adapted:
    def __init__(self, value):
        self.value = value


def _restore(live, value):
    live = live or Adapted(None)
    live.value = value["value"]
    return live


holdfast.register_adapter(Adapted, lambda a: {"value": a.value}, _restore, "tests.run.Adapted")

STRUCTURED = np.dtype([("x", "<f8"), ("n", ">i4", (2,)), ("s", "S3")])


def fortran(a):
    return np.asfortranarray(a)


# name: (the value that is stored, what the next start protects)
ARRAYS = {
    "float64": (np.arange(12.0).reshape(3, 4), np.zeros((3, 4))),
    "structured": (np.array([(1.5, (2, 3), b"abc"), (2.5, (4, 5), b"de")], STRUCTURED), np.zeros(2, STRUCTURED)),
    "big-endian": (np.arange(5, dtype=">i4"), np.zeros(5, ">i4")),
    "complex": (np.array([1 + 2j, np.nan]), np.zeros(2, complex)),
    "bool": (np.array([True, False, True]), np.zeros(3, bool)),
    "datetime": (np.array(["2020-01-01", "NaT"], "M8[D]"), np.zeros(2, "M8[D]")),
    "text": (np.array(["ab", "ü"]), np.zeros(2, "U2")),
    "fortran": (fortran(np.arange(6.0).reshape(2, 3)), fortran(np.zeros((2, 3)))),
    "strided": (np.arange(20.0)[::2], np.zeros(20)[::2]),
    "0-d": (np.array(3.5), np.array(0.0)),
    "empty": (np.zeros((0, 3)), np.zeros((0, 3))),
    "float16": (np.array([-0.0, 1.5], np.float16), np.zeros(2, np.float16)),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_of_every_dtype_and_layout(start, kind):
    stored, new = ARRAYS[kind]
    run = start()
    assert run.protect("a", stored) is stored
    run.checkpoint()
    run = start()
    assert run.protect("a", new) is new
    run.ready()
    assert new.tobytes() == stored.tobytes()
    assert new.dtype == stored.dtype


def drawn(generator):
    return generator.random(3).tolist() if hasattr(generator, "standard_normal") else [generator.random() for _ in "abc"]


@pytest.mark.parametrize("make", [np.random.default_rng, np.random.RandomState, random.Random])
def test_random_generators_go_on_where_they_were(start, make):
    generator = make(1)
    drawn(generator)
    run = start()
    run.protect("rng", generator)
    run.checkpoint()
    expected = drawn(generator)
    run = start()
    again = run.protect("rng", make(2))
    run.ready()
    assert drawn(again) == expected


TREES = {
    "dict": ({"a": [1, 2.5, None], "b": {"c": "x"}}, {"a": [0, 0.0, None], "b": {"c": ""}}),
    "list": ([1, (2, 3), {4, 5}, b"six", 7j, 10**30], [0]),
    "set": ({1, "a", (2, 3)}, set()),
    "bytearray": (bytearray(b"abc"), bytearray()),
    "times": (
        [datetime.datetime(2020, 1, 2, tzinfo=datetime.timezone.utc), datetime.date(2021, 1, 1), datetime.timedelta(3)],
        [datetime.datetime(2000, 1, 1, tzinfo=datetime.timezone.utc), datetime.date(2000, 1, 1), datetime.timedelta(0)],
    ),
    "enum": ({"colour": Colour.BLUE}, {"colour": Colour.RED}),
    "adapter": (Adapted(5), Adapted(0)),
}


def plain(value):
    return value.value if isinstance(value, Adapted) else value


@pytest.mark.parametrize("kind", TREES)
def test_trees_of_values_come_back_in_place(start, kind):
    stored, new = TREES[kind]
    run = start()
    run.protect("t", stored)
    run.checkpoint()
    run = start()
    assert run.protect("t", new) is new
    run.ready()
    assert plain(new) == plain(stored)


def test_identity_is_kept_inside_of_trees(start):
    run = start()
    run.protect("p", Particle(np.arange(3.0), "first", [1]))
    run.protect("d", {"u": np.arange(4), "inner": {"n": [1, 2]}})
    run.checkpoint()
    particle, tree = Particle(np.zeros(3)), {"u": np.zeros(4, int), "inner": {"n": [9]}}
    x, tags, u, inner, n = particle.x, particle.tags, tree["u"], tree["inner"], tree["inner"]["n"]
    run = start()
    run.protect("p", particle)
    run.protect("d", tree)
    run.ready()
    assert (particle.x is x, particle.tags is tags) == (True, True)
    assert (tree["u"] is u, tree["inner"] is inner, inner["n"] is n) == (True, True, True)
    assert (x.tolist(), particle.name, tags, u.tolist(), n) == ([0, 1, 2], "first", [1], [0, 1, 2, 3], [1, 2])


def test_state_dict(start):
    run = start()
    run.protect("m", Model(7))
    run.checkpoint()
    run = start()
    model = Model(0)
    weights = model.weights
    assert run.protect("m", model) is model
    run.ready()
    assert (model.weights.tolist(), model.count, model.weights is weights) == ([7, 7, 7], 7, True)


def test_pickle_only_where_it_is_asked_for(start):
    run = start()
    with pytest.raises(holdfast.UnsupportedError, match="pickle=True"):
        run.protect("o", Plain(1))
    run.protect("o", Plain(5), pickle=True)
    run.checkpoint()
    run = start()
    obj = Plain(0)
    run.protect("o", obj, pickle=True)
    run.ready()
    assert obj.value == 5
    with pytest.raises(holdfast.MismatchError, match="pickle"):
        run.load("o")


class Unregistered(enum.Enum):
    ONE = 1


def test_types_come_from_the_live_object_or_are_registered(start):
    run = start()
    run.protect("t", {"colour": Colour.BLUE, "one": Unregistered.ONE})
    run.checkpoint()
    run = start()
    with pytest.raises(holdfast.MismatchError, match="Unregistered.*register_type|Colour.*register_type"):
        run.load("t")
    live = {"colour": Colour.RED, "one": Unregistered.ONE}
    run.protect("t", live)
    run.ready()
    assert live["colour"] is Colour.BLUE


@pytest.mark.parametrize(
    "obj",
    [
        np.ma.MaskedArray([1, 2]),
        np.array([1, "x", None], object),
        np.broadcast_to(np.zeros(1), 3),
        3.0,
        "text",
        (1, 2),
        None,
        np.float64(1),
        lambda: 1,
        Plain(1),
        {"inside": Plain(1)},
    ],
    ids=lambda o: type(o).__name__,
)
def test_what_can_not_be_protected_is_an_error_with_the_ways_out(start, obj):
    run = start()
    with pytest.raises(holdfast.UnsupportedError) as caught:
        run.protect("thing", obj)
    text = str(caught.value)
    assert "thing" in text
    assert "run.state" in text
    assert "state_dict" in text or isinstance(obj, np.ndarray)
    assert "register_adapter" in text or isinstance(obj, np.ndarray)
    assert caught.value.object == "thing"


def test_read_only_arrays_and_memmaps_are_refused(start, tmp_path):
    run = start()
    frozen = np.zeros(3)
    frozen.flags.writeable = False
    with pytest.raises(holdfast.UnsupportedError, match="read-only"):
        run.protect("u", frozen)
    mapped = np.memmap(tmp_path / "m", np.float64, "w+", shape=3)
    with pytest.raises(holdfast.UnsupportedError, match="memmap"):
        run.protect("u", mapped)
    del mapped


@pytest.mark.parametrize("name", ["", "x" * 256, 3])
def test_names(start, name):
    with pytest.raises(holdfast.UsageError, match="name"):
        start().protect(name, np.zeros(1))


def test_many_small_objects_share_few_files(start):
    run = start()
    kept = [run.protect(f"object {i} ä", np.full(3, i)) for i in range(500)]
    run.checkpoint()
    assert len(kept) == 500
    assert sum(1 for p in data_file(run, 1).parents[1].rglob("*") if p.is_file()) == 4
    run = start()
    values = [run.protect(f"object {i} ä", np.zeros(3, int)) for i in range(500)]
    run.ready()
    assert [v[0] for v in values] == list(range(500))


# -- provisional, settled -----------------------------------------------------------------------


def saved(start, **objects):
    """A run with one version of these objects, and a new start of it."""
    run = start()
    for name, obj in objects.items():
        run.protect(name, obj)
    run.checkpoint()
    return start()


def test_protect_fills_at_once(start):
    run = saved(start, n=np.array(5), u=np.arange(5.0))
    n = run.protect("n", np.array(0))
    assert (int(n), run.resumed, run.restored) == (5, True, None)
    u = run.protect("u", np.zeros(int(n)))  # later code can depend on it
    run.ready()
    assert u.tolist() == [0, 1, 2, 3, 4]
    assert (run.restored.version, run.restored.step, run.restored.skipped) == (1, None, ())


@pytest.mark.parametrize("settle", ["ready", "steps"])
def test_what_changed_an_object_after_protect_is_undone(start, settle):
    run = saved(start, u=np.arange(4.0), v=np.ones(3), d={"n": 1})
    u, v, d = run.protect("u", np.zeros(4)), run.protect("v", np.zeros(3)), run.protect("d", {"n": 0})
    u[2] = -1.0
    v[...] = 7
    d["n"], d["more"] = 3, 4
    if settle == "ready":
        run.ready()
    else:
        next(run.steps(3))
    assert (u.tolist(), v.tolist(), d) == ([0, 1, 2, 3], [1, 1, 1], {"n": 1})


def test_initial_values_drawn_from_a_protected_generator(start):
    """The start of every such program: the generator is restored before the array is drawn from it."""

    def begin():
        run = start()
        rng = run.rng(42)
        u = run.protect("u", rng.random(3))
        return run, rng, u

    calm_rng = np.random.default_rng(np.random.SeedSequence(42, spawn_key=(0,)))
    calm = calm_rng.random(3)
    for _ in range(6):
        calm += calm_rng.random(3)

    run, rng, u = begin()
    for step in run.steps(6, every=holdfast.steps(1)):
        if step == 4:
            break
        u += rng.random(3)
    run, rng, u = begin()
    for _ in run.steps(6):
        u += rng.random(3)
    assert u.tobytes() == calm.tobytes()


def test_a_newer_version_that_is_damaged_is_passed_over_for_all_objects(start):
    run = start(keep=holdfast.Keep(last=3))
    u, v = run.protect("u", np.zeros(3)), run.protect("v", np.zeros(20_000))
    for _ in run.steps(3, every=holdfast.steps(1)):
        u += 1
        v += 1
    # "v" of version 2 is damaged, which nobody knows when "u" is filled from version 2.
    flip(data_file(run, 2), data_file(run, 2).stat().st_size - 5000)
    run = start()
    u = run.protect("u", np.zeros(3))
    assert u.tolist() == [2, 2, 2]
    v = run.protect("v", np.zeros(20_000))
    assert v[0] == v[-1] == 1
    run.ready()
    assert u.tolist() == [1, 1, 1]
    assert (v == 1).all()
    assert run.restored.version == 1
    ((name, why),) = run.restored.skipped
    assert name == "00000002-a000001"
    assert "data/r000000" in why
    assert run.step == 1


def test_if_no_version_is_whole_nothing_is_started(start):
    run = start()
    u = run.protect("u", np.ones(1000))
    for _ in run.steps(3, every=holdfast.steps(1)):
        u += 1
    for version in (1, 2):
        flip(data_file(run, version), 100)
    run = start()
    u = run.protect("u", np.zeros(1000))
    with pytest.raises(holdfast.NoWholeVersionError) as caught:
        go(run, 3)
    assert "00000001-a000001" in str(caught.value)
    assert "00000002-a000001" in str(caught.value)
    assert [v.status for v in run.versions] == ["current", "current"]


# -- missing, new, other ----------------------------------------------------------------------------


def test_all_differences_are_one_error(start):
    run = saved(start, a=np.zeros(3), b=np.zeros(4), c=np.zeros(5), same=np.zeros(2))
    run.protect("a", np.zeros(7))
    run.protect("b", np.zeros(4, np.float32))
    run.protect("new", np.zeros(1))
    run.protect("same", np.zeros(2))
    with pytest.raises(holdfast.MismatchError) as caught:
        go(run, 3)
    lines = {line.strip().split(":")[1].strip(): line for line in str(caught.value).splitlines() if "rank 0:" in line}
    assert set(lines) == {"'a'", "'b'", "'c'", "'new'"}
    assert "(3,)" in lines["'a'"] and "(7,)" in lines["'a'"]
    assert "float64" in lines["'b'"] and "float32" in lines["'b'"]
    assert "not protected" in lines["'c'"]
    assert "nothing of this name" in lines["'new'"]
    assert "objects_changed='accept'" in str(caught.value)
    assert "run.drop" in str(caught.value)


def test_nothing_is_lost_by_the_error(start):
    run = saved(start, a=np.arange(3.0))
    run.protect("a", np.zeros(7))
    with pytest.raises(holdfast.MismatchError):
        run.ready()
    run = start()
    a = run.protect("a", np.zeros(3))
    run.ready()
    assert a.tolist() == [0, 1, 2]


def test_differences_can_be_accepted(start):
    saved(start, a=np.zeros(3), gone=np.arange(4.0), same=np.arange(2))
    run = start(objects_changed="accept")
    a, new = run.protect("a", np.full(7, 7.0)), run.protect("new", np.full(2, 8.0))
    same = run.protect("same", np.zeros(2, int))
    go(run, 3)
    assert (a.tolist(), new.tolist(), same.tolist()) == ([7.0] * 7, [8.0, 8.0], [0, 1])
    run.checkpoint()
    assert start().load("gone").tolist() == [0, 1, 2, 3]  # carried along


def test_another_shard_is_a_difference(start):
    run, u = start(), np.zeros(3)
    run.protect("u", u, shard=holdfast.Shard((9,), (3,)))
    run.checkpoint()
    run = start()
    run.protect("u", u, shard=holdfast.Shard((9,), (6,)))
    with pytest.raises(holdfast.MismatchError, match=r"\(3,\).*\(6,\)"):
        run.ready()


def test_shards_must_lie_in_their_array(start):
    run = start()
    with pytest.raises(holdfast.UsageError, match="does not lie within"):
        run.protect("u", np.zeros(3), shard=holdfast.Shard((5,), (3,)))
    with pytest.raises(holdfast.UsageError, match="dimensions"):
        run.protect("u", np.zeros((3, 3)), shard=holdfast.Shard((5,), (3,)))
    with pytest.raises(holdfast.UsageError, match="no NumPy array"):
        run.protect("u", {}, shard=holdfast.Shard((5,), (3,)))


# -- first protected inside of the loop ---------------------------------------------------------------


def late_program(start, n, die, at, **options):
    """Protects "late" only at step `at`; [its values step by step]."""
    run = start(**options)
    u, late, seen = run.protect("u", np.zeros(1)), None, []
    for step in run.steps(n, every=holdfast.steps(1)):
        if step == die:
            break
        u += 1
        if late is None and step >= at:
            late = run.protect("late", np.zeros(2))
        if late is not None:
            late += 10
            seen.append(late[0])
    return run, seen


def test_late_objects_are_filled_when_they_are_protected(start):
    assert late_program(start, 10, 4, 1)[1] == [10, 20, 30]
    run, seen = late_program(start, 10, 7, 5)  # version of step 4: 30; protected at step 5 only
    assert seen == [40, 50]
    assert run.step == 8  # the step that `break` has ended is done


def test_late_objects_are_carried_until_then_over_versions_and_attempts(start):
    late_program(start, 20, 3, 1)  # 20 at step 3
    assert late_program(start, 20, 6, 100)[1] == []  # three versions, carried
    assert late_program(start, 20, 9, 100)[1] == []
    assert start().load("late").tolist() == [20, 20]
    assert late_program(start, 12, None, 10)[1] == [30, 40]


def test_late_objects_can_be_dropped(start):
    late_program(start, 20, 3, 1)
    run = start()
    u = run.protect("u", np.zeros(1))
    run.drop("late")
    go(run, 20, 5, every=holdfast.steps(1))
    with pytest.raises(holdfast.UsageError, match="no object 'late'"):
        start().load("late")
    assert u == 3


def test_objects_protected_before_the_loop_can_be_dropped(start):
    u = np.zeros(1)
    run = saved(start, u=u, v=np.zeros(1))
    run.protect("u", u)
    with pytest.raises(holdfast.UsageError, match="no object of this name"):
        run.drop("w")
    run.drop("v")
    version = run.checkpoint().version
    run = start()
    run.protect("u", u)
    run.ready()  # "v" is not missed
    assert run.restored.version == version > 1


def test_a_late_object_that_does_not_fit_is_an_error_at_once(start):
    late_program(start, 20, 3, 1)
    run = start()
    u = run.protect("u", np.zeros(1))
    for _ in run.steps(20):
        u += 1
        with pytest.raises(holdfast.MismatchError, match=r"'late'.*\(2,\).*\(5,\).*objects_changed='accept'"):
            run.protect("late", np.zeros(5))
        break
    run = start(objects_changed="accept")
    run.protect("u", np.zeros(1))
    for _ in run.steps(20):
        assert run.protect("late", np.ones(5)).tolist() == [1] * 5
        break
