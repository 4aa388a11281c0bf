"""The held record: what was put comes back, and whatever is not just that is damage."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places_support import digests, held_for, noise, with_set

from holdfast.catalog.places import Held, HeldSet, Member
from holdfast.catalog.places.held import chunk_of
from holdfast.errors import DamageError
from holdfast.format import decode_record, encode_record, version_name
from holdfast.redundancy.scheme import Scheme

KEY = "versions/00000001-a000001/held/r000000"
hexes = st.integers(0, (1 << 128) - 1).map(lambda n: f"{n:032x}")
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
sizes = st.integers(0, 3 << 20)


@st.composite
def records(draw: st.DrawFn) -> Held:
    attempt, ranks = draw(st.integers(1, 10**12 - 1)), draw(st.integers(1, 9))
    held = Held(
        draw(hexes), version_name(draw(st.integers(1, 10**12 - 1)), attempt), attempt, draw(st.integers(0, ranks - 1)), ranks,
        draw(texts), draw(st.integers(0, 1 << 32)), draw(texts), draw(sizes), draw(sizes), draw(hexes),
    )  # fmt: skip
    if ranks == 1 or draw(st.booleans()):
        return held
    n = draw(st.integers(2, ranks))
    m = draw(st.integers(1, n - 1))
    others = draw(st.permutations([r for r in range(ranks) if r != held.rank]))[: n - 1]
    members = [Member(r, draw(sizes), draw(sizes), draw(hexes)) for r in others]
    own = Member(held.rank, held.data_bytes, held.part_bytes, held.part_digest)
    members.insert(draw(st.integers(0, n - 1)), own)
    chunk = chunk_of(tuple(members), n, m)
    return held._replace(set=HeldSet(n, m, chunk, tuple(members), b"d" * 16 * -(-m * chunk >> 20)))


@given(records())
def test_round_trip(held: Held) -> None:
    body, _, complaints = decode_record(encode_record(held.to_body())[0], KEY)
    assert Held.from_body(body, KEY) == held
    assert complaints == []


@given(records(), st.lists(st.integers(0), min_size=1, max_size=4))
def test_flipped_bits_are_seen_or_harmless(held: Held, flips: list[int]) -> None:
    """One never takes the record; of several, what is read is what was written, or damage."""
    data = bytearray(encode_record(held.to_body())[0])
    places = {flip % (len(data) * 8) for flip in flips}
    for at in places:
        data[at // 8] ^= 1 << at % 8
    try:
        body, _, complaints = decode_record(bytes(data), KEY)
    except DamageError:
        assert len(places) > 1
        return
    assert Held.from_body(body, KEY) == held
    assert complaints


junk = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=40), hexes,
    st.lists(st.integers(), max_size=3), st.dictionaries(st.text(max_size=3), st.integers(), max_size=3),
)  # fmt: skip


@given(records(), st.data())
def test_another_body_is_damage_or_another_record(held: Held, data: st.DataObject) -> None:
    """Whatever member is changed, left out or added, at any depth: refused, or just what would be written for it."""
    body = held.to_body()
    where: Any = body
    while True:
        keys = sorted(where) if isinstance(where, dict) else list(range(len(where)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(where[key], (dict, list)) and where[key] and data.draw(st.booleans()):
            where = where[key]
            continue
        break
    change = data.draw(st.sampled_from(["replace", "remove", "add"]))
    if change == "replace":
        where[key] = data.draw(junk)
    elif change == "remove":
        del where[key]
    elif isinstance(where, dict):
        where["unknown"] = 0
    else:
        where.append(copy.deepcopy(where[key]))
    try:
        found = Held.from_body(body, KEY)
    except DamageError as error:
        assert error.file == KEY
        return
    assert change == "replace"
    assert encode_record(found.to_body()) == encode_record(body)


HELD, PARITY = with_set(held_for("00000001-a000001", 0, noise(5000), b"part"), 2, [(9000, 7), (0, 0), (100, 1)])
BODY = HELD.to_body()


def changed(path: str, value: Any) -> dict[str, Any]:
    body = copy.deepcopy(BODY)
    *above, last = [int(word) if word.isdigit() else word for word in path.split(".")]
    where: Any = body
    for word in above:
        where = where[word]
    where[last] = value
    return body


def test_the_body_itself_is_read() -> None:
    assert Held.from_body(BODY, KEY) == HELD
    assert HELD.set is not None and HELD.set.parity_bytes == len(PARITY) and HELD.set.parity == digests(PARITY)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("format", 2), ("format", True), ("format", 1.0), ("run", "x" * 32), ("run", BODY["run"][1:]), ("run", "A" * 32),
        ("version", "1"), ("version", "../../etc"), ("version", "00000001-a000002"), ("attempt", 2), ("attempt", 0),
        ("attempt", True), ("rank", 4), ("rank", -1), ("rank", 1), ("ranks", 0), ("ranks", 3), ("boot", ""), ("boot", None),
        ("boot", "\ud800"), ("domain", ""), ("domain", "x" * 5000), ("uid", -1), ("uid", "0"), ("data", 5000),
        ("data.bytes", -1), ("set.chunk", 4096),
        ("data.bytes", 5000.0), ("data.bytes", 4999), ("part.bytes", 1 << 63), ("part.digest", "0" * 32), ("part.digest", None),
        ("set", []), ("set", 0), ("set", {}), ("set.n", 3), ("set.n", 5), ("set.m", 0), ("set.m", 4), ("set.m", 3),
        ("set.chunk", None), ("set.members", []), ("set.members", BODY["set"]["members"][:3]),
        ("set.members", BODY["set"]["members"][1:] * 2), ("set.members.1.rank", 0), ("set.members.1.rank", 4),
        ("set.members.1.data", 90_000), ("set.members.1.digest", "none"), ("set.members.0.data", 4999), ("set.members.2", 0),
        ("set.parity", BODY["set"]["parity"][:-4]), ("set.parity", BODY["set"]["parity"] + "\n"), ("set.parity", "ä" * 24),
        ("set.parity", 16), ("set.parity", ""), ("set.more", 1), ("more", 1), ("data.more", 1), ("set.members.1.more", 1),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_damage(path: str, value: Any) -> None:
    with pytest.raises(DamageError, match=KEY) as caught:
        Held.from_body(changed(path, value), KEY)
    assert caught.value.file == KEY


@pytest.mark.parametrize("value", [None, [], "held", 3])
def test_what_is_no_object_is_damage(value: Any) -> None:
    with pytest.raises(DamageError, match=KEY):
        Held.from_body(value, KEY)


@given(st.lists(st.tuples(sizes, sizes), min_size=2, max_size=9), st.data())
def test_chunks_are_those_of_the_scheme(streams: list[tuple[int, int]], data: st.DataObject) -> None:
    """Two floors state one rule: the length of a chunk."""
    m = data.draw(st.integers(1, len(streams) - 1))
    members = tuple(Member(i, a, b, "") for i, (a, b) in enumerate(streams))
    assert chunk_of(members, len(streams), m) == Scheme(len(streams), m).chunk([a + b for a, b in streams])


def test_a_record_of_a_large_set_fits() -> None:
    """128 members and 16 GiB of parity, far below the limit of a record file."""
    size = 1 << 34
    members = tuple(Member(i, size, 0, "0" * 32) for i in range(128))
    chunk = chunk_of(members, 128, 64)
    held = Held("0" * 32, "00000001-a000001", 1, 0, 128, "b", 0, "d", size, 0, "0" * 32)
    held = held._replace(set=HeldSet(128, 64, chunk, members, b"d" * 16 * -(-64 * chunk >> 20)))
    assert Held.from_body(held.to_body(), KEY) == held
    assert len(encode_record(held.to_body())[0]) < 2 << 20
