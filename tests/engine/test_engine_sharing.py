"""Replicated objects: shared out evenly, told of to all ranks, the same on all of them or refused. Ranks are threads here."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.catalog import Commit, put_fence
from holdfast.engine import Base, Item, Parcel, PartReader, Plan, Published, ThreadWriting, open_part, publish
from holdfast.engine.plan import OWN_UNIT, TREE_INLINE
from holdfast.engine.sharing import merge, share_out
from holdfast.errors import CheckpointError, DeadlineError, HoldfastError, UsageError
from holdfast.format import BLOCK, Link, Part
from holdfast.format.layers import SourceTable, adopt
from holdfast.store import Store, open_store

SECONDS = 20


class ThreadRanks:
    """A group of threads of this process."""

    def __init__(self, size: int, patience: float = SECONDS) -> None:
        self.size, self.patience, self.changed = size, patience, threading.Condition()
        self.boxes: dict[tuple[int, int], list[bytes]] = {}

    def send(self, source: int, dest: int, data: bytes) -> None:
        with self.changed:
            self.boxes.setdefault((source, dest), []).append(data)
            self.changed.notify_all()

    def take(self, source: int, dest: int) -> bytes:
        with self.changed:
            if not self.changed.wait_for(lambda: self.boxes.get((source, dest)), self.patience):
                raise DeadlineError(f"rank {dest} has waited for rank {source} in vain", rank=source)
            return self.boxes[source, dest].pop(0)


@dataclass
class ThreadRank:
    ranks: ThreadRanks
    rank: int
    deaf: Callable[[str], bool] = lambda what: False  # to which broadcasts this rank does not listen in time

    @property
    def size(self) -> int:
        return self.ranks.size

    def gather(self, data: bytes, members: range, what: str, *, patience: int = 1) -> list[bytes] | None:
        if self.rank != members[0]:
            self.ranks.send(self.rank, members[0], data)
            return None
        return [data if m == self.rank else self.ranks.take(m, self.rank) for m in members]

    def broadcast(self, data: bytes | None, members: range, what: str, *, patience: int = 1) -> bytes:
        if self.rank == members[0]:
            assert data is not None
            for m in members[1:]:
                self.ranks.send(self.rank, m, data)
            return data
        found = self.ranks.take(members[0], self.rank)
        if self.deaf(what):
            raise DeadlineError(f"{what}: rank {self.rank} waited in vain", rank=self.rank)
        return found


@dataclass
class World:
    """Some ranks and what they write, version after version."""

    store: Store
    size: int
    number: int = 0
    link: Link | None = None
    parts: list[Part] = field(default_factory=list)
    deaf: dict[int, Callable[[str], bool]] = field(default_factory=dict)

    def write(self, items: Callable[[int], Sequence[Item]], whole: bool = False, fail: Sequence[int] = ()) -> Published:
        """The next version, of what `items(rank)` gives; raises what all ranks have raised alike. `whole`: nothing is known
        of the version before; `fail`: ranks that can't write."""
        self.number += 1
        ranks = ThreadRanks(self.size)
        draft = Commit(
            kind="checkpoint", version=self.number, attempt=1, parent=self.link, label=None, step=None, loops={},
            complete=False, reason="request", ranks=self.size, objects=0, nbytes=0, state=0, refs=(), created=0.0,
            seconds=0.0, index_bytes=0, index_digest="",
        )  # fmt: skip

        def one(rank: int) -> tuple[Published, Part]:
            made: list[Part] = []

            def shared(key: str) -> Parcel:
                if rank in fail:
                    raise OSError(5, "this rank can't write")
                table = SourceTable()
                known = [] if whole else self.known(rank, items(rank), table)
                plan = Plan(rank, known or items(rank), [], table, self.size)
                writing = ThreadWriting(self.store, key, plan.expected, 2)
                for number, unit in enumerate(plan.units):
                    writing.put(number, unit, lambda: None)
                plan.let_go()
                for number, unit in plan.late_units():
                    writing.put(number, unit, lambda: None)
                written, nbytes = writing.finish()

                def part(merged: dict[str, Any]) -> Part:
                    made.append(plan.part(written, nbytes, draft.name, merged))
                    return made[0]

                return Parcel(plan.share(written, nbytes, draft.name), part)

            group: Any = ThreadRank(ranks, rank, self.deaf.get(rank, lambda what: False))
            return publish(self.store, group, draft, lambda key: shared(key).part({}), shared), made[0]

        with ThreadPoolExecutor(self.size) as pool:
            futures = [pool.submit(one, rank) for rank in range(self.size)]
            errors = [f.exception(SECONDS) for f in futures]
        if any(errors):
            assert all(isinstance(e, HoldfastError) for e in errors), errors
            self.told = [str(e) for e in errors]
            raise errors[0] or AssertionError("rank 0 raised nothing")
        found = [f.result() for f in futures]
        self.link, self.parts = found[0][0].link, [part for _, part in found]
        return found[0][0]

    def known(self, rank: int, items: Sequence[Item], table: SourceTable) -> list[Item]:
        """The items with what the version before has."""
        if self.link is None:
            return []
        stored = {o.name: o for o in self.parts[rank].objects}
        link = self.link

        def base(item: Item, i: int) -> Base | None:
            old = stored[item.name].buffers[i] if item.name in stored else None
            fits = old is not None and old.nbytes == item.buffers[i].nbytes
            return Base(adopt(table, self.parts[rank], link, old)) if fits and old is not None else None

        return [item._replace(bases=[base(item, i) for i in range(len(item.buffers))]) for item in items]

    def read(self, commit: Commit, rank: int) -> dict[str, list[bytes]]:
        with open_part(self.store, commit, rank, 2) as reader:
            return {o.name: [content(reader, o, i) for i in range(len(reader.source(o).lengths))] for o in reader.part.objects}

    def written(self, number: int | None = None) -> list[int]:
        """Bytes that each rank has written for a version."""
        path = Path(self.store.location) / f"versions/{number or self.number:08d}-a000001/data"
        return [(path / f"r{rank:06d}").stat().st_size for rank in range(self.size)]


