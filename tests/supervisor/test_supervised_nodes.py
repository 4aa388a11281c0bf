"""Ranks on several nodes under `holdfast run --hostfile`: a node is lost, a spare takes its place, or none is left."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from programs import PARALLEL, at_version, catalog, newest, until
from standins import nodes

from holdfast.supervisor import Plan, execution, launcher, supervise

STEPS = 60
COUNT = "echo >> count\ncount=0\nwhile read -r line; do count=$((count + 1)); done < count\n"  # starts no process
PROGRAM = PARALLEL.replace(
    "    if comm.rank == 0:\n",
    "    import os, socket\n"
    '    where = comm.gather(os.environ.get("HOLDFAST_FAILURE_DOMAIN") or socket.gethostname())\n'
    "    if comm.rank == 0:\n"
    '        print("nodes", *where)\n',
)


def undisturbed(ranks: int) -> str:
    fields = [np.ones(16) + rank for rank in range(ranks)]
    for _ in range(STEPS):
        total = sum(float(u[0]) for u in fields)
        for u in fields:
            u += total * 1e-3
    return f"result {float(sum(u.sum() for u in fields)).hex()}"


@pytest.mark.parametrize(
    ("simulated", "count", "spares", "victim", "placed", "told"),
    [
        pytest.param(
            False, 4, 1, "node1", "node0 node3 node2", "node1 is lost: node3 takes its place (rank 1)", id="a spare"
        ),
        pytest.param(
            False,
            3,
            0,
            "node0",
            "node1 node1 node2",
            "node0 is lost and no spare is left",
            id="no spare, rank 0 is lost",
        ),
        pytest.param(True, 4, 1, "node0", "node3 node1 node2", "node0 is lost: node3 takes its place", id="simulated"),
    ],
)
def test_a_lost_node(tmp_path: Path, simulated, count, spares, victim, placed, told):
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "hosts").write_text("".join(f"node{i} slots=1\n" for i in range(count)))
    run = tmp_path / "run"
    options = ["-n", 3, "--hostfile", "hosts", "--spare-nodes", spares]
    with nodes(tmp_path, count, simulated) as standins:
        words = [sys.executable, "program.py", "run", STEPS, 0.05]
        # Every version in the run's store: where these looks find it.
        job = standins.run(*options, "--", *words, HOLDFAST_LEVELS="global")
        first = until(lambda: at_version(run, 2), 90.0, job)
        assert [name for name in os.listdir(tmp_path) if name.startswith(".holdfast-run-")]
        standins.cluster.kill(victim)
        second = until(lambda: newest(run).number > first.number and newest(run), 30.0, job)
        # It took the run at once: the lease of a holder on another host is 60 s.
        assert second.created - first.created < 45
        assert job.end(90.0) == 0, job.err
    assert job.result == undisturbed(3)
    assert f"nodes {placed}" in job.out.splitlines()
    assert told in job.err
    assert f"{victim} no longer answers" in job.err
    assert job.err.count("resumes from version") == 1
    attempts = catalog(run).attempts
    assert [a.end and a.end.outcome for a in attempts][-1] == "complete"
    assert len({a.execution for a in attempts}) == 2
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".holdfast-run-")]


@pytest.fixture
def mpirun(tmp_path, monkeypatch):
    """`mpirun(text)`: a launcher that does what this shell script says; `$count` is how often it was started."""

    def make(text: str) -> None:
        path = tmp_path / "mpirun"
        path.write_text(f"#!/bin/sh\ncd {tmp_path}\n{COUNT}{text}\n")
        path.chmod(0o755)
        monkeypatch.setattr(launcher, "find_mpi", lambda env_path: launcher.Mpi(str(path), "openmpi", 5, "Open MPI"))

    monkeypatch.chdir(tmp_path)
    return make


def starts(tmp_path: Path) -> int:
    return len((tmp_path / "count").read_text())


def test_a_launcher_that_fails_by_itself_is_started_once_more(mpirun, tmp_path, capfd):
    mpirun("test $count = 2 || exit 213")
    assert supervise(Plan(("true",), ranks=2)) == 0
    assert starts(tmp_path) == 2
    assert "the program died after" in capfd.readouterr().err
    mpirun("exit 213")
    assert supervise(Plan(("true",), ranks=2)) == 213
    assert starts(tmp_path) == 4


def test_a_launcher_that_starts_no_rank_is_started_once_more(mpirun, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(execution, "START", 0.5)
    mpirun("test $count = 2 || exec sleep 60")
    assert supervise(Plan(("true",), ranks=2)) == 0
    assert starts(tmp_path) == 2
    assert "mpirun has started no rank within 0.5 seconds" in capfd.readouterr().err


def test_what_a_killed_mpirun_of_the_same_process_id_left_does_no_harm(mpirun, tmp_path, monkeypatch, capfd):
    real = launcher.find_mpi(os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]]))
    if real.kind != "openmpi":
        return  # MPICH's keeps no such files
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", None)
    left = "$TMPDIR/ompi.$$"
    mpirun(f'mkdir {left} && echo stale > {left}/pmix.$(uname -n).tool.$$ && exec {real.path} "$@"')
    assert supervise(Plan(("true",), ranks=1)) == 0
    assert starts(tmp_path) == 1, capfd.readouterr().err
    assert [name[:5] for name in os.listdir(tmp_path / "tmp")] == ["ompi."]


def test_a_program_that_fails_is_not(mpirun, tmp_path):
    mpirun("exit 7")
    assert supervise(Plan(("true",), ranks=2)) == 7
    assert starts(tmp_path) == 1


def test_a_node_that_is_down_from_the_beginning(mpirun, tmp_path, monkeypatch, capfd):
    (tmp_path / "hosts").write_text("n0\nn1\nn2\n")
    agent = tmp_path / "agent"
    agent.write_text('#!/bin/sh\ntest "$1" != n1\n')
    agent.chmod(0o755)
    monkeypatch.setenv("PRTE_MCA_plm_ssh_agent", str(agent))
    mpirun('while [ "$1" != --hostfile ]; do shift; done; cp "$2" seen')
    assert supervise(Plan(("true",), ranks=2, hostfile="hosts", spares=1)) == 0
    assert (tmp_path / "seen").read_text() == "n0 slots=1\nn2 slots=1\n"
    assert "n1 is lost: n2 takes its place (rank 1)" in capfd.readouterr().err
    agent.write_text("#!/bin/sh\nexit 1\n")
    assert supervise(Plan(("true",), ranks=2, hostfile="hosts", spares=1)) == 0
    assert (tmp_path / "seen").read_text() == "n0 slots=1\nn1 slots=1\n"
    assert "lost nodes can't be told from others" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["-n", 3, "--hostfile", "hosts"], 1, "3 ranks do not fit into the 2 slots"),
        (["-n", 1, "--hostfile", "hosts", "--spare-nodes", 2], 1, "2 nodes of 2 can't be kept as spares"),
        (["-n", 1, "--hostfile", "nowhere"], 2, "'nowhere' does not exist"),
        (["-n", 1, "--spare-nodes", 1], 2, "--spare-nodes needs --hostfile"),
        (["--hostfile", "hosts"], 2, "--hostfile needs -n"),
        (["-n", 1, "--hostfile", "hosts", "--mpi-args", "--host n1"], 1, "Both --hostfile and --mpi-args"),
    ],
)
def test_what_can_not_be_asked(supervise, tmp_path, options, code, said):
    (tmp_path / "hosts").write_text("n0\nn1\n")
    job = supervise(*options, "--", "touch", "started")
    assert job.end() == code, job.err
    assert said in " ".join(job.err.split())
    assert not (tmp_path / "started").exists()
    assert "Traceback" not in job.err
