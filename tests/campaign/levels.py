"""Part F: heat on 8 ranks on four stand-in nodes with levels, ranks and nodes killed, spares in their place or none.

Played here; what is played is in `levels_scenes.py`, what must come of it in `levels_truth.py`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .levels_scenes import KILLED_AT, OFTEN, Scene, scenes
from .levels_truth import judge
from .standin_heat import LEASE, Heat, Trouble, heat

Tell = Callable[[str], None]


@dataclass
class Outcome:
    """Seconds from the kill to the supervisor's next start, and from there to the resume (`mended`)."""

    problems: list[str] = field(default_factory=list)
    noticed: float = 0.0
    mended: float = 0.0
    seconds: float = 0.0
    rebuilt: bool = False
    second: str = ""


def play(base: Path, scene: Scene, simulated: bool = False) -> Outcome:
    """One scene in the new directory `base`, to its end and its judgement."""
    outcome, began = Outcome(), time.monotonic()
    nodes = len(scene.nodes)
    spares = (nodes + bool(scene.then)) if scene.spares else 0
    with heat(base, scene.asked, spares, simulated) as job:
        try:
            _disturb(job, scene, outcome)
        except (Trouble, AssertionError) as trouble:
            outcome.problems.append(str(trouble))
        finally:
            outcome.seconds = time.monotonic() - began
        if outcome.problems:
            outcome.problems.append(f"its output:\n{job.out[-8000:]}\n{job.err[-6000:]}")
    return outcome


def _disturb(job: Heat, scene: Scene, outcome: Outcome) -> None:
    job.wait(f"version {KILLED_AT}", lambda: job.newest >= KILLED_AT)
    if scene.far == OFTEN:
        job.wait("a version in the run's store", lambda: bool(job.stored()))
    killed, seen = time.monotonic(), len(job.out)
    if not isinstance(scene.loss, tuple):
        job.kill_rank(scene.loss if isinstance(scene.loss, int) else 0)
    job.kill_nodes(scene.nodes)
    job.wait("the job's death", lambda: " died after " in job.err)
    if scene.loss == "":
        for name in job.standins.cluster.nodes():
            job.wipe_memory(name)  # the next start's ranks take longer to come that far
    told, stored = job.newest, job.stored()
    job.wait("the next start", lambda: len(job.placements()) == 2)
    outcome.noticed, begun = time.monotonic() - killed, time.monotonic()
    if scene.then:
        _then(job, scene, outcome)
    job.wait("the resume", lambda: "all ranks together read" in job.out or "heat: resumes" in job.out)
    outcome.mended = time.monotonic() - begun
    code = job.end()
    if code != 0:
        outcome.problems.append(f"exit code {code}")
    outcome.problems += judge(job, scene, told, stored, job.out[seen:])
    if (starts := len(job.placements())) != (expected := 3 if scene.then else 2):
        outcome.problems.append(f"{starts} starts of the program, not {expected}")
    outcome.rebuilt = "rebuilt by" in job.out


def _then(job: Heat, scene: Scene, outcome: Outcome) -> None:
    """A second failure while the first is mended. Whether it came in time is seen by that no rank had resumed."""
    if scene.then == "everything killed while it opens":
        job.wait("an attempt", lambda: len(list((job.base / "run" / "attempts").glob("*.json"))) > 1)
    else:
        job.wait("a rebuild", lambda: "rebuilt into" in job.out)
    if scene.then.startswith("another node"):
        job.kill_nodes(["node2"])
        outcome.second = "late" if "holdfast: resumes" in job.out else "in time"
        return
    job.kill_everything()
    outcome.second = "late" if "holdfast: resumes" in job.out else "in time"
    time.sleep(LEASE + 1)  # its ranks were elsewhere: that they are dead can't be seen from the front
    job.start()


def campaign(base: Path, tell: Tell, quick: bool) -> dict[str, Any]:
    """All scenes, `quick`: one for each ladder, and a second failure; those that fail keep their directories."""
    planned = scenes()
    if quick:
        one = {(s.levels, bool(s.then)): s for s in reversed(planned) if s.nodes and (s.survives or s.m == 0)}
        planned = [scene for scene in planned if scene in one.values()]
    problems: list[str] = []
    outcomes: list[Outcome] = []
    simulated = 0
    for number, scene in enumerate(planned):
        place = base / f"scene{number:02d}"
        outcome = play(place, scene)
        outcomes.append(outcome)
        simulated += (place / "driver").exists()  # the launcher that stands in where nodes are directories
        problems += [f"{scene.name} ({place.name}): {problem}" for problem in outcome.problems]
        verdict = "FAILED" if outcome.problems else "same result"
        when = f"{outcome.noticed:.1f} s to the next start, {outcome.mended:.1f} s to the resume"
        also = f", second kill {outcome.second}" if outcome.second else ""
        tell(f"{number + 1} of {len(planned)}: {scene.name}: {when}, {outcome.seconds:.1f} s in all{also}: {verdict}")
        if not outcome.problems:
            shutil.rmtree(place)
    mended = sorted(outcome.mended for outcome in outcomes)
    seconds = [outcome.second for outcome in outcomes if outcome.second]
    if seconds and "in time" not in seconds:
        problems.append("no second kill came before the resume: they prove nothing")
    return {
        "scenes": len(planned), "simulated": simulated, "ranks_killed": sum(not s.nodes for s in planned),
        "nodes_killed": sum(len(s.lost) for s in planned), "rebuilt": sum(o.rebuilt for o in outcomes),
        "second_in_time": seconds.count("in time"), "resume_median": round(mended[len(mended) // 2], 1),
        "resume_max": round(mended[-1], 1), "problems": problems,
    }  # fmt: skip
