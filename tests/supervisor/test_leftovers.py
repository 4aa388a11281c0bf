"""What is ended of what a dead supervisor has left, and what is not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast.catalog import Attempt, End, current
from holdfast.catalog.attempts import EXECUTION
from holdfast.catalog.eviction import SUPERVISOR
from holdfast.catalog.process import find
from holdfast.supervisor import launcher, leftovers

PROGRAM = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)", "argument"]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """`start(name, ...)`: a process of the start `name` of PROGRAM in the test's directory, whose supervisor is dead."""
    monkeypatch.chdir(tmp_path)
    dead = subprocess.Popen(["true"])
    dead.wait()
    started: list[subprocess.Popen[str]] = []

    def begin(
        name: str, reported: str | None = "", supervisor: str = f"{dead.pid} 1", words: list[str] = PROGRAM, cwd: str = "."
    ) -> subprocess.Popen[str]:
        report = tmp_path / f"{name}.jsonl"
        if reported is not None:
            report.write_text(reported)
        told = {EXECUTION: name, launcher.REPORT: str(report), SUPERVISOR: supervisor}
        started.append(
            subprocess.Popen(words, env={**os.environ, **told}, stdout=subprocess.PIPE, text=True, cwd=tmp_path / cwd)
        )
        assert started[-1].stdout is not None and started[-1].stdout.readline() == "up\n"
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def gone(process: subprocess.Popen[str]) -> bool:
    """Whether it has been ended."""
    return process.poll() is not None


def test_what_is_named_is_ended_and_nothing_else(start: Start) -> None:
    own = find(os.getpid())
    assert own is not None
    named, other, looked_after = start("a"), start("b"), start("a", supervisor=f"{own.pid} {own.start}")
    said = leftovers.end_leftovers({"a", "c"})
    assert said == f"has ended 1 process of an earlier start, whose supervisor is dead ({named.pid})"
    assert [gone(p) for p in (named, other, looked_after)] == [True, False, False]
    assert leftovers.end_leftovers({"a", "c"}) == ""
    assert leftovers.end_leftovers(set()) == ""


def test_a_start_of_the_same_program_that_has_opened_nothing(start: Start, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    hung = start("hung")
    others = [
        start("opened", reported='{"url": "/r", "attempt": 1}\n'),
        start("told nothing", reported=None),
        start("another program", words=[*PROGRAM[:-1], "another"]),
        start("another place", cwd="elsewhere"),
    ]
    said = leftovers.end_unopened(PROGRAM)
    assert f"({hung.pid})" in said
    assert gone(hung) and not any(map(gone, others))
    assert leftovers.end_unopened(PROGRAM) == ""


def test_whether_there_are_any_in_this_directory(start: Start, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    start("a", cwd="elsewhere")
    assert not leftovers.any_left()
    start("a")
    assert leftovers.any_left()


def test_whose_run_was_taken_over() -> None:
    done, broken_off = End("complete", time.time()), End("interrupted", time.time())
    here = current()
    attempts = [
        Attempt(1, ranks=1, execution="serial, complete", end=done, holder=here),
        Attempt(2, ranks=2, execution="parallel, complete", end=done),
        Attempt(3, ranks=1, execution="serial, interrupted", end=broken_off),
        Attempt(4, ranks=2, execution="own, earlier"),
        Attempt(5, ranks=2),
        Attempt(6, ranks=2, execution="own"),
    ]
    assert leftovers.superseded(attempts, {"own", "own, earlier"}) == {"parallel, complete", "serial, interrupted"}