def content(reader: PartReader, stored: Any, i: int) -> bytes:
    source = reader.source(stored)
    out = np.empty(source.lengths[i], np.uint8)
    source.read(i, out)
    return out.tobytes()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], World]:
    monkeypatch.setattr("holdfast.store.syscalls.fsync", lambda fd: None)
    made = iter(range(100))

    def world(size: int) -> World:
        store = open_store(tmp_path / str(next(made)), create=True)
        put_fence(store, "run", size, {}, [], 1)
        return World(store, size)

    return world


POOL = np.random.default_rng(5).integers(0, 256, 40 * BLOCK, np.uint8)


def replicated(name: str, *sizes: int, seed: int = 0, tree: bytes = b"t") -> Item:
    buffers = [POOL[seed + i :][:n].copy() for i, n in enumerate(sizes)]
    return Item(name, "tree", False, None, tree, buffers, replicated=True)


def private(name: str, nbytes: int, seed: int = 0) -> Item:
    return Item(name, "array", False, None, b"t", [POOL[seed:][:nbytes].copy()])


def changed(item: Item, at: int, buffer: int = 0) -> Item:
    buffers = [np.array(b) for b in item.buffers]
    buffers[buffer][at] ^= 255
    return item._replace(buffers=buffers)


def contents(items: Sequence[Item]) -> dict[str, list[bytes]]:
    return {i.name: [np.asarray(b).tobytes() for b in i.buffers] for i in items}


# -- who writes what ---------------------------------------------------------------------------


@given(st.lists(st.integers(1, BLOCK), max_size=60), st.integers(1, 9))
def test_no_rank_has_more_than_a_block_above_another(sizes: list[int], ranks: int) -> None:
    owners = share_out(sizes, ranks)
    loads = [sum(n for n, owner in zip(sizes, owners, strict=True) if owner == rank) for rank in range(ranks)]
    assert len(owners) == len(sizes)
    assert max(loads) - min(loads) <= max(sizes, default=0)


def test_neighbouring_blocks_go_to_different_ranks() -> None:
    assert share_out([BLOCK] * 7, 3) == [0, 1, 2, 0, 1, 2, 0]


