"""Any cluster, any losses, ranks anywhere: the plan is what the oracle says, whatever the order of the reports."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from recovery_support import World, as_told, homes, link, oracle

from holdfast.errors import ConfigError, UsageError
from holdfast.recovery import PLACES, Candidate, NodeReport, RecoveryPlan, merge, plan
from holdfast.recovery.sources import recoverable
from holdfast.redundancy import Scheme

VERSIONS = [link(3), link(2), link(1)]


@st.composite
def worlds(draw):
    """A cluster after its losses: some versions at some places, with or without parity; nodes lost, files lost, commits that
    disagree, a set that nobody is sure of, files that an earlier recovery has left on other nodes."""
    world = World(draw(st.lists(st.integers(1, 3), min_size=1, max_size=6)))
    for what in VERSIONS:
        for place in PLACES:
            if draw(st.booleans()):
                try:
                    world.save(what, place, draw(st.sampled_from([None, 2, 3])), draw(st.integers(0, 2)))
                except ConfigError:
                    world.save(what, place, None, 0)
    nodes = list(world.names)
    world.lose(draw(st.lists(st.sampled_from(nodes), unique=True, max_size=3)))
    for key in sorted(world.held):
        held = world.held[key]
        what = draw(st.sampled_from(["", "", "", "data", "part", "parity", "guest", "commit", "set"]))
        rank = draw(st.integers(0, world.ranks - 1))
        if what in ("data", "part", "parity"):
            held[what].discard(rank)
        elif what == "guest":
            held["data"].add(rank)
            held["part"].add(rank)
            if draw(st.booleans()) and any(rank in members for h in world.held.values() for _, members in h["sets"]):
                held["parity"].add(rank)
        elif what == "commit":
            world.held[key[0], key[1], key[2]._replace(digest="f" * 32)] = world.held.pop(key)
        elif what == "set" and held["sets"]:
            m, members = held["sets"].pop()
            if draw(st.booleans()) and len(members) > m + 1:
                held["sets"].append((m, members[:-1]))
    candidates = []
    for i, what in enumerate(VERSIONS):
        refs = tuple(draw(st.lists(st.sampled_from(VERSIONS[i + 1 :]), unique=True))) if i < 2 else ()
        refs = tuple(sorted(refs, reverse=True))
        candidates.append(Candidate(what, world.ranks, refs, draw(st.booleans())))
    candidates = [c for c in candidates if draw(st.integers(0, 5))]
    if draw(st.booleans()):
        at = list(world.home)
    else:
        at = draw(st.lists(st.sampled_from([*nodes, "spare"]), min_size=1, max_size=2 * world.ranks))
    return world, candidates, at


@settings(max_examples=400)
@given(worlds(), st.randoms(use_true_random=False))
def test_the_plan_is_what_the_oracle_says(given_world, random):
    world, candidates, at = given_world
    reports = world.reports()
    p = plan(merge(reports), candidates, homes(at))
    assert as_told(p) == oracle(world, candidates, at), p.lines()
    # As it is after the way over the network, in whatever order the reports come.
    wires = [report.to_wire() for report in reports]
    random.shuffle(wires)
    again = plan(merge(map(NodeReport.from_wire, wires)), candidates, homes(at))
    assert again == p and again.to_wire() == p.to_wire() and again.lines() == p.lines()
    there = RecoveryPlan.from_wire(p.to_wire())
    assert there == p and there.lines() == p.lines() and there.to_body() == p.to_body() and there.counts() == p.counts()
    _can_be_carried_out(world, p, at)


def _can_be_carried_out(world: World, p: RecoveryPlan, at: list[str]) -> None:
    """Streams and parities go home, then the works in their order: each needs only what is there by then, and in the end all
    is that was or could be."""
    for i, take in enumerate(p.takes):
        sources = [p.source(r, i) for r in range(take.ranks)]
        there = {r for r, source in enumerate(sources) if source.kind != "rebuild"}
        held = [(node, place, h) for (node, place, what), h in world.held.items() if what == take.link]
        home = [at[r * len(at) // take.ranks] for r in range(take.ranks)]
        parity = {(place, r) for node, place, h in held for r in h["parity"] if home[r] == node}
        for moved in take.parities:
            for r, node in zip(moved.ranks.tolist(), moved.nodes.tolist(), strict=True):
                place = PLACES[moved.place]
                assert r in world.held[p.nodes[node], place, take.link]["parity"] and (place, r) not in parity
                parity.add((place, r))
        for work in take.works:
            place = PLACES[work.place]
            for members, rebuilt, bare in zip(
                work.members.tolist(), work.rebuilt.tolist(), work.parity.tolist(), strict=True
            ):
                lost = {j for j, yes in enumerate(rebuilt) if yes}
                gone = {j for j, yes in enumerate(bare) if yes}
                assert lost | gone
                here = {j for j, r in enumerate(members) if r in there}
                assert gone == {j for j, r in enumerate(members) if (place, r) not in parity}
                assert lost.isdisjoint(here) and lost | here == set(range(len(members)))
                Scheme(len(members), work.m).rebuilding(lost, gone)
                there |= {members[j] for j in lost}
        assert there == set(range(take.ranks))


@given(st.integers(2, 9), st.data())
def test_what_can_be_rebuilt_is_what_the_scheme_rebuilds(n, data):
    m = data.draw(st.integers(1, n - 1))
    flags = st.lists(st.booleans(), min_size=n, max_size=n)
    lost, bare = data.draw(flags), data.draw(flags)
    if not any(lost):
        lost[0] = True
    try:
        Scheme(n, m).rebuilding([i for i in range(n) if lost[i]], [i for i in range(n) if bare[i]])
        possible = True
    except UsageError:
        possible = False
    assert recoverable(m, np.array([lost]), np.array([bare])).tolist() == [possible]
