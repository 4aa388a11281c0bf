"""What one look does, step by step, without the thread: who asks, who acts, and what a hook may do."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from health_support import RUN

from holdfast.health import KINDS, Beat, Board, Event, Limits, Seen, layout, processes


@pytest.fixture
def other(node: Path) -> Iterator[tuple[subprocess.Popen[bytes], Board]]:
    """A process that has a slot, rank 1, although it knows nothing of it."""
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as process:
        board = Board.join(str(node), RUN, 1, 1)
        board._own[layout.START], board._own[layout.PID] = processes.look(process.pid).start, process.pid
        yield process, board
        process.kill()


def look(beats: list[Beat], enough: Callable[[], object]) -> None:
    """Look by turns until `enough()` holds."""
    deadline = time.monotonic() + 10
    while not enough():
        for beat in beats:
            beat._once()
        time.sleep(0.02)
        assert time.monotonic() < deadline


def test_one_acts_and_all_tell(node: Path, other: tuple[subprocess.Popen[bytes], Board]) -> None:
    process, _ = other
    told: list[list[Event]] = [[], [], []]
    asked: list[int] = []
    beats = [
        Beat(Board.join(str(node), RUN, 1, 5 + i), told[i].append, limits=Limits(stopped=0.2), stacks=False,
             kill=lambda event, i=i: asked.append(i) is None)  # type: ignore[misc]
        for i in range(3)
    ]  # fmt: skip
    os.kill(process.pid, signal.SIGSTOP)
    look(beats, lambda: all(events for events in told))
    assert process.wait(5) == -signal.SIGKILL
    look(beats, lambda: all(len(events) == 2 for events in told))
    assert [[e.kind for e in events] for events in told] == [["stopped", "died"]] * 3
    assert len(asked) == 1 and [events[0].rank for events in told] == [1, 1, 1]


def test_who_was_marked_and_lives_on_is_ended_by_anyone(
    node: Path,
    other: tuple[subprocess.Popen[bytes], Board],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The watcher that found it holds back, or dies before it acts; and a hook that raises is no reason to stop."""
    process, _ = other
    held: list[Event] = []

    def hook(event: Event) -> None:
        raise ValueError("no")

    first = Beat(Board.join(str(node), RUN, 1, 5), hook, limits=Limits(stopped=0.1), stacks=False,
                 kill=lambda event: held.append(event) is not None)  # fmt: skip
    os.kill(process.pid, signal.SIGSTOP)
    with caplog.at_level(logging.WARNING, "holdfast"):
        look([first], lambda: held)
    assert "'stopped' failed" in caplog.text and process.poll() is None
    seen: list[Event] = []
    second = Beat(Board.join(str(node), RUN, 1, 6), seen.append, stacks=False)
    look([second], lambda: seen)
    assert "another process" in seen[0].detail and process.poll() is None
    monkeypatch.setattr("holdfast.health.beat._AGAIN", 0.1)
    look([second], lambda: process.poll() is not None)
    assert process.returncode == -signal.SIGKILL


def test_it_ends_from_its_own_thread_and_twice(node: Path) -> None:
    board = Board.join(str(node), RUN, 1, 0)
    beat: Beat

    def hook(event: Event) -> None:
        beat.stop()
        ended.append(event.kind)

    ended: list[str] = []
    gone = subprocess.Popen([sys.executable, "-S", "-c", ""])
    began = processes.look(gone.pid).start
    gone.wait()
    beat = Beat(board, hook, launcher=(gone.pid, began), stacks=False)
    beat.start()
    deadline = time.monotonic() + 5
    while not ended:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert ended == ["launcher gone"]
    start = time.monotonic()
    beat.stop()
    assert time.monotonic() - start < 1.0 and not os.path.exists(board.path)


def test_phases_are_entered_and_left_again(node: Path) -> None:
    beat = Beat(Board.join(str(node), RUN, 1, 0), print, stacks=False)
    assert beat.enter("waiting for ranks") == "computing"
    with beat.during("checkpoint"):
        beat.note("flush", 7)
        (slot,) = beat.board.read()
        assert (slot.phase, slot.nbytes, slot.progress) == (1, 7, 3)
    assert beat.enter("leaving") == "waiting for ranks"
    beat.take_rank(9)
    assert beat.board.read()[0].rank == 9
    beat.stop()


def test_who_has_moved_since_it_was_found_stalled_is_spared(node: Path) -> None:
    """Of several that wait for each other the first one's end may set the others free, while their stacks are asked for."""
    asked: list[Event] = []

    def kill(event: Event) -> bool:
        asked.append(event)
        return False

    watcher = Beat(Board.join(str(node), RUN, 1, 0), print, stacks=False, kill=kill)
    other = Board.join(str(node), RUN, 1, 1)
    one = Seen(1, os.getpid(), 1, 1, 0, 0, 0.0, 0.0)  # of another start: no signal could reach it
    event = Event("stalled", 1, "here", "", 0.0)
    watcher.board.mark(1, KINDS.index("stalled") + 1)
    watcher._end(one, event)
    assert asked == [event]
    other.progress()
    watcher._end(one, event)
    assert asked == [event]
    other.leave()
    watcher.stop()
    watcher._end(one, event)
    assert asked == [event]
