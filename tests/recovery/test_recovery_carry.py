"""Plans carried out: whatever is lost or moved, every rank's bytes are at its node again, protected, and proved by a commit."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from carry_support import Cluster, Net, interfered, whole
from faults import Faults

from holdfast.errors import DamageError, DeadlineError, RankError, StorageError, UsageError
from holdfast.recovery import Carried, SourceError
from holdfast.recovery.moving import BLOCK, in_rounds

FOUR_BY_TWO = ["a", "a", "b", "b", "c", "c", "d", "d"]
STRIDE = int(os.environ.get("RECOVERY_FAULT_STRIDE", "21"))  # every call of a node with 1, which takes minutes
SIZES = [30_000, 0, 12_345, 70_000, 100, 50_000, 4_096, 8_000]


@pytest.fixture(scope="module")
def root_factory() -> Iterator[Callable[[], Path]]:
    """New directories for nodes: in memory where there is some, since all is made durable file by file."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as top:
        yield lambda: Path(tempfile.mkdtemp(dir=top))


@pytest.fixture
def root(root_factory: Callable[[], Path]) -> Iterator[Path]:
    path = root_factory()
    yield path
    shutil.rmtree(path)


def damage(path: Path, at: int | None = None) -> None:
    """A flipped bit, or the last byte cut off."""
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    if at is None:
        del data[-1]
    else:
        data[at] ^= 4
    path.write_bytes(data)


def total(carried: list[Carried], what: str) -> int:
    return sum(getattr(one, what) for one in carried)


# -- what is lost, and comes back --------------------------------------------------------------


@pytest.mark.parametrize("per_node", [False, True])
def test_nothing_lost(root: Path, per_node: bool) -> None:
    cluster = Cluster(root, FOUR_BY_TWO)
    cluster.save(1, SIZES)
    made, carried = cluster.recover(FOUR_BY_TWO, per_node)
    assert carried == [Carried(())] * len(carried) and made.counts()["own"] == 8


@pytest.mark.parametrize("per_node", [False, True])
@pytest.mark.parametrize("node", "abcd")
def test_a_node_lost(root: Path, node: str, per_node: bool) -> None:
    """Another takes its place, of another name: its ranks are rebuilt there, and their parities."""
    cluster = Cluster(root, FOUR_BY_TWO)
    cluster.save(1, SIZES)
    cluster.lose(node)
    homes = ["spare" if home == node else home for home in FOUR_BY_TWO]
    made, carried = cluster.recover(homes, per_node)
    assert made.counts()["rebuild"] == 2
    lost = [r for r, home in enumerate(FOUR_BY_TWO) if home == node]
    version = made.takes[0].link.name
    assert sorted(itertools.chain(*(one.brought for one in carried))) == [(version, r) for r in lost]
    state = sum(len(x) for r in lost for x in cluster.states[version, r])
    parity = sum(whole(cluster, version, r, "spare").set.parity_bytes for r in lost)  # type: ignore[union-attr]
    assert total(carried, "rebuilt") == state + parity and total(carried, "moved") == 0
    assert whole(cluster, version, lost[0], "spare").domain == "spare"


@pytest.mark.parametrize("per_node", [False, True])
@pytest.mark.parametrize("lost", list(itertools.combinations("abcd", 2)))
def test_m_nodes_lost(root: Path, lost: tuple[str, str], per_node: bool) -> None:
    """rs(4, 2): any two, which one spare node and one of the others take over."""
    cluster = Cluster(root, ["a", "b", "c", "d"])
    cluster.save(1, [30_000, 0, 12_345, 70_000], m=2)
    cluster.lose(*lost)
    left = next(node for node in "abcd" if node not in lost)
    homes = [{lost[0]: "spare", lost[1]: left}.get(home, home) for home in "abcd"]
    made, _ = cluster.recover(homes, per_node)
    assert made.counts()["rebuild"] == 2


