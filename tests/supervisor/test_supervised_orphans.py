"""What a killed supervisor leaves of its program: it runs on, is taken over whole by the next start, and waits for nobody."""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from programs import Job, at_version, catalog, newest, until

from holdfast.catalog.attempts import EXECUTION

PROGRAM = """
import os, pathlib, sys, time
import numpy as np, holdfast
folder = pathlib.Path("seen")
folder.mkdir(exist_ok=True)
(folder / f"{os.environ['_HOLDFAST_EXECUTION']}-{os.getpid()}").touch()
def main(run):
    comm = run.comm
    u = run.protect("u", np.ones(16) + comm.rank)
    with open("steps", "a") as f:
        for step in run.steps(int(sys.argv[1]), every=holdfast.steps(10)):
            u += comm.allreduce(float(u[0])) * 1e-3
            if os.path.exists("leave"):
                os._exit(3)
            time.sleep(0.01)
            f.write(f"{time.monotonic()} {os.environ['_HOLDFAST_EXECUTION']}\\n")
            f.flush()
holdfast.launch(main, "run")
"""


@pytest.fixture
def start(supervise: Callable[..., Job], tmp_path: Path) -> Callable[[int], Job]:
    (tmp_path / "program.py").write_text(PROGRAM)
    words = ["-n", 2, "--spares", 1, "--grace", 2, "--", sys.executable, "program.py"]
    return lambda steps: supervise(*words, steps)


def members(execution: str | None) -> set[int]:
    """The living processes of a start of the program: launcher, ranks and spares."""
    mark, found = f"{EXECUTION}={execution}".encode(), set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if mark in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                found.add(int(name))
        except OSError:
            continue
    return found


def test_a_launcher_that_notices_nothing_goes_with_the_ranks_that_are_taken_over(
    start: Callable[[int], Job], tmp_path: Path
) -> None:
    job = start(100_000)
    first = until(lambda: at_version(tmp_path / "run", 2), 60.0, job)
    job.signal(signal.SIGKILL)
    job.end()
    left = members(first.execution)  # type: ignore[attr-defined]
    assert len(left) == 4
    ranks = {int(name.split("-")[1]) for name in os.listdir(tmp_path / "seen")}
    os.kill((left - ranks).pop(), signal.SIGSTOP)
    again = start(100)
    assert again.end() == 0, again.err
    assert not members(first.execution)  # type: ignore[attr-defined]
    assert "of an earlier start, whose supervisor is dead" in again.err
    last = newest(tmp_path / "run")
    assert last is not None and last.number == 2 and last.end is not None and last.end.outcome == "complete"


def test_a_spare_does_not_wait_for_ranks_that_have_gone_without_a_word(start: Callable[[int], Job], tmp_path: Path) -> None:
    """Nobody is left to end it: it sees by itself that there is nobody to wait for, and the launcher leaves with it."""
    job = start(100_000)
    first = until(lambda: at_version(tmp_path / "run", 2), 60.0, job)
    job.signal(signal.SIGKILL)
    job.end()
    (tmp_path / "leave").touch()
    until(lambda: not members(first.execution), 30.0)  # type: ignore[attr-defined]


def test_supervisors_killed_at_any_time(start: Callable[[int], Job], tmp_path: Path) -> None:
    """Never do two starts compute on the run at once, and nothing of any is left."""
    chance = random.Random(11)
    for _ in range(2):
        job = start(100)
        time.sleep(chance.uniform(0.1, 2.5))
        job.signal(signal.SIGKILL)
        job.end()
    last = start(100)
    assert last.end() == 0, last.err
    spans: dict[str, list[float]] = {}
    for line in (tmp_path / "steps").read_text().splitlines():
        at, execution = line.split()
        spans.setdefault(execution, []).append(float(at))
    ordered = sorted((min(times), max(times)) for times in spans.values())
    assert all(before[1] < after[0] for before, after in itertools.pairwise(ordered))
    found = catalog(tmp_path / "run")
    assert found is not None and found.complete
    names = {name.split("-")[0] for name in os.listdir(tmp_path / "seen")}
    until(lambda: not any(members(name) for name in names), 10.0)
