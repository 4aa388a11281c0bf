"""A recovery plan carried out: what it moves is moved, what it rebuilds is rebuilt; then each rank's node has what it needs.

All processes go through the same list in the same order, each doing what it has a part in, so nobody waits in a circle. What
fails in one process's storage is told to those who do that very thing with it; everybody goes on with the rest, and raises at
the end. So an attempt that fails leaves as much done as can be, and the channel as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..catalog.places import Place
from ..errors import DamageError, UsageError
from ..format import decode_record
from ..group.channel import Channel
from .files import Done, Here
from .member import LOCAL
from .messages import SourceError, failure, outcome, share
from .moving import Move, copy_stream, in_rounds, receive_move, send_move
from .rebuilding import Row, rebuild
from .recoveryplan import RecoveryPlan
from .sources import GLOBAL, MOVE, NOWHERE, OWN, REBUILD, Sources
from .wire import Ints


class Carried(NamedTuple):
    """What this process has done for its ranks. `done`: in order, one for each file that is here now and wasn't."""

    done: tuple[Done, ...]

    @property
    def brought(self) -> tuple[tuple[str, int], ...]:
        """(version's name, rank) of each stream that this process brought home from elsewhere."""
        return tuple((d.version, d.rank) for d in self.done if d.what == "stream" and d.how != "copied")

    @property
    def moved(self) -> int:
        """Bytes that came from other nodes, streams and parities."""
        return sum(d.nbytes for d in self.done if d.how == "moved")

    @property
    def rebuilt(self) -> int:
        """Bytes that were computed, streams and parities."""
        return sum(d.nbytes for d in self.done if d.how == "rebuilt")


def carry_out(
    plan: RecoveryPlan,
    places: Mapping[str, Place],
    channel: Channel,
    homes: Sequence[int],
    nodes: Sequence[str],
    domain: str,
    commits: Mapping[str, bytes],
    timeout: float,
    tell: Callable[[str], None] = lambda line: None,
) -> Carried:
    """Do what the plan says, oldest of its versions first (collective over all processes of the channel, also those with
    nothing to do, with the same plan, homes, nodes and commits).

    `places`: this node's by kind (memory, local), shared with the other processes of the node; `homes`: for each rank the
    process where it runs now (of a version with another number of ranks, rank r belongs where rank r · now // then runs);
    `nodes`: for each process the name of its node; `domain`: this process's failure domain; `commits`: the commit record file
    of each version of the plan; `timeout`: seconds of no progress after which a process gives up on another; `tell` is called
    with a line for people for each thing done.

    Afterwards each rank's node holds its data, part and record of all versions of the plan, but for what is read from the
    global store, with parity where the plan has it, and the commit. Data that were moved or rebuilt are not read again: they
    are verified when they are used; parts and parities have been. A commit is put last on a node, and only if all its
    processes have succeeded for that version; killed at any point, nothing is proved that is not whole, and a new plan goes on.

    Raises, when all that can be done is done: SourceError (a DamageError), in the process that could not read something and in
    those that needed it: plan again without it; DamageError, StorageError of this node's own places; RankError where another
    process of the same set or node had the like. The caller makes all agree; the channel can be used again. DeadlineError, or a
    RankError of the channel's own: it can't. UsageError: the plan does not fit `nodes` or `commits`; nothing was done.
    """
    here = Here(places, channel, nodes, domain, timeout, tell, [], [])
    takes = [_Take(here, plan, take, homes) for take in reversed(plan.takes)]
    for take in takes:
        take.check(commits)
    if takes:
        _sweep(here, takes)
    for take in takes:
        before = len(here.errors)
        take.move()
        take.rebuild()
        _commit(here, take, commits[take.version], here.errors[before] if len(here.errors) > before else None)
    if here.errors:
        raise next((error for error in here.errors if isinstance(error, SourceError)), here.errors[0])
    return Carried(tuple(here.done))


