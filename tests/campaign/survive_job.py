"""A job of part G as it is seen from outside: its processes by their notes, its versions by their files."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from .jobs import Job
from .ledger import Ledger
from .survive_kinds import Setting
from .survive_notes import ORDERS, Note, Orders, Process, What

RANKS, SPARES = 4, 12
SIZE, EVERY = 64, 3
PAUSE = 6000  # microseconds that a step sleeps
HANG = 30.0  # seconds without a note of any process
START = 90.0  # the same while a start is under way: on a busy machine so many interpreters take long to begin
LONGEST = 150.0  # seconds for any one wait, whatever is noted meanwhile
TICK = 0.004
SMALL = 64 << 20  # bytes of a small file system


class Trouble(Exception):
    """What was waited for did not come."""


class HeatJob:
    """One run of the program in the new directory `base`, with `spares` processes beside its ranks. `cache`: where compiled
    modules are kept, which a start would otherwise make anew in each process."""

    def __init__(
        self, base: Path, steps: int, setting: Setting, spares: int = SPARES, cache: Path | None = None
    ) -> None:
        shutil.rmtree(base, ignore_errors=True)
        (base / "notes").mkdir(parents=True)
        self.base, self.steps, self.setting, self.cache = base, steps, setting, cache
        self.spares = spares
        self.name, self.ranks = setting.value, RANKS
        self.orders = Orders(base / "notes", make=True)
        self.orders.slow = PAUSE
        self.ledger = Ledger(base / "ledger")
        self.job = Job(base, base / "output.txt")
        self.disk = base / "disk"
        self.disk.mkdir()
        if setting is Setting.SMALL:
            words = ["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "holdfast-survive", str(self.disk)]
            subprocess.run(words, check=True, timeout=20)
        self.run = self.disk / "run"
        self.place = self._place()
        self.starts: list[float] = []
        self.known: dict[str, Process] = {}
        given = {"size": SIZE, "steps": steps, "every": EVERY, "pause": 0, "run": "disk/run", "out": "out.npy"}
        self.words = [f"--{name}={value}" for name, value in {**given, "log": "log.csv", "ledger": "ledger"}.items()]
        self.out, self.log = base / "out.npy", base / "log.csv"
        self.program = [sys.executable, str(Path(__file__).with_name("survive_program.py")), *self.words]
        start = [sys.executable, "-m", "holdfast.cli", "run", "-n", str(RANKS), "--spares", str(spares), "--grace", "5"]
        self.command = [*start, "--", *self.program]

    def _place(self) -> Path | None:
        """Where nodes keep versions, if they do."""
        if self.setting in (Setting.STORE, Setting.SMALL, Setting.DIGITS):
            return None
        if self.setting is Setting.LOCAL:
            return self.base / "local"
        return Path("/dev/shm") / f"holdfast-survive-{uuid.uuid4().hex[:12]}"

    def options(self) -> dict[str, str]:
        """The environment of the job, beside the driver's own."""
        options = {"SURVIVE_NOTES": str(self.base / "notes"), "HOLDFAST_ON_ERROR": "warn", "HOLDFAST_LEVELS": "global"}
        if self.cache is not None:
            options |= {"PYTHONPYCACHEPREFIX": str(self.cache), "PYTHONDONTWRITEBYTECODE": ""}
        if self.place is not None:
            levels = self.setting.value
            if self.setting.seats:
                options["SURVIVE_SEATS"] = str(self.place)
            else:
                first, _, rest = levels.partition(",")
                levels = f"{first}:root={self.place},{rest}"
            options["HOLDFAST_LEVELS"] = levels
        return options

    def start(self, **more: str) -> None:
        """`more`: of the environment."""
        if self.place is not None:
            self.place.mkdir(exist_ok=True)
        self.starts.append(time.monotonic())
        self.job.start(self.command, **self.options(), **more)

    def end(self) -> None:
        """No process and no memory is left."""
        self.job.kill_everything()
        self.wipe_memory()
        for process in self.known.values():
            process.close()
        if os.path.ismount(self.disk):
            with contextlib.suppress(subprocess.SubprocessError):
                subprocess.run(["umount", "-l", str(self.disk)], check=True, timeout=20)

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
        return max((max(p.of, default=0) for p in self.look()), default=0)

    def holders(self, attempt: int) -> dict[int, Process]:
        """Which process was which rank in an attempt."""
        return {p.of[attempt][-1].rank: p for p in self.known.values() if attempt in p.of}

    def again(self, attempt: int, since: float) -> float | None:
        """When all ranks had done a step in `attempt` after `since`; None if they have not."""
        found = []
        for process in self.holders(attempt).values():
            steps = [n.at for n in process.of[attempt] if n.what is What.STEP and n.at > since]
            if not steps:
                return None
            found.append(steps[0])
        return max(found) if len(found) == self.ranks else None

    def reached(self, attempt: int | None = None, before: float = float("inf")) -> int:
        """Steps that some rank had done, in this attempt or any."""
        if attempt is None and before == float("inf"):
            return max((p.furthest for p in self.known.values()), default=0)
        some: list[Note] = []
        for process in self.known.values():
            some += process.notes if attempt is None else process.of.get(attempt, [])
        return max((n.step for n in some if n.what is What.STEP and n.at <= before), default=0)

    def idle(self, execution: str) -> int:
        """Spares that wait in a start of the program."""
        return sum(p.execution == execution and p.idle and p.alive for p in self.look())

    def in_flight(self) -> bool:
        """Whether a version has been begun and is not committed, as its files tell."""
        newest, committed = "", ""
        for folder in [self.run / "versions", *self.versions_at_places()]:
            with contextlib.suppress(FileNotFoundError):
                for name in os.listdir(folder):
                    newest = max(newest, name)
                    if name > committed and (folder / name / "commit").exists():
                        committed = name
        return newest > committed

    def versions_at_places(self) -> list[Path]:
        """The nodes' folders of versions."""
        if self.place is None:
            return []
        return list(self.place.glob("seat*/*/*/versions" if self.setting.seats else "*/*/versions"))

    # -- waiting ----------------------------------------------------------------------------

    def wait(self, what: str, ready: Callable[[], bool], longest: float = LONGEST, tick: float = TICK) -> None:
        """Until `ready()`. Trouble: nobody noted anything for HANG seconds, `longest` is over, or the supervisor gave up."""
        began, told = time.monotonic(), ""
        while not ready():
            now = time.monotonic()
            last = max((p.last.at for p in self.look() if p.last is not None), default=0.0)
            if self.job.code not in (None, 0):
                told = f"gave up with {self.job.code}"
            elif now - max(last, began, self._starting(last)) > HANG:
                told = f"hang: {HANG:g} s without a sign"
            elif now - began > longest:
                told = f"hang: {longest:g} s"
            if told:
                self.job.dump_stacks()
                raise Trouble(f"{told}, while waiting for {what}; {self.tail()}")
            time.sleep(tick)

    def _starting(self, last: float) -> float:
        """Where nobody has noted anything since something was printed, as by a supervisor that starts all anew: until when that
        is no hang, less HANG."""
        printed = self.starts[-1]
        with contextlib.suppress(OSError):
            printed = max(printed, time.monotonic() - time.time() + self.job.output.stat().st_mtime)
        return printed + START - HANG if printed > last else last

    def tail(self, characters: int = 12000) -> str:
        text = self.job.output.read_text(errors="replace") if self.job.output.exists() else ""
        return f"the end of its output:\n{text[-characters:]}"
