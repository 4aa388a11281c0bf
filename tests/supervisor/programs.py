"""Programs to be supervised, and `holdfast run` around them as a user starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import holdfast
from holdfast.catalog import Attempt, Catalog, read_catalog
from holdfast.store import open_store

SOURCES = str(Path(next(iter(holdfast.__path__))).parent)
CLI = [sys.executable, "-m", "holdfast.cli"]

# Each takes the run's directory, the number of steps, the seconds of a step. Prints the result at its end.
SERIAL = """
import sys, time
import numpy as np, holdfast
url, steps, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
with holdfast.open(url) as run:
    u = run.protect("u", np.ones(16))
    for step in run.steps(steps, every=holdfast.steps(2)):
        u *= 1.01
        u += step
        time.sleep(pause)
print("result", u.sum().hex(), flush=True)
"""

PARALLEL = """
import sys, time
import numpy as np, holdfast
from mpi4py import MPI
steps, pause = int(sys.argv[2]), float(sys.argv[3])
def main(run):
    comm = run.comm
    u = run.protect("u", np.ones(16) + comm.rank)
    for step in run.steps(steps, every=holdfast.steps(2)):
        u += comm.allreduce(float(u[0])) * 1e-3
        time.sleep(pause)
    total = comm.allreduce(u.sum())
    if comm.rank == 0:
        print("result", float(total).hex(), flush=True)
holdfast.launch(main, sys.argv[1], comm=MPI.COMM_WORLD)
"""


class Job:
    """`holdfast run` as a process; everything that it wrote in `out` and `err` once it has ended.

    `words`: the whole command, in place of the one that `arguments` are for.
    """

    def __init__(
        self,
        *arguments: object,
        cwd: Path,
        log: Path,
        words: Sequence[str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        env = {**(environment or os.environ), "PYTHONPATH": SOURCES}
        words = words or [*CLI, "run", *map(str, arguments)]
        self._logs = [log.with_suffix(".out"), log.with_suffix(".err")]  # files: an orphan would keep a pipe open
        with open(self._logs[0], "w") as out, open(self._logs[1], "w") as err:
            self.process = subprocess.Popen(words, cwd=cwd, env=env, stdout=out, stderr=err)
        self.out = self.err = ""

    def end(self, seconds: float = 60.0) -> int:
        """Waits for its end; its exit code."""
        try:
            self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(timeout=10)
            raise AssertionError(f"holdfast run did not end:\n{self._read()}") from None
        self._read()
        return self.process.returncode

    def _read(self) -> str:
        self.out, self.err = (log.read_text() for log in self._logs)
        return f"{self.out}\n{self.err}"

    def state(self) -> str:
        """What it has written so far, and the processes below it: number, name, state, where they wait, command."""
        return f"{self._read()}\n" + "\n".join(_tree(self.process.pid))

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    @property
    def result(self) -> str:
        lines = [line for line in self.out.splitlines() if line.startswith("result ")]
        assert len(lines) == 1, f"{self.out}\n{self.err}"
        return lines[0]


def catalog(url: Path) -> Catalog | None:
    """The run's catalog, None while there is no run."""
    if not (url / "holdfast.json").exists():
        return None
    return read_catalog(open_store(url, create=False, read_only=True))


def newest(url: Path) -> Attempt | None:
    found = catalog(url)
    return found.attempts[-1] if found and found.attempts else None


def until(condition: Callable[[], object], seconds: float = 30.0, job: Job | None = None) -> object:
    """Waits for `condition` to be true; its value. If that does not come, or `job` ends before, it tells how that one is."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        over = job is not None and job.process.poll() is not None and not condition()
        if over or time.monotonic() > deadline:
            raise AssertionError(f"what the test waits for did not come\n{job.state() if job else ''}")
        time.sleep(0.01)
    return value


def _tree(root: int) -> list[str]:
    """A line for each process below `root`, in whatever session it is, and for itself."""
    lines, parents = {}, {}
    for name in os.listdir("/proc"):
        try:
            text = Path(f"/proc/{int(name)}/stat").read_text()
            waits = Path(f"/proc/{name}/wchan").read_text()
            words = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (OSError, ValueError):
            continue
        head, _, rest = text.rpartition(")")
        parents[int(name)] = int(rest.split()[1])
        lines[int(name)] = f"  {head}) {rest.split()[0]}, waits in {waits or '?'}: {words[:150]}"
    below = {root}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return [lines[pid] for pid in sorted(below) if pid in lines]


def at_version(url: Path, number: int) -> Attempt | None:
    """The newest attempt once the run has reached version `number`; for `until`."""
    found = catalog(url)
    return found.attempts[-1] if found and found.lineage and found.lineage[0].number >= number else None
