"""When checkpoints are taken, what `checkpoint()` returns, what retention leaves, what a failure does."""

from __future__ import annotations

import errno
import time

import numpy as np
import pytest
from run_support import go

import holdfast
from holdfast.store import syscalls


def taken(run):
    """(step, reason) of the versions this attempt has taken, oldest first."""
    return [(v.step, v.reason) for v in reversed(run.versions) if v.attempt == run.attempt]


KEEP = holdfast.Keep(last=100)


def test_every_so_many_steps(start):
    run = start(keep=KEEP)
    go(run, 10, every=holdfast.steps(3))
    assert taken(run) == [(3, "policy"), (6, "policy"), (9, "policy")]


def test_multiples_are_of_completed_steps_on_a_resume_too(start):
    go(start(keep=KEEP), 10, 5, every=holdfast.steps(4))
    run = start(keep=KEEP)
    go(run, 10, every=holdfast.steps(3))
    assert taken(run) == [(6, "policy"), (9, "policy")]


def clock(monkeypatch):
    """A clock that the test sets: `now[0]` seconds."""
    now = [1000.0]
    monkeypatch.setattr("holdfast.run.pacing.monotonic", lambda: now[0])
    return now


def test_every_so_many_seconds(start, monkeypatch):
    now = clock(monkeypatch)
    run = start(keep=KEEP)
    for _ in run.steps(10, every=holdfast.seconds(2.5)):
        now[0] += 1
    assert taken(run) == [(3, "policy"), (6, "policy"), (9, "policy")]


def test_both_whichever_comes_first(start, monkeypatch):
    now = clock(monkeypatch)
    run = start(keep=KEEP)
    for step in run.steps(12, every=holdfast.steps(5) | holdfast.seconds(3)):
        now[0] += 0.1 if step < 6 else 1
    # Five steps; from then on the clock, which begins anew with each checkpoint, and the tenth step.
    assert taken(run) == [(5, "policy"), (9, "policy"), (10, "policy")]


def test_the_default_is_a_minute(start, monkeypatch):
    now = clock(monkeypatch)
    run = start(keep=KEEP)
    for _ in run.steps(10):
        now[0] += 21
    assert taken(run) == [(3, "policy"), (6, "policy"), (9, "policy")]


def test_checkpoint_outside_of_loops_is_taken_at_once(start):
    run = start()
    u = run.protect("u", np.arange(3.0))
    handle = run.checkpoint()
    assert (handle.version, handle.done, handle.durable, handle.error) == (1, True, True, None)
    assert handle.bytes == run.versions[0].bytes > 0
    assert handle.seconds > 0
    assert u.tolist() == start().load("u").tolist()


def test_checkpoint_in_a_body_takes_effect_at_the_next_head(start):
    run = start(keep=KEEP)
    u = run.protect("u", np.zeros(2))
    handle = None
    for step in run.steps(6):
        u[0] += 1
        if step == 2:
            handle = run.checkpoint()
            assert (handle.done, run.checkpoint()) == (False, handle)
            assert run.versions == []
        if step == 3:
            assert handle.done and handle.durable
        u[1] += 1  # after the request: still part of this step
    assert taken(run) == [(3, "request")]
    assert handle.version == run.versions[0].number
    assert run.load("u", handle.version).tolist() == [3, 3]


def test_checkpoint_in_the_last_step_and_before_a_break(start):
    run = start(keep=KEEP)
    for step in run.steps(3):
        if step == 2:
            last = run.checkpoint()
    assert last.durable
    assert taken(run) == [(3, "request")]
    for step in run.steps(5, name="other"):
        if step == 2:
            handle = run.checkpoint()
            break
    assert not handle.done
    run.complete()
    assert handle.durable
    assert (handle.version, run.versions[0].complete) == (run.versions[0].number, True)


def test_versions_tell_of_each(start):
    run = start(keep=KEEP)
    u = run.protect("u", np.zeros(1000))
    before = time.time()
    for _ in run.steps(4, every=holdfast.steps(2)):
        u += 1
    run.checkpoint()
    with run.transaction("spectrum") as txn:
        txn.put("s", u)
    record, second, first = run.versions
    assert (first.number, first.kind, first.step, first.parent, first.attempt) == (1, "checkpoint", 2, None, 1)
    assert (second.number, second.kind, second.step, second.parent, second.attempt) == (2, "checkpoint", 4, 1, 1)
    assert (record.number, record.kind, record.label, record.parent) == (3, "record", "spectrum", 2)
    assert before <= first.time <= second.time <= time.time()
    assert first.bytes >= 8000
    assert (first.ranks, first.objects) == (1, 1)


