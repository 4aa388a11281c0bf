"""Start `repair_program.py` under mpirun, kill processes of it, and read what became of the others."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

KINDS = ("allreduce", "barrier", "sendrecv", "bcast", "derived", "made", "alone", "mixed")  # of programs
PROGRAM = Path(__file__).with_name("repair_program.py")
SOURCE = Path(__file__).parents[2] / "src"


def mpirun() -> str:
    """The launcher of this Python, else the one in PATH. Without one there is nothing to test: an error."""
    beside = Path(sys.executable).with_name("mpirun")
    found = str(beside) if beside.exists() else shutil.which("mpirun")
    assert found, "no mpirun beside this Python or in PATH: install the extra mpi-wheels, or an MPI and mpi4py"
    return found


def environment(folder: str) -> dict[str, str]:
    env = {**os.environ, "PYTHONPATH": str(SOURCE), "OMPI_MCA_mpi_yield_when_idle": "1", "PYTHONUNBUFFERED": "1"}
    env.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    env["PRTE_MCA_prte_local_tmpdir_base"] = folder  # what a killed mpirun of the same process id left is in the way
    return env


class Job:
    """`repair_program.py KIND` on `ranks` ranks with `spares` spares. A context manager: ends all that it has started."""

    def __init__(
        self, kind: str, ranks: int, spares: int, *, ulfm: bool = True, step: float = 2, whole: float = 6, status: int = 3
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="holdfast-repair-"))
        env = environment(str(self.folder))
        env.update(STEP_SECONDS=str(step), WHOLE_SECONDS=str(whole), LEAVE_STATUS=str(status))
        flags = ["--with-ft", "ulfm"] if ulfm else []
        flags += ["--oversubscribe", "--bind-to", "none", "-n", str(ranks + spares)]
        self.ranks, self.spares = ranks, spares
        self.output = self.folder / "out"
        with open(self.output, "wb") as out:
            self.process = subprocess.Popen(
                [mpirun(), *flags, sys.executable, str(PROGRAM), kind, str(ranks), str(self.folder)],
                env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill(self.living())
        for number in (0, signal.SIGTERM, signal.SIGKILL):  # a killed mpirun leaves segments of shared memory behind
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                if number and self.process.poll() is None:
                    os.killpg(self.process.pid, number)
                self.process.wait(4)
        self.kill(self.living())
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- what has happened ------------------------------------------------------------------

    def pids(self) -> list[int]:
        return sorted(int(path.stem) for path in self.folder.glob("*.log"))

    def notes(self, *whats: str) -> list[dict[str, Any]]:
        """What the processes have noted, in the order of time; of these kinds only, if any are named."""
        lines = []
        for path in self.folder.glob("*.log"):
            for line in path.read_text().splitlines():
                with contextlib.suppress(ValueError):  # of a process that was killed while it wrote
                    lines.append(json.loads(line))
        return sorted((n for n in lines if not whats or n["what"] in whats), key=lambda n: float(n["at"]))

    def holders(self) -> dict[int, int]:
        """{role: pid} by the newest notes."""
        return {n["rank"]: n["pid"] for n in self.notes("computing")}

    def spare_pids(self) -> list[int]:
        return [n["pid"] for n in self.notes("formed") if n["rank"] is None]

    def living(self) -> list[int]:
        return [pid for pid in self.pids() if self._ours(pid)]

    def text(self) -> str:
        stacks = [path.read_text() for path in self.folder.glob("*.stacks")]
        return "\n".join([self.output.read_text(errors="replace"), *filter(None, stacks), *map(str, self.notes())])

    # -- waiting and doing ------------------------------------------------------------------

    def wait(self, until: Callable[[], bool], seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not until():
            if time.monotonic() > end:
                return False
            time.sleep(0.005)
        return True

    def computing(self, repairs: int, seconds: float = 30) -> bool:
        """Wait until all ranks compute after this many repairs, or more."""

        def all_do() -> bool:
            new = {n["rank"] for n in self.notes("computing") if n["repairs"] >= repairs}
            return len(new) == self.ranks or self.process.poll() is not None

        return self.wait(all_do, seconds) and self.process.poll() is None

    def kill(self, pids: Sequence[int]) -> float:
        """Kill them at once; the time at which."""
        now = time.monotonic()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return now

    def stop(self) -> None:
        (self.folder / "stop").touch()

    def over(self, seconds: float) -> bool:
        """Wait until mpirun and all processes have left."""
        return self.wait(lambda: self.process.poll() is not None and not self.living(), seconds)

    def _ours(self, pid: int) -> bool:
        """Whether the process lives and is the one that was started here: ids are used again."""
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return False
        return str(self.folder).encode() in words and state != "Z"
