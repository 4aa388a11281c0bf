"""Whether a process gets on with reading and writing, seen by a thread of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from holdfast.health.moving import Moving


def beside(what: Callable[[], object]) -> None:
    """In another thread than the one that asks."""
    thread = threading.Thread(target=what)
    thread.start()
    thread.join()


def test_who_stands_still_does_not_move() -> None:
    moving = Moving()
    moving()
    answers = []
    for _ in range(5):
        Path("/proc/self/status").read_text()  # what the asking thread itself reads does not count
        time.sleep(0.05)
        answers.append(moving())
    assert answers == [False] * 5


def test_bytes_written_by_another_thread_are_progress_once(tmp_path: Path) -> None:
    moving = Moving()
    moving()
    beside(lambda: (tmp_path / "data").write_bytes(bytes(1 << 16)))
    assert moving()
    time.sleep(0.05)
    assert not moving()


def test_a_line_for_a_log_is_none(tmp_path: Path) -> None:
    moving = Moving()
    moving()
    time.sleep(0.05)
    beside(lambda: (tmp_path / "log").write_bytes(b"still here\n"))
    assert not moving()


def test_what_a_child_writes_counts(tmp_path: Path) -> None:
    code = "import sys, os\nsys.stdin.read(1)\nos.write(1, bytes(1 << 16))\nsys.stdin.read(1)"
    with open(tmp_path / "out", "wb") as out:
        child = subprocess.Popen([sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=out)
    assert child.stdin is not None
    try:
        moving = Moving()
        deadline = time.monotonic() + 10
        while moving():  # it starts
            time.sleep(0.1)
            assert time.monotonic() < deadline
        child.stdin.write(b"x")
        child.stdin.flush()
        while os.path.getsize(tmp_path / "out") == 0:
            time.sleep(0.01)
        assert moving()
    finally:
        child.communicate(timeout=10)


def test_computing_in_another_thread_is_progress() -> None:
    moving = Moving()
    moving()

    def compute() -> None:
        end = time.thread_time() + 0.1
        while time.thread_time() < end:
            pass

    beside(compute)
    assert moving()
