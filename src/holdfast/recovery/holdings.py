"""Who holds what: each node's report, and all of them put together.

Every node says, in one message, what lies in its places (memory, local): of which version, by which commit, which ranks'
data, index parts and parities, and the redundancy sets that these ranks are in. The sets come from the held records, not
from dealing the ranks again: of a node that is lost nobody can ask the failure domain. No I/O and no MPI here; whether a
file has the right size is for who writes the report to see, and its bytes are verified when they are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ..errors import UsageError
from ..format.blocks import DIGEST_BYTES
from ..format.extents import number, require
from ..format.keys import parse_version
from ..redundancy.field import MOST
from .wire import MAX_RANKS, Bools, Ints, columns, frozen, ints, pack, parse_columns, parse_ints, text, unpack

PLACES = ("memory", "local")  # where nodes keep things, the faster first
FORMAT = 1


class Sets(NamedTuple):
    """Redundancy sets of one kind: m parities each; `members`: int32, one row for each set, its n ranks in their order."""

    m: int
    members: Ints


class Kept(NamedTuple):
    """What a node keeps of one version at one place. `digest`: of the commit that lies there (32 hexadecimal digits);
    `data`, `part`, `parity`: the ranks whose data file, index part and parity are there, int32, rising; `sets`: those that
    these ranks are in, as their held records tell."""

    digest: str
    data: Ints
    part: Ints
    parity: Ints
    sets: tuple[Sets, ...] = ()

    @property
    def streams(self) -> Ints:
        """The ranks whose data and part are both there: one is no use without the other."""
        same = self.data is self.part or np.array_equal(self.data, self.part)
        return self.data if same else np.intersect1d(self.data, self.part, assume_unique=True)


class NodeReport(NamedTuple):
    """What one node holds: place -> version's name -> what is kept of it. `node`: its name, which no other node has;
    `domain`: what fails together with it."""

    node: str
    domain: str
    places: Mapping[str, Mapping[str, Kept]]

    def to_wire(self) -> bytes:
        """A message that `from_wire` turns into an equal report. Local."""
        tables: list[Any] = []
        entries = []
        for place in PLACES:
            for version, kept in sorted(self.places.get(place, {}).items()):
                # Versions have the same sets as a rule, and ranks have all three as a rule: neither is sent twice.
                table = [[s.m, columns(s.members)] for s in kept.sets]
                if table not in tables:
                    tables.append(table)
                data, part, parity = ints(kept.data), ints(kept.part), ints(kept.parity)
                others = [None if other == data else other for other in (part, parity)]
                digest = bytes.fromhex(kept.digest)
                entries.append([PLACES.index(place), version, digest, data, *others, tables.index(table)])
        return pack([FORMAT, self.node, self.domain, tables, entries])

    @staticmethod
    def from_wire(data: bytes) -> NodeReport:
        """The report in a message. DamageError if it isn't one, throughout. Local."""
        return unpack(data, "A node's report of what it holds", _report)


class Holders(NamedTuple):
    """Which nodes hold what of one version at one place. Pairs of int32 arrays, `ranks` rising and for each rank the `nodes`
    rising (indexes in `Holdings.nodes`): of streams (data and part), and of parities. A rank may be in several nodes."""

    ranks: Ints
    nodes: Ints
    parity_ranks: Ints
    parity_nodes: Ints
    sets: tuple[Sets, ...]


class Holdings(NamedTuple):
    """What all nodes hold: `nodes`, their names in rising order, `domains`, those of each, `of`: (version's name, digest of its
    commit, place) -> holders. What lies with different commits is apart and stays so."""

    nodes: tuple[str, ...]
    domains: tuple[str, ...]
    of: Mapping[tuple[str, str, str], Holders]


