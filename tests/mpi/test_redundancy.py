"""Sets over MPI: what was lost comes back, also to other ranks; a rank that stays away is not waited for."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

sys.path.insert(0, str(Path(__file__).parent.parent / "redundancy"))
from redundancy_support import Memory, streams

from holdfast.errors import DeadlineError
from holdfast.group.channel import MPIChannel
from holdfast.redundancy import Scheme, exchange


@pytest.fixture
def channel(comm: MPI.Intracomm) -> MPIChannel:
    return MPIChannel(comm, 20.0)


@pytest.mark.parametrize(("n", "m"), [(2, 1), (4, 1), (4, 2), (6, 2)])
def test_what_was_lost_comes_back(channel: MPIChannel, n: int, m: int) -> None:
    """n members on however many ranks there are, some of which keep several."""
    scheme = Scheme(n, m).check()
    sizes = [3_000_001 if i == 1 else 40_000 * i for i in range(n)]
    chunk = scheme.chunk(sizes)
    kept = [Memory(scheme, s, size, chunk) for s, size in zip(streams(sizes), sizes, strict=True)]
    homes = [i % channel.size for i in range(n)]
    mine = {i: kept[i] for i in range(n) if homes[i] == channel.rank}
    exchange(channel, scheme, sizes, scheme.encoding(), homes, mine, 20.0, "encoding")
    parities = {i: member.parity.copy() for i, member in mine.items()}
    lost = list(range(m))
    for i in lost:
        kept[i].data, kept[i].parity = np.zeros(scheme.k * chunk, np.uint8), np.zeros(m * chunk, np.uint8)
    moved = [(i + 1) % channel.size if i in lost else homes[i] for i in range(n)]  # another rank takes their place
    again = {i: kept[i] for i in range(n) if moved[i] == channel.rank}
    exchange(channel, scheme, sizes, scheme.rebuilding(lost), moved, again, 20.0, "rebuilding")
    for i, member in again.items():
        assert np.array_equal(member.data[: sizes[i]], streams(sizes)[i])
        assert i not in parities or np.array_equal(member.parity, parities[i])
        assert member.lent == 0


def test_a_rank_that_stays_away(comm: MPI.Intracomm) -> None:
    if comm.size == 1:
        return  # nobody could stay away
    channel, scheme = MPIChannel(comm, 20.0), Scheme(2, 1)
    kept = Memory(scheme, streams([2_000_000])[0], 2_000_000, scheme.chunk([2_000_000] * 2))
    comm.Barrier()
    if comm.rank == 0:
        began = time.monotonic()
        with pytest.raises(DeadlineError, match="version 3: nothing has come"):
            exchange(channel, scheme, [2_000_000] * 2, scheme.encoding(), [0, 1], {0: kept}, 1.0, "version 3")
        assert time.monotonic() - began < 5
    # What rank 0 had sent stays where it is: MPI keeps the memory, and the channel is not used again.
