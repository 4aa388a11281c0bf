"""A rank on every core, all of them at once. Run by `mpirun`; prints a line: (memcpy, stall, durable) of each round."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import ours
import states
from limits import WINDOW, aligned, memcpy
from mpi4py import MPI


def main() -> None:
    comm = MPI.COMM_WORLD
    url, nbytes, rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    arrays = states.few_large(nbytes // comm.size)
    window = aligned(min(WINDOW, max(a.nbytes for a in arrays.values())))
    window[:] = 1
    run = ours.begin(url, arrays, comm=comm, **ours.COPY)
    found = []
    for _ in range(rounds):
        comm.Barrier()
        if comm.rank == 0:
            ours.settle(run)
        comm.Barrier()
        copied = memcpy(window, list(arrays.values()))
        comm.Barrier()
        began = time.perf_counter()
        handle = run.checkpoint(wait=False)
        stall = time.perf_counter() - began
        handle.wait("durable", timeout=ours.DEADLINE)
        durable = time.perf_counter() - began
        # The slowest rank is the one that the program waits for.
        slowest = np.empty(3)
        comm.Allreduce(np.array([copied, stall, durable]), slowest, MPI.MAX)
        found.append(slowest.tolist())
    run.close()
    if comm.rank == 0:
        print("rounds " + json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
