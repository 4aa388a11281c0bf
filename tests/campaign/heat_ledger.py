"""`examples/heat.py` with a ledger: the same loop out of the same functions, telling an outside file what it has.

Rank 0 tells each version that the library reports as durable, at that moment; every rank what it was restored to, and
its state at each step at which a checkpoint has just been taken.
"""

from __future__ import annotations

import argparse
import faulthandler
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import holdfast
from campaign.heat_truth import digest, heat
from campaign.ledger import Durable, Ledger


def simulate(run: holdfast.Run, args: argparse.Namespace) -> None:
    """`heat.simulate`, with the ledger. Collective."""
    faulthandler.enable()  # again: MPI has put its own handler in the place of the interpreter's
    comm, n = run.comm, args.size
    first, end = heat.rows_of(comm.rank, comm.size, n)
    field = np.zeros((end - first + 2, n + 2))
    u = field[1:-1, 1:-1]
    u[:] = heat.hot_disc(n, first, end)
    run.protect("u", u, shard=holdfast.Shard((n, n), (first, 0)))
    log = run.file(args.log, "a") if comm.rank == 0 else None

    ledger = Ledger(Path(args.ledger))

    def now() -> dict[str, Any]:
        return {"rank": comm.rank, "attempt": run.attempt, "digest": digest(u)}

    Durable(ledger, now).attach()
    begun = False
    for step in run.steps(args.steps, every=holdfast.steps(args.every)):
        if not begun:
            begun = True
            version = run.restored.version if run.restored is not None else None
            ledger.append("resumed", version=version, step=step, **now())
        elif step % args.every == 0:
            ledger.append("state", step=step, **now())
        heat.exchange_halos(comm, field)
        heat.advance(field, u)
        if (step + 1) % 10 == 0:
            total = heat.total(comm, u.sum(axis=1))
            if log is not None:
                log.write(f"{step + 1},{total!r}\n")
        time.sleep(args.pause)
    ledger.append("state", step=args.steps, **now())

    whole = heat.gather_rows(comm, u)
    if whole is not None:
        np.save(args.out, whole)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, kind in (("size", int), ("steps", int), ("every", int), ("pause", float)):
        parser.add_argument(f"--{name}", type=kind, required=True)
    for name in ("run", "out", "log", "ledger"):
        parser.add_argument(f"--{name}", required=True)
    args = parser.parse_args()
    holdfast.launch(lambda run: simulate(run, args), args.run, params={"size": args.size})


if __name__ == "__main__":
    main()
