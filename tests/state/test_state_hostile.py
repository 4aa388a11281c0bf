"""Whatever bytes come from storage, only our own errors come out, before memory is taken or code is run."""

from __future__ import annotations

import contextlib
import random
import tracemalloc
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from state_support import Buffers

from holdfast.errors import DamageError, MismatchError, UnsupportedError
from holdfast.state import MISSING, State, decode, describe, encode, mismatch, register_type
from holdfast.state.packing import _scan, unpack

ALLOWED = (DamageError, MismatchError, UnsupportedError)


@dataclass
class Config:
    rate: float = 0.5
    table: object = None


def samples():
    seed = np.random.default_rng(1)
    yield np.zeros((2, 3))
    yield np.zeros(3, [("a", "<f8"), (("t", "b"), "i2", (2,)), ("c", [("d", "S3")])])
    yield {"a": [1, 2.5, (None, True)], "b": {1, "x"}, "c": frozenset({2}), "d": bytearray(b"xy"), "e": 2**80, "f": 1j}
    yield [datetime(2024, 1, 1), date(2024, 1, 1), timedelta(1), np.float32(1), np.zeros(2), Config(1.0, [3])]
    for bits in (np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64):
        yield np.random.Generator(bits(seed.integers(9)))
        yield np.random.RandomState(bits(1))
    yield random.Random(1)
    yield Config(2.0, np.ones(3))


SAMPLES = [encode(s) for s in samples()]
TAGS = [
    "int",
    "complex",
    "list",
    "tuple",
    "set",
    "frozenset",
    "dict",
    "bytearray",
    "datetime",
    "date",
    "time",
    "timedelta",
    "enum",
    "dataclass",
    "array",
]
TAGS += ["scalar", "rng", "state_dict", "adapter", "pickle", "ref", "unknown"]
WORDS = [
    "<f8",
    "|O",
    "O",
    "f8,f8",
    "<U9999999999",
    "C",
    "F",
    "A",
    "a:B",
    "PCG64",
    "Generator:MT19937",
    "Random",
    "-1",
    "",
]

plain = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.integers(-1, 5)
    | st.floats()
    | st.sampled_from(WORDS + TAGS)
    | st.text(max_size=3)
    | st.binary(max_size=20)
)
nodes = st.recursive(
    plain,
    lambda s: (
        st.lists(s, max_size=5)
        | st.tuples(st.sampled_from(TAGS), s)
        | st.tuples(st.sampled_from(TAGS), st.lists(s, max_size=4))
        | st.tuples(st.sampled_from(TAGS), st.sampled_from(WORDS), s)
        | st.tuples(
            st.just("array"), s, st.lists(st.integers(0, 3), max_size=3), st.sampled_from("CF"), st.integers(0, 2)
        )
        | st.dictionaries(st.text(max_size=2), s, max_size=2)
    ),
    max_leaves=25,
)


def lives():
    return [MISSING, *samples(), [], {}, set(), bytearray(), State(a=1), 5, None]


def attack(tree, lengths=(0, 8, 24, 48)):
    """All that the library ever does with a tree; any other exception than ours fails the test."""
    for look in (describe, lambda t: mismatch(t, [1], pickle=True)):
        with contextlib.suppress(*ALLOWED):
            look(tree)
    done = 0
    for live in lives():
        try:
            decode(tree, Buffers([bytes(n) for n in lengths]), live=live)
            done += 1
        except ALLOWED:
            pass
    return done


@given(nodes)
@settings(max_examples=300)
def test_any_messagepack_value(node):
    register_type(Config)
    attack(msgpack.packb(node))


@given(st.binary(max_size=60))
@settings(max_examples=200)
def test_any_bytes(data):
    attack(data)


@st.composite
def mutated(draw):
    """A valid tree in which some nodes are replaced, dropped or doubled."""
    encoded = draw(st.sampled_from(SAMPLES))
    root = msgpack.unpackb(encoded.tree)
    for _ in range(draw(st.integers(1, 2))):
        at = root
        while True:
            index = draw(st.integers(0, len(at) - 1))
            if type(at[index]) is not list or not at[index] or draw(st.integers(0, 2)) == 0:
                break
            at = at[index]
        how = draw(st.integers(0, 3))
        if how == 0:
            del at[index]
        elif how == 1:
            at.insert(index, at[index])
        else:
            at[index] = draw(plain | nodes)
        if not root:
            break
    return msgpack.packb(root), [b.size for b in encoded.buffers]


@given(mutated())
@settings(max_examples=400)
def test_mutated_trees(case):
    register_type(Config)
    attack(*case)


@given(st.sampled_from(SAMPLES), st.integers(0, 10**6), st.integers(0, 255))
@settings(max_examples=200)
def test_mutated_bytes(encoded, at, byte):
    tree = bytearray(encoded.tree)
    tree[at % len(tree)] = byte
    attack(bytes(tree), [b.size for b in encoded.buffers])
    attack(encoded.tree[: at % len(tree)], [b.size for b in encoded.buffers])


@given(nodes)
@settings(max_examples=150)
def test_the_scan_agrees_with_the_unpacker(node):
    packed = msgpack.packb(node)
    if not holds_map(node):
        _scan(packed)
        for bad in (packed[:-1], packed + b"\x00"):
            with pytest.raises(ValueError):
                _scan(bad)


def holds_map(node):
    return isinstance(node, dict) or (isinstance(node, (list, tuple)) and any(map(holds_map, node)))


