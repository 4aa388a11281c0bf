"""Records what a program does to the disk, for the power loss model: `recorded.pickle` in the ground's directory.

`resumed`: an existing run opened, one checkpoint with retention. `fresh`: a run that is not there yet, down to its first
version. `inherited`: the same two after another process was killed in the middle of its own, whose unsynced
operations are still in the air: (name, how many operations the dead one had done, scene).

With the argument `flights` there is one scene instead: an existing run opened, and checkpoints up to the target's step, each
under way while the program goes on.
"""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fs_disk import NAMES, Disk, materialise, tree_of
from fs_forks import Child
from fs_ground import Ground
from fs_program import EVERY, TARGET_STEP, Program, seed_step
from fs_recording import Op, Recording

from holdfast.run.handle import Handle

Run = Callable[[Ground, Path], None]


@dataclass(frozen=True)
class Scene:
    """`begin`: the tree that is on disk before; `ops`: what is done; `reported`: (operations done when it was
    reported as durable, version) in order."""

    begin: dict[str, bytes | None]
    ops: list[Op]
    reported: list[tuple[int, int]]


def campaign(ground: Ground, what: str = "") -> dict[str, int]:
    if what:
        scenes = {what: _scene(ground, "explicit", _fly)}
        _save(ground, scenes, [])
        return {"scenes": 1, "inherited": 0, "operations": len(scenes[what].ops)}
    scenes = {"resumed": _scene(ground, "explicit"), "fresh": _scene(ground, None)}
    inherited = []
    for name, scene in list(scenes.items()):
        for k, op in enumerate(scene.ops, 1):
            # After a name was made or removed, and before anything makes it durable.
            if op.name in NAMES and op.name != "outfile":
                inherited.append((f"{name}, killed after {op}", _inherit(ground, scene, k)))
    _save(ground, scenes, inherited)
    return {"scenes": len(scenes), "inherited": len(inherited), "operations": sum(len(s.ops) for s in scenes.values())}


def _save(ground: Ground, scenes: dict[str, Scene], inherited: list[tuple[str, Scene]]) -> None:
    with (ground.base / "recorded.pickle").open("wb") as f:
        pickle.dump({"scenes": scenes, "inherited": inherited, "truth": ground.truth, "work": ground.work}, f)


def _scene(ground: Ground, seed: str | None, run: Run | None = None) -> Scene:
    ground.reset(seed)
    begin = {**_above(ground), **tree_of(ground.work)}
    ops, reported = _record(ground, run or _run)
    return Scene(begin, ops, reported if seed is None else [(0, seed_step() // EVERY), *reported])


def _inherit(ground: Ground, scene: Scene, k: int) -> Scene:
    """The first `k` operations of a process that was then killed, and what the next one does."""
    disk = Disk(scene.begin, scene.ops[:k])
    shutil.rmtree(ground.work)
    materialise(disk.after(set(range(len(disk.changes)))), ground.work)
    ops, reported = _record(ground, _run)
    before = [(at, version) for at, version in scene.reported if at <= k]
    return Scene(scene.begin, scene.ops[:k] + ops, before + [(at + k, version) for at, version in reported])


def _record(ground: Ground, run: Run) -> tuple[list[Op], list[tuple[int, int]]]:
    told = ground.base / "told.pickle"
    Child(lambda: run(ground, told)).result()
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


def _fly(ground: Ground, told: Path) -> None:
    """In a child: open, settle, and compute; each checkpoint is under way while the next step is computed."""
    reported: list[tuple[int, int]] = []
    with Recording(str(ground.work / "log.csv")) as recording:
        reach = Handle.reach

        def note(handle: Handle, state: str) -> None:
            if state == "durable":  # from here on the program may be told
                reported.append((len(recording.ops), handle.version))
            reach(handle, state)

        Handle.reach = note  # type: ignore[method-assign]
        program = Program(ground.work)
        program.run.ready()
        while program.s.done <= TARGET_STEP:
            program.advance(program.s.done)
            program.quiet()
            if program.s.done % EVERY == 0:
                program.run.checkpoint(wait=False)
    told.write_bytes(pickle.dumps((recording.ops, reported)))


def _above(ground: Ground) -> dict[str, bytes | None]:
    return {str(p): None for p in reversed(ground.work.parents) if str(p) != "/"}
