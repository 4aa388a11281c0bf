"""A data file that is captured into is the file that would be written: same bytes, same index, whatever is left out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.engine import InPlaceWriting, Item, Plan, ThreadWriting, no_release
from holdfast.engine.plan import Base
from holdfast.errors import StorageError
from holdfast.format import BLOCK, Link, Part, SourceTable, adopt, digest_hex
from holdfast.store import KeyExistsError, PosixStore

MEMORY = Path("/dev/shm")
MIB = 1 << 20

pytestmark = pytest.mark.skipif(not MEMORY.is_dir(), reason="this system has no file system in memory")


@pytest.fixture
def store() -> Iterator[PosixStore]:
    with tempfile.TemporaryDirectory(prefix="holdfast-tests-", dir=MEMORY) as made:
        yield PosixStore(made, create=True, write_once=True)


def in_place(store: PosixStore, key: str, plan: Plan, spare: int = 0, threads: int = 2) -> Part:
    file = store.create_in_memory(f"ahead/{key}", max(1, plan.most + spare))
    assert file is not None
    writing = InPlaceWriting(file, key, threads)
    writing.capture(plan.units, threads)
    plan.let_go()
    for number, unit in plan.late_units():
        writing.put(number, unit, no_release)
    return plan.part(*writing.finish())


def written(store: PosixStore, key: str, plan: Plan) -> Part:
    writing = ThreadWriting(store, key, plan.expected, 1)  # one thread: in order
    for number, unit in enumerate(plan.units):
        writing.put(number, unit, no_release)
    for number, unit in plan.late_units():
        writing.put(number, unit, no_release)
    return plan.part(*writing.finish())


def plan_of(
    buffers: list[np.ndarray], hows: list[str], before: Part | None = None, dirty: list[Any] | None = None
) -> Plan:
    sources = SourceTable()
    items = []
    for i, (buffer, how) in enumerate(zip(buffers, hows, strict=True)):
        base = None
        if before is not None:
            link = Link("00000001-a000001", digest_hex(b"1"))
            base = Base(adopt(sources, before, link, before.objects[i].buffers[0]), dirty[i] if dirty else None)
        items.append(Item(f"o{i}", "array", False, None, b"t", [buffer], [how], [base]))
    return Plan(0, items, [], sources)


def both(buffers: list[np.ndarray], hows: list[str], changed: list[list[tuple[int, int]]], tracked: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="holdfast-tests-", dir=MEMORY) as made:
        store = PosixStore(made, create=True, write_once=True)
        first = in_place(store, "v1", plan_of(buffers, hows), spare=5000)
        assert first == written(store, "w1", plan_of(buffers, hows))
        assert store.get("v1", 1 << 30) == store.get("w1", 1 << 30)
        dirty: list[Any] | None = [] if tracked else None
        for buffer, runs in zip(buffers, changed, strict=True):
            pages = []
            for at, n in runs:
                buffer[at : at + n] += 1
                low, high = at // 4096 * 4096, min(buffer.nbytes, -(-(at + n) // 4096) * 4096)
                if high > low and (not pages or low >= sum(pages[-1])):
                    pages.append((low, high - low))
                elif high > low:
                    start = pages[-1][0]
                    pages[-1] = (start, max(high, sum(pages[-1])) - start)
            if dirty is not None:
                dirty.append(np.array(pages, np.int64).reshape(-1, 2))
        second = in_place(store, "v2", plan_of(buffers, hows, first, dirty))
        assert second == written(store, "w2", plan_of(buffers, hows, first, dirty))
        assert store.get("v2", 1 << 30) == store.get("w2", 1 << 30)
        assert second.nbytes == store.size("v2")


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_as_it_would_be_written(data: st.DataObject) -> None:
    sizes = data.draw(
        st.lists(
            st.one_of(st.integers(0, 9000), st.sampled_from([MIB, BLOCK, BLOCK + 1, 2 * BLOCK + 77, 3 * BLOCK])),
            min_size=1,
            max_size=5,
        )
    )
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    buffers = [rng.integers(0, 256, n, np.uint8) for n in sizes]
    hows = [data.draw(st.sampled_from(["copy", "copy", "hold"])) for _ in sizes]
    changed = [
        sorted(
            (at, min(n, size - at))
            for at, n in data.draw(
                st.lists(st.tuples(st.integers(0, max(0, size - 1)), st.integers(1, 9000)), max_size=3)
            )
        )
        for size in sizes
    ]
    both(buffers, hows, changed, data.draw(st.booleans()))


def test_what_is_unchanged_leaves_no_hole() -> None:
    """The first and the third block of four have changed: the file has two blocks."""
    u = np.random.default_rng(3).integers(0, 256, 4 * BLOCK, np.uint8)
    both([u], ["copy"], [[(0, 10), (2 * BLOCK, 10)]], tracked=False)


def test_nothing_changed(store: PosixStore) -> None:
    u = np.zeros(2 * BLOCK, np.uint8)
    first = in_place(store, "v1", plan_of([u], ["copy"]))
    part = in_place(store, "v2", plan_of([u], ["copy"], first))
    assert part.nbytes == 0 == store.size("v2")


def test_the_program_may_go_on_when_it_is_captured(store: PosixStore) -> None:
    """What it writes from then on is not in the file; nor does abort leave anything."""
    u = np.full(BLOCK + 5, 3, np.uint8)
    plan = plan_of([u], ["copy"])
    for key, give_up in (("v1", False), ("v2", True)):
        u[:] = 3
        file = store.create_in_memory(f"ahead/{key}", plan.most)
        assert file is not None
        writing = InPlaceWriting(file, key, 2)
        writing.capture(plan.units, 2)
        u[:] = 9
        if give_up:
            writing.abort()
            continue
        writing.finish()
    assert set(store.get("v1", 1 << 30)[: u.nbytes]) == {3}
    assert not store.exists("v2")
    assert store.list("ahead") == []


def test_a_key_that_is_taken(store: PosixStore) -> None:
    store.put("v1", b"x")
    file = store.create_in_memory("ahead/v1", 4096)
    assert file is not None
    writing = InPlaceWriting(file, "v1", 1)
    writing.capture(plan_of([np.ones(9, np.uint8)], ["copy"]).units, 1)
    with pytest.raises(KeyExistsError):
        writing.finish()
    writing.abort()
    assert store.get("v1", 9) == b"x"
    assert store.list("ahead") == []


def test_memory_that_can_t_be_read_gives_the_file_up(store: PosixStore) -> None:
    """An error in the copy reaches who captures; what there is of the file goes."""
    plan = plan_of([np.ones(MIB, np.uint8)], ["copy"])
    file = store.create_in_memory("ahead/v1", 4096)  # too small: the second half has no place
    assert file is not None
    writing = InPlaceWriting(file, "v1", 1)
    with pytest.raises((ValueError, StorageError)):
        writing.capture(plan.units, 1)
    writing.abort()
    assert store.list("ahead") == []
