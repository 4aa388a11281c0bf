"""Objects that nobody has written to since they were filled are not digested again; what was written is undone."""

from __future__ import annotations

import numpy as np
import pytest

import holdfast
from holdfast.capture.tracker import PageTracker
from holdfast.engine import PartReader

N = 1 << 19  # elements of 8 bytes: large enough for its pages to be watched


@pytest.fixture
def compared(monkeypatch):
    """How many bytes of each buffer are looked at."""
    found = []
    real = PartReader.same

    def same(self, buffer, memory, name, written=None):
        found.append(memory.nbytes if written is None else int(written[:, 1].sum()))
        return real(self, buffer, memory, name, written)

    monkeypatch.setattr(PartReader, "same", same)
    return found


@pytest.fixture
def stored(start):
    run = start()
    u = run.protect("u", np.arange(float(N)))
    s = run.state(v=np.arange(float(N)) + 1, small=np.zeros(3))
    run.checkpoint()
    assert u[3] == 3 and s.v[3] == 4
    run.close()


def test_what_was_not_touched_is_not_digested_again(start, stored, compared):
    run = start()
    u = run.protect("u", np.zeros(N))
    s = run.state(v=np.zeros(N), small=np.ones(3))
    compared.clear()
    run.ready()
    if PageTracker.available() is None:  # but the pages at both ends, in which there may be something else
        assert max(compared) <= 2 * 4096
    else:
        assert compared.count(8 * N) == 2
    assert np.array_equal(u, np.arange(float(N))) and np.array_equal(s.v, u + 1) and not s.small.any()


@pytest.mark.parametrize("at", [0, 1, N // 2, N - 1])
def test_one_element_written_after_protect_is_undone(start, stored, at):
    run = start()
    u = run.protect("u", np.zeros(N))
    s = run.state(v=np.zeros(N), small=np.ones(3))
    u[at] = -1
    s.v[at] = -2
    s.small[0] = -3
    run.ready()
    assert np.array_equal(u, np.arange(float(N))) and np.array_equal(s.v, u + 1) and not s.small.any()


def test_an_array_that_was_rebound_is_another_one(start, stored):
    run = start()
    run.protect("u", np.zeros(N))
    u = run.protect("u", np.full(N, 7.0))  # binds, does not restore; settling does
    s = run.state(v=np.zeros(N), small=np.ones(3))
    s.v = np.full(N, 8.0)
    run.ready()
    assert np.array_equal(u, np.arange(float(N))) and np.array_equal(s.v, u + 1)


def test_another_version_is_settled_on(start, tmp_path):
    run = start(keep=holdfast.Keep(last=3))
    u = run.protect("u", np.zeros(N))
    for k in (1, 2):
        u[:] = k
        run.checkpoint()
    run.close()
    run = start()
    u = run.protect("u", np.zeros(N))
    assert u[0] == 2
    run.rollback(1)
    run.ready()
    assert (u == 1).all()


def test_watching_ends_when_the_state_is_settled(start, stored):
    run = start()
    run.protect("u", np.zeros(N))
    run.state(v=np.zeros(N), small=np.ones(3))
    run.ready()
    assert run._x.resume._untouched._tracker is None
