"""What must be when a scene of part F has ended: the result, and from where the log says that each rank's state came.

It follows from the levels, the loss and where the ranks were and are, and is worked out from nothing else.
"""

from __future__ import annotations

import re

from holdfast.run import maintenance

from .heat_truth import HeatTruth
from .levels_scenes import Scene
from .standin_heat import PER_NODE, RANKS, SIZE, STEPS, Heat

STORE = "the run's own store"


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
    lost, was, now = scene.lost, placements[0], placements[-1]
    if scene.survives:
        # The newest may have been killed before its parity was there, or was not yet copied to the second place.
        if version < told - (bool(lost) or 2 * (scene.loss == "")):
            problems.append(f"resumed from version {version}, the nodes had {told}")
        if far != "0 B":
            problems.append(f"{far} were read from the run's own store")
        for rank, source in sources.items():
            problems += _wrong(scene, rank, source, was[rank], now[rank], lost)
        return problems
    if version != max(stored):
        problems.append(f"resumed from version {version}, the run's own store had {stored}")
    gone = {rank for rank in range(RANKS) if was[rank] in lost}
    problems += [f"rank {r} from {sources[r]}, which is lost" for r in sorted(gone) if sources[r] != STORE]
    if far in ("0 B", "nothing told"):
        problems.append(f"from the run's own store: {far}")
    named = {int(number): _ranks(why) for number, why in passed}
    if told > version and named.get(told) != gone:
        problems.append(f"version {told} was passed over; told is {passed}, lost are ranks {sorted(gone)}")
    return problems


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
