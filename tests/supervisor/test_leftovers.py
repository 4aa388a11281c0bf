"""What is ended of what a dead supervisor has left, and what is not."""

from __future__ import annotations

import os
import signal
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
        name: str, reported: str | None = "", supervisor: str = f"{dead.pid} 1", words: list[str] = PROGRAM, cwd: str = ".",
        **more: str,
    ) -> subprocess.Popen[str]:
        report = tmp_path / f"{name}.jsonl"
        if reported is not None:
            report.write_text(reported)
        told = {EXECUTION: name, launcher.REPORT: str(report), SUPERVISOR: supervisor, **more}
        started.append(
            subprocess.Popen(
                words, env={**os.environ, **told}, stdout=subprocess.PIPE, text=True, cwd=tmp_path / cwd, start_new_session=True
            )
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


def test_a_start_of_the_same_job_on_other_hosts_is_asked_and_known_to_be_over(start: Start) -> None:
    """Its launcher is told; SIGUSR1 ends this one. What differs by a variable is another job."""
    job, other = start("job"), start("other", CASE="2")
    names, said = leftovers.take_over(PROGRAM, os.environ, 10.0)
    assert names == ["job"] and f"(mpirun: {job.pid})" in said
    assert job.wait() == -signal.SIGUSR1 and not gone(other)
    assert leftovers.take_over(PROGRAM, os.environ, 10.0) == ([], "")


def test_one_that_does_not_leave_is_ended(start: Start) -> None:
    deaf = [sys.executable, "-c", "import signal; signal.signal(signal.SIGUSR1, signal.SIG_IGN); " + PROGRAM[2], "argument"]
    job = start("job", words=deaf)
    names, said = leftovers.take_over(deaf, os.environ, 0.2)
    assert names == ["job"] and job.wait() == -signal.SIGKILL
    assert f"has ended 1 process of an earlier start, whose supervisor is dead ({job.pid})" in said


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