def test_keep_leaves_the_newest(start):
    run = start(keep=holdfast.Keep(last=3))
    go(run, 10, every=holdfast.steps(1))
    assert [v.number for v in run.versions] == [9, 8, 7]
    run = start()  # the default keeps two
    go(run, 12, every=holdfast.steps(1))
    assert len(run.versions) == 2
    assert start().resumed


def test_the_version_before_stays_until_the_new_one_is_there(start, monkeypatch):
    run = start(keep=holdfast.Keep(last=1))
    u = run.protect("u", np.zeros(3))
    run.checkpoint()
    seen = []
    real = syscalls.unlink
    monkeypatch.setattr(syscalls, "unlink", lambda path: (seen.append([v.number for v in run.versions]), real(path))[1])
    run.checkpoint()
    assert any(2 in numbers for numbers in seen)
    assert all(2 in numbers for numbers in seen if 1 not in numbers)
    assert u is not None


# -- failures ---------------------------------------------------------------------------------------------


@pytest.fixture
def full_disk(monkeypatch):
    """`full_disk(True)`: nothing can be written any more."""
    full = [False]
    real = syscalls.pwrite

    def pwrite(fd, data, offset):
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data, offset)

    monkeypatch.setattr(syscalls, "pwrite", pwrite)

    def switch(on):
        full[0] = on

    return switch


def test_a_failed_checkpoint_is_raised(start, full_disk):
    run = start()
    u = run.protect("u", np.ones(3))
    run.checkpoint()
    full_disk(True)
    with pytest.raises(holdfast.CheckpointError) as caught:
        run.checkpoint()
    assert "disk full" in str(caught.value) and "intact" in str(caught.value)
    assert (caught.value.version, caught.value.rank) == (2, 0)
    assert [c.rank for c in caught.value.causes] == [0]
    full_disk(False)
    assert run.load("u").tolist() == [1, 1, 1]
    u += 1
    assert run.checkpoint().durable  # the next one succeeds
    assert run.load("u").tolist() == [2, 2, 2]
    assert [v.status for v in run.versions] == ["current", "current"]


def test_a_failed_checkpoint_is_a_warning_if_so_wanted(start, full_disk):
    run = start(on_error="warn", keep=KEEP)
    u = run.protect("u", np.zeros(3))
    with pytest.warns(holdfast.CheckpointWarning, match="disk full") as warned:
        for step in run.steps(6, every=holdfast.steps(1)):
            u += 1
            full_disk(step in (1, 2))
    assert len(warned) == 2
    assert u.tolist() == [6, 6, 6]
    assert [s for s, _ in taken(run)] == [1, 4, 5]
    full_disk(True)
    with pytest.warns(holdfast.CheckpointWarning):
        handle = run.checkpoint()
    assert (handle.done, handle.durable) == (True, False)
    assert isinstance(handle.error, holdfast.CheckpointError)


def test_the_last_checkpoint_is_never_only_a_warning(tmp_path, full_disk):
    with pytest.raises(holdfast.CheckpointError), holdfast.open(tmp_path / "run", on_error="warn") as run:
        run.ready()
        go(run, 3)
        full_disk(True)
    full_disk(False)
    assert not any(v.complete for v in run.versions)
    with holdfast.open(tmp_path / "run", takeover=True) as run:  # its end could not be recorded either
        assert go(run, 3) == [0, 1, 2]


def test_a_failed_transaction_is_always_raised(start, full_disk):
    run = start(on_error="warn")
    run.ready()
    full_disk(True)
    with pytest.raises(holdfast.CheckpointError), run.transaction("r") as txn:
        txn.put("x", 1)
    assert txn.version is None
    full_disk(False)
    assert not any(v.status == "current" for v in run.versions)


def test_what_is_waited_for_is_checked(start):
    run = start()
    run.state(u=np.zeros(3))
    run.ready()
    handle = run.checkpoint()
    for timeout in ("x", True, -1):
        with pytest.raises(holdfast.UsageError, match=r"handle.wait\(timeout="):
            handle.wait("durable", timeout)
    handle.wait("durable", 0)
    with pytest.raises(holdfast.UsageError, match=r"run.checkpoint\(wait=0.5\)"):
        run.checkpoint(wait=0.5)
    with pytest.raises(holdfast.ConfigError, match="'abc' is no number of seconds"):
        holdfast.open("other", timeout="abc")
