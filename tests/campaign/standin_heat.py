"""The heat example on stand-in nodes under `holdfast run`, and what its output tells: for part F (`levels.py`)."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "supervisor"))
from programs import Job
from standins import Nodes, nodes

RANKS, PER_NODE, NODES = 8, 2, 4
SIZE, STEPS, EVERY, PAUSE = 64, 40, 4, 0.03
SHM = 512 << 20  # bytes of a node's memory at most: Open MPI takes 16 MiB for each of up to eight ranks
LEASE = 4.0  # seconds without a sign after which an attempt elsewhere, whose supervisor is dead, counts as dead
DEADLINE = 180.0  # seconds for any one wait: some thirty times what it takes on a quiet machine
SCRATCH = "SCRATCH"  # stands for the node's own directory in the levels that a scene names

_HEAT = Path(__file__).resolve().parents[2] / "examples" / "heat.py"
# The example, with its log, and with levels that may name the node's own scratch directory.
_PROGRAM = f"""
import logging, os, runpy, sys
levels = os.environ["HOLDFAST_LEVELS"]
os.environ["HOLDFAST_LEVELS"] = levels.replace({SCRATCH!r}, os.environ["HOLDFAST_NODE_SCRATCH"])
logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stdout)
sys.argv = [{str(_HEAT)!r}, *sys.argv[1:]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Trouble(Exception):
    """What was waited for did not come, or what must be in the output is not."""


class Heat:
    """One run of the example on nodes that are up; `start` may be called again when all has been killed."""

    def __init__(self, base: Path, standins: Nodes, levels: str, count: int, spares: int) -> None:
        self.base, self.standins, self.levels, self.spares = base, standins, levels, spares
        (base / "program.py").write_text(_PROGRAM)
        (base / "hosts").write_text("".join(f"node{i} slots={PER_NODE}\n" for i in range(count)))
        self.job: Job | None = None
        self.logs: list[Path] = []

    def start(self) -> None:
        given = {"size": SIZE, "steps": STEPS, "every": EVERY, "pause": PAUSE, "run": "run", "out": "field.npy"}
        words = [f"--{name}={value}" for name, value in {**given, "log": "log.csv"}.items()]
        nodes_ = ["--hostfile", "hosts", *(["--spare-nodes", self.spares] if self.spares else [])]
        self.logs.append(self.base / f"job-{len(self.logs)}")
        options = {"HOLDFAST_LEVELS": self.levels, "HOLDFAST_LEASE": f"{LEASE:g}"}
        program = [sys.executable, "program.py", *words]
        self.job = self.standins.run("-n", RANKS, *nodes_, "--grace", 5, "--", *program, **options)

    # -- what it has written ----------------------------------------------------------------

    @property
    def out(self) -> str:
        return self._read(".out")

    @property
    def err(self) -> str:
        return self._read(".err")

    def _read(self, suffix: str) -> str:
        return "".join(log.with_suffix(suffix).read_text(errors="replace") for log in self.logs)

    @property
    def newest(self) -> int:
        """Number of the newest version that rank 0 has told of, at whatever level it came first."""
        return max((int(n) for n in re.findall(r"checkpoint (\d+) (?:at the level|durable)", self.out)), default=0)

    def placements(self) -> list[list[str]]:
        """For each start of the program, the node of each rank."""
        found = []
        for line in re.findall(r"^holdfast: starts .* on (node.*?)(?:;.*)?$", self.err, re.MULTILINE):
            found.append([name for name, count in re.findall(r"(\S+) \((\d+)\)", line) for _ in range(int(count))])
        return found

    def stored(self) -> list[int]:
        """Numbers of the versions that are committed in the run's own store now."""
        commits = (self.base / "run" / "versions").glob("*/commit")
        return sorted(int(path.parent.name.partition("-")[0]) for path in commits)

    # -- what happens to it -----------------------------------------------------------------

    def wait(self, what: str, ready: Callable[[], bool]) -> None:
        """Until `ready()`; Trouble if that does not come, or the supervisor has ended and it is not so."""
        until = time.monotonic() + DEADLINE
        assert self.job is not None
        while not ready():
            if self.job.process.poll() is not None and not ready():
                raise Trouble(f"the job ended with {self.job.process.returncode} instead of {what}")
            if time.monotonic() > until:
                raise Trouble(f"waited {DEADLINE:g} s for {what}; {self.job.state()[-20_000:]}")
            time.sleep(0.01)

    def end(self) -> int:
        """Waits for the supervisor's end; its exit code."""
        assert self.job is not None
        self.wait("the end", lambda: self.job is not None and self.job.process.poll() is not None)
        return self.job.end()

    def kill_rank(self, rank: int) -> None:
        pids = [pid for pid, of in self.ranks() if of == rank]
        if len(pids) != 1:
            raise Trouble(f"rank {rank} is to be killed, and its processes are {pids}")
        os.kill(pids[0], signal.SIGKILL)

    def kill_nodes(self, names: Iterable[str]) -> None:
        """All at one moment for the supervisor: between two of them it could look, and begin on the one that is lost next."""
        assert self.job is not None
        self.job.signal(signal.SIGSTOP)
        try:
            for name in names:
                self.standins.cluster.kill(name)
        finally:
            self.job.signal(signal.SIGCONT)

    def wipe_memory(self, name: str) -> None:
        """As if a node had been started anew, but for its scratch directory."""
        cluster = self.standins.cluster
        words = cluster.on(name, ["sh", "-c", 'rm -r "$HOLDFAST_NODE_MEMORY"/holdfast-*'])
        subprocess.run(words, env=cluster.environment(), stdin=subprocess.DEVNULL, timeout=DEADLINE, check=True)

    def kill_everything(self) -> None:
        """The supervisor, mpirun and all ranks; the nodes stay, with what they hold."""
        assert self.job is not None
        self.job.signal(signal.SIGKILL)
        self.job.process.wait(10)
        for pid, _ in self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + DEADLINE
        while list(self._processes()):
            if time.monotonic() > until:
                raise Trouble("processes outlive SIGKILL")
            time.sleep(0.02)

    def ranks(self) -> list[tuple[int, int]]:
        """(process id, rank) of the ranks that live."""
        mark = b"OMPI_COMM_WORLD_RANK="
        found = []
        for pid, variables in self._processes():
            found += [(pid, int(v[len(mark) :])) for v in variables if v.startswith(mark)]
        return found

    def _processes(self) -> Iterator[tuple[int, list[bytes]]]:
        """Whatever has the job's directory for its own and is not a node's first process: those are in another."""
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError, ValueError):
                if os.readlink(f"/proc/{int(name)}/cwd") == str(self.base) and int(name) != os.getpid():
                    yield int(name), Path(f"/proc/{name}/environ").read_bytes().split(b"\0")


@contextmanager
def heat(base: Path, levels: str, spares: int, simulated: bool = False) -> Iterator[Heat]:
    """The example in the new directory `base`, on four nodes that are up and `spares` more, started; nothing is left of it."""
    base.mkdir(parents=True)
    with nodes(base, NODES + spares, simulated, SHM) as standins:
        job = Heat(base, standins, levels, NODES + spares, spares)
        job.start()
        yield job
