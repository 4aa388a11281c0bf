"""Every step of the ladder, what is said of it, and every pattern of lost nodes."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from recovery_support import World, as_told, homes, link, oracle

from holdfast.errors import UsageError
from holdfast.recovery import Candidate, Homes, RecoveryPlan, merge, plan

NEW, OLD = link(43), link(42)


def four(place: str = "memory", m: int = 1) -> World:
    """Four nodes with two ranks each, both versions at one place, in sets of four."""
    world = World([2, 2, 2, 2])
    for what in (NEW, OLD):
        world.save(what, place, 4, m)
    return world


def planned(world: World, *, new: bool = False, old: bool = False, at: list[str] | None = None) -> RecoveryPlan:
    candidates = [Candidate(NEW, world.ranks, (), new), Candidate(OLD, world.ranks, (), old)]
    return plan(merge(world.reports()), candidates, homes(at or world.home))


def kinds(p: RecoveryPlan) -> str:
    return "".join(p.source(r).kind[0] for r in range(p.ranks))


def test_what_the_own_node_has():
    p = planned(four())
    assert p.version == NEW
    assert p.lines() == ["version 43, 8 ranks:", "  ranks 0-7: own node's memory"]
    assert p.counts() == {"own": 8, "move": 0, "rebuild": 0, "global": 0}
    assert p.takes[0].works == () and p.takes[0].parities == () and p.nodes == ()


def test_memory_goes_before_the_local_directory():
    world = four()
    world.save(NEW, "local", 4, 1)
    del world.held["n1", "memory", NEW]
    p = planned(world)
    assert p.lines()[:3] == ["version 43, 8 ranks:", "  ranks 0-1, 4-7: own node's memory", "  ranks 2-3: own node's local"]
    assert p.lines()[3:] == ["  ranks 2-3: parity computed again in memory"]


def test_ranks_on_other_nodes_have_theirs_moved():
    p = planned(four(), at=["n1", "n1", "n0", "n0", "n2", "n2", "n3", "n3"])
    assert p.lines() == [
        "version 43, 8 ranks:",
        "  ranks 4-7: own node's memory",
        "  ranks 0-3: moved from memory of nodes n0, n1",
        "  ranks 0-3: parity moved from memory of nodes n0, n1",
    ]
    assert p.source(0) == ("move", "memory", "n0", ()) and p.source(2).node == "n1"
    assert p.nodes == ("n0", "n1")


def test_a_lost_node_is_rebuilt_by_its_sets():
    world = four()
    world.lose(["n2"])
    p = planned(world, new=True, at=["n0", "n0", "n1", "n1", "spare", "spare", "n3", "n3"])
    assert p.lines() == [
        "version 43, 8 ranks:",
        "  ranks 0-3, 6-7: own node's memory",
        "  ranks 4-5: rebuilt from what 2 sets hold in memory",
        "  ranks 4-5: parity computed again in memory",
    ]
    assert p.source(4) == ("rebuild", "memory", None, (0, 2, 4, 6))
    assert p.source(5).members == (1, 3, 5, 7)
    assert p.counts()["global"] == 0  # although it is there


def test_more_lost_than_parities_comes_from_the_global_store():
    world = four()
    world.lose(["n1", "n2"])
    p = planned(world, new=True)
    assert p.lines()[:3] == ["version 43, 8 ranks:", "  ranks 0-1, 6-7: own node's memory", "  ranks 2-5: global store"]
    assert p.lines()[3:] == ["  ranks 2-5: parity computed again in memory"]
    assert kinds(p) == "ooggggoo"


def test_only_what_the_nodes_cannot_give_is_read_from_the_global_store():
    """One set has lost two members and another one: the second is rebuilt."""
    world = four()
    world.lose(["n1"])
    world.held["n2", "memory", NEW]["data"].discard(4)
    p = planned(world, new=True)
    assert kinds(p) == "oogrgooo"


def test_the_version_before_when_the_newest_cannot_be_had():
    world = four()
    world.lose(["n1", "n2"])
    p = planned(world, old=True)
    assert p.version == OLD
    assert p.passed[0].link == NEW
    assert p.passed[0].reason == (
        "ranks 2-5 can't be had: of the set of ranks 0, 2, 4, 6 (memory) 2 of 4 are on no node that was asked, and 1 may be "
        "lost; of the set of ranks 1, 3, 5, 7 (memory) 2 of 4 are on no node that was asked, and 1 may be lost; and the global "
        "store doesn't have it"
    )
    assert p.lines()[-1] == f"version 43 passed over: {p.passed[0].reason}"


def test_two_parities_and_a_lost_one():
    """Two members may be lost; where a third has lost its parity, that may be one symbol too many."""
    world = four(m=2)
    world.lose(["n1", "n2"])
    assert kinds(planned(world)) == "oorrrroo"
    world.held["n3", "memory", NEW]["parity"].discard(6)
    p = planned(world)
    assert p.version == OLD
    assert "2 of 4 are on no node that was asked and of 1 more the parity, and 2 may be lost; " in p.passed[0].reason
    assert p.passed[0].reason.startswith("ranks 2, 4 can't")


def test_the_newest_wins_although_only_the_global_store_has_it():
    world = four()
    world.held = {key: value for key, value in world.held.items() if key[2] == OLD}
    p = planned(world, new=True)
    assert p.version == NEW and p.counts() == {"own": 0, "move": 0, "rebuild": 0, "global": 8}
    assert p.takes[0].works == ()


def test_nothing_anywhere():
    world = four()
    world.lose(["n0", "n1", "n2", "n3"])
    p = planned(world)
    assert p.version is None and p.takes == () and p.ranks == 0
    assert [x.link for x in p.passed] == [NEW, OLD]
    everything = "ranks 0-7 can't be had: no node that was asked holds anything of it; and the global store doesn't have it"
    assert {x.reason for x in p.passed} == {everything}
    assert p.lines()[0] == "no version can be had"
    assert plan(merge([]), [], homes(["n0"])).lines() == ["there is no version"]


def test_without_redundancy_nobody_knows_a_set():
    world = World([1, 1])
    world.save(NEW, "memory", None, 0)
    world.lose(["n1"])
    assert planned(world).passed[0].reason == (
        "rank 1 can't be had: no node that was asked knows a redundancy set of rank 1; and the global store doesn't have it"
    )


def test_another_commit_is_no_holding():
    """n2 has another version by the name of the newest: its data is neither taken nor used to rebuild from."""
    world = four()
    other = NEW._replace(digest="f" * 32)
    world.held["n2", "memory", other] = world.held.pop(("n2", "memory", NEW))
    p = planned(world)
    assert p.version == NEW and kinds(p) == "oooorroo"
    assert p.notes == (
        "node n2: what lies there as version 43 has another commit (ffffffff…) than the one that counts (00000000…), "
        "and was not used",
    )
    assert p.lines()[-1] == p.notes[0]
    world.lose(["n1"])
    assert planned(world).version == OLD


def test_data_without_its_part_is_no_stream():
    world = four()
    world.held["n0", "memory", NEW]["part"].discard(1)
    assert kinds(planned(world)) == "oroooooo"


def test_a_place_helps_another():
    """What the local directories hold counts for a set in memory too: its bytes are the same."""
    world = four()
    world.save(NEW, "local", None, 0)
    del world.held["n1", "memory", NEW]
    world.lose(["n2"])
    assert planned(world).version == OLD  # with rank 2's parity in memory, and rank 4, a stripe has lost two symbols
    world.held["n1", "memory", NEW] = {"data": set(), "part": set(), "parity": {2, 3}, "sets": []}
    p = planned(world)
    assert p.version == NEW and kinds(p) == "oooorroo"
    assert p.source(2) == ("own", "local", None, ())


def test_parity_that_is_lost_alone_is_computed_again():
    world = four()
    world.held["n3", "memory", NEW]["parity"].clear()
    p = planned(world)
    assert kinds(p) == "oooooooo"
    assert p.lines()[-1] == "  ranks 6-7: parity computed again in memory"
    (work,) = p.takes[0].works
    assert work.m == 1 and work.members.tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert work.parity.tolist() == [[False, False, False, True]] * 2 and not work.rebuilt.any()


def test_parities_wait_for_what_another_place_rebuilds():
    """Two nodes lost are too many for the sets in memory, not for those in the local directories: they come first."""
    world = World([2, 2, 2, 2])
    world.save(NEW, "memory", 4, 1)
    world.save(NEW, "local", 4, 2)
    world.lose(["n1", "n2"])
    p = planned(world)
    assert kinds(p) == "oorrrroo" and p.source(2).place == "local"
    first, second = p.takes[0].works
    assert (first.place, first.m) == (1, 2)
    assert first.rebuilt.tolist() == first.parity.tolist() == [[False, True, True, False]] * 2
    assert (second.place, second.m) == (0, 1) and not second.rebuilt.any() and second.parity.sum() == 4


def test_what_a_version_refers_to_must_be_had_too():
    world = four()
    del world.held["n1", "memory", OLD]
    world.held["n2", "memory", OLD]["data"].clear()
    candidates = [Candidate(NEW, 8, (OLD,)), Candidate(OLD, 8)]
    p = plan(merge(world.reports()), candidates, homes(world.home))
    assert p.version is None
    assert p.passed[0].reason.startswith("it refers to data of version 42, of which ranks 2-5 can't be had: of the set of ")
    p = plan(merge(world.reports()), [candidates[0], Candidate(OLD, 8, (), True)], homes(world.home))
    assert [t.link for t in p.takes] == [NEW, OLD]
    assert [p.source(2, i).kind for i in (0, 1)] == ["own", "global"]
    assert "version 42, whose data it refers to:" in p.lines()
    p = plan(merge(world.reports()), candidates[:1], homes(world.home))
    assert p.passed[0].reason == "it refers to data of version 42, which is not among the versions that count"


def test_another_number_of_ranks_now():
    """Eight ranks' state goes to where the four of now run, two to each."""
    world = four()
    p = plan(merge(world.reports()), [Candidate(NEW, 8)], homes(["n0", "n1", "n2", "n3"]))
    assert kinds(p) == "oooooooo"
    p = plan(merge(world.reports()), [Candidate(NEW, 8)], homes(["n0"]))
    assert kinds(p) == "oo" + "m" * 6


