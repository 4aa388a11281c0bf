"""Small clusters as nodes would report them, and an oracle: what the plan must say, worked out rank by rank with plain sets."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from holdfast.errors import UsageError
from holdfast.format import Link, version_name
from holdfast.recovery import PLACES, Candidate, Homes, Kept, NodeReport, Sets
from holdfast.redundancy import Scheme
from holdfast.redundancy.sets import deal


def link(number: int, attempt: int = 1) -> Link:
    return Link(version_name(number, attempt), f"{number:032x}")


class World:
    """What nodes hold: {(node, place, link): {"data": ranks, "part": ranks, "parity": ranks, "sets": [(m, members)]}}, sets of
    Python's; and where each rank's home was."""

    def __init__(self, counts: list[int]) -> None:
        self.names = [f"n{i}" for i in range(len(counts))]
        self.home = [f"n{i}" for i, count in enumerate(counts) for _ in range(count)]
        self.held: dict[tuple[str, str, Link], dict] = {}

    @property
    def ranks(self) -> int:
        return len(self.home)

    def save(self, what: Link, place: str, size: int | None, m: int) -> None:
        """All ranks' state at a place, with parity if m > 0."""
        sets = deal(self.home, size, m) if m else []
        for node in set(self.home):
            mine = {r for r in range(self.ranks) if self.home[r] == node}
            in_sets = [(m, members) for members in sets if mine & set(members)]
            parity = {r for r in mine for _, members in in_sets if r in members}
            self.held[node, place, what] = {"data": set(mine), "part": set(mine), "parity": parity, "sets": in_sets}

    def lose(self, nodes: Iterable[str]) -> None:
        for node in nodes:
            self.names.remove(node)
            self.held = {key: value for key, value in self.held.items() if key[0] != node}

    def reports(self) -> list[NodeReport]:
        return [self._report(node) for node in self.names]

    def _report(self, node: str) -> NodeReport:
        places: dict[str, dict[str, Kept]] = {}
        for (name, place, what), held in self.held.items():
            if name == node:
                arrays = [np.array(sorted(held[key]), np.int32) for key in ("data", "part", "parity")]
                kinds = sorted({(m, len(members)) for m, members in held["sets"]})
                sets = tuple(
                    Sets(m, np.array([s for k, s in held["sets"] if (k, len(s)) == (m, n)], np.int32)) for m, n in kinds
                )
                versions = places.setdefault(place, {})
                assert what.name not in versions
                versions[what.name] = Kept(what.digest, *arrays, sets)
        return NodeReport(node, node, places)


def oracle(world: World, candidates: list[Candidate], homes: list[str]):
    """(link, [{rank: (kind, place, node)} for it and for what it refers to]) of the version to take; None if there is none."""
    for candidate in candidates:
        takes = []
        for what in (candidate.link, *candidate.refs):
            known = [c for c in candidates if c.link == what]
            takes.append(_sources(world, known[0], homes) if known else {0: None})
        if all(source is not None for take in takes for source in take.values()):
            return candidate.link, takes
    return None


def _sources(world: World, candidate: Candidate, homes: list[str]) -> dict:
    def at(rank: int) -> str:
        return homes[rank * len(homes) // candidate.ranks]

    def streams(place: str, rank: int) -> list[str]:
        holding = [(node, h) for (node, p, what), h in world.held.items() if (p, what) == (place, candidate.link)]
        return sorted(node for node, h in holding if rank in h["data"] & h["part"])

    def ladder(rank: int):
        for place in PLACES:
            if at(rank) in streams(place, rank):
                return "own", place, None
        for place in PLACES:
            for node in streams(place, rank):
                return "move", place, node
        for place in PLACES:
            if rebuilt(place, rank):
                return "rebuild", place, None
        return ("global", None, None) if candidate.stored else None

    def rebuilt(place: str, rank: int) -> bool:
        here = [h for (_, p, what), h in world.held.items() if (p, what) == (place, candidate.link)]
        told = {(m, tuple(members)) for h in here for m, members in h["sets"]}
        mine = [(m, members) for m, members in told if rank in members]
        if len(mine) != 1:
            return False
        m, members = mine[0]
        if any(r in others for _, others in told - {mine[0]} for r in members):
            return False
        lost = [i for i, r in enumerate(members) if not any(streams(p, r) for p in PLACES)]
        bare = [i for i, r in enumerate(members) if not any(r in h["parity"] for h in here)]
        try:
            Scheme(len(members), m).rebuilding(lost, bare)
        except UsageError:
            return False
        return True

    return {rank: ladder(rank) for rank in range(candidate.ranks)}


def as_told(plan):
    """A plan as the oracle tells it."""
    if plan.version is None:
        return None
    takes = [{r: plan.source(r, i)[:3] for r in range(take.ranks)} for i, take in enumerate(plan.takes)]
    return plan.version, takes


def homes(names: list[str]) -> Homes:
    return Homes.by_name(names)
