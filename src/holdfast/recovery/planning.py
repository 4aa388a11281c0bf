"""The planning of a recovery: from what all nodes hold to a version, and to a source for each rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..errors import UsageError
from ..format import Link
from .explain import another_commit, shortage, version_text
from .holdings import Holdings
from .recoveryplan import RecoveryPlan
from .sources import MOVE, NOWHERE, Passed, Sources, find_sources
from .wire import MAX_RANKS, Ints, frozen


class Candidate(NamedTuple):
    """A version that counts: its commit (name, digest), its number of ranks, the versions whose data it refers to, and whether
    the global store has it."""

    link: Link
    ranks: int
    refs: tuple[Link, ...] = ()
    stored: bool = False


class Homes(NamedTuple):
    """Where the ranks run now: `of`, for each rank the index in `nodes`, int32."""

    nodes: tuple[str, ...]
    of: Ints

    @staticmethod
    def by_name(names: Sequence[str]) -> Homes:
        """From each rank's node by name."""
        nodes = tuple(sorted(set(names)))
        index = {name: i for i, name in enumerate(nodes)}
        return Homes(nodes, np.fromiter((index[name] for name in names), np.int32, len(names)))


def plan(holdings: Holdings, candidates: Sequence[Candidate], homes: Homes) -> RecoveryPlan:
    """The newest version that every rank can have, and each rank's cheapest source: its own node, another node, its redundancy
    set, the global store. What nodes hold or can rebuild is never read from the global store.

    `candidates`: the versions that count, newest first; a version that others refer to is among them. `homes`: where the ranks
    run now; of a version with another number of ranks, rank r belongs to where rank r · now // then runs. Local; called in one
    process, or in all with the same. UsageError if `homes` has no ranks.
    """
    if not len(homes.of) or any(not 0 < c.ranks <= MAX_RANKS for c in candidates):
        raise UsageError(f"A plan needs ranks, and versions of 1 to {MAX_RANKS} ranks. Nothing was changed.")
    index = {name: i for i, name in enumerate(holdings.nodes)}
    here = np.array([index.get(name, -1) for name in homes.nodes], np.int32)
    known = {c.link: c for c in candidates}
    sources: dict[Link, Sources] = {}
    shifted: dict[int, Ints] = {}

    def of(link: Link) -> Sources:
        if link not in sources:
            ranks, stored = known[link].ranks, known[link].stored
            if ranks not in shifted:
                at = np.arange(ranks, dtype=np.int64) * len(homes.of) // ranks
                shifted[ranks] = here[homes.of if ranks == len(homes.of) else homes.of[at]]
            sources[link] = find_sources(holdings, link, shifted[ranks], stored)
        return sources[link]

    passed: list[Passed] = []
    for candidate in candidates:
        why = _why_not(holdings, of(candidate.link), None)
        for link in candidate.refs:
            if not why:
                why = _why_not(holdings, of(link), link) if link in known else _unknown(link)
        if not why:
            takes = [of(link) for link in (candidate.link, *candidate.refs)]
            return RecoveryPlan(*_only_used(holdings.nodes, takes), tuple(passed), _notes(holdings, list(sources)))
        passed.append(Passed(candidate.link, why))
    return RecoveryPlan((), (), tuple(passed), _notes(holdings, list(sources)))


def _why_not(holdings: Holdings, sources: Sources, needed: Link | None) -> str:
    """Why a version can't be had; empty if it can. `needed`: its link if it is asked for by one that refers to it."""
    if not (sources.kind == NOWHERE).any():
        return ""
    reason = shortage(holdings, sources)
    return f"it refers to data of {version_text(needed)}, of which {reason}" if needed else reason


def _unknown(link: Link) -> str:
    return f"it refers to data of {version_text(link)}, which is not among the versions that count"


def _notes(holdings: Holdings, links: Sequence[Link]) -> tuple[str, ...]:
    return tuple(note for link in links for note in another_commit(holdings, link))


def _only_used(nodes: tuple[str, ...], takes: Sequence[Sources]) -> tuple[tuple[str, ...], tuple[Sources, ...]]:
    """The nodes from which something is moved, and the takes in their terms: a plan is as large as what it does."""
    used = [t.node[t.kind == MOVE] for t in takes] + [m.nodes for t in takes for m in t.parities]
    seen = np.zeros(len(nodes), bool)  # np.unique would import numpy.ma, which takes longer than a small plan
    for numbers in used:
        seen[numbers] = True
    kept = np.flatnonzero(seen)
    at = np.full(len(nodes) + 1, -1, np.int32)  # the last stands for -1
    at[kept] = np.arange(len(kept), dtype=np.int32)
    renamed = [
        t._replace(node=frozen(at[t.node]), parities=tuple(m._replace(nodes=frozen(at[m.nodes])) for m in t.parities))
        for t in takes
    ]
    return tuple(nodes[i] for i in kept.tolist()), tuple(renamed)
