"""Stacks that are asked for from outside, and when they are refused; events as values."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from health_support import SOURCE

from holdfast.catalog import eviction
from holdfast.errors import DamageError
from holdfast.health import KINDS, Event, Stacks, dump, processes, stacks

PROGRAM = """
import os, sys, signal, time
from holdfast.health import Stacks, processes
from holdfast.health import stacks as module
{before}
one = Stacks(sys.argv[1], *processes.this_process())
def waits(*words):
    print(*words, flush=True)
    input()
waits(one.arm(), *processes.this_process())
one.disarm()
print(os.path.exists(one.path), flush=True)
os.kill(os.getpid(), {number})
again = Stacks(sys.argv[1], *processes.this_process())
waits(again.arm(), Stacks("x", 1, 1).arm())
"""


class Armed:
    def __init__(self, board: Path, before: str = "", number: str = "0") -> None:
        code = PROGRAM.format(before=before, number=number)
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, str(board)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
        )  # fmt: skip
        self.signal, self.pid, self.start = map(int, self.line().split())

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def tell(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def __enter__(self) -> Armed:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate()


def test_asked_again_and_again(tmp_path: Path) -> None:
    board = tmp_path / "board"
    with Armed(board, "module._FIRST += 2", "module._FIRST") as one:
        assert one.signal == stacks._FIRST + 2
        for _ in range(2):
            began = time.monotonic()
            texts = dump(str(board), [(one.pid, one.start, one.signal)])
            assert time.monotonic() - began < 1.0
            assert texts[one.pid].count("in waits") == 1, texts
        assert os.stat(stacks.stacks_path(str(board), one.pid, one.start)).st_mode & 0o777 == 0o600
        # Of another process by that number, or with a signal that nobody catches, nothing is asked.
        assert dump(str(board), [(one.pid, one.start + 1, one.signal)]) == {one.pid: ""}
        assert dump(str(board), [(one.pid, one.start, one.signal + 1)]) == {one.pid: ""}
        assert dump(str(board), [(one.pid, one.start, signal.SIGKILL)]) == {one.pid: ""}
        os.kill(one.pid, signal.SIGSTOP)
        began = time.monotonic()
        assert dump(str(board), [(one.pid, one.start, one.signal)], 0.3) == {one.pid: ""}
        assert 0.2 < time.monotonic() - began < 1.0
        os.kill(one.pid, signal.SIGCONT)
        one.tell()
        assert one.line() == "False\n", "its file is gone"
        # A signal that comes after it is disarmed does no harm; armed again it is the same one; a second one at once is
        # refused.
        assert one.line() == f"{one.signal} 0\n"
        assert "in waits" in dump(str(board), [(one.pid, one.start, one.signal)])[one.pid]
        assert one.process.poll() is None


def test_signals_of_the_programs_own_are_not_taken(tmp_path: Path) -> None:
    """Set from C, where Python does not see it; blocked; ignored."""
    before = """
import ctypes
libc = ctypes.CDLL(None)
handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda number: None)
libc.signal(module._FIRST, handler)
signal.pthread_sigmask(signal.SIG_BLOCK, [module._FIRST + 1])
signal.signal(module._FIRST + 2, signal.SIG_IGN)
"""
    with Armed(tmp_path / "board", before) as one:
        assert one.signal == stacks._FIRST + 3
    with Armed(tmp_path / "board", before + "module._LAST = module._FIRST + 2") as one:
        assert one.signal == 0
    assert [p for p in os.listdir(tmp_path) if str(one.pid) in p] == []


def test_no_room_is_no_stacks(tmp_path: Path) -> None:
    assert Stacks(str(tmp_path / "missing" / "board"), *processes.this_process()).arm() == 0


@pytest.mark.parametrize("recent", [True, False])
def test_the_one_signal_that_ends(recent: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the kernel has no descriptors of processes."""
    assert processes.SUPERVISOR == eviction.SUPERVISOR
    monkeypatch.setattr(processes, "_RECENT_KERNEL", recent)
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as one:
        found = processes.look(one.pid)
        assert not processes.send(one.pid, found.start - 1, signal.SIGKILL)
        assert processes.look(one.pid).start == found.start and one.poll() is None
        assert processes.send(one.pid, found.start, signal.SIGKILL)
        assert one.wait(5) == -signal.SIGKILL
        assert processes.look(one.pid).state == processes.GONE
        assert not processes.send(one.pid, found.start, signal.SIGKILL)


def test_a_name_of_any_kind_is_looked_at() -> None:
    libc = ctypes.CDLL(None)
    before = Path("/proc/self/comm").read_bytes()
    libc.prctl(15, b") Z 1 (\xff", 0, 0, 0)  # PR_SET_NAME
    try:
        pid, start = processes.this_process()
        assert processes.look(pid).state in "RS" and start > 0 and not processes.is_dead(processes.look(pid), start)
    finally:
        libc.prctl(15, before.strip(), 0, 0, 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [None, 3])
def test_an_event_says_what_happened_and_what_is_done(kind: str, rank: int | None) -> None:
    event = Event(kind, rank, "node7", "state T\nThread 1\n  File 2", 1.5)
    text = str(event)
    assert "\n" not in text and "state T" in text and text.count(". ") == 1 and text.endswith(".")
    assert ("Rank 3 on node7" in text) == (rank == 3)
    assert event.stacks == "Thread 1\n  File 2"
    assert Event.parse(event.plain()) == event


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        {},
        {"kind": "bored"},
        {"rank": -1},
        {"rank": True},
        {"rank": "1"},
        {"host": 5},
        {"detail": None},
        {"at": "now"},
    ],
)
def test_a_malformed_event_is_refused(wrong: dict[str, object] | None) -> None:
    plain = Event("died", 1, "node7", "", 1.5).plain()
    with pytest.raises(DamageError):
        Event.parse(plain | wrong if wrong else wrong)
