"""The heat equation on a square plate, divided by rows among MPI ranks.

    holdfast run -n 4 -- python examples/heat.py        # on 4 ranks, survives the death of any of them
    python examples/heat.py                             # the same program, serial, without mpi4py

The plate's edge is kept at 0, a disc in it starts at 1. What Holdfast adds to the plain program is
`run.protect`, `run.steps`, `run.file` and `holdfast.launch`; there is no code for recovery. The final field is the
same bit for bit however often the program was killed on the way, and whatever the number of ranks.
"""

from __future__ import annotations

import argparse
import math
import time
from typing import Any

import numpy as np

import holdfast

DIFFUSION = 0.2  # diffusivity * time step / spacing squared; stable below 0.25


def simulate(run: holdfast.Run, args: argparse.Namespace) -> None:
    """Advance the plate to `args.steps` and write it to `args.out`. Collective: every rank of `run.comm` calls it."""
    comm, n = run.comm, args.size
    first, end = rows_of(comm.rank, comm.size, n)

    field = np.zeros((end - first + 2, n + 2))  # this rank's rows, with a border of halo or edge cells
    u = field[1:-1, 1:-1]
    u[:] = hot_disc(n, first, end)
    run.protect("u", u, shard=holdfast.Shard((n, n), (first, 0)))
    log = run.file(args.log, "a") if comm.rank == 0 else None

    greeted = False
    for step in run.steps(args.steps, every=holdfast.steps(args.every)):
        if comm.rank == 0 and not greeted:
            greeted = True
            print(f"heat: {greeting(run, step)}", flush=True)
        exchange_halos(comm, field)
        advance(field, u)
        if (step + 1) % 10 == 0:
            heat = total(comm, u.sum(axis=1))
            if log is not None:
                log.write(f"{step + 1},{heat!r}\n")
        if args.pause:
            time.sleep(args.pause)

    # Before the return, which makes the run complete: a kill in here means that the file is written again.
    whole = gather_rows(comm, u)
    if whole is not None:
        np.save(args.out, whole)
        print(f"heat: {args.steps} steps done, mean temperature {whole.mean():.6f}, field in {args.out}", flush=True)


def advance(field: np.ndarray, u: np.ndarray) -> None:
    """One explicit Euler step of `u`, the inner part of `field`, in place."""
    neighbours = field[:-2, 1:-1] + field[2:, 1:-1] + field[1:-1, :-2] + field[1:-1, 2:]
    neighbours -= 4.0 * u
    neighbours *= DIFFUSION
    u += neighbours


def exchange_halos(comm: Any, field: np.ndarray) -> None:
    """Fill the first and last row of `field` from the neighbouring ranks; those at the plate's edge stay 0."""
    if comm.size == 1:
        return
    from mpi4py import MPI  # here, so that a serial run does without

    above = comm.rank - 1 if comm.rank > 0 else MPI.PROC_NULL
    below = comm.rank + 1 if comm.rank + 1 < comm.size else MPI.PROC_NULL
    comm.Sendrecv(field[1], dest=above, recvbuf=field[-1], source=below)
    comm.Sendrecv(field[-2], dest=below, recvbuf=field[0], source=above)


def rows_of(rank: int, ranks: int, n: int) -> tuple[int, int]:
    """The rows [first, end) of `n` that `rank` of `ranks` holds."""
    return n * rank // ranks, n * (rank + 1) // ranks


def hot_disc(n: int, first: int, end: int) -> np.ndarray:
    """Rows [first, end) of the n x n plate at the start, float64: 1 in a disc off the middle, 0 elsewhere."""
    y, x = np.ogrid[first:end, :n]
    return ((y - 0.4 * n) ** 2 + (x - 0.6 * n) ** 2 < (0.2 * n) ** 2).astype(float)


def total(comm: Any, rows: np.ndarray) -> float:
    """The sum of all ranks' sums of rows, on rank 0 (elsewhere of the rank's own): the same for any number of ranks,
    since each row is summed by one rank and `fsum` does not depend on the order."""
    parts = comm.gather(rows, root=0)
    return math.fsum(rows if parts is None else np.concatenate(parts))


def gather_rows(comm: Any, u: np.ndarray) -> np.ndarray | None:
    """The whole plate on rank 0, None elsewhere."""
    parts = comm.gather(u, root=0)
    return None if parts is None else np.concatenate(parts)


def greeting(run: holdfast.Run, step: int) -> str:
    if run.restored is None:
        return f"begins at step {step} on {run.comm.size} rank(s)"
    return f"resumes at step {step} from version {run.restored.version}, read from {run.restored.source}"


def main() -> None:
    parser = argparse.ArgumentParser(description="2-D heat equation with checkpoints")
    parser.add_argument("--size", type=int, default=512, help="grid points along each side (512)")
    parser.add_argument("--steps", type=int, default=2000, help="time steps (2000)")
    parser.add_argument("--every", type=int, default=100, help="steps between checkpoints (100)")
    parser.add_argument("--run", default="runs/heat", metavar="DIR", help="where the checkpoints go (runs/heat)")
    parser.add_argument("--out", default="runs/heat.npy", metavar="FILE.npy", help="the final field (runs/heat.npy)")
    parser.add_argument("--log", default="runs/heat.csv", metavar="FILE.csv", help="step, total heat (runs/heat.csv)")
    parser.add_argument("--pause", type=float, default=0.0, metavar="SECONDS", help="sleep after each step (0)")
    args = parser.parse_args()

    # Only what determines the numbers: the same run may go on with other paths, another pause, or more steps.
    params = {"size": args.size, "diffusion": DIFFUSION}
    holdfast.launch(lambda run: simulate(run, args), args.run, params=params)


if __name__ == "__main__":
    main()
