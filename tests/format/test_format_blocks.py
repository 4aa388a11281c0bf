"""Blocks, their digests and their places; names of things on storage."""

from __future__ import annotations

import numpy as np
import pytest
import xxhash
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast.errors import DamageError
from holdfast.format import BLOCK, attempt_key, parse_attempt, parse_version, version_name
from holdfast.format.blocks import block_count, digest, digest_hex, digests, place, round_up

lengths = st.integers(0, 200) | st.integers(65_530, 65_545) | st.sampled_from([4095, 4096, 4097, BLOCK, BLOCK + 1])


@given(st.lists(lengths, max_size=30))
def test_buffers_stand_in_order_aligned_and_apart(sizes: list[int]) -> None:
    offsets, size = place(sizes)
    assert size % 4096 == 0
    at = 0
    for offset, n in zip(offsets, sizes, strict=True):
        assert at <= offset < at + 4096, "no more room is lost than alignment asks for"
        assert offset % (4096 if n >= 64 << 10 else 8) == 0
        at = offset + n
    assert at <= size < at + 4096


@pytest.mark.parametrize("n", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 5])
def test_each_block_has_its_digest(n: int) -> None:
    data = np.random.default_rng(n).integers(0, 256, n, np.uint8)
    found = digests(data)
    assert len(found) == 16 * block_count(n)
    for k in range(block_count(n)):
        part = data[k * BLOCK : (k + 1) * BLOCK].tobytes()
        assert found[16 * k : 16 * (k + 1)] == xxhash.xxh3_128(part, seed=0).digest()


def test_the_digest_is_the_canonical_one() -> None:
    """Of the empty string, as xxHash's own documentation of XXH3_128bits gives it: format 1 stays what it is."""
    assert digest(b"").hex() == digest_hex(b"") == "99aa06d3014798d86001c324468d497f"


@given(st.integers(0, 2**50), st.integers(1, 2**20))
def test_round_up(n: int, to: int) -> None:
    assert round_up(n, to) % to == 0 and 0 <= round_up(n, to) - n < to


numbers = st.integers(1, 99) | st.integers(1, 10**12 - 1) | st.sampled_from([999_999, 10**6, 10**8 - 1, 10**8])


@given(numbers, numbers)
def test_version_names_go_both_ways_and_sort_as_text_up_to_eight_digits(number: int, attempt: int) -> None:
    name = version_name(number, attempt)
    assert parse_version(name) == (number, attempt)
    if number < 10**8 - 1:
        assert name < version_name(number + 1, attempt)


@pytest.mark.parametrize(
    "name",
    ["", "1-a1", "00000001-a00001", "0000001-a000001", "000000001-a000001", "00000000-a000001", "00000001-a000000",
     "00000001-a0000001", "00000001-a000001 ", "00000001-a000001\n", "../00000001-a000001", "\u0661" * 8 + "-a000001"],
)  # fmt: skip
def test_other_names_are_no_versions(name: str) -> None:
    assert parse_version(name) is None


@pytest.mark.parametrize("number", [10**12, 2**62])
def test_numbers_that_could_never_be_read_again_are_refused(number: int) -> None:
    for call in (lambda: version_name(number, 1), lambda: version_name(1, number)):
        with pytest.raises(DamageError):
            call()


@given(numbers, st.sampled_from(["json", "lease", "base", "end"]))
def test_attempt_names_go_both_ways(number: int, suffix: str) -> None:
    assert parse_attempt(attempt_key(number, suffix).removeprefix("attempts/")) == (number, suffix)


@given(st.text(max_size=20))
@example("000000.json")
@example("0000004.base")
@example("000004.base2")
@example("4.json")
@example(".tmp-1234")
def test_other_names_are_no_attempts(name: str) -> None:
    parsed = parse_attempt(name)
    assert parsed is None or attempt_key(*parsed) == f"attempts/{name}"
