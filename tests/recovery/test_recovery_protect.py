"""Parity at places: what it is, what is left when something fails, and that the channel outlives it."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest
from carry_support import Cluster, Net, QueueChannel, outcomes, protected, whole
from faults import Faults

from holdfast.catalog.places import PARITY_BLOCK
from holdfast.errors import DamageError, DeadlineError, RankError, StorageError, UsageError
from holdfast.format import digest
from holdfast.recovery.member import PlaceMember
from holdfast.recovery.protecting import protect
from holdfast.redundancy.sets import deal

MIB = 1 << 20


@pytest.mark.parametrize(
    ("homes", "size", "m"),
    [
        (["a", "b"], 2, 1),
        (["a", "b", "c"], 3, 1),
        (["a", "b", "c", "d"], 4, 2),
        (["a", "a", "b", "b", "c", "c", "d", "d"], 4, 1),
        (["a", "b", "c", "d", "e", "f"], 6, 3),
    ],
)
@pytest.mark.parametrize("per_node", [False, True])
def test_parity_is_what_it_must_be(tmp_path: Path, homes: list[str], size: int, m: int, per_node: bool) -> None:
    """Unequal sizes, no data at all on one rank; one process for each rank, or for each node."""
    cluster = Cluster(tmp_path, homes)
    version = cluster.hold(1, [0 if rank == 1 else 50_000 * rank + 1_000 for rank in range(len(homes))])
    processes = [sorted(set(homes)).index(node) for node in homes] if per_node else list(range(len(homes)))
    sets = deal(homes, size, m)
    assert cluster.protect(version, sets, m, processes) == [None] * (max(processes) + 1)
    protected(cluster, version, sets, m, homes)


def test_large_ones_of_several_parities(tmp_path: Path) -> None:
    """Chunks that end within the blocks that have digests: one block has the end of one parity, the beginning of the next."""
    homes = list("abcde")
    cluster = Cluster(tmp_path, homes)
    version = cluster.hold(1, [5 * MIB // 2 + 12_345, MIB, 0, 2 * MIB, 100])
    sets = [(0, 1, 2, 3, 4)]
    assert cluster.protect(version, sets, 3, [0, 1, 2, 3, 4]) == [None] * 5
    protected(cluster, version, sets, 3, homes)
    held = cluster.place("a", "memory").read_held(version, 0)
    assert held.set is not None and held.set.chunk % PARITY_BLOCK and held.set.parity_bytes > 3 * MIB
    place = cluster.place("a", "memory")
    parity = Path(place.store.location, place.parity_key(version, 0)).read_bytes()
    blocks = [parity[at : at + PARITY_BLOCK] for at in range(0, len(parity), PARITY_BLOCK)]
    assert held.set.parity == b"".join(map(digest, blocks))


def test_a_second_time(tmp_path: Path) -> None:
    """What an attempt has left that died is removed, and what is there is made anew."""
    homes = ["a", "b", "c"]
    cluster = Cluster(tmp_path, homes)
    version = cluster.hold(1, [10_000, 20_000, 30_000])
    place = cluster.place("b", "memory")
    place.store.create(place.parity_key(version, 1), 4096)  # neither finished nor removed
    for _ in range(2):
        assert cluster.protect(version, [(0, 1, 2)], 1, [0, 1, 2]) == [None] * 3
        protected(cluster, version, [(0, 1, 2)], 1, homes)


def test_no_room_on_one_node(tmp_path: Path) -> None:
    """All of the set learn it at once, nobody keeps a parity, the other set is protected, and the channel still serves."""
    homes = ["a", "b", "c", "d"]
    cluster = Cluster(tmp_path, homes)
    version = cluster.hold(1, [10_000] * 4)
    later = cluster.hold(2, [10_000] * 4)
    sets = [(0, 1), (2, 3)]
    net = Net(4)
    facts = {v: {r: cluster.member(v, r) for r in range(4)} for v in (version, later)}

    def call(of: str, process: int) -> None:
        place = cluster.place(homes[process], "memory")
        held = place.read_held(of, process)
        protect(QueueChannel(net, process), place, [held], sets, 1, list(range(4)), facts[of], 20.0)

    with Faults("error", errno=errno.ENOSPC, match=lambda c: c.name == "fallocate" and "/a/" in c.path) as faults:
        errors = outcomes(4, lambda process: call(version, process))
    assert faults.fired == 1
    assert isinstance(errors[0], StorageError) and "disk full" in str(errors[0])
    assert isinstance(errors[1], RankError) and errors[1].rank == 0 and "disk full" in str(errors[1])
    assert errors[2:] == [None, None]
    for rank in range(4):
        place = cluster.place(homes[rank], "memory")
        assert (whole(cluster, version, rank, homes[rank]).set is None) == (rank < 2)
        assert place.store.exists(place.parity_key(version, rank)) == (rank >= 2)
    assert outcomes(4, lambda process: call(later, process)) == [None] * 4
    protected(cluster, later, sets, 1, homes)


def test_damage_is_no_parity(tmp_path: Path) -> None:
    """A data file that has been cut: who has it says so, nobody keeps a parity of it."""
    cluster = Cluster(tmp_path, ["a", "b", "c"])
    version = cluster.hold(1, [10_000] * 3)
    place = cluster.place("b", "memory")
    path = Path(place.store.location, place.data_key(version, 1))
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1])
    errors = cluster.protect(version, [(0, 1, 2)], 1, [0, 1, 2])
    assert all(isinstance(error, DamageError) and error.file == place.data_key(version, 1) for error in errors)
    for rank, node in enumerate("abc"):
        place = cluster.place(node, "memory")
        assert not place.store.exists(place.parity_key(version, rank))
        assert not place.store.exists(place.protected_key(version, rank))
        assert place.store.exists(place.held_key(version, rank))


@pytest.mark.parametrize("at", range(1, 110, 3))
def test_any_call_that_fails(tmp_path: Path, at: int) -> None:
    """Whatever fails on one node: all learn it, nothing is proved that is not there, and the second try succeeds."""
    homes = ["a", "b", "c"]
    cluster = Cluster(tmp_path, homes)
    version = cluster.hold(1, [10_000, 0, 70_000])
    with Faults("error", at=at, errno=errno.EIO, match=lambda c: "/b/" in c.path and "/versions/" in c.path) as faults:
        errors = cluster.protect(version, [(0, 1, 2)], 1, [0, 1, 2])
    if faults.fired == 0:
        assert faults.count < at and errors == [None] * 3
    for rank, node in enumerate(homes):
        whole(cluster, version, rank, node)
    assert cluster.protect(version, [(0, 1, 2)], 1, [0, 1, 2]) == [None] * 3
    protected(cluster, version, [(0, 1, 2)], 1, homes)


def test_the_faults_reach_all_of_it(tmp_path: Path) -> None:
    """The numbers above are enough."""
    cluster = Cluster(tmp_path, ["a", "b", "c"])
    version = cluster.hold(1, [10_000, 0, 70_000])
    with Faults("count", match=lambda c: "/b/" in c.path and "/versions/" in c.path) as faults:
        assert cluster.protect(version, [(0, 1, 2)], 1, [0, 1, 2]) == [None] * 3
    assert 50 < faults.count < 109, faults.count


def test_a_member_that_stays_away(tmp_path: Path) -> None:
    """The others give up, and leave nothing."""
    cluster = Cluster(tmp_path, ["a", "b"])
    version = cluster.hold(1, [10_000] * 2)
    place = cluster.place("a", "memory")
    facts = {r: cluster.member(version, r) for r in range(2)}
    with pytest.raises(DeadlineError, match="protecting version 1"):
        protect(QueueChannel(Net(2), 0), place, [place.read_held(version, 0)], [(0, 1)], 1, [0, 1], facts, 0.2)
    assert not place.store.exists(place.parity_key(version, 0))
    assert whole(cluster, version, 0, "a").set is None


def test_records_that_are_missing(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, ["a", "b"])
    version = cluster.hold(1, [10_000] * 2)
    facts = {r: cluster.member(version, r) for r in range(2)}
    with pytest.raises(UsageError, match=r"ranks without: \[0\]"):
        protect(QueueChannel(Net(2), 0), cluster.place("a", "memory"), [], [(0, 1)], 1, [0, 1], facts, 1.0)


def test_parity_is_verified_when_it_is_read(tmp_path: Path) -> None:
    """A bit of any block, read as the first parity or across the end of a later one: file, byte and rank are told."""
    cluster = Cluster(tmp_path, list("abcd"))
    version = cluster.hold(1, [3 * MIB, 10, 10, 10])
    assert cluster.protect(version, [(0, 1, 2, 3)], 2, [0, 1, 2, 3]) == [None] * 4
    place = cluster.place("b", "memory")
    held = place.read_held(version, 1)
    assert held.set is not None
    chunk = held.set.chunk
    path = Path(place.store.location, place.parity_key(version, 1))
    good = path.read_bytes()

    def read_all() -> tuple[bytes, PlaceMember]:
        member = PlaceMember(place, version, cluster.member(version, 1), 2, chunk, held)
        pieces = {}
        for offset in range(0, chunk, MIB):
            for number in (0, 1):
                block = member.read(True, number, offset, min(MIB, chunk - offset))
                pieces[number, offset] = block.tobytes()
                member.release(block)
        member.close()
        return b"".join(pieces[key] for key in sorted(pieces)), member

    read, member = read_all()
    assert member.error is None and read == good
    path.chmod(0o600)
    for at in range(5, len(good), MIB // 2):
        bad = bytearray(good)
        bad[at] ^= 1
        path.write_bytes(bad)
        member = read_all()[1]
        assert isinstance(member.error, DamageError)
        assert (member.error.rank, member.error.offset) == (1, at // MIB * MIB)
        assert member.error.file == place.parity_key(version, 1)


def test_data_is_read_up_to_its_end_and_the_part_behind() -> None:
    """Each block into memory that is taken again. A file that was cut short is an error."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as top:
        cluster = Cluster(Path(top), list("ab"))
        version = cluster.hold(1, [3 * MIB + 5, 10])
        data, part = cluster.states[version, 0]
        place = cluster.place("a", "memory")
        held = place.read_held(version, 0)
        chunk = 4 * MIB
        member = PlaceMember(place, version, cluster.member(version, 0), 1, chunk, held)
        blocks = [member.read(False, 0, offset, MIB) for offset in range(0, 3 * MIB, MIB)]
        last = member.read(False, 0, 3 * MIB, 5 + len(part))
        assert b"".join(block.tobytes() for block in [*blocks, last]) == data + part
        for block in [*blocks, last]:
            member.release(block)
        again = member.read(False, 0, 3 * MIB, 5 + len(part))
        assert again.__array_interface__["data"] == last.__array_interface__["data"]  # the last to be given back
        path = Path(place.store.location, place.data_key(version, 0))
        path.chmod(0o600)
        os.truncate(path, 2 * MIB)
        member.read(False, 0, 2 * MIB, MIB)
        assert isinstance(member.error, DamageError) and member.unread is False
        member.abort()
