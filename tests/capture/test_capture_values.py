"""Runs of bytes, what is frozen, and how sparsely an array changes."""

from __future__ import annotations

import sys
import time
import types

import numpy as np
import pytest

from holdfast.capture.frozen import is_frozen
from holdfast.capture.runs import union, within
from holdfast.capture.sampling import PAGE, SAMPLES, Sampler


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_runs_as_sets_of_bytes(dtype):
    rng = np.random.default_rng(6)
    for _ in range(200):
        parts = [
            np.stack((rng.integers(0, 200, n), rng.integers(1, 20, n)), axis=1).astype(dtype)
            for n in rng.integers(0, 9, rng.integers(1, 4))
        ]
        expected = {x for part in parts for start, n in part.tolist() for x in range(start, start + n)}
        runs = union(parts)
        assert runs.dtype == dtype
        assert [x for start, n in runs.tolist() for x in range(start, start + n)] == sorted(expected)
        assert (runs[1:, 0] > runs[:-1, 0] + runs[:-1, 1]).all()
        if dtype is np.int64:
            low, high = sorted(rng.integers(0, 220, 2).tolist())
            inside = [x for start, n in within(runs, low, high).tolist() for x in range(start, start + n)]
            assert inside == sorted(x for x in expected if low <= x < high)


def owner(writeable=False):
    array = np.arange(100, dtype=np.uint8)
    array.flags.writeable = writeable
    return array


def test_frozen_memory():
    assert is_frozen(np.frombuffer(b"abc", np.uint8))
    assert is_frozen(np.frombuffer(memoryview(b"abcdef")[2:], np.uint8))
    assert is_frozen(owner())
    assert is_frozen(owner()[3:50].reshape(-1))
    assert is_frozen(owner().view(np.uint16).view(np.uint8))
    assert is_frozen(np.frombuffer(memoryview(owner()), np.uint8))
    assert is_frozen(np.frombuffer(owner(), np.uint8))


def test_memory_that_can_change(tmp_path):
    array = owner(writeable=True)
    readonly = array[:]
    readonly.flags.writeable = False
    np.zeros(PAGE, np.uint8).tofile(tmp_path / "data")
    changing = [
        array,
        array[3:],
        readonly,  # a read-only view of writable memory
        readonly[3:],
        np.broadcast_to(array, (2, 100))[0],
        np.frombuffer(memoryview(array).toreadonly(), np.uint8),
        np.frombuffer(bytearray(10), np.uint8),
        np.frombuffer(memoryview(bytearray(10)).toreadonly(), np.uint8),
        np.memmap(tmp_path / "data", np.uint8, "r"),
        np.memmap(tmp_path / "data", np.uint8, "r")[5:],
        np.empty(0, np.uint8),
    ]
    assert [is_frozen(buffer) for buffer in changing] == [False] * len(changing)
    for buffer in changing:
        assert not is_frozen(np.asarray(buffer))


def test_an_owner_frozen_before_and_after():
    array = owner(writeable=True)
    array.flags.writeable = False
    assert is_frozen(array)
    array.flags.writeable = True
    assert not is_frozen(array)


class Array:
    """Stands for a JAX array on the host: it exports read-only memory and is what its NumPy views hold."""

    def __init__(self):
        self.memory = np.arange(100, dtype=np.uint8)
        at = self.memory.__array_interface__["data"][0]
        self.__array_interface__ = {"data": (at, True), "shape": (100,), "typestr": "|u1", "version": 3}


def test_jax_arrays_only_where_jax_is_loaded(monkeypatch):
    assert "jax" not in sys.modules
    view = np.asarray(Array())
    assert not view.flags.writeable
    assert not is_frozen(view)
    assert "jax" not in sys.modules
    jax = types.ModuleType("jax")
    monkeypatch.setitem(sys.modules, "jax", jax)  # while it is imported it has no Array yet
    assert not is_frozen(view)
    jax.Array = Array
    assert is_frozen(view)
    assert is_frozen(view[3:])


# -- sampling -------------------------------------------------------------------------------


def test_nothing_is_known_at_first_nor_after_another_size():
    sampler, array = Sampler(), np.zeros(2000 * PAGE, np.uint8)
    assert sampler.look("u", array) is None
    assert sampler.look("u", array) == 0
    assert sampler.look("v", array) is None
    assert sampler.look("u", array[PAGE:]) is None
    assert sampler.look("u", array[PAGE:]) == 0
    sampler.forget("u")
    sampler.forget("u")
    assert sampler.look("u", array) is None


@pytest.mark.parametrize(("pages", "rest"), [(0, 1), (1, 0), (7, 100), (SAMPLES, 0)])
def test_few_pages_are_all_looked_at(pages, rest):
    sampler, array = Sampler(), np.zeros(pages * PAGE + rest, np.uint8)
    sampler.look("u", array)
    for at in (0, array.nbytes // 2, array.nbytes - 1):
        array[at] += 1
        assert sampler.look("u", array) == 1 / (pages + (rest > 0))
        assert sampler.look("u", array) == 0


def test_empty_arrays():
    sampler, array = Sampler(), np.empty(0, np.uint8)
    assert sampler.look("u", array) is None
    assert sampler.look("u", array) == 0


@pytest.mark.parametrize("share", [0.01, 0.3, 1.0])
@pytest.mark.parametrize("kind", ["scattered", "contiguous", "strided"])
def test_the_fraction_that_changed_is_found(share, kind):
    total = 20000
    sampler, array = Sampler(), np.zeros(total * PAGE, np.uint8)
    count = int(total * share)
    pages = {
        "scattered": np.random.default_rng(5).permutation(total)[:count],
        "contiguous": np.arange(count) + (total - count) // 2,
        "strided": np.linspace(0, total - 1, count).astype(int),
    }[kind]
    sampler.look("u", array)
    array[pages * PAGE + 17] = 1
    found = sampler.look("u", array)
    assert abs(found - share) <= 0.1 * (share < 1) * (1 if share > 0.1 else 0.3)


def test_a_look_is_short():
    sampler, array = Sampler(), np.ones(64 << 20, np.uint8)
    times = []
    for _ in range(20):
        begin = time.perf_counter()
        sampler.look("u", array)
        times.append(time.perf_counter() - begin)
    assert min(times) < 2e-3
