"""The program under fault: serial, with all that a checkpoint can hold, and the same to the bit whenever it is run.

Its state is a small grid, an array of 9 MiB (several blocks, several writes), a random generator and a tree; it
writes a line per step to an output file. `loop` lets `run.steps` take the checkpoints, `explicit` calls
`run.checkpoint()` itself, so that it can catch what that raises. `shrink` makes the array small and the writes as many, for
campaigns in which only the order of the calls matters.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

import holdfast
from holdfast.engine import write

STEPS = 8
EVERY = 2  # versions 1, 2, 3 are of steps 2, 4, 6; retention leaves two of them; the last one says "complete"
SEED_STEP = 4  # the seed directory holds the versions up to this step
TARGET_STEP = 6  # the checkpoint that faults are aimed at

_elements = 9 << 17


def shrink() -> None:
    """From now on in this process: 360 KiB instead of 9 MiB, written in three requests nevertheless."""
    global _elements
    _elements = 45 << 10
    write.SPAN = 128 << 10


class Program:
    """One execution. `where` holds `run/` and `log.csv`; `salt` makes another computation of it."""

    def __init__(self, where: Path, *, salt: float = 0.0, **options: Any) -> None:
        chosen: dict[str, Any] = {"keep": holdfast.Keep(last=2), "threads": 1, "signals": False, "lease": 3600.0} | options
        self.salt = salt
        self.run = holdfast.open(where / "run", **chosen)
        self.grid = self.run.protect("grid", np.zeros((12, 12)))
        self.big = self.run.protect("big", np.zeros(_elements))
        self.rng = self.run.rng(11)
        self.s = self.run.state(done=0, best=None, history=[], table={})
        self.log = self.run.file(where / "log.csv") if options.get("mode") != "r" else None

    def advance(self, step: int) -> None:
        """One step, in place."""
        noise = self.rng.standard_normal(self.grid.shape)
        self.grid += noise * 0.1 + self.salt
        self.big[step :: STEPS + 1] += float(self.grid[0, 0]) + step
        self.s.best = max(self.s.best or 0.0, float(self.grid.max()))
        self.s.history = [*self.s.history, (step, float(noise[0, 0]))]
        self.s.table[f"step {step}"] = {"sum": float(self.grid.sum())}
        self.s.done = step + 1
        print(step, repr(self.s.best), sep=",", file=self.log)

    def digest(self) -> str:
        """Of the whole state."""
        h = xxhash.xxh3_128()
        h.update(self.grid.data)
        h.update(self.big.data)
        tree = (self.rng.bit_generator.state, self.s.done, self.s.best, self.s.history, self.s.table)
        h.update(repr(tree).encode())
        return h.hexdigest()

    def loop(
        self, head: Callable[[int], None] = lambda step: None, tail: Callable[[int], None] = lambda step: None
    ) -> None:
        """All steps; `head(step)` before a step's work, `tail(step)` after it, where a checkpoint may be next."""
        for step in self.run.steps(STEPS, every=holdfast.steps(EVERY)):
            head(step)
            self.advance(step)
            tail(step)

    def explicit(self, checkpoint: Callable[[int], None]) -> None:
        """The same without `steps`: `checkpoint(steps completed)` wherever the loop would take one."""
        self.run.ready()
        while self.s.done < STEPS:
            self.advance(self.s.done)
            if self.s.done % EVERY == 0 and self.s.done < STEPS:
                checkpoint(self.s.done)

    def leave(self) -> None:
        """End this execution without completing the run."""
        self.run.close()


class Left(Exception):
    """Raised to leave a loop as a program does that fails: the run stays resumable."""


def probe(where: Path) -> tuple[int | None, str]:
    """What a start would go on from: version and digest of the restored state. Writes nothing."""
    program = Program(where, mode="r")
    try:
        program.run.ready()
        restored = program.run.restored
        return (restored.version if restored else None), program.digest()
    finally:
        program.run.close()
