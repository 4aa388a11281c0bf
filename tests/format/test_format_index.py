"""Indexes: parts, groups and the root, there and back."""

from __future__ import annotations

import time
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import DamageError
from holdfast.format import (
    BLOCK,
    DataSource,
    Extent,
    Part,
    StoredBuffer,
    StoredFile,
    StoredObject,
    digest,
    drop_hidden,
    pack_runs,
    simple_buffer,
    visible,
)
from holdfast.format.blocks import block_count, place, round_up
from holdfast.format.index import Group, decode_header, decode_root, encode_group, encode_root

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=255)
lengths = st.integers(0, 300) | st.sampled_from([65_536, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])


OTHERS = (
    DataSource("00000002-a000001", "0" * 32, 3, 1 << 30),
    DataSource("00000003-a000002", "f" * 32, 0, 1 << 40),
    DataSource("00000009-a000002", "", 100_000, 1 << 20),
)


def layered(nbytes: int, at: int, runs: list[tuple[int, int]]) -> StoredBuffer:
    """A buffer whose blocks are in the first source, at `at`, with runs over them in the part's own file."""
    base = simple_buffer(at, nbytes, bytes(16 * block_count(nbytes)))
    below = tuple(e._replace(source=1) for e in base.extents)
    total = sum(n for _, n in runs)
    return StoredBuffer(nbytes, (*below, Extent(0, 0, total, b"d" * 16, runs[0][0], pack_runs(runs))))


@st.composite
def parts(draw: st.DrawFn) -> Part:
    shapes = draw(st.lists(st.tuples(names, st.lists(lengths, max_size=3)), max_size=5, unique_by=lambda s: s[0]))
    offsets, size = place(n for _, sizes in shapes for n in sizes)
    at = iter(offsets)
    objects = []
    for name, sizes in shapes:
        buffers = tuple(simple_buffer(next(at), n, bytes(16 * block_count(n))) for n in sizes)
        tree = draw(st.binary(max_size=9) | st.none()) if sizes else b"\xc0"
        shard = draw(st.none() | st.just(((4, 2**40), (0, 7))))
        replicated = shard is None and draw(st.booleans())
        objects.append(StoredObject(name, "array", draw(st.booleans()), shard, tree, buffers, replicated))
    sources: tuple[DataSource, ...] = ()
    if draw(st.booleans()):
        runs, last = [], 0
        for gap, n in draw(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=1, max_size=20)):
            runs.append((last + gap, n))
            last += gap + n
        buffer = layered(BLOCK + 1000, 4096, runs)
        moved = [e._replace(offset=e.offset + size) if e.source == 0 else e for e in buffer.extents]
        objects.append(StoredObject("\0layered", "array", False, None, b"", (StoredBuffer(buffer.nbytes, tuple(moved)),)))
        size = round_up(size + buffer.extents[-1].nbytes)
        sources = OTHERS
    files = draw(
        st.lists(st.builds(StoredFile, names, st.integers(0, 2**60), st.just(bytes(16)), st.just("/y")), max_size=3)
    )
    return Part(draw(st.integers(0, 99_999)), size, tuple(objects), tuple(files), sources)


@given(parts())
def test_part_round_trip(part: Part) -> None:
    assert Part.decode(part.encode(), part.rank, "f") == part
    with pytest.raises(DamageError) as caught:
        Part.decode(part.encode(), part.rank + 1, "f")
    assert (caught.value.file, caught.value.rank) == ("f", part.rank + 1)


# -- what a part may not say ----------------------------------------------------------------

RUNS = [(1, 5), (7, 3), (100, 1)]
GOOD = layered(BLOCK + 1000, 4096, RUNS)
PART = Part(3, 8192, (StoredObject("u", "array", False, None, b"", (GOOD,)),), (), OTHERS)


def edited(edit: Any) -> bytes:
    body = msgpack.unpackb(PART.encode())
    edit(body)
    return msgpack.packb(body)


def extents(body: Any) -> list[Any]:
    found = body["objects"][0][5][0][1]
    assert isinstance(found, list)
    return found


def put(i: int, k: int, value: Any) -> Any:
    """An edit of member `k` of extent `i`."""
    return lambda body: extents(body)[i].__setitem__(k, value)


def source(i: int, k: int, value: Any) -> Any:
    return lambda body: body["sources"][i].__setitem__(k, value)