@pytest.mark.parametrize("per_node", [False, True])
def test_ranks_permuted(root: Path, per_node: bool) -> None:
    """All streams and parities move with their ranks."""
    cluster = Cluster(root, FOUR_BY_TWO)
    cluster.save(1, SIZES)
    homes = ["d", "c", "b", "a", "a", "b", "c", "d"]
    made, carried = cluster.recover(homes, per_node)
    assert made.counts() == {"own": 0, "move": 8, "rebuild": 0, "global": 0} or made.counts()["move"] >= 6
    assert total(carried, "moved") > sum(SIZES) / 2 and total(carried, "rebuilt") == 0


def test_permuted_and_lost(root: Path) -> None:
    cluster = Cluster(root, FOUR_BY_TWO)
    cluster.save(1, SIZES)
    cluster.lose("b")
    made, _ = cluster.recover(["d", "c", "e", "a", "a", "e", "c", "d"])
    assert made.counts()["rebuild"] == 2 and made.counts()["move"] > 0


def test_all_on_other_nodes(root: Path) -> None:
    """The nodes that hold everything have no ranks now, but processes."""
    cluster = Cluster(root, ["a", "b", "c"])
    cluster.save(1, [9_000, 20_000, 0])
    made, carried = cluster.recover(["x", "y", "z"])
    assert made.counts()["move"] == 3 and len(carried) == 6 and carried[3:] == [Carried(())] * 3


@pytest.mark.parametrize("lost", [(0,), (2, 3), (0, 1, 2, 3)])
def test_parity_alone_is_lost(root: Path, lost: tuple[int, ...]) -> None:
    """Also all of it, as when a job died before it was computed for some: what the others' records tell is enough."""
    cluster = Cluster(root, ["a", "b", "c", "d"])
    version = cluster.save(1, [30_000, 0, 12_345, 70_000], m=2).link.name
    for rank in lost:
        place = cluster.place("abcd"[rank], "memory")
        place.store.delete(place.parity_key(version, rank))
    made, carried = cluster.recover(list("abcd"))
    assert made.counts()["own"] == 4 and total(carried, "moved") == 0
    assert [one.brought for one in carried] == [()] * 4


