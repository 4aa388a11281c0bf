"""Whatever the program does once the call has returned, what is stored is the state of the call, bit for bit."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest
from faults import Faults, named
from flight_support import MiB, filled, gate, image, loaded

import holdfast
from holdfast.errors import UnsupportedError

IN_FLIGHT = True

STRATEGIES = [
    pytest.param({"capture": "copy"}, id="copy"),
    pytest.param({"capture": "copy", "staging": "16MiB"}, id="streaming"),
    pytest.param({"capture": "copy", "staging": "16MiB", "threads": 1}, id="streaming-1-thread"),
    pytest.param({"capture": "direct"}, id="direct"),
    pytest.param({"capture": "reference"}, id="reference"),
    pytest.param({"capture": "cow"}, id="cow"),
    pytest.param({"capture": "auto"}, id="auto"),
    pytest.param({"capture": "copy", "engine": "process"}, id="helper"),
    pytest.param({"capture": "copy", "engine": "process", "arena": "shared", "staging": "16MiB"}, id="helper-shared"),
]


class Model:
    """A third party's object: its state are arrays that it overwrites and one that it binds anew."""

    def __init__(self, seed: int) -> None:
        self.weights = filled(5 * MiB, seed).copy()
        self.bound = np.full(300_000, float(seed))
        self.count = seed

    def state_dict(self):
        return {"weights": self.weights, "bound": self.bound, "count": self.count}

    def load_state_dict(self, stored):
        self.weights, self.bound, self.count = stored["weights"], stored["bound"], stored["count"]


class World:
    """Arrays of all kinds. `overwrite` leaves nothing as it was."""

    def __init__(self, run: holdfast.Run, seed: int) -> None:
        raw = np.empty(6 * MiB + 3, np.uint8)
        raw[3:] = filled(6 * MiB, seed)
        big = filled(8 * MiB, seed + 1).copy().view(np.float32).reshape(1024, -1)
        self.arrays = {
            "aligned": filled(33 * MiB + 8, seed + 2).copy().view(np.int64),
            "unaligned": raw[3:],
            "strided": big[::2, ::3],
            "fortran": np.asfortranarray(filled(4 * MiB, seed + 3).view(np.int16).reshape(1024, -1)),
            "tiny": np.arange(seed, seed + 3.0),
            "empty": np.empty((0, 7)),
            "scalar": np.array(float(seed)),
        }
        self.tree = {"a": filled(2 * MiB, seed + 4).copy(), "b": [np.arange(5.0), {"n": seed}], "t": (1, "x")}
        self.model = Model(seed)
        self.objects = {**self.arrays, "tree": self.tree, "model": self.model}
        for name, obj in self.objects.items():
            run.protect(name, obj)
        self.rng = run.rng(seed)
        fixed = filled(3 * MiB, seed + 5).copy()
        fixed.flags.writeable = False
        self.s = run.state(v=filled(4 * MiB, seed + 6).copy(), fixed=fixed, n=seed)
        self.objects |= {"rng": self.rng, "state": self.s}

    def images(self):
        return {name: image(obj) for name, obj in self.objects.items()}

    def overwrite(self) -> None:
        def fill(array):
            array[...] = 77

        arrays = (*self.arrays.values(), self.tree["a"], self.model.weights)
        threads = [threading.Thread(target=fill, args=(a,)) for a in arrays]
        for thread in threads:
            thread.start()
        self.s.v[:] = 1
        self.s.v = np.zeros(2 * MiB, np.uint8)
        self.s.fixed = None  # the library alone holds it now
        self.s.n += 1
        gc.collect()
        hole = np.full(3 * MiB, 9, np.uint8)  # what takes its place, if it is gone
        self.tree["b"][0][:] = -1
        self.tree["b"].append(5)
        self.model.bound = np.zeros(3)
        self.model.count = -1
        self.rng.random(100)
        for thread in threads:
            thread.join()
        assert hole[0] == 9