def test_ranks_that_the_version_has_not_got_are_left_out():
    p = plan(merge(four().reports()), [Candidate(NEW, 6)], homes(["n0", "n0", "n1", "n1", "n2", "n2"]))
    assert kinds(p) == "oooooo" and p.ranks == 6


def test_a_rank_in_two_sets_is_in_none():
    world = four()
    world.held["n0", "memory", NEW]["sets"] = [(1, (0, 3, 4, 6)), (1, (1, 2, 5, 7))]
    world.lose(["n2"])
    assert planned(world).version == OLD


def test_the_document():
    world = four()
    world.lose(["n1"])
    body = planned(world, at=["n2", "n0", "x", "x", "n2", "n2", "n3", "n3"]).to_body()
    assert body["version"] == {"name": NEW.name, "digest": NEW.digest} and body["ranks"] == 8
    assert body["sources"] == {"own": 5, "move": 1, "rebuild": 2, "global": 0}
    (take,) = body["takes"]
    assert take["sources"] == [
        {"kind": "own", "place": "memory", "node": None, "ranks": [[1, 1], [4, 7]]},
        {"kind": "move", "place": "memory", "node": "n0", "ranks": [[0, 0]]},
        {"kind": "rebuild", "place": "memory", "node": None, "ranks": [[2, 3]]},
    ]
    assert take["sets"] == [
        {"place": "memory", "m": 1, "members": [0, 2, 4, 6], "rebuilt": [2], "parity": [2]},
        {"place": "memory", "m": 1, "members": [1, 3, 5, 7], "rebuilt": [3], "parity": [3]},
    ]
    assert take["parities"] == [{"place": "memory", "node": "n0", "ranks": [[0, 0]]}]
    assert body["passed"] == [] and body["notes"] == []


