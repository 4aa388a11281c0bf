"""The program under fault: serial, with all that a checkpoint can hold, and the same to the bit whenever it is run.

Its state is a small grid, an array of three blocks of which each step changes one (so that a version has blocks in common with
the one before), memory that can't change, a random generator and a tree; it writes a line per step to an output file. `loop`
lets `run.steps` take the checkpoints, `explicit` calls `run.checkpoint()` itself, so that it can catch what that raises.
`shrink` makes the blocks small and as many, for campaigns in which only the order of the calls matters. `choose` takes one of
`VARIANTS`: how the state is captured, what is written again.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

import holdfast

STEPS = 8
EVERY = 2  # versions 1, 2, 3 are of steps 2, 4, 6; the last one says "complete"
TARGET_STEP = 6  # the checkpoint that faults are aimed at

# Name -> options of the run, and up to which step the seed directory holds versions. With `full` each checkpoint is durable
# when the call returns; the others are written beside the program.
VARIANTS: dict[str, tuple[dict[str, Any], int]] = {
    "full": ({"incremental": "off", "overlap": "off"}, 4),  # retention: version 3 takes the place of 1
    "copy": ({"incremental": "off", "capture": "copy"}, 4),
    "direct": ({"incremental": "off", "capture": "direct"}, 4),
    "reference": ({"incremental": "off", "capture": "reference"}, 4),
    "blocks": ({"incremental": "blocks"}, 4),  # 3 needs a block of 2, which needs one of 1: nothing is deleted
    "pages": ({"incremental": "pages"}, 2),  # 2 is taken in the same process: only then is it known what changed since
    "chain": ({"incremental": "blocks", "max_chain": 2, "keep": 1}, 4),  # 3 is whole again, and takes the place of 1 and 2
    "process": ({"incremental": "blocks", "engine": "process"}, 4),
    "cow": ({"incremental": "off", "capture": "cow"}, 4),
}

_elements = 12 << 17
_options: dict[str, Any] = VARIANTS["full"][0]
_seed_step = VARIANTS["full"][1]


def choose(variant: str) -> None:
    """From now on in this process: this variant."""
    global _options, _seed_step
    _options, _seed_step = VARIANTS[variant]


def seed_step() -> int:
    """The seed directory holds the versions up to this step."""
    return _seed_step


def kept() -> int:
    """How many versions retention keeps at least."""
    return int(_options.get("keep", 2))


def shrink(put: Callable[[Any, str, int], None] = setattr) -> None:
    """From now on in this process: blocks of 128 KiB instead of 4 MiB, and an array of 384 KiB. `put`: who sets a constant."""
    here = sys.modules[__name__]
    put(here, "_elements", 48 << 10)
    sizes = dict.fromkeys(("BLOCK", "UNIT", "SLOT", "REQUEST"), 128 << 10) | {"OWN_UNIT": 32 << 10, "AHEAD": 256 << 10}
    for name in ("capture.arena", "engine.helper", "engine.requests", "run.capturing", "run.tracking"):
        importlib.import_module(f"holdfast.{name}")
    for name, module in list(sys.modules.items()):
        for constant in sizes.keys() & vars(module).keys() if name.startswith("holdfast.") else ():
            put(module, constant, sizes[constant])


class Program:
    """One execution. `where` holds `run/` and `log.csv`; `salt` makes another computation of it."""

    def __init__(self, where: Path, *, salt: float = 0.0, **options: Any) -> None:
        chosen: dict[str, Any] = {"keep": 2, "threads": 1, "signals": False, "lease": 3600.0, **_options, **options}
        self.salt = salt
        self.run = holdfast.open(where / "run", **chosen)
        self.grid = self.run.protect("grid", np.zeros((12, 12)))
        self.big = self.run.protect("big", np.zeros(_elements))
        self.rng = self.run.rng(11)
        self.s = self.run.state(done=0, best=None, history=[], table={}, fixed=_frozen(0))
        self.log = self.run.file(where / "log.csv") if options.get("mode") != "r" else None

    def advance(self, step: int) -> None:
        """One step, in place."""
        noise = self.rng.standard_normal(self.grid.shape)
        self.grid += noise * 0.1 + self.salt
        third = len(self.big) // 3
        self.big[third * (step % 3) : third * (step % 3 + 1)][step::1024] += float(self.grid[0, 0]) + step
        self.s.best = max(self.s.best or 0.0, float(self.grid.max()))
        self.s.history = [*self.s.history, (step, float(noise[0, 0]))]
        self.s.table[f"step {step}"] = {"sum": float(self.grid.sum())}
        self.s.fixed = _frozen(step + 1)
        self.s.done = step + 1
        print(step, repr(self.s.best), sep=",", file=self.log)

    def digest(self) -> str:
        """Of the whole state."""
        h = xxhash.xxh3_128()
        h.update(self.grid.data)
        h.update(self.big.data)
        h.update(self.s.fixed.tobytes())
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

    def quiet(self) -> None:
        """Wait until nothing is in flight any more, what is deleted after it included."""
        until = time.monotonic() + 20
        while self.run._x.writer.flying is not None:
            if time.monotonic() > until:
                raise TimeoutError("a version is in flight for 20 s")
            time.sleep(0.0005)
        self.run._x.writer.tidying.finish()

    def leave(self) -> None:
        """End this execution without completing the run."""
        self.run.close()


def _frozen(value: float) -> Any:
    """Memory that can't change: it need not be copied."""
    made = np.full(6000, float(value))
    made.flags.writeable = False
    return made


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