@pytest.mark.parametrize("options", STRATEGIES)
def test_the_state_of_the_call(start, monkeypatch, options):
    run = start(**options, incremental="blocks")
    world = World(run, 1)
    run.ready()
    for again in range(3):
        before = world.images()
        with gate(monkeypatch) as slow:
            if options["capture"] == "direct" or "staging" in options:  # the program waits for the disk
                threading.Timer(0.1, slow.open).start()
            handle = run.checkpoint(wait=False)
            world.overwrite()
        handle.wait()
        reader = holdfast.open(run.url, mode="r")
        copy = World(reader, 50)
        reader.ready()
        assert reader.restored.version == handle.version
        found = copy.images()
        assert [name for name in before if before[name] != found[name]] == []
        reader.close()
        world.arrays["aligned"][: 1 << 10] = again
        world.s.v = filled(4 * MiB, again).copy()
        world.s.fixed = filled(3 * MiB, again).copy()
        world.s.fixed.flags.writeable = False
    run.complete()


@pytest.mark.parametrize("capture", ["copy", "cow"])
def test_a_large_state_streams(start, capture):
    """100 MiB through 16: the program waits for the disk, and memory stays bounded."""
    run = start(capture=capture, staging="16MiB")
    u = run.protect("u", filled(100 * MiB, 3).copy())
    before = u.copy()
    run.ready()
    handle = run.checkpoint(wait=False)
    u[:] = 0
    arena = run._x.writer.freezing.capturing._arena
    assert arena is None if capture == "cow" else arena.nbytes <= 16 * MiB
    handle.wait()
    assert np.array_equal(loaded(run.url, "u"), before)


def test_a_state_that_fits_does_not_wait(start, monkeypatch):
    """Also one of many arrays, none of which fills its last block."""
    run = start(incremental="blocks")
    arrays = [run.protect(f"u{i}", filled(n, i).copy()) for i, n in enumerate([5 * MiB + 8] * 4 + [1200 << 10] * 9 + [99] * 9)]
    run.ready()
    with gate(monkeypatch) as slow:
        handle = run.checkpoint(wait=False)  # or it would never return
        slow.wait()
    handle.wait()
    state = sum(a.nbytes for a in arrays)
    assert run._x.writer.freezing.capturing._arena.nbytes < 1.5 * state + 8 * MiB


def test_direct_that_is_late_is_given_up(start, monkeypatch):
    """The program goes on, its memory changes: a version of which that is part must not come to be."""
    run = start(capture="direct", timeout=0.3)
    u = run.protect("u", filled(9 * MiB).copy())
    run.ready()
    with gate(monkeypatch) as slow:
        handle = run.checkpoint(wait=False)
        assert not handle.written
        u[:] = 1
        slow.open()
        with pytest.raises(holdfast.CheckpointError, match="direct"):
            handle.wait(timeout=20)
    with pytest.raises(holdfast.CheckpointError, match="direct"):
        run.checkpoint()
    assert run.versions == []
    assert run.checkpoint().durable and set(np.unique(loaded(run.url, "u"))) == {1}


def test_an_object_that_asks_for_another_strategy(start, monkeypatch):
    run = start()
    held = Model(1)
    held.weights.flags.writeable = held.bound.flags.writeable = False
    run.protect("held", held, capture="reference")
    u = run.protect("copied", filled(5 * MiB, 2).copy(), capture="copy")
    w = run.protect("waited", filled(5 * MiB, 3).copy(), capture="direct")
    run.ready()
    with gate(monkeypatch) as slow:
        threading.Timer(0.1, slow.open).start()
        handle = run.checkpoint(wait=False)
        assert handle.written
        u[:] = w[:] = 0
    handle.wait()
    assert run._x.writer.freezing.capturing._arena.nbytes <= 8 * MiB
    assert np.array_equal(run.load("held")["weights"], filled(5 * MiB, 1))
    for name, seed in (("copied", 2), ("waited", 3)):
        assert np.array_equal(run.load(name), filled(5 * MiB, seed))


