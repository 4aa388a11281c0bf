"""Acceptance point 8, the decoders: whatever bytes come, only DamageError comes out, before much memory is taken.

All digests are right: an attacker can compute them.
"""

from __future__ import annotations

import contextlib
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgpack
import pytest
from damage_support import KEPT, Built
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast.catalog import list_attempts, read_attempt, read_commit
from holdfast.catalog.check import check_records
from holdfast.catalog.lineage import Snapshot
from holdfast.errors import DamageError
from holdfast.format import (
    DataSource,
    Extent,
    Group,
    Part,
    StoredBuffer,
    StoredFile,
    StoredObject,
    decode_record,
    digest,
    encode_record,
    pack_runs,
    simple_buffer,
    visible,
)
from holdfast.format.index import MAGIC, decode_header, decode_root, encode_group, encode_root
from holdfast.store import KeyMissingError, open_store

ONE = StoredObject("u", "array", False, ((4, 4), (0, 2)), b"\xc0", (simple_buffer(0, 5, bytes(16)),))
TWO = StoredObject("t", "tree", True, None, None, (simple_buffer(8, 0, b""), simple_buffer(8, 4000, bytes(16))))
PAGES = Extent(0, 4096, 300, bytes(16), 0, pack_runs([(0, 100), (150, 200)]))
LAYERS = StoredBuffer(9000, (Extent(2, 0, 9000, bytes(16), 0), Extent(1, 4096, 200, bytes(16), 40), PAGES))
SOURCES = (DataSource("00000002-a000001", "f" * 32, 7, 8192), DataSource("00000009-a000002", "", 4, 1 << 20))
THREE = StoredObject("v", "array", False, None, b"\xc0", (LAYERS,))
PART = Part(3, 8192, (ONE, TWO, THREE), (StoredFile("y", 7, bytes(16), "/x/y"),), SOURCES)

numbers = st.sampled_from([-1, 0, 1, 3, 16, 4096, 4 << 20, 2**31, 2**40, 2**62, 2**63 - 1, 2**64 - 1]) | st.integers(0, 99)
scalars = st.none() | st.booleans() | numbers | st.floats() | st.text(max_size=5) | st.binary(max_size=40)
plain = st.recursive(
    scalars,
    lambda v: st.lists(v, max_size=6) | st.dictionaries(st.text(max_size=4) | st.binary(max_size=4), v, max_size=4),
    max_leaves=20,
)


def mutated(valid: bytes) -> st.SearchStrategy[bytes]:
    """Valid bytes with some changed, inserted or cut out."""
    change = st.tuples(st.integers(0, len(valid)), st.integers(0, 3), st.binary(max_size=4))

    def apply(changes: list[tuple[int, int, bytes]]) -> bytes:
        data = valid
        for at, cut, new in changes:
            data = data[:at] + new + data[at + cut :]
        return data

    return st.lists(change, min_size=1, max_size=4).map(apply)


@st.composite
def replaced(draw: st.DrawFn, valid: Any) -> Any:
    """A valid plain value with one thing in it, at any depth, replaced by another."""
    if draw(st.integers(0, 3)) == 0:
        return draw(plain)
    if isinstance(valid, (list, tuple)) and valid:
        i = draw(st.integers(0, len(valid) - 1))
        return [*valid[:i], draw(replaced(valid[i])), *valid[i + 1 :]]
    if isinstance(valid, dict) and valid:
        key = draw(st.sampled_from(sorted(valid)))
        return {**valid, key: draw(replaced(valid[key]))}
    return draw(plain)


BODY = msgpack.unpackb(PART.encode())
packed = (st.binary(max_size=200) | mutated(PART.encode()) | plain.map(msgpack.packb)
          | replaced(BODY).map(msgpack.packb))  # fmt: skip


