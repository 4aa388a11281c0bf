"""A plan as MessagePack, and back, checked: by runs of ranks, so that it is as large as what differs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..format import Link, parse_version
from ..format.blocks import DIGEST_BYTES
from ..format.extents import number, require
from .holdings import PLACES, parse_sets
from .sources import GLOBAL, MOVE, NO_PLACE, OWN, REBUILD, Moved, Passed, Sources, Work
from .wire import MAX_RANKS, Bools, columns, frozen, ints, names, pack, parse_ints, unpack, where

FORMAT = 1


def plan_bytes(
    nodes: tuple[str, ...], takes: Sequence[Sources], passed: Sequence[Passed], notes: Sequence[str]
) -> bytes:
    passed_ = [[*_link(p.link), p.reason] for p in passed]
    return pack([FORMAT, list(nodes), [_take(t) for t in takes], passed_, list(notes)])


def parse_plan(data: bytes) -> tuple[tuple[str, ...], tuple[Sources, ...], tuple[Passed, ...], tuple[str, ...]]:
    """What `plan_bytes` packed. DamageError if it isn't that, throughout."""
    return unpack(data, "The plan of the recovery", _parse)


def _parse(value: Any) -> tuple[tuple[str, ...], tuple[Sources, ...], tuple[Passed, ...], tuple[str, ...]]:
    form, nodes, takes, passed, notes = value
    require(form == FORMAT and all(isinstance(v, list) for v in (nodes, takes, passed, notes)))
    named = names(nodes)
    require(all(isinstance(reason, str) for *_, reason in passed) and all(isinstance(note, str) for note in notes))
    parsed = tuple(_parse_take(take, len(named)) for take in takes)
    told = tuple(Passed(_parse_link(name, digest), reason) for name, digest, reason in passed)
    return named, parsed, told, tuple(notes)


def _link(link: Link) -> list[Any]:
    return [link.name, bytes.fromhex(link.digest)]


def _parse_link(name: Any, digest: Any) -> Link:
    require(isinstance(name, str) and parse_version(name) is not None)
    require(isinstance(digest, bytes) and len(digest) == DIGEST_BYTES)
    return Link(name, digest.hex())


def _take(t: Sources) -> list[Any]:
    new = np.ones(t.ranks, np.bool_)
    new[1:] = (np.diff(t.kind) != 0) | (np.diff(t.place) != 0) | (np.diff(t.node) != 0)
    starts = where(new)
    nodes = t.node[starts]
    moved = nodes[t.kind[starts] == MOVE]
    works = [[w.place, w.m, columns(w.members), _mask(w.rebuilt), _mask(w.parity)] for w in t.works]
    parities = [[p.place, ints(p.ranks), ints(p.nodes)] for p in t.parities]
    runs = [ints(starts), t.kind[starts].tobytes(), t.place[starts].tobytes(), ints(moved)]
    return [*_link(t.link), t.ranks, *runs, works, parities]


def _parse_take(value: Any, nodes: int) -> Sources:
    name, digest, ranks, told, kinds, places, told_nodes, works, parities = value
    require(0 < number(ranks) <= MAX_RANKS and isinstance(kinds, bytes) and isinstance(places, bytes))
    starts = parse_ints(told, ranks, rising=True)
    kind, place = np.frombuffer(kinds, np.uint8), np.frombuffer(places, np.uint8)
    require(0 < len(starts) == len(kind) == len(place) and starts[0] == 0 and int(kind.max()) <= GLOBAL)
    require(bool(((place == NO_PLACE) == (kind == GLOBAL)).all()) and int(place.max()) <= NO_PLACE)
    node = np.full(len(starts), -1, np.int32)
    moved = parse_ints(told_nodes, nodes)
    require(int((kind == MOVE).sum()) == len(moved))
    node[kind == MOVE] = moved
    lengths = np.diff(starts, append=ranks)
    full = [np.repeat(array, lengths) for array in (kind, place, node)]
    take = Sources(
        _parse_link(name, digest), frozen(full[0], np.uint8), frozen(full[1], np.uint8), frozen(full[2]),
        tuple(_work(w, ranks) for w in works), tuple(_moved(p, ranks, nodes) for p in parities),
    )  # fmt: skip
    _agree(take)
    return take


def _agree(take: Sources) -> None:
    """What is rebuilt is rebuilt by one set, and nothing else is."""
    rebuilt = np.zeros(take.ranks, np.int32)
    for w in take.works:
        ranks = w.members[w.rebuilt]
        require(bool((take.place[ranks] == w.place).all()))
        np.add.at(rebuilt, ranks, 1)
    require(bool((rebuilt == (take.kind == REBUILD)).all()))
    assert OWN == 0  # the smallest kind: `kind` needs no lower bound


def _work(value: Any, ranks: int) -> Work:
    place, m, members, rebuilt, parity = value
    require(number(place) < len(PLACES))
    sets = parse_sets([m, members], ranks)
    shape = sets.members.shape
    return Work(place, sets.m, frozen(sets.members), _parse_mask(rebuilt, shape), _parse_mask(parity, shape))


def _moved(value: Any, ranks: int, nodes: int) -> Moved:
    place, moved, told_nodes = value
    require(number(place) < len(PLACES))
    parsed, at = parse_ints(moved, ranks, rising=True), parse_ints(told_nodes, nodes)
    require(0 < len(parsed) == len(at))
    return Moved(place, frozen(parsed), frozen(at))


def _mask(mask: Bools) -> bytes:
    return np.packbits(mask).tobytes()


def _parse_mask(value: Any, shape: tuple[int, ...]) -> Bools:
    require(isinstance(value, bytes))
    bits = int(np.prod(shape))
    packed = np.frombuffer(value, np.uint8)
    require(len(packed) == -(-bits // 8))
    every = np.unpackbits(packed)
    require(not every[bits:].any())
    mask: Bools = frozen(every[:bits].reshape(shape), np.bool_)
    return mask
