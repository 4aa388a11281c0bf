"""The helper process goes wrong at each of its storage calls: killed, stopped, or the call fails. The program goes on.

Either the version is durable nevertheless, or its error says that it was not written; the version before is what a start finds,
and the next checkpoint of the same program succeeds, by another helper.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import fs_helper_side
from fs_forks import Child
from fs_ground import Ground, after_pruning
from fs_program import TARGET_STEP, Program, probe

from holdfast import CheckpointError
from holdfast.engine.helper import client, spawn

_MOST_CALLS = 200
_SILENCE = 2.0  # seconds after which a helper that stands still is given up


def campaign(ground: Ground, mode: str) -> dict[str, int]:
    """All points of a mode ("kill", "stop", "error errno=EIO"): how many versions failed, and were durable."""
    points = {"failed": 0, "durable": 0}
    for at in filter(ground.mine, range(1, _MOST_CALLS)):
        ended = _play(ground, f"{mode} at={at} path=/00000003-")
        if ended is None:
            return points
        points[ended] += 1
    raise AssertionError(f"the helper makes more than {_MOST_CALLS} calls")


def _play(ground: Ground, fault: str) -> str | None:
    """What became of the version; None if the helper makes fewer calls."""
    ground.reset("explicit")
    note = ground.base / "note"
    note.unlink(missing_ok=True)
    found = Child(lambda: _work(ground, fault, note)).result()
    if not note.exists():
        return None
    point = f"{fault}: {note.read_text()}"
    expect = ground.expect
    error = found["error"]
    expect(found["durable"] == (error is None), point, f"durable {found['durable']}, error {error}")
    newest = 2 if error else 3
    expect(found["read"] == [newest, ground.truth[4 if error else 6]], point, f"a start would read {found['read']}")
    if error:
        clear = "Version 3 was not written" in error and "intact" in error and "rank 0" in error
        expect(clear, point, f"not clear: {error}")
    expect(found["next"] == [True, None], point, f"the next checkpoint: {found['next']}")
    expect(found["final"] == ground.truth[max(ground.truth)], point, "the program's state was touched")
    expect(not found["untidy"] and not found["damage"], point, f"left {found['untidy']}, damage {found['damage']}")
    expect(found["stored"] == found["final"], point, "the last version holds another state")
    return "failed" if error else "durable"


def _work(ground: Ground, fault: str, note: Path) -> dict[str, Any]:
    """In a child: a checkpoint under way while the program changes its state, the next call, and to the end."""
    os.environ[fs_helper_side.FAULT], os.environ[fs_helper_side.NOTE] = fault, str(note)
    spawn._CODE = fs_helper_side.CODE
    client.SILENCE = _SILENCE
    program = Program(ground.work)
    found: dict[str, Any] = {"error": None}

    def checkpoint(done: int) -> None:
        if done != TARGET_STEP:
            program.run.checkpoint()
            return
        try:
            handle = program.run.checkpoint(wait=False)
            program.advance(done)
            program.quiet()
            found["durable"], found["read"] = handle.durable, probe(ground.work)
            if handle.error is not None:
                program.run.checkpoint()
                raise AssertionError(f"{handle} has failed, and the next call says nothing of it")
        except CheckpointError as error:
            found["error"] = str(error)
            found.setdefault("durable", False)
            found.setdefault("read", probe(ground.work))

    with program.run:
        program.explicit(checkpoint)
        handle = program.run.checkpoint()
        found["next"] = [handle.durable, handle.error and str(handle.error)]
    found["final"] = program.digest()
    found |= after_pruning(ground.work)
    found["stored"] = probe(ground.work)[1]
    return found
