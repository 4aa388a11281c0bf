"""A state cut into units and put together as an index: every byte once, small ones together, pages packed, nothing held."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.engine.plan import Base, Item, Plan
from holdfast.engine.units import UNIT, Written
from holdfast.format import BLOCK, DataSource, Extent, StoredBuffer, digest
from holdfast.format.layers import SourceTable


def plan(*buffers, bases=(), how=(), tree=b"t", table=None):
    item = Item("x", "array", False, None, tree, buffers, how or ("copy",) * len(buffers), bases)
    return Plan(0, [item], [], table or SourceTable())


def written(made, skip=()):
    """As a writing would answer: the units in order, those in `skip` as before."""
    results, at = [], 0
    for number, unit in enumerate(made.units):
        memory = np.zeros(unit.nbytes, np.uint8)
        for start, piece in unit.pieces:
            memory[start : start + piece.nbytes] = piece
        digests = [digest(memory[b.at : b.at + b.nbytes]) for b in unit.blocks]
        results.append(Written(None if number in skip else at, digests))
        at += 0 if number in skip else unit.nbytes
    return results, at


sizes = st.lists(st.sampled_from([0, 1, 8, 4095, 65536, 70000, 1 << 20, BLOCK, BLOCK + 1, 2 * BLOCK - 8]), max_size=6)


@given(sizes)
def test_every_byte_is_in_one_block(lengths):
    made = plan(*(np.full(n, k, np.uint8) for k, n in enumerate(lengths)))
    seen = {k: 0 for k in range(len(lengths))}
    for unit in made.units:
        assert 0 < unit.nbytes <= UNIT and unit.nbytes % 4096 == 0
        end = 0
        for (at, memory), block in zip(unit.pieces, unit.blocks, strict=True):
            assert (at, memory.nbytes) == (block.at, block.nbytes) and at >= end
            assert at % (4096 if memory.nbytes >= 65536 else 8) == 0
            assert block.start == seen[block.buffer]
            seen[block.buffer] += block.nbytes
            end = at + memory.nbytes
        assert end <= unit.nbytes
    assert list(seen.values()) == lengths
    part = made.part(*written(made))
    assert [b.nbytes for b in part.objects[0].buffers] == lengths
    assert part.nbytes == made.expected == sum(u.nbytes for u in made.units)


def test_a_large_structure_is_one_more_buffer():
    made = plan(np.zeros(5, np.uint8), tree=b"x" * 5000)
    part = made.part(*written(made))
    assert part.objects[0].tree is None and [b.nbytes for b in part.objects[0].buffers] == [5, 5000]


def base(memory, table, dirty=None):
    source = table.add(DataSource("00000001-a000001", "ab" * 16, 0, 1 << 30))
    extents = tuple(
        Extent(source, at, min(BLOCK, memory.nbytes - at), digest(memory[at : at + BLOCK]), at)
        for at in range(0, memory.nbytes, BLOCK)
    )
    return Base(StoredBuffer(memory.nbytes, extents), dirty)


def test_blocks_that_are_as_before_keep_their_place():
    memory, table = np.random.default_rng(1).integers(0, 256, 2 * BLOCK + 9, np.uint8), SourceTable()
    old = base(memory, table)
    made = plan(memory, bases=[old], table=table)
    assert made.expected is None and [u.blocks[0].known for u in made.units] == [e.digest for e in old.stored.extents]
    part = made.part(*written(made, skip={0, 2}))
    assert sorted((e.start, e.source) for e in part.objects[0].buffers[0].extents) == [(0, 1), (BLOCK, 0), (2 * BLOCK, 1)]
    nothing = plan(memory, bases=[old], table=table)
    part = nothing.part(*written(nothing, skip={0, 1, 2}))
    assert part.nbytes == 0 and part.objects[0].buffers[0] == old.stored


def test_sources_that_nothing_needs_any_more_are_left_out():
    memory, table = np.zeros(BLOCK, np.uint8), SourceTable()
    made = plan(memory, bases=[base(memory, table)], table=table)
    assert made.part(*written(made)).sources == ()


@pytest.mark.parametrize("runs", [[], [(0, 4096)], [(4096, 8192), (1 << 20, 5 << 20)], [(k << 13, 4096) for k in range(700)]])
def test_pages_are_packed(runs):
    memory, table = np.random.default_rng(2).integers(0, 256, 6 << 20, np.uint8), SourceTable()
    made = plan(memory, bases=[base(memory, table, np.array(runs, np.int64).reshape(-1, 2))], table=table)
    assert sum(b.nbytes for u in made.units for b in u.blocks) == sum(n for _, n in runs)
    assert all(u.nbytes <= UNIT for u in made.units)
    extents = made.part(*written(made)).objects[0].buffers[0].extents
    found = [tuple(r) for e in extents if e.source == 0 for r in e.runs.tolist()]
    assert sum(n for _, n in found) == sum(n for _, n in runs)
    assert {start for start, _ in runs} <= {start for start, _ in found}


def test_the_program_s_memory_is_let_go():
    memory = np.ones(BLOCK + 5, np.uint8)
    gone = weakref.ref(memory)
    made = plan(memory, np.ones(9, np.uint8))
    results = written(made)
    made.let_go()
    del memory
    gc.collect()
    assert gone() is None
    part = made.part(*results)
    assert [b.nbytes for b in part.objects[0].buffers] == [BLOCK + 5, 9]


def test_what_can_not_change_is_cut_when_it_is_written():
    kept, other = np.full(2 * BLOCK + 5, 1, np.uint8), np.full(BLOCK, 2, np.uint8)
    made = plan(kept, other, how=("hold", "copy"))
    assert [u.blocks[0].buffer for u in made.units] == [1]
    assert made.expected == 3 * BLOCK + 4096
    late = made.late_units()
    assert [n for n, _ in late] == [1, 2, 3] and not made.late_units()
    assert all(u.pieces for _, u in late) and len(made.units) == 4
