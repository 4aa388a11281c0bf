"""Plans in words, and as a JSON document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..format import Link, parse_version
from .holdings import PLACES, Holdings
from .sources import GLOBAL, KINDS, MOVE, NO_PLACE, NOWHERE, OWN, REBUILD, Sources, shortages
from .wire import Ints, where

if TYPE_CHECKING:
    from .recoveryplan import RecoveryPlan

_MOST = 6  # ranges, nodes or sets that are named; of the others the number is told


def ranges(ranks: Ints) -> list[tuple[int, int]]:
    """(first, last) of each run of consecutive ranks; `ranks` rises."""
    ends = np.flatnonzero(np.diff(ranks) != 1)
    firsts = ranks[np.concatenate([[0], ends + 1])] if len(ranks) else ranks
    lasts = ranks[np.concatenate([ends, [len(ranks) - 1]])] if len(ranks) else ranks
    return list(zip(firsts.tolist(), lasts.tolist(), strict=True))


def ranks_text(ranks: Ints) -> str:
    """'rank 8', 'ranks 0-3, 8', or 'ranks 0, 2, 4, 6, 8, 10, … (512 in all)'; `ranks` rises."""
    runs = ranges(ranks)
    text = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs[:_MOST])
    more = f", … ({len(ranks)} in all)" if len(runs) > _MOST else ""
    return f"rank{'' if len(ranks) == 1 else 's'} {text}{more}"


def version_text(link: Link) -> str:
    """'version 42'."""
    number, _ = parse_version(link.name) or (link.name, 0)
    return f"version {number}"


def shortage(holdings: Holdings, sources: Sources) -> str:
    """Why some ranks of a version have no source: which, of which sets how many are nowhere, and how many may be lost. What is
    on no node that was asked need not be lost: nobody knows here which nodes there are besides."""
    nowhere = where(sources.kind == NOWHERE)
    found: list[str] = []
    covered, sets = np.zeros(sources.ranks, np.bool_), 0
    for short in shortages(holdings, sources):
        covered[short.members] = True
        sets += len(short.members)
        for members, lost, bare in zip(short.members, short.lost.tolist(), short.bare.tolist(), strict=True):
            if len(found) == 3:
                break
            also = f" and of {bare} more the parity" if bare else ""
            found.append(
                f"of the set of {ranks_text(np.sort(members))} ({PLACES[short.place]}) {lost} of {len(members)} "
                f"are on no node that was asked{also}, and {short.m} may be lost"
            )
    if sets > len(found):
        found.append(f"so it is with {sets - len(found)} more set{'' if sets - len(found) == 1 else 's'}")
    alone = nowhere[~covered[nowhere]]
    if len(alone) == sources.ranks:
        found.append("no node that was asked holds anything of it")
    elif len(alone):
        found.append(f"no node that was asked knows a redundancy set of {ranks_text(alone)}")
    return f"{ranks_text(nowhere)} can't be had: {'; '.join(found)}; and the global store doesn't have it"


def another_commit(holdings: Holdings, link: Link) -> Iterator[str]:
    """What lies under the version's name with other commits than the one that counts, for each of these."""
    nodes: dict[str, list[Ints]] = {}
    for (version, digest, _), holders in holdings.of.items():
        if version == link.name and digest != link.digest:
            nodes.setdefault(digest, []).extend((holders.nodes, holders.parity_nodes))
    for digest, at in sorted(nodes.items()):
        named = [holdings.nodes[i] for i in np.unique(np.concatenate(at)).tolist()]
        if named:
            yield (
                f"{_nodes(named)}: what lies there as {version_text(link)} has another commit ({digest[:8]}…) than the "
                f"one that counts ({link.digest[:8]}…), and was not used"
            )


