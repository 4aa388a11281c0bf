"""Decisions on several ranks: at the same step whatever the clocks and signals; transactions, rollback, errors alike."""

from __future__ import annotations

import errno
import os
import signal
import time
from contextlib import nullcontext

import numpy as np
import pytest
from test_run_state import EACH, go, leave, raised_alike, reopen

import holdfast
from holdfast.store import syscalls

KEEP = holdfast.Keep(last=100)


def taken(run):
    """(step, reason) of the versions that are there, oldest first."""
    return [(v.step, v.reason) for v in reversed(run.versions) if v.kind == "checkpoint"]


def same(comm, value):
    """The value, which is the same on all ranks."""
    values = comm.allgather(value)
    assert all(v == values[0] for v in values), values
    return value


def test_steps_and_requests(comm, shared_tmp):
    run = reopen(comm, shared_tmp, keep=KEEP)
    u = run.protect("u", np.zeros(2))
    for step in run.steps(7, every=holdfast.steps(3)):
        u += 1
        if step == 3:
            handle = run.checkpoint()
    comm.Barrier()
    assert same(comm, taken(run)) == [(3, "policy"), (4, "request"), (6, "policy")]
    assert same(comm, (handle.version, handle.durable)) == (2, True)
    assert run.load("u", 2).tolist() == [4, 4]
    leave(run)


def test_seconds_are_decided_alike_with_uneven_steps(comm, shared_tmp):
    """No rank waits in a step for another, and the first clock to say so decides for all."""
    run = reopen(comm, shared_tmp, keep=KEEP)
    u = run.protect("u", np.zeros(1))
    heads = []
    for step in run.steps(60, every=holdfast.seconds(0.1)):
        u += 1
        if len(heads) < (number := run._x.writer.written):
            heads += [step] * (number - len(heads))
        time.sleep(0.003 * (1 + (step + comm.rank) % 3))
    comm.Barrier()
    steps = same(comm, [s for s, _ in taken(run)])
    assert 2 <= len(steps) <= 8
    assert same(comm, heads) == steps
    assert [run.load("u", v.number)[0] for v in reversed(run.versions)] == steps
    leave(run)


def test_a_signal_to_one_rank_interrupts_all_at_the_same_step(comm, shared_tmp):
    run = reopen(comm, shared_tmp, keep=KEEP)
    u = run.protect("u", np.zeros(1))
    with pytest.raises(holdfast.Interrupted) as caught:
        for step in run.steps(1000, every=holdfast.seconds(60)):
            u += 1
            if step == 20 and comm.rank == comm.size - 1:
                os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.002 * (1 + comm.rank % 2))
    assert same(comm, (caught.value.code, caught.value.signal, step)) == (85, "SIGUSR1", step)
    assert 20 <= step <= 60
    comm.Barrier()
    assert same(comm, taken(run)) == [(step + 1, "signal")]
    run.close()
    run = reopen(comm, shared_tmp)  # free: the interrupt is on record
    u = run.protect("u", u)
    assert go(run, step + 3) == [step + 1, step + 2]
    leave(run)


def test_a_break_at_the_same_step_completes(comm, shared_tmp):
    run = reopen(comm, shared_tmp)
    with run:
        assert go(run, 1000, 30, every=holdfast.seconds(60)) == list(range(30))
    comm.Barrier()
    assert same(comm, run.versions[0].complete)
    with reopen(comm, shared_tmp) as run:
        assert go(run, 1000, 30) == []


def test_nested_loops_with_breaks(comm, shared_tmp):
    """Rounds of loops that were left early don't meet those of later ones."""
    run = reopen(comm, shared_tmp)
    seen = []
    for i in run.steps(4, every=holdfast.seconds(60), name="outer"):
        for j in run.steps(10, every=holdfast.seconds(0.01), name="inner"):
            if j == 3 + i:
                break
            seen.append((i, j))
            time.sleep(0.002 * (comm.rank % 3))
    assert seen == [(i, j) for i in range(4) for j in range(3 + i)]
    run.complete()
    run.close()


# -- transactions and rollback -----------------------------------------------------------------------------


