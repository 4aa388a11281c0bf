"""Extents handed over from files in memory: in runs, each verified as a whole; what can't be looked at is read."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from holdfast.engine import Item, PartReader, inmemory, write_part
from holdfast.engine.inmemory import RUN, hand_over
from holdfast.errors import DamageError
from holdfast.format import BLOCK, Part
from holdfast.format import digest as digest_of
from holdfast.store.mapped import MappedReader
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


def runs_of(store: Any, part: Part, threads: int) -> list[tuple[list[int], int, int]]:
    found = []
    with PartReader(store, KEY, part, threads) as reader:
        extents = part.objects[1].buffers[0].extents

        def deliver(numbers: Any, first: int, memory: Any) -> None:
            found.append((list(numbers), first, memory.nbytes))

        assert hand_over(reader.files, threads, extents, range(len(extents)), "a", deliver) == []
    return sorted(found)


def test_each_thread_has_the_same_share_in_runs_of_neighbours(store: Any, part: Part) -> None:
    extents = part.objects[1].buffers[0].extents
    assert runs_of(store, part, 1) == [(list(range(10)), extents[0].offset, SIZE)]
    assert [len(numbers) for numbers, _, _ in runs_of(store, part, 2)] == [4, 4, 2]
    for numbers, first, nbytes in runs_of(store, part, 3):
        assert first == extents[numbers[0]].offset and nbytes == sum(extents[i].nbytes for i in numbers)


def test_runs_are_long_where_there_is_much_and_never_none() -> None:
    for threads in (1, 2, 3, 8):
        for nbytes in (1, BLOCK, RUN - 1, RUN, 3 * RUN + 1, 100 * RUN):
            length = inmemory._length(nbytes, threads)
            assert length >= min(RUN, -(-nbytes // threads)) > 0
            assert length < 2 * RUN
            assert -(-nbytes // length) % threads == 0 or nbytes < threads


@pytest.mark.parametrize("threads", [1, 2])
def test_nothing_of_a_run_with_a_damaged_byte_reaches_the_array(store: Any, part: Part, threads: int) -> None:
    buffer = part.objects[1].buffers[0]
    damaged = [numbers for numbers, _, _ in runs_of(store, part, threads)][-1]
    e = buffer.extents[damaged[-1]]
    flip(store, e.offset + e.nbytes - 1)
    out = np.zeros(SIZE, np.uint8)
    with (
        PartReader(store, KEY, part, threads) as reader,
        pytest.raises(DamageError, match="damaged in the block") as caught,
    ):
        reader.read(buffer, out, "a")
    error = caught.value
    assert (error.file, error.object, error.rank, error.offset) == (KEY, "a", 0, e.offset)
    begin = buffer.extents[damaged[0]].start
    assert not out[begin:].any()
    filled = out != 0  # by other runs, which are whole; of the content no byte is 0
    assert np.array_equal(out[filled], CONTENT[filled])


def test_a_file_that_was_cut_short_before_it_is_looked_at_is_damaged(store: Any, part: Part) -> None:
    out = np.zeros(SIZE, np.uint8)
    with PartReader(store, KEY, part, 2) as reader:
        reader.files.open(0)
        cut(store)
        with pytest.raises(DamageError):
            reader.read(part.objects[1].buffers[0], out, "a")


def test_a_file_that_is_cut_short_between_verifying_and_copying_is_damaged(
    store: Any, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    extents, digest, count = part.objects[1].buffers[0].extents, digest_of, 0

    def cutting(block: Any) -> bytes:
        nonlocal count
        found, count = digest(block), count + 1
        if count == len(extents):
            cut(store)
        return found

    monkeypatch.setattr(inmemory, "digest", cutting)
    out = np.zeros(SIZE, np.uint8)
    with PartReader(store, KEY, part, 1) as reader, pytest.raises(DamageError, match="cut short"):
        reader.read(part.objects[1].buffers[0], out, "a")
    assert count == len(extents) and not out.any()


@pytest.mark.parametrize("after", [0, 1, 3, 10, 11])
def test_what_can_not_be_looked_at_any_more_is_read(
    store: Any, part: Part, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    view, count = MappedReader.view, 0

    def failing(self: MappedReader, offset: int, nbytes: int) -> Any:
        nonlocal count
        count += 1
        return None if count > after else view(self, offset, nbytes)

    monkeypatch.setattr(MappedReader, "view", failing)
    out = np.zeros(SIZE, np.uint8)
    with PartReader(store, KEY, part, 1) as reader:
        reader.read(part.objects[1].buffers[0], out, "a")
    assert np.array_equal(out, CONTENT)
    assert count > after


def mapped(path: Path) -> int:
    return Path("/proc/self/maps").read_text().count(str(path))


def test_a_large_mapping_is_given_back_beside_the_program_and_a_view_stays(
    store: Any, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.store.mapped._LARGE", BLOCK)
    reader = store.open(KEY)
    e = part.objects[1].buffers[0].extents[0]
    view = reader.view(e.offset, e.nbytes)
    assert mapped(file_of(store)) == 1
    reader.close()
    assert np.array_equal(view, CONTENT[: e.nbytes])
    del view
    deadline = time.monotonic() + 10.0
    while mapped(file_of(store)):
        assert time.monotonic() < deadline, "the mapping is still there"
        time.sleep(0.01)


def test_a_mapping_goes_at_once_where_no_thread_can_be_had(
    store: Any, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*args: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("holdfast.store.mapped._LARGE", 1)
    monkeypatch.setattr("holdfast.store.mapped.start_new_thread", none)
    reader = store.open(KEY)
    assert reader.view(0, 1) is not None
    assert mapped(file_of(store)) == 1
    reader.close()
    assert mapped(file_of(store)) == 0