def test_the_samples_themselves_are_sound():
    register_type(Config)
    for encoded in SAMPLES:
        assert attack(encoded.tree, [b.size for b in encoded.buffers]) >= (0 if b"rng" in encoded.tree else 2)


BAD = {
    "objects": ["array", "|O", [1], "C", 1],
    "named type": ["array", "float64", [1], "C", 1],
    "several fields": ["array", "f8,f8", [1], "C", 1],
    "hidden objects": ["array", ["list", [["tuple", ["a", "|O"]]]], [1], "C", 1],
    "huge item": ["array", "|V9999999999", [1], "C", 1],
    "huge subarray": ["array", ["list", [["tuple", ["a", "<f8", ["tuple", [2**62, 4]]]]]], [0], "C", 0],
    "doubled field": ["array", ["list", [["tuple", ["a", "<f8"]], ["tuple", ["a", "<f8"]]]], [0], "C", 0],
    "absurd shape": ["array", "<f8", [2**62, 2**62], "C", 1],
    "absurd and empty": ["array", "<f8", [2**62, 2**62, 0], "C", 0],
    "negative": ["array", "<f8", [-1], "C", 1],
    "a bool": ["array", "<f8", [True], "C", 1],
    "dimensions": ["array", "<f8", [1] * 65, "C", 1],
    "size": ["array", "<f8", [2], "C", 1],
    "buffer": ["array", "<f8", [1], "C", 99],
    "order": ["array", "<f8", [1], "K", 1],
    "buffer used twice": ["list", [["array", "<f8", [1], "C", 1], ["array", "<f8", [1], "C", 1]]],
    "ref to nowhere": ["list", [["ref", 5]]],
    "ref to itself": ["list", [["ref", 0]]],
    "inner pickle": ["list", [["pickle", 1]]],
    "unhashable member": ["set", [["list", []]]],
    "unhashable key": ["dict", [["list", []], 1]],
    "half a pair": ["dict", [1]],
    "same key": ["dict", [1, 2, 1, 3]],
    "same member": ["set", [1, 1]],
    "tag": ["import", "os:system"],
    "generator": ["rng", "Generator:Evil", ["dict", []]],
    "int": ["int", "١٢"],
    "scalar": ["scalar", "<f8", b"1"],
    "code point": ["scalar", "<U1", b"\xff\xff\xff\xff"],
    "date": ["date", "2024-13-45"],
    "fold": ["datetime", "2024-01-01T00:00:00", 7],
    "timedelta": ["timedelta", 2**60, 0, 0],
}


@pytest.mark.parametrize("case", BAD)
def test_malformed_structures_are_damage(case):
    with pytest.raises(DamageError) as e:
        decode(msgpack.packb(BAD[case]), Buffers([b"", bytes(8)]), name="u")
    assert "damaged" in str(e.value) and e.value.object == "u"


@pytest.mark.parametrize(
    ("kind", "where", "value"),
    [
        ("RandomState:MT19937", "pos", 10**6),
        ("RandomState:MT19937", "pos", -1),
        ("Generator:Philox", "buffer_pos", 99),
        ("Generator:PCG64", "state", 2**128),
        ("Generator:PCG64", "uinteger", 2**32),
        ("Generator:PCG64", "bit_generator", "MT19937"),
        ("Generator:PCG64", "pool_size", 2**40),
        ("Generator:PCG64", "n_children_spawned", -1),
    ],
)
def test_impossible_generator_states_never_reach_numpy(kind, where, value):
    outer, bits = kind.split(":")
    generator = getattr(np.random, outer)(getattr(np.random, bits)(1))
    encoded = encode(generator)
    changed = 0

    def change(node):
        nonlocal changed
        if type(node) is list:
            for i in range(len(node)):
                change(node[i])
                if node[i] == where and i + 1 < len(node) and type(node[i + 1]) in (int, str):
                    node[i + 1] = value if value != 2**128 else ["int", str(value)]
                    changed += 1
                elif node[i] == where and i + 1 < len(node) and node[i + 1][0] == "int":
                    node[i + 1] = ["int", str(value)]
                    changed += 1

    root = msgpack.unpackb(encoded.tree)
    change(root)
    assert changed
    for live in (MISSING, generator):
        with pytest.raises(DamageError, match="generator's state"):
            decode(msgpack.packb(root), Buffers(encoded.buffers), live=live)


def test_depth_is_limited():
    node = 1
    for _ in range(201):
        node = ["tuple", [node]]
    with pytest.raises(DamageError, match="deep"):
        decode(msgpack.packb(node), Buffers([]))
    with pytest.raises(DamageError):
        decode(b"\x91" * 100_000 + b"\x01", Buffers([]))


def test_lengths_that_lie_take_no_memory():
    tracemalloc.start()
    try:
        for header in (
            b"\xdd\x00\x10\x00\x00",
            b"\xdd\xff\xff\xff\xff",
            b"\xc6\xff\xff\xff\xff",
            b"\xdb\xff\xff\xff\xff",
        ):
            for tree in (header * 400, header * 400 + bytes(1 << 20), b"\x91" * 300 + header + bytes(10)):
                with pytest.raises(DamageError):
                    unpack(tree)
        with pytest.raises(DamageError):
            decode(msgpack.packb(["array", "<f8", [2**40], "C", 0]), Buffers([b""]))
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_large_trees_are_scanned_and_read():
    value = [float(i) for i in range(20_000)] + ["é" * 300, b"x" * 70_000, [0] * 70_000, -5, 2**63, -(2**62)]
    assert decode(encode(value).tree, Buffers([])) == value
