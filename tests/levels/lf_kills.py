"""Killed at each storage call in turn, of the run's own store and of places: what a start goes on from, and what is left.

With "lost" the node's memory is gone as well when the program is started again: then the newest version that was elsewhere is
what is gone on from.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import fs_program
import lf_ladders
from faults import Call, Faults
from fs_forks import Child
from fs_ground import Ground, finish
from fs_phases import PHASES, Under
from fs_program import Program


def ending(where: Path, under: Under) -> Program:
    """Completing the run: the last version, the record of the end, the places that go. Nothing else is under way."""
    program = Program(where)

    def tail(step: int) -> None:
        if step + 1 == fs_program.STEPS:
            program.quiet()

    with program.run:
        program.loop(tail=tail)
        faults = under()
        faults.__enter__()
    faults.__exit__(None, None, None)
    return program


# Name -> the stretch, the seed it starts from, the version before it.
Stretch = Callable[[Path, Under], Program]
STRETCHES: dict[str, tuple[Stretch, str | None, int | None]] = {
    "taking": (*PHASES["flight"], 2),  # a version to the first place, what goes there then, and its copies
    "first opening": (*PHASES["first opening"], None),
    "opening": (*PHASES["opening"], 2),
    "ending": (ending, "loop", 3),
}


def campaign(ground: Ground, phase: str, lost: str = "") -> dict[str, int]:
    """All points of one phase: how many calls of each store were among them."""
    calls = calls_of(ground, phase)
    committed = next((c.number for c in calls if c.name == "link" and (c.to or "").endswith("/commit")), None)
    points: Counter[str] = Counter()
    for call in filter(lambda c: ground.mine(c.number), calls):
        for mode in ("kill", "torn") if call.name == "pwrite" else ("kill",):
            _play(ground, phase, mode, call, committed, bool(lost))
            points[kind(call, ground.work)] += 1
    return dict(points)


def calls_of(ground: Ground, phase: str) -> list[Call]:
    """The storage calls of a phase that nothing disturbs."""
    stretch, seed, _ = STRETCHES[phase]
    traced = ground.base / "calls.json"  # more than a pipe takes

    def trace() -> None:
        faults = Faults("trace")
        stretch(ground.work, lambda: faults)
        traced.write_text(json.dumps([asdict(call) for call in faults.calls]))

    ground.reset(seed)
    Child(trace).result()
    return [Call(**call) for call in json.loads(traced.read_text())]


def kind(call: Call, work: Path) -> str:
    """Of which store a call is."""
    return next((name for name in ("memory", "local", "run") if call.path.startswith(str(work / name))), "other")


def _play(ground: Ground, phase: str, mode: str, call: Call, committed: int | None, lost: bool) -> None:
    stretch, seed, before = STRETCHES[phase]
    point = f"{phase}, {mode} at {call}"
    ground.reset(seed)
    child = Child(lambda: stretch(ground.work, lambda: Faults(mode, at=call.number)) and None)
    ground.expect(child.killed(), point, "was not killed: the fault was not reached")
    there = lf_ladders.committed(ground.work)
    # Nothing but the commit's name makes a version exist, wherever that is, and from then on it does.
    new = (before or 0) + 1 if committed is not None and call.number > committed else before
    if lost:
        shutil.rmtree(ground.work / "memory" / next(iter(p.name for p in (ground.work / "memory").iterdir()), ""))
        (ground.work / "memory").mkdir(exist_ok=True)
        new = max([*there["local"], *there["global"]], default=None)
    found = Child(lambda: finish(ground.work)).result()
    ground.expect(found["version"] == new, point, f"restored version {found['version']}, not {new}, of {there}")
    ground.expect(found["digest"] == ground.truth[found["step"]], point, "restored another state")
    ground.expect(found["final"] == ground.truth[max(ground.truth)], point, "ended with another state")
    ground.expect(found["log"] == ground.log, point, f"another output file: {found['log']!r}")
    ground.expect(lost or not found["skipped"], point, f"passed over {found['skipped']}")
    ground.expect(not found["untidy"], point, f"left after pruning: {found['untidy']}")
    ground.expect(not found["damage"], point, f"damage: {found['damage']}")
    left = lf_ladders.left_behind(ground.work)
    ground.expect(not left, point, f"left at places: {left}")
