"""Fences, leases and who holds a run; which process is which."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from catalog_support import Hand

from holdfast.catalog import (
    End,
    Process,
    Snapshot,
    check_fence,
    current,
    find_holder,
    list_attempts,
    put_end,
    put_fence,
    read_attempt,
)
from holdfast.errors import DamageError, FencedError, RunInUseError

LEASE = 60.0


@pytest.fixture
def hand(tmp_path: Path) -> Hand:
    return Hand(tmp_path / "run")


def fence(hand: Hand, process: Process | None = None, first: int = 1) -> int:
    plain = (process or current()).plain()
    return put_fence(hand.store, "run", 1, plain | {"user": "u", "command": "c"}, [plain], first)


def test_a_later_attempt_fences_off_an_earlier(hand: Hand) -> None:
    one = fence(hand)
    check_fence(hand.store, one)
    two = fence(hand)
    assert (one, two) == (1, 2)
    check_fence(hand.store, two)
    with pytest.raises(FencedError, match="attempt 2"):
        check_fence(hand.store, one)
    with pytest.raises(FencedError):
        hand.seal(one)
    assert "base" not in list_attempts(hand.store)[1]


@pytest.mark.parametrize("suffix", ["json", "lease", "base", "end"])
def test_any_file_of_an_attempt_is_a_fence_valid_or_not(hand: Hand, suffix: str) -> None:
    one = fence(hand)
    (hand.path / f"attempts/000007.{suffix}").write_bytes(b"\0junk")
    with pytest.raises(FencedError, match="attempt 7"):
        check_fence(hand.store, one)
    assert fence(hand) == 8


def test_all_that_an_attempt_says_comes_back(hand: Hand) -> None:
    hand.attempt(1, 5)
    hand.seal(1)
    end = End("interrupted", 12.5, 4, 40, "SIGTERM", None)
    put_end(hand.store, 1, end)
    put_end(hand.store, 1, End("closed", 13.0))  # a second end is ignored
    found = read_attempt(hand.store, 1, list_attempts(hand.store)[1])
    assert (found.first_version, found.holder, found.sealed, found.end) == (5, current(), True, end)
    assert found.processes == (current(),) and found.damaged is None


def test_a_record_of_another_attempt_is_damaged(hand: Hand) -> None:
    hand.attempt(1)
    data = (hand.path / "attempts/000001.json").read_bytes()
    (hand.path / "attempts/000002.json").write_bytes(data)
    assert "another attempt" in (read_attempt(hand.store, 2, {"json"}).damaged or "")


def gone() -> Process:
    """A process of this host that has ended."""
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    found = replace(current(), pid=child.pid)
    child.wait()
    return found


ELSEWHERE = {"another boot": {"boot": "other"}, "another namespace": {"pidns": "pid:[1]"}}


def test_nobody_holds_what_nobody_started(hand: Hand) -> None:
    assert find_holder(hand.store, LEASE) is None


def test_a_process_that_lives_here_holds_the_run_however_old_its_lease(hand: Hand) -> None:
    fence(hand)
    os.utime(hand.path / "attempts/000001.lease", (1, 1))
    holder = find_holder(hand.store, LEASE)
    assert holder is not None and holder.living == (current(),) and holder.attempt == 1
    error = holder.error("here")
    assert isinstance(error, RunInUseError) and str(os.getpid()) in str(error) and "takeover" in str(error)


def test_a_process_that_has_ended_here_does_not_however_young_its_lease(hand: Hand) -> None:
    fence(hand, gone())
    assert find_holder(hand.store, LEASE) is None


def test_a_pid_that_was_given_to_another_process_is_not_the_holder(hand: Hand) -> None:
    fence(hand, replace(current(), start=current().start + 1))
    assert find_holder(hand.store, LEASE) is None


@pytest.mark.parametrize("change", ELSEWHERE.values(), ids=ELSEWHERE)
def test_of_a_holder_elsewhere_only_the_lease_tells(hand: Hand, change: dict[str, str]) -> None:
    there = replace(current(), host="far", **change)
    assert not there.here
    fence(hand, there)
    holder = find_holder(hand.store, LEASE)
    assert holder is not None and holder.living == () and "far" in holder.text
    now = time.time()
    os.utime(hand.path / "attempts/000001.lease", (now - LEASE - 5,) * 2)
    assert find_holder(hand.store, LEASE) is None
    hand.store.touch("attempts/000001.lease")
    assert find_holder(hand.store, LEASE) is not None
    (hand.path / "attempts/000001.lease").unlink()
    assert find_holder(hand.store, LEASE) is None, "it died before it wrote anything"


def test_an_attempt_whose_launcher_our_supervisor_saw_leave_holds_nothing(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_HOLDFAST_EXECUTION", "run-a")
    fence(hand, replace(current(), host="far", boot="other"))
    assert read_attempt(hand.store, 1, {"json"}).execution == "run-a"
    monkeypatch.setenv("_HOLDFAST_ENDED", "run-0,run-ab")
    assert find_holder(hand.store, LEASE) is not None
    monkeypatch.setenv("_HOLDFAST_ENDED", "run-0,run-a")
    assert find_holder(hand.store, LEASE) is None
    fence(hand)  # of a process that lives here no word is needed, and none is believed
    assert find_holder(hand.store, LEASE) is not None


def test_an_attempt_that_has_ended_holds_nothing(hand: Hand) -> None:
    put_end(hand.store, fence(hand), End("closed", 1.0))
    assert find_holder(hand.store, LEASE) is None


def test_only_the_newest_attempt_holds_the_run(hand: Hand) -> None:
    fence(hand)
    fence(hand, gone())
    assert find_holder(hand.store, LEASE) is None


def test_one_living_rank_is_enough(hand: Hand) -> None:
    dead = gone().plain()
    put_fence(hand.store, "run", 2, dead | {"user": "u", "command": "c"}, [dead, current().plain()], 1)
    holder = find_holder(hand.store, LEASE)
    assert holder is not None and holder.living == (current(),)


def test_a_holder_that_cannot_be_read_counts_until_its_lease_ends(hand: Hand) -> None:
    fence(hand)
    hand.spoil("attempts/000001.json")
    assert find_holder(hand.store, LEASE) is not None
    os.utime(hand.path / "attempts/000001.lease", (1, 1))
    assert find_holder(hand.store, LEASE) is None


def test_this_process_lives_and_a_zombie_does_not() -> None:
    me = current()
    assert me.here and me.alive and me.pid == os.getpid() and me == Process.parse(me.plain())
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    try:
        stat = Path(f"/proc/{child.pid}/stat")
        start = int(stat.read_text().rpartition(")")[2].split()[19])
        deadline = time.monotonic() + 20
        while stat.read_text().rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not replace(me, pid=child.pid, start=start).alive
    finally:
        child.wait()
    assert not replace(me, pid=child.pid, start=start).alive


@pytest.mark.parametrize(
    "change", [{"pid": 0}, {"pid": -1}, {"pid": 2**31}, {"pid": True}, {"pid": "1"}, {"start": 1.5}, {"host": None},
               {"boot": "x" * 300}, {"pidns": 1}]
)  # fmt: skip
def test_what_is_no_process_is_damage(change: dict) -> None:
    for value in (current().plain() | change, None, [], "x", {}):
        with pytest.raises(DamageError):
            Process.parse(value)


def test_numbers_end(hand: Hand) -> None:
    (hand.path / "attempts").mkdir()
    (hand.path / "attempts/999999999999.json").write_bytes(b"")
    with pytest.raises(DamageError, match="end at"):
        fence(hand)
    assert Snapshot(hand.store).newest_attempt == 999999999999
