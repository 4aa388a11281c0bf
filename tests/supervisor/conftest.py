"""Jobs under supervision that no test leaves behind."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from programs import PARALLEL, SERIAL, Job, catalog


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """`supervise(*arguments)`: starts `holdfast run` with these in the test's directory."""
    jobs: list[Job] = []

    def start(*arguments: object) -> Job:
        jobs.append(Job(*arguments, cwd=tmp_path, log=tmp_path / f"job-{len(jobs)}"))
        return jobs[-1]

    yield start
    for job in jobs:
        if job.process.poll() is None:
            job.process.kill()
        job.process.wait(timeout=10)
    for run in tmp_path.glob("run*"):
        found = catalog(run)
        for process in [p for a in found.attempts for p in a.processes] if found else []:
            if process.alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)


@pytest.fixture
def serial(tmp_path: Path) -> list[str]:
    """A serial program as words for a command line; it takes directory, steps, seconds of a step."""
    (tmp_path / "serial.py").write_text(SERIAL)
    return [sys.executable, "serial.py"]


@pytest.fixture
def parallel(tmp_path: Path) -> list[str]:
    (tmp_path / "parallel.py").write_text(PARALLEL)
    return [sys.executable, "parallel.py"]
