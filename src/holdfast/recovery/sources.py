"""One version: from where each rank's state is to be had, and why not where it isn't.

The ladder of a rank: what its own node has; what another node has (the first by name), moved; what its redundancy set
rebuilds from what the other members' nodes have; the global store. Memory goes before the local directory on each step but
the last. What is itself rebuilt or read from the global store is no part of another rebuild: whether a rank can be had then
depends on nothing but holdings. (A rank more read from the global store would seldom let the others of its set be
rebuilt, since the parity that it kept stays lost.)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..format import Link
from .holdings import PLACES, Holders, Holdings, Sets
from .wire import Bools, Ints, Octets, frozen, where

OWN, MOVE, REBUILD, GLOBAL, NOWHERE = range(5)
KINDS = ("own", "move", "rebuild", "global")  # their names
NO_PLACE = len(PLACES)  # where the source is in no place of a node


class Work(NamedTuple):
    """Sets of one kind at one place that have something to compute: streams, and with them parities, or parities alone. `m`:
    the parities of a set; `members`: int32 (sets, n); of the same shape, bool, `rebuilt`: whose streams are rebuilt,
    `parity`: whose parities no node has and are computed again."""

    place: int
    m: int
    members: Ints
    rebuilt: Bools
    parity: Bools


class Moved(NamedTuple):
    """Parities that lie on another node than their rank's: `ranks`, rising, each from `nodes`; int32 both."""

    place: int
    ranks: Ints
    nodes: Ints


class Sources(NamedTuple):
    """From where each rank has a version. By rank: `kind` (uint8: OWN, MOVE, REBUILD, GLOBAL, NOWHERE), `place` (uint8: index
    in PLACES, or NO_PLACE), `node` (int32: from where it is moved, else -1). `works`: what is then computed, in this order;
    `parities`: those that lie on other nodes than their ranks."""

    link: Link
    kind: Octets
    place: Octets
    node: Ints
    works: tuple[Work, ...]
    parities: tuple[Moved, ...]

    @property
    def ranks(self) -> int:
        return len(self.kind)


class Passed(NamedTuple):
    """A newer version that can't be had, and why, in words."""

    link: Link
    reason: str


class Shortage(NamedTuple):
    """Sets at one place of which more is lost than can be rebuilt, while some rank has no other source. By set: `lost`, streams
    that no node has; `bare`, streams whose parities no node has, the most in any stripe."""

    place: int
    m: int
    members: Ints
    lost: Ints
    bare: Ints


def find_sources(holdings: Holdings, link: Link, home: Ints, stored: bool) -> Sources:
    """The sources of version `link`, NOWHERE for those ranks that have none. `home`: for each rank of the version, its node
    now (index in `holdings.nodes`; -1 for a node that holds nothing); `stored`: whether the global store has the
    version. Only what lies with the very commit that `link` names counts. Local."""
    kind = np.full(len(home), NOWHERE, np.uint8)
    place = np.full(len(home), NO_PLACE, np.uint8)
    node = np.full(len(home), -1, np.int32)
    at = list(_places(holdings, link, len(home)))
    for p, holders in at:
        ranks = holders.ranks[holders.nodes == home[holders.ranks]]
        ranks = ranks[kind[ranks] == NOWHERE]
        kind[ranks], place[ranks] = OWN, p
    for p, holders in at:
        first = _firsts(holders.ranks)
        ranks, nodes = holders.ranks[first], holders.nodes[first]
        new = kind[ranks] == NOWHERE
        kind[ranks[new]], place[ranks[new]], node[ranks[new]] = MOVE, p, nodes[new]
    held = kind != NOWHERE
    for p, holders in at:
        parity = _has_parity(holders, len(home))
        for m, members in holders.sets:
            lost = ~held[members]
            lost[~recoverable(m, lost, ~parity[members])] = False
            ranks = members[lost]
            ranks = ranks[kind[ranks] == NOWHERE]
            kind[ranks], place[ranks] = REBUILD, p
    if stored:
        kind[kind == NOWHERE] = GLOBAL
    works = [work for p, holders in at for work in _works(p, holders, kind, place)]
    # A parity needs all streams of its set, also those that another set rebuilds.
    works.sort(key=lambda work: not work.rebuilt.any())
    moved = tuple(away for p, holders in at if len((away := _moved(p, holders, home)).ranks))
    return Sources(link, frozen(kind, np.uint8), frozen(place, np.uint8), frozen(node), tuple(works), moved)


