"""What a hostfile says, which nodes hold which ranks, and who takes a lost node's place."""

from __future__ import annotations

import pytest

from holdfast.errors import UsageError
from holdfast.supervisor.hosts import Host, Roster, Seat, adapt, choose, parse_hostfile


def hosts(*slots):
    return tuple(Host(f"n{i}", count) for i, count in enumerate(slots))


def placed(roster):
    return [(seat.host.name, seat.ranks) for seat in roster.used]


def names(found):
    return [host.name for host in found]


def test_open_mpis_and_mpichs_lines():
    text = (
        "# nodes\n\nn0 slots=2 # the first\n  n1:3\nn2\nuser@n3 slots=4 max_slots=8\nn2 slots=1\nfe80::1 max-slots=2\n"
    )
    assert parse_hostfile(text, "f") == (
        Host("n0", 2),
        Host("n1", 3),
        Host("n2", 2),
        Host("user@n3", 4),
        Host("fe80::1", 1),
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("n0 slots=two", "'two' is no number of slots"),
        ("n0:0", "'0' is no number of slots"),
        ("n0 slots=", "'' is no number"),
        ("n0 slot=2", "'slot=2' is not known"),
        ("slots=2", "is no node's name"),
        (":2", "is no node's name"),
        ("--oops", "is no node's name"),
    ],
)
def test_a_line_that_can_not_be_understood(line, said):
    with pytest.raises(UsageError, match="Line 2 of the hostfile my/hosts can't be understood") as raised:
        parse_hostfile(f"n9\n{line}\n", "my/hosts")
    assert said in str(raised.value)
    assert "Nothing was started" in str(raised.value)


def test_no_node_at_all():
    with pytest.raises(UsageError, match="names no node"):
        parse_hostfile("# none\n\n", "f")


def test_the_first_that_hold_the_ranks_are_used():
    found = choose(hosts(2, 2, 2, 2), 3, 1)
    assert placed(found) == [("n0", 2), ("n1", 1)]
    assert names(found.reserve) == ["n2", "n3"], "what is not needed can take a lost one's place too"
    assert found.text("openmpi") == "n0 slots=2\nn1 slots=1\n"
    assert found.text("mpich") == "n0:2\nn1:1\n"
    assert placed(choose(hosts(2, 2), 4, 0)) == [("n0", 2), ("n1", 2)]


@pytest.mark.parametrize(
    ("slots", "ranks", "spares", "said"),
    [
        ((2, 2), 5, 0, "5 ranks do not fit into the 4 slots of the hostfile. Nothing was started"),
        ((2, 2, 2), 5, 1, "5 ranks do not fit into the 4 slots of the hostfile besides the 1 spare node"),
        ((2, 2), 1, 2, "2 nodes of 2 can't be kept as spares"),
        ((1,), 1, 1, "1 node of 1 can't be kept as spares"),
    ],
)
def test_what_does_not_fit(slots, ranks, spares, said):
    with pytest.raises(UsageError, match=said):
        choose(hosts(*slots), ranks, spares)


def test_nothing_lost_nothing_changed():
    before = choose(hosts(1, 1, 1), 2, 1)
    assert adapt(before, set()) == (before, [])


def test_a_spare_takes_the_place_and_the_others_stay():
    after, told = adapt(choose(hosts(2, 2, 2, 1, 2), 6, 2), {"n1"})
    assert placed(after) == [("n0", 2), ("n4", 2), ("n2", 2)], "n3 has not slots enough"
    assert (names(after.reserve), names(after.lost)) == (["n3"], ["n1"])
    assert told == ["n1 is lost: n4 takes its place (ranks 2-3)"]


def test_a_spare_with_fewer_slots_is_better_than_none():
    after, told = adapt(choose(hosts(2, 2, 1), 4, 1), {"n0"})
    assert placed(after) == [("n2", 2), ("n1", 2)]
    assert told == ["n0 is lost: n2 takes its place (ranks 0-1); more ranks than slots: n2 holds 2 in 1"]


def test_a_spare_that_is_lost_too_is_not_taken():
    after, told = adapt(choose(hosts(1, 1, 1, 1), 2, 2), {"n0", "n2"})
    assert placed(after) == [("n3", 1), ("n1", 1)]
    assert names(after.lost) == ["n2", "n0"]
    assert told == ["n2, a spare, does not answer", "n0 is lost: n3 takes its place (rank 0)"]


def test_without_spares_the_ranks_are_dealt_over_what_remains():
    after, told = adapt(choose(hosts(2, 2, 4), 8, 0), {"n0"})
    assert placed(after) == [("n1", 3), ("n2", 5)]
    assert told == [
        "n0 is lost and no spare is left: the ranks are dealt over n1, n2; more ranks than slots: n1 holds 3 in 2, "
        "n2 holds 5 in 4"
    ]
    last, told = adapt(after, {"n0", "n2"})
    assert placed(last) == [("n1", 8)]
    assert names(last.lost) == ["n0", "n2"]


def test_one_spare_for_two_lost_nodes():
    after, told = adapt(choose(hosts(2, 2, 2, 2), 6, 1), {"n0", "n1"})
    assert placed(after) == [("n3", 3), ("n2", 3)]
    assert len(told) == 2


def test_a_node_that_comes_back_is_a_spare():
    after, _ = adapt(choose(hosts(1, 1, 1), 2, 1), {"n0"})
    back, told = adapt(after, set())
    assert (placed(back), names(back.reserve), back.lost) == ([("n2", 1), ("n1", 1)], ["n0"], ())
    assert told == ["n0 answers again: it is a spare now"]
    assert sorted(back.names) == ["n0", "n1", "n2"]


def test_when_no_node_is_left_they_stay():
    before = choose(hosts(1, 1), 2, 0)
    after, told = adapt(before, {"n0", "n1"})
    assert after == before
    assert told == ["none of the nodes answers: they stay as they are"]


def test_every_rank_keeps_a_place_whatever_is_lost():
    roster = choose(hosts(3, 1, 2, 2, 1), 6, 2)
    for silent in ({"n0"}, {"n0", "n3"}, {"n3", "n4", "n2"}, {"n1"}, {"n0", "n1", "n2", "n4"}):
        roster, _ = adapt(roster, silent)
        assert sum(seat.ranks for seat in roster.used) == 6
        assert not silent & {seat.host.name for seat in roster.used}
        assert sorted(roster.names) == ["n0", "n1", "n2", "n3", "n4"]


def test_a_roster_by_hand():
    roster = Roster((Seat(Host("a", 2), 2),), (Host("b", 1),), (Host("c", 1),))
    assert roster.names == ["a", "b", "c"]
