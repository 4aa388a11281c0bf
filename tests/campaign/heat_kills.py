"""Part A: heat on 4 ranks under `holdfast run`, killed at random times, once or several times, and resumed.

Killed by SIGKILL: a random rank; all ranks; mpirun; the supervisor; everything at once. After the last two
the same command is given again. Attacks invariants 1, 3, 4, 6 and 7, and every wait.
"""

from __future__ import annotations

import random
import shutil
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.run import maintenance

from .heat_truth import HeatTruth
from .jobs import Job, kill
from .ledger import Ledger

RANKS, SIZE, STEPS, EVERY, PAUSE = 4, 64, 120, 5, 0.012
KINDS = ("rank", "all ranks", "mpirun", "supervisor")
DEADLINE = 120.0  # seconds for any one wait: some fifty times what it takes on a quiet machine
INCREMENTAL = ("auto", "pages", "blocks")  # run by run
STARTS = 12  # of the supervisor, in one run

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Kill:
    """`kind`: whom. When: `versions` more have been reported durable, or are just captured if `flying` (0: since the start),
    then `delay` seconds."""

    kind: str
    versions: int
    delay: float
    flying: bool = False


@dataclass
class Outcome:
    """One run: `kills` carried out, `in_flight` of them when a version was captured and not yet told to be durable,
    `starts` of the supervisor, `attempts` of the run, seconds from a kill to the next
    attempt's first step (`recoveries`)."""

    kills: list[str] = field(default_factory=list)
    in_flight: int = 0
    starts: int = 0
    attempts: int = 0
    versions: int = 0
    recoveries: list[float] = field(default_factory=list)
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


def plan(number: int, chance: random.Random) -> list[Kill]:
    """The kills of the run `number`: one of each kind in turn, often with more before it."""
    kinds = [chance.choice([*KINDS, "everything"]) for _ in range(chance.choice((0, 0, 1, 1, 2)))]
    kills = []
    for kind in [*kinds, KINDS[number % len(KINDS)]]:
        by_time = chance.random() < 0.25  # at any moment, from the interpreter's first instruction on
        when = (0, chance.uniform(0, 2.5)) if by_time else (chance.randint(1, 7), chance.uniform(0, 0.15))
        flying = not by_time and chance.random() < 0.6
        kills.append(Kill(kind, *(when[0], chance.uniform(0, 0.02)), True) if flying else Kill(kind, *when))
    return kills


