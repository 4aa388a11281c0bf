"""Who of the crew's spares is gone, and who of them no quorum has to count."""

from __future__ import annotations

import os

from holdfast.group.repair.machine import NO_ROLE
from holdfast.group.repair.members import Member, Members, _node, _start
from holdfast.health.processes import look


def crew() -> Members:
    """Two ranks and three spares, the last of them on another node, where the same pids mean others."""
    roles = (0, 1, NO_ROLE, NO_ROLE, NO_ROLE)
    nodes = (7, 7, 7, 7, 8)
    pids = (10, 11, 12, 13, 12)
    return Members(tuple(Member(pids[i], 5, nodes[i], f"n{nodes[i]}", i - 2, roles[i]) for i in range(5)))


def test_what_mpi_says_is_counted_but_never_counted_out() -> None:
    members = crew()
    assert (members.spares, members.dead_bits) == (3, 0)
    assert [one.number for one in members.lose([1, 4])] == [2]  # ranks are replaced, and not counted here
    assert members.lose([1, 4]) == frozenset()
    assert (members.spares, members.dead_bits) == (2, 0)


def test_what_its_node_has_seen_is_counted_out() -> None:
    members = crew()
    members.count_out(12, 5, 7)
    members.count_out(12, 6, 7)  # another process that has its pid
    members.count_out(11, 5, 7)  # a rank
    assert (members.spares, members.dead_bits) == (2, 0b001)
    assert [one.number for one in members.lose([2])] == []  # MPI tells of it later
    members.count_out(12, 5, 8)
    assert (members.spares, members.dead_bits) == (1, 0b101)


def test_a_confirmed_crew_begins_anew() -> None:
    members = crew()
    members.count_out(12, 5, 7)
    members.take([0, 3, 4], [0, 1, NO_ROLE])
    assert [(one.pid, one.role) for one in members.now] == [(10, 0), (13, 1), (12, NO_ROLE)]
    assert (members.spares, members.dead_bits) == (1, 0)
    members.count_out(12, 5, 8)
    assert (members.spares, members.dead_bits) == (0, 0b100)  # by its number of the beginning


def test_this_process_is_known_as_health_knows_it() -> None:
    assert _start() == look(os.getpid()).start > 0
    assert _node() == _node() and -(1 << 63) <= _node() < 1 << 63
