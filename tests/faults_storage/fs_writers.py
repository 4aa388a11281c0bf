"""Two writers: A is stopped at a storage call, B takes the run over, runs on and commits; then A is continued.

A must report no success unless what it reports is behind B's version; what A does late is never taken for the newest.
A third start finds B's version to the bit (or, if A got a later attempt than B, A's, which stands on B's).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from faults import Call, Faults
from fs_forks import Child
from fs_ground import Ground
from fs_points import meets, of_process, one_of_each
from fs_program import EVERY, TARGET_STEP, Program, kept, seed_step

import holdfast
from holdfast import HoldfastError
from holdfast.run import maintenance

_MOST_CALLS = 1000
_FIRST = {"rollback": 50, "flight, rollback": 50}  # only what follows the commit record is another case than "checkpoint"


def campaign(ground: Ground, what: str, every: str = "") -> dict[str, int]:
    """All points of `what`, a key of `WRITERS`; how A ended in how many of them. `every`: not all, but one of those between
    which B could make no difference; of these each so many-th, and of each kind of call one."""
    points: dict[str, int] = {}
    if every:
        calls = _calls_of(ground, what)[_FIRST.get(what, 1) - 1 :]
        for call in of_process(one_of_each(calls, meets, ground.seed, int(every)), ground.share):
            ended = _play(ground, what, call.number)
            assert ended is not None, f"{what} makes fewer calls than {call.number}"
            points[ended] = points.get(ended, 0) + 1
        return points
    for at in filter(ground.mine, range(_FIRST.get(what, 1), _MOST_CALLS)):
        ended = _play(ground, what, at)
        if ended is None:
            return points
        points[ended] = points.get(ended, 0) + 1
    raise AssertionError(f"{what} makes more than {_MOST_CALLS} calls")


# -- what A does; each returns what it reports as done ------------------------------------------------


def _checkpoint(where: Path, faults: Faults) -> dict[str, Any]:
    program = _at_target(where)
    with faults:
        handle = program.run.checkpoint()
    return {"version": handle.version, "attempt": program.run.attempt}


def _flight(where: Path, faults: Faults) -> dict[str, Any]:
    """The checkpoint is under way while the program goes on; what it fails with is the next call's to raise."""
    program = _at_target(where)
    with faults:
        handle = program.run.checkpoint(wait=False)
        program.grid += 100.0
        program.big += 100.0
        program.quiet()
    if not handle.durable:
        program.run.checkpoint()
        raise AssertionError(f"{handle} is not durable, and the next call says nothing of it")
    return {"version": handle.version, "attempt": program.run.attempt}


def _record(where: Path, faults: Faults) -> dict[str, Any]:
    program = _at_target(where)
    with faults, program.run.transaction("spectrum") as txn:
        txn.put("spectrum", np.arange(100.0))
    return {"record": txn.version, "attempt": program.run.attempt}


def _opening(where: Path, faults: Faults) -> dict[str, Any]:
    """Opened and settled; then a version, so that it is seen on what A stands."""
    with faults:
        program = Program(where, salt=2.0)
        program.run.ready()
    restored = program.run.restored
    found = {"base": restored.version if restored else None, "base digest": program.digest()}
    # No line to the output file: what a program that has lost its run still writes there itself, nobody can hold back.
    program.grid += 2.0
    handle = program.run.checkpoint()
    return found | {"version": handle.version, "attempt": program.run.attempt, "digest": program.digest()}


def _at_target(where: Path) -> Program:
    program = Program(where)
    program.run.ready()
    for step in range(seed_step(), TARGET_STEP):
        program.advance(step)
        if step + 1 < TARGET_STEP and (step + 1) % EVERY == 0:
            program.run.checkpoint()
    return program


WRITERS: dict[str, Callable[[Path, Faults], dict[str, Any]]] = {
    "checkpoint": _checkpoint,
    "flight": _flight,
    "record": _record,
    "opening": _opening,
    "flight, rollback": _flight,
    "rollback": _checkpoint,  # B goes back to the version that A's retention is about to delete
}


def _attempted(write: Callable[[Path, Faults], dict[str, Any]], where: Path, faults: Faults) -> dict[str, Any]:
    try:
        return write(where, faults)
    except HoldfastError as error:
        return {"error": type(error).__name__, "text": str(error)}


# -- B, and who comes third ---------------------------------------------------------------------------


def _take_over(where: Path, what: str) -> dict[str, Any]:
    """B: resumes, computes something else than A, commits a version, and ends without completing the run."""
    present = _back(where) if "rollback" in what else []
    program = Program(where, salt=1.0, takeover=True)
    program.run.ready()
    restored = program.run.restored
    assert restored is not None
    found: dict[str, Any] = {"base": restored.version, "present": present, "records": _counting(program, "record")}
    for step in range(program.s.done, program.s.done + 2):
        program.advance(step)
    handle = program.run.checkpoint()
    assert handle.durable
    program.run.close()
    log = (where / "log.csv").read_text()
    return found | {
        "version": handle.version, "attempt": program.run.attempt, "digest": program.digest(), "log": log
    }  # fmt: skip


def _back(where: Path) -> list[int]:
    """Roll back to the oldest version that is whole; all those."""
    with holdfast.open(where / "run", mode="r") as run:
        current = [v.number for v in run.versions if v.status == "current"]
    # One whose blocks stood in a version that A has begun to delete is not.
    present = [number for number in current if not maintenance.verify(where / "run", number)]
    maintenance.rollback(where / "run", min(present), takeover=True)
    return present


