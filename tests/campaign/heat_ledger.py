"""`examples/heat.py` with a ledger: the same loop out of the same functions, telling an outside file what it has.

Checkpoints are written while the program computes. Rank 0 tells each version that is captured, and each that its handle says is
durable, as soon as it sees that; every rank what it was restored to, and its state at each step at which a checkpoint is taken.
Beside the field each rank has an array of a MiB of which a step changes one page, so that versions share blocks.
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
from campaign.heat_truth import digest, heat, mark, marks
from campaign.ledger import Ledger


def simulate(run: holdfast.Run, args: argparse.Namespace) -> None:
    """`heat.simulate`, with the ledger. Collective."""
    faulthandler.enable()  # again: MPI has put its own handler in the place of the interpreter's
    comm, n = run.comm, args.size
    first, end = heat.rows_of(comm.rank, comm.size, n)
    field = np.zeros((end - first + 2, n + 2))
    u = field[1:-1, 1:-1]
    u[:] = heat.hot_disc(n, first, end)
    run.protect("u", u, shard=holdfast.Shard((n, n), (first, 0)))
    trace = run.protect("trace", marks())
    log = run.file(args.log, "a") if comm.rank == 0 else None

    ledger = Ledger(Path(args.ledger))

    def now() -> dict[str, Any]:
        return {"rank": comm.rank, "attempt": run.attempt, "digest": digest(u, trace)}

    waiting: list[tuple[holdfast.Handle, int, str]] = []  # with step and digest of what they hold

    def tell() -> None:
        for handle, step, held in waiting if comm.rank == 0 else ():
            if handle.durable:
                ledger.append("durable", step=step, version=handle.version, **(now() | {"digest": held}))
        waiting[:] = [one for one in waiting if not one[0].durable]

    begun = False
    for step in run.steps(args.steps, every=holdfast.steps(10 * args.steps)):
        if comm.rank == 0 and waiting and waiting[-1][1] == step and waiting[-1][0].captured:
            ledger.append("captured", step=step, version=waiting[-1][0].version, **now())
        tell()
        if not begun:
            begun = True
            version = run.restored.version if run.restored is not None else None
            ledger.append("resumed", version=version, step=step, **now())
        elif step % args.every == 0:
            ledger.append("state", step=step, **now())
        heat.exchange_halos(comm, field)
        heat.advance(field, u)
        mark(trace, u, step)
        if (step + 1) % 10 == 0:
            total = heat.total(comm, u.sum(axis=1))
            if log is not None:
                log.write(f"{step + 1},{total!r}\n")
        time.sleep(args.pause)
        if (step + 1) % args.every == 0:
            waiting.append((run.checkpoint(wait=False), step + 1, digest(u, trace)))
    ledger.append("state", step=args.steps, **now())

    whole = heat.gather_rows(comm, u)
    if whole is not None:
        np.save(args.out, whole)
    run.complete()
    tell()
    last = next(v for v in run.versions if v.kind == "checkpoint" and v.status == "current")
    if comm.rank == 0:
        ledger.append("durable", step=args.steps, version=last.number, **now())


def arguments() -> argparse.Namespace:
    """What a driver tells a program that computes heat."""
    parser = argparse.ArgumentParser()
    for name, kind in (("size", int), ("steps", int), ("every", int), ("pause", float)):
        parser.add_argument(f"--{name}", type=kind, required=True)
    for name in ("run", "out", "log", "ledger"):
        parser.add_argument(f"--{name}", required=True)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    holdfast.launch(lambda run: simulate(run, args), args.run, params={"size": args.size})


if __name__ == "__main__":
    main()
