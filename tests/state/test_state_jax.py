"""JAX arrays: their memory is referred to, they come back as new ones, exact in dtype, shape, weak type and place."""

from __future__ import annotations

import gc
import sys
import types
from dataclasses import dataclass

import jax_standin
import msgpack
import numpy as np
import pytest
from jax_standin import Array, Key, Sharding, Tracer, jax
from state_support import Buffers, equal, frozen

from holdfast.capture.frozen import is_frozen
from holdfast.errors import DamageError, MismatchError, UnsupportedError
from holdfast.state import State, check, decode, describe, encode, mismatch

__all__ = ["jax"]

DTYPES = ["?", "i1", "u1", "<i2", "<u2", "<i4", "<u4", "<f2", "<f4", "<c8"]


@pytest.fixture
def fake(monkeypatch):
    """The stand-in alone, for what JAX does only with several devices or processes."""
    module = jax_standin.standin()
    monkeypatch.setitem(sys.modules, "jax", module)
    return module


def filled(shape, dtype):
    return (np.random.default_rng(3).random(shape) * 100).astype(dtype)


def bits(x):
    return np.asarray(x).tobytes()


def same(a, b):
    return type(a) is type(b) and (a.dtype, a.shape, a.weak_type) == (b.dtype, b.shape, b.weak_type) and bits(a) == bits(b)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (2, 0, 3)], ids=str)
def test_arrays_come_back_as_new_ones(jax, dtype, shape):
    x = jax.device_put(filled(shape, dtype))
    encoded, source = frozen(State(x=x))
    for live in (State(x=jax.device_put(np.zeros(shape, dtype))), State(x=None), State(x=np.zeros(shape, dtype)), State()):
        old = dict(live).get("x")
        before = old if old is None else bits(old)
        decode(encoded.tree, source, live=live)
        assert same(live.x, x) and live.x is not old
        assert old is None or bits(old) == before
        assert encode(live).tree == encoded.tree
        assert [bytes(b) for b in encode(live).buffers] == [bytes(b) for b in encoded.buffers]
    assert same(decode(encoded.tree, source)["x"], x)


def test_without_jax_they_are_numpy_arrays(jax, monkeypatch):
    x = jax.device_put(filled((3, 4), "f4"))
    encoded, source = frozen(State(x=x, key=jax.random.key(7)))
    values, key = np.asarray(x).copy(), np.asarray(jax.random.key_data(jax.random.key(7))).copy()
    monkeypatch.delitem(sys.modules, "jax")
    back = decode(encoded.tree, source)
    assert equal(back["x"], values) and equal(back["key"], key)
    live = State(x=np.zeros(5), key=None)
    decode(encoded.tree, source, live=live)
    assert equal(live.x, values) and "jax" not in sys.modules


def test_anywhere_in_a_tree(jax):
    @dataclass
    class Moments:
        mean: object
        count: object

    class Model:
        def __init__(self, w):
            self.w = w

        def state_dict(self):
            return {"w": self.w}

        def load_state_dict(self, state):
            self.w = state["w"]

    def tree(i):
        x = jax.device_put(np.full(4, i, "f4"))
        return {"a": [x, (x, 1)], "m": Moments(jax.device_put(np.float32(i)), i), "model": Model(x)}

    encoded, source = frozen(tree(5))
    assert len(encoded.buffers) == 2  # one array in three places is stored once
    live = tree(0)
    inner, moments, model = live["a"], live["m"], live["model"]
    assert decode(encoded.tree, source, live=live) is live
    assert live["a"] is inner and live["m"] is moments and live["model"] is model
    assert inner[0] is inner[1][0] is model.w and np.asarray(inner[0]).tolist() == [5] * 4
    assert np.asarray(moments.mean) == 5 and moments.count == 5


def test_the_memory_is_referred_to_and_known_not_to_change(jax):
    values = filled(100_000, "f4")
    x = jax.device_put(values)
    first, second = (encode(State(x=x)).buffers[0] for _ in range(2))
    assert np.shares_memory(first, second) and not first.flags.writeable
    assert is_frozen(first) and is_frozen(first[4096:8192]) and is_frozen(second.reshape(10, -1)[3])
    x.delete()
    del x, second
    gc.collect()
    others = [jax.device_put(np.zeros(100_000, "f4")) for _ in range(5)]
    assert first.tobytes() == values.tobytes() and len(others) == 5


def test_a_copy_from_another_device_goes_with_the_buffer(fake, monkeypatch):
    monkeypatch.setattr(Array, "host", False)
    x = Array(np.arange(5.0))
    buffer = encode(State(x=x)).buffers[0]
    assert is_frozen(buffer) and buffer.tobytes() == np.arange(5.0).tobytes()
    assert x._copy is None