@given(packed)
@example(msgpack.packb(BODY | {"rank": True}))
@example(msgpack.packb(BODY | {"objects": {"u": 1}}))
@example(msgpack.packb(BODY | {"objects": "uuuuuu"}))
def test_part(data: bytes) -> None:
    with contextlib.suppress(DamageError):
        part = Part.decode(data, 3, "index/g000000")
        # What is accepted is sane: within the files, sharing no byte, every byte of every buffer told.
        spans = []
        sizes = [part.nbytes, *(s.nbytes for s in part.sources)]
        for b in (b for o in part.objects for b in o.buffers):
            for e in b.extents:
                assert 0 <= e.offset < e.offset + e.nbytes <= sizes[e.source] and len(e.digest) == 16
                spans.append((e.source, e.offset, e.offset + e.nbytes))
            assert int(visible(b).nbytes.sum()) == b.nbytes
        spans.sort()
        assert all(a[0] != b[0] or a[2] <= b[1] for a, b in pairwise(spans))
        assert all("/" not in s.version for s in part.sources)
        assert Part.decode(part.encode(), 3, "f") == part


GROUP_FILE, GROUP = encode_group(0, [b"one", b"", b"three"])
HEADER = GROUP_FILE[: GROUP.header]


@given(mutated(HEADER) | packed.map(lambda d: MAGIC + d), st.integers(1, 64), numbers)
def test_header(header: bytes, ranks: int, nbytes: int) -> None:
    group = Group(0, ranks, nbytes, len(header), digest(header))
    with contextlib.suppress(DamageError):
        at = len(header)
        for offset, size, name in decode_header(header, group, "f"):
            assert offset == at and len(name) == 16
            at += size
        assert at == nbytes


LINES = [Group(0, 64, 5000, 900, bytes(16)), Group(64, 3, 100, 50, bytes(16))]


@given(mutated(encode_root(LINES)) | packed | replaced(msgpack.unpackb(encode_root(LINES))).map(msgpack.packb))
@example(msgpack.packb([[0, 67, 10, 5, bytes(16)]]))
def test_root(data: bytes) -> None:
    with contextlib.suppress(DamageError):
        groups = decode_root(data, 67, "f")
        assert sum(g.ranks for g in groups) == 67 and all(0 < g.ranks <= 64 for g in groups)


RECORD = encode_record({"a": [1, {"b": "ü"}], "c": 1.5})[0]


@given(st.binary(max_size=300) | mutated(RECORD))
def test_record(data: bytes) -> None:
    with contextlib.suppress(DamageError):
        assert decode_record(data, "k")[0] == {"a": [1, {"b": "ü"}], "c": 1.5}


def line(text: bytes) -> bytes:
    return digest(text).hex().encode() + b" " + text + b"\n"


@pytest.mark.parametrize(
    "text",
    [b"[" * 100_000, b"{}" * 2, b"[1]", b"1", b'{"a":NaN}', b'{"a":-Infinity}', b'{"a":"\\ud800"}', b'{"a":"\\uDfff"}',
     b"\xff", b"", b'{"a":' * 50_000, b"\x00"],
)  # fmt: skip
def test_record_with_a_right_digest_of_what_is_no_record(text: bytes) -> None:
    with pytest.raises(DamageError):
        decode_record(line(text) * 2, "k")


def test_text_that_looks_like_half_a_surrogate_pair_is_text() -> None:
    body = {"command": "C:\\udo \\ud800", "emoji": "\U0001f40b"}
    assert decode_record(encode_record(body)[0], "k")[0] == body


# -- records in their places ---------------------------------------------------------------

json_scalars = st.none() | st.booleans() | numbers | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(
    ["", "../../etc/passwd", "/etc/passwd", "a\0b", "00000004-a000002", "0" * 32, "x" * 400, 10**400, -(10**30), 1e308]
)  # fmt: skip
json_values = st.recursive(
    json_scalars,
    lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=4) | st.just("name"), v, max_size=4),
    max_leaves=12,
)


@st.composite
def json_replaced(draw: st.DrawFn, valid: Any) -> Any:
    if isinstance(valid, dict) and valid and draw(st.integers(0, 5)):
        key = draw(st.sampled_from(sorted(valid)))
        if draw(st.integers(0, 4)) == 0:
            return {k: v for k, v in valid.items() if k != key}
        return {**valid, key: draw(json_replaced(valid[key]))}
    if isinstance(valid, list) and valid and draw(st.booleans()):
        return [draw(json_replaced(valid[0])), *valid[1:]]
    return draw(json_values)


