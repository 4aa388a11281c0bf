"""Recovery over MPI: parity at places, a node lost, its ranks rebuilt on another, all ranks moved."""

from __future__ import annotations

import sys
from pathlib import Path

from mpi4py import MPI

sys.path.insert(0, str(Path(__file__).parent.parent / "recovery"))
from carry_support import Cluster, protected

from holdfast.format import version_name
from holdfast.group.channel import MPIChannel
from holdfast.recovery import Carried, RecoveryPlan, carry_out, protect

SIZES = [5_000_000, 0, 70_000, 9_000_000]


def test_protected_lost_moved_and_back(comm: MPI.Intracomm, shared_tmp: Path) -> None:
    """A rank is a node here, of those that there are."""
    ranks = comm.size
    if ranks == 1:
        return  # nobody to share parity with
    channel = MPIChannel(comm, 20.0)
    homes = [f"n{rank}" for rank in range(ranks)]
    cluster = Cluster(shared_tmp, homes)
    version = version_name(1, 1)
    if comm.rank == 0:
        cluster.save(1, SIZES[:ranks], m=0)
    cluster.states, cluster.records, cluster.candidates = comm.bcast(
        (cluster.states, cluster.records, cluster.candidates)
    )
    members = tuple(range(ranks))
    facts = {rank: cluster.member(version, rank) for rank in members}
    place = cluster.place(homes[comm.rank], "memory")
    helds = [place.read_held(version, comm.rank)]
    protect(channel, place, helds, [members], 1, list(members), facts, 20.0)
    comm.Barrier()
    protected(cluster, version, [members], 1, homes)
    cluster.sets[version] = ("memory", [members], 1)
    comm.Barrier()

    def carry(now: list[str]) -> Carried:
        """Plan in rank 0, carry out in all; rank r is the process of node now[r]."""
        made = RecoveryPlan.from_wire(comm.bcast(cluster.plan(now).to_wire() if comm.rank == 0 else None))
        places = {"memory": cluster.place(now[comm.rank], "memory")}
        carried = carry_out(made, places, channel, list(members), now, now[comm.rank], cluster.records, 20.0)
        comm.Barrier()
        cluster.complete(made, now)
        comm.Barrier()
        return carried

    comm.Barrier()
    if comm.rank == 0:
        cluster.lose("n1")
    comm.Barrier()
    now = ["spare" if node == "n1" else node for node in homes]
    carried = carry(now)
    assert carried.brought == (((version, 1),) if comm.rank == 1 else ())
    # All ranks on the next node: what each process sends is another's.
    turned = [*now[1:], now[0]]
    carried = carry(turned)
    assert carried.brought == ((version, comm.rank),)
    assert carried.moved > 0 and carried.rebuilt == 0
    assert carry(turned) == Carried(())
