"""Arrays of every fixed-size dtype and every layout come back to the bit, into their own memory."""

from __future__ import annotations

import timeit

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from state_support import Buffers, again, equal, frozen

from holdfast.errors import MismatchError, UnsupportedError
from holdfast.state import check, decode, describe, encode, mismatch

ALIGNED = np.dtype({"names": ["a", "b"], "formats": ["u1", "f8"]}, align=True)
DTYPES = [
    *("?", "i1", "u1", "<i2", ">i4", "<u8", ">u2", "<f2", ">f4", "<f8", "g", "G", "<c8", ">c16"),
    *("<M8[ns]", ">M8[25s]", "<M8", "<m8[D]", "S5", "<U3", ">U3", "S0", "U0", "V7", "V0"),
    np.dtype([("x", "<f8"), ("y", ">i2", (2, 3)), ("s", "S3")]),
    np.dtype([("in", [("u", "<f4"), ("v", [("w", "?")], (2,))]), ("z", "<U2")]),
    np.dtype([(("a title", "n"), "<i4"), ("m", "<M8[ms]")]),
    ALIGNED,
    np.dtype({"names": ["p"], "formats": [ALIGNED], "itemsize": 40, "offsets": [8]}),
    np.dtype([]),
    np.dtype([("e", "<f8", (0,)), ("f", "<f8", (1,))]),
]


def filled(shape, dtype, seed=0):
    array = np.zeros(shape, dtype)
    if array.nbytes:
        raw = np.random.default_rng(seed).integers(0, 2 if array.dtype.kind in "b" else 100, array.nbytes)
        if array.dtype.kind != "U":
            array.reshape(-1).view(np.uint8)[:] = raw
    return array


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (2, 0, 3), (1, 1)], ids=str)
def test_every_dtype_and_shape_round_trips(dtype, shape):
    array = filled(shape, dtype)
    back = again(array)
    assert equal(back, array) and back.dtype.fields == array.dtype.fields
    live = np.zeros(shape, dtype)
    assert again(array, live) is live and equal(live, array)


@given(hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, min_side=0)))
@settings(max_examples=150, deadline=None)
def test_any_array_round_trips(array):
    assert equal(again(array), array)
    live = np.empty_like(array, order="C")
    assert again(array, live) is live and equal(live, array)


@given(hnp.array_dtypes(allow_subarrays=True, max_size=4), st.booleans())
@settings(max_examples=100, deadline=None)
def test_any_structured_dtype_round_trips(dtype, align):
    dtype = np.dtype(dtype, align=align)
    array = filled((2,), dtype)
    assert again(array).dtype == dtype
    assert equal(again(array), array)


def layouts():
    base = np.arange(720.0).reshape(6, 10, 12)
    return {
        "C": base.copy(),
        "F": np.asfortranarray(base),
        "transposed": base.copy().transpose(1, 0, 2),
        "strided": base.copy()[::2, 1:-1, ::3],
        "negative": base.copy()[::-1, :, ::-2],
        "row": base.copy()[2],
        "column": base.copy()[:, 3, 4],
        "0-d view": base.copy()[1, 2, 3, ...],
        "field": np.zeros((4, 5), [("a", "u1"), ("b", "f8")])["b"],
        "diagonal": np.zeros((7, 7)).diagonal().T.copy(),
    }


@pytest.mark.parametrize("name", layouts())
def test_layouts_round_trip_and_contiguous_ones_are_views(name):
    array = layouts()[name]
    encoded, source = frozen(array)
    contiguous = array.flags.c_contiguous or array.flags.f_contiguous
    assert np.shares_memory(encoded.buffers[0], array) == contiguous
    assert equal(decode(encoded.tree, source), array)
    for order in "CF":
        live = np.zeros(array.shape, array.dtype, order=order)
        assert mismatch(encoded.tree, live) is None
        assert decode(encoded.tree, source, live=live) is live
        assert equal(live, array)
    wide = np.full([2 * n for n in array.shape], -1.0)
    live = wide[tuple(slice(None, None, 2) for _ in array.shape)]
    if live.ndim:
        decode(encoded.tree, source, live=live)
        assert equal(live, array)
        assert np.count_nonzero(wide == -1.0) >= wide.size - live.size  # the gaps are untouched


def test_order_is_kept_without_a_live_array():
    array = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    back = again(array)
    assert back.flags.f_contiguous and not back.flags.c_contiguous


