"""Record files: one object, twice; a reader needs either line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import DamageError
from holdfast.format import Link, decode_record, encode_record
from holdfast.format.records import count, field, seconds

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda v: st.lists(v, max_size=4) | st.dictionaries(texts, v, max_size=4),
    max_leaves=15,
)
bodies = st.dictionaries(texts, values, max_size=6)


@given(bodies)
def test_round_trip(body: dict) -> None:
    data, name = encode_record(body)
    assert decode_record(data, "k") == (body, name, [])
    first, second, rest = data.split(b"\n")
    assert first == second and rest == b"" and first.startswith(name.encode() + b" ")


def test_equal_content_gives_equal_bytes() -> None:
    assert encode_record({"a": 1, "b": [2]}) == encode_record({"b": [2], "a": 1})


@pytest.mark.parametrize("body", [{"a": float("nan")}, {"a": float("inf")}])
def test_what_is_no_json_is_not_written(body: dict) -> None:
    with pytest.raises(ValueError):
        encode_record(body)


DATA, NAME = encode_record({"attempt": 3, "text": "ü\n \\ud", "list": [1, 2.5, None]})


@pytest.mark.parametrize("bit", range(8))
def test_no_flipped_bit_takes_the_record(bit: int) -> None:
    for at in range(len(DATA)):
        data = DATA[:at] + bytes([DATA[at] ^ 1 << bit]) + DATA[at + 1 :]
        body, name, complaints = decode_record(data, "attempts/000003.json")
        assert name == NAME and body["attempt"] == 3, at
        assert complaints and complaints[0].startswith("attempts/000003.json"), at


def test_no_lost_or_added_byte_takes_the_record() -> None:
    for at in range(len(DATA)):
        for data in (DATA[:at] + DATA[at + 1 :], DATA[:at] + b"x" + DATA[at:], DATA[:at] + b"\n" + DATA[at:]):
            assert decode_record(data, "k")[1:] == (NAME, ["k: one of the record's two lines is damaged; the other was used"])


@pytest.mark.parametrize("data", [b"", b"\n\n", DATA[:50], DATA[40:90], DATA.replace(b"3", b"4"), b"\0" * len(DATA)])
def test_nothing_whole_is_damage_with_the_place(data: bytes) -> None:
    with pytest.raises(DamageError, match="attempts/000003.json") as caught:
        decode_record(data, "attempts/000003.json")
    assert caught.value.file == "attempts/000003.json"


LINK = {"name": "00000004-a000002", "digest": "0123456789abcdef" * 2}


def test_links() -> None:
    link = Link.parse(LINK)
    assert link is not None and link.plain() == LINK
    assert Link.parse(None) is None


@pytest.mark.parametrize(
    "value",
    [0, [], {}, "00000004-a000002", LINK | {"name": "../x"}, LINK | {"name": None}, LINK | {"digest": "0" * 31},
     LINK | {"digest": "g" * 32}, LINK | {"digest": "0" * 32 + "\n"}, LINK | {"name": "4-a2"}],
)  # fmt: skip
def test_what_is_no_link_is_damage(value: object) -> None:
    with pytest.raises(DamageError):
        Link.parse(value)


def test_members() -> None:
    body = {"n": 3, "t": "x", "b": True, "f": 1.5, "none": None, "big": 2**62, "neg": -1, "inf": float("inf")}
    assert count(body, "n", "k") == 3 and field(body, "t", str, "k") == "x" and seconds(body, "f", "k") == 1.5
    assert count(body, "none", "k", none=True) is None
    for name in ("t", "b", "f", "none", "big", "neg", "missing"):
        with pytest.raises(DamageError):
            count(body, name, "k")
    with pytest.raises(DamageError):
        count({"n": 0}, "n", "k", least=1)
    with pytest.raises(DamageError):
        field(body, "b", int, "k")
    for name in ("t", "b", "none", "big", "neg", "inf"):
        with pytest.raises(DamageError):
            seconds(body, name, "k")