class Heat:
    """One run of the program in a directory of its own."""

    def __init__(self, base: Path, truth: HeatTruth, **variables: str) -> None:
        shutil.rmtree(base, ignore_errors=True)
        base.mkdir(parents=True)
        self.base, self.truth, self.variables = base, truth, variables
        self.ledger = Ledger(base / "ledger")
        self.job = Job(base, base / "output.txt")
        self.outcome = Outcome()
        program = Path(__file__).with_name("heat_ledger.py")
        options = {"size": SIZE, "steps": STEPS, "every": EVERY, "pause": PAUSE, "run": "run", "out": "out.npy"}
        options |= {"log": "log.csv", "ledger": str(self.ledger.path)}
        words = [f"--{name}={value}" for name, value in options.items()]
        # a short grace: an orphaned rank answers at its next step, one that waits for a dead one never does
        supervisor = [sys.executable, "-m", "holdfast.cli", "run", "-n", str(RANKS), "--grace", "5"]
        self.command = [*supervisor, "--", sys.executable, str(program), *words]

    def play(self, kills: list[Kill]) -> Outcome:
        """The run with these kills, to its completion and its judgement. Leaves no process behind."""
        began = time.monotonic()
        try:
            self._disturb(kills)
            self._judge()
        except _Problem as problem:
            self.outcome.problems.append(str(problem))
        finally:
            self.job.kill_everything()
        self.outcome.seconds = time.monotonic() - began
        return self.outcome

    def _disturb(self, kills: list[Kill]) -> None:
        self._start()
        for one in kills:
            if not self._wait_for(one):
                return  # complete before its turn came
            killed = time.time()
            self._kill(one.kind)
            self.outcome.in_flight += self._newest("captured") > self._newest("durable")
            self.outcome.kills.append(one.kind)
            if one.kind in ("supervisor", "everything"):
                self._end()
                self._start()
            self._wait("the resume", lambda killed=killed: self._begun_since(killed) or self.job.code == 0, again=True)
            if self._begun_since(killed):
                first = min(line["time"] for line in self.ledger.of("resumed") if line["time"] > killed)
                self.outcome.recoveries.append(first - killed)
        self._wait("completion", lambda: self.job.code == 0, again=True)

    def _newest(self, event: str) -> int:
        return max((line["version"] for line in self.ledger.of(event)), default=0)

    def _wait_for(self, one: Kill) -> bool:
        """Until the moment and the victims are there; False if the run is complete."""
        event = "captured" if one.flying else "durable"
        seen = len(self.ledger.of(event))
        enough = lambda: one.versions == 0 or len(self.ledger.of(event)) >= seen + one.versions  # noqa: E731
        self._wait(f"{one.versions} versions", lambda: enough() or self.job.code == 0, again=True)
        time.sleep(one.delay)
        self._wait("a victim", lambda: bool(self._victims(one.kind)) or self.job.code == 0, again=True)
        return self.job.code != 0

    def _victims(self, kind: str) -> list[int]:
        if kind in ("rank", "all ranks"):
            return self.job.ranks()
        if kind == "mpirun":
            return self.job.launchers()
        return [self.job.process.pid] if self.job.process and self.job.code is None else []

    def _kill(self, kind: str) -> None:
        if kind == "everything":
            self.job.kill_everything()
            return
        victims = self._victims(kind)
        for pid in [random.choice(victims)] if kind == "rank" and victims else victims:
            kill(pid)

    def _start(self) -> None:
        self.outcome.starts += 1
        if self.outcome.starts > STARTS:
            raise _Problem(f"not complete after {STARTS} starts; {self._tail()}")
        self.job.start(self.command, **self.variables)

    def _end(self) -> None:
        self._wait("the end of what was killed", lambda: self.job.code is not None)

    def _begun_since(self, moment: float) -> bool:
        return any(line["time"] > moment for line in self.ledger.of("resumed"))

    def _wait(self, what: str, ready: Callable[[], bool], again: bool = False) -> None:
        """Until `ready()`; `again`: the supervisor, where it has given up, is started again, as its user would."""
        until = time.monotonic() + DEADLINE
        while not ready():
            if again and self.job.code not in (None, 0):
                self._start()
            if time.monotonic() > until:
                self.job.dump_stacks()
                raise _Problem(f"hang: waited {DEADLINE:g} s for {what}; {self._tail(20000)}")
            time.sleep(0.02)

    def _judge(self) -> None:
        lines, run = self.ledger.lines(), self.base / "run"
        problems = self.truth.audit(lines) + self.truth.compare(self.base / "out.npy", self.base / "log.csv")
        problems += [f"damage: {damage}" for damage in maintenance.verify(run)]
        until = time.monotonic() + 10
        while (left := self.job.processes()) and time.monotonic() < until:
            time.sleep(0.05)
        problems += [f"process {pid} outlives its job" for pid in left]
        self.outcome.attempts = max((line["attempt"] for line in lines), default=0)
        self.outcome.versions = sum(line["event"] == "durable" for line in lines)
        self.outcome.problems += problems
        if problems:
            self.outcome.problems.append(self._tail())

    def _tail(self, characters: int = 3000) -> str:
        text = self.job.output.read_text(errors="replace") if self.job.output.exists() else ""
        return f"the end of its output:\n{text[-characters:]}"


class _Problem(Exception):
    pass


def campaign(base: Path, runs: int, seed: int, tell: Tell) -> dict[str, Any]:
    """`runs` runs; those that fail keep their directories."""
    chance = random.Random(seed)
    random.seed(seed)
    truth = HeatTruth(SIZE, STEPS, RANKS)
    calm = Heat(base / "calm", truth).play([])
    problems = [f"undisturbed: {problem}" for problem in calm.problems]
    tell(f"undisturbed: {calm.seconds:.1f} s, {calm.versions} versions, {len(problems)} problems")
    kills: Counter[str] = Counter()
    outcomes = []
    for number in range(runs):
        planned = plan(number, chance)
        incremental = INCREMENTAL[number % len(INCREMENTAL)]
        outcome = Heat(base / f"run{number:03d}", truth, HOLDFAST_INCREMENTAL=incremental).play(planned)
        outcomes.append(outcome)
        kills.update(outcome.kills)
        problems += [f"run {number} ({planned}): {problem}" for problem in outcome.problems]
        verdict = "FAILED" if outcome.problems else "same result"
        what = f"killed {', '.join(outcome.kills) or 'never'}; {outcome.attempts} attempts, {outcome.versions} versions"
        tell(f"run {number + 1} of {runs}: {what}, {outcome.seconds:.1f} s: {verdict}")
        if not outcome.problems:
            shutil.rmtree(base / f"run{number:03d}")
    recoveries = [seconds for outcome in outcomes for seconds in outcome.recoveries] or [0.0]
    undisturbed = sum(not outcome.kills for outcome in outcomes)
    if undisturbed:
        problems.append(f"{undisturbed} runs were complete before a kill: they prove nothing")
    return {
        "runs": runs, "seed": seed, "kills": sum(kills.values()), "by_kind": dict(kills),
        "in_flight": sum(o.in_flight for o in outcomes),
        "starts": sum(o.starts for o in outcomes), "attempts": sum(o.attempts for o in outcomes),
        "durable": sum(o.versions for o in outcomes), "recovery_median": round(statistics.median(recoveries), 2),
        "recovery_max": round(max(recoveries), 2), "calm_seconds": round(calm.seconds, 1), "problems": problems,
    }  # fmt: skip
