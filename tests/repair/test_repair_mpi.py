"""Repairs of real processes under mpirun: what is killed, who computes afterwards, and that nobody ever hangs.

A job costs seconds to start and tens of milliseconds to repair, so each test does several things to one. Statistics are made
by repair_figures.py.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from repair_job import Job, environment, mpirun
from repair_leaver import WAYS

from holdfast.errors import EXIT_REPAIR


def repaired(job: Job, repairs: int) -> None:
    assert job.computing(repairs, 20), job.text()
    holders = job.holders()
    assert sorted(holders) == list(range(job.ranks)) and set(holders.values()) <= set(job.living()), job.text()


def test_rank_0_then_a_spare_then_one_too_many() -> None:
    with Job("mixed", 4, 2) as job:
        assert job.computing(0, 60), job.text()
        before = job.holders()
        first, second = job.spare_pids()
        job.kill([before[0]])
        repaired(job, 1)
        after = job.holders()
        took = after.pop(0)
        assert took in (first, second)  # in its place
        assert after == {rank: pid for rank, pid in before.items() if rank}  # the others keep their roles
        done = [n for n in job.notes("repaired") if n["repairs"] == 1]
        assert len(done) == 5 and all((n["lost"], n["spares"], n["size"]) == ([0], 1, 4) for n in done)

        failures = len(job.notes("failure"))
        job.kill([first if took == second else second])
        time.sleep(0.3)
        assert len(job.notes("failure")) == failures  # a spare's death disturbs nobody

        job.kill([after[2]])
        assert job.over(15), job.text()
        assert job.computing(2, 0) is False
        gave_up = job.notes("gave up")
        assert len(gave_up) == 3, job.text()
        assert {n["error"].split(". ")[0] for n in gave_up} == {
            "1 of 4 ranks are lost (2), and there are 0 spares"
        }  # all say the same


def test_two_at_once_while_ranks_wait_for_each_other_on_other_communicators() -> None:
    with Job("derived", 4, 2) as job:
        # While communicators are made, a death may well crash the survivors (Open MPI 5.0): a relaunch, not of interest here.
        assert job.computing(0, 60) and job.wait(lambda: len(job.notes("working")) == 4, 10), job.text()
        before = job.holders()
        killed = job.kill([before[2], before[3]])  # ranks 0 and 1 mostly speak with each other alone
        repaired(job, 1)
        told = [n["at"] - killed for n in job.notes("failure") if n["rank"] in (0, 1)]
        assert len(told) == 2 and max(told) < 3, job.text()
        job.stop()
        assert job.over(20), job.text()  # no process lingers in MPI's finalisation
        assert sorted(n["rank"] for n in job.notes("finished")) == [0, 1, 2, 3], job.text()
        assert all(n["arranged"] for n in job.notes("leaving"))


@pytest.mark.parametrize("kind, seed", [("alone", 1), ("bcast", 3)])
def test_a_second_death_during_the_repair_is_repaired_or_ends_all(kind: str, seed: int) -> None:
    dice = random.Random(seed)
    with Job(kind, 3, 2, step=1.5, whole=5) as job:
        assert job.computing(0, 60), job.text()
        pids = [*job.holders().values(), *job.spare_pids()]
        dice.shuffle(pids)
        first = job.holders()[dice.randrange(3)]
        pids.remove(first)
        job.kill([first])
        time.sleep(dice.choice([0.004, 0.015, 0.03]))
        job.kill([pids[0]])

        def settled() -> bool:
            latest = job.holders()
            return len(set(latest.values()) & set(job.living())) == 3 or not job.living()

        assert job.wait(settled, 15), job.text()
        time.sleep(0.3)
        assert job.wait(settled, 15), job.text()
        if job.living():
            job.stop()
            assert job.over(15), job.text()
            assert len({n["rank"] for n in job.notes("finished")}) == 3, job.text()


@pytest.mark.parametrize("status", [0, 3])
def test_one_that_leaves_by_itself_is_replaced(status: int) -> None:
    """Open MPI's launcher tells nobody: without its node, which does, Shrink would not end."""
    with Job("alone", 3, 1, status=status) as job:
        assert job.computing(0, 60), job.text()
        holders = job.holders()
        os.kill(holders[1], signal.SIGUSR1)
        assert job.wait(lambda: holders[1] not in job.living(), 10)
        (job.folder / "repair").touch()
        repaired(job, 1)
        assert job.holders() == {**holders, 1: job.spare_pids()[0]}


def test_one_who_never_comes_ends_the_repair_by_the_watchdog() -> None:
    with Job("allreduce", 3, 1, step=0.5, whole=1.5) as job:
        assert job.computing(0, 60), job.text()
        holders = job.holders()
        os.kill(holders[1], signal.SIGSTOP)  # lives, so that Shrink waits for it
        job.kill([holders[2]])
        assert job.wait(lambda: job.living() == [holders[1]], 10), job.text()
        text = job.output.read_text()
        assert (
            f"finding out who is alive (Shrink) was not over by its deadline: this process leaves (status {EXIT_REPAIR})"
            in text
        )


def test_without_ulfm_a_crew_is_formed_that_says_it_cant_be_repaired() -> None:
    with Job("mixed", 2, 1, ulfm=False) as job:
        assert job.computing(0, 60), job.text()
        formed = job.notes("formed")
        assert len(formed) == 3 and not any(n["repairable"] for n in formed)
        assert all(n["reason"].endswith("was started without `--with-ft ulfm`") for n in formed), formed
        job.stop()
        assert job.over(20), job.text()
        assert job.process.returncode == 0 and len(job.notes("finished")) == 2 and len(job.notes("dismissed")) == 1


def test_after_a_repair_only_the_end_of_mpi_is_left_out(tmp_path: Path) -> None:
    command = [mpirun(), "--with-ft", "ulfm", "--oversubscribe", "--bind-to", "none", "-n", str(len(WAYS) + 1)]
    process = subprocess.Popen(
        [*command, sys.executable, str(Path(__file__).with_name("repair_leaver.py")), str(tmp_path)],
        env=environment(str(tmp_path)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    try:
        output = process.communicate(timeout=60)[0].decode()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    status = {int(path.stem): int(path.read_text()) for path in tmp_path.glob("*.status")}
    assert status == {rank: code for rank, (_, code) in WAYS.items()}, output
    for rank in WAYS:
        text = (tmp_path / f"{rank}.out").read_text()
        assert text == "buffered text\nlast handler runs first\nfirst handler runs last\n", (rank, output)
    assert "ValueError: not caught" in output
