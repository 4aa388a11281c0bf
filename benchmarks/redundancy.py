"""Redundancy over ranks on one machine, in memory: encoding and rebuilding, exchange included, beside memcpy by all at once.

As a case it starts `mpirun`; run by that, it prints a line: seconds of each round (memcpy, encoding, rebuilding; the
slowest rank).
"""

from __future__ import annotations

import json
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
from holdfast.store.aligned import empty

HERE = Path(__file__).parent
ROUNDS = 5


class Memory:
    """A member whose stream and parities are in memory."""

    def __init__(self, stream: Any, parity: Any, chunk: int) -> None:
        self.stream, self.parity, self.chunk = stream, parity, chunk

    def read(self, parity: bool, number: int, offset: int, nbytes: int) -> Any:
        start = number * self.chunk + offset
        return (self.parity if parity else self.stream)[start : start + nbytes]

    def release(self, block: Any) -> None:
        pass

    def write(self, parity: bool, number: int, offset: int, block: Any) -> None:
        self.read(parity, number, offset, block.nbytes)[:] = block


def case(n: int, m: int) -> Callable[[Context], list[Row]]:
    def measure(context: Context) -> list[Row]:
        from small import mpirun

        output = mpirun(n, [sys.executable, str(HERE / "redundancy.py"), "--rank", str(n), str(m), str(context.nbytes)])
        line = next(line for line in output.splitlines() if line.startswith("rounds "))
        copied, encoded, rebuilt = (median(column) for column in zip(*json.loads(line[7:]), strict=True))
        program = f"redundancy, {'xor' if m == 1 else 'rs'} n={n}, m={m}, {n} ranks"
        return [
            Row(program, context.size, "encode", "s", encoded, copied, "memcpy by all ranks"),
            Row(program, context.size, "rebuild", "s", rebuilt, copied, "memcpy by all ranks"),
        ]

    return measure


def rank(n: int, m: int, nbytes: int) -> None:
    """`nbytes` a rank; the last m ranks are lost and rebuilt."""
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
    original = stream.copy()

    def timed(work: Callable[[], object]) -> float:
        comm.Barrier()
        began = time.perf_counter()
        work()
        comm.Barrier()
        return time.perf_counter() - began

    def compute(sums: Any) -> None:
        exchange(channel, scheme, [nbytes] * n, sums, range(n), {comm.rank: member}, 60.0, "bench")

    found = []
    for _ in range(ROUNDS + 1):
        copied = timed(lambda: np.copyto(copy, stream[:nbytes]))
        encoded = timed(lambda: compute(scheme.encoding()))
        first = parity.copy()
        if comm.rank in lost:
            stream[:] = parity[:] = 0
        rebuilt = timed(lambda: compute(scheme.rebuilding(lost)))
        if not (np.array_equal(stream, original) and np.array_equal(parity, first)):
            raise SystemExit("what was rebuilt differs from what was lost")
        found.append([copied, encoded, rebuilt])
    if comm.rank == 0:
        print("rounds " + json.dumps(found[1:]), flush=True)


CASES = {"xor-4": case(4, 1), "rs-4": case(4, 2), "rs-8": case(8, 2)}

if __name__ == "__main__":
    if sys.argv[1] == "--rank":
        rank(*map(int, sys.argv[2:]))
    else:
        main(CASES)
