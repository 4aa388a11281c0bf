"""Redundancy over ranks on one machine, in memory: encoding and rebuilding, exchange included, beside memcpy by all at once.

As a case it starts `mpirun`, with the state shared out over the ranks; run by that, it prints a line: seconds of each round
(memcpy, encoding, rebuilding; the slowest rank), bytes of memory that they took, and bytes that are kept.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from job import Context, main
from row import MiB, Row, median

from holdfast.group.channel import MPIChannel
from holdfast.redundancy import Scheme, exchange
from holdfast.store.aligned import address, empty

HERE = Path(__file__).parent


class Memory:
    """A member whose stream and parities are in memory, where sums are computed."""

    def __init__(self, stream: Any, parity: Any, chunk: int) -> None:
        self.stream, self.parity, self.chunk = stream, parity, chunk

    def read(self, parity: bool, number: int, offset: int, nbytes: int) -> Any:
        start = number * self.chunk + offset
        return (self.parity if parity else self.stream)[start : start + nbytes]

    def release(self, block: Any) -> None:
        pass

    def room_for(self, parity: bool, number: int, offset: int, nbytes: int) -> Any:
        return self.read(parity, number, offset, nbytes)

    def write(self, parity: bool, number: int, offset: int, block: Any) -> None:
        mine = self.read(parity, number, offset, block.nbytes)
        if address(mine) != address(block):
            mine[:] = block


def case(n: int, m: int) -> Callable[[Context], list[Row]]:
    def measure(context: Context) -> list[Row]:
        from small import mpirun

        each = context.nbytes // n
        script = [sys.executable, str(HERE / "redundancy.py"), "--rank"]
        output = mpirun(n, [*script, *map(str, (n, m, each, context.rounds))])
        found = json.loads(next(line for line in output.splitlines() if line.startswith("{")))
        copied, encoded, rebuilt = (median(column) for column in zip(*found["rounds"], strict=True))
        program, size = f"redundancy, {'xor' if m == 1 else 'rs'} n={n}, m={m}, {n} ranks", context.size
        whole, what = n * each * (1 + m / (n - m)), "1 + m / (n - m) x the state"
        return [
            Row(program, size, "encode", "s", encoded, copied, "memcpy by all ranks"),
            Row(program, size, f"rebuild {m} of {n}", "s", rebuilt, copied, "memcpy by all ranks"),
            Row(program, size, "extra memory of a rank beyond the parity", "B", found["extra"]),
            Row(program, size, "kept, parity included", "B", found["kept"], whole, what),
        ]

    return measure


def rank(n: int, m: int, nbytes: int, rounds: int) -> None:
    """`nbytes` a rank; the last m ranks are lost and rebuilt. The first round is not timed: memory is measured in it."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    channel, scheme = MPIChannel(comm, 60.0), Scheme(n, m).check()
    chunk = scheme.chunk([nbytes] * n)
    stream, copy, parity = empty(scheme.k * chunk), empty(nbytes), empty(m * chunk)
    block = np.random.default_rng(comm.rank).integers(0, 256, MiB, np.uint8)
    for at in range(0, nbytes, MiB):
        stream[at : at + MiB] = block[: nbytes - at]
    copy[:] = parity[:] = 1
    member = Memory(stream, parity, chunk)
    lost = range(n - m, n)
    original, first = stream.copy(), parity.copy()

    def timed(work: Callable[[], object]) -> float:
        comm.Barrier()
        began = time.perf_counter()
        work()
        comm.Barrier()
        return time.perf_counter() - began

    def compute(sums: Any) -> None:
        exchange(channel, scheme, [nbytes] * n, sums, range(n), {comm.rank: member}, 60.0, "bench")

    found, before, extra = [], peak(), 0
    for i in range(rounds + 1):
        copied = timed(lambda: np.copyto(copy, stream[:nbytes]))
        encoded = timed(lambda: compute(scheme.encoding()))
        np.copyto(first, parity)
        if comm.rank in lost:
            stream[:] = parity[:] = 0
        rebuilt = timed(lambda: compute(scheme.rebuilding(lost)))
        if i == 0:
            extra = peak() - before
        if not (np.array_equal(stream, original) and np.array_equal(parity, first)):
            raise SystemExit("what was rebuilt differs from what was lost")
        found.append([copied, encoded, rebuilt])
    extra, kept = comm.allreduce(extra, MPI.MAX), comm.allreduce(nbytes + parity.nbytes)
    if comm.rank == 0:
        print(json.dumps({"rounds": found[1:], "extra": extra, "kept": kept}), flush=True)


def peak() -> int:
    """The most bytes of memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


CASES = {"xor-4": case(4, 1), "rs-4": case(4, 2), "rs-8": case(8, 2)}

if __name__ == "__main__":
    if sys.argv[1] == "--rank":
        rank(*map(int, sys.argv[2:]))
    else:
        main(CASES)
