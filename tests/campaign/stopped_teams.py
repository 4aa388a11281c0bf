"""Teams of ranks that play scenes in which one of them stops (see `stopped.py`), and how they are judged.

Under each start of mpirun there are several teams; each plays scene after scene, and in each one of its ranks stops at one
point. The others have to raise errors of ours within what the deadlines allow, which name it: who waits for a rank that waits
for it may name that one. Then it is continued, and has to come to an end as well. The program is `stopped_program.py`, the
scenes are in `stopped_scenes.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.run import maintenance

from .stopped_scenes import TIMEOUT

TEAM = 3  # ranks
START_SECONDS = 90.0
SCENE_SECONDS = 60.0  # for a scene up to the stop, or without any
# The longest way to an error: what is in flight may be waited for by each rank in turn (`execution.py`: six times the deadline
# for what is in flight), and again when the run is left.
LONGEST = 6 * TIMEOUT + 4.0
BACK_SECONDS = LONGEST + 6 * TIMEOUT  # for who was stopped: its own waits begin when it is continued
TICK = 0.01

_PROGRAM = Path(__file__).with_name("stopped_program.py")
_NAMED = re.compile(r"(?:has waited [^ ]+ s for (?:one or more of )?|not wait for |exchange with |come from )(ranks? [-\d, ]+)")


@dataclass(frozen=True)
class Stop:
    """One stop: scene, rank, point (None: nobody stops, and the points are listed)."""

    scene: str
    victim: int = 0
    point: str | None = None

    def __str__(self) -> str:
        return f"{self.scene}, rank {self.victim} {self.point}"


@dataclass
class Outcome:
    """What came of it. `seconds`: of each survivor, from the stop to its error, of what `kinds`; `went_on`: survivors that
    needed the stopped rank no more; `others`: errors that name another rank; `hung`: whether somebody had to be helped;
    `reached`: whether the point was come to; `points`: of each rank, where nobody stopped."""

    stop: Stop
    reached: bool = False
    seconds: list[float] = field(default_factory=list)
    went_on: int = 0
    others: list[str] = field(default_factory=list)
    hung: bool = False
    kinds: list[str] = field(default_factory=list)
    points: dict[int, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class Teams:
    """A start of mpirun with `teams` teams. A context manager: ends all that it has started."""

    def __init__(self, teams: int) -> None:
        root = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None  # versions are small, and many
        self.folder = Path(tempfile.mkdtemp(prefix="holdfast-stopped-", dir=root))
        for team in range(teams):
            (self.folder / str(team)).mkdir()
        beside = Path(sys.executable).with_name("mpirun")
        found = str(beside) if beside.exists() else shutil.which("mpirun")
        assert found, "no mpirun beside this Python or in PATH"
        env = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        env.update(OMPI_MCA_mpi_yield_when_idle="1", OPENBLAS_NUM_THREADS="1", PRTE_MCA_prte_local_tmpdir_base=str(self.folder))
        command = [found, "--oversubscribe", "--bind-to", "none", "-n", str(TEAM * teams)]
        self.output = self.folder / "out"
        with self.output.open("wb") as out:
            self.process = subprocess.Popen(
                [*command, sys.executable, str(_PROGRAM), str(self.folder), str(TEAM)],
                env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.teams = [Team(self.folder / str(team)) for team in range(teams)]

    def __enter__(self) -> Teams:
        return self

    def __exit__(self, *_: object) -> None:
        pids = [pid for team in self.teams for pid in team.pids.values()]
        for number in (signal.SIGCONT, signal.SIGKILL):
            for pid in pids:
                if self._ours(pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)

    def play(self, stops: Iterable[Stop]) -> list[Outcome]:
        """All of these, by whichever team is free. Ends early, with a problem, when the job breaks off."""
        waiting, outcomes = deque(stops), []
        until = time.monotonic() + START_SECONDS
        while not all(team.ready() for team in self.teams):
            if time.monotonic() > until or self.process.poll() is not None:
                raise RuntimeError(f"the teams have not started: {self.output.read_text(errors='replace')[-3000:]}")
            time.sleep(TICK)
        while waiting or any(team.busy for team in self.teams):
            for team in self.teams:
                if not team.busy and waiting:
                    team.begin(waiting.popleft())
                if team.busy and (outcome := team.look()) is not None:
                    outcomes.append(outcome)
            if self.process.poll() is not None or any(team.stuck for team in self.teams):
                text = self.output.read_text(errors="replace")[-3000:]
                for team in self.teams:
                    if team.busy:
                        code = self.process.poll()
                        team.outcome.problems.append(f"{team.outcome.stop}: the job broke off ({code}): {text}")
                        outcomes.append(team.outcome)
                break
            time.sleep(TICK)
        return outcomes

    def _ours(self, pid: int) -> bool:
        with contextlib.suppress(OSError):
            return str(self.folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        return False


class Team:
    """Three ranks that play one scene after the other."""

    def __init__(self, base: Path) -> None:
        self.base, self.number, self.busy, self.stuck = base, 0, False, False
        self.pids: dict[int, int] = {}
        self.outcome = Outcome(Stop(""))
        self._began = self._stopped = self._continued = 0.0
        self._asked = False

    def ready(self) -> bool:
        for rank in range(TEAM):
            if rank not in self.pids and (found := self._read(f"ready.{rank}")) is not None:
                self.pids[rank] = found["pid"]
        return len(self.pids) == TEAM

    def begin(self, stop: Stop) -> None:
        self.outcome, self.busy = Outcome(stop), True
        self._began, self._stopped, self._continued, self._asked = time.monotonic(), 0.0, 0.0, False
        self._write("order", {"scene": stop.scene, "victim": stop.victim, "point": stop.point})

    def look(self) -> Outcome | None:
        """What came of it when it is over; continues who is stopped when the others are through."""
        now, stop, outcome = time.monotonic(), self.outcome.stop, self.outcome
        results = {rank: found for rank in range(TEAM) if (found := self._read(f"{self.number}.{rank}.result")) is not None}
        if not self._stopped and (told := self._read(f"{self.number}.{stop.victim}.stop")) is not None:
            self._stopped, outcome.reached = told["at"], True
        others = [rank for rank in range(TEAM) if rank != stop.victim]
        if self._stopped and not self._continued:
            through = all(rank in results for rank in others)
            if not through and now - self._stopped > LONGEST:
                late = [rank for rank in others if rank not in results]
                outcome.problems.append(f"{stop}: ranks {late} hang{self.stacks(late)}")
                outcome.hung = True
                through = True
            if through:
                os.kill(self.pids[stop.victim], signal.SIGCONT)
                self._continued = now
        if len(results) < TEAM:
            limit = BACK_SECONDS if self._continued else LONGEST + 5 if self._stopped else SCENE_SECONDS
            if now - (self._continued or self._stopped or self._began) > limit:
                missing = [rank for rank in range(TEAM) if rank not in results]
                outcome.problems.append(f"{stop}: ranks {missing} have not come to an end{self.stacks(missing)}")
                self.stuck = outcome.hung = True
            return None
        self._judge(results)
        self._write("over", {})
        self.number, self.busy = self.number + 1, False
        return outcome

    def _judge(self, results: dict[int, dict[str, Any]]) -> None:
        stop, outcome = self.outcome.stop, self.outcome
        if not outcome.reached:
            outcome.points = {rank: result["points"] for rank, result in results.items()}
            for rank, result in results.items():
                if result["outcome"] == "raised" and result["type"] != "Interrupted":
                    outcome.problems.append(f"{stop}: nobody has stopped, and rank {rank} raised {result['trace']}")
        for rank, result in results.items():
            if not outcome.reached or (rank == stop.victim and result["outcome"] == "finished"):
                continue
            if result["outcome"] == "finished" or result["type"] == "Interrupted":
                outcome.went_on += rank != stop.victim
                continue
            if not result["ours"]:
                outcome.problems.append(f"{stop}: rank {rank} raised {result['trace']}")
            if rank != stop.victim:
                outcome.seconds.append(result["at"] - self._stopped)
                outcome.kinds.append(result["type"])
                if stop.victim not in named(result):
                    outcome.others.append(f"{stop}: rank {rank} does not name it: {result['text']}")
        if outcome.kinds and len(outcome.others) == len(outcome.kinds):
            outcome.problems += outcome.others
        place = self.base / str(self.number) / "run"
        with contextlib.suppress(FileNotFoundError):
            outcome.problems += [f"{stop}: damage: {one}" for one in maintenance.verify(place)] if place.exists() else []

    def stacks(self, ranks: Sequence[int] = ()) -> str:
        """Stacks of all threads of these ranks, from now."""
        texts = []
        for rank in ranks:
            path = self.base / f"{rank}.stacks"
            before = path.stat().st_size
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pids[rank], signal.SIGUSR2)
            time.sleep(0.5)
            texts.append(f"\nrank {rank}:\n{path.read_bytes()[before:].decode(errors='replace')}")
        return "".join(texts)

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads((self.base / name).read_text())
        except FileNotFoundError:
            return None
        return found

    def _write(self, kind: str, value: dict[str, Any]) -> None:
        path = self.base / f"{self.number}.{kind}"
        path.with_suffix(".new").write_text(json.dumps(value))
        path.with_suffix(".new").replace(path)


def named(result: dict[str, Any]) -> set[int]:
    """The ranks that an error says it has waited for."""
    found = {result["rank"]} - {None}
    for text in _NAMED.findall(result["text"]):
        for one in re.findall(r"\d+(?:-\d+)?", text):
            first, _, last = one.partition("-")
            found |= set(range(int(first), int(last or first) + 1))
    return found