def _third(where: Path) -> dict[str, Any]:
    """C: what a third start goes on from, and what it sees of the others."""
    program = Program(where, takeover=True)
    program.run.ready()
    restored = program.run.restored
    assert restored is not None
    versions = program.run.versions
    found = {
        "version": restored.version,
        "skipped": list(restored.skipped),
        "digest": program.digest(),
        "log": (where / "log.csv").read_text(),
        "counting": _counting(program, "checkpoint") + _counting(program, "record"),
        "versions": [[v.number, v.attempt, v.kind, v.status] for v in versions],
        "damage": [str(d) for d in maintenance.verify(where / "run")],
    }
    try:
        found["spectrum"] = float(program.run.load("spectrum").sum())
    except HoldfastError as error:
        found["spectrum"] = type(error).__name__
    program.run.close()
    return found


def _counting(program: Program, kind: str) -> list[int]:
    return [v.number for v in program.run.versions if v.status == "current" and v.kind == kind]


def _calls_of(ground: Ground, what: str) -> list[Call]:
    """What A calls where nothing disturbs it."""

    def trace() -> list[dict[str, Any]]:
        faults = Faults("trace")
        WRITERS[what](ground.work, faults)
        return [asdict(call) for call in faults.calls]

    ground.reset("explicit")
    return [Call(**call) for call in Child(trace).result()]


# -- a point ------------------------------------------------------------------------------------------


def _play(ground: Ground, what: str, at: int) -> str | None:
    """How A ended; None if it makes fewer calls than `at`."""
    where = ground.work
    ground.reset("explicit")
    faults = Faults("stop", at=at)
    a = Child(lambda: _attempted(WRITERS[what], where, faults) | {"hit": [str(c) for c in faults.hit]})
    if not a.stopped():
        found = a.result()
        assert not found["hit"] and "error" not in found, found
        return None
    try:
        b = Child(lambda: _take_over(where, what)).result()
    finally:
        a.go_on()
    done = a.result()
    # Between A's look for a fence and its unlink there is no call at which it could be held back.
    racing = "rollback" in what and any(h.split()[1] == "unlink" and h.endswith("/commit") for h in done["hit"])
    c = Child(lambda: _attempted(lambda where, _: _third(where), where, faults) if racing else _third(where)).result()
    point = f"{what}, stopped at {done['hit']}, ended {done}"
    expect = ground.expect
    if "error" in c:  # what B went back to, and shares blocks with, went away under it: known, and said
        expect(c["error"] == "NoWholeVersionError" and "are needed" in c["text"], point, f"C: {c}")
        return "raced"
    expect(len(c["counting"]) == len(set(c["counting"])), point, f"a number counts twice: {c['versions']}")
    expect(not c["skipped"] and not c["damage"], point, f"C passed over {c['skipped']}, damage {c['damage']}")
    if what == "opening" and "error" not in done:
        _a_came_later(ground, point, done, b, c)
        return "came later"
    expect((c["version"], c["digest"]) == (b["version"], b["digest"]), point, f"C resumes from {c}, not from {b}")
    expect(c["log"] == b["log"], point, f"output file {c['log']!r}, not {b['log']!r}")
    if "rollback" in what:
        # B's own version needs nothing of it: it is the first after going back.
        superfluous = racing or kept() == 1
        expect(b["base"] in c["counting"] or superfluous, point, f"what B stands on was deleted: {c['versions']}")
    # In what A wrote, only what B found and stands on may count.
    late = [v for v in c["versions"] if v[1] not in (1, b["attempt"])]
    known = {b["base"], *b["records"]}
    expect(all(v[3] != "current" or v[0] in known or v[0] < b["base"] for v in late), point, f"counts although late: {late}")
    if "error" in done:
        expect(done["error"] == "FencedError" and "End this process" in done["text"], point, "not a FencedError")
        _late_record(ground, what, point, b, c)
        return "fenced"
    reported = done.get("version", done.get("record"))
    expect(reported in known | set(b["present"]), point, f"A reports success of what B does not know: {b}")
    return "reported before B came"


def _a_came_later(ground: Ground, point: str, a: dict[str, Any], b: dict[str, Any], c: dict[str, Any]) -> None:
    """A had no fence yet when B put its own: A's is later, and A must stand on B's version."""
    expect = ground.expect
    expect(a["attempt"] > b["attempt"], point, f"A's attempt {a['attempt']}, B's {b['attempt']}")
    expect((a["base"], a["base digest"]) == (b["version"], b["digest"]), point, f"A does not stand on B's {b}")
    expect(a["version"] > b["version"], point, f"A's version {a['version']} is not after B's {b['version']}")
    expect((c["version"], c["digest"]) == (a["version"], a["digest"]), point, f"C resumes from {c['version']}")


def _late_record(ground: Ground, what: str, point: str, b: dict[str, Any], c: dict[str, Any]) -> None:
    """A record that A could not report counts only if B found it, whole, when it took over."""
    if what == "record":
        expected = float(np.arange(100.0).sum()) if b["records"] else "UsageError"
        ground.expect(c["spectrum"] == expected, point, f"load gives {c['spectrum']}; B found {b['records']}")
