"""The stretches of an execution at whose storage calls faults are aimed, each with its number of calls."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from faults import Call, Faults
from fs_forks import Child
from fs_ground import Ground
from fs_program import TARGET_STEP, Program

Under = Callable[[], AbstractContextManager[Any]]


def checkpoint(where: Path, under: Under) -> Program:
    """From the loop's last statement before the checkpoint to its first one after: the whole of it, retention too."""
    program = Program(where)
    faults = under()

    def tail(step: int) -> None:
        if step + 1 == TARGET_STEP:
            faults.__enter__()

    def head(step: int) -> None:
        if step == TARGET_STEP:
            faults.__exit__(None, None, None)

    with program.run:
        program.loop(head, tail)
    return program


def flight(where: Path, under: Under) -> Program:
    """The same of a checkpoint that is written while the program goes on and changes all its state."""
    program = Program(where)
    faults = under()

    def tail(step: int) -> None:
        if step + 1 == TARGET_STEP:
            program.quiet()
            faults.__enter__()
        elif step == TARGET_STEP:
            program.quiet()
            faults.__exit__(None, None, None)

    with program.run:
        program.loop(tail=tail)
    return program


def opening(where: Path, under: Under) -> Program:
    """`open`, `protect` and `ready`: holder, fence, lease, restoring, base."""
    with under():
        program = Program(where)
        program.run.ready()
    with program.run:
        program.loop()
    return program


def ending(where: Path, under: Under) -> Program:
    """Leaving the `with` block: the last version, which says that the run is complete, and the record of the end."""
    program = Program(where)
    with program.run:
        program.loop()
        faults = under()
        faults.__enter__()
    faults.__exit__(None, None, None)
    return program


# Name -> the stretch, and the seed it starts from.
PHASES: dict[str, tuple[Callable[[Path, Under], Program], str | None]] = {
    "checkpoint": (checkpoint, "loop"),
    "flight": (flight, "loop"),
    "first opening": (opening, None),
    "opening": (opening, "loop"),
    "ending": (ending, "loop"),
}


def calls_of(ground: Ground, phase: str) -> list[Call]:
    """The storage calls of a phase that nothing disturbs."""
    stretch, seed = PHASES[phase]

    def trace() -> list[dict[str, Any]]:
        faults = Faults("trace")
        stretch(ground.work, lambda: faults)
        return [asdict(call) for call in faults.calls]

    ground.reset(seed)
    return [Call(**call) for call in Child(trace).result()]
