"""Where a job's time went, second by second of its wall time, and what its measured costs would have allowed at best.

The time falls into start-up, computing (from the moment when all ranks have resumed until the next kill) and outages (from
there until all ranks have resumed again). Rank 0's tally parts computing into steps and heads of the loop. The parts add up
to the wall time exactly: none is estimated by itself but useful work, whose steps count with their undisturbed time.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from .goodput_job import RANKS, Seen
from .goodput_model import optimum
from .goodput_tally import Row
from .survive_notes import Note, Process, What

PARTS = ("start_up", "useful", "slower", "stall", "lost", "detection", "repair", "restore")


@dataclass
class Account:
    """Seconds, if nothing else is said.

    wall: the sum of PARTS. `useful`: steps that lasted, each with its undisturbed time; `slower`: what they took beyond
    that, of which `flying` while a version was in flight; `stall`: at loop heads, beyond what these take undisturbed;
    `lost`: steps that were done again, and the step that a kill interrupted; `detection`: until somebody joined a repair,
    or a process of the next start ran; `repair`: until the program was called on all ranks; `restore`: until all had
    resumed. `flown`: flights of versions, `usual`: steps outside of them, each on average. `kills`, and failures besides;
    `outages`: each one's kind and seconds.
    """

    wall: float = 0.0
    start_up: float = 0.0
    useful: float = 0.0
    slower: float = 0.0
    flying: float = 0.0
    stall: float = 0.0
    lost: float = 0.0
    detection: float = 0.0
    repair: float = 0.0
    restore: float = 0.0
    steps: int = 0
    lost_steps: int = 0
    checkpoints: int = 0
    flown: float = 0.0
    usual: float = 0.0
    kills: int = 0
    unprovoked: int = 0
    outages: list[tuple[str, float]] = field(default_factory=list)

    @property
    def goodput(self) -> float:
        """The part of the wall time that was useful work."""
        return self.useful / self.wall

    @property
    def own_goodput(self) -> float:
        """The same by what a step took in this job itself, outside of flights: of no use where Holdfast itself slows them,
        and of much where another program did during the job, or during the undisturbed runs."""
        return self.steps * self.usual / self.wall

    def costs(self) -> dict[str, float]:
        """What the model is told, as measured: MTBF, a checkpoint's cost, a restart's with the flight before it, in seconds."""
        failures = max(1, self.kills + self.unprovoked)
        taken = max(1, self.checkpoints)
        down = self.detection + self.repair + self.restore
        return {
            "mtbf": (self.wall - self.start_up) / failures,
            "stall": self.stall / taken,
            "slowdown": max(0.0, self.flying) / taken,
            "flight": self.flown / taken,
            "restart": down / failures,
        }

    def best(self) -> tuple[float, float]:
        """The best interval under the model, in seconds, and the goodput that it gives with this start-up."""
        c = self.costs()
        interval, efficiency = optimum(c["stall"] + c["slowdown"], c["restart"] + c["flight"], c["mtbf"])
        return interval, efficiency * (1 - self.start_up / self.wall)

    def public(self) -> dict[str, Any]:
        """As JSON has it."""
        interval, best = self.best()
        taken = self.useful / max(1, self.checkpoints)
        more = {"goodput": self.goodput, "best": best, "ratio": self.goodput / best, "best_interval": interval}
        more["own_ratio"] = self.own_goodput / best
        return {**asdict(self), **more, "interval": taken, "costs": self.costs()}


def account(seen: Seen, step_seconds: float, head_seconds: float = 0.0) -> Account:
    """The account of a job; `step_seconds`, `head_seconds`: what a step, and the loop's head before it, take undisturbed and
    without a checkpoint: both count as the step's time. (Where ranks share cores, others compute during one's head.)"""
    found = Account(wall=seen.ended - seen.began, kills=len(seen.kills))
    attempts = _whole(seen.rows)
    resumed = [max(row.resumed_at for row in ranks) for ranks in attempts]
    found.start_up = resumed[0] - seen.began
    kept_seconds, usual, usual_seconds, flying, flying_seconds = 0.0, 0, 0.0, 0, 0.0
    for i, ranks in enumerate(attempts):
        zero, begin, last = ranks[0], resumed[i], i == len(attempts) - 1
        end = seen.ended if last else _failure(seen, ranks, begin, resumed[i + 1], found)
        # In its first step rank 0 waits for the last one to resume; it may do its last one while another is dead already.
        outside = max(0.0, begin - zero.resumed_at) + max(0.0, zero.last_at - end)
        within = zero.usual_seconds - outside
        steps = zero.done - zero.first
        heads = min(zero.heads, steps * head_seconds)
        seconds = within + zero.flying_seconds + heads
        again = 0 if last else max(0, min(steps, zero.done - attempts[i + 1][0].first))
        lost = again * seconds / steps if steps else 0.0
        kept_seconds += seconds - lost
        found.lost += lost + (end - begin) - (zero.heads - heads) - seconds
        found.stall += zero.heads - heads
        found.steps += steps - again
        found.lost_steps += again
        found.checkpoints += zero.taken
        found.flown += zero.flown
        usual, usual_seconds = usual + zero.usual, usual_seconds + within
        flying, flying_seconds = flying + zero.flying, flying_seconds + zero.flying_seconds
        if not last:
            _outage(seen, zero.attempt, attempts[i + 1][0].attempt, end, resumed[i + 1], found)
    found.useful = found.steps * (step_seconds + head_seconds)
    found.slower = kept_seconds - found.useful
    own = usual_seconds / usual if usual else 0.0
    found.usual = own + head_seconds if usual else 0.0
    found.flying = flying_seconds - flying * own if usual else 0.0
    return found


def _whole(rows: list[Row]) -> list[list[Row]]:
    """The rows of the attempts in which all ranks resumed, oldest first, by rank."""
    by_attempt: dict[int, list[Row]] = {}
    for row in rows:
        by_attempt.setdefault(row.attempt, []).append(row)
    return [ranks for _, ranks in sorted(by_attempt.items()) if len(ranks) == RANKS]


def _failure(seen: Seen, ranks: list[Row], begin: float, end: float, found: Account) -> float:
    """When the failure came that ended the attempt: the first kill of one of its processes, or, if there was none, its last
    step."""
    kills = [kill.at for kill in seen.kills if kill.attempt == ranks[0].attempt]
    if kills:
        return min(max(begin, kills[0]), end)
    found.unprovoked += 1
    return max(begin, max(row.last_at for row in ranks))


def _outage(seen: Seen, before: int, after: int, began: float, ended: float, found: Account) -> None:
    """From a failure to the next attempt in which all ranks resumed."""
    crew = {p: note for p in seen.processes for note in p.notes if note.what is What.OPENED and note.attempt == after}
    opened = min(ended, max(note.at for note in crew.values()))
    same = {p.execution for p in _crew(seen.processes, before)} & {p.execution for p in crew}
    if same:
        kind, sign = "in place", What.REPAIRING
        notes = [note for p in seen.processes for note in p.notes if p.execution in same]
    else:
        kind, sign = "relaunched", What.STARTED
        notes = [note for p in seen.processes for note in p.notes if p not in _crew(seen.processes, before)]
    detected = min(opened, _first(notes, sign, began, opened))
    found.detection += detected - began
    found.repair += opened - detected
    found.restore += ended - opened
    found.outages.append((kind, ended - began))


def _crew(processes: list[Process], attempt: int) -> list[Process]:
    return [p for p in processes if any(n.what is What.OPENED and n.attempt == attempt for n in p.notes)]


def _first(notes: list[Note], what: What, after: float, otherwise: float) -> float:
    return min((note.at for note in notes if note.what is what and note.at >= after), default=otherwise)
