"""Jobs that no test leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from harness import Job


@pytest.fixture
def start() -> Iterator[Callable[[Sequence[str], Path], Job]]:
    """`start(argv, directory)`: a job in `directory`, its output beside it; ended with the test."""
    jobs: list[Job] = []

    def begin(argv: Sequence[str], directory: Path) -> Job:
        directory.mkdir(exist_ok=True)
        jobs.append(Job(argv, directory, directory.with_suffix(".output")))
        return jobs[-1]

    yield begin
    for job in jobs:
        job.kill_all()
