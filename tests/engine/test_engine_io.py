"""Buffers to a data file and back, over all the sizes at which something changes: pages, windows, blocks, spans."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.engine import Item, PartReader, write_part
from holdfast.engine.plan import TREE_INLINE
from holdfast.engine.read import _SMALL, _WINDOW
from holdfast.engine.requests import REQUEST
from holdfast.engine.units import UNIT
from holdfast.errors import DamageError
from holdfast.format import BLOCK, Part
from holdfast.store import open_store

KEY = "versions/00000001-a000001/data/r000000"
_MEMORY = Path("/dev/shm")

POOL = np.random.default_rng(3).integers(1, 256, 2 * UNIT + 3 * BLOCK, np.uint8)  # no zeros: a gap never looks like content


@contextlib.contextmanager
def place() -> Iterator[Any]:
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as path:
        yield open_store(path, create=True)


def item(name: str, sizes: list[int], tree: int = 3, seed: int = 0) -> Item:
    buffers = [POOL[(seed + i) % 1000 :][:n] for i, n in enumerate(sizes)]
    return Item(name, "tree", False, None, bytes([65 + seed % 26]) * tree, buffers)


def check(items: list[Item], threads: int) -> Part:
    with place() as store:
        part = write_part(store, KEY, 0, items, [], threads)
        assert Part.decode(part.encode(), 0, "f") == part
        raw = (Path(store.location) / KEY).read_bytes()
        assert len(raw) == part.nbytes
        covered = np.zeros(len(raw), bool)
        with PartReader(store, KEY, part, threads) as reader:
            for given_item, stored in zip(items, part.objects, strict=True):
                assert reader.tree(stored) == given_item.tree
                assert (stored.tree is None) == (len(given_item.tree) > TREE_INLINE)
                source = reader.source(stored)
                assert list(source.lengths) == [b.nbytes for b in given_item.buffers]
                for i, buffer in enumerate(given_item.buffers):
                    out = np.zeros(buffer.nbytes, np.uint8)
                    source.read(i, out)
                    assert np.array_equal(out, buffer)
                for e in (e for b in stored.buffers for e in b.extents):
                    covered[e.offset : e.offset + e.nbytes] = True
        assert not np.frombuffer(raw, np.uint8)[~covered].any(), "what lies between buffers is zero"
        return part


around = st.sampled_from([0, 8, 4096, 64 << 10, _SMALL, _WINDOW, BLOCK, REQUEST, UNIT])
sizes = st.integers(0, 100) | st.builds(lambda n, d: max(0, n + d), around, st.integers(-9, 9))


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.lists(sizes, max_size=3), st.sampled_from([0, 1, TREE_INLINE, TREE_INLINE + 1])), max_size=5),
    st.integers(1, 4),
)
def test_what_is_written_is_read(shapes: list[tuple[list[int], int]], threads: int) -> None:
    check([item(str(i), list(s), tree, seed=i) for i, (s, tree) in enumerate(shapes)], threads)


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [UNIT - 1, UNIT, UNIT + 1, 2 * UNIT + BLOCK + 5])
def test_large_buffers_after_a_small_one(size: int, threads: int) -> None:
    part = check([item("small", [5]), item("large", [size], seed=7)], threads)
    assert len(part.objects[1].buffers[0].extents) == -(-size // BLOCK)


def test_nothing_is_a_file_of_no_bytes() -> None:
    assert check([], 2).nbytes == 0
    assert check([item("empty", [0, 0])], 2).nbytes == 0


def test_ten_thousand_small_objects_share_a_file_and_a_few_reads() -> None:
    rng = np.random.default_rng(1)
    items = [item(str(i), [int(n)], seed=i) for i, n in enumerate(rng.integers(0, 200, 10_000))]
    with place() as store:
        part = write_part(store, KEY, 0, items, [], 2)
        reads = 0
        with PartReader(store, KEY, part, 2) as reader:
            fetch = reader.files.read

            def counted(*args: Any) -> None:
                nonlocal reads
                reads += 1
                fetch(*args)

            reader.files.read = counted
            for given_item, stored in zip(items, part.objects, strict=True):
                out = np.empty(given_item.buffers[0].nbytes, np.uint8)
                reader.source(stored).read(0, out)
                assert np.array_equal(out, given_item.buffers[0])
        assert reads <= 2 + part.nbytes // _WINDOW
        assert [p.name for p in Path(store.location).rglob("*") if p.is_file()] == ["r000000"]


@pytest.mark.parametrize("size", [10, _SMALL, _SMALL + 1, BLOCK + 1, 2 * UNIT])
@pytest.mark.parametrize("threads", [1, 4])
def test_a_flipped_bit_is_found_wherever_it_is(size: int, threads: int) -> None:
    with place() as store:
        part = write_part(store, KEY, 0, [item("a", [3]), item("b", [size])], [], threads)
        path = Path(store.location) / KEY
        buffer = part.objects[1].buffers[0]
        for at in {0, size // 2, size - 1, min(BLOCK, size - 1), max(0, size - BLOCK)}:
            e = buffer.extents[at // BLOCK]
            place_of = e.offset + at % BLOCK
            with open(path, "r+b") as f:
                f.seek(place_of)
                byte = f.read(1)[0]
                f.seek(place_of)
                f.write(bytes([byte ^ 1]))
            with PartReader(store, KEY, part, threads) as reader:
                for out in (np.zeros(size, np.uint8), None):
                    with pytest.raises(DamageError) as caught:
                        reader.read(buffer, out, "b")
                    error = caught.value
                    assert (error.file, error.object, error.rank, error.offset) == (KEY, "b", 0, e.offset)
                reader.read(part.objects[0].buffers[0], np.zeros(3, np.uint8), "a")
            with open(path, "r+b") as f:
                f.seek(place_of)
                f.write(bytes([byte]))
        with PartReader(store, KEY, part, threads) as reader:
            reader.read(buffer, None, "b")


def test_a_failed_write_leaves_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    with place() as store:
        create = store.create

        def failing(key: str, nbytes: int) -> Any:
            writer = create(key, nbytes)
            write = writer.write

            def once(offset: int, data: Any) -> None:
                if offset >= UNIT:
                    raise OSError("no more")
                write(offset, data)

            writer.write = once
            return writer

        monkeypatch.setattr(store, "create", failing)
        with pytest.raises(OSError, match="no more"):
            write_part(store, KEY, 0, [item("a", [2 * UNIT + 1])], [], 3)
        assert not (Path(store.location) / KEY).exists()


def test_a_reader_of_a_buffer_of_another_size_is_refused() -> None:
    with place() as store:
        part = write_part(store, KEY, 0, [item("a", [30])], [], 1)
        with PartReader(store, KEY, part, 1) as reader, pytest.raises(DamageError, match="does not fit"):
            reader.source(part.objects[0]).read(0, np.zeros(29, np.uint8))
