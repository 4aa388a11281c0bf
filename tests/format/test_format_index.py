"""Indexes: parts, groups and the root, there and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import DamageError
from holdfast.format import BLOCK, Part, StoredBuffer, StoredFile, StoredObject, digest
from holdfast.format.blocks import block_count, place
from holdfast.format.index import Group, decode_header, decode_root, encode_group, encode_root

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=255)
lengths = st.integers(0, 300) | st.sampled_from([65_536, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])


@st.composite
def parts(draw: st.DrawFn) -> Part:
    shapes = draw(st.lists(st.tuples(names, st.lists(lengths, max_size=3)), max_size=5, unique_by=lambda s: s[0]))
    offsets, size = place(n for _, sizes in shapes for n in sizes)
    at = iter(offsets)
    objects = []
    for name, sizes in shapes:
        buffers = tuple(StoredBuffer(next(at), n, bytes(16 * block_count(n))) for n in sizes)
        tree = draw(st.binary(max_size=9) | st.none()) if sizes else b"\xc0"
        shard = draw(st.none() | st.just(((4, 2**40), (0, 7))))
        objects.append(StoredObject(name, "array", draw(st.booleans()), shard, tree, buffers))
    files = draw(st.lists(st.builds(StoredFile, names, st.integers(0, 2**60), st.just(bytes(16))), max_size=3))
    return Part(draw(st.integers(0, 99_999)), size, tuple(objects), tuple(files))


@given(parts())
def test_part_round_trip(part: Part) -> None:
    assert Part.decode(part.encode(), part.rank, "f") == part
    with pytest.raises(DamageError) as caught:
        Part.decode(part.encode(), part.rank + 1, "f")
    assert (caught.value.file, caught.value.rank) == ("f", part.rank + 1)


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