def test_filling_reads_straight_into_the_array():
    array = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    encoded, _ = frozen(array)
    live = np.zeros((3, 4), order="F")

    class Straight(Buffers):
        def read(self, i, out):
            assert np.shares_memory(out, live)
            super().read(i, out)

    source = Straight(encoded.buffers)
    decode(encoded.tree, source, live=live)
    assert source.reads == 1 and equal(live, array)


def test_padding_of_a_strided_copy_is_deterministic():
    array = filled((6,), ALIGNED)[::2]
    assert [bytes(b) for b in encode(array).buffers] == [bytes(b) for b in encode(array).buffers]


def read_only():
    array = np.zeros(3)
    array.flags.writeable = False
    return array


class Sub(np.ndarray):
    pass


REFUSED = {
    "masked": (lambda: np.ma.masked_array([1.0], [0]), "numpy.ma"),
    "matrix": (lambda: np.zeros(3).view(Sub), "Sub"),
    "recarray": (lambda: np.zeros(2, [("a", "f8")]).view(np.recarray), "recarray"),
    "record dtype": (lambda: np.zeros(2, np.dtype((np.record, [("a", "f8")]))), "record"),
    "read-only": (read_only, "read-only"),
    "broadcast": (lambda: np.lib.stride_tricks.as_strided(np.zeros(3), (2, 3), (0, 8)), "share the same memory"),
    "windows": (lambda: np.lib.stride_tricks.sliding_window_view(np.zeros(9), 3, writeable=True), "same memory"),
    "objects": (lambda: np.array([None]), "Python objects"),
    "hidden objects": (lambda: np.zeros(1, [("a", "f8"), ("o", "O")]), "Python objects"),
    "overlapping fields": (
        lambda: np.zeros(1, {"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [0, 2]}),
        "exactly",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_filled_in_place_is_refused_with_the_ways_out(case):
    make, words = REFUSED[case]
    with pytest.raises(UnsupportedError) as e:
        check("field", make())
    text = str(e.value)
    assert text.startswith("field (") and words in text and e.value.object == "field"
    for way in ("run.state", "state_dict", "register_adapter", "holdfast.adapters", "pickle=True"):
        assert way in text


def test_memmap_is_refused(tmp_path):
    array = np.memmap(tmp_path / "m", "f8", "w+", shape=(4,))
    with pytest.raises(UnsupportedError, match=r"numpy\.memmap.*run\.state"):
        check("m", array)


def test_mismatch_says_both_sides_and_changes_nothing():
    encoded, source = frozen(np.ones((4, 4)))
    live = np.zeros((4, 4), "f4")
    sentence = "stored: float64 array (4, 4); the program has: float32 array (4, 4)"
    assert mismatch(encoded.tree, live) == sentence
    with pytest.raises(MismatchError, match="float32"):
        decode(encoded.tree, source, live=live, name="u")
    assert not live.any() and source.reads == 0
    assert mismatch(encoded.tree, np.zeros((4, 5))) == sentence.replace("float32 array (4, 4)", "float64 array (4, 5)")
    assert mismatch(encoded.tree, [1]) == "stored: float64 array (4, 4); the program has: list"
    assert mismatch(encoded.tree, np.zeros((4, 4), order="F")) is None
    assert mismatch(encoded.tree, np.zeros((4, 8))[:, ::2]) is None


def test_describe():
    assert describe(encode(np.zeros((2, 3), ">i2")).tree) == {"kind": "array", "dtype": ">i2", "shape": [2, 3]}


def test_golden_bytes():
    assert encode(np.zeros((2, 3))).tree == b"\x95\xa5array\xa3<f8\x92\x02\x03\xa1C\x00"
    assert encode(np.zeros((2, 3), ">i4", order="F")).tree == b"\x95\xa5array\xa3>i4\x92\x02\x03\xa1F\x00"
    padded = b"\x92\xa4list\x93\x92\xa5tuple\x92\xa1a\xa3|u1\x92\xa5tuple\x92\xa0\xa3|V7\x92\xa5tuple\x92\xa1b\xa3<f8"
    assert encode(np.zeros(1, ALIGNED)).tree == b"\x95\xa5array" + padded + b"\x91\x01\xa1C\x00"


def test_a_small_root_array_costs_microseconds():
    array = np.zeros((8, 8))
    encode(array)
    assert min(timeit.repeat(lambda: encode(array), number=1000, repeat=5)) / 1000 < 30e-6  # 2 µs on a quiet machine
