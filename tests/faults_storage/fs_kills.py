"""Killed at every storage call in turn: started again, the program goes on from a version that is whole, and ends alike."""

from __future__ import annotations

from faults import Call, Faults
from fs_forks import Child
from fs_ground import Ground, finish
from fs_phases import PHASES, calls_of
from fs_points import changes, of_process, one_of_each


def campaign(ground: Ground, phase: str, which: str = "all") -> dict[str, int]:
    """All points of one phase; how many of each mode there were. `which`: "different": one kill between any two calls that
    change something, and each write half done."""
    calls = calls_of(ground, phase)
    committed = next((c.number for c in calls if c.name == "link" and (c.to or "").endswith("/commit")), None)
    points = {"kill": 0, "torn": 0}
    for mode in ("kill", "torn"):
        chosen = calls if mode == "kill" else [call for call in calls if call.name == "pwrite"]
        if which == "all":
            chosen = [call for call in chosen if ground.mine(call.number)]
        else:
            chosen = of_process(one_of_each(chosen, changes, ground.seed), ground.share)
        for call in chosen:
            _play(ground, phase, mode, call, committed)
            points[mode] += 1
    return points


def _play(ground: Ground, phase: str, mode: str, call: Call, committed: int | None) -> None:
    stretch, seed = PHASES[phase]
    point = f"{phase}, {mode} at {call}"
    ground.reset(seed)
    child = Child(lambda: stretch(ground.work, lambda: Faults(mode, at=call.number)) and None)
    ground.expect(child.killed(), point, "was not killed: the fault was not reached")
    found = Child(lambda: finish(ground.work)).result()
    before = {"checkpoint": 2, "flight": 2, "opening": 2, "first opening": None, "ending": 3}[phase]
    # Nothing but the commit's name makes a version exist, and from then on it does.
    new = (before or 0) + 1 if committed is not None and call.number > committed else before
    ground.expect(found["version"] == new, point, f"restored version {found['version']}, not {new}")
    ground.expect(found["digest"] == ground.truth[found["step"]], point, "restored another state")
    ground.expect(found["final"] == ground.truth[max(ground.truth)], point, "ended with another state")
    ground.expect(found["log"] == ground.log, point, f"another output file: {found['log']!r}")
    ground.expect(not found["skipped"], point, f"passed over {found['skipped']}")
    ground.expect(not found["untidy"], point, f"left after pruning: {found['untidy']}")
    ground.expect(not found["damage"], point, f"damage: {found['damage']}")
