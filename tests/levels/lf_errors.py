"""Each storage call of a version fails in turn, of a place or of the run's own store: the program goes on, a warning for each
level says so once, and later versions come to all levels again.

`mode`: "EIO" or "ENOSPC", once; "EIO-on" and "ENOSPC-on": that call and all later ones of that store, until the loop is a step
further and nothing is under way any more (a store that is away, one that is full).
"""

from __future__ import annotations

import errno
import logging
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import fs_program
import lf_ladders
from faults import Call, Faults
from fs_forks import Child
from fs_ground import Ground, finish
from fs_program import TARGET_STEP, Program
from lf_kills import calls_of, kind

LAST = 12  # the newest version of the loop, before the last one of the run


def campaign(ground: Ground, store: str, mode: str) -> dict[str, int]:
    """All calls on `store` ("memory", "local" or "run") while a version is taken; what became of that version."""
    calls = [call for call in calls_of(ground, "taking") if kind(call, ground.work) == store]
    points: Counter[str] = Counter()
    for number, call in enumerate(calls, 1):
        if ground.mine(number):
            points[_play(ground, store, mode, number, call)] += 1
    return dict(points)


class Of:
    """Matches calls on one store, from the `first` one on; `hit` says whether the fault is still there."""

    def __init__(self, work: Path, store: str, first: int) -> None:
        self.work, self.store, self.first, self.seen = work, store, first, 0

    def __call__(self, call: Call) -> bool:
        if kind(call, self.work) != self.store:
            return False
        self.seen += 1
        return self.seen >= self.first


class Said(logging.Handler):
    """What the library has said to people, from warnings on."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "same file system" not in record.getMessage():
            self.lines.append(record.getMessage())


def _play(ground: Ground, store: str, mode: str, number: int, call: Call) -> str:
    point = f"{mode} of {store} from {call}"
    code = getattr(errno, mode.removesuffix("-on"))
    at = None if mode.endswith("-on") else 1
    ground.reset("loop")
    faults = Faults("error", at=at, errno=code, match=Of(ground.work, store, number))
    found = Child(lambda: _disturbed(ground.work, faults)).result()
    expect = ground.expect
    expect(found["fired"] > 0, point, "the fault was not reached")
    said: list[str] = found["said"]
    for what in ("level memory", "level local", "level global", "later attempt", "were not deleted"):
        expect(sum(what in line for line in said) <= 1, point, f"said more than once: {said}")
    expect(all("level " in line or "later attempt" in line or "not deleted" in line for line in said), point, f"said {said}")
    there = found["there"]
    for level in found["levels"]:
        behind = fs_program._options["levels"][-1].every is not None and level == "global"  # it gets every second one
        fine = max(there[level], default=0) >= found["newest"] - behind
        expect(fine, point, f"version {found['newest']} is not at {level}: {there}; said {said}")
    missing = found["number"] not in there["all"]
    expect(not missing or said, point, f"version {found['number']} is nowhere, and nothing was said")
    after = Child(lambda: finish(ground.work)).result()
    expect(after["version"] == found["newest"], point, f"restored {after['version']}, not {found['newest']}, of {there}")
    expect(after["digest"] == ground.truth[after["step"]], point, "restored another state")
    expect(after["final"] == ground.truth[max(ground.truth)], point, "ended with another state")
    expect(after["log"] == ground.log, point, f"another output file: {after['log']!r}")
    expect(not after["skipped"], point, f"passed over {after['skipped']}")
    expect(not after["untidy"], point, f"left after pruning: {after['untidy']}")
    expect(not after["damage"], point, f"damage: {after['damage']}")
    left = lf_ladders.left_behind(ground.work)
    expect(not left, point, f"left at places: {left}")
    return "missing" if missing else "told" if said else "silent"


class _Killed(Exception):
    """Leaves the loop as a kill would."""


def _disturbed(where: Path, faults: Faults) -> dict[str, Any]:
    """In a child: the loop with the fault in it, left when the version of step `LAST` has reached all levels."""
    said = Said()
    logging.getLogger("holdfast").addHandler(said)
    logging.getLogger("holdfast").setLevel(logging.WARNING)
    program = Program(where)
    found: dict[str, Any] = {}
    ever: set[int] = set()

    def tail(step: int) -> None:
        if step + 1 == TARGET_STEP:
            program.quiet()
            found["number"] = program.run._x.writer.number
            faults.__enter__()
        elif step == TARGET_STEP:
            program.quiet()
            faults.__exit__(None, None, None)
        elif step > TARGET_STEP:
            program.quiet()
        if step >= TARGET_STEP:
            ever.update(number for numbers in lf_ladders.committed(where).values() for number in numbers)
        if step == LAST:
            raise _Killed

    with suppress(_Killed):
        program.loop(tail=tail)
    levels = [level.kind for level in fs_program._options["levels"]]
    there: dict[str, list[int]] = {**lf_ladders.committed(where), "all": sorted(ever)}
    return {
        "fired": faults.fired, "said": said.lines, "levels": levels, "there": there, "newest": max(ever), **found
    }  # fmt: skip
