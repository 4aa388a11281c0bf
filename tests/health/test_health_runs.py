"""Runs whose ranks hang or are stopped: found out, ended, replaced in place or started again; and runs that simply end."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast import ConfigError
from holdfast.config import load

SOURCE = Path(__file__).parents[2] / "src"
MPIRUN = Path(sys.executable).with_name("mpirun")
CLI = [sys.executable, "-m", "holdfast.cli", "run"]

# Rank 2 hangs once while the others wait for it in calls of MPI, rank 3 at the same step for requests; after the repair rank 1
# is stopped.
HANGS = """
import os, signal, sys, time
import numpy as np, holdfast
from mpi4py import MPI
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
def main(run):
    comm = run.comm.Dup()
    run.on_health(lambda event: say("hook", comm.rank, event.kind, event.rank))
    u = run.protect("u", np.ones(16) + comm.rank)
    if run.repairs:
        say("again", run.repairs, comm.rank, time.time(), *[f"{e.kind}-{e.rank}" for e in run.health])
    for step in run.steps(30, every=holdfast.steps(2)):
        if step % 2:
            u += comm.allreduce(float(u[0])) * 1e-3
        if step == 10 and comm.rank == 2 and run.repairs == 0:
            say("hangs", time.time())
            time.sleep(600)
        got = np.empty(1)
        MPI.Request.Waitall([comm.Irecv(got, comm.rank - 1 & 3), comm.Isend(u[:1].copy(), comm.rank + 1 & 3)])
        u += got * 1e-3
        if step == 20 and comm.rank == 1 and run.repairs == 1:
            say("stops", time.time())
            os.kill(os.getpid(), signal.SIGSTOP)
    total = comm.allreduce(u.sum())
    if comm.rank == 0:
        say("result", float(total).hex(), step)
holdfast.launch(main, "run", stall_timeout=2)
"""

SERIAL = """
import os, time
import numpy as np, holdfast
with holdfast.open("run", stall_timeout=0.6) as run:
    u = run.protect("u", np.zeros(4))
    for step in run.steps(6, every=holdfast.steps(1)):
        u += step
        if step == 3 and run.attempt == 1:
            time.sleep(600)
print("result", u[0], run.attempt, flush=True)
"""

# Nobody closes the run, one forgets it; ranks leave at different times.
ENDS = """
import gc, time
import numpy as np, holdfast
from mpi4py import MPI
run = holdfast.open("run", comm=MPI.COMM_WORLD)
run.on_health(lambda event: print("hook", event, flush=True))
u = run.protect("u", np.zeros(4))
for step in run.steps(3):
    u += 1
MPI.COMM_WORLD.Barrier()
if MPI.COMM_WORLD.rank == 1:
    del u, run
    gc.collect()
    time.sleep(0.4)
"""


def start(tmp_path: Path, node: Path, text: str, *words: str) -> subprocess.CompletedProcess[str]:
    """The program under `words`, the node's memory being `node`."""
    (tmp_path / "program.py").write_text(text)
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    env = {**os.environ, **allowed, "PYTHONPATH": str(SOURCE), "HOLDFAST_NODE_MEMORY": str(node)}
    command = [*words, sys.executable, "program.py"]
    return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=90)


def boards(node: Path) -> list[str]:
    return sorted(str(path) for path in (node / f"holdfast-{os.geteuid()}").rglob("boards*"))


def lines(output: str, word: str) -> list[list[str]]:
    return [line.split()[1:] for line in output.splitlines() if line.startswith(f"{word} ")]


def test_a_rank_that_hangs_and_one_that_is_stopped_are_replaced_in_place(tmp_path: Path, node: Path) -> None:
    done = start(tmp_path, node, HANGS, *CLI, "-n", "4", "--spares", "2")
    told = f"{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, told
    assert [words[1] for words in lines(done.stdout, "result")] == ["29"], told

    again = lines(done.stdout, "again")
    assert [(words[0], words[1]) for words in sorted(again)] == [(str(n), str(r)) for n in (1, 2) for r in range(4)], told
    at = {n: max(float(words[2]) for words in again if words[0] == n) for n in "12"}
    assert 2.0 < at["1"] - float(lines(done.stdout, "hangs")[0][0]) < 3.0 + 0.5, told  # detected, and repaired
    assert 2.0 < at["2"] - float(lines(done.stdout, "stops")[0][0]) < 2.3 + 1.0, told

    # Only those two, and all who survived know why, also after the repair.
    assert {tuple(w[1:]) for w in lines(done.stdout, "hook")} <= {
        ("stalled", "2"), ("died", "2"), ("stopped", "1"), ("died", "1")
    }, told  # fmt: skip
    assert {w[0] for w in lines(done.stdout, "hook") if w[1:] == ["stalled", "2"]} >= {"0", "1", "3"}, told
    assert all("stalled-2" in words for words in again if words[:2] in (["1", "0"], ["1", "1"], ["1", "3"])), told

    # Told once for all ranks, with where it hung.
    assert len(re.findall("Rank 2 on .* makes no progress", done.stderr)) == 1, told
    assert len(re.findall("Rank 1 on .* is stopped", done.stderr)) == 1, told
    assert re.search(r'program\.py", line \d+ in main', done.stderr), told
    assert boards(node) == [], "boards of attempts that are over"


def test_a_serial_program_that_hangs_is_started_again(tmp_path: Path, node: Path) -> None:
    done = start(tmp_path, node, SERIAL, *CLI)
    told = f"{done.stdout}\n{done.stderr}"
    assert (done.returncode, lines(done.stdout, "result")) == (0, [["15.0", "2"]]), told
    assert len(re.findall("Rank 0 on .* makes no progress: .* since step 3", done.stderr)) == 1, told
    assert re.search(r"attempt 1 of run died after .*: rank 0 was ended: it makes no progress: .*SIGKILL", done.stderr), told
    assert re.search(r'program\.py", line 9 in <module>', done.stderr), told
    assert boards(node) == []


def test_ranks_that_end_are_not_reported_as_dead(tmp_path: Path, node: Path) -> None:
    done = start(tmp_path, node, ENDS, str(MPIRUN), "--oversubscribe", "-n", "2")
    told = f"{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, told
    assert "hook" not in done.stdout and "has died" not in told, told
    assert boards(node) == [], "a run that nobody closed is left at the program's end"


@pytest.mark.parametrize("word", ["off", "2", "90s", "0.5"])
def test_the_option_takes_durations(word: str) -> None:
    assert load({}, {"stall_timeout": word}).stall_timeout == {"off": None, "2": 2.0, "90s": 90.0, "0.5": 0.5}[word]


@pytest.mark.parametrize("word", ["never", "0", "-1", True])
def test_and_nothing_else(word: object) -> None:
    with pytest.raises(ConfigError, match="stall_timeout"):
        load({}, {"stall_timeout": word})