SHAPES = {
    "one large array": [replicated("u", 13 * BLOCK + 5000)],
    "an object of many buffers": [replicated("model", *[OWN_UNIT + 9] * 11, *[3000] * 50)],
    "many objects": [replicated(f"o{i}", 1 + 37 * i, seed=i) for i in range(300)],
    "large and small in turn": [replicated(f"o{i}", BLOCK if i % 2 else 8, seed=i) for i in range(12)],
    "a large structure": [replicated("tree", tree=bytes(range(256)) * 20_000)],
    "nothing": [replicated("empty", 0), replicated("none")],
}


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("items", SHAPES.values(), ids=SHAPES.keys())
def test_written_once_and_evenly(world: Callable[[int], World], items: list[Item], ranks: int) -> None:
    w = world(ranks)

    def mine(rank: int) -> list[Item]:  # ranks need not protect in the same order
        return random.Random(rank).sample(items, len(items))

    commit = w.write(mine).commit
    written = w.written()
    sizes = [np.asarray(b).nbytes for i in items for b in i.buffers]
    sizes += [len(i.tree) for i in items if len(i.tree) > TREE_INLINE]
    state, padding = sum(sizes), sum(4096 if n >= 64 << 10 else 8 for n in sizes) + 4096 * ranks
    assert sum(written) == commit.nbytes
    assert state <= sum(written) <= state + padding
    assert max(written) - min(written) <= min(BLOCK, max(sizes, default=0)) + padding
    assert (commit.objects, commit.state) == (len(items), state)
    for rank in range(ranks):
        assert w.read(commit, rank) == contents(items)
        assert all(o.replicated for o in w.parts[rank].objects)
        assert Part.decode(w.parts[rank].encode(), rank, "f") == w.parts[rank]
        with open_part(w.store, commit, rank, 1) as reader:
            for item in items:
                assert reader.tree(reader.objects[item.name]) == item.tree


@pytest.mark.parametrize("ranks", [2, 3])
def test_beside_what_is_each_rank_s_own(world: Callable[[int], World], ranks: int) -> None:
    w = world(ranks)

    def items(rank: int) -> list[Item]:
        own = [private("p", BLOCK + rank, seed=rank), private("q", 100 + rank, seed=7 + rank)]
        return [own[0], replicated("u", 3 * BLOCK + 5, 9), own[1], replicated("v", 77)]

    commit = w.write(items).commit
    for rank in range(ranks):
        assert w.read(commit, rank) == contents(items(rank))
        assert [o.replicated for o in w.parts[rank].objects] == [False, True, False, True]
    assert commit.objects == 2 + 2 * ranks
    assert commit.state == 3 * BLOCK + 5 + 9 + 77 + sum(BLOCK + 100 + 2 * rank for rank in range(ranks))


# -- what is as before -------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_an_unchanged_block_is_written_by_nobody(world: Callable[[int], World], ranks: int) -> None:
    w = world(ranks)
    items = [replicated("u", 5 * BLOCK + 77), replicated("v", 2 * BLOCK, seed=3)]
    first = w.write(lambda rank: items)
    assert w.write(lambda rank: items).commit.refs == (first.link,)
    assert w.written() == [0] * ranks
    now = [changed(items[0], 3 * BLOCK + 1), items[1]]
    commit = w.write(lambda rank: now).commit
    assert sorted(w.written()) == [0] * (ranks - 1) + [BLOCK]
    assert commit.refs == (first.link,)  # never the second, of which nothing is used
    for rank in range(ranks):
        assert w.read(commit, rank) == contents(now)
    shared = {(s.version, s.rank) for s in w.parts[0].sources}
    assert {rank for version, rank in shared if version == first.link.name} == set(range(ranks))


def test_a_value_that_was_each_rank_s_own_before(world: Callable[[int], World]) -> None:
    """The rank that owns a block finds it unchanged; the others had another value there, and must not go on with that."""
    w = world(3)
    base = [private("u", 6 * BLOCK, seed=rank) for rank in range(3)]
    first = w.write(lambda rank: [base[rank]])
    now = base[0]._replace(replicated=True)
    commit = w.write(lambda rank: [now]).commit
    for rank in range(3):
        assert w.read(commit, rank) == contents([now])
    assert sorted(w.written()) == [0, 2 * BLOCK, 2 * BLOCK]  # what rank 0 had of it stays where it is
    assert commit.refs == (first.link,)
    # And each rank's own again, without another copy of what has not changed.
    commit = w.write(lambda rank: [changed(now._replace(replicated=False), rank * BLOCK)]).commit
    assert w.written() == [BLOCK] * 3
    for rank in range(3):
        assert w.read(commit, rank) == contents([changed(now, rank * BLOCK)])


def test_ranks_that_know_more_and_less_of_the_version_before(world: Callable[[int], World]) -> None:
    """A rank that knows nothing of it (its option says so) writes its blocks; the others' stay."""
    w = world(2)
    item = replicated("u", 4 * BLOCK)
    w.write(lambda rank: [item])
    real = w.known
    w.known = lambda rank, items, table: real(rank, items, table) if rank else []  # type: ignore[method-assign]
    commit = w.write(lambda rank: [item]).commit
    assert w.written() == [2 * BLOCK, 0]
    for rank in range(2):
        assert w.read(commit, rank) == contents([item])