def merge(reports: Iterable[NodeReport]) -> Holdings:
    """All reports together; their order doesn't matter. A rank that is told to be in several sets of one version and place is
    in none: nobody knows which parity is whose. UsageError if a node reported twice. Local."""
    ordered = sorted(reports, key=lambda report: report.node)
    nodes = tuple(report.node for report in ordered)
    for a, b in pairwise(nodes):
        if a == b:
            raise UsageError(
                f"Two nodes by the name of {a!r} reported what they hold. Nothing was changed. Give each node a name of its "
                "own, and have each report once."
            )
    found: dict[tuple[str, str, str], list[tuple[int, Kept]]] = {}
    for i, report in enumerate(ordered):
        for place, versions in report.places.items():
            for version, kept in versions.items():
                found.setdefault((version, kept.digest, place), []).append((i, kept))
    return Holdings(nodes, tuple(r.domain for r in ordered), {key: _holders(found[key]) for key in sorted(found)})


# -- merging -----------------------------------------------------------------------------------


def _holders(kept: Sequence[tuple[int, Kept]]) -> Holders:
    at = np.array([i for i, _ in kept], np.int32)
    streams = _pairs(at, [k.streams for _, k in kept])
    parities = _pairs(at, [k.parity for _, k in kept])
    return Holders(*streams, *parities, _sets([s for _, k in kept for s in k.sets]))


def _pairs(at: Ints, ranks: Sequence[Ints]) -> tuple[Ints, Ints]:
    """(ranks, nodes), by rank and then by node: `at`, the nodes, rises, and the sorting is stable."""
    every = np.concatenate(ranks)
    nodes = np.repeat(at, [len(r) for r in ranks])
    order = np.argsort(every, kind="stable")
    return frozen(every[order]), frozen(nodes[order])


def _sets(told: Sequence[Sets]) -> tuple[Sets, ...]:
    """Each set once, by n and m, then by their members; none that shares a rank with another."""
    kinds: dict[tuple[int, int], list[Ints]] = {}
    for sets in told:
        kinds.setdefault((sets.members.shape[1], sets.m), []).append(sets.members)
    each = []
    for (_, m), rows in sorted(kinds.items()):
        members = np.concatenate(rows)
        members = members[np.argsort(members[:, 0], kind="stable")]
        # Every member that is left has told of its set. Two different ones with the same first member may hide a third that is
        # equal from its like here; they all go below.
        again = (members[1:] == members[:-1]).all(axis=1)
        each.append((m, members[np.concatenate([[True], ~again])]))
    if not each:
        return ()
    times = np.bincount(np.concatenate([members.ravel() for _, members in each]))
    alone = [(m, members[(times[members] == 1).all(axis=1)]) for m, members in each]
    return tuple(Sets(m, frozen(members)) for m, members in alone if len(members))


# -- reading -----------------------------------------------------------------------------------


def _report(value: Any) -> NodeReport:
    form, node, domain, told, entries = value
    require(form == FORMAT and isinstance(told, list) and isinstance(entries, list))
    tables = [tuple(parse_sets(sets) for sets in table) for table in told]
    places: dict[str, dict[str, Kept]] = {}
    for place, version, digest, held, part, parity, table in entries:
        require(number(place) < len(PLACES) and isinstance(version, str) and parse_version(version) is not None)
        require(isinstance(digest, bytes) and len(digest) == DIGEST_BYTES)
        data = parse_ints(held, rising=True)
        there = [data if other is None else parse_ints(other, rising=True) for other in (part, parity)]
        versions = places.setdefault(PLACES[place], {})
        require(version not in versions)
        versions[version] = Kept(digest.hex(), data, there[0], there[1], tables[number(table)])
    return NodeReport(text(node), text(domain), places)


def parse_sets(value: Any, below: int = MAX_RANKS) -> Sets:
    """Sets of one kind from `[m, columns]`. ValueError and the like for anything else."""
    m, told = value
    members = parse_columns(told, below)
    n = members.shape[1]
    require(1 <= number(m) < n <= MOST)
    require(not repeated(members).any())
    return Sets(m, members)


def repeated(members: Ints) -> Bools:
    """For each row, whether a rank is in it twice."""
    ordered = np.sort(members, axis=1)
    twice: Bools = (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)
    return twice
