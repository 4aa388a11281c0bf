"""Versions on their way while all ranks compute and communicate: landed, skipped and failed at one step on all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from faults import Faults, named
from mpi4py import MPI
from run_mpi import command, find_mpirun
from test_run_state import leave, reopen

import holdfast
from holdfast.store import syscalls

IN_FLIGHT = True
KEEP = holdfast.Keep(last=100)
MiB = 1 << 20
THREADED = MPI.Query_thread() >= MPI.THREAD_MULTIPLE


def same(comm, value):
    values = comm.allgather(value)
    assert all(v == values[0] for v in values), values
    return value


def filled(comm, k=0):
    return np.random.default_rng(100 * comm.rank + k).integers(0, 256, 5 * MiB + comm.rank, np.uint8)


@pytest.fixture
def slow(monkeypatch):
    """`slow(seconds)`: each request to a data file takes so long on this rank."""
    seconds = [0.0]
    real = syscalls.pwrite

    def pwrite(fd, data, offset):
        if seconds[0] and "/data/" in os.readlink(f"/proc/self/fd/{fd}"):
            time.sleep(seconds[0])
        return real(fd, data, offset)

    monkeypatch.setattr(syscalls, "pwrite", pwrite)

    def switch(value):
        seconds[0] = value

    return switch


def test_the_program_communicates_all_the_time(comm, shared_tmp):
    assert THREADED
    run = reopen(comm, shared_tmp, keep=KEEP, incremental="off")
    u = run.protect("u", filled(comm))
    total, expected = np.zeros(1), {}
    for step in run.steps(300):
        if step % 50 == 10:
            handle = run.checkpoint(wait=False)
            expected[step + 1] = None
        if step % 50 == 11:
            assert handle.captured
        comm.Allreduce(np.ones(1), total)
        assert total[0] == comm.size
        u[step % u.nbytes] ^= 1 + step % 7
        if step + 1 in expected:
            expected[step + 1] = u.copy()
    run.complete()
    steps = same(comm, [v.step for v in run.versions])
    assert steps == [300, *sorted(expected, reverse=True)]
    for v in run.versions[1:]:
        assert np.array_equal(run.load("u", v.number), expected[v.step])
    run.close()


def test_the_main_thread_sits_in_a_blocking_call(comm, shared_tmp):
    """Rank 0 comes late; the others wait for it in MPI, where no call of the library can be made: the version is committed."""
    run = reopen(comm, shared_tmp, keep=KEEP)
    u = run.protect("u", filled(comm))
    run.ready()
    handle = run.checkpoint(wait=False)
    u[:] = 0
    if comm.rank == 0:
        handle.wait(timeout=30)
    comm.Barrier()
    handle.wait(timeout=5)
    assert handle.durable and np.array_equal(run.load("u"), filled(comm))
    run.complete()
    run.close()


def test_a_landing_is_heard_of_at_one_step(comm, shared_tmp, slow):
    """One rank's disk is slow; what follows from the version's end follows at one step."""
    slow(0.05 if comm.rank == comm.size - 1 else 0)
    run = reopen(comm, shared_tmp, keep=KEEP, incremental="off")
    u = run.protect("u", filled(comm))
    heard, was = [], False
    for step in run.steps(400):
        if step == 20:
            run.checkpoint(wait=False)
        if was != run._x.flying:
            heard.append(step)
            was = run._x.flying
        u[0] ^= 1
        time.sleep(0.001)
    assert len(same(comm, heard)) == 2 and heard[0] == 21 < heard[1]
    run.complete()
    run.close()


@pytest.mark.parametrize("overlap", ["skip", "wait"])
def test_uneven_disks(comm, shared_tmp, slow, overlap):
    """Due while one rank still writes: skipped by all or waited for by all, and each version whole."""
    slow(0.04 * comm.rank)
    run = reopen(comm, shared_tmp, keep=KEEP, overlap=overlap, incremental="off")
    u = run.protect("u", filled(comm))
    taken = {}
    for step in run.steps(20, every=holdfast.steps(2)):
        u[:] = step
        taken[step + 1] = step
        time.sleep(0.005)
    run.complete()
    steps = same(comm, [v.step for v in run.versions if v.step < 20])
    if overlap == "wait":
        assert steps == list(range(18, 0, -2))
    else:
        assert len(steps) >= 1 and (comm.size == 1 or len(steps) < 9)
    for v in run.versions:
        if v.step < 20:
            assert set(np.unique(run.load("u", v.number))) == {v.step - 1}
    run.close()


@pytest.mark.parametrize("where", ["data", "sync"])
def test_one_rank_s_storage_fails(comm, shared_tmp, where):
    """All hear of it at the same step, once, with the rank; what was there is whole, and the next one succeeds."""
    run = reopen(comm, shared_tmp, keep=KEEP, incremental="off")
    u = run.protect("u", filled(comm))
    run.ready()
    run.checkpoint()
    bad = comm.size - 1
    seen = []
    names = ("pwrite",) if where == "data" else ("fsync",)
    fault = Faults("error", errno=errno.ENOSPC, match=named(*names, path=f"00000002-a000001/data/r{bad:06d}"))
    with fault, pytest.raises(holdfast.CheckpointError) as caught:
        for step in run.steps(1000):
            seen.append(step)
            u[:] = step
            if step == 3:
                handle = run.checkpoint(wait=False)
            time.sleep(0.001 * (1 + comm.rank % 2))
    assert 4 <= len(same(comm, seen)) < 1000
    same(comm, str(caught.value))
    assert caught.value.rank == bad and (caught.value.version, handle.version) == (2, 2)
    assert fault.fired == (comm.rank == bad) or fault.fired > 1
    assert np.array_equal(run.load("u"), filled(comm))
    assert run.checkpoint().durable
    assert same(comm, [v.number for v in run.versions]) == [3, 1]
    run.complete()
    run.close()


def test_one_rank_s_storage_fails_and_all_are_warned(comm, shared_tmp):
    run = reopen(comm, shared_tmp, keep=KEEP, incremental="off", on_error="warn")
    u = run.protect("u", filled(comm))
    fault = Faults("error", match=named("pwrite", path="00000001-a000001/data/r000000"))
    with fault, pytest.warns(holdfast.CheckpointWarning) as warned:
        for step in run.steps(60):
            u[:] = step
            if step == 3:
                handle = run.checkpoint(wait=False)
            if step == 5:
                run._x.writer.arrive()
                assert isinstance(handle.error, holdfast.CheckpointError)
            time.sleep(0.001)
        run.complete()
    assert len(warned) == 1
    assert same(comm, [(v.number, v.complete) for v in run.versions]) == [(2, True)]
    run.close()


def test_a_rank_s_capture_fails(comm, shared_tmp, monkeypatch):
    """Before anything of it is in flight there; the others hear of it on the same road."""
    run = reopen(comm, shared_tmp, keep=KEEP)
    u = run.protect("u", filled(comm))
    run.ready()

    def fail(*args):
        raise MemoryError("no room")

    if comm.rank == 0:
        monkeypatch.setattr("holdfast.engine.freeze.freeze", fail)
    with pytest.raises(holdfast.CheckpointError, match="no room"):
        for step in run.steps(1000):
            u[:] = step % 256
            if step == 2:
                run.checkpoint(wait=False)
            time.sleep(0.001)
    monkeypatch.undo()
    same(comm, step)
    assert run.checkpoint().durable
    run.complete()
    run.close()


def test_a_rank_that_stays_away(comm, shared_tmp):
    """Its wait ends by its deadline, and nothing hangs."""
    if comm.size == 1:
        return
    run = reopen(comm, shared_tmp, keep=KEEP, timeout=1.0)
    u = run.protect("u", filled(comm))
    run.ready()
    if comm.rank != 0:
        handle = run.checkpoint(wait=False)
        began = time.monotonic()
        with pytest.raises(holdfast.HoldfastError):
            handle.wait(timeout=20)
        assert time.monotonic() - began < 15
    comm.Barrier()
    assert not any(v.status == "current" for v in run.versions) and len(u)
    leave(run)


def test_a_signal_while_one_is_in_flight(comm, shared_tmp, slow):
    slow(0.03)
    run = reopen(comm, shared_tmp, keep=KEEP, incremental="off")
    u = run.protect("u", filled(comm))
    with pytest.raises(holdfast.Interrupted) as caught:
        for step in run.steps(1000):
            u[:] = step
            if step == 5:
                run.checkpoint(wait=False)
            if step == 6 and comm.rank == comm.size - 1:
                os.kill(os.getpid(), 15)
            time.sleep(0.001)
    same(comm, (caught.value.code, caught.value.version, step))
    assert caught.value.code == 85
    assert same(comm, [v.reason for v in run.versions]) == ["signal", "request"]
    run.close()


def test_at_a_lower_thread_level_the_program_waits(comm, shared_tmp):
    """A job of its own: MPI there was not initialised for threads. It says so, once, and works."""
    told = None
    if comm.rank == 0:
        root = Path(__file__).resolve().parents[2]
        text = """
            import logging, sys
            logging.basicConfig(stream=sys.stderr)
            import mpi4py
            mpi4py.rc.thread_level = "funneled"
            from mpi4py import MPI
            import numpy as np, holdfast
            run = holdfast.open("run", comm=MPI.COMM_WORLD, keep=holdfast.Keep(last=9))
            u = run.protect("u", np.full(3 << 20, MPI.COMM_WORLD.rank, np.uint8))
            for step in run.steps(6, every=holdfast.steps(2)):
                if step in (3, 5):
                    assert not run._x.flying
                u += 1
            handle = run.checkpoint(wait=False)
            assert handle.durable
            run.complete()
            if MPI.COMM_WORLD.rank == 0:
                print("versions", [v.step for v in run.versions])
        """
        (shared_tmp / "program.py").write_text(textwrap.dedent(text))
        launcher = ("OMPI_", "PMIX_", "PRTE_", "PMI_")
        own = {k: v for k, v in os.environ.items() if not k.startswith(launcher) or "ALLOW_RUN_AS_ROOT" in k}
        own |= {"PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1"}
        mpirun = find_mpirun()
        assert mpirun is not None
        found = subprocess.run(
            [*command(mpirun, 2)[:-3], sys.executable, "program.py"],
            cwd=shared_tmp, env=own, capture_output=True, text=True, timeout=50, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        told = found.returncode, found.stdout, found.stderr
    status, out, err = comm.bcast(told)
    assert status == 0, err
    assert "versions [6, 6, 4, 2]" in out
    assert err.count("was not initialised with THREAD_MULTIPLE") == 1


def test_other_threads_overwrite_meanwhile(comm, shared_tmp, slow):
    slow(0.02)
    run = reopen(comm, shared_tmp, keep=KEEP, incremental="blocks")
    u = run.protect("u", filled(comm))
    run.ready()
    for k in range(1, 4):
        before = u.copy()
        handle = run.checkpoint(wait=False)
        thread = threading.Thread(target=u.__setitem__, args=(slice(k * MiB, None), k))
        thread.start()
        thread.join()
        handle.wait()
        assert np.array_equal(run.load("u", handle.version), before)
    run.complete()
    run.close()