def test_memory_that_is_not_in_order_or_can_be_written_is_copied(fake, monkeypatch):
    x = Array(np.asfortranarray(np.arange(6.0).reshape(2, 3)))
    x._memory = np.asfortranarray(x._memory)
    buffer = encode(State(x=x)).buffers[0]
    assert buffer.view("f8").tolist() == [0, 1, 2, 3, 4, 5] and is_frozen(buffer)
    memory = np.zeros(4)
    monkeypatch.setattr(Array, "__array__", lambda self, dtype=None, copy=None: memory)
    buffer = encode(State(x=x)).buffers[0]
    memory[:] = 1
    assert not buffer.any()


@pytest.mark.parametrize("value", [0.1, 3, 2j])
@pytest.mark.parametrize("shape", [(), (4,)])
def test_weak_types_stay_weak(jax, value, shape):
    x = jax.numpy.where(jax.numpy.zeros(shape, bool), value, value)
    assert x.weak_type
    encoded, source = frozen(State(x=x))
    assert same(decode(encoded.tree, source)["x"], x)
    strong = encode(State(x=jax.device_put(np.asarray(x))))
    assert strong.tree != encoded.tree


def test_random_keys(jax):
    key = jax.random.key(3)
    encoded, source = frozen(State(key=key, other=[key]))
    live = State(key=jax.random.key(9), other=[])
    decode(encoded.tree, source, live=live)
    assert live.other[0] is live.key and type(live.key) is type(key)
    assert jax.random.key_impl(live.key) == "threefry2x32"
    assert bits(jax.random.key_data(live.key)) == bits(jax.random.key_data(key))
    alone = encode(key, root=False)
    assert describe(alone.tree) == {"kind": "jax_key", "type": "threefry2x32"}
    assert mismatch(alone.tree, 1) == "stored: jax key threefry2x32; the program has: int"
    tree = msgpack.unpackb(alone.tree)
    tree[1] = "nobody's"
    with pytest.raises(MismatchError, match="nobody's.*unrecognized PRNG"):
        decode(msgpack.packb(tree), Buffers(alone.buffers))


def test_where_the_program_has_put_the_live_one(fake):
    encoded, source = frozen(State(x=Array(np.ones(3, "f4"))))
    elsewhere = Sharding("gpu:1")
    live = State(x=Array(0, elsewhere))
    live.x.delete()  # as after a donation
    decode(encoded.tree, source, live=live)
    assert live.x.sharding is elsewhere and live.x.committed
    live = State(x=Array(0))
    decode(encoded.tree, source, live=live)
    assert not live.x.committed
    live = State(x=Array(0, Sharding("gpu:1", "gpu:9", here=False)))
    with pytest.raises(MismatchError, match=r"state\.x.*other processes.*Nothing stored was changed"):
        decode(encoded.tree, source, live=live, name="state")


def test_a_type_that_jax_would_narrow_is_refused(jax):
    tree = msgpack.packb(["jax", "<f8", [2], "C", 0, False])
    with pytest.raises(MismatchError, match="float64.*makes float32 of it; set jax_enable_x64"):
        decode(tree, Buffers([bytes(16)]))
    tree = msgpack.packb(["jax", "<f2", [], "C", 0, True])
    with pytest.raises(MismatchError, match="weakly typed float16"):
        decode(tree, Buffers([bytes(2)]))


def test_types_that_numpy_does_not_have(monkeypatch):
    tree = msgpack.packb(["jax", "bfloat16", [2, 1], "C", 0, False])
    assert describe(tree) == {"kind": "jax", "dtype": "bfloat16", "shape": [2, 1]}
    data = np.array([1, 2], "<u2").tobytes()
    monkeypatch.delitem(sys.modules, "ml_dtypes", raising=False)
    back = decode(tree, Buffers([data]))
    assert back.dtype == "V2" and back.shape == (2, 1) and back.tobytes() == data
    monkeypatch.setitem(sys.modules, "ml_dtypes", types.SimpleNamespace(bfloat16="<u2"))
    assert decode(tree, Buffers([data])).tolist() == [[1], [2]]


def test_types_that_numpy_gets_as_others_are_refused(fake):
    x = Array(np.ones(3, bool))
    x.dtype = "int1"
    with pytest.raises(UnsupportedError, match="int1 to NumPy as bool"):
        check("s", State(x=x))


if "jax" in jax_standin.KINDS:  # the stand-in has none of these types

    @pytest.mark.parametrize("jax", ["jax"], indirect=True)
    @pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4"])
    def test_the_types_of_jax_itself(jax, name):
        x = jax.numpy.asarray(np.arange(-3, 3), "f4").astype(name)
        encoded, source = frozen(State(x=x))
        assert is_frozen(encoded.buffers[0]) and encoded.buffers[0].size == 6 * np.asarray(x).itemsize
        assert same(decode(encoded.tree, source)["x"], x)

    @pytest.mark.parametrize("jax", ["jax"], indirect=True)
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int4"])
    def test_a_donation_leaves_what_is_held_as_it_is(jax, dtype):
        x = jax.numpy.ones(1 << 16, dtype)
        buffer = encode(State(x=x)).buffers[0]
        before = buffer.tobytes()
        y = jax.jit(lambda x: x + x, donate_argnums=0)(x)
        assert (np.asarray(y).astype("f4") == 2).all() and buffer.tobytes() == before


