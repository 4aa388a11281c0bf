"""Layers against a model: a buffer of bytes into which each extent is copied, one after the other."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.format import (
    BLOCK,
    DataSource,
    Extent,
    Link,
    Part,
    SourceTable,
    StoredBuffer,
    StoredObject,
    adopt,
    drop_hidden,
    lay_over,
    pack_runs,
    simple_buffer,
    versions_used,
    visible,
)

SIZE = 40


def painted(buffer: StoredBuffer) -> list[tuple[int, int]]:
    """For each byte of the buffer: the number of the extent that gives it, and its place in the extent's content."""
    found = [(-1, -1)] * buffer.nbytes
    for i, e in enumerate(buffer.extents):
        at = 0
        for start, nbytes in e.runs.tolist():
            for k in range(nbytes):
                found[start + k] = (i, at + k)
            at += nbytes
    return found


@st.composite
def extents(draw: st.DrawFn, source: int = 0) -> Extent:
    cuts = draw(st.lists(st.integers(0, SIZE), min_size=2, max_size=12, unique=True).map(sorted))
    runs = [(a, b - a) for a, b in zip(cuts[::2], cuts[1::2], strict=False)]
    packed = len(runs) > 1 or draw(st.booleans())
    nbytes = sum(n for _, n in runs)
    offset = draw(st.integers(0, 99))
    return Extent(source, offset, nbytes, bytes(16), runs[0][0], pack_runs(runs) if packed else None)


@st.composite
def buffers(draw: st.DrawFn) -> StoredBuffer:
    base = Extent(0, 0, SIZE, bytes(16), 0)
    return StoredBuffer(SIZE, (base, *draw(st.lists(extents(), max_size=9))))


@given(buffers())
def test_what_is_seen_is_what_was_laid_last(buffer: StoredBuffer) -> None:
    seen = visible(buffer)
    expected = painted(buffer)
    at = 0
    for start, nbytes, extent, inside in zip(*(a.tolist() for a in seen), strict=True):
        assert start == at and nbytes > 0
        assert expected[start : start + nbytes] == [(extent, inside + k) for k in range(nbytes)]
        at += nbytes
    assert at == buffer.nbytes


@given(buffers())
def test_hidden_extents_go_and_nothing_else_changes(buffer: StoredBuffer) -> None:
    left = drop_hidden(buffer)
    before = [(buffer.extents[i], at) for i, at in painted(buffer)]
    assert [(left.extents[i], at) for i, at in painted(left)] == before
    assert {id(e) for e in left.extents} <= {id(e) for e in buffer.extents}
    assert {i for i, _ in painted(left)} == set(range(len(left.extents))), "each that is left is seen"
    assert drop_hidden(left) is left


@given(buffers(), st.lists(extents(), max_size=4))
def test_laying_over(old: StoredBuffer, new: list[Extent]) -> None:
    both = StoredBuffer(SIZE, (*old.extents, *new))
    assert lay_over(old, new) == (drop_hidden(both) if new else old)


def test_a_new_block_hides_an_old_one_and_its_pages() -> None:
    old = simple_buffer(0, 3 * BLOCK, b"a" * 16 + b"b" * 16 + b"c" * 16)
    pages = Extent(0, 5 * BLOCK, 8192, b"p" * 16, BLOCK, pack_runs([(BLOCK, 4096), (BLOCK + 8192, 4096)]))
    layered = lay_over(old, [pages])
    assert layered.block_digests() == [b"a" * 16, None, b"c" * 16] and not layered.simple
    assert layered.stored == 3 * BLOCK + 8192
    fresh = Extent(0, 6 * BLOCK, BLOCK, b"n" * 16, BLOCK)
    again = lay_over(layered, [fresh])
    assert again.extents == (old.extents[0], old.extents[2], fresh)
    assert again.block_digests() == [b"a" * 16, b"n" * 16, b"c" * 16]


def test_a_run_over_the_edge_of_two_blocks_makes_both_unknown() -> None:
    old = simple_buffer(0, 3 * BLOCK, b"a" * 48)
    edge = Extent(0, 5 * BLOCK, 8192, b"p" * 16, 2 * BLOCK - 4096)
    assert lay_over(old, [edge]).block_digests() == [b"a" * 16, None, None]
    assert lay_over(old, [edge._replace(packed=pack_runs([(2 * BLOCK - 4096, 8192)]))]).block_digests()[1:] == [None, None]


