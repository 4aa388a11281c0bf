"""`examples/heat.py` for part G: the example's own code, whose steps are noted and whose state goes to the ledger.

Beside the field each rank has an array of a MiB of which a step changes one page (`heat_truth.mark`). What the driver
orders is done here: to leave in the middle of a collective, to fail storage calls.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import holdfast
from campaign.heat_ledger import arguments
from campaign.heat_truth import digest, heat, mark, marks
from campaign.ledger import Durable, Ledger
from campaign.survive_notes import ALL, NOBODY, Notebook, Orders, What
from holdfast.group.repair import Crew
from holdfast.store import syscalls

DIRECTORY = Path(os.environ["SURVIVE_NOTES"])
BOOK, ORDERS = Notebook(DIRECTORY), Orders(DIRECTORY)
STATES = 20  # steps between states that are told to the ledger


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
        run, rank, resumed = self._run, self._run.comm.rank, False
        known = {"rank": rank, "attempt": run.attempt}
        for step in run.steps(n, **options):
            found = {}
            if not resumed:
                BOOK.note(What.RESUMED, rank, run.attempt, step)
                version = run.restored.version if run.restored is not None else None
                found = {"version": version, "step": step, "digest": digest(self._u, self._trace), **known}
            yield step
            mark(self._trace, self._u, step)
            time.sleep(ORDERS.slow / 1e6)
            BOOK.note(What.STEP, rank, run.attempt, step + 1)
            if not resumed:  # after the note: the ledger waits for its disk
                resumed = True
                self._ledger.append("resumed", **found)
            elif step % STATES == 0:
                self._ledger.append("state", step=step + 1, digest=digest(self._u, self._trace), **known)


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


def fail_storage(rank: int) -> None:
    """From now on the store's calls that write fail in this process when the driver says so."""

    def failing(call: Any) -> Any:
        def instead(*args: Any, **kwargs: Any) -> Any:
            if ORDERS.failing in (rank, ALL) and _in_run(call.__name__, args):
                BOOK.note(What.FAILED, rank)
                raise OSError(ORDERS.errno, os.strerror(ORDERS.errno))
            return call(*args, **kwargs)

        instead.__name__ = call.__name__
        return instead

    for name in ("pwrite", "fallocate", "fsync", "link"):
        setattr(syscalls, name, failing(getattr(syscalls, name)))


def _in_run(name: str, args: tuple[Any, ...]) -> bool:
    """Whether a call is about a version's files: neither the lease nor who has the run."""
    path = args[-1] if name == "link" else os.readlink(f"/proc/self/fd/{args[0]}")
    return "/versions/" in str(path)


def note_repairs() -> None:
    """Wrap what processes do between two calls of the program's function."""
    repair, stand_by = Crew.repair, Crew.stand_by

    def noted_repair(crew: Crew, *args: Any) -> None:
        BOOK.note(What.REPAIRING, -1 if crew.rank is None else crew.rank)
        repair(crew, *args)
        BOOK.note(What.REPAIRED, -1 if crew.rank is None else crew.rank)

    def noted_stand_by(crew: Crew, *args: Any) -> bool:
        BOOK.note(What.STANDING)
        return stand_by(crew, *args)

    setattr(Crew, "repair", noted_repair)  # noqa: B010
    setattr(Crew, "stand_by", noted_stand_by)  # noqa: B010


def main() -> None:
    args = arguments()
    BOOK.note(What.STARTED)
    note_repairs()
    heat.exchange_halos = exchange_and_meet
    ledger = Ledger(Path(args.ledger))
    running: list[dict[str, int]] = [{}]
    Durable(ledger, lambda: running[0]).attach()
    patched: list[int] = []

    def simulate(run: holdfast.Run) -> None:
        faulthandler.enable()  # again: MPI has put its own handler in the place of the interpreter's
        rank = run.comm.rank
        running[0] = {"rank": rank, "attempt": run.attempt}
        BOOK.note(What.OPENED, rank, run.attempt)
        if not patched:
            patched.append(rank)
            fail_storage(rank)
        heat.simulate(Traced(run, ledger), args)
        BOOK.note(What.LEFT, rank, run.attempt)

    holdfast.launch(simulate, args.run, params={"size": args.size})


if __name__ == "__main__":
    main()
