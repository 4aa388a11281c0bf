"""Part I: one rank stops (SIGSTOP) at each call of MPI's that the library makes, in turn; the others must not wait for ever.

Which points there are is found by playing each scene undisturbed. What is played, and how it is judged: `stopped_teams.py`;
stops with spares, and of whole programs: `stopped_spares.py`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from . import stopped_spares
from .stopped_scenes import SCENES
from .stopped_teams import LONGEST, Outcome, Stop, Teams

Tell = Callable[[str], None]


def all_stops(teams: Teams, scenes: Sequence[str]) -> tuple[list[Stop], list[str]]:
    """Each point of each rank in these scenes, found by playing them undisturbed; and problems."""
    outcomes = played(teams, [Stop(scene) for scene in scenes])
    stops = [
        Stop(outcome.stop.scene, rank, point)
        for outcome in outcomes for rank, points in outcome.points.items() for point in points
    ]  # fmt: skip
    return stops, [problem for outcome in outcomes for problem in outcome.problems]


def played(teams: Teams, stops: Sequence[Stop]) -> list[Outcome]:
    """What came of these. A second try, if the first went wrong and nobody hung: a rank that the machine held up for as long as
    the deadline is taken for one that is stopped, and rightly so."""
    outcomes = teams.play(stops)
    again = [o.stop for o in outcomes if not o.hung and (o.problems or (o.stop.point and not o.reached))]
    kept = [outcome for outcome in outcomes if outcome.stop not in again]
    return kept + (teams.play(again) if again else [])


def selection(stops: Sequence[Stop], count: int, seed: int) -> list[Stop]:
    """`count` of them, of each kind (scene, who calls, what) one before there are two of any."""
    dice = random.Random(seed)
    mixed = list(stops)
    dice.shuffle(mixed)
    seen: Counter[tuple[str, str]] = Counter()
    ranked: list[tuple[int, int, Stop]] = []
    for stop in mixed:
        kind = stop.scene, str(stop.point).rpartition(" ")[0]
        ranked.append((seen[kind], len(ranked), stop))
        seen[kind] += 1
    return [stop for _, _, stop in sorted(ranked, key=lambda entry: entry[:2])[:count]]


def figures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Counts and times of what came of stops."""
    seconds = sorted(s for outcome in outcomes for s in outcome.seconds)
    kinds = Counter(kind for outcome in outcomes for kind in outcome.kinds)
    return {
        "stops": sum(outcome.reached for outcome in outcomes),
        "not come to": sum(not outcome.reached for outcome in outcomes),
        "nobody needed the rank any more": sum(o.reached and not o.seconds for o in outcomes),
        "errors": dict(kinds.most_common()),
        "errors that name another rank": sum(len(outcome.others) for outcome in outcomes),
        "seconds to the error": {
            "median": round(median(seconds), 2), "95 %": round(seconds[int(0.95 * (len(seconds) - 1))], 2),
            "longest": round(seconds[-1], 2),
        } if seconds else {},
    }  # fmt: skip


def campaign(tell: Tell, quick: bool, seed: int, teams: int = 8) -> dict[str, Any]:
    """Every point of every rank in every scene, then stops with spares; with `quick` a selection. The deadline is TIMEOUT."""
    outcomes: list[Outcome] = []
    with Teams(len(SCENES)) as found:
        stops, problems = all_stops(found, list(SCENES))
    tell(f"{len(stops)} points in {len(SCENES)} scenes")
    left = selection(stops, 80 if quick else len(stops), seed)
    while left:  # communicators are not given back, so that one start does not last for all
        part, left = left[: 40 * teams], left[40 * teams :]
        with Teams(teams) as found:
            outcomes += (done := played(found, part))
        problems += [problem for outcome in done for problem in outcome.problems]
        tell(f"{len(outcomes)} played, {len(problems)} problems")
    result = {"points": len(stops), **figures(outcomes)}
    repaired: list[float] = []
    for targets in _spares(quick):
        seconds, _, found_problems = _with_spares(targets, tell)
        repaired += seconds if targets[0] not in stopped_spares.EARLY else []
        problems += found_problems
    tell(f"{len(repaired)} repaired, {len(problems)} problems")
    if repaired:
        result["with spares"] = len(repaired)
        result["seconds until a spare goes on"] = {"median": round(median(repaired), 2), "longest": round(max(repaired), 2)}
    return {**result, "problems": problems}


def _spares(quick: bool) -> list[Sequence[stopped_spares.Target]]:
    targets = stopped_spares.TARGETS
    return [targets[:3]] if quick else [targets[:6], targets[6:], *((one,) for one in stopped_spares.EARLY)]


def _with_spares(targets: Sequence[stopped_spares.Target], tell: Tell) -> tuple[list[float], list[str], list[str]]:
    for _ in range(5):
        try:
            return stopped_spares.play(targets)
        except stopped_spares.Broken as error:
            tell(f"Open MPI crashed: begun again ({str(error)[-200:]!r})")
    return [], [], ["Open MPI crashed five times in a row"]


__all__ = ["LONGEST", "Outcome", "Stop", "Teams", "all_stops", "campaign", "figures", "played", "selection"]
