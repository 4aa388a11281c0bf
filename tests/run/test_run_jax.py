"""A program whose state is JAX arrays: killed and resumed, checkpoints in flight, memory by reference."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from jax_standin import jax
from run_support import go

import holdfast
from holdfast.run.capturing import Capturing

__all__ = ["jax"]

IN_FLIGHT = True
EVERY = holdfast.steps(1)


def numbers(tree):
    return [np.asarray(leaf).tolist() for leaf in tree]


def train(jax, run, n, die=None):
    """Parameters, moments and a key that are new arrays after each step, as an optimizer makes them."""

    def new(values):
        return jax.device_put(np.asarray(values, "f4"))

    params = {"w": new(np.ones((3, 4))), "b": new(np.zeros(4))}
    s = run.state(params=params, moments=[new(np.zeros(4)), 0], key=jax.random.key(5))
    for step in run.steps(n, every=EVERY):
        if step == die:
            break
        noise = np.asarray(jax.random.key_data(s.key)) % 97
        w = np.asarray(s.params["w"]) * np.float32(0.9) + np.float32(noise[1] / 97)
        s.params = {"w": new(w), "b": new(np.asarray(s.params["b"]) + w.sum(0))}
        s.moments = [new(np.asarray(s.moments[0]) * np.float32(0.5) + w[0]), s.moments[1] + 1]
        s.key = jax.random.wrap_key_data(jax.device_put((noise * 3 + step).astype("u4")), impl="threefry2x32")
    return [*numbers(s.params.values()), *numbers(s.moments), *numbers([jax.random.key_data(s.key)])]


@pytest.mark.parametrize("capture", ["auto", "copy", "reference", "direct"])
def test_killed_and_resumed_the_result_is_the_same_to_the_bit(jax, start, tmp_path, capture):
    with holdfast.open(tmp_path / "undisturbed") as run:
        expected = train(jax, run, 12)
    for die in (4, 9):
        train(jax, start(capture=capture), 12, die)
    run = start(capture=capture)
    assert train(jax, run, 12) == expected
    assert run.restored is not None and run.restored.step > 0
    assert all(isinstance(leaf, jax.Array) for leaf in run._x.objects["state"].obj.params.values())


def test_large_arrays_are_held_not_copied(jax, start, monkeypatch):
    chosen = []
    choose = Capturing.choose

    def watch(self, items, in_place=False):
        found = choose(self, items, in_place)
        chosen.extend(how for item in found for how, b in zip(item.how, item.buffers, strict=True) if b.nbytes > 1000)
        return found

    monkeypatch.setattr(Capturing, "choose", watch)
    run = start()
    s = run.state(x=jax.device_put(np.arange(1 << 20, dtype="f4")))
    run.ready()
    handle = run.checkpoint(wait=False)
    s.x.delete()  # what is in flight keeps the memory
    s.x = jax.device_put(np.zeros(1 << 20, "f4"))
    handle.wait()
    assert chosen == ["hold"]
    assert np.array_equal(np.asarray(run.load("state")["x"]), np.arange(1 << 20))
    run.checkpoint()
    assert not np.asarray(run.load("state", 2)["x"]).any()


def test_a_run_is_read_where_jax_is_not_loaded(jax, start, tmp_path, monkeypatch):
    with start() as run:
        run.state(x=jax.device_put(np.arange(6, dtype="f4").reshape(2, 3)))
        go(run, 1)
        with run.transaction("result") as txn:
            txn.put("mean", jax.device_put(np.float32(2.5)))
    monkeypatch.delitem(sys.modules, "jax")
    with holdfast.open(tmp_path / "run", mode="r") as run:
        x, mean = run.load("state")["x"], run.load("mean")
    assert type(x) is np.ndarray and x.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert type(mean) is np.ndarray and mean.dtype == "f4" and mean == 2.5


def test_protecting_an_array_by_itself_names_the_namespace(jax, start):
    run = start()
    with pytest.raises(holdfast.UnsupportedError, match=r"immutable.*run\.state"):
        run.protect("x", jax.device_put(np.zeros(3, "f4")))
    d = run.protect("d", {"x": jax.device_put(np.zeros(3, "f4"))})
    run.ready()
    d["x"] = jax.device_put(np.ones(3, "f4"))
    run.checkpoint()
    run = start()
    d = run.protect("d", {"x": None})
    assert isinstance(d["x"], jax.Array) and np.asarray(d["x"]).tolist() == [1, 1, 1]


def test_a_deleted_array_fails_the_checkpoint_and_says_so(jax, start):
    run = start()
    s = run.state(x=jax.device_put(np.zeros(3, "f4")))
    run.ready()
    run.checkpoint()
    s.x.delete()
    with pytest.raises(holdfast.UnsupportedError, match=r"state\.x.*deleted.*s\.x = f\(s\.x\)"):
        run.checkpoint()
    s.x = jax.device_put(np.ones(3, "f4"))
    run.checkpoint()
    assert np.asarray(run.load("state")["x"]).tolist() == [1, 1, 1]
