"""Messages: what comes back is what was sent, and what is damaged is refused, never believed."""

from __future__ import annotations

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recovery_support import World, homes, link

from holdfast.errors import DamageError
from holdfast.recovery import Candidate, NodeReport, RecoveryPlan, merge, plan
from holdfast.recovery.wire import MAX_RANKS, ints, parse_ints


def world() -> World:
    w = World([2, 3, 2, 1])
    for number in (2, 1):
        w.save(link(number), "memory", None, 1)
        w.save(link(number), "local", 2, 1)
    return w


def some_plan() -> RecoveryPlan:
    w = world()
    w.lose(["n1"])
    w.held["n3", "local", link(1)]["data"].clear()
    del w.held["n3", "memory", link(1)]
    candidates = [Candidate(link(3), 8), Candidate(link(2), 8, (link(1),)), Candidate(link(1), 8, (), True)]
    return plan(merge(w.reports()), candidates, homes(["n2", "n0", "n0", "n0", "x", "n2", "n2", "n3"]))


REPORT = world().reports()[1].to_wire()
PLAN = some_plan().to_wire()


@given(st.lists(st.integers(0, MAX_RANKS - 1), max_size=20), st.booleans())
def test_arrays(values, rising):
    array = np.array(sorted(set(values)) if rising else values, np.int32)
    sent = msgpack.unpackb(msgpack.packb(ints(array)))
    parsed = parse_ints(sent, rising=rising)
    assert parsed.dtype == np.int32 and parsed.tolist() == array.tolist()
    if len(array):
        with pytest.raises(ValueError):
            parse_ints(sent, int(array.max()))


def test_neighbours_take_no_room():
    assert len(msgpack.packb(ints(np.arange(100, 164, dtype=np.int32)))) == 6
    assert len(msgpack.packb(ints(np.arange(100, 164 * 15625, 15625, dtype=np.int32)))) < 340


@pytest.mark.parametrize(
    "value",
    [
        None, 5, "text", [], [1, 2, 3], [0, 0, 0, b""], [2, -1, 0, b""], [2, MAX_RANKS - 1, 0, b""], [1 << 40, 0, 0, b""],
        [2, 0, 0, b"1"], [2, 0, 1, b""], [2, 0, 1, b"\0"], [2, 0, 3, b"abc"], [3, 0, 2, b"\1\0\1\0"], [3, 0, 2, b"\1\0\1"],
        [2, 0, 4, b"\xff\xff\xff\xff"], [True, 0, 0, b""], [2, 0, 8, b"12345678"], b"abc", b"\0\0\0\0", b"\0\0\0\x80\0\0\0\0",
        b"\0\0\0\0\1\0\0\0", b"\0\0\0\1\0\0\0\0",
    ],
)  # fmt: skip
def test_other_arrays(value):
    with pytest.raises((ValueError, TypeError, KeyError)):
        parse_ints(value)


def test_reports_come_back():
    for report in world().reports():
        back = NodeReport.from_wire(report.to_wire())
        assert back.to_wire() == report.to_wire()
        assert (back.node, back.domain) == (report.node, report.domain)
        assert {p: sorted(v) for p, v in back.places.items()} == {p: sorted(v) for p, v in report.places.items()}
        for place, versions in report.places.items():
            for name, kept in versions.items():
                got = back.places[place][name]
                assert got.digest == kept.digest
                assert [a.tolist() for a in got[1:4]] == [a.tolist() for a in kept[1:4]]
                assert [(s.m, s.members.tolist()) for s in got.sets] == [(s.m, s.members.tolist()) for s in kept.sets]


def test_a_node_that_holds_nothing():
    empty = NodeReport("spare", "rack 2", {})
    assert NodeReport.from_wire(empty.to_wire()) == empty
    assert merge([empty]).domains == ("rack 2",)


