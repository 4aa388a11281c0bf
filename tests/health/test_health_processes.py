"""Real ranks that are killed, stopped and hung: who is told, how soon, and who is left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from health_support import Rank, rest, until

from holdfast.catalog import eviction
from holdfast.health import processes

Start = Callable[..., list[Rank]]


def files(node: Path) -> list[str]:
    return sorted(path.name for path in node.glob("holdfast-*/boards/*"))


def ended_by(rank: Rank) -> int:
    return -rank.wait()


def test_a_death_is_told_by_all_at_once_and_once(node: Path, start: Start) -> None:
    ranks = start(4)
    killed = ranks[2].signal(signal.SIGKILL)
    ranks[1].tell("segv")
    others = [ranks[0], ranks[3]]
    until(others, lambda: all(len(r.events()) >= 2 for r in others))
    rest(others, 0.5)
    for rank in others:
        assert sorted((e.kind, e.rank) for e, _ in rank.events()) == [("died", 1), ("died", 2)]
        at = next(at for e, at in rank.events() if e.rank == 2)
        assert at - killed < 1.0
    assert len(files(node)) == 5, "a board and four files of stacks"
    for rank in others:
        rank.tell("end")
    assert [r.wait() for r in others] == [0, 0]
    assert files(node) == [], "the last one removes all"


def test_a_stopped_rank_is_killed_but_not_soon(start: Start) -> None:
    ranks = start(3, stopped=1.0)
    at = ranks[0].signal(signal.SIGSTOP)
    others = ranks[1:]
    until(others, lambda: all(r.events("died") for r in others))
    assert ended_by(ranks[0]) == signal.SIGKILL
    for rank in others:
        ((event, told),) = rank.events("stopped")
        assert event.rank == 0 and "state T" in event.detail + "state T" * ("another process" in event.detail)
        assert 1.0 <= told - at < 2.0
        assert [e.kind for e, _ in rank.events()] == ["stopped", "died"]
        assert "after it was found stopped" in rank.events("died")[0][0].detail


def test_a_job_that_is_suspended_is_left_alone(start: Start) -> None:
    ranks = start(3, stopped=0.5, stall=0.8)
    for rank in ranks:
        rank.signal(signal.SIGSTOP)
    time.sleep(1.5)
    for rank in reversed(ranks):
        rank.signal(signal.SIGCONT)
        time.sleep(0.1)  # a batch system has no hurry either
    rest(ranks, 1.0)
    assert [rank.events() for rank in ranks] == [[], [], []]
    assert all(rank.alive for rank in ranks)


def test_compiled_code_that_holds_the_gil_is_no_hang(start: Start) -> None:
    ranks = start(2)
    ranks[0].tell("gil 1.5")
    until(ranks, lambda: ranks[0].said("doing"))
    rest(ranks, 2.0)
    assert [rank.events() for rank in ranks] == [[], []]
    assert ranks[0].alive


HANGS = {
    "deadlock": ["wait_for_each_other", "in other"],
    "gil 20": ["hold_the_gil"],  # it can't even beat
    "sleep 20": ["in be_rank"],
}


def test_a_hang_is_found_within_a_second_after_its_time(start: Start) -> None:
    """Three jobs, of which each has one rank that hangs."""
    jobs = {how: start(3, attempt=i, stall=1.0) for i, how in enumerate(HANGS)}
    ranks = [rank for job in jobs.values() for rank in job]
    for how, job in jobs.items():
        job[1].tell(how)
    until(ranks, lambda: all(job[1].said("doing") for job in jobs.values()))
    others = [rank for rank in ranks if rank.rank != 1]
    until(others, lambda: all(rank.events("died") for rank in others))
    for how, job in jobs.items():
        assert ended_by(job[1]) == signal.SIGKILL
        hung = job[1].said("clock")
        told = [rank.events("stalled") for rank in (job[0], job[2])]
        print(f"{how}: found after {[round(at - hung, 2) for ((_, at),) in told]} s, stall_timeout 1 s")
        for ((event, at),) in told:
            assert event.rank == 1
            assert 0.9 <= at - hung <= 2.0  # its clock is read a little after its last progress
        stacks = [event.stacks for ((event, _),) in told if event.stacks]
        assert stacks, "whoever acted had its stacks"
        assert all(word in stacks[0] for word in HANGS[how]), stacks[0]
    rest(others, 1.0)
    assert all(rank.alive and len(rank.events()) == 2 for rank in others)


def test_one_alone_finds_its_own_hang(start: Start) -> None:
    (rank,) = start(1, stall=0.5)
    rank.tell("deadlock")
    assert ended_by(rank) == signal.SIGKILL
    rank.listen()
    ((event, _),) = rank.events()
    assert (event.kind, event.rank) == ("stalled", 0) and "wait_for_each_other" in event.stacks


def test_who_waits_for_others_or_has_left_is_not_judged(start: Start) -> None:
    ranks = start(3, stall=0.6, stopped=0.6)
    ranks[0].tell("enter waiting for ranks\nsleep 20")
    ranks[1].tell("leave\nsleep 20")
    until(ranks, lambda: ranks[1].said("left") is not None and ranks[0].said("doing") == "sleep")
    ranks[1].signal(signal.SIGSTOP)
    rest(ranks, 1.5)
    ranks[1].signal(signal.SIGKILL)
    rest(ranks, 0.5)
    assert [rank.events() for rank in ranks] == [[], [], []]
    assert ranks[0].alive


def test_a_child_made_by_fork_does_not_speak_for_its_parent(start: Start) -> None:
    (rank,) = start(1)
    rank.tell("fork")
    until([rank], lambda: rank.said("moved") is not None)
    assert rank.said("moved") == 0 and rank.said("step") < 99
    assert rank.said("files"), "nor does it take its files away"


def test_a_launcher_that_is_gone_harms_nobody(start: Start) -> None:
    launcher = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    other = subprocess.Popen([sys.executable, "-c", ""])
    other.wait()
    began = processes.look(launcher.pid).start
    ranks = start(2, env={eviction.SUPERVISOR: f"{launcher.pid} {began}"})
    rest(ranks, 0.3)
    assert not ranks[0].events()
    launcher.communicate(b"\n")
    until(ranks, lambda: all(rank.events() for rank in ranks), 3)
    assert [[(e.kind, e.rank) for e, _ in rank.events()] for rank in ranks] == [[("launcher gone", None)]] * 2
    assert all(rank.alive for rank in ranks)
    # One that was not seen alive, as on another node than its own, is not missed.
    assert processes.supervisor({eviction.SUPERVISOR: f"{other.pid} 1"}) is None
    assert processes.supervisor({eviction.SUPERVISOR: f"{os.getpid()} {began}"}) is None
    assert processes.supervisor({}) is None


def test_what_an_attempt_left_is_removed_by_the_next(node: Path, start: Start) -> None:
    first = start(2, attempt=1)
    for rank in first:
        rank.signal(signal.SIGKILL)
    for rank in first:
        rank.wait()
    assert len(files(node)) == 3
    others = [
        node / next(node.glob("holdfast-*")).name / "boards" / name for name in ("notes", "ab-1-2", f"{'f' * 32}-1-9")
    ]
    for path in others:
        path.write_text("somebody's")
    (second,) = start(1, attempt=2)
    assert [name.split("-")[1] for name in files(node) if name.startswith("0123")] == ["2", "2"]
    assert all(path.read_text() == "somebody's" for path in others)
    assert not second.events()
