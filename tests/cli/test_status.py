"""`status`: a run that is complete, one that runs, one that died; what is to be done, and that nothing is changed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import holdfast
from holdfast.catalog import Attempt, current
from holdfast.cli import ranks, standing
from holdfast.cli.outcomes import Outcome
from holdfast.cli.status import show
from holdfast.health.layout import Slot
from holdfast.health.phases import CHECKPOINT, COMPUTING, LEFT
from holdfast.health.processes import this_process


def contents(run: str) -> dict[str, float]:
    return {str(p): p.stat().st_mtime for p in Path(run).rglob("*")}


def test_a_complete_run(run, invoke, document):
    before = contents(run)
    found = document("status", run)
    assert (found["state"], found["repairs"], found["restarts"], found["needs"]) == ("complete", 0, 0, [])
    assert (found["newest"]["version"], found["newest"]["step"], found["newest"]["levels"]) == (4, 3, ["global"])
    assert found["levels"]["global"] == found["newest"]
    assert (found["restore"]["version"], found["ranks"], found["spares"], found["health"]) == (4, None, None, [])
    assert found["attempt"]["hosts"] == [os.uname().nodename] and abs(found["attempt"]["since"] - time.time()) < 60
    lines = invoke("status", run).stdout.splitlines()
    assert lines[0] == "heat: complete, at version 4 (step 3)"
    assert lines[-1].split(None, 2)[2] == "nothing: nobody has to do anything"
    assert contents(run) == before
    assert len(invoke("status", run, "--watch", "1h30m").stdout.splitlines()) == len(lines), "once: it is complete"


def test_records_that_can_not_be_read(run, invoke, document):
    Path(run, "attempts/000001.json").write_text("x")
    found = document("status", run)
    assert (found["state"], found["attempt"]) == ("complete", {**found["attempt"], "since": None, "ranks": None, "hosts": []})
    assert "holdfast verify heat" in found["needs"][0]
    assert invoke("status", run).stdout.splitlines()[1] == "  attempt  1, of which the records can't be read"


def test_a_run_that_runs(tmp_path, monkeypatch, document, invoke):
    monkeypatch.chdir(tmp_path)
    with holdfast.open("run", stall_timeout="1h") as run:
        u = run.protect("u", np.zeros(3))
        assert document("status", "run")["state"] == "starting"
        for step in run.steps(5, every=holdfast.steps(2)):
            u += 1
            if step == 3:
                run._x.arrive()
                found = document("status", "run")
                said = invoke("status", "run").stdout.splitlines()
    assert (found["state"], found["newest"]["version"], found["restore"]["version"]) == ("running", 1, 1)
    assert (found["ranks"]["first"], found["ranks"]["phases"]) == (3, {"computing": 1})
    assert found["spares"] == {"started": 0, "left": 0}
    assert found["needs"] == [] and "lives here" in found["holder"]
    assert said[0] == "run: running, in step 3"


def test_a_run_that_died(tmp_path, monkeypatch, document, invoke):
    monkeypatch.chdir(tmp_path)
    text = (
        "import os, signal, numpy as np, holdfast\n"
        "run = holdfast.open('run', levels=[holdfast.memory(), holdfast.global_(every=holdfast.versions(100))])\n"
        "u = run.protect('u', np.zeros(1000))\n"
        "for step in run.steps(5, every=holdfast.steps(1)):\n"
        "    u += 1\n"
        "    if step == 3:\n"
        "        run._x.arrive()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    memory = tmp_path / "memory"
    memory.mkdir()
    monkeypatch.setenv("HOLDFAST_NODE_MEMORY", str(memory))
    environment = {**os.environ, "PYTHONPATH": str(Path(holdfast.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", text], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    found = document("status", "run")
    assert (found["state"], found["others"], found["restore"]["version"]) == ("died", False, 3)
    assert found["levels"]["memory"]["version"] == 3 and found["levels"]["global"] is None
    assert [e["text"] for e in found["health"]] == ["the last sign of it, before it died"]
    assert "holdfast salvage run" in found["needs"][0] and "goes on from version 3" in found["needs"][1]
    lines = invoke("status", "run").stdout.splitlines()
    assert lines[0] == "run: died, at version 3 (step 3)"
    assert lines[4].split() == ["global", "nothing"]
    shutil.rmtree(memory)
    found = document("status", "run")
    assert (found["others"], found["newest"], found["restore"]["version"]) == (True, None, None)


@pytest.mark.parametrize("time", ["1x", "0", "-1s"])
def test_what_is_no_time_is_wrong_usage(time, tmp_path, invoke):
    assert invoke("status", tmp_path, "--watch", time).exit_code == 2


def test_no_run(tmp_path, invoke):
    assert invoke("status", tmp_path / "nowhere").exit_code == 1


def test_a_look_that_fails_is_told_and_the_next_one_comes(run, invoke, monkeypatch):
    found = standing.standing(run)
    looks = iter([{**found, "state": "running"}, holdfast.StorageError("It hangs."), found])

    def look(url):
        one = next(looks)
        if isinstance(one, Exception):
            raise one
        return one

    monkeypatch.setattr(standing, "standing", look)
    done = invoke("status", run, "--watch", "0.01", "--json")
    assert [json.loads(line)["state"] for line in done.stdout.splitlines()] == ["running", "running", "complete"]
    assert done.stderr == "holdfast: It hangs.\n"


def slot(rank: int, pid: int, start: int, phase: int = COMPUTING, step: int = 7) -> Slot:
    zeros = Slot._make([0] * len(Slot._fields))
    moved = time.monotonic_ns() - 2_000_000_000
    return zeros._replace(pid=pid, start=start, rank=rank, phase=phase, progress_at=moved, step=step)


def test_what_the_ranks_of_this_node_do():
    pid, start = this_process()
    mine = [slot(0, pid, start), slot(1, pid, start, CHECKPOINT, 9), slot(2, pid, start + 1), slot(3, pid, start, LEFT)]
    found = ranks.summary(mine)
    assert found is not None
    assert (found.ranks, found.first, found.last, found.dead, found.stopped) == (3, 7, 9, (2,), ())
    assert found.phases == {"computing": 1, "checkpoint": 1} and 2 <= found.idle < 30
    assert ranks.summary([slot(0, pid, start, LEFT)]) is None
    assert ranks.ranks_here("0" * 32, 1) is None


@pytest.mark.parametrize("left", [0, 1])
def test_what_people_read(run, left, capsys):
    found = standing.standing(run)
    found |= {"state": "running", "restarts": 2, "repairs": 1, "spares": {"started": 2, "left": left}, "others": True}
    found |= {"ranks": {"ranks": 2, "first": 7, "last": 9, "phases": {"computing": 1}, "idle": 3.0, "dead": [1], "stopped": []}}
    found["health"] = [{"time": found["newest"]["time"] - 60, "attempt": 1, "text": "rank 1 replaced, attempt 2 went on"}]
    show("heat", found, found["newest"]["time"] + 60)
    said = capsys.readouterr().out
    for line in (
        "heat: running, in steps 7 to 9",
        f"; 2 restarts; 1 repair; {left} of 2 spares left",
        "  ranks    2 of this node: 1 computing, rank 1 dead; the slowest moved 3.0 s ago",
        "  newest   version 4 (step 3), 1 min 0 s ago, in global",
        "  restore  version 4 (step 3), by what this node knows",
        "  health   2 min 0 s ago: attempt 1: rank 1 replaced, attempt 2 went on",
    ):
        assert line in said, said


def test_spares_that_are_left_are_those_that_live():
    """A spare may be lost that no rank needed, which only the board of its node tells."""
    here, away = current(), replace(current(), boot="another", host="other")
    board = ranks.Ranks(2, 1, 1, {"computing": 2}, 0.1, (), (), spares=1)
    taken = [Outcome("repaired", (1,))]
    assert standing._spares_left(Attempt(2, processes=(here, here)), board, 3, taken) == 1
    assert standing._spares_left(Attempt(2, processes=(here, away)), board, 3, taken) == 2  # by what records tell
    assert standing._spares_left(Attempt(2, processes=(here, here)), None, 3, taken) == 2
