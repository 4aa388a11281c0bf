"""A job of part G with one process: `examples/digits.py` under `holdfast run`, started again after each fault."""

from __future__ import annotations

import sys
from pathlib import Path

from .survive_job import EVERY, HeatJob
from .survive_kinds import Setting


class DigitsJob(HeatJob):
    """One run of the example in the new directory `base`."""

    def __init__(self, base: Path, steps: int, cache: Path | None = None) -> None:
        super().__init__(base, steps, Setting.DIGITS, 0, cache)
        self.ranks = 1
        self.out = base / "out.npz"
        given = {"steps": steps, "every": EVERY, "run": "disk/run", "out": "out.npz", "log": "log.csv", "ledger": "ledger"}
        self.words = [f"--{name}={value}" for name, value in given.items()]
        self.program = [sys.executable, str(Path(__file__).with_name("survive_digits_program.py")), *self.words]
        self.command = [sys.executable, "-m", "holdfast.cli", "run", "--grace", "5", "--", *self.program]
