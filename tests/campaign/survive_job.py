"""A job of part G as it is seen from outside: its processes by their notes, its versions by their files."""

from __future__ import annotations

import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from .jobs import Job
from .ledger import Ledger
from .survive_notes import ORDERS, Orders, Process, What

RANKS, SPARES = 4, 2
SIZE, EVERY, PAUSE = 64, 5, 0.008
HANG = 30.0  # seconds without a note of any process
LONGEST = 150.0  # seconds for any one wait, whatever is noted meanwhile
TICK = 0.002


class Trouble(Exception):
    """What was waited for did not come."""


class HeatJob:
    """One run of the program in the new directory `base`; `memory`: versions go to the node's memory first."""

    def __init__(self, base: Path, steps: int, memory: bool) -> None:
        shutil.rmtree(base, ignore_errors=True)
        (base / "notes").mkdir(parents=True)
        self.base, self.steps = base, steps
        self.orders = Orders(base / "notes", make=True)
        self.ledger = Ledger(base / "ledger")
        self.job = Job(base, base / "output.txt")
        self.place = Path("/dev/shm") / f"holdfast-survive-{uuid.uuid4().hex[:12]}" if memory else None
        self.starts: list[float] = []
        self.known: dict[str, Process] = {}
        given = {"size": SIZE, "steps": steps, "every": EVERY, "pause": PAUSE, "run": "run", "out": "out.npy"}
        words = [f"--{name}={value}" for name, value in {**given, "log": "log.csv", "ledger": "ledger"}.items()]
        start = [sys.executable, "-m", "holdfast.cli", "run", "-n", str(RANKS), "--spares", str(SPARES), "--grace", "5"]
        self.command = [*start, "--", sys.executable, str(Path(__file__).with_name("survive_program.py")), *words]

    def start(self) -> None:
        options = {"SURVIVE_NOTES": str(self.base / "notes"), "HOLDFAST_ON_ERROR": "warn"}
        if self.place is not None:
            self.place.mkdir(exist_ok=True)
            options["HOLDFAST_LEVELS"] = f"memory:root={self.place},global"
        self.starts.append(time.monotonic())
        self.job.start(self.command, **options)

    def end(self) -> None:
        """No process and no memory is left."""
        self.job.kill_everything()
        self.wipe_memory()
        for process in self.known.values():
            process.close()

    def wipe_memory(self) -> None:
        if self.place is not None:
            shutil.rmtree(self.place, ignore_errors=True)

    # -- what is seen -----------------------------------------------------------------------

    def look(self) -> list[Process]:
        """All processes that have noted anything yet, up to now."""
        for name in os.listdir(self.base / "notes"):
            if name != ORDERS and name not in self.known:
                self.known[name] = Process(self.base / "notes" / name)
        for process in self.known.values():
            process.read()
        return list(self.known.values())

    @property
    def attempt(self) -> int:
        """The newest in which the program's function was called; 0: none."""
        return max((n.attempt for p in self.look() for n in p.notes), default=0)

    def holders(self, attempt: int) -> dict[int, Process]:
        """Which process was which rank in an attempt."""
        return {n.rank: p for p in self.known.values() for n in p.notes if n.attempt == attempt}

    def again(self, attempt: int, since: float) -> float | None:
        """When all ranks had done a step in `attempt` after `since`; None if they have not."""
        firsts = [
            min((n.at for n in p.notes if n.what is What.STEP and n.attempt == attempt and n.at > since), default=None)
            for p in self.holders(attempt).values()
        ]
        done = [at for at in firsts if at is not None]
        return max(done) if len(done) == RANKS else None

    def reached(self, attempt: int | None = None, before: float = float("inf")) -> int:
        """Steps that some rank had done, in this attempt or any."""
        notes = (n for p in self.known.values() for n in p.notes if n.what is What.STEP and n.at <= before)
        return max((n.step for n in notes if attempt in (None, n.attempt)), default=0)

    def in_flight(self) -> bool:
        """Whether a version has been begun and is not committed, as its files tell."""
        folders = [self.base / "run" / "versions"]
        folders += self.place.glob("*/*/versions") if self.place is not None else []
        return any(_newest_open(folder) for folder in folders)

    # -- waiting ----------------------------------------------------------------------------

    def wait(self, what: str, ready: Callable[[], bool], longest: float = LONGEST, tick: float = TICK) -> None:
        """Until `ready()`. Trouble: nobody noted anything for HANG seconds, `longest` is over, or the supervisor gave up."""
        began, told = time.monotonic(), ""
        while not ready():
            now = time.monotonic()
            last = max((p.last.at for p in self.look() if p.last is not None), default=0.0)
            if self.job.code not in (None, 0):
                told = f"gave up with {self.job.code}"
            elif now - max(last, began, self.starts[-1]) > HANG:
                told = f"hang: {HANG:g} s without a sign"
            elif now - began > longest:
                told = f"hang: {longest:g} s"
            if told:
                self.job.dump_stacks()
                raise Trouble(f"{told}, while waiting for {what}; {self.tail()}")
            time.sleep(tick)

    def tail(self, characters: int = 12000) -> str:
        text = self.job.output.read_text(errors="replace") if self.job.output.exists() else ""
        return f"the end of its output:\n{text[-characters:]}"


def _newest_open(folder: Path) -> bool:
    try:
        newest = max(os.listdir(folder), default=None)
    except FileNotFoundError:
        return False
    return newest is not None and not (folder / newest / "commit").exists()