def test_a_record_of_all_ranks(comm, shared_tmp):
    run = reopen(comm, shared_tmp)
    with run.transaction("r") as txn:
        txn.put("x", comm.rank * 10)
    assert same(comm, txn.version) == 1
    assert run.load("x") == comm.rank * 10
    assert run.load("x", rank=comm.size - 1) == (comm.size - 1) * 10
    leave(run)


def test_an_exception_on_one_rank_leaves_no_record_on_any(comm, shared_tmp):
    run = reopen(comm, shared_tmp)
    failing = comm.rank == comm.size - 1
    with (
        pytest.raises(ZeroDivisionError if failing else holdfast.CheckpointError) as caught,
        run.transaction("r") as txn,
    ):
        txn.put("x", comm.rank)
        if failing:
            raise ZeroDivisionError("only here")
    if not failing:
        assert [c.rank for c in caught.value.causes] == [comm.size - 1]
        assert "only here" in str(caught.value)
    assert txn.version is None
    comm.Barrier()
    assert run.versions == []
    with run.transaction("r") as txn:  # the ranks are still together
        txn.put("x", comm.rank)
    assert run.load("x") == comm.rank
    leave(run)


@pytest.mark.parametrize("where", ["before", "inside", "after"])
def test_rollback(comm, shared_tmp, where):
    run = reopen(comm, shared_tmp, keep=KEEP)
    u = run.protect("u", np.zeros(2))
    back, seen = where != "inside", []
    for step in run.steps(6, every=EACH):
        assert u[0] == step
        u += 1
        seen.append(step)
        if step == 4 and not back:
            back = True
            run.rollback(2)
    if where == "inside":
        assert seen == [0, 1, 2, 3, 4, 2, 3, 4, 5]
    else:
        if where == "before":
            run = reopen(comm, shared_tmp, run, keep=KEEP)
            u = run.protect("u", np.zeros(2))
        run.rollback(2)
        assert go(run, 6, every=EACH) == [2, 3, 4, 5]
        assert u[0] == 2
    comm.Barrier()
    found = same(comm, {v.number: v.status for v in run.versions})
    assert {found[3], found[4]} == {"abandoned"}
    assert {found[1], found[2]} == {"current"}
    leave(run)


def test_rollback_to_nothing_is_refused_on_all(comm, shared_tmp):
    run = reopen(comm, shared_tmp)
    run.checkpoint()
    error = raised_alike(comm, holdfast.UsageError, lambda: run.rollback(9))
    assert "There are: 1." in str(error)
    leave(run)


# -- failures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_error", ["raise", "warn"])
def test_a_disk_that_is_full_for_one_rank(comm, shared_tmp, monkeypatch, on_error):
    run = reopen(comm, shared_tmp, on_error=on_error, keep=KEEP)
    u = run.protect("u", np.zeros(1))
    run.checkpoint()
    real = syscalls.pwrite

    def full(fd, data, offset):
        raise OSError(errno.ENOSPC, "No space left on device")

    if comm.rank == comm.size - 1:
        monkeypatch.setattr(syscalls, "pwrite", full)
    if on_error == "raise":
        error = raised_alike(comm, holdfast.CheckpointError, run.checkpoint)
        assert error.rank == comm.size - 1 and "disk full" in str(error)
    else:
        with pytest.warns(holdfast.CheckpointWarning, match="disk full"):
            assert not run.checkpoint().durable
    monkeypatch.setattr(syscalls, "pwrite", real)
    u += 1
    assert same(comm, run.checkpoint().durable)
    comm.Barrier()
    assert same(comm, [v.status for v in run.versions]) == ["current", "current"]
    assert run.load("u")[0] == 1
    leave(run)


def test_a_rebound_array_on_one_rank_is_told_to_all(comm, shared_tmp):
    run = reopen(comm, shared_tmp)
    u = run.protect("u", np.zeros(1))
    if comm.rank == 0:
        u = u + 1
    error = raised_alike(comm, holdfast.StaleObjectError, run.checkpoint)
    assert (error.object, error.rank) == ("u", 0)
    assert u is not None
    leave(run)