def test_a_broken_link_is_found_before_it_is_committed(world: Callable[[int], World]) -> None:
    w = world(3)
    item = replicated("u", 6 * BLOCK)
    w.write(lambda rank: [item])
    key = "versions/00000001-a000001/data/r000002"
    path = Path(w.store.location) / key
    content = path.read_bytes()
    path.write_bytes(content[:-4096])
    with pytest.raises(CheckpointError, match=key) as caught:
        w.write(lambda rank: [item])
    assert [c.rank for c in caught.value.causes] == [2]  # whose file it is
    path.write_bytes(content)
    w.write(lambda rank: [item])


# -- what differs ------------------------------------------------------------------------------

U = replicated("u", 2 * BLOCK + 9, 50)
DIFFERENT = {
    "a byte of a large buffer": (changed(U, 2 * BLOCK), "differs in value"),
    "a byte of a small buffer": (changed(U, 7, buffer=1), "differs in value"),
    "the structure": (U._replace(tree=b"x"), "differs in structure"),
    "a length": (replicated("u", 2 * BLOCK + 10, 50), "differs in structure"),
    "a buffer less": (replicated("u", 2 * BLOCK + 9), "differs in structure"),
    "bytes that begin elsewhere": (replicated("u", 2 * BLOCK + 8, 51), "differs in structure"),
}


@pytest.mark.parametrize(("other", "text"), DIFFERENT.values(), ids=DIFFERENT.keys())
@pytest.mark.parametrize("who", [0, 2])
def test_a_difference_names_object_and_ranks(world: Callable[[int], World], other: Item, text: str, who: int) -> None:
    w = world(3)
    ok = replicated("a", 100)
    with pytest.raises(UsageError) as caught:
        w.write(lambda rank: [ok, other if rank == who else U])
    rest = [rank for rank in range(3) if rank != who]
    assert f"'u' is protected as replicated, but the ranks do not hold the same: rank {who} {text}" in str(caught.value)
    assert f"from ranks {rest[0]}, {rest[1]}" in str(caught.value)
    assert (caught.value.object, caught.value.rank, caught.value.version) == ("u", who, 1)
    assert len(set(w.told)) == 1
    commit = w.write(lambda rank: [ok, U]).commit
    assert w.read(commit, who) == contents([ok, U])


def test_a_rank_that_has_not_protected_it(world: Callable[[int], World]) -> None:
    w = world(4)
    with pytest.raises(UsageError, match=r"'v' .* ranks 1, 3 have not protected it so, the others have"):
        w.write(lambda rank: [U] if rank % 2 else [U, replicated("v", 5)])
    with pytest.raises(UsageError, match=r"'v' .* rank 0 has not protected it so"):
        w.write(lambda rank: [U, replicated("v", 5)] if rank else [U, private("v", 5)])


def test_several_that_differ_and_many_ranks() -> None:
    def share(rank: int) -> Any:
        file = [f"{1:08d}-a000001", "", rank, 0]
        return [rank, [file], {name: [b"s", bytes([rank > 9]), []] for name in "abc"}]

    with pytest.raises(UsageError) as caught:
        merge([share(rank) for rank in range(30)])
    text = "ranks 0, 1, 2, 3, 4, 5, 6, 7 and 2 more differ in value from ranks 10, 11, 12, 13, 14, 15, 16, 17 and 12 more."
    assert text in str(caught.value)
    assert "So do they in 'b', 'c'." in str(caught.value)


# -- what fails --------------------------------------------------------------------------------


@pytest.mark.parametrize("who", [(0,), (2,), (0, 1, 2)])
def test_a_rank_that_can_t_write(world: Callable[[int], World], who: tuple[int, ...]) -> None:
    w = world(3)
    w.write(lambda rank: [U])
    with pytest.raises(CheckpointError, match="this rank can't write") as caught:
        w.write(lambda rank: [changed(U, 0)], fail=who)
    assert [c.rank for c in caught.value.causes] == list(who)  # each once, though all ranks tell of it
    assert len(set(w.told)) == 1
    commit = w.write(lambda rank: [changed(U, 0)]).commit
    assert w.read(commit, 1) == contents([changed(U, 0)])


def test_a_rank_that_does_not_hear_where_the_blocks_are(world: Callable[[int], World]) -> None:
    """It goes all the way nevertheless, and all ranks fail alike."""
    w = world(3)
    w.deaf[1] = lambda what: what.startswith("replicated objects")
    with pytest.raises(CheckpointError, match="rank 1 waited in vain") as caught:
        w.write(lambda rank: [U])
    assert [c.rank for c in caught.value.causes] == [1]
    assert len(set(w.told)) == 1
    w.deaf.clear()
    commit = w.write(lambda rank: [U]).commit
    assert w.read(commit, 1) == contents([U])