def test_lines_stay_short():
    """Hundreds of nodes lost, every other rank gone: what can't be listed is counted."""
    world = World([1] * 64)
    world.save(NEW, "memory", 8, 1)
    world.lose([f"n{i}" for i in range(0, 56, 2)])
    at = [f"n{63 - i}" for i in range(64)]
    p = planned(world, at=at)
    assert max(map(len, p.lines())) < 600
    lost = "ranks 0, 2, 4, 6, 8, 10, … (28 in all)"
    first = "of the set of ranks 0, 8, 16, 24, 32, 40, … (8 in all) (memory) 7 of 8 are on no node that was asked, and 1 may "
    first += "be lost; "
    assert p.passed[0].reason.startswith(f"{lost} can't be had: {first}")
    assert "; so it is with 1 more set; and the " in p.passed[0].reason
    assert planned(world, new=True, at=at).lines()[1:3] == [
        "  ranks 1, 3, 5, 7, 9, 11, … (36 in all): moved from memory of nodes n1, n11, n13, n15, n17, n19, … (36 in all)",
        f"  {lost}: global store",
    ]


def test_plans_are_frozen():
    p = planned(four())
    with pytest.raises(AttributeError, match="not changed"):
        p.version = None
    with pytest.raises(AttributeError, match="not changed"):
        del p.takes
    with pytest.raises(ValueError, match="read-only"):
        p.takes[0].kind[0] = 3
    assert p == planned(four()) and hash(p) == hash(planned(four())) and p != planned(four(m=2), at=["n0"] * 8)
    assert p != "another" and repr(p) == "RecoveryPlan(version 43, 8 ranks: ranks 0-7: own node's memory)"


