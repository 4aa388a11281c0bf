"""Ranks that are lost are replaced by spares while the job goes on; where that is no use, it is started again or given up."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from programs import Job, at_version, catalog, newest, until

STEPS, RANKS = 300, 3


# Dies, fails or goes on as `faults` says: {"rank:step": [...]}, of which each entry serves once, in order.
PROGRAM = """
import json, os, pathlib, signal, sys, time
import numpy as np, holdfast
folder, faults, steps = pathlib.Path("done"), json.loads(sys.argv[1]), int(sys.argv[2])
folder.mkdir(exist_ok=True)
def once(name):
    try:
        (folder / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
def fail(rank, step):
    for i, what in enumerate(faults.get(f"{rank}:{step}", [])):
        if what == "always" or once(f"{rank}-{step}-{i}"):
            if what in ("die", "always"):
                os.kill(os.getpid(), signal.SIGKILL)
            if what == "leave":
                os._exit(3)
            if what == "segv":
                signal.signal(signal.SIGSEGV, signal.SIG_DFL)
                os.kill(os.getpid(), signal.SIGSEGV)
            raise ValueError(what)
def main(run):
    comm = run.comm
    if run.repairs:
        print("health", run.repairs, json.dumps([(e.kind, e.rank, e.at) for e in run.health]), flush=True)
    part = comm.Split(comm.rank % 2)
    u = run.protect("u", np.ones(16) + comm.rank)
    for step in run.steps(steps, every=holdfast.steps(20)):
        fail(comm.rank, step)
        u += comm.allreduce(float(u[0])) * 1e-3 + part.size
        part.Barrier()
        time.sleep(0.002)
    total = comm.allreduce(u.sum())
    if comm.rank == 0:
        print("result", float(total).hex(), "repairs", run.repairs, flush=True)
    return "value"
assert holdfast.launch(main, "run") == "value"
print("after launch", flush=True)
"""


@pytest.fixture(scope="module")
def undisturbed() -> str:
    fields = [np.ones(16) + rank for rank in range(RANKS)]
    sizes = [2, 1, 2]
    for _ in range(STEPS):
        total = fields[0][0] + fields[1][0] + fields[2][0]
        for u, size in zip(fields, sizes, strict=True):
            u += float(total) * 1e-3 + size
    return float(fields[0].sum() + fields[1].sum() + fields[2].sum()).hex()


@pytest.fixture
def start(supervise: Callable[..., Job], tmp_path: Path) -> Callable[..., Job]:
    (tmp_path / "program.py").write_text(PROGRAM)

    def begin(faults: dict[str, list[str]], *options: object, spares: int = 2, steps: int = STEPS) -> Job:
        words = [sys.executable, "program.py", json.dumps(faults), steps]
        return supervise("-n", RANKS, "--spares", spares, *options, "--", *words)

    return begin


def repairs(job: Job) -> int:
    return int(job.result.split()[3])


def attempts(tmp_path: Path) -> list[Any]:
    found = catalog(tmp_path / "run")
    assert found is not None
    return list(found.attempts)


def test_ranks_are_replaced_one_after_the_other(start: Callable[..., Job], tmp_path: Path, undisturbed: str) -> None:
    """Rank 0 too, and one that a spare had taken, and that leaves by itself; each execution goes on from the newest version, as
    an attempt of its own."""
    job = start({"1:70": ["die"], "0:130": ["segv"], "1:210": ["leave"]}, spares=3)
    assert job.end() == 0, job.err
    assert job.result.split()[1] == undisturbed
    assert repairs(job) == 3, job.err
    assert re.search(r"3 repairs in place, (?!0 ms)[\d.]+ m?s of work lost", job.err), job.err
    assert job.out.count("after launch") == RANKS  # and of no spare
    assert "restart" not in job.err, job.err
    assert len(attempts(tmp_path)) == 4, job.err
    for times, gone in (1, [1]), (2, [1, 0]), (3, [1, 0, 1]):  # who has taken a lost rank's place knows what the others do
        told = re.findall(rf"^health {times} (.*)$", job.out, re.MULTILINE)
        assert len(told) == RANKS and len(set(told)) == 1, told
        assert [(kind, rank) for kind, rank, _ in json.loads(told[0])] == [("died", rank) for rank in gone]
    assert [a.base.version is not None for a in attempts(tmp_path)] == [False, True, True, True]
    assert not any(p.alive for a in attempts(tmp_path) for p in a.processes)


def test_what_main_was_given_and_has_changed_is_no_beginning(
    start: Callable[..., Job], tmp_path: Path, undisturbed: str
) -> None:
    """Before there is a version `main` begins anew, which only fresh processes do right where the state is not made by it."""
    inside = "u = run.protect(\"u\", np.ones(16) + comm.rank)"
    assert inside in PROGRAM
    given = PROGRAM.replace(inside, "given[:] += 0 if made else comm.rank; made.append(1); u = run.protect(\"u\", given)")
    (tmp_path / "program.py").write_text(given.replace("def main(run):", "given, made = np.ones(16), []\ndef main(run):"))
    job = start({"1:10": ["die"], "2:150": ["die"]})
    assert job.end() == 0, job.err
    assert job.result.split()[1] == undisturbed
    assert "'u' is not what it was at first" in job.err, job.err
    assert "1 restart" in job.err and repairs(job) == 1, job.err  # with a version it is repaired in place


def test_what_main_fills_behind_protect_is_a_beginning(
    start: Callable[..., Job], tmp_path: Path, undisturbed: str
) -> None:
    filled = "u = run.protect(\"u\", np.full(16, float(time.time()))); run.resumed or u.fill(1 + comm.rank)"
    (tmp_path / "program.py").write_text(PROGRAM.replace("u = run.protect(\"u\", np.ones(16) + comm.rank)", filled))
    job = start({"1:10": ["die"]})
    assert job.end() == 0, job.err
    assert job.result.split()[1] == undisturbed
    assert "restart" not in job.err and repairs(job) == 1, job.err


def test_what_main_makes_itself_is_a_beginning(start: Callable[..., Job], undisturbed: str) -> None:
    job = start({"1:10": ["die"]})
    assert job.end() == 0, job.err
    assert job.result.split()[1] == undisturbed
    assert "restart" not in job.err and repairs(job) == 1, job.err


def test_a_signal_that_no_head_has_heeded_when_a_rank_dies_leads_to_a_last_checkpoint(
    start: Callable[..., Job], tmp_path: Path
) -> None:
    slow = PROGRAM.replace("time.sleep(0.002)", "time.sleep(0.5)")
    (tmp_path / "program.py").write_text(slow.replace("every=holdfast.steps(20)", "every=holdfast.steps(2)"))
    job = start({}, "--grace", 30)
    before = until(lambda: at_version(tmp_path / "run", 2), 90.0, job)
    job.signal(signal.SIGTERM)
    until(lambda: "asks for a last checkpoint" in job._read(), 30.0, job)
    os.kill(before.processes[1].pid, signal.SIGKILL)
    assert job.end() == 85, job.err
    assert "rank 1 replaced" in job.err, job.err
    end = attempts(tmp_path)[-1].end
    assert (end.outcome, end.signal) == ("interrupted", "SIGTERM") and end.version > 2, end


def test_more_are_lost_than_there_are_spares(start: Callable[..., Job], tmp_path: Path, undisturbed: str) -> None:
    job = start({"1:70": ["die"], "2:70": ["die"], "0:150": ["die"]}, spares=2)
    assert job.end() == 0, job.err
    assert job.result.split()[1] == undisturbed
    assert "starts again" in job.err or job.err.count("holdfast: starts ") == 2
    assert len(attempts(tmp_path)) >= 3


def test_a_failure_of_the_program_s_own_is_not_repaired(start: Callable[..., Job], tmp_path: Path) -> None:
    """One rank raises, all others live: all of them hear of it, and no spare is used for it."""
    job = start({"2:50": ["bad value"]}, "--max-restarts", 0)
    assert job.end() == 89, job.err
    assert job.err.count("ValueError: bad value") >= RANKS
    assert "repaired in" not in job.err, job.err
    end = newest(tmp_path / "run").end  # type: ignore[union-attr]
    assert end.outcome == "failed" and end.error == "rank 2: ValueError: bad value"


def test_what_comes_again_is_the_program_s_own(start: Callable[..., Job]) -> None:
    """A rank that dies at the same step after a repair: the job is not repaired for ever."""
    job = start({"1:50": ["always"]}, "--max-restarts", 0, spares=3)
    assert job.end() == 89, job.err
    assert "Ranks were lost 2 times in a row at step" in job.err


def test_a_request_after_a_repair(start: Callable[..., Job], tmp_path: Path) -> None:
    """A last checkpoint, by the ranks that there are now, and out; the same command goes on."""
    job = start({"1:40": ["die"]}, steps=100_000)
    until(lambda: newest(tmp_path / "run") and newest(tmp_path / "run").number > 1, 60.0, job)  # type: ignore[union-attr]
    first = until(lambda: at_version(tmp_path / "run", 6), 60.0, job)
    job.signal(signal.SIGTERM)
    assert job.end() == 85, job.err
    last = newest(tmp_path / "run")
    assert last is not None and last.number == first.number and last.end.outcome == "interrupted"  # type: ignore[attr-defined]
    assert job.err.count("repaired in") == 1, job.err


def test_a_process_that_dies_before_mpi_is_up(supervise: Callable[..., Job], tmp_path: Path) -> None:
    """The others wait in MPI's start, for ever: the job is ended and started again."""
    (tmp_path / "program.py").write_text(
        "import os, signal, time\n"
        "if os.environ['OMPI_COMM_WORLD_RANK'] == '1' and not os.path.exists('died'):\n"
        "    open('died', 'w').close()\n"
        "    time.sleep(1)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "import holdfast\n"
        "holdfast.launch(lambda run: run.ready(), 'run')\n"
    )
    job = supervise("-n", 2, "--spares", 1, "--", sys.executable, "program.py")
    assert job.end() == 0, job.err
    assert "died before the run was opened" in job.err
    assert job.err.count("holdfast: starts ") == 2


def test_a_spare_that_is_stopped_does_not_hold_up_the_end(supervise: Callable[..., Job], tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "import os, signal, holdfast\n"
        "def main(run):\n"
        "    run.ready()\n"
        "    if run.comm.rank == 0:\n"
        "        while not os.path.exists('spare'): pass\n"
        "        os.kill(int(open('spare').read()), signal.SIGSTOP)\n"
        "if os.environ['OMPI_COMM_WORLD_RANK'] == '2':\n"
        "    with open('new', 'w') as f: f.write(str(os.getpid()))\n"
        "    os.rename('new', 'spare')\n"
        "holdfast.launch(main, 'run')\n"
    )
    job = supervise("-n", 2, "--spares", 1, "--", sys.executable, "program.py")
    assert job.end() == 0, job.err


def test_a_program_that_opens_its_run_itself(supervise: Callable[..., Job], tmp_path: Path) -> None:
    """Spares are no use to it: it is told so at once, before it computes with processes that are none of its ranks."""
    (tmp_path / "program.py").write_text(
        "import holdfast\nfrom mpi4py import MPI\nholdfast.open('run', comm=MPI.COMM_WORLD)\n"
    )
    job = supervise("-n", 2, "--spares", 1, "--max-restarts", 0, "--", sys.executable, "program.py")
    assert job.end() != 0
    assert "only holdfast.launch can put in the place" in job.err
    assert not os.path.exists(tmp_path / "run")
