"""What the tests of `run/` share: what a kill leaves behind, a loop that dies, programs of their own process."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import holdfast

SOURCE = str(Path(holdfast.__file__).resolve().parents[1])


def crash(run: holdfast.Run) -> None:
    """Leave `run` as a kill would: no end is recorded, nothing is completed. Only what this process would go on doing or
    holding (the lease's thread, signal handlers, files) is stopped."""
    x = run._x
    x.interrupts.restore()
    x.files.close()
    x.resume.close()
    if x.writer.freezing._tracking is not None:
        x.writer.freezing._tracking.close()  # memory has one tracker
    if x.writer.carry is not None:
        x.writer.carry.close()
    for closer in x.closers:
        closer()
    x.watching.stop()


def go(run: holdfast.Run, n: int | None, die: int | None = None, **options: Any) -> list[int]:
    """The numbers that a loop yields; at step `die` it is left before the step's work is done, as by a kill."""
    seen = []
    for step in run.steps(n, **options):
        if step == die:
            break
        seen.append(step)
    return seen


def program(tmp_path: Path, text: str, name: str = "program.py") -> list[str]:
    """The command that executes this text as a program."""
    path = tmp_path / name
    path.write_text("import os, signal, sys\nimport numpy as np\nimport holdfast\n" + textwrap.dedent(text))
    return [sys.executable, "-W", "error", str(path)]


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": SOURCE, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", **variables}


def execute(command: list[str], cwd: Path, seconds: float = 30, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, at most `seconds`."""
    return subprocess.run(
        command, cwd=cwd, env=environment(**variables), capture_output=True, text=True, timeout=seconds,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def flip(path: Path, offset: int) -> None:
    """One bit of a file is another."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def data_file(run: holdfast.Run, version: int, rank: int = 0) -> Path:
    """The data file of one rank of a checkpoint."""
    name = next(v.name for v in run.versions if v.number == version and v.kind == "checkpoint")
    return Path(run.url) / f"versions/{name}/data/r{rank:06d}"
