"""One storage call of a checkpoint fails: a clear error or warning, the version before intact, the next one succeeds.

`mode`: "EIO" or "ENOSPC", once; "EIO-on" or "ENOSPC-on": that call and all later ones until the checkpoint is over
(a device that is gone, a disk that stays full); "short": each write moves a part only. `on_error`: "raise" or "warn"; or
"flight": the checkpoint is under way while the program goes on, and the error is in its handle and raised by the next call.
"""

from __future__ import annotations

import errno
import os
import warnings
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any

from faults import Call, Faults, named
from fs_forks import Child
from fs_ground import Ground, after_pruning
from fs_phases import calls_of
from fs_program import TARGET_STEP, Program, probe

from holdfast import CheckpointError, CheckpointWarning
from holdfast.run import maintenance
from holdfast.store.files import AHEAD

# The only calls whose failure may pass without an error: nothing depends on them, or there is another way.
_HARMLESS = ("close", "unlink")
# Nor on room ahead of what is written of a file whose size is not known yet: AHEAD bytes more than is needed.


def campaign(ground: Ground, mode: str, on_error: str) -> dict[str, int]:
    """All points of one mode; how many failed with an error, and how many did no harm."""
    calls = calls_of(ground, "flight" if on_error == "flight" else "checkpoint")
    points = {"error": 0, "harmless": 0}
    if mode == "short":
        writes = [c for c in calls if c.name == "pwrite"]
        for i in filter(ground.mine, range(1, len(writes) + 1)):
            for part in (None, 1, 0):  # half of the bytes; one; none, which no disk may answer for ever
                points[_play(ground, Faults("short", at=i, match=named("pwrite"), part=part), on_error, False, False)] += 1
        return points
    code: int = getattr(errno, mode.removesuffix("-on"))
    reported, linked = reporting(calls), commit_of(calls)
    for call in filter(lambda c: ground.mine(c.number), calls):
        if mode.endswith("-on"):
            faults = Faults("error", errno=code, match=_From(call.number))
        else:
            faults = Faults("error", at=call.number, errno=code)
        points[_play(ground, faults, on_error, call.number > linked, call.number > reported)] += 1
    return points


def commit_of(calls: list[Call]) -> int:
    """Number of the call that gives the commit its name."""
    return next(c.number for c in calls if c.name == "link" and (c.to or "").endswith("/commit"))


def reporting(calls: list[Call]) -> int:
    """Number of the last look for a later fence: what comes after it is retention, of a version that is reported."""
    linked = commit_of(calls)
    looks = (c.number for c in calls if c.name == "scandir" and c.path.endswith("/attempts"))
    return int(min(number for number in looks if number > linked))


class _From:
    """Matches the `first` call and all after it."""

    def __init__(self, first: int) -> None:
        self.first, self.seen = first, 0

    def __call__(self, call: Call) -> bool:
        self.seen += 1
        return self.seen >= self.first


def _play(ground: Ground, faults: Faults, on_error: str, committed: bool, retaining: bool) -> str:
    """`committed`: the fault comes behind the commit's name: the version is whole, and stays whatever is told; `retaining`:
    it comes when the version has been reported, and must not become its error."""
    play = _STYLES[on_error]
    ground.reset("loop" if play is _loop else "explicit")
    found = Child(lambda: play(ground, faults)).result()
    hits = [Call(**hit) for hit in found["hit"]]
    lasting = isinstance(faults.match, _From)
    point = f"{faults.mode} {errno.errorcode[faults.errno]}, on_error={on_error!r}, at {hits[0] if hits else None}"
    expect = ground.expect
    expect(bool(hits) and (lasting or len(hits) == 1), point, f"{len(hits)} calls went wrong")
    error = found["error"]
    if error is None:
        expect(found["read"][0] == 3, point, f"no error, but version {found['read'][0]} is the newest")
        expect(faults.mode == "short" or retaining or _harmless(hits), point, "no error")
    else:
        expect(not retaining, point, "an error of a version that is durable and counts")
        _clear(ground, point, faults, error)
        expect(found["read"][0] == (3 if committed else 2), point, f"an error, but version {found['read'][0]} is the newest")
    step = {2: 4, 3: 6}.get(found["read"][0], 0)
    expect(found["read"][1] == ground.truth[step], point, "what a start would read is another state")
    expect(not found["before"] or error is None, point, f"damage of the version before: {found['before']}")
    expect(found["next"] == [True, None], point, f"the next checkpoint: {found['next']}")
    expect(found["final"] == ground.truth[max(ground.truth)], point, "the program's state was touched")
    expect(found["log"] == ground.log, point, f"another output file: {found['log']!r}")
    expect(not found["untidy"], point, f"left after pruning: {found['untidy']}")
    expect(not found["damage"], point, f"damage: {found['damage']}")
    expect(found["stored"] == found["final"], point, "the last version holds another state")
    return "harmless" if error is None else "error"


