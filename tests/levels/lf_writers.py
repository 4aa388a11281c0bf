"""Two writers with places: A is stopped at a storage call, B takes the run over, runs on at the same places; then A goes on.

A's next commit at the place is a FencedError, whether it can reach the run's own store or not (`away`), and it deletes nothing
that B stands on. A third start finds B's newest version, to the bit.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lf_ladders
from faults import Call, Faults
from fs_forks import Child
from fs_ground import Ground
from fs_program import EVERY, TARGET_STEP, Program
from lf_kills import calls_of

import holdfast
from holdfast import HoldfastError


def campaign(ground: Ground, away: str = "") -> dict[str, int]:
    """Each call of taking a version; how A ended."""
    points: Counter[str] = Counter()
    for call in calls_of(ground, "taking"):
        if ground.mine(call.number):
            points[_play(ground, call, bool(away))] += 1
    return dict(points)


def _play(ground: Ground, call: Call, away: bool) -> str:
    where = ground.work
    point = f"A stopped at {call}" + (", its store is away" if away else "")
    ground.reset("loop")
    flag = ground.base / "away"
    flag.unlink(missing_ok=True)
    a = Child(lambda: _first(where, Faults("stop", at=call.number), flag))
    if not a.stopped():
        ground.expect(False, point, f"was not stopped: {a.result()}")
        return "not stopped"
    try:
        b = Child(lambda: _second(where)).result()
        if away:
            flag.touch()
    finally:
        a.go_on()
    done = a.result()
    flag.unlink(missing_ok=True)
    c = Child(lambda: _third(where)).result()
    expect = ground.expect
    expect(done["error"] == "FencedError", point, f"A ended with {done}")
    # What A had in flight when B came was its version 3, the next one is 4: its commit tells A at the latest, at a loop head.
    expect(done["steps"] <= TARGET_STEP + 3 * EVERY, point, f"A went on until step {done['steps']}")
    expect((c["version"], c["digest"]) == (b["version"], b["digest"]), point, f"C resumes from {c}, not from {b}")
    expect(not c["skipped"], point, f"C passed over {c['skipped']}")
    return str(done["error"])


def _first(where: Path, faults: Faults, flag: Path) -> dict[str, Any]:
    """A: goes on taking versions until it hears that it is not alone."""
    program = Program(where, takeover=True)
    found: dict[str, Any] = {"error": None, "steps": 0}
    store = str(where / "run")
    gone = Faults("error", match=lambda call: call.path.startswith(store) and flag.exists())
    with ExitStack() as stack:

        def tail(step: int) -> None:
            found["steps"] = step + 1
            if step + 1 == TARGET_STEP:
                program.quiet()
                stack.enter_context(gone)
                stack.enter_context(faults)
            elif step >= TARGET_STEP:
                program.quiet()

        try:
            program.loop(tail=tail)
        except HoldfastError as error:
            found["error"], found["text"] = type(error).__name__, str(error)[:300]
    return found


def _second(where: Path) -> dict[str, Any]:
    """B: takes the run over, computes something else than A, takes versions at the place, and leaves."""
    program = Program(where, salt=1.0, takeover=True)
    digests: dict[int, str] = {}
    for step in program.run.steps(100, every=holdfast.steps(EVERY)):
        digests[step] = program.digest()
        program.advance(step)
        program.quiet()
        if len(digests) == 2 * EVERY + 1:
            break
    there = lf_ladders.committed(where)
    newest = max(number for numbers in there.values() for number in numbers)
    program.run.close()
    return {"version": newest, "digest": _at(digests, where, newest)}


def _at(digests: dict[int, str], where: Path, version: int) -> str:
    """The state's digest at a version of B's own."""
    from holdfast.catalog import read_commit
    from holdfast.store import open_store

    for place in (*where.glob("memory/*/*"), *where.glob("local/*/*"), where / "run"):
        for path in place.glob(f"versions/{version:08d}-*/commit"):
            commit = read_commit(open_store(place, create=False), "checkpoint", path.parent.name)[0]
            return digests[commit.step or 0]
    raise AssertionError(f"version {version} is nowhere")


def _third(where: Path) -> dict[str, Any]:
    program = Program(where, takeover=True)
    program.run.ready()
    restored = program.run.restored
    assert restored is not None
    found = {"version": restored.version, "digest": program.digest(), "skipped": list(restored.skipped)}
    program.run.close()
    return found