def test_what_can_change_is_not_referred_to(start):
    run = start()
    model = run.protect("model", Model(1), capture="reference")
    owner = model.weights
    view = owner.view()
    view.flags.writeable = model.bound.flags.writeable = False
    run.ready()
    for array in (owner, view):
        model.weights = array
        with pytest.raises(UnsupportedError, match="read-only"):
            run.checkpoint()
    owner.flags.writeable = False
    assert run.checkpoint().durable


@pytest.mark.parametrize("capture", ["copy", "cow"])
def test_arrays_that_go_or_grow_meanwhile(start, monkeypatch, capture):
    """The library refers to the program's memory no longer than it needs to; what it reads stays until it is read."""
    run = start(capture=capture)
    arrays = {name: run.protect(name, filled(6 * MiB, i).copy()) for i, name in enumerate("abc")}
    run.ready()
    with gate(monkeypatch) as slow:
        handle = run.checkpoint(wait=False)
        if capture == "copy":
            slow.wait()
            arrays["a"].resize(7 * MiB, refcheck=False)
        arrays["a"][:] = 0
        run._x.objects.drop("b")  # run.drop waits
        del arrays["b"]
        gc.collect()
        more = [np.full(6 * MiB, 7, np.uint8) for _ in range(3)]
        run._x.objects.drop("c")
        arrays["c"][:] = 3
    handle.wait()
    for i, name in enumerate("abc"):
        assert np.array_equal(loaded(run.url, name, 1), filled(6 * MiB, i))
    assert len(more) == 3


def test_memory_is_let_go_of(start, monkeypatch):
    """Of what was copied nothing is held while it is written: a dropped array's memory is free at once."""
    run = start()
    u = filled(6 * MiB).copy()
    gone = []
    weakref.finalize(u, gone.append, 1)
    run.protect("u", u)
    run.ready()
    with gate(monkeypatch) as slow:
        handle = run.checkpoint(wait=False)
        slow.wait()
        run._x.objects.drop("u")
        del u
        gc.collect()
        assert gone
    handle.wait()
    assert np.array_equal(loaded(run.url, "u"), filled(6 * MiB))


def test_protecting_meanwhile(start, monkeypatch):
    run = start()
    u = run.protect("u", filled(5 * MiB).copy())
    run.ready()
    with gate(monkeypatch) as slow:
        handle = run.checkpoint(wait=False)
        u[:] = 0
        threading.Timer(0.1, slow.open).start()
        v = run.protect("v", np.full(2 * MiB, 5, np.uint8))
    assert handle.durable
    u = run.protect("u", np.full(3, 4.0))  # the same name, another array
    run.checkpoint()
    assert np.array_equal(run.load("u", 1), filled(5 * MiB)) and run.load("u", 2).tolist() == [4, 4, 4]
    assert np.array_equal(run.load("v", 2), v)


def test_a_short_write_is_made_good(start):
    run = start(capture="copy", staging="16MiB")
    u = run.protect("u", filled(40 * MiB).copy())
    run.ready()
    with Faults("short", match=named("pwrite", path="/data/"), part=4096 * 100) as fault:
        handle = run.checkpoint(wait=False)
        u[:] = 0
        handle.wait()
    assert fault.fired > 10 and np.array_equal(loaded(run.url, "u"), filled(40 * MiB))


def test_a_helper_that_can_not_read_memory_writes_only_what_is_copied(start, monkeypatch, caplog):
    """What is written from where the program has it goes by threads then; an arena that both see is the helper's."""
    from holdfast.engine.helper import spawn

    monkeypatch.setattr(spawn.Probe, "why_no_reading", lambda probe, ask: "not permitted here")
    run = start(engine="process")
    u = run.protect("u", filled(6 * MiB, 1).copy())
    run.ready()
    assert run.checkpoint().durable and np.array_equal(run.load("u"), u)
    assert run._x.writer.freezing.capturing._helper is not None and "threads write such versions" not in caplog.text
    v = run.protect("v", filled(6 * MiB, 2).copy(), capture="direct")
    assert run.checkpoint().durable and np.array_equal(run.load("v"), v)
    assert "threads write such versions" in caplog.text