WRONG = {
    "held in no known way": lambda body: body["objects"][0].__setitem__(3, False),
    "held in a way that is a number": lambda body: body["objects"][0].__setitem__(3, 1),
    "a source that is none": put(0, 0, 4),
    "a negative source": put(0, 0, -1),
    "a place beyond the file": put(0, 1, 1 << 30),
    "an extent of nothing": put(2, 2, 0),
    "more than a block": put(0, 2, BLOCK + 1),
    "half a digest": put(0, 3, b"x" * 8),
    "beyond the buffer": put(1, 4, 2000 + BLOCK),
    "a hole at the start": put(0, 4, 1),
    "a hole in the middle": lambda body: extents(body).pop(0),
    "a hole at the end": lambda body: extents(body).pop(1),
    "nothing but pages": lambda body: extents(body).__delitem__(slice(0, 2)),
    "a buffer longer than what covers it": lambda body: body["objects"][0][5][0].__setitem__(0, BLOCK + 1001),
    "no runs": put(2, 4, b""),
    "half a run": put(2, 4, pack_runs(RUNS)[:-8]),
    "a run of nothing": put(2, 4, pack_runs([(0, 5), (7, 4), (100, 0)])),
    "runs that overlap": put(2, 4, pack_runs([(0, 5), (4, 3), (100, 1)])),
    "runs that fall": put(2, 4, pack_runs([(7, 3), (0, 5), (100, 1)])),
    "a run beyond the buffer": put(2, 4, pack_runs([(0, 5), (7, 3), (BLOCK + 1000, 1)])),
    "a negative run": put(2, 4, pack_runs([(0, 5), (7, 3)]) + b"\xff" * 8 + b"\1" + bytes(7)),
    "runs whose sum wraps around": put(2, 4, pack_runs([(0, 1 << 61), (1 << 61, 1 << 61), (1 << 62, 1 << 61)])),
    "runs of another length than the extent": put(2, 4, pack_runs([(0, 5), (7, 3)])),
    "extents that share bytes": put(1, 1, 4096),
    "a source twice": lambda body: body["sources"].append(list(body["sources"][0])),
    "a file by two digests": lambda body: body["sources"].append([*body["sources"][0][:1], "1" * 32, 9, 4096]),
    "two versions that are this one": source(1, 1, ""),
    "its own file as a source": source(2, 2, 3),
    "a source with a path": source(0, 0, "../00000002-a000001"),
    "a source that is no version": source(0, 0, "00000002"),
    "a source with an upper-case digest": source(0, 1, "A" * 32),
    "a source with a short digest": source(0, 1, "0" * 31),
    "a source of half a page": source(0, 3, (1 << 30) + 1),
    "a source of a negative rank": source(0, 2, -1),
    "sources that are none": lambda body: body.update(sources=None),
    "no sources": lambda body: body.pop("sources"),
}  # fmt: skip


def test_the_part_that_is_edited_is_right() -> None:
    assert Part.decode(edited(lambda body: None), 3, "f") == PART


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_part_is_damage(wrong: str) -> None:
    with pytest.raises(DamageError):
        Part.decode(edited(WRONG[wrong]), 3, "f")


@given(st.data())
def test_random_corruption_is_damage_or_a_sane_part(data: st.DataObject) -> None:
    encoded = bytearray(PART.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        part = Part.decode(bytes(encoded), 3, "f")
    except DamageError:
        return
    sizes = [part.nbytes, *(s.nbytes for s in part.sources)]
    for buffer in (b for o in part.objects for b in o.buffers):
        assert all(0 <= e.offset <= e.offset + e.nbytes <= sizes[e.source] for e in buffer.extents)
        assert int(visible(buffer).nbytes.sum()) == buffer.nbytes


def test_a_part_of_100_000_runs_is_decoded_quickly() -> None:
    """Not a figure of speed, but no step for each run in Python either."""
    runs = [(8192 * i, 4096) for i in range(1024)]
    pages = tuple(Extent(0, 4 * i * BLOCK, BLOCK, bytes(16), 0, pack_runs(runs)) for i in range(100))
    nbytes = 2 * BLOCK
    base = tuple(e._replace(source=1) for e in simple_buffer(0, nbytes, bytes(32)).extents)
    part = Part(0, 500 * BLOCK, (StoredObject("u", "a", False, None, b"", (StoredBuffer(nbytes, base + pages),)),), (), OTHERS)
    encoded = part.encode()
    began = time.process_time()
    assert Part.decode(encoded, 0, "f") == part
    assert len(drop_hidden(part.objects[0].buffers[0]).extents) == 3
    assert time.process_time() - began < 2


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=64), st.integers(0, 5))
def test_group_round_trip(contents: list[bytes], at: int) -> None:
    data, group = encode_group(64 * at, contents)
    assert (group.first, group.ranks, group.nbytes) == (64 * at, len(contents), len(data))
    entries = decode_header(data[: group.header], group, "f")
    assert [data[o : o + n] for o, n, _ in entries] == contents
    assert [name for _, _, name in entries] == [digest(c) for c in contents]


@given(st.integers(1, 1000))
def test_root_round_trip(ranks: int) -> None:
    groups = [Group(first, min(64, ranks - first), 5000, 40, bytes([first % 256] * 16)) for first in range(0, ranks, 64)]
    assert decode_root(encode_root(groups), ranks, "f") == groups
    for other in (ranks - 1, ranks + 1):
        with pytest.raises(DamageError):
            decode_root(encode_root(groups), other, "f")


def test_any_flipped_bit_of_a_header_is_damage() -> None:
    data, group = encode_group(0, [b"one", b"two"])
    for at in range(group.header):
        header = bytearray(data[: group.header])
        header[at] ^= 4
        with pytest.raises(DamageError):
            decode_header(bytes(header), group, "f")
