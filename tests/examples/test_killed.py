"""Each example, killed by SIGKILL at random moments and started again until it is complete, leaves exactly the files
that it leaves undisturbed. Attacks invariants 1, 3, 4 and 6 of docs/failure-model.md through whole programs."""

from __future__ import annotations

import functools
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness import EXAMPLES, HOLDFAST, attempts, base_of, committed, kill, ranks_of, sealed, until

SERIAL = {
    "heat": ["--size=96", "--steps=160", "--every=8", "--out=out.npy", "--log=log.csv"],
    "digits": ["--steps=300", "--every=15", "--out=out.npz", "--log=log.csv"],
    "mcmc": ["--steps=200", "--every=10", "--out=out.json", "--chain=chain.f64"],
}
PAUSE = {"heat": "--pause=0.008", "digits": "--pause=0.005", "mcmc": "--pause=0.008"}


def command(name: str) -> list[str]:
    return [sys.executable, str(EXAMPLES / f"{name}.py"), "--run=run", *SERIAL[name]]


def files(directory: Path) -> dict[str, bytes]:
    """Everything that the program left outside its run."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """`calm(name)`: the files that the example leaves undisturbed, and alone; on ranks they must be the same."""

    @functools.cache
    def play(name: str) -> dict[str, bytes]:
        directory = tmp_path_factory.mktemp(name)
        done = subprocess.run(command(name), cwd=directory, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return files(directory)

    return play


@pytest.mark.parametrize("name", SERIAL)
def test_serial(name, start, calm, tmp_path):
    killed, run = tmp_path / "killed", tmp_path / "killed" / "run"
    again = [*command(name), PAUSE[name]]

    # 1: as it works, after its first versions
    job = start(again, killed)
    until("two versions", lambda: len(committed(run)) >= 2, job)
    time.sleep(random.uniform(0, 0.3))
    job.kill_all()
    assert job.process.returncode == -9, job.output()
    first = committed(run)

    # 2: at any moment of its start, from the interpreter's first instruction on
    job = start(again, killed)
    time.sleep(random.uniform(0, 1.5))
    job.kill_all()

    # 3: soon after a resume
    attempt = attempts(run)
    job = start(again, killed)
    until("a later attempt's base", lambda: attempts(run) > attempt and sealed(run, attempts(run)), job)
    assert base_of(run, attempts(run)) is not None
    time.sleep(random.uniform(0, 0.3))
    job.kill_all()

    job = start(again, killed)
    assert job.wait(60) == 0, job.output()
    assert base_of(run, attempts(run))["name"] >= max(first)  # none of what was durable was given up
    assert files(killed) == calm(name)
    assert len(files(killed)) == 2


@pytest.mark.parametrize("ranks, whom", [(4, "rank"), (2, "everything")])  # test_readme.py kills one rank of two
def test_heat_on_ranks(ranks, whom, start, calm, tmp_path):
    killed, run = tmp_path / "killed", tmp_path / "killed" / "run"
    again = [*HOLDFAST, "run", "-n", str(ranks), "--", *command("heat"), PAUSE["heat"]]

    job = start(again, killed)
    until("two versions", lambda: len(committed(run)) >= 2, job)
    time.sleep(random.uniform(0, 0.4))
    attempt, before = attempts(run), committed(run)
    if whom == "rank":
        assert kill(random.choice(ranks_of(run, attempt))), job.output()
    else:
        job.kill_all()
        job = start(again, killed)
    until("the resume", lambda: attempts(run) > attempt and sealed(run, attempts(run)), job)
    assert base_of(run, attempts(run))["name"] >= max(before)

    assert job.wait(60) == 0, job.output()
    assert files(killed) == calm("heat")
    assert set(files(killed)) == {"out.npy", "log.csv"}


def test_a_complete_run_started_again_changes_nothing(start, tmp_path):
    directory = tmp_path / "heat"
    assert start(command("heat"), directory).wait(60) == 0
    before, versions = files(directory), committed(directory / "run")
    job = start(command("heat"), directory)
    assert job.wait(60) == 0, job.output()
    assert files(directory) == before
    assert committed(directory / "run") == versions


def test_more_steps_go_on_from_where_the_run_was_complete(start, tmp_path):
    longer = [*command("heat"), "--steps=200"]
    assert start(longer, tmp_path / "at once").wait(60) == 0
    assert start(command("heat"), tmp_path / "in two").wait(60) == 0
    job = start(longer, tmp_path / "in two")
    assert job.wait(60) == 0, job.output()
    assert "resumes at step 160" in job.output()
    assert files(tmp_path / "in two") == files(tmp_path / "at once")