def plan_lines(plan: RecoveryPlan) -> list[str]:
    """The version and its sources, then what was passed over and why, then notes."""
    lines = []
    for i, take in enumerate(plan.takes):
        number = f"{take.ranks} rank{'' if take.ranks == 1 else 's'}"
        lines.append(f"{version_text(take.link)}, {'whose data it refers to' if i else number}:")
        lines += [f"  {ranks_text(ranks)}: {what}" for ranks, what in _sources(plan, take)]
        for p, place in enumerate(PLACES):
            parity = _of_works(take, p, parity=True)
            if len(parity):
                lines.append(f"  {ranks_text(parity)}: parity computed again in {place}")
        for moved in take.parities:
            named = [plan.nodes[n] for n in np.unique(moved.nodes).tolist()]
            lines.append(f"  {ranks_text(moved.ranks)}: parity moved from {PLACES[moved.place]} of {_nodes(named)}")
    if not plan.takes:
        lines.append("no version can be had" if plan.passed else "there is no version")
    lines += [f"{version_text(p.link)} passed over: {p.reason}" for p in plan.passed]
    return lines + list(plan.notes)


def plan_body(plan: RecoveryPlan) -> dict[str, object]:
    """The plan as JSON has it: ranks as pairs of first and last."""
    return {
        "version": plan.version.plain() if plan.version else None,
        "ranks": plan.ranks,
        "sources": plan.counts(),
        "takes": [_take_body(plan, take) for take in plan.takes],
        "passed": [{**p.link.plain(), "reason": p.reason} for p in plan.passed],
        "notes": list(plan.notes),
    }


def _take_body(plan: RecoveryPlan, take: Sources) -> dict[str, object]:
    def pairs(ranks: Ints) -> list[list[int]]:
        return [list(run) for run in ranges(ranks)]

    key = (take.kind.astype(np.int64) << 40) + (take.place.astype(np.int64) << 32) + (take.node.astype(np.int64) + 1)
    sources: list[dict[str, Any]] = []
    for one in np.unique(key).tolist():
        kind, place, node = one >> 40, one >> 32 & 0xFF, (one & 0xFFFFFFFF) - 1
        at = None if place == NO_PLACE else PLACES[place]
        name = plan.nodes[node] if node >= 0 else None
        sources.append({"kind": KINDS[kind], "place": at, "node": name, "ranks": pairs(where(key == one))})
    works = [
        {"place": PLACES[w.place], "m": w.m, "members": row.tolist(), "rebuilt": row[a].tolist(), "parity": row[b].tolist()}
        for w in take.works
        for row, a, b in zip(w.members, w.rebuilt, w.parity, strict=True)
    ]
    moved = [
        {"place": PLACES[m.place], "node": plan.nodes[node], "ranks": pairs(m.ranks[m.nodes == node])}
        for m in take.parities
        for node in np.unique(m.nodes).tolist()
    ]
    return {**take.link.plain(), "ranks": take.ranks, "sources": sources, "sets": works, "parities": moved}


def _sources(plan: RecoveryPlan, take: Sources) -> Iterator[tuple[Ints, str]]:
    """(ranks, their source), by kind and place."""
    for p, place in enumerate(PLACES):
        own = where((take.kind == OWN) & (take.place == p))
        if len(own):
            yield own, f"own node's {place}"
    for p, place in enumerate(PLACES):
        moved = where((take.kind == MOVE) & (take.place == p))
        if len(moved):
            named = [plan.nodes[n] for n in np.unique(take.node[moved]).tolist()]
            yield moved, f"moved from {place} of {_nodes(named)}"
    for p, place in enumerate(PLACES):
        rebuilt = where((take.kind == REBUILD) & (take.place == p))
        if len(rebuilt):
            sets = [row for w in take.works if w.place == p for row in w.members[w.rebuilt.any(axis=1)]]
            who = f"the set of {ranks_text(np.sort(sets[0]))}" if len(sets) == 1 else f"{len(sets)} sets"
            yield rebuilt, f"rebuilt from what {who} hold{'s' if len(sets) == 1 else ''} in {place}"
    stored = where(take.kind == GLOBAL)
    if len(stored):
        yield stored, "global store"


def _of_works(take: Sources, place: int, *, parity: bool) -> Ints:
    found = [(w.members[w.parity] if parity else w.members[w.rebuilt]) for w in take.works if w.place == place]
    return np.sort(np.concatenate(found)) if found else np.zeros(0, np.int32)


def _nodes(named: Sequence[str]) -> str:
    """'node n3', 'nodes n3, n4', or 'nodes n0, n1, n2, n3, n4, n5, … (100 in all)'."""
    more = f", … ({len(named)} in all)" if len(named) > _MOST else ""
    return f"node{'' if len(named) == 1 else 's'} {', '.join(named[:_MOST])}{more}"
