"""A supervised MPI job and all its processes, whoever is their parent: found by a variable that they inherit."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

_TAG = "HEAT_CAMPAIGN_JOB"  # not HOLDFAST_*: the library takes such names for its options


class Job:
    """What is started in `directory`, one command after the other; their output goes to `output`."""

    def __init__(self, directory: Path, output: Path) -> None:
        self.directory, self.output = directory, output
        self._tag = uuid.uuid4().hex
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, argv: Sequence[str], **variables: str) -> None:
        environment = {**os.environ, **variables, _TAG: self._tag, "PYTHONFAULTHANDLER": "1", "OPENBLAS_NUM_THREADS": "1"}
        with self.output.open("ab") as out:
            self.process = subprocess.Popen(
                list(argv), cwd=self.directory, env=environment, stdin=subprocess.DEVNULL,
                stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    @property
    def code(self) -> int | None:
        """The exit code of what was started last; None while it lives."""
        return self.process.poll() if self.process else None

    def processes(self) -> list[int]:
        """Living processes of all that was started here."""
        return [pid for pid, variables in _environments() if f"{_TAG}={self._tag}".encode() in variables]

    def ranks(self) -> list[int]:
        mine = f"{_TAG}={self._tag}".encode()
        found = [(pid, v) for pid, v in _environments() if mine in v]
        return sorted(pid for pid, v in found if any(x.startswith(b"OMPI_COMM_WORLD_RANK=") for x in v))

    def launchers(self) -> list[int]:
        """mpirun: what the supervisor has started itself."""
        supervisor = self.process.pid if self.process else -1
        return [pid for pid in self.processes() if _parent(pid) == supervisor]

    def kill_everything(self) -> None:
        """SIGKILL until nothing is left."""
        until = time.monotonic() + 20
        while pids := self.processes():
            for pid in pids:
                kill(pid)
            if time.monotonic() > until:
                raise TimeoutError(f"processes {pids} outlive SIGKILL")
            time.sleep(0.02)
        if self.process is not None:
            self.process.wait(20)

    def dump_stacks(self) -> None:
        """Each Python process writes its threads' stacks to its output and ends."""
        for pid in self.processes():
            kill(pid, signal.SIGABRT)
        time.sleep(2)


def kill(pid: int, number: int = signal.SIGKILL) -> bool:
    """False if it was gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False


def _environments() -> list[tuple[int, list[bytes]]]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):  # gone, or another user's
                found.append((int(name), Path(f"/proc/{name}/environ").read_bytes().split(b"\0")))
    return found


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0