@pytest.fixture(scope="module")
def place(serial: Built, fast_session: Path) -> Path:
    return serial.copy(fast_session / "records").url


def body_of(path: Path) -> Any:
    return decode_record(path.read_bytes(), "k")[0]


@contextlib.contextmanager
def instead(path: Path, body: Any) -> Iterator[None]:
    whole = path.read_bytes()
    try:
        path.write_bytes(encode_record(body)[0])
        yield
    finally:
        path.write_bytes(whole)


@given(data=st.data())
def test_commit(place: Path, data: st.DataObject) -> None:
    name = max(KEPT)
    path = place / "versions" / name / "commit"
    with instead(path, data.draw(json_replaced(body_of(path)))):
        store = open_store(str(place), create=False, read_only=True)
        with contextlib.suppress(DamageError, KeyMissingError):
            commit, _, _ = read_commit(store, "checkpoint", name)
            assert commit.name == name and (commit.step is None or commit.step >= 0)
            commit.encode()


@given(data=st.data())
@pytest.mark.parametrize("suffix", ["json", "base", "end", "lease"])
def test_attempt(place: Path, suffix: str, data: st.DataObject) -> None:
    path = place / f"attempts/000003.{suffix}"
    with instead(path, data.draw(json_replaced(body_of(path)))):
        store = open_store(str(place), create=False, read_only=True)
        attempt = read_attempt(store, 3, list_attempts(store)[3])
        assert attempt.number == 3
        if attempt.base is not None:
            for link in (attempt.base.version, *attempt.base.chain):
                assert link is None or "/" not in link.name
        snapshot = Snapshot(store)
        assert snapshot.lineage or snapshot.lost_base
        assert len(snapshot.lost) + len(snapshot.records) < 10
        list(check_records(store, snapshot))


# -- memory --------------------------------------------------------------------------------


def nested(header: bytes, depth: int, total: int) -> bytes:
    return (header * depth).ljust(total, b"\xc0")


BOMBS = {
    "an array of 2**32 items": b"\xdd\xff\xff\xff\xff",
    "a map of 2**32 items": b"\xdf\xff\xff\xff\xff",
    "bytes of 2**32": b"\xc6\xff\xff\xff\xff",
    "arrays in arrays, each as long as the data": nested(b"\xdd\x00\x1f\x00\x00", 900, 2 << 20),
    "maps in maps": nested(b"\xdf\x00\x0f\x00\x00\xa1", 900, 2 << 20),
    "a million levels": b"\x91" * (1 << 20),
    "a part whose objects are arrays in arrays":
        b"\x82\xa4rank\x00\xa7objects" + nested(b"\xdd\x00\x1f\x00\x00", 900, 2 << 20),
    "a length of 2**40": msgpack.packb(BODY | {"bytes": 2**40 + 1}),
    "a buffer of 2**40": msgpack.packb(BODY | {"objects": [["u", "array", False, None, b"", [[0, 2**40, b""]]]]}),
    "an extent of 2**40": msgpack.packb(BODY | {"objects": [
        ["u", "array", False, None, b"", [[2**40, [[0, 0, 2**40, bytes(16), 0]]]]]]}),
    "a million runs": msgpack.packb(BODY | {"objects": [
        ["u", "array", False, None, b"", [[2**21, [[0, 0, 2**17, bytes(16), bytes(16) * 2**17]]]]]]}),
    "an extension type of 2**32": b"\xc9\xff\xff\xff\xff\x01",
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_claims_take_no_memory(bomb: str) -> None:
    data = BOMBS[bomb]
    header = MAGIC + data
    group = Group(0, 64, 2**29, len(header), digest(header))
    tracemalloc.start()
    try:
        for decode in (
            lambda: Part.decode(data, 0, "f"),
            lambda: decode_root(data, 64, "f"),
            lambda: decode_header(header, group, "f"),
        ):
            with pytest.raises(DamageError):
                decode()
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("data", [b"\n" * (8 << 20), b" " * (8 << 20), b"0" * 32 + b" " + b"[" * (8 << 20)])
def test_records_of_junk_take_no_memory(data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(DamageError):
            decode_record(data, "k")
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()
