"""Part F: heat on 8 ranks on four stand-in nodes with levels, ranks and nodes killed, spares in their place or none.

What each rank must be read from follows from the levels, the loss and where its node was; it is worked out here from
nothing but the placement, and compared with what the run's log says.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.run import maintenance

from .heat_truth import HeatTruth
from .standin_heat import DEADLINE, LEASE, NODES, PER_NODE, RANKS, SCRATCH, SIZE, STEPS, Heat, Trouble, heat

KILLED_AT = 6  # newest version when something is killed: the run's own store then has version 4
OFTEN, NEVER = "global:every=4 versions", "global:every=1000 versions"
RS = "rs:set_size=4:m=2"
STORE = "the run's own store"

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Scene:
    """`levels`: those before the global one, none for that alone; `first`: the place that versions come to; `m`: members of a
    redundancy set that may be lost; `loss`: a rank's number, or nodes; `spares`: whether as many nodes wait to take their
    places; `far`: the global level; `then`: what is killed as well while the loss is mended (see `_then`)."""

    levels: str
    first: str
    m: int
    loss: int | tuple[str, ...]
    spares: bool = True
    far: str = OFTEN
    survives: bool = True
    then: str = ""

    @property
    def name(self) -> str:
        lost = f"rank {self.loss}" if isinstance(self.loss, int) else " ".join(self.loss)
        spare = "" if isinstance(self.loss, int) else ", spares" if self.spares else ", no spares"
        return f"{self.levels or 'global alone'}: {lost} killed{spare}{', ' * bool(self.then)}{self.then}"

    @property
    def asked(self) -> str:
        """The option `levels`."""
        return f"{self.levels},{self.far}" if self.levels else "global"


def scenes() -> list[Scene]:
    """Every level alone and combined, with every loss."""
    local = f"local:root={SCRATCH}"
    ladders = [
        ("", "", 0), ("memory", "memory", 0), (local, "local", 0), ("memory,partner", "memory", 1),
        ("memory,xor", "memory", 1), (f"{local},xor", "local", 1), (f"memory,{RS}", "memory", 2),
        (f"memory,{local},{RS}", "memory", 2),
    ]  # fmt: skip
    found = []
    for levels, first, m in ladders:
        found.append(Scene(levels, first, m, 3))
        for spares in (True, False):
            far = OFTEN if spares or m == 0 else NEVER
            # Other nodes with spares than without, so that rank 0 is lost as well, and the last one.
            if m:
                found.append(Scene(levels, first, m, ("node1",) if spares else ("node0",), spares, far))
            if m == 2:
                found.append(Scene(levels, first, m, ("node0", "node3") if spares else ("node1", "node2"), spares, far))
            # These two are partners, whose sets are those of nodes 0 and 2, and 1 and 3.
            many = {0: ("node1",), 1: ("node1", "node3"), 2: ("node1", "node2", "node3")}[m]
            if not spares:
                many = {0: ("node0",), 1: ("node0", "node2"), 2: ("node0", "node1", "node3")}[m]
            found.append(Scene(levels, first, m, many, spares, survives=False))
        if "partner" in levels:
            found.append(
                Scene(levels, first, m, ("node0", "node1"), False, NEVER)
            )  # half of everything, of no set both
    two = (f"memory,{RS}", "memory", 2, ("node1",))
    found += [
        Scene(*two, True, NEVER, then="another node killed in the rebuild"),
        Scene(*two, False, NEVER, then="another node killed in the rebuild"),
        Scene(*two, True, NEVER, then="everything killed in the rebuild"),
        Scene(f"{local},xor", "local", 1, ("node2",), True, NEVER, then="everything killed in the rebuild"),
        Scene("memory,xor", "memory", 1, ("node0",), False, NEVER, then="everything killed while it opens"),
    ]
    return found


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
    nodes = 0 if isinstance(scene.loss, int) else len(scene.loss)
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
    if isinstance(scene.loss, int):
        job.kill_rank(scene.loss)
    else:
        for name in scene.loss:
            job.kill_node(name)
    job.wait("the job's death", lambda: " died after " in job.err)
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
        job.wait("an attempt", lambda: len(list((job.base / "run" / "attempts").glob("*"))) > 1)
    else:
        job.wait("a rebuild", lambda: "rebuilt into" in job.out)
    if scene.then.startswith("another node"):
        job.kill_node("node2")
        outcome.second = "late" if "holdfast: resumes" in job.out else "in time"
        return
    job.kill_everything()
    outcome.second = "late" if "holdfast: resumes" in job.out else "in time"
    time.sleep(LEASE + 1)  # its ranks were elsewhere: that they are dead can't be seen from the front
    job.start()


# -- what must be ---------------------------------------------------------------------------------


def judge(job: Heat, scene: Scene, told: int, stored: list[int], since: str) -> list[str]:
    """What is wrong with a run that has ended. `told`: the newest version that was told of before the kill; `stored`: those in
    the run's own store then; `since`: what has been written since."""
    truth = HeatTruth(SIZE, STEPS, RANKS)
    problems = truth.compare(job.base / "field.npy", job.base / "log.csv")
    problems += [f"damage: {damage}" for damage in maintenance.verify(job.base / "run")]
    if left := [path for name in job.standins.cluster.nodes() for path in _left(job, name)]:
        problems.append(f"a complete run left {left[:4]} on its nodes")
    if scene.levels and not scene.then.startswith("everything"):  # a new supervisor knows nothing of what was before
        if not re.search(
            r"^holdfast: run goes on from version \d+ \(step \d+\); .* of work lost$", job.err, re.MULTILINE
        ):
            problems.append("the supervisor does not say from where it goes on")
        if not re.search(r"^holdfast: [12] restarts?, [\d.]+ m?s of work lost$", job.err, re.MULTILINE):
            problems.append("the supervisor does not say in the end what was lost")
    calm = since[since.rfind("resumes from version") :]  # nothing is killed any more
    said = [line for line in calm.splitlines() if "is missing at the level" in line or "could not be brought" in line]
    problems += [f"though nothing fails: {line}" for line in said]
    return problems + judge_resume(scene, job.placements(), told, stored, since)