def test_versions_that_refer_to_others(root: Path) -> None:
    """The version and those whose data it needs: all of them come, the oldest first."""
    cluster = Cluster(root, FOUR_BY_TWO)
    first = cluster.save(1, SIZES).link
    second = cluster.save(2, [n // 2 for n in SIZES], refs=(first,)).link
    cluster.save(3, [n // 3 for n in SIZES], refs=(second, first))
    cluster.lose("c")
    lines: list[str] = []
    homes = ["spare" if home == "c" else home for home in FOUR_BY_TWO]
    made = cluster.plan(homes)
    assert all(isinstance(one, Carried) for one in cluster.carry(made, homes, tell=lines.append))
    assert len(made.takes) == 3
    cluster.complete(made, homes)
    order = [line.split(",")[0] for line in lines if "rank 4:" in line]
    assert order == ["version 1"] * 2 + ["version 2"] * 2 + ["version 3"] * 2


def test_another_number_of_ranks(root: Path) -> None:
    """Rank r of 4 belongs to where rank r · 2 // 4 runs now."""
    cluster = Cluster(root, ["a", "b", "c", "d"])
    cluster.save(1, [9_000, 20_000, 0, 400])
    made, _ = cluster.recover(["b", "e"])
    assert made.counts()["move"] == 3  # rank 1 is where it was


def test_large_streams(root: Path) -> None:
    """More than the blocks under way; parities that don't end at a block."""
    cluster = Cluster(root, ["a", "b", "c", "d"])
    cluster.save(1, [2 * BLOCK + 777, 3 * BLOCK + 1, 5_000, BLOCK], m=2)
    cluster.lose("b")
    cluster.recover(["c", "x", "a", "d"])


def test_what_the_global_store_has(root: Path) -> None:
    """More lost than can be rebuilt: the others stay and move, no parity is computed without the lost streams."""
    cluster = Cluster(root, ["a", "b", "c", "d"])
    version = cluster.save(1, [9_000, 20_000, 0, 400], stored=True).link.name
    cluster.lose("a", "b")
    homes = ["x", "y", "d", "c"]
    made = cluster.plan(homes)
    assert made.counts() == {"own": 0, "move": 2, "rebuild": 0, "global": 2}
    assert all(isinstance(one, Carried) for one in cluster.carry(made, homes))
    for rank, node in ((2, "d"), (3, "c")):
        assert whole(cluster, version, rank, node).set is not None
    assert cluster.place("x", "memory").read_commit(version) is None
    assert cluster.plan(homes).counts() == {"own": 2, "move": 0, "rebuild": 0, "global": 2}


def test_memory_lost_and_the_directory_left(root: Path) -> None:
    """A node that was started anew has its local directory: parity in memory needs the stream there too."""
    cluster = Cluster(root, ["a", "b", "c"])
    cluster.kinds = ("memory", "local")
    version = cluster.save(1, [9_000, 20_000, 0]).link.name
    cluster.hold(1, [9_000, 20_000, 0], "local")
    for node in "abc":
        cluster.place(node, "local").put_commit(version, cluster.records[version])
    memory = cluster.place("b", "memory")
    memory.remove(version)
    made, carried = cluster.recover(["a", "b", "c"])
    assert made.source(1)[:2] == ("own", "local")
    assert [(d.what, d.how) for d in carried[1].done] == [("stream", "copied"), ("parity", "rebuilt")]


def test_no_redundancy(root: Path) -> None:
    cluster = Cluster(root, ["a", "a", "b"])
    cluster.save(1, [9_000, 20_000, 0], m=0)
    made, carried = cluster.recover(["b", "a", "a"])
    assert made.counts()["move"] == 2
    assert [(d.rank, d.how) for one in carried for d in one.done] == [(0, "moved"), (2, "moved")]


# -- what is left of earlier attempts ----------------------------------------------------------


def test_half_written_files(root: Path) -> None:
    """Data without a record, and records of it all without a commit, at the rank's new home."""
    cluster = Cluster(root, ["a", "b", "c", "d"])
    version = cluster.save(1, [9_000, 20_000, 0, 5_000]).link.name
    cluster.lose("b")
    place = cluster.place("x", "memory")
    place.store.create(place.data_key(version, 1), 70_000)
    place.store.create(place.parity_key(version, 1), 4_096)
    other = cluster.place("y", "memory")
    with other.store.create(other.data_key(version, 2), 0) as writer:
        writer.finish()
    other.put_held(cluster.held(version, 2, 4, "y"), cluster.states[version, 2][1])
    cluster.recover(["a", "x", "y", "d"])


def test_another_commit_at_home(root: Path) -> None:
    """What lies there under the version's name is another's, and goes, with its commit."""
    cluster = Cluster(root, ["a", "b", "c"])
    version = cluster.save(1, [9_000, 20_000, 0]).link.name
    strange = Cluster(root / "other", ["x"])
    strange.root = root
    strange.hold(1, [50_000])
    strange.commit(version, ("memory",))
    cluster.lose("a")
    made, _ = cluster.recover(["x", "b", "c"])
    assert made.notes


def test_a_commit_that_is_damaged(root: Path) -> None:
    cluster = Cluster(root, ["a", "b", "c"])
    version = cluster.save(1, [9_000, 20_000, 0]).link.name
    place = cluster.place("b", "memory")
    path = Path(place.store.location, place.commit_key(version))
    path.chmod(0o600)
    path.write_bytes(b"nothing\n")
    made, _ = cluster.recover(["a", "b", "c"])
    assert made.counts()["rebuild"] == 1


# -- what can't be read ------------------------------------------------------------------------


def sources(outcomes: list[Any]) -> set[tuple[str, str, str, int]]:
    """(node, kind, version, rank) of what could not be read, for the next plan."""
    named = [error.source for error in outcomes if isinstance(error, SourceError)]
    assert all(source is not None for source in named)
    return {(s.node, s.place, s.version, s.rank) for s in named}


def test_damaged_parity(root: Path) -> None:
    """Found by its digest before anything is proved; the next plan goes without it, over the same channel."""
    cluster = Cluster(root, ["a", "b", "c", "d"])
    version = cluster.save(1, [9_000, 20_000, 0, 30_000], m=2).link.name
    cluster.lose("a")
    place = cluster.place("c", "memory")
    damage(Path(place.store.location, place.parity_key(version, 2)), 17)
    homes, net = ["x", "b", "c", "d"], Net(4)
    outcomes = cluster.carry(cluster.plan(homes), homes, net=net)
    assert all(isinstance(error, SourceError) for error in outcomes), outcomes
    assert {(e.rank, e.version, e.file, e.source.parity) for e in outcomes} == {
        (2, 1, place.parity_key(version, 2), True)
    }
    assert "memory of c" in str(outcomes[0])
    exclude = sources(outcomes)
    assert exclude == {("c", "memory", version, 2)}
    assert not cluster.place("x", "memory").ranks(version)
    made = cluster.plan(homes, tuple(exclude))
    assert made.counts()["rebuild"] == 2
    assert all(isinstance(one, Carried) for one in cluster.carry(made, homes, net=net))
    cluster.complete(made, homes)


@pytest.mark.parametrize("what", ["data", "part"])
def test_a_source_that_went_bad_after_the_plan(root: Path, what: str) -> None:
    """A stream to be moved: sender and receiver know it, all else is done."""
    cluster = Cluster(root, ["a", "b", "c"])
    version = cluster.save(1, [9_000, 20_000, 0]).link.name
    homes = ["b", "a", "c"]
    made = cluster.plan(homes)
    place = cluster.place("a", "memory")
    key = place.data_key(version, 0) if what == "data" else place.part_key(version, 0)
    damage(Path(place.store.location, key))
    outcomes = cluster.carry(made, homes)
    assert sources(outcomes) == {("a", "memory", version, 0)}
    assert isinstance(outcomes[0], SourceError) and outcomes[0].source.node == "a"
    whole(cluster, version, 1, "a")
    again = cluster.plan(homes, (("a", "memory", version, 0),))
    assert again.source(0).kind == "rebuild"
    assert all(isinstance(one, Carried) for one in cluster.carry(again, homes))
    cluster.complete(again, homes)


def test_a_read_that_fails_in_the_middle(root: Path) -> None:
    """The sender goes on with nothing, and nothing of it is proved."""
    cluster = Cluster(root, ["a", "b"])
    version = cluster.save(1, [3 * BLOCK, 10]).link.name
    homes = ["x", "b"]
    made, net = cluster.plan(homes), Net(3)

    def third_block(call: Any) -> bool:
        return (
            call.name in ("pread", "pread_cached")
            and "/a/" in call.path
            and "/data/" in call.path
            and call.offset == 2 * BLOCK
        )

    with Faults("error", errno=errno.EIO, match=third_block) as faults:
        outcomes = cluster.carry(made, homes, net=net)
    assert faults.fired
    assert sources(outcomes) == {("a", "memory", version, 0)}
    assert cluster.place("x", "memory").ranks(version) == []
    assert all(isinstance(one, Carried) for one in cluster.carry(made, homes, net=net))
    cluster.complete(made, homes)


def test_members_that_do_not_agree(root: Path) -> None:
    """A rank's record is of another stream than the set's: the parity is no use, and all say so."""
    cluster = Cluster(root, ["a", "b", "c"])
    version = cluster.save(1, [9_000, 20_000, 0]).link.name
    place = cluster.place("b", "memory")
    place.forget(version, 1)
    part = b"another"
    with place.store.create(place.data_key(version, 1), 5) as writer:
        writer.write(0, b"12345")
        writer.finish()
    cluster.states[version, 1] = (b"12345", part)
    place.put_held(cluster.held(version, 1, 3, "b"), part)
    outcomes = cluster.carry(cluster.plan(list("abc")), list("abc"))
    assert all(isinstance(error, DamageError) and "do not agree" in str(error) for error in outcomes)


# -- what fails here and now -------------------------------------------------------------------


def test_no_room_at_home(root: Path) -> None:
    """Who has none says so, the others learn it, what else can be done is done, and the channel serves again."""
    cluster = Cluster(root, FOUR_BY_TWO)
    version = cluster.save(1, SIZES).link.name
    cluster.lose("b")
    homes, net = ["d", "a", "e", "e", "c", "c", "a", "d"], Net(9)
    made = cluster.plan(homes)
    with Faults("error", errno=errno.ENOSPC, match=lambda c: c.name == "fallocate" and "/e/" in c.path):
        outcomes = cluster.carry(made, homes, net=net)
    assert all(isinstance(outcomes[r], StorageError) and "disk full" in str(outcomes[r]) for r in (2, 3))
    assert all(isinstance(outcomes[r], RankError | StorageError) for r in range(8))
    assert cluster.place("e", "memory").ranks(version) == []
    whole(cluster, version, 0, "d")
    whole(cluster, version, 6, "a")
    made = cluster.plan(homes)
    assert all(isinstance(one, Carried) for one in cluster.carry(made, homes, net=net))
    cluster.complete(made, homes)


@pytest.fixture(scope="module")
def calls(root_factory: Callable[[], Path]) -> int:
    """How many storage calls the node makes that is interfered with below."""
    cluster, homes = interfered(root_factory())
    made = cluster.plan(homes)
    with Faults("count", match=at_node) as faults:
        assert all(isinstance(one, Carried) for one in cluster.carry(made, homes))
    return faults.count


def at_node(call: Any) -> bool:
    return "/c/" in call.path and "/versions/" in call.path


@pytest.mark.parametrize("part", range(12))
def test_any_call_that_fails(root: Path, calls: int, part: int) -> None:
    """Storage calls of a node, one at a time: nothing is proved that is not whole, and the next plan succeeds."""
    assert calls > 100
    for at in range(1 + STRIDE * part, calls + 1, STRIDE * 12):
        cluster, homes = interfered(root / str(at))
        net = Net(5)
        with Faults("error", at=at, errno=errno.EIO, match=at_node) as faults:
            outcomes = cluster.carry(cluster.plan(homes), homes, net=net)
        assert faults.fired == 1
        assert not any(isinstance(error, DeadlineError) for error in outcomes)
        for node in cluster.nodes():
            for version in cluster.place(node, "memory").versions():
                for rank in cluster.place(node, "memory").ranks(version):
                    whole(cluster, version, rank, node)
        made = cluster.plan(homes)
        assert made.takes and made.takes[0].link == cluster.candidates[0].link
        again = cluster.carry(made, homes, net=net)
        assert all(isinstance(one, Carried) for one in again), again
        cluster.complete(made, homes)


def test_killed(root: Path) -> None:
    """All processes at once, before a storage call of a node: as above."""
    here = Path(__file__).parent
    paths = [str(here), str(here.parent), str(here.parent / "redundancy"), *sys.path]
    done = subprocess.run(
        [sys.executable, str(here / "carry_kills.py"), str(root), "5", str(6 * STRIDE)],
        capture_output=True, text=True, timeout=100, env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["problems"] == []
    assert found["points"] > 400 // (6 * STRIDE)


def test_a_process_that_stays_away(root: Path) -> None:
    """The others wait for their deadline, and no longer."""
    cluster = Cluster(root, ["a", "b"])
    version = cluster.save(1, [9_000, 10]).link.name
    made = cluster.plan(["b", "a"])

    class Deaf(Net):
        def meet(self, pair: tuple[int, int]) -> None:
            if pair != (0, 1):
                super().meet(pair)

    outcomes = cluster.carry(made, ["b", "a"], net=Deaf(2), timeout=0.3)
    assert isinstance(outcomes[1], DeadlineError)
    assert cluster.place("a", "memory").ranks(version) == [0]


def test_plans_that_do_not_fit(root: Path) -> None:
    cluster = Cluster(root, ["a", "b"])
    version = cluster.save(1, [9_000, 10]).link.name
    made = cluster.plan(["b", "a"])
    cluster.lose("a")
    outcomes = cluster.carry(made, ["b", "b"], per_node=True)
    assert isinstance(outcomes[0], UsageError) and "node a, on which no process runs" in str(outcomes[0])
    cluster.records[version] = cluster.records[version].replace(b"every", b"other")
    assert all(isinstance(error, DamageError) for error in cluster.carry(cluster.plan(["b", "x"]), ["b", "x"]))


def test_rounds() -> None:
    """Each process has one thing in a round, all that fit come first, and none is lost."""
    parties = [(i, i + 1) for i in range(1000)]
    order = in_rounds(parties)
    assert sorted(order) == list(range(1000))
    assert order == [*range(0, 1000, 2), *range(1, 1000, 2)]
    assert in_rounds([]) == []