def test_nothing_is_nothing() -> None:
    empty = StoredBuffer(0, ())
    assert drop_hidden(empty) is empty and lay_over(empty, []) is empty and empty.block_digests() == []
    assert empty.simple and StoredBuffer.parse(empty.plain(), [0]) == empty


@pytest.mark.parametrize("same", [False, True])
def test_100_000_runs(same: bool) -> None:
    """Pages scattered over a GiB in four layers; or a hundred extents all at one place, which must not cost their product."""
    nbytes = 1 << 30
    base = simple_buffer(0, nbytes, bytes(16 * 256))
    rng = np.random.default_rng(0)
    layers: list[Extent] = []
    for _ in range(4):
        pages = rng.choice(1024 if same else nbytes // 4096, 25_000, replace=same)
        for group in np.array_split(pages if same else np.sort(pages), 25):
            at = np.unique(group) * 4096
            runs = np.stack([at, np.full_like(at, 4096)], 1)
            layers.append(Extent(0, 0, int(runs[:, 1].sum()), bytes(16), int(at[0]), pack_runs(runs)))
    buffer = StoredBuffer(nbytes, (*base.extents, *layers))
    began = time.process_time()
    left = drop_hidden(buffer)
    assert time.process_time() - began < 2
    assert int(visible(left).nbytes.sum()) == nbytes


# -- into a later version --------------------------------------------------------------------

ONE, TWO = Link("00000001-a000001", "1" * 32), Link("00000002-a000001", "2" * 32)
OLD = DataSource(ONE.name, ONE.digest, 3, 8 << 20)


def obj(*buffers: StoredBuffer) -> StoredObject:
    return StoredObject("u", "array", False, None, b"", buffers)


def places(part: Part, link: Link | None, rank: int) -> list[Any]:
    """Where each extent is, by names that mean the same in every part."""
    own = ("own" if link is None else link.name, rank)
    files = [own, *((s.version if s.digest or link is None else link.name, s.rank) for s in part.sources)]
    return [(files[e.source], e.offset) for o in part.objects for b in o.buffers for e in b.extents]


def test_a_later_version_finds_the_same_bytes() -> None:
    """Of the part's own file, of an older version's, and of another rank's of the same version."""
    unused = DataSource("00000009-a000009", "9" * 32, 0, 4096)
    other = DataSource(TWO.name, "", 4, 1 << 20)
    extents = (Extent(0, 0, 10, bytes(16), 0), Extent(2, 4096, 10, bytes(16), 10), Extent(3, 0, 5, bytes(16), 12))
    before = Part(3, 16 << 20, (obj(StoredBuffer(20, extents)),), (), (unused, OLD, other))
    table = SourceTable()
    adopted = adopt(table, before, TWO, before.objects[0].buffers[0])
    after = Part(3, 4096, (obj(adopted),), (), table.tuple())
    assert set(table.tuple()) == {
        DataSource(TWO.name, TWO.digest, 3, 16 << 20), OLD, DataSource(TWO.name, TWO.digest, 4, 1 << 20)
    }  # fmt: skip
    assert places(after, None, 3) == places(before, TWO, 3)
    assert versions_used(after) == {ONE, TWO} and versions_used(before) == {ONE, Link(unused.version, unused.digest)}
    assert Part.decode(after.encode(), 3, "f") == after
    again = adopt(table, before, TWO, before.objects[0].buffers[0])
    assert again == adopted and len(table.tuple()) == 3


def test_sources_that_are_hidden_in_the_end_do_not_stay() -> None:
    table = SourceTable()
    table.add(OLD)
    kept = table.add(DataSource(TWO.name, TWO.digest, 0, 4096))
    part = Part(0, 0, (obj(StoredBuffer(5, (Extent(kept, 0, 5, bytes(16), 0),)), StoredBuffer(0, ())),), ())
    compact = table.compact(part)
    assert compact.sources == (DataSource(TWO.name, TWO.digest, 0, 4096),)
    assert compact.objects[0].buffers[0].extents[0].source == 1
    assert table.add(OLD) == 1, "the table itself is as it was"