def _left(job: Heat, name: str) -> list[str]:
    scratch = job.standins.cluster.directory / "nodes" / name
    return [str(path) for path in scratch.glob("*/holdfast-*/*/*") if path.is_file()]


def judge_resume(scene: Scene, placements: list[list[str]], told: int, stored: list[int], since: str) -> list[str]:
    """What is wrong with how a job resumed, by its log `since` the kill and by where its ranks were and are."""
    # A start that was itself interrupted may have got as far as to say from where; the last one counts.
    match = list(re.finditer(r"holdfast: resumes from version (\d+)", since))
    if not match:
        return ["no resume is told of"]
    version, rest = int(match[-1][1]), since[match[-1].start() :]
    problems = []
    if not scene.levels:
        if version != max(stored):
            problems.append(f"resumed from version {version}, the run's own store had {stored}")
        if "/run/versions/" not in rest:
            problems.append("the source is not told")
        return problems
    sources = {int(rank): source for rank, source in re.findall(r"holdfast: rank (\d+): from (.*)", rest)}
    if sorted(sources) != list(range(RANKS)):
        return [*problems, f"the sources of ranks {sorted(sources)} are told"]
    read = re.search(r"all ranks together read .*, (.*) from global", rest)
    far = read[1] if read else "nothing told"
    passed = re.findall(r"version (\d+)-a\d+ was passed over: (.*)", since)
    lost, was, now = _lost(scene), placements[0], placements[-1]
    if scene.survives:
        # The newest may have been killed before its parity was there, or before its log came through.
        if version < told - bool(lost):
            problems.append(f"resumed from version {version}, the nodes had {told}")
        if far != "0 B":
            problems.append(f"{far} were read from the run's own store")
        for rank, source in sources.items():
            problems += _wrong(scene, rank, source, was[rank], now[rank], lost)
        return problems
    if version != max(stored):
        problems.append(f"resumed from version {version}, the run's own store had {stored}")
    gone = {rank for rank in range(RANKS) if was[rank] in lost}
    if problem := [f"rank {r} from {sources[r]}, which is lost" for r in gone if sources[r] != STORE]:
        problems += problem
    if far in ("0 B", "nothing told"):
        problems.append(f"from the run's own store: {far}")
    named = {int(number): _ranks(why) for number, why in passed}
    if told > version and named.get(told) != gone:
        problems.append(f"version {told} was passed over; told is {passed}, lost are ranks {sorted(gone)}")
    return problems


def _lost(scene: Scene) -> set[str]:
    lost = set() if isinstance(scene.loss, int) else set(scene.loss)
    return lost | ({"node2"} if scene.then.startswith("another node") else set())


def _wrong(scene: Scene, rank: int, source: str, was: str, now: str, lost: set[str]) -> list[str]:
    """A rank's source, if it isn't what it must be: rebuilt by members of other nodes, moved from its own node, or there."""
    if was not in lost:
        expected = f"{scene.first}, on its own node" if now == was else f"{scene.first}, moved from {was}"
        if scene.then and source.startswith(f"{scene.first}, moved from node"):
            return []  # an interrupted start has moved it already
        return [] if source == expected else [f"rank {rank} from {source}, not {expected}"]
    match = re.fullmatch(rf"{scene.first}, rebuilt by ranks ([\d, ]+)", source)
    if scene.then and source.startswith(f"{scene.first}, "):
        return []  # an interrupted start may have rebuilt it already
    if match is None:
        return [f"rank {rank} from {source}; its node {was} is lost"]
    members = {int(member) for member in match[1].split(", ")}
    homes = [member // PER_NODE for member in (rank, *members)]
    if len(set(homes)) != len(homes) or rank in members:
        return [f"rank {rank} from {source}: members on the same node"]
    return []


def _ranks(text: str) -> set[int]:
    """Of 'ranks 2-3, 6 can't be had: ...'."""
    match = re.match(r"ranks? ([\d, -]+) can't be had", text)
    found: set[int] = set()
    for part in match[1].split(", ") if match else ():
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


# -- all of them ------------------------------------------------------------------------------------


def campaign(base: Path, tell: Tell, quick: bool) -> dict[str, Any]:
    """All scenes, `quick`: one for each ladder, and a second failure; those that fail keep their directories."""
    planned = scenes()
    if quick:
        one = {(s.levels, bool(s.then)): s for s in reversed(planned) if s.survives or s.m == 0}
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
        "scenes": len(planned), "simulated": simulated, "ranks_killed": sum(isinstance(s.loss, int) for s in planned),
        "nodes_killed": sum(len(_lost(s)) for s in planned), "rebuilt": sum(o.rebuilt for o in outcomes),
        "second_in_time": seconds.count("in time"), "resume_median": round(mended[len(mended) // 2], 1),
        "resume_max": round(mended[-1], 1), "problems": problems,
    }  # fmt: skip


__all__ = ["DEADLINE", "NODES", "Scene", "campaign", "judge_resume", "play", "scenes"]
