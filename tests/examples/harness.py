"""Starts, watches and kills whole programs: every wait has a deadline, everything started is ended by process id.

A job is one command with all its descendants, whatever sessions and process groups a launcher puts them in: they are
found by an environment variable that they inherit.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
HOLDFAST = (sys.executable, "-m", "holdfast.cli")
TAG = "EXAMPLES_TEST_JOB"


class Job:
    """A running command. `log`: the file that takes its output."""

    def __init__(self, argv: Sequence[str], cwd: Path, log: Path) -> None:
        self.log = log
        self._tag = uuid.uuid4().hex
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                list(argv),
                cwd=cwd,
                env={**os.environ, TAG: self._tag},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def alive(self) -> bool:
        return self.process.poll() is None

    def wait(self, seconds: float) -> int:
        """The exit status; after `seconds` everything is killed and an AssertionError tells the output."""
        try:
            return self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill_all()
            raise AssertionError(f"not finished after {seconds} s; its output:\n{self.output()}") from None

    def kill_all(self) -> None:
        """SIGKILL to the command and every descendant, at once; returns when none is left."""
        deadline = time.monotonic() + 10
        while pids := self._pids():
            for pid in pids:
                kill(pid)
            if time.monotonic() > deadline:
                raise AssertionError(f"processes {pids} outlive SIGKILL")
            time.sleep(0.02)
        self.process.wait(timeout=10)

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def _pids(self) -> list[int]:
        wanted = f"{TAG}={self._tag}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:  # gone meanwhile, or another user's
                continue
            if wanted in environment.split(b"\0"):
                found.append(int(entry.name))
        return found


def kill(pid: int) -> bool:
    """SIGKILL; False if the process was gone already."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def until(what: str, ready: Callable[[], bool], job: Job, seconds: float = 30.0) -> None:
    """Waits for `ready()`; fails with the job's output if the job ends first or `seconds` pass."""
    deadline = time.monotonic() + seconds
    while not ready():
        if not job.alive() or time.monotonic() > deadline:
            state = "still running" if job.alive() else f"ended with {job.process.returncode}"
            raise AssertionError(f"waited for {what}, the job {state}; its output:\n{job.output()}")
        time.sleep(0.005)


# -- what lies in a run's directory, read by docs/format.md alone ------------------------------------------------------


def record(path: Path) -> dict:
    """The JSON text of a record file's first line."""
    return json.loads(path.read_text(encoding="utf-8").split("\n", 1)[0][33:])


def committed(run: Path) -> set[str]:
    """Names of the versions whose commit exists at this moment."""
    return {path.parent.name for path in run.glob("versions/*/commit")}


def attempts(run: Path) -> int:
    """Number of the newest attempt, 0 if there is none."""
    return max((int(path.stem) for path in run.glob("attempts/*.json")), default=0)


def base_of(run: Path, attempt: int) -> dict | None:
    """`{name, digest}` of the version from which `attempt` went on, or None; the attempt must be sealed."""
    return record(run / f"attempts/{attempt:06}.base")["version"]


def sealed(run: Path, attempt: int) -> bool:
    return (run / f"attempts/{attempt:06}.base").exists()


def ranks_of(run: Path, attempt: int) -> list[int]:
    """Process ids of the attempt's ranks."""
    return [process["pid"] for process in record(run / f"attempts/{attempt:06}.json")["processes"]]
