"""Under MPICH, which ends a job when a rank dies: it is started again, and goes on. The environment with it is made by make."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from programs import PARALLEL, Job, at_version, catalog, until

RANKS, STEPS = 4, 60
PYTHON = Path(sys.prefix) / "mpich" / "bin" / "python"  # Makefile
CLI = [str(PYTHON), "-m", "holdfast.cli"]


@pytest.fixture(autouse=True)
def environment() -> None:
    assert PYTHON.exists(), f"no MPICH to test with: `make {Path(*PYTHON.parts[-4:-2])}/.installed-for-holdfast` brings it"


def undisturbed() -> str:
    fields = [np.ones(16) + rank for rank in range(RANKS)]
    for _ in range(STEPS):
        total = float(fields[0][0])
        for u in fields[1:]:
            total += float(u[0])
        for u in fields:
            u += total * 1e-3
    return f"result {float(sum(u.sum() for u in fields)).hex()}"


def test_a_killed_rank_has_the_job_started_again(tmp_path: Path) -> None:
    """The same result bit for bit, from the newest version, and nobody is left of the first start."""
    (tmp_path / "program.py").write_text(PARALLEL)
    words = [*CLI, "run", "-n", str(RANKS), "--", str(PYTHON), "program.py", "run", str(STEPS), "0.02"]
    job = Job(cwd=tmp_path, log=tmp_path / "job", words=words)
    try:
        first = until(lambda: at_version(tmp_path / "run", 2), 60.0, job)
        assert len(first.processes) == RANKS  # type: ignore[attr-defined]
        os.kill(first.processes[1].pid, signal.SIGKILL)  # type: ignore[attr-defined]
        assert job.end() == 0, job.err
    finally:
        job.process.kill()
    assert job.err.count("4 ranks by MPICH") == 2 and job.err.count("resumes from version") == 1, job.err
    assert job.result == undisturbed()
    found = catalog(tmp_path / "run")
    assert found is not None and not any(p.alive for a in found.attempts for p in a.processes)


def test_spares_are_refused_before_anything_is_started(tmp_path: Path) -> None:
    words = [*CLI, "run", "-n", "2", "--spares", "1", "--", "touch", "started"]
    job = Job(cwd=tmp_path, log=tmp_path / "job", words=words)
    assert job.end() == 1, job.err
    assert "Spare ranks need Open MPI 5" in job.err and "there is MPICH" in job.err
    assert not (tmp_path / "started").exists()
