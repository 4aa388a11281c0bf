"""A small serial program with all that a checkpoint can hold, and the same computation without Holdfast: the oracle.

Its larger array changes sparsely, its slow one seldom: from a MiB each (2 ** 17 elements) on, versions share blocks and pages.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

import holdfast

from .ledger import Durable, Ledger

EVERY = 2  # steps between checkpoints


class State:
    """What is computed: a grid, a larger array, a random generator, a tree. Knows nothing of Holdfast."""

    def __init__(self, elements: int) -> None:
        self.grid = np.zeros((12, 12))
        self.big = np.zeros(elements)
        self.slow = np.zeros(elements)
        self.rng = np.random.default_rng(11)
        self.tree: dict[str, Any] = {"done": 0, "best": 0.0, "history": []}

    def advance(self, step: int) -> str:
        """One step in place; the line of output that belongs to it."""
        noise = self.rng.standard_normal(self.grid.shape)
        self.grid += 0.1 * noise
        self.big[step % 7 :: 7000] += float(self.grid[0, 0]) + step
        if step % 5 == 0:
            self.slow += step
        self.tree["best"] = max(self.tree["best"], float(self.grid.max()))
        self.tree["history"].append(float(noise[0, 0]))
        self.tree["done"] = step + 1
        return f"{step},{self.tree['best']!r}\n"

    def digest(self) -> str:
        h = xxhash.xxh3_128()
        h.update(self.grid)
        h.update(self.big)
        h.update(self.slow)
        h.update(repr((self.rng.bit_generator.state, self.tree)).encode())
        return h.hexdigest()


class Truth:
    """Digest of the undisturbed state after each number of steps, and the whole output file."""

    def __init__(self, steps: int, elements: int) -> None:
        state = State(elements)
        self.digests = {0: state.digest()}
        self.output = ""
        for step in range(steps):
            self.output += state.advance(step)
            self.digests[step + 1] = state.digest()


class Program:
    """One execution under Holdfast. `where` holds `run/` and the output file; `ledger` may be elsewhere.

    `more`: see `Durable`. Further options are those of `holdfast.open`.
    """

    def __init__(
        self,
        where: Path,
        steps: int,
        elements: int,
        ledger: Ledger | None = None,
        more: Callable[[], dict[str, Any]] = dict,
        **options: Any,
    ) -> None:
        logging.getLogger("holdfast").addHandler(logging.NullHandler())  # its warnings are expected, and many
        if ledger is not None:
            Durable(ledger, more).attach()
        self.steps, self.ledger = steps, ledger
        self.state = State(elements)
        # one thread that writes: then each execution makes the same calls in the same order
        self.run = holdfast.open(where / "run", **{"threads": 1, "signals": False, "lease": 3600.0} | options)
        self.run.protect("grid", self.state.grid)
        self.run.protect("big", self.state.big)
        self.run.protect("slow", self.state.slow)
        self.run.protect("rng", self.state.rng)
        self.run.protect("tree", self.state.tree)
        self.output = self.run.file(where / "output.csv")

    def settle(self) -> dict[str, Any]:
        """Settle what is resumed from and tell it, in the ledger too: version, step, digest, what was passed over."""
        self.run.ready()
        restored = self.run.restored
        found = {
            "version": restored.version if restored else None,
            "step": (restored.step or 0) if restored else 0,
            "digest": self.state.digest(),
            "skipped": [list(s) for s in restored.skipped] if restored else [],
        }
        if self.ledger is not None:
            self.ledger.append("resumed", **found)
        return found

    def loop(
        self, head: Callable[[int], None] = lambda step: None, tail: Callable[[int], None] = lambda step: None
    ) -> None:
        """All steps that are left; `head(step)` before a step's work, `tail(step)` after it."""
        for step in self.run.steps(self.steps, every=holdfast.steps(EVERY)):
            head(step)
            self.output.write(self.state.advance(step))
            tail(step)

    def finish(self) -> str:
        """Run to the end and complete the run; the final state's digest."""
        with self.run:
            self.loop()
        return self.state.digest()