class _Take:
    """One version of the plan."""

    def __init__(self, here: Here, plan: RecoveryPlan, take: Sources, homes: Sequence[int]) -> None:
        self.here, self.plan, self.take, self.version = here, plan, take, take.link.name
        at = np.arange(take.ranks, dtype=np.int64) * len(homes) // take.ranks
        self.homes: Ints = np.asarray(homes, np.int32)[at]
        first: dict[str, int] = {}
        for process, node in enumerate(here.nodes):
            first.setdefault(node, process)
        self.senders = [first.get(node, -1) for node in plan.nodes]

    def check(self, commits: Mapping[str, bytes]) -> None:
        missing = [node for node, sender in zip(self.plan.nodes, self.senders, strict=True) if sender < 0]
        if missing:
            raise UsageError(
                f"The plan moves something from node {missing[0]}, on which no process runs. Nothing was done; plan again."
            )
        record = commits.get(self.version)
        if record is None or decode_record(record, self.version)[1] != self.take.link.digest:
            raise UsageError(
                f"The commit of version {self.version} that the plan is about was not given. Nothing was done."
            )

    # -- from other nodes -------------------------------------------------------------------

    def move(self) -> None:
        moves = list(self._streams())
        self._all(moves)
        moves = list(self._parities())
        for move in moves:
            if move.receiver == self.here.channel.rank:
                self._beside(move)
        self._all(moves)

    def _all(self, moves: list[Move]) -> None:
        for i in in_rounds([(move.sender, move.receiver) for move in moves]):
            if moves[i].sender == self.here.channel.rank:
                send_move(self.here, self.version, moves[i])
            elif moves[i].receiver == self.here.channel.rank:
                receive_move(self.here, self.version, moves[i])

    def _streams(self) -> Iterator[Move]:
        """The parity that lies at home already stays, unless it is to be computed or comes from another node too."""
        replaced = {(w.place, r) for w in self.take.works for r in w.members[w.parity | w.rebuilt].tolist()}
        replaced |= {(moved.place, r) for moved in self.take.parities for r in moved.ranks.tolist()}
        for rank in np.flatnonzero(self.take.kind == MOVE).tolist():
            place = int(self.take.place[rank])
            sender, keep = self.senders[self.take.node[rank]], (place, rank) not in replaced
            yield Move(rank, place, False, sender, int(self.homes[rank]), keep)

    def _parities(self) -> Iterator[Move]:
        """Not of those ranks whose streams do not come to a place, or with which the parity is computed again."""
        for moved in self.take.parities:
            for rank, node in zip(moved.ranks.tolist(), moved.nodes.tolist(), strict=True):
                if self.take.kind[rank] not in (REBUILD, GLOBAL, NOWHERE):
                    yield Move(rank, moved.place, True, self.senders[node], int(self.homes[rank]), False)

    def _beside(self, move: Move) -> None:
        """A parity is proved with the stream at the same place: if that is at another place of the node, it is copied."""
        source = int(self.take.place[move.rank])
        if source != move.place:
            try:
                copy_stream(self.here, source, move.place, self.version, move.rank, keep=False)
            except LOCAL as error:
                self.here.errors.append(error)

    # -- from the set -----------------------------------------------------------------------

    def rebuild(self) -> None:
        """Works are gone through in their order: a parity may need a stream that another work rebuilds."""
        for rows in self._works():
            for i in in_rounds([row.homes for row in rows]):
                if self.here.channel.rank in rows[i].homes:
                    rebuild(self.here, self.version, self.take.ranks, rows[i])

    def _works(self) -> Iterator[list[Row]]:
        for work in self.take.works:
            rows = []
            for ranks, rebuilt, parity in zip(work.members, work.rebuilt, work.parity, strict=True):
                if np.isin(self.take.kind[ranks], (GLOBAL, NOWHERE)).any():
                    continue  # without that stream no parity of the set can be computed
                where = [
                    work.place if gone else int(p) for gone, p in zip(rebuilt, self.take.place[ranks], strict=True)
                ]
                homes, own = self.homes[ranks].tolist(), (self.take.kind[ranks] == OWN).tolist()
                each = (ranks.tolist(), homes, where, own, rebuilt.tolist(), parity.tolist())
                rows.append(Row(work.place, work.m, *map(tuple, each)))
            yield rows


# -- what the processes of a node do together ---------------------------------------------------


def _mates(here: Here) -> list[int]:
    """The processes of this node, this one among them. The first puts the commits."""
    return [process for process, node in enumerate(here.nodes) if node == here.node]


def _sweep(here: Here, takes: Sequence[_Take]) -> None:
    """What lies under a version's name with another commit goes before anything of the version comes: it is another's. Of a
    commit that can't be read only that goes: what the ranks have is looked at anyway."""
    mates, error = _mates(here), None
    try:
        if here.channel.rank == mates[0]:
            for take in takes:
                for place in here.places.values():
                    _sweep_one(place, take)
    except LOCAL as found:
        error = found
    said = share(here.channel, mates, outcome(None, error), here.timeout, f"recovering on node {here.node}")
    failed = failure(said, error, here.channel.rank)
    if failed is not None:
        here.errors.append(failed)


def _sweep_one(place: Place, take: _Take) -> None:
    try:
        found = place.read_commit(take.version)
        if found is not None and decode_record(found, take.version)[1] != take.take.link.digest:
            place.remove(take.version)
    except DamageError:
        place.store.delete(place.commit_key(take.version))


def _commit(here: Here, take: _Take, record: bytes, error: Exception | None) -> None:
    """The node's first process puts the commit where something of its ranks is, when all of the node have theirs."""
    mates = _mates(here)
    what = f"recovering version {take.version} on node {here.node}"
    failed = failure(share(here.channel, mates, outcome(None, error), here.timeout, what), error, here.channel.rank)
    if failed is not None:
        if error is None:
            here.errors.append(failed)
        return
    if here.channel.rank == mates[0]:
        of_node = set(np.flatnonzero(np.isin(take.homes, mates)).tolist())
        try:
            for place in here.places.values():
                if of_node.intersection(place.ranks(take.version)):
                    place.put_commit(take.version, record)
        except LOCAL as found:
            here.errors.append(found)
