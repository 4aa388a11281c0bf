"""Files in memory: each block verified before a byte of it is handed on, by as many threads as this rank has cores."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from holdfast.engine import Item, PartReader, requests, write_part
from holdfast.engine.workers import work_through
from holdfast.errors import DamageError
from holdfast.format import BLOCK, Part
from holdfast.format import digest as digest_of
from holdfast.store.posix import PosixStore

KEY = "versions/00000001-a000001/data/r000000"
SIZE = 9 * BLOCK + 5
CONTENT = np.resize(np.random.default_rng(5).integers(1, 256, BLOCK + 3, np.uint8), SIZE)  # no two blocks are alike


@pytest.fixture
def store() -> Iterator[Any]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:
        yield PosixStore(path, create=True, write_once=True)


@pytest.fixture
def part(store: Any) -> Part:
    items = [Item("small", "tree", False, None, b"t", [CONTENT[:5]]), Item("a", "tree", False, None, b"t", [CONTENT])]
    return write_part(store, KEY, 0, items, [], 2)


def file_of(store: Any) -> Path:
    return Path(store.location) / KEY


def flip(store: Any, at: int) -> None:
    file_of(store).chmod(0o600)
    with open(file_of(store), "r+b") as f:
        byte = os.pread(f.fileno(), 1, at)[0]
        os.pwrite(f.fileno(), bytes([byte ^ 1]), at)


def cut(store: Any) -> None:
    file_of(store).chmod(0o600)
    os.truncate(file_of(store), SIZE // 2)


@pytest.mark.parametrize("threads", [1, 2])
def test_nothing_of_a_block_with_a_damaged_byte_reaches_the_array(store: Any, part: Part, threads: int) -> None:
    buffer = part.objects[1].buffers[0]
    e = buffer.extents[7]
    flip(store, e.offset + e.nbytes - 1)
    out = np.zeros(SIZE, np.uint8)
    with (
        PartReader(store, KEY, part, threads) as reader,
        pytest.raises(DamageError, match="damaged in the block") as caught,
    ):
        reader.read(buffer, out, "a")
    error = caught.value
    assert (error.file, error.object, error.rank, error.offset) == (KEY, "a", 0, e.offset)
    assert not out[e.start : e.start + e.nbytes].any()
    filled = out != 0  # by other blocks, which are whole; of the content no byte is 0
    assert np.array_equal(out[filled], CONTENT[filled])


def test_a_file_that_was_cut_short_before_it_is_looked_at_is_damaged(store: Any, part: Part) -> None:
    out = np.zeros(SIZE, np.uint8)
    with PartReader(store, KEY, part, 2) as reader:
        reader.files.open(0)
        cut(store)
        with pytest.raises(DamageError):
            reader.read(part.objects[1].buffers[0], out, "a")


def test_a_file_that_changes_between_verifying_and_copying_changes_nothing(
    store: Any, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flipping(block: Any) -> bytes:
        found = digest_of(block)
        flip(store, extents[0].offset + flips.pop()) if flips else None
        return found

    extents, flips = part.objects[1].buffers[0].extents, [3]
    monkeypatch.setattr(requests, "digest", flipping)
    out = np.zeros(SIZE, np.uint8)
    with PartReader(store, KEY, part, 1) as reader:
        reader.read(part.objects[1].buffers[0], out, "a")
        assert not flips and np.array_equal(out, CONTENT)
        with pytest.raises(DamageError, match="damaged in the block"):
            reader.read(part.objects[1].buffers[0], out, "a")


@pytest.mark.parametrize(
    ("cores", "mine", "ranks", "wanted"),
    [(2, 2, 4, 1), (2, 2, 1, 2), (16, 16, 2, 4), (16, 16, 8, 2), (16, 4, 4, 4), (16, 1, 4, 1)],
)
def test_ranks_that_share_the_cores_share_them_in_memory(
    store: Any, part: Part, cores: int, mine: int, ranks: int, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []

    def noted(spans: range, threads: int, *how: Any) -> None:
        taken.append(threads)
        work_through(spans, threads, *how)

    monkeypatch.setattr(requests, "work_through", noted)
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", str(ranks))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(mine)))
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    out = np.zeros(SIZE, np.uint8)
    with PartReader(store, KEY, part, 4) as reader:
        reader.read(part.objects[1].buffers[0], out, "a")
        assert reader.files.in_memory(0)
        monkeypatch.setattr(type(reader.files), "in_memory", lambda self, source: False)
        reader.read(part.objects[1].buffers[0], out, "a")  # a device has room for more
    assert taken == [wanted, 4]
