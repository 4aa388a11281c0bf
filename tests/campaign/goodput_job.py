"""A job whose ranks are killed, and what is seen of it from outside."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from .goodput_tally import PREFIX, Row, read_rows
from .jobs import Job, kill
from .survive_job import Trouble
from .survive_notes import Process, What

RANKS = 4
STEPS = 1 << 30  # more than any job does: it is ended by the clock
STARTS = 120.0  # seconds for a job to compute
HANG = 120.0  # seconds without a step of any rank, or a note of any process
LOOK = 0.25  # seconds between looks at whether it hangs


@dataclass(frozen=True)
class Setting:
    """What a job is made of, the same for the runs that are compared. `size`: grid points along each side; `memory`: versions
    go to the node's memory first; `pause`: seconds of sleep in each step."""

    size: int = 1024
    spares: int = 8
    memory: bool = True
    pause: float = 0.0


class Kill(NamedTuple):
    """`at`: when, by the monotonic clock; `attempt`: the last one in which the victim's program was called."""

    at: float
    attempt: int


@dataclass
class Seen:
    """What a job has done. `began`, `ended`: when it was started, and the moment up to which it is accounted for; `kills`,
    oldest first; `rows`, `processes`: what it told; `output`: what it printed."""

    began: float
    ended: float = 0.0
    kills: list[Kill] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    output: str = ""


class KilledJob:
    """One job in the new directory `base`: `program` (a script, its words) on RANKS ranks and spares, which notes what it does
    as `goodput_program.py` does, in the directory that GOODPUT_NOTES names. `memory`: versions go to the node's memory
    first. Ended by leaving the block."""

    def __init__(self, base: Path, program: Sequence[str], spares: int, memory: bool, **variables: str) -> None:
        shutil.rmtree(base, ignore_errors=True)
        self.notes = base / "notes"
        self.notes.mkdir(parents=True)
        self.base = base
        self.job = Job(base, base / "output.txt")
        self.known: dict[str, Process] = {}
        self.place = Path("/dev/shm") / f"holdfast-goodput-{uuid.uuid4().hex[:12]}" if memory else None
        waiting = ["--spares", str(spares)] if spares else []
        head = [sys.executable, "-m", "holdfast.cli", "run", "-n", str(RANKS), *waiting, "--grace", "5", "--"]
        self._command = [*head, sys.executable, *program]
        self._variables = {**variables, "GOODPUT_NOTES": str(self.notes)}
        self.began = 0.0

    def __enter__(self) -> KilledJob:
        if self.place is not None:
            self.place.mkdir()
            self._variables["HOLDFAST_LEVELS"] = f"memory:root={self.place},global"
        self.began = time.monotonic()
        self.job.start(self._command, **self._variables)
        return self

    def __exit__(self, *_: object) -> None:
        self.job.kill_everything()
        if self.place is not None:
            shutil.rmtree(self.place, ignore_errors=True)
        for process in self.known.values():
            process.close()

    def look(self) -> list[Process]:
        """All processes that have noted anything yet, up to now."""
        for name in os.listdir(self.notes):
            if not name.startswith(PREFIX) and name not in self.known:
                self.known[name] = Process(self.notes / name)
        for process in self.known.values():
            process.read()
        return list(self.known.values())

    def computing(self, since: float = 0.0) -> float | None:
        """When the last rank had its first head after `since`, in the newest attempt in which all had; None: in none yet."""
        heads: dict[int, dict[int, float]] = {}
        for process in self.look():
            for note in process.notes:
                if note.what is What.RESUMED and note.at > since:
                    heads.setdefault(note.attempt, {})[note.rank] = note.at
        whole = [attempt for attempt, ranks in heads.items() if len(ranks) == RANKS]
        return max(heads[max(whole)].values()) if whole else None

    def kill_one(self, chance: random.Random) -> Kill | None:
        """SIGKILL to a process that has a rank, chosen at random. None: there was none."""
        newest: dict[int, tuple[int, Process]] = {}
        for process in self.look():
            opened = [note for note in process.notes if note.what is What.OPENED]
            if opened and process.alive:
                last = opened[-1]
                newest[last.rank] = max(newest.get(last.rank, (0, process)), (last.attempt, process), key=lambda x: x[0])
        if not newest:
            return None
        attempt, victim = newest[chance.choice(sorted(newest))]
        at = time.monotonic()
        return Kill(at, attempt) if kill(victim.pid, signal.SIGKILL) else None

    def wait(self, until: float, ready: Callable[[], bool] = lambda: False, look: float = LOOK) -> None:
        """Until the monotonic clock says so, or `ready()`, asked every `look` seconds. Trouble: the job has left, or nobody has
        moved for HANG seconds."""
        moved, seen = time.monotonic(), (0.0, 0.0)
        while (now := time.monotonic()) < until and not ready():
            newest = self._newest()
            if newest != seen:
                seen, moved = newest, now
            if self.job.code is not None:
                raise Trouble(f"the job has left with {self.job.code}; {self.tail()}")
            if now - moved > HANG:
                self.job.dump_stacks()
                raise Trouble(f"hang: {HANG:g} s without a step; {self.tail()}")
            time.sleep(min(look, max(0.0, until - now)))

    def _newest(self) -> tuple[float, float]:
        notes = (process.last.at for process in self.look() if process.last is not None)
        return max(notes, default=0.0), max((row.last_at for row in read_rows(self.notes)), default=0.0)

    def start_up(self) -> float:
        """Wait until all ranks compute; when they did."""
        until = time.monotonic() + STARTS
        self.wait(until, lambda: self.computing() is not None)
        found = self.computing()
        if found is None:
            raise Trouble(f"it does not compute after {STARTS:g} s; {self.tail()}")
        return found

    def seen(self, kills: list[Kill]) -> Seen:
        """Up to now."""
        ended = time.monotonic()
        rows, processes = read_rows(self.notes), self.look()
        return Seen(self.began, ended, kills, rows, processes, self.tail(1 << 20))

    def tail(self, characters: int = 6000) -> str:
        path = self.job.output
        return path.read_text(errors="replace")[-characters:] if path.exists() else "no output"


def heat_job(base: Path, setting: Setting, cadence: str) -> KilledJob:
    """Heat without an end; `cadence` as `goodput_program.CADENCE` has it."""
    given = {"size": setting.size, "steps": STEPS, "pause": setting.pause, "run": "run", "out": "out.npy", "log": "log.csv"}
    words = [f"--{name}={value}" for name, value in given.items()]
    program = [str(Path(__file__).with_name("goodput_program.py")), *words]
    return KilledJob(base, program, setting.spares, setting.memory, GOODPUT_CADENCE=cadence)
