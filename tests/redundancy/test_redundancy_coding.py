"""The field, the coefficients, and the two ways to add blocks up."""

from __future__ import annotations

import itertools
import platform

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import UsageError
from holdfast.redundancy import coding, field

elements = st.integers(0, 255)


def slow_product(a, b):
    total = 0
    for bit in range(8):
        if b >> bit & 1:
            total ^= a << bit
    for bit in range(14, 7, -1):
        if total >> bit & 1:
            total ^= 0x11D << bit - 8
    return total


@given(elements, elements, elements)
def test_the_field(a, b, c):
    assert field.multiply(a, b) == slow_product(a, b) == field.multiply(b, a) == field.products(a)[b]
    assert field.multiply(a, b ^ c) == field.multiply(a, b) ^ field.multiply(a, c)
    if a:
        assert field.multiply(a, field.inverse(a)) == 1


@pytest.mark.parametrize(("k", "m"), [(1, 1), (2, 1), (3, 1), (2, 2), (4, 2), (5, 3), (3, 5), (10, 4)])
def test_any_k_symbols_give_all_others(k, m):
    rows = field.generator(k, m)
    assert rows[k] == (1,) * k  # the first parity is the XOR
    for known in itertools.combinations(range(k + m), k):
        for wanted in range(k + m):
            factors = field.combination(k, m, wanted, known)
            for q in range(k):
                total = 0
                for c, row in zip(factors, known, strict=True):
                    total ^= field.multiply(c, rows[row][q])
                assert total == rows[wanted][q]


def test_the_largest_set_and_no_larger():
    field.combination(126, 2, 0, tuple(range(2, 128)))
    with pytest.raises(UsageError, match="129 members"):
        field.generator(127, 2)
    with pytest.raises(UsageError, match="3 symbols are needed"):
        field.combination(3, 1, 0, (1, 2))


def test_isa_l_is_there_where_its_wheel_is():
    if platform.machine() == "x86_64":
        assert isinstance(coding.chosen(), coding.Isal)
    else:
        assert coding.chosen().name


@given(st.integers(1, 12), st.sampled_from([1, 7, 64, 1000, 4096, 70_001]), st.integers(0, 2**32))
def test_sums(count, nbytes, seed):
    rng = np.random.default_rng(seed)
    blocks = [rng.integers(0, 256, nbytes, np.uint8) for _ in range(count)]
    factors = [int(c) for c in rng.integers(0, 256, count)]
    expected = np.zeros(nbytes, np.uint8)
    for c, block in zip(factors, blocks, strict=True):
        expected ^= field.products(c)[block]
    for way in (coding.chosen(), coding.Plain()):
        before, out = [b.copy() for b in blocks], np.full(nbytes + 2, 9, np.uint8)
        way.add_up(out[1:-1], factors, blocks)
        assert np.array_equal(out[1:-1], expected) and out[0] == out[-1] == 9
        assert all(np.array_equal(a, b) for a, b in zip(before, blocks, strict=True))


def test_a_library_that_computes_something_else_is_not_used(monkeypatch):
    coding.chosen.cache_clear()
    monkeypatch.setattr(coding.Isal, "add_up", lambda self, out, factors, blocks: out.fill(0))
    try:
        assert isinstance(coding.chosen(), coding.Plain)
        monkeypatch.undo()
        coding.chosen.cache_clear()
        monkeypatch.setattr(coding, "candidates", lambda: ["/nowhere/libisal.so.2", "libc.so.6"])
        assert isinstance(coding.chosen(), coding.Plain)
    finally:
        coding.chosen.cache_clear()
