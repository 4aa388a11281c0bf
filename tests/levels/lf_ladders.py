"""The program of tests/faults_storage with levels: which ladders, and what is left of them on storage.

All is below the directory where a point is played, the nodes' places too, so that it is put back as one.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import fs_program
from fs_ground import Ground
from fs_program import Program

import holdfast
from holdfast.format import parse_version
from holdfast.levels import Level

FAR = holdfast.versions(1000)  # never within a test


def ladder(name: str, where: Path) -> list[Level]:
    """The levels that tests call by this name."""
    memory, local = str(where / "memory"), str(where / "local")
    found = {
        "memory": [holdfast.memory(memory), holdfast.global_(every=holdfast.versions(2))],
        "far": [holdfast.memory(memory), holdfast.global_(every=FAR)],
        "local": [holdfast.local(local), holdfast.global_()],
        "both": [holdfast.memory(memory), holdfast.local(local), holdfast.global_()],
    }
    return found[name]


def choose(name: str, where: Path, seed_step: int = 4, steps: int = 8, **options: Any) -> None:
    """From now on in this process: the program has this ladder, its runs being below `where`."""
    fs_program._options = {"incremental": "blocks", "levels": ladder(name, where), **options}
    fs_program._seed_step, fs_program.STEPS = seed_step, steps
    Program.quiet = quiet  # type: ignore[method-assign]


class Played(Ground):
    """The same with a node's memory that is there from the beginning."""

    def prepare(self) -> Ground:
        (self.work / "memory").mkdir(parents=True)
        return super().prepare()

    def reset(self, seed: str | None = "loop") -> None:
        super().reset(seed)
        (self.work / "memory").mkdir(exist_ok=True)


_quiet = Program.quiet


def quiet(program: Program) -> None:
    """Wait until nothing is in flight, being copied, made ahead or deleted any more."""
    _quiet(program)
    placing = program.run._x.writer.levels
    if placing is not None and placing.keeper is not None:
        assert placing.keeper.finish(20), "copying takes 20 s"
    worker = placing.ahead.worker if placing is not None else None
    if worker is not None:
        until = time.monotonic() + 20
        while not worker.begun:
            assert time.monotonic() < until, "a thread does not begin for 20 s"
            time.sleep(0.0005)
        worker.join()
    _quiet(program)


def committed(where: Path) -> dict[str, list[int]]:
    """By level: numbers of the versions that have a commit there, oldest first."""
    found: dict[str, list[int]] = {"global": [], "memory": [], "local": []}
    for level, pattern in (("global", "run/versions"), ("memory", "memory/*/*/versions"), ("local", "local/*/*/versions")):
        for path in where.glob(f"{pattern}/*/commit"):
            parsed = parse_version(path.parent.name)
            assert parsed is not None, path
            found[level].append(parsed[0])
    return {level: sorted(numbers) for level, numbers in found.items()}


def left_behind(where: Path) -> list[str]:
    """Files at the places."""
    return [str(p.relative_to(where)) for kind in ("memory", "local") for p in (where / kind).rglob("*") if p.is_file()]


def wait_for(what: Any, seconds: float = 20.0) -> None:
    """Until `what()` is true."""
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, what
        time.sleep(0.002)
