"""Records what a program does to the disk, for the power loss model: `recorded.pickle` in the ground's directory.

`resumed`: an existing run opened, one checkpoint with retention. `fresh`: a run that is not there yet, down to its first
version. `inherited`: the same two after another process was killed in the middle of its own, whose unsynced
operations are still in the air: (name, how many operations the dead one had done, scene).
"""

from __future__ import annotations

import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path

from fs_disk import NAMES, Disk, materialise, tree_of
from fs_forks import Child
from fs_ground import Ground
from fs_program import EVERY, Program, seed_step
from fs_recording import Op, Recording


@dataclass(frozen=True)
class Scene:
    """`begin`: the tree that is on disk before; `ops`: what is done; `reported`: (operations done when it was
    reported as durable, version) in order."""

    begin: dict[str, bytes | None]
    ops: list[Op]
    reported: list[tuple[int, int]]


def campaign(ground: Ground) -> dict[str, int]:
    scenes = {"resumed": _scene(ground, "explicit"), "fresh": _scene(ground, None)}
    inherited = []
    for name, scene in list(scenes.items()):
        for k, op in enumerate(scene.ops, 1):
            # After a name was made or removed, and before anything makes it durable.
            if op.name in NAMES and op.name != "outfile":
                inherited.append((f"{name}, killed after {op}", _inherit(ground, scene, k)))
    with (ground.base / "recorded.pickle").open("wb") as f:
        pickle.dump({"scenes": scenes, "inherited": inherited, "truth": ground.truth, "work": ground.work}, f)
    return {"scenes": len(scenes), "inherited": len(inherited), "operations": sum(len(s.ops) for s in scenes.values())}


def _scene(ground: Ground, seed: str | None) -> Scene:
    ground.reset(seed)
    begin = {**_above(ground), **tree_of(ground.work)}
    ops, reported = _record(ground)
    return Scene(begin, ops, reported if seed is None else [(0, seed_step() // EVERY), *reported])


def _inherit(ground: Ground, scene: Scene, k: int) -> Scene:
    """The first `k` operations of a process that was then killed, and what the next one does."""
    disk = Disk(scene.begin, scene.ops[:k])
    shutil.rmtree(ground.work)
    materialise(disk.after(set(range(len(disk.changes)))), ground.work)
    ops, reported = _record(ground)
    before = [(at, version) for at, version in scene.reported if at <= k]
    return Scene(scene.begin, scene.ops[:k] + ops, before + [(at + k, version) for at, version in reported])


def _record(ground: Ground) -> tuple[list[Op], list[tuple[int, int]]]:
    told = ground.base / "told.pickle"
    Child(lambda: _run(ground, told)).result()
    ops, reported = pickle.loads(told.read_bytes())
    return ops, reported


def _run(ground: Ground, told: Path) -> None:
    """In a child: open, settle, compute, checkpoint; then end without a word."""
    with Recording(str(ground.work / "log.csv")) as recording:
        program = Program(ground.work)
        program.run.ready()
        for _ in range(EVERY):
            program.advance(program.s.done)
        handle = program.run.checkpoint()
        reported = [(len(recording.ops), handle.version)]
    told.write_bytes(pickle.dumps((recording.ops, reported)))


def _above(ground: Ground) -> dict[str, bytes | None]:
    return {str(p): None for p in reversed(ground.work.parents) if str(p) != "/"}
