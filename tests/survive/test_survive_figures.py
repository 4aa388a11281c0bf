"""What part G makes of its notes: figures and page; that its faults can be told from outside, and its rules can be broken."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from campaign import survive_kinds as kinds
from campaign.survive import Outcome
from campaign.survive_faults import Struck, hit
from campaign.survive_job import EVERY, HeatJob
from campaign.survive_kinds import Setting, choose
from campaign.survive_measure import IN_PLACE, RELAUNCHED, Aftermath, await_aftermath
from campaign.survive_notes import Note, Notebook, Orders, Process, What, start_of, state_of
from campaign.survive_page import page
from campaign.survive_record import append, counted, percentile, read, row, summary


def test_notes_are_read_as_they_were_written(tmp_path: Path) -> None:
    book = Notebook(tmp_path)
    process = Process(next(tmp_path.iterdir()))
    process.read()
    assert process.notes == [] and process.alive
    book.note(What.STANDING)
    book.note(What.STEP, 2, 3, 40)
    process.read()
    assert [n[1:] for n in process.notes] == [(What.STANDING, -1, -1, -1), (What.STEP, 2, 3, 40)]
    assert process.notes[0].at <= process.notes[1].at
    assert (process.pid, process.start, process.host) == (os.getpid(), start_of(os.getpid()), os.uname().nodename)
    assert process.furthest == 40 and [n.step for n in process.of[3]] == [40]
    process.close()


def test_orders_reach_another_process(tmp_path: Path) -> None:
    driver = Orders(tmp_path, make=True)
    program = Orders(tmp_path)
    assert (program.trap, program.failing, program.slow) == (-1, -1, 0)
    driver.trap, driver.errno = 3, 28
    assert (program.trap, program.errno) == (3, 28)


def test_a_signal_counts_only_if_it_took_effect() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        named = [(child.pid, start_of(child.pid))]
        stopped = Struck("", 1, "")
        hit(stopped, named, signal.SIGSTOP)
        assert stopped.took and state_of(child.pid) == "T"
        another = Struck("", 1, "")
        hit(another, [(child.pid, named[0][1] + 1)])  # the pid is that of another process by now
        assert not another.took and state_of(child.pid) == "T"
        killed = Struck("", 1, "")
        hit(killed, named)
        assert killed.took and killed.at > 0
    finally:
        child.kill()
        child.wait()
    again = Struck("", 1, "")
    hit(again, named)
    assert not again.took


def test_what_became_of_a_fault(tmp_path: Path) -> None:
    """Rank 1 is killed at 10.0; the others repair; a spare takes its place; the attempt goes on from step 5."""
    job = HeatJob(tmp_path / "job", 100, Setting.STORE)
    job.starts.append(0.0)
    folder = tmp_path / "job" / "notes"
    for pid, rank in ((11, 0), (12, 1), (13, 2), (14, 3), (15, -1)):
        (folder / f"{pid}-1").write_bytes(b"")
        process = Process(folder / f"{pid}-1")
        process.read = lambda: None  # type: ignore[method-assign]
        notes = [(9.0, What.RESUMED, rank, 1, 0), *((9.1 + 0.1 * i, What.STEP, rank, 1, i) for i in range(1, 8))]
        later = [(10.03, What.REPAIRING, -1, -1, -1), (10.05 + rank / 100, What.REPAIRED, -1, -1, -1)]
        taken = 1 if rank == -1 else rank
        later += [
            (10.1, What.OPENED, taken, 2, -1),
            (10.12, What.RESUMED, taken, 2, 5),
            (10.15, What.STEP, taken, 2, 6),
        ]
        made = (notes if rank >= 0 else []) + (later if rank != 1 else [])
        process.add(Note(*one) for one in made)
        process.execution = "one"
        job.known[f"{pid}-1"] = process
    found = await_aftermath(job, Struck(kinds.RANK, 1, "one", first=10.0, at=10.0, pids=[(12, 1)], took=True, spares=1))
    job.end()
    assert (found.outcome, found.lost_steps, found.enough) == (IN_PLACE, 2, True)
    times = found.detected, found.repaired, found.again, found.lost_seconds
    assert times == pytest.approx((0.03, 0.05, 0.15, 0.4))


def test_figures_by_kind_and_outcome(tmp_path: Path) -> None:
    some = [Aftermath(kinds.RANK, IN_PLACE, 0.03, 0.02, again, 3, 0.1) for again in (0.1, 0.2, 0.9)]
    some.append(Aftermath(kinds.RANK, RELAUNCHED, 2.0, None, 4.0, 5, 0.2, enough=False))
    assert row(some)["again, in place"] == [0.2, 0.9]
    assert row(some)["outcomes"] == {IN_PLACE: 3, RELAUNCHED: 1}
    assert percentile(list(range(1, 101)), 0.95) == 95
    kept = tmp_path / "outcomes"
    append(kept, Outcome("global", some[:2], [(kinds.EIO, "late")], attempts=5, durable=9), "0" * 32, 7)
    append(kept, Outcome("global", some[2:], problems=["a hang: 30 s", "the end of its output:\nabc"]), "0" * 32, 8)
    jobs = read(kept)
    assert counted(jobs) == {kinds.RANK: 4}
    result = summary(jobs)
    assert result["with_enough_spares"] == {IN_PLACE: 3} and result["problems"] == ["global: a hang: 30 s"]
    text = page(result, "2026-01-01, a machine")
    assert "| a rank | in place | 3 | 0.03 / 0.03 | 0.02 / 0.02 | 0.20 / 0.90 |" in text
    assert "4 faults in 2 jobs" in text and "(1 more" in text and "**1 problems**" in text and "- global: a hang: 30 s" in text
    assert "4 faults of source 000000000000, seeds 7, 8" in text and f"{kinds.RANK} (4)" in text


def test_the_rarest_kind_comes_next() -> None:
    chance, setting = random.Random(1), Setting.XOR
    rare = {kind: 5 for kind in kinds.KINDS} | {kinds.ENCODE: 4, kinds.FLIP_SET: 3, kinds.STOP: 0}
    assert choose(chance, setting, rare, 4, costly=False) == kinds.ENCODE  # STOP: alone on its node, nobody sees it
    assert choose(chance, setting, rare, 0, costly=False) == kinds.FLIP_SET
    assert choose(chance, setting, rare, 4, costly=True) == kinds.FLIP_SET
    assert choose(chance, Setting.STORE, rare, 1, False, (kinds.TWO,)) is None


def test_versions_come_between_faults() -> None:
    assert kinds.SOONEST > EVERY