@given(st.sampled_from([REPORT, PLAN]), st.data())
def test_damaged_messages(wire, data):
    """One byte changed, or an end cut off: refused as damage, or something else is said that is as well formed."""
    read = NodeReport.from_wire if wire == REPORT else RecoveryPlan.from_wire
    if data.draw(st.booleans()):
        with pytest.raises(DamageError):
            read(wire[: data.draw(st.integers(0, len(wire) - 1))])
        return
    at, bit = data.draw(st.integers(0, len(wire) - 1)), data.draw(st.integers(0, 7))
    changed = wire[:at] + bytes([wire[at] ^ 1 << bit]) + wire[at + 1 :]
    try:
        told = read(changed)
    except DamageError as error:
        assert "Nothing was changed" in str(error)
    else:
        assert read(told.to_wire()).to_wire() == told.to_wire()
        if isinstance(told, RecoveryPlan):
            assert told.lines() and told.to_body()


@given(st.binary(max_size=60))
def test_anything_else(data):
    for read in (NodeReport.from_wire, RecoveryPlan.from_wire):
        with pytest.raises(DamageError):
            read(data)


def leaves(value, path=()):
    """Ways to all parts of a message, itself among them."""
    yield path
    if isinstance(value, list):
        for i, part in enumerate(value):
            yield from leaves(part, (*path, i))


@pytest.mark.parametrize("wire", [REPORT, PLAN], ids=["report", "plan"])
def test_every_part_is_checked(wire):
    """Each part of a message replaced by something that never stands there."""
    body = msgpack.unpackb(wire)
    read = NodeReport.from_wire if wire == REPORT else RecoveryPlan.from_wire
    paths = list(leaves(body))
    assert len(paths) > 60
    for path in paths:
        for wrong in (1 << 50, 1.5, {"a": 1}, -1):
            other = msgpack.unpackb(wire)
            if path:
                inner = other
                for step in path[:-1]:
                    inner = inner[step]
                inner[path[-1]] = wrong
            else:
                other = wrong
            with pytest.raises(DamageError):
                read(msgpack.packb(other))


def test_a_plan_that_contradicts_itself():
    """What is rebuilt must be in one set's work, and a place must have a source that is in one."""
    def change(how):
        body = msgpack.unpackb(PLAN)
        how(body)
        with pytest.raises(DamageError, match="malformed"):
            RecoveryPlan.from_wire(msgpack.packb(body))

    take = msgpack.unpackb(PLAN)[2][0]
    assert 2 in take[4] and take[7], "the plan has something to rebuild"
    change(lambda body: body[2][0][7].clear())
    change(lambda body: body[2][0][7].append(body[2][0][7][0]))
    change(lambda body: body[2][0].__setitem__(4, bytes(len(take[4]))))
    change(lambda body: body[1].insert(0, "zz"))
    change(lambda body: body[1].append(body[1][-1]))


@pytest.mark.parametrize(("kind", "place"), [(0, 2), (0, 3), (3, 0), (3, 3), (1, 0), (4, 0), (4, 2)])
def test_a_source_without_its_place(kind, place):
    """Own node or global store, but at a place that isn't one; moved, but from nowhere; no source at all."""
    w = world()
    body = msgpack.unpackb(plan(merge(w.reports()), [Candidate(link(2), 8)], homes(w.home)).to_wire())
    take = body[2][0]
    assert (take[4], take[5]) == (b"\0", b"\0"), "one run of ranks, all with their own node's memory"
    take[4], take[5] = bytes([kind]), bytes([place])
    with pytest.raises(DamageError, match="malformed"):
        RecoveryPlan.from_wire(msgpack.packb(body))


def test_a_report_that_contradicts_itself():
    def change(how):
        body = msgpack.unpackb(REPORT)
        how(body)
        with pytest.raises(DamageError, match="malformed"):
            NodeReport.from_wire(msgpack.packb(body))

    body = msgpack.unpackb(REPORT)
    m, columns = body[3][0][0]
    assert m == 1
    change(lambda b: b[3][0][0].__setitem__(0, 0))
    change(lambda b: b[3][0][0].__setitem__(0, len(columns)))
    change(lambda b: b[3][0][0].__setitem__(1, [columns[0], columns[0]]))  # a rank twice in a set
    change(lambda b: b[3][0][0].__setitem__(1, [columns[0]] * 200))
    change(lambda b: b[4].append(b[4][0]))  # a version twice
    change(lambda b: b[4][0].__setitem__(1, "../etc"))
    change(lambda b: b.__setitem__(1, ""))