def _clear(ground: Ground, point: str, faults: Faults, error: dict[str, Any]) -> None:
    """It names the class, the file, the cause, what is safe, and what to do."""
    text = error["text"]
    code = "EIO" if faults.mode == "short" else errno.errorcode[faults.errno]
    ground.expect(error["type"] in ("CheckpointError", "CheckpointWarning"), point, f"raised {error}")
    ground.expect("rank 0" in text and code in text and "Version 3 was not written" in text, point, text)
    ground.expect("intact" in text and "then try again" in text, point, text)
    ground.expect(str(ground.work / "run") in text, point, f"no path: {text}")
    if error["type"] == "CheckpointError":
        ground.expect(error["file"] is not None and error["version"] == 3, point, str(error))


def _harmless(hits: list[Call]) -> bool:
    """Whether the failure of these may go without an error."""
    return all(
        c.name in _HARMLESS
        or (c.name == "open" and (c.flags or 0) & os.O_DIRECT)
        or (c.name == "fallocate" and (c.nbytes or 0) > AHEAD)
        for c in hits
    )


# -- in the child ----------------------------------------------------------------------------------


def _explicit(ground: Ground, faults: Faults) -> dict[str, Any]:
    """The program asks for each checkpoint and catches what it raises."""
    program = Program(ground.work, on_error="raise")
    found: dict[str, Any] = {"error": None}

    def checkpoint(done: int) -> None:
        try:
            with faults if done == TARGET_STEP else _nothing():
                program.run.checkpoint()
        except CheckpointError as error:
            found["error"] = _plain(error)
        _look(ground, found, faults)

    with program.run:
        program.explicit(checkpoint)
        handle = program.run.checkpoint()
        found["next"] = [handle.durable, handle.error and str(handle.error)]
    return _end(ground, program, found, faults)


def _flight(ground: Ground, faults: Faults) -> dict[str, Any]:
    """The program changes its state while the checkpoint is under way; the next call raises what it failed with."""
    program = Program(ground.work, on_error="raise")
    found: dict[str, Any] = {"error": None}

    def checkpoint(done: int) -> None:
        if done != TARGET_STEP:
            program.run.checkpoint()
            return
        told: list[CheckpointError] = []
        with faults:
            try:
                handle = program.run.checkpoint(wait=False)
            except CheckpointError as error:  # it failed before anything could be captured
                told.append(error)
            program.advance(done)
            program.quiet()
        _look(ground, found, faults)
        if not told:
            if handle.durable != (handle.error is None):
                raise AssertionError(f"{handle}: durable {handle.durable}, error {handle.error}")
            if handle.durable:
                return
            try:
                program.run.checkpoint()
                raise AssertionError(f"{handle} has failed, and the next call says nothing of it")
            except CheckpointError as error:
                told.append(error)
        found["error"] = _plain(told[0])

    with program.run:
        program.explicit(checkpoint)
        handle = program.run.checkpoint()
        found["next"] = [handle.durable, handle.error and str(handle.error)]
    return _end(ground, program, found, faults)


def _plain(error: CheckpointError) -> dict[str, Any]:
    return {"type": type(error).__name__, "text": str(error), "file": error.file, "version": error.version}


def _loop(ground: Ground, faults: Faults) -> dict[str, Any]:
    """`run.steps` takes the checkpoints and goes on with a warning."""
    program = Program(ground.work, on_error="warn")
    found: dict[str, Any] = {"error": None}
    handles = []

    def tail(step: int) -> None:
        if step + 1 == TARGET_STEP:
            faults.__enter__()
        elif step == TARGET_STEP:
            handles.append(program.run.checkpoint())  # at the next head

    def head(step: int) -> None:
        if step == TARGET_STEP:
            faults.__exit__(None, None, None)
            for warning in caught:
                found["error"] = {"type": warning.category.__name__, "text": str(warning.message)}
            _look(ground, found, faults)

    with program.run:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", CheckpointWarning)
            program.loop(head, tail)
        found["next"] = [handles[0].durable, handles[0].error and str(handles[0].error)]
    return _end(ground, program, found, faults)


_STYLES = {"raise": _explicit, "warn": _loop, "flight": _flight}


def _look(ground: Ground, found: dict[str, Any], faults: Faults) -> None:
    """Right after the checkpoint under fault, while the run is open: what would a start find?"""
    found["read"] = probe(ground.work)
    there = list(ground.work.glob("run/versions/00000002-*/commit"))  # else a whole one has taken its place
    found["before"] = [str(d) for d in maintenance.verify(ground.work / "run", 2)] if there else ["gone"]
    found["hit"] = [asdict(call) for call in faults.hit]


def _end(ground: Ground, program: Program, found: dict[str, Any], faults: Faults) -> dict[str, Any]:
    found["final"] = program.digest()
    found["log"] = (ground.work / "log.csv").read_text()
    found |= after_pruning(ground.work)
    found["stored"] = probe(ground.work)[1]
    return found


class _nothing(AbstractContextManager[None]):
    def __exit__(self, *exc: object) -> None:
        pass