def test_a_fenced_attempt_is_told_on_all(comm, shared_tmp):
    old = reopen(comm, shared_tmp)
    old.checkpoint()
    new = reopen(comm, shared_tmp, takeover=True)
    raised_alike(comm, holdfast.FencedError, old.checkpoint)
    assert same(comm, new.checkpoint().durable)
    leave(old)
    leave(new)


def test_a_rank_that_stays_away_is_named(comm, shared_tmp):
    run = reopen(comm, shared_tmp, timeout=5)
    run.ready()
    if comm.size > 1 and comm.rank == 0:
        with pytest.raises(holdfast.HoldfastError, match="rank"):
            run.checkpoint()
    comm.Barrier()
    leave(run)


def test_launch_returns_each_ranks_value(comm, shared_tmp):
    def main(run):
        u = run.protect("u", np.zeros(1))
        for _ in run.steps(3, every=EACH):
            u += run.comm.rank
        return u[0]

    for _ in range(2):
        assert holdfast.launch(main, shared_tmp / "run", comm=comm) == 3 * comm.rank
        comm.Barrier()


def test_launch_raises_what_all_ranks_raise(comm, shared_tmp):
    def main(run):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        holdfast.launch(main, shared_tmp / "run", comm=comm)


def test_ranks_at_different_steps_write_no_version(comm, shared_tmp):
    run = reopen(comm, shared_tmp)
    u = run.protect("u", np.zeros(1))
    run.checkpoint()
    with pytest.raises(holdfast.UsageError, match="not at one step") if comm.size > 1 else nullcontext():
        for _ in run.steps(5 + comm.rank, every=holdfast.steps(100)):
            u += 1
        run.complete()
    comm.Barrier()
    newest = run.versions[0]
    assert same(comm, newest.complete) == (comm.size == 1)
    assert same(comm, newest.number) == (1 if comm.size > 1 else 2)
    leave(run)


def test_shards_make_up_their_array(comm, shared_tmp):
    size = comm.size
    for shape, offset, text in (((4 * size,), (3 * comm.rank,), "overlap"), ((5 * size,), (4 * comm.rank,), "leave .* out")):
        run = reopen(comm, shared_tmp, takeover=True)
        x = run.protect("x", np.zeros(4), shard=holdfast.Shard(shape, offset))
        with pytest.raises(holdfast.UsageError, match=text) if size > 1 else nullcontext():
            run.ready()
        x += 1
        leave(run)


def test_an_output_file_outlives_a_change_of_ranks(comm, shared_tmp):
    """Also one that is opened in the loop only, and by another attempt than the next."""
    path = os.path.join(shared_tmp, "o.txt")
    run = reopen(comm, shared_tmp)
    u = run.protect("u", np.zeros(1), shard=holdfast.Shard((comm.size,), (comm.rank,)))
    out = None
    for step in run.steps(4, every=EACH):
        u += 1
        if comm.rank == comm.size - 1:
            out = out or run.file(path, "a")
            out.write(f"{step}\n")
    run.complete()
    leave(run)
    half = comm.Split(0 if comm.rank == 0 else 1)
    if comm.rank == 0:
        for n in (6, 8):
            alone = holdfast.open(os.path.join(shared_tmp, "run"), comm=half, ranks_changed="accept", takeover=True)
            u = alone.protect("u", np.zeros(comm.size), shard=holdfast.Shard((comm.size,), (0,)))
            for step in alone.steps(n, every=EACH):
                u += 1
                if n == 8:
                    out = alone.file(path, "a")
                    out.write(f"{step}\n")
            alone.complete()
            alone.close()
        with open(path) as f:
            assert f.read().split() == ["0", "1", "2", "3", "6", "7"]
        assert u.tolist() == [8.0] * comm.size
    comm.Barrier()
    half.Free()


def test_a_signal_in_the_last_step(comm, shared_tmp):
    run = reopen(comm, shared_tmp)
    u = run.protect("u", np.zeros(1))
    with pytest.raises(holdfast.Interrupted) as left:
        for step in run.steps(3):
            u += 1
            if step == 2 and comm.rank == comm.size - 1:
                os.kill(os.getpid(), signal.SIGTERM)
    assert same(comm, left.value.code) == 85
    assert run.versions[0].step == 3
    leave(run)
