"""What a run tells its node's board, and what it tells the program of what was found there."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import holdfast
from holdfast.health import PHASES, Event
from holdfast.run.handle import Handle
from holdfast.run.run import Run
from holdfast.run.watching import Watching


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def slots(run: Run) -> list[tuple[str, int]]:
    """(phase, step) of every process on the board."""
    beat = run._x.watching._beat
    assert beat is not None
    return [(PHASES[s.phase], s.step) for s in beat.board.read()]


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """A serial run that is watched, too patient to find anything."""
    monkeypatch.setenv("HOLDFAST_NODE_MEMORY", str(tmp_path))
    run = holdfast.open(tmp_path / "run", stall_timeout=600)
    yield run
    run.close()


def test_a_serial_run_without_the_option_has_no_thread(tmp_path: Path) -> None:
    before = threads()
    with holdfast.open(tmp_path / "run", overlap="off") as run:
        u = run.protect("u", np.zeros(3))
        for step in run.steps(2, every=holdfast.steps(100)):
            u += step
            assert run._x.watching.progress is None
            assert threads() - before <= 1  # the sign of life for other holders
        assert run.health == ()


def test_the_board_knows_step_and_phase(watched: Run) -> None:
    u = watched.protect("u", np.zeros(3))
    assert slots(watched) == [("computing", -1)]
    for outer in watched.steps(3, every=holdfast.steps(1), name="outer"):
        for _ in watched.steps(2, name=f"inner-{outer}"):
            u += 1
            assert slots(watched) == [("computing", outer)]  # an inner loop's step says nothing of how far a rank is
    with watched._x.watching.during("checkpoint"):
        assert slots(watched) == [("checkpoint", 2)]
        with watched._x.watching.during("waiting for ranks"):
            assert slots(watched) == [("waiting for ranks", 2)]
        assert slots(watched) == [("checkpoint", 2)]
    assert slots(watched) == [("computing", 2)]


def test_calls_of_mpi_are_told_only_of_a_program_that_computes(watched: Run) -> None:
    calls = watched._x.watching.calls
    assert calls is not None
    calls(True)
    assert slots(watched) == [("in a call of MPI", -1)]
    calls(False)
    assert slots(watched) == [("computing", -1)]
    with watched._x.watching.during("restore"):
        calls(True)
        assert slots(watched) == [("restore", -1)]
        calls(False)
        assert slots(watched) == [("restore", -1)]


def test_each_call_of_the_run_is_progress(watched: Run) -> None:
    beat = watched._x.watching._beat
    assert beat is not None
    before = beat.board.read()[0].progress_at
    watched.protect("u", np.zeros(3))
    assert beat.board.read()[0].progress_at > before


def test_closing_leaves_the_board(tmp_path: Path, watched: Run) -> None:
    boards = tmp_path / f"holdfast-{os.geteuid()}" / "boards"
    assert len(os.listdir(boards)) == 2  # the board, and a file for stacks
    watched.close()
    assert not boards.exists()


def test_events_are_told_to_hooks_once(watched: Run, caplog: pytest.LogCaptureFixture) -> None:
    event = Event("died", 3, "here", "process 7 is gone", time.time())
    seen: list[Event] = []

    def broken(event: Event) -> None:
        raise ValueError("the program's own")

    def leaving(event: Event) -> None:
        sys.exit(3)  # of this thread, which looks after the ranks

    watched.on_health(broken)
    watched.on_health(leaving)
    watched.on_health(seen.append)
    watched._x.watching._tell(event)
    watched._x.watching._tell(event._replace(detail="again"))
    assert watched.health == (event,) and seen == [event]
    assert [r.exc_info[0] for r in caplog.records if r.exc_info] == [ValueError, SystemExit]


def test_a_hook_must_be_callable(watched: Run) -> None:
    with pytest.raises(holdfast.UsageError, match="on_health"):
        watched.on_health("mail me")  # type: ignore[arg-type]


def test_where_nobody_can_watch_there_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no directory")
    monkeypatch.setenv("HOLDFAST_NODE_MEMORY", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING, "holdfast"):
        with holdfast.open(tmp_path / "run", stall_timeout=600, levels=None) as run:
            for _ in run.steps(2):
                pass
    assert len([r for r in caplog.records if "not watched" in r.message]) == 1


def test_what_was_found_before_a_repair_is_kept() -> None:
    gone = Event("launcher gone", None, "here", "process 1 is gone", 1.0)
    died = Event("died", 3, "here", "process 7 is gone", 2.0)
    watching = Watching()
    watching.recall((gone, died))
    watching._tell(gone._replace(at=3.0))  # each execution finds it anew
    watching._tell(died._replace(at=4.0))  # the one that took its place
    assert watching.events == (gone, died, died._replace(at=4.0))


def test_waiting_for_a_checkpoint_is_told(watched: Run) -> None:
    handle = Handle(1, 5.0, watched._x.watching)
    handle.begun = True
    phases: list[str] = []
    looker = threading.Timer(0.1, lambda: phases.append(slots(watched)[0][0]))
    looker.start()
    with pytest.raises(holdfast.DeadlineError):
        handle.wait(timeout=0.3)
    looker.join()
    assert phases == ["checkpoint"]
    assert slots(watched)[0][0] == "computing"


def test_health_is_not_imported_where_nobody_is_watched(tmp_path: Path) -> None:
    code = (
        "import sys, holdfast\n"
        f"with holdfast.open({str(tmp_path / 'run')!r}) as run:\n"
        "    for _ in run.steps(2): pass\n"
        "assert not [m for m in sys.modules if m.startswith('holdfast.health')]"
    )
    source = str(Path(__file__).parents[2] / "src")
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": source}, check=True, timeout=60)