@pytest.mark.parametrize("pickle", [False, True])
def test_as_a_root_they_are_refused_with_the_way_out(jax, pickle):
    for x in (jax.device_put(np.ones(3, "f4")), jax.random.key(1)):
        with pytest.raises(UnsupportedError) as e:
            check("x", x, pickle=pickle)
        assert str(e.value).startswith("x (") and "immutable" in str(e.value) and "run.state(x=…)" in str(e.value)


def test_what_has_no_values_here_is_refused(fake):
    gone = Array(1.0)
    gone.delete()
    spread = Array(np.zeros(4), Sharding("gpu:0", "gpu:1"))
    remote = Array(np.zeros(4), Sharding("gpu:8", here=False))
    for x, words in [
        (gone, ["deleted", "donated", "s.x = f(s.x)"]),
        (Tracer(1.0), ["tracer", "jit"]),
        (spread, ["2 devices", "addressable_shards", "device_put"]),
        (remote, ["devices of other processes", "addressable_shards"]),
        (Key(np.zeros(2, "u4"), object()), ["no name", "threefry2x32"]),
    ]:
        with pytest.raises(UnsupportedError) as e:
            check("s", State(x=[x]))
        text = str(e.value)
        assert text.startswith("s.x[0] (") and "Nothing was saved or changed" in text
        for word in words:
            assert word in text


def test_describe_and_mismatch_say_what_they_are(jax):
    x = jax.device_put(np.zeros((3, 4), "f4"))
    alone = encode(x, root=False)
    assert alone.kind == "tree" and describe(alone.tree) == {"kind": "jax", "dtype": "float32", "shape": [3, 4]}
    assert mismatch(alone.tree, np.zeros(2)) == "stored: jax array float32 (3, 4); the program has: float64 array (2,)"
    assert mismatch(encode([1]).tree, x) == "stored: list; the program has: jax array float32 (3, 4)"
    assert mismatch(alone.tree, x) == "stored: jax array float32 (3, 4); the program has: jax array float32 (3, 4)"


def test_golden_bytes(jax):
    x = jax.device_put(np.zeros((2, 3), "<f4"))
    assert encode(x, root=False).tree == b"\x96\xa3jax\xa3<f4\x92\x02\x03\xa1C\x00\xc2"
    key = encode(jax.random.key(0), root=False).tree
    assert key == b"\x93\xa7jax_key\xacthreefry2x32\x96\xa3jax\xa3<u4\x91\x02\xa1C\x00\xc2"


BAD = {
    "short": ["jax", "<f4", [2], "C", 0],
    "size": ["jax", "<f4", [3], "C", 0, False],
    "order": ["jax", "<f4", [2], "F", 0, False],
    "weak": ["jax", "<f4", [2], "C", 0, 1],
    "buffer": ["jax", "<f4", [2], "C", 9, False],
    "negative buffer": ["jax", "<f4", [2], "C", -1, False],
    "negative": ["jax", "<f4", [-2], "C", 0, False],
    "named type": ["jax", "float32", [2], "C", 0, False],
    "attribute": ["jax", "finfo", [2], "C", 0, False],
    "objects": ["jax", "|O", [1], "C", 0, False],
    "text": ["jax", "<U2", [1], "C", 0, False],
    "fields": ["jax", ["list", [["tuple", ["a", "<f8"]]]], [1], "C", 0, False],
    "absurd": ["jax", "<f4", [2**62, 2**62, 0], "C", 1, False],
    "buffer used twice": ["list", [["jax", "<f4", [2], "C", 0, False], ["array", "<f4", [2], "C", 0]]],
    "a key without bits": ["jax_key", "threefry2x32", ["list", []]],
    "a key of nothing": ["jax_key", "threefry2x32", 5],
    "a key in a key": ["jax_key", "threefry2x32", ["jax_key", "threefry2x32", []]],
    "long key": ["jax_key", "threefry2x32", ["jax", "<u4", [2], "C", 0, False], 1],
}


@pytest.mark.parametrize("case", BAD)
def test_malformed_nodes_are_damage(jax, case):
    with pytest.raises(DamageError) as e:
        decode(msgpack.packb(BAD[case]), Buffers([bytes(8), b""]), name="u")
    assert "damaged" in str(e.value)
    packed = msgpack.packb(BAD[case])
    if case in ("order", "weak", "named type", "attribute", "objects"):
        with pytest.raises(DamageError):
            describe(packed)