def recoverable(m: int, lost: Bools, parity_lost: Bools) -> Bools:
    """For each set (a row, its members in order), whether all streams in `lost` can be rebuilt: as `Scheme.rebuilding` does it,
    in which each lost stream is one symbol less in every stripe, as data or by that member's parity. Parities alone are m
    stripes' each, the stripe of number s having those of the m members from s on."""
    bare = _bare(m, lost, parity_lost)
    possible: Bools = lost.sum(axis=1) + bare <= m
    return possible


def shortages(holdings: Holdings, sources: Sources) -> Iterator[Shortage]:
    """Why ranks can't be rebuilt: the sets in which they are."""
    nowhere = sources.kind == NOWHERE
    held = (sources.kind == OWN) | (sources.kind == MOVE)
    for p, holders in _places(holdings, sources.link, sources.ranks):
        parity = _has_parity(holders, sources.ranks)
        for m, members in holders.sets:
            short = nowhere[members].any(axis=1)
            if short.any():
                members = members[short]
                lost = ~held[members]
                yield Shortage(p, m, members, lost.sum(axis=1).astype(np.int32), _bare(m, lost, ~parity[members]))


def _bare(m: int, lost: Bools, parity_lost: Bools) -> Ints:
    only = parity_lost & ~lost
    counts = np.zeros(only.shape, np.int32)
    if only.any():
        for j in range(m):
            counts += np.roll(only, -j, axis=1)
    most: Ints = counts.max(axis=1)
    return most


def _places(holdings: Holdings, link: Link, ranks: int) -> Iterator[tuple[int, Holders]]:
    """The places where the version lies with the commit that counts, the faster first; without ranks that it hasn't got."""
    for p, name in enumerate(PLACES):
        holders = holdings.of.get((link.name, link.digest, name))
        if holders is not None:
            end, parity_end = np.searchsorted(holders.ranks, ranks), np.searchsorted(holders.parity_ranks, ranks)
            sets = tuple(Sets(m, members[(members < ranks).all(axis=1)]) for m, members in holders.sets)
            yield p, Holders(
                holders.ranks[:end], holders.nodes[:end], holders.parity_ranks[:parity_end],
                holders.parity_nodes[:parity_end], tuple(s for s in sets if len(s.members)),
            )  # fmt: skip


def _firsts(ranks: Ints) -> Ints:
    """Where each rank stands first."""
    new = np.ones(len(ranks), np.bool_)
    new[1:] = ranks[1:] != ranks[:-1]
    return where(new)


def _has_parity(holders: Holders, ranks: int) -> Bools:
    has = np.zeros(ranks, np.bool_)
    has[holders.parity_ranks] = True
    return has


def _works(p: int, holders: Holders, kind: Octets, place: Octets) -> Iterator[Work]:
    """What is to be computed in the sets of a place, once all that is not rebuilt is where it belongs."""
    parity = _has_parity(holders, len(kind))
    for m, members in holders.sets:
        rebuilt = (kind[members] == REBUILD) & (place[members] == p)
        lost = ~parity[members]
        here = rebuilt.any(axis=1)
        for rows in (here, lost.any(axis=1) & ~here):
            if rows.any():
                yield Work(p, m, frozen(members[rows]), frozen(rebuilt[rows], np.bool_), frozen(lost[rows], np.bool_))


def _moved(p: int, holders: Holders, home: Ints) -> Moved:
    there = np.zeros(len(home), np.bool_)
    there[holders.parity_ranks[holders.parity_nodes == home[holders.parity_ranks]]] = True
    first = _firsts(holders.parity_ranks)
    ranks, nodes = holders.parity_ranks[first], holders.parity_nodes[first]
    away = ~there[ranks]
    return Moved(p, frozen(ranks[away]), frozen(nodes[away]))
