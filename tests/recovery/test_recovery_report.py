"""A node's report says what its places hold, as real places have it; what is damaged is left out and told."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "places"))

from places_support import FIRST, OTHER_RUN, RUN, SECOND, held_for, noise, put, with_set, write

from holdfast.catalog.commits import Commit
from holdfast.catalog.places import Place, open_place
from holdfast.errors import UsageError
from holdfast.format import Link, encode_record, parse_version
from holdfast.recovery import Candidate, Homes, Kept, NodeReport, merge, plan, report


def commit(place: Place, version: str, ranks: int = 4) -> tuple[str, bytes]:
    """A commit record for the version at the place: (its digest, its file)."""
    number, attempt = parse_version(version) or (0, 0)
    record, digest = Commit(
        "checkpoint", number, attempt, None, None, None, {}, False, "every", ranks, 1, 1000, 1.5, 0.1, 100, "0" * 32
    ).encode()
    place.put_commit(version, record)
    return digest, record


@pytest.fixture
def memory(tmp_path: Path) -> Place:
    return open_place("memory", str(tmp_path), RUN, create=True)


@pytest.fixture
def local(tmp_path: Path) -> Place:
    (tmp_path / "disk").mkdir(mode=0o700)
    return open_place("local", str(tmp_path / "disk"), RUN, create=True)


def spoil(place: Place, key: str, change: Callable[[bytes], bytes]) -> None:
    path = Path(place.store.location, key)
    path.chmod(0o600)
    path.write_bytes(change(path.read_bytes()))


def flip(data: bytes) -> bytes:
    return data[:3] + bytes([data[3] ^ 1]) + data[4:]


def lists(kept: Kept) -> tuple[list[int], list[int], list[int]]:
    return kept.data.tolist(), kept.part.tolist(), kept.parity.tolist()


def sets(kept: Kept) -> list[tuple[int, list[list[int]]]]:
    return [(s.m, s.members.tolist()) for s in kept.sets]


def test_nothing(memory: Place) -> None:
    assert report("n0", "rack", []) == (NodeReport("n0", "rack", {}), {}, [])
    assert report("n0", "rack", [memory]) == (NodeReport("n0", "rack", {}), {}, [])


def test_what_is_there(memory: Place, local: Place) -> None:
    for rank in (2, 0):
        put(memory, FIRST, rank, m=0)
        put(memory, SECOND, rank, m=1)
        put(local, FIRST, rank, m=2)
    digests = {commit(place, FIRST) for place in (memory, local)} | {commit(memory, SECOND)}
    assert len(digests) == 2
    told, commits, notes = report("n0", "rack", [local, memory])
    assert (told.node, told.domain, notes) == ("n0", "rack", [])
    assert commits == dict(digests)
    assert {place: sorted(versions) for place, versions in told.places.items()} == {
        "memory": [FIRST, SECOND], "local": [FIRST]
    }  # fmt: skip
    first, second, third = (told.places["memory"][FIRST], told.places["memory"][SECOND], told.places["local"][FIRST])
    assert lists(first) == ([0, 2], [0, 2], []) and sets(first) == []
    assert lists(second) == lists(third) == ([0, 2], [0, 2], [0, 2])
    assert sets(second) == [(1, [[0, 1, 2, 3], [2, 3, 0, 1]])]  # as each of the two tells it
    assert sets(third) == [(2, [[0, 1, 2, 3], [2, 3, 0, 1]])]
    assert commits[first.digest] == memory.read_commit(FIRST) and commits[second.digest] == memory.read_commit(SECOND)
    again = NodeReport.from_wire(told.to_wire())
    assert again.to_wire() == told.to_wire() and lists(again.places["memory"][SECOND]) == lists(second)


def test_a_set_that_several_tell_is_told_once(memory: Place) -> None:
    data, part = noise(9000), noise(100)
    helds = {rank: held_for(FIRST, rank, data, part) for rank in range(3)}
    one = with_set(helds[0], 1, [(9000, 100)] * 2)[0].set
    assert one is not None
    members = tuple(m._replace(part_digest=helds[0].part_digest) for m in one.members)
    for rank, held in helds.items():
        write(memory, memory.data_key(FIRST, rank), data)
        write(memory, memory.parity_key(FIRST, rank), noise(one.parity_bytes))
        memory.put_held(held._replace(set=one._replace(members=members)), part)
    commit(memory, FIRST)
    kept = report("n0", "rack", [memory])[0].places["memory"][FIRST]
    assert sets(kept) == [(1, [[0, 1, 2]])] and lists(kept) == ([0, 1, 2],) * 3


def test_without_a_commit_a_version_was_never_finished(memory: Place) -> None:
    put(memory, FIRST, 0)
    put(memory, SECOND, 0)
    commit(memory, FIRST)
    told, commits, notes = report("n0", "rack", [memory])
    assert list(told.places["memory"]) == [FIRST] and len(commits) == 1 and notes == []


def test_a_commit_without_files_is_still_a_commit(memory: Place) -> None:
    digest, record = commit(memory, FIRST)
    assert report("n0", "rack", [memory]) == (NodeReport("n0", "rack", {}), {digest: record}, [])


@pytest.mark.parametrize(
    ("which", "change", "left"),
    [
        ("data", lambda data: data[:-1], ([0, 2], [0, 1, 2], [0, 1, 2])),
        ("part", flip, ([0, 1, 2], [0, 2], [0, 1, 2])),
        ("parity", lambda data: data + b"x", ([0, 1, 2], [0, 1, 2], [0, 2])),
        ("protected", lambda data: b"?", ([0, 1, 2], [0, 1, 2], [0, 2])),
    ],
    ids=["data", "part", "parity", "protected"],
)
def test_what_is_damaged_is_left_out_and_told(
    memory: Place, which: str, change: Callable[[bytes], bytes], left: tuple[list[int], list[int], list[int]]
) -> None:
    for rank in range(3):
        put(memory, FIRST, rank)
    commit(memory, FIRST)
    key = f"versions/{FIRST}/{which}/r000001"
    spoil(memory, key, change)
    told, _, notes = report("n0", "rack", [memory])
    assert lists(told.places["memory"][FIRST]) == left
    assert len(notes) == 1 and key in notes[0] and notes[0].startswith("memory of n0: ")
    rows = [row for _, members in sets(told.places["memory"][FIRST]) for row in members]
    assert ([1, 2, 3, 0] in rows) is (which != "protected")  # who lost its parity is a member all the same


def test_both_records_damaged(memory: Place) -> None:
    for rank in range(2):
        put(memory, FIRST, rank)
    commit(memory, FIRST)
    for key in (memory.held_key(FIRST, 0), memory.protected_key(FIRST, 0)):
        spoil(memory, key, lambda data: data[:40])
    told, _, notes = report("n0", "rack", [memory])
    assert lists(told.places["memory"][FIRST]) == ([1], [1], [1])
    assert len(notes) == 1


def test_data_and_part_lost_parity_left(memory: Place) -> None:
    put(memory, FIRST, 0)
    commit(memory, FIRST)
    memory.store.delete(memory.data_key(FIRST, 0))
    memory.store.delete(memory.part_key(FIRST, 0))
    told, _, notes = report("n0", "rack", [memory])
    assert lists(told.places["memory"][FIRST]) == ([], [], [0]) and len(notes) == 2


def test_a_damaged_commit(memory: Place) -> None:
    """One line of it does no harm, and what is handed on is whole; without either, nobody knows which version that is."""
    put(memory, FIRST, 0)
    put(memory, SECOND, 0)
    digest, record = commit(memory, FIRST)
    commit(memory, SECOND)
    spoil(memory, memory.commit_key(FIRST), flip)
    spoil(memory, memory.commit_key(SECOND), lambda data: data[: len(data) // 3])
    told, commits, notes = report("n0", "rack", [memory])
    assert list(told.places["memory"]) == [FIRST] and commits == {digest: record}
    assert len(notes) == 2 and SECOND in notes[0] and "two lines" in notes[1]


def test_anothers_commit_under_this_name(memory: Place) -> None:
    put(memory, FIRST, 0)
    other = commit(memory, SECOND)[1]
    memory.store.put(memory.commit_key(FIRST), other)
    told, commits, notes = report("n0", "rack", [memory])
    assert told.places == {} and len(commits) == 1
    assert len(notes) == 1 and "another version" in notes[0]


def test_records_of_another_run_or_number_of_ranks(memory: Place) -> None:
    put(memory, FIRST, 0, m=0)
    put(memory, FIRST, 2, m=0, ranks=5)
    put(memory, FIRST, 1, m=0)
    commit(memory, FIRST)
    key = memory.held_key(FIRST, 1)
    held = memory.read_held(FIRST, 1)
    memory.store.delete(key)
    memory.store.put(key, encode_record(held._replace(run=OTHER_RUN).to_body())[0])
    told, _, notes = report("n0", "rack", [memory])
    assert lists(told.places["memory"][FIRST]) == ([0], [0], [])
    assert len(notes) == 2 and "another run" in notes[0] and "5 ranks" in notes[1]


def test_a_set_too_large_to_plan_with(memory: Place) -> None:
    put(memory, FIRST, 0, 2000, ranks=129)
    commit(memory, FIRST, 129)
    told, _, notes = report("n0", "rack", [memory])
    assert told.places == {} and len(notes) == 1 and "129" in notes[0]


def test_what_is_excluded(memory: Place, local: Place) -> None:
    for place in (memory, local):
        for rank in range(2):
            put(place, FIRST, rank)
            put(place, SECOND, rank)
        commit(place, FIRST)
        commit(place, SECOND)
    told, commits, notes = report("n0", "rack", [memory, local], [("memory", FIRST, 1), ("local", SECOND, 3)])
    assert lists(told.places["memory"][FIRST]) == ([0], [0], [0])
    for place, version in (("memory", SECOND), ("local", FIRST), ("local", SECOND)):
        assert lists(told.places[place][version]) == ([0, 1],) * 3
    assert len(notes) == 1 and "rank 1" in notes[0] and len(commits) == 2
    assert [1, 2, 3, 0] in sets(told.places["memory"][FIRST])[0][1]  # it is still a member of its set


def test_a_place_that_can_not_be_listed(memory: Place, local: Place) -> None:
    put(memory, FIRST, 0)
    commit(memory, FIRST)
    os.rename(f"{memory.store.location}/versions", f"{memory.store.location}/kept")
    Path(f"{memory.store.location}/versions").write_text("no directory")
    put(local, FIRST, 0)
    commit(local, FIRST)
    told, _, notes = report("n0", "rack", [memory, local])
    assert list(told.places) == ["local"] and len(notes) == 1 and "versions" in notes[0]


def test_two_places_of_one_kind(memory: Place) -> None:
    with pytest.raises(UsageError, match="two places"):
        report("n0", "rack", [memory, memory])


def test_a_plan_from_reports(tmp_path: Path) -> None:
    """Two of three nodes are left: the third's rank is rebuilt by its set."""
    data, part = noise(9000), noise(100)
    helds = [held_for(FIRST, rank, data, part, ranks=3) for rank in range(3)]
    told, links = [], set()
    for rank in range(2):
        (tmp_path / f"n{rank}").mkdir(mode=0o700)
        place = open_place("memory", str(tmp_path / f"n{rank}"), RUN, create=True)
        one = with_set(helds[0], 1, [(9000, 100)] * 2)[0].set
        assert one is not None
        members = tuple(m._replace(part_digest=helds[0].part_digest) for m in one.members)
        write(place, place.data_key(FIRST, rank), data)
        write(place, place.parity_key(FIRST, rank), noise(one.parity_bytes))
        place.put_held(helds[rank]._replace(set=one._replace(members=members)), part)
        links.add(Link(FIRST, commit(place, FIRST, 3)[0]))
        found, _, notes = report(f"n{rank}", f"n{rank}", [place])
        assert notes == []
        told.append(NodeReport.from_wire(found.to_wire()))
    (link,) = links
    made = plan(merge(told), [Candidate(link, 3)], Homes(("n0", "n1"), np.array([0, 1, 0], np.int32)))
    assert [made.source(rank).kind for rank in range(3)] == ["own", "own", "rebuild"]
    assert made.source(2).members == (0, 1, 2)
