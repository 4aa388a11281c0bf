"""`examples/heat.py` for part G: the example's own code, whose steps are noted and whose state goes to the ledger.

Beside the field each rank has an array of a MiB of which a step changes one page (`heat_truth.mark`). What the driver
orders is done here: to leave in the middle of a collective, to fail storage calls; where a rank kills itself stands in
`survive_moments.py`.
"""

from __future__ import annotations

import faulthandler
import importlib
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if seats := os.environ.get("SURVIVE_SEATS"):  # each process of a start is a node of its own, the same in each start
    own = Path(seats) / f"seat{os.environ['OMPI_COMM_WORLD_RANK']}"
    own.mkdir(exist_ok=True)
    os.environ["HOLDFAST_NODE_MEMORY"], os.environ["HOLDFAST_FAILURE_DOMAIN"] = str(own), own.name

import numpy as np

import holdfast
from campaign.heat_ledger import arguments
from campaign.heat_truth import digest, mark, marks
from campaign.ledger import Durable, Ledger
from campaign.survive_moments import fail_storage, kill_at_moments, note_damage, note_repairs
from campaign.survive_notes import NOBODY, Notebook, Orders, What
from campaign.survive_steps import told_steps

heat: Any = importlib.import_module("heat")  # the example; heat_truth has said where it is

DIRECTORY = Path(os.environ["SURVIVE_NOTES"])
BOOK, ORDERS = Notebook(DIRECTORY), Orders(DIRECTORY)


class Traced:
    """The run as the example sees it, with notes at each step and the array that grows beside the field (all ranks)."""

    def __init__(self, run: holdfast.Run, ledger: Ledger) -> None:
        self._run, self._ledger = run, ledger
        self._u = self._trace = np.zeros(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run, name)

    def protect(self, name: str, value: np.ndarray, **options: Any) -> Any:
        self._u, self._trace = value, self._run.protect("trace", marks())
        return self._run.protect(name, value, **options)

    def steps(self, n: int, **options: Any) -> Iterator[int]:
        for step in told_steps(self._run, n, options, BOOK, ORDERS, self._ledger, lambda: digest(self._u, self._trace)):
            yield step
            mark(self._trace, self._u, step)


def exchange_and_meet(comm: Any, field: np.ndarray, exchange: Any = heat.exchange_halos) -> None:
    """The example's exchange, and a collective in which the driver can have a rank leave while others are in it."""
    exchange(comm, field)
    if (victim := ORDERS.trap) == comm.rank:
        threading.Thread(target=_leave, args=(comm.rank, ORDERS.trap_after / 1e6), daemon=True).start()
    elif victim != NOBODY:
        time.sleep(0.004)  # the victim is in it by then, and cannot get out
    comm.allreduce(1)


def _leave(rank: int, seconds: float) -> None:
    time.sleep(seconds)
    ORDERS.trap = NOBODY  # whoever takes the rank next is spared
    BOOK.note(What.TRAPPED, rank)
    os._exit(ORDERS.trap_status)


class Levels(logging.Handler):
    """Tells the ledger which versions nodes hold (`placed`) and which have come to the run's own store behind (`reached`)."""

    def __init__(self, ledger: Ledger, known: list[dict[str, int]]) -> None:
        super().__init__(logging.INFO)
        self._ledger, self._known = ledger, known

    def emit(self, record: logging.LogRecord) -> None:
        if not isinstance(record.args, tuple):
            return
        if record.msg.startswith("checkpoint %d at the level"):
            self._ledger.append("placed", version=record.args[0], step=record.args[2], **self._known[0])
        elif record.msg.startswith("version %d reached the level") and str(record.args[1]) == "global":
            self._ledger.append("reached", version=record.args[0], **self._known[0])


def main() -> None:
    args = arguments()
    BOOK.note(What.STARTED)
    running: list[dict[str, int]] = [{}]
    note_repairs(BOOK)
    note_damage(BOOK)
    kill_at_moments(BOOK, ORDERS, lambda: running[0].get("rank", NOBODY))
    heat.exchange_halos = exchange_and_meet
    ledger = Ledger(Path(args.ledger))
    Durable(ledger, lambda: running[0]).attach()
    logging.getLogger("holdfast").addHandler(Levels(ledger, running))
    patched: list[int] = []

    def simulate(run: holdfast.Run) -> None:
        faulthandler.enable()  # again: MPI has put its own handler in the place of the interpreter's
        rank = run.comm.rank
        running[0] = {"rank": rank, "attempt": run.attempt}
        BOOK.note(What.OPENED, rank, run.attempt)
        if not patched:
            patched.append(rank)
            fail_storage(BOOK, ORDERS, rank)
        heat.simulate(Traced(run, ledger), args)
        BOOK.note(What.LEFT, rank, run.attempt)

    holdfast.launch(simulate, args.run, params={"size": args.size})


if __name__ == "__main__":
    main()
