"""The programs of the README are what a stranger copies: they run as they stand, die and resume."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from harness import HOLDFAST, attempts, base_of, committed, kill, ranks_of, until

README = Path(__file__).resolve().parents[2] / "README.md"
STEPS = "20_000"


def program(number: int, steps: int, directory: Path, name: str) -> Path:
    """README's program `number`, with fewer steps, as a file in `directory`."""
    text = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)[number]
    assert text.count(STEPS) == 1
    directory.mkdir()
    path = directory / name
    path.write_text(text.replace(STEPS, str(steps)), encoding="utf-8")
    return path


def test_serial(start, tmp_path):
    calm = start([sys.executable, str(program(0, 3000, tmp_path / "calm", "plate.py"))], tmp_path / "calm")
    assert calm.wait(60) == 0, calm.output()

    again = [sys.executable, str(program(0, 3000, tmp_path / "killed", "plate.py"))]
    run = tmp_path / "killed/runs/plate"
    job = start(again, tmp_path / "killed")
    until("two versions", lambda: len(committed(run)) >= 2, job)
    job.kill_all()
    assert job.process.returncode == -9, job.output()
    job = start(again, tmp_path / "killed")
    assert job.wait(60) == 0, job.output()
    assert base_of(run, attempts(run)) is not None
    assert result(job) == result(calm)


def test_mpi(start, tmp_path):
    calm = start(supervised(program(1, 500, tmp_path / "calm", "relax.py")), tmp_path / "calm")
    assert calm.wait(60) == 0, calm.output()

    path = program(1, 500, tmp_path / "killed", "relax.py")
    path.write_text(path.read_text().replace("seconds(2)", "steps(25)"))  # soon enough to be there at the kill
    run = tmp_path / "killed/runs/relax"
    job = start(supervised(path), tmp_path / "killed")
    until("two versions", lambda: len(committed(run)) >= 2, job)
    assert kill(ranks_of(run, 1)[1]), job.output()
    assert job.wait(60) == 0, job.output()
    assert attempts(run) == 2
    assert base_of(run, 2) is not None
    assert result(job) == result(calm)


def supervised(path: Path) -> list[str]:
    return [*HOLDFAST, "run", "-n", "2", "--", "python", path.name]


def result(job) -> list[str]:
    """The line with the number that the program computed."""
    found = [line for line in job.output().splitlines() if re.match(r"(mean|x\[0\]) ", line)]
    assert len(found) == 1, job.output()
    return found
