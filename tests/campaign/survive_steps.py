"""The steps of a program of part G: noted, slowed down, and told to the ledger."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import holdfast

from .ledger import Ledger
from .survive_notes import Notebook, Orders, What

STATES = 20  # steps between states that are told to the ledger


def told_steps(
    run: holdfast.Run, n: int, options: Mapping[str, Any], book: Notebook, orders: Orders, ledger: Ledger,
    digest: Callable[[], str],
) -> Iterator[int]:  # fmt: skip
    """`run.steps(n, **options)`; `digest`: of this rank's state at a step's head or end (all ranks)."""
    rank, resumed = run.comm.rank, False
    known = {"rank": rank, "attempt": run.attempt}
    for step in run.steps(n, **options):
        found = {}
        if not resumed:
            book.note(What.RESUMED, rank, run.attempt, step)
            version = run.restored.version if run.restored is not None else None
            found = {"version": version, "step": step, "digest": digest(), **known}
        yield step
        time.sleep(orders.slow / 1e6)
        book.note(What.STEP, rank, run.attempt, step + 1)
        if not resumed:  # after the note: the ledger waits for its disk
            resumed = True
            ledger.append("resumed", **found)
        elif step % STATES == 0:
            ledger.append("state", step=step + 1, digest=digest(), **known)