def test_wrong_calls():
    with pytest.raises(UsageError, match="needs ranks"):
        plan(merge([]), [], Homes((), np.zeros(0, np.int32)))
    with pytest.raises(UsageError, match="1 to 16777216"):
        plan(merge([]), [Candidate(NEW, 0)], homes(["n0"]))
    reports = four().reports()
    with pytest.raises(UsageError, match="Two nodes by the name of 'n0'"):
        merge([*reports, reports[0]])


@pytest.mark.parametrize(
    ("counts", "size", "m"),
    [([2, 2, 2, 2], 4, 1), ([2, 2, 2, 2], 4, 2), ([1] * 6, 6, 2), ([1] * 6, 3, 1), ([2, 2], 2, 1), ([2, 1, 3, 2], None, 1)],
)
def test_every_pattern_of_lost_nodes(counts, size, m):
    """Lost ranks come back on spare nodes; with up to m nodes lost, nothing is read from the global store."""
    every = [f"n{i}" for i in range(len(counts))]
    for lost in (c for n in range(len(every) + 1) for c in combinations(every, n)):
        world = World(counts)
        world.save(NEW, "memory", size, m)
        world.save(OLD, "local", size, m)
        at = [f"spare{node}" if node in lost else node for node in world.home]
        world.lose(lost)
        for new, old in ((False, False), (False, True), (True, True)):
            p = planned(world, new=new, old=old, at=at)
            candidates = [Candidate(NEW, world.ranks, (), new), Candidate(OLD, world.ranks, (), old)]
            assert as_told(p) == oracle(world, candidates, at), p.lines()
            if len(lost) <= m:
                assert p.version == NEW and p.counts()["global"] == p.counts()["move"] == 0
            assert RecoveryPlan.from_wire(p.to_wire()) == p
