"""Programs on several ranks under `holdfast run -n`: a rank dies, mpirun dies, the supervisor dies, a signal comes."""

from __future__ import annotations

import os
import signal
import sys

import numpy as np
import pytest
from programs import at_version, catalog, newest, until


@pytest.fixture(scope="module")
def undisturbed():
    """What 60 steps of the parallel program give on 2 ranks."""
    fields = [np.ones(16), np.ones(16) + 1]
    for _ in range(60):
        total = float(fields[0][0]) + float(fields[1][0])
        for u in fields:
            u += total * 1e-3
    return f"result {float(fields[0].sum() + fields[1].sum()).hex()}"


def launcher_of(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as f:
        return int(f.read().rsplit(")", 1)[1].split()[1])


def test_a_rank_and_then_mpirun_are_killed(supervise, parallel, tmp_path, undisturbed):
    run = tmp_path / "run"
    job = supervise("-n", 2, "--grace", 10, "--", *parallel, "run", 60, 0.02)
    first = until(lambda: at_version(run, 2), 90.0, job)
    assert len(first.processes) == 2
    os.kill(first.processes[1].pid, signal.SIGKILL)
    until(lambda: newest(run).number > first.number, 90.0, job)
    second = until(lambda: at_version(run, 4), 90.0, job)
    os.kill(launcher_of(second.processes[0].pid), signal.SIGKILL)
    assert job.end() == 0, job.err
    assert job.result == undisturbed
    assert f"rank 1 (process {first.processes[1].pid}) died first, mpirun reports SIGKILL" in job.err
    assert job.err.count("resumes from version") == 2
    assert not any(p.alive for a in catalog(run).attempts for p in a.processes)


def test_a_signal_and_then_an_orphan(supervise, parallel, tmp_path, undisturbed):
    run = tmp_path / "run"
    job = supervise("-n", 2, "--", *parallel, "run", 60, 0.03)
    until(lambda: at_version(run, 2), 90.0, job)
    job.signal(signal.SIGUSR1)
    assert job.end() == 85, job.err
    assert newest(run).end.outcome == "interrupted"
    interrupted = newest(run).end.version
    again = supervise("-n", 2, "--", *parallel, "run", 60, 0.2)
    orphan = until(lambda: newest(run).number > 1 and at_version(run, interrupted + 1), 90.0, again)
    again.signal(signal.SIGKILL)
    again.end()
    assert all(p.alive for p in orphan.processes)
    last = supervise("-n", 2, "--", *parallel, "run", 60, 0)
    assert last.end() == 0, last.err
    assert last.result == undisturbed
    assert not any(p.alive for p in orphan.processes)
    outcomes = [a.end.outcome for a in catalog(run).attempts]
    # An MPI that does not come up on a busy machine is started again, and that is another attempt.
    assert outcomes[0] == "interrupted" and outcomes[-2:] == ["interrupted", "complete"]


TWO = """
import os, pathlib, signal, sys
import numpy as np, holdfast
from mpi4py import MPI
comm = MPI.COMM_WORLD
def main(run):
    u = run.protect("u", np.zeros(4))
    for step in run.steps(6, every=holdfast.steps(2)):
        u += comm.allreduce(1)
    return float(u[0])
first = holdfast.launch(main, "a", comm=comm)
died = pathlib.Path("died")
comm.Barrier()  # rank 0 has put on record that it is complete
if comm.rank == 1 and not died.exists():
    died.touch()
    os.kill(os.getpid(), signal.SIGKILL)
second = holdfast.launch(main, "b", comm=comm)
if comm.rank == 0:
    print("result", first, second, flush=True)
"""


def test_a_rank_that_is_killed_behind_a_complete_run_takes_nothing_that_comes_after_it(supervise, tmp_path):
    (tmp_path / "two.py").write_text(TWO)
    job = supervise("-n", 2, "--", sys.executable, "two.py")
    assert job.end() == 0, job.err
    assert job.result == "result 12.0 12.0"
    assert "mpirun reports SIGKILL" in job.err and "1 restart" in job.err, job.err


@pytest.mark.parametrize(("spares", "rank"), [(0, 1), (1, 1), (1, 0)])
def test_a_run_whose_directory_is_gone_is_not_begun_anew(supervise, parallel, tmp_path, spares, rank):
    """As where what was mounted there is not any more: then it is elsewhere, and whole."""
    run = tmp_path / "run"
    words = ["-n", 2, "--spares", spares] if spares else ["-n", 2]
    job = supervise(*words, "--", *parallel, "run", 100_000, 0.01)
    before = until(lambda: at_version(run, 2), 90.0, job)
    run.rename(tmp_path / "away")
    run.mkdir()
    os.kill(before.processes[rank].pid, signal.SIGKILL)
    assert job.end() == 1, job.err
    assert "attempt 1, which this program has begun there, is not in run" in job.err, job.err
    assert job.err.count("starts ") == 1, job.err
    assert catalog(tmp_path / "away").lineage


def test_out_of_time_all_ranks_leave_at_one_step(supervise, parallel, tmp_path, monkeypatch):
    monkeypatch.setenv("HOLDFAST_TIME_LIMIT", "4 s")  # from the first loop on, however long MPI takes to start
    job = supervise("-n", 2, "--", *parallel, "run", 100_000, 0.01)
    assert job.end() == 85, job.err
    found = catalog(tmp_path / "run")
    end = found.attempts[-1].end
    assert (end.outcome, end.signal, end.version) == ("interrupted", "time limit", found.lineage[0].number)
    assert "interrupted by the time limit. Safe: version" in job.err


def test_lines_bear_their_rank_on_request(supervise):
    job = supervise("-n", 2, "--prefix", "--", "sh", "-c", "echo hello")
    assert job.end() == 0, job.err
    lines = job.out.splitlines()
    assert len(lines) == 2
    assert sorted("1" in line.split("hello")[0].split(",")[-1] for line in lines) == [False, True]
