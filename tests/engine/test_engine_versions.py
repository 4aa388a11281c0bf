"""A version as a whole: published by one rank or several, read back, verified; its files and their order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from holdfast.catalog import Commit, read_commit
from holdfast.engine import Item, open_part, publish, read_groups, write_part
from holdfast.engine.verify import verify_version
from holdfast.errors import CheckpointError, DamageError, FencedError
from holdfast.format import Part
from holdfast.group import SerialGroup
from holdfast.store import open_store


def draft(number: int = 1, attempt: int = 1) -> Commit:
    return Commit("checkpoint", number, attempt, None, None, 5, {}, False, "policy", 1, 0, 0, 0.0, 0.0, 0, "")


def items() -> list[Item]:
    pool = np.arange(1, 20_001, dtype=np.int64).view(np.uint8)
    return [
        Item("a", "array", False, ((10,), (0,)), b"t", [pool[:100]]),
        Item("big", "array", False, None, b"t", [pool]),
        Item("spilled", "tree", True, None, b"s" * 9000, [pool[:33], pool[:0]]),
    ]


class Recording:
    """A store that notes what is done to it, in order."""

    def __init__(self, store: Any) -> None:
        self.store, self.calls = store, []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.store, name)
        if not callable(method):
            return method

        def call(*args: Any, **kw: Any) -> Any:
            self.calls.append((name, args[0] if args else None))
            return method(*args, **kw)

        return call


@pytest.fixture
def store(tmp_path: Path) -> Any:
    store = open_store(str(tmp_path / "run"), create=True)
    store.put("attempts/000001.json", b"a fence, whatever it holds")
    return store


def write(store: Any) -> Any:
    return lambda key: write_part(store, key, 0, items(), [], 2)


def test_there_and_back(store: Any) -> None:
    published = publish(store, SerialGroup(), draft(), write(store))
    commit, digest, complaints = read_commit(store, "checkpoint", "00000001-a000001")
    assert commit == published.commit and digest == published.link.digest and complaints == []
    assert (commit.objects, commit.nbytes) == (3, sum(n for k, n in store.tree(commit.path) if "/data/" in k))
    assert list(verify_version(store, commit, 2, lambda n: None)) == []
    with open_part(store, commit, 0, 2) as reader:
        assert list(reader.objects) == ["a", "big", "spilled"]
        assert reader.objects["a"].shard == ((10,), (0,)) and reader.objects["spilled"].late
        assert reader.tree(reader.objects["spilled"]) == b"s" * 9000
        assert reader.trusted


def test_data_before_index_before_fence_before_commit_before_fence(store: Any) -> None:
    seen = Recording(store)
    publish(seen, SerialGroup(), draft(), write(seen))
    path = "versions/00000001-a000001"
    assert [c for c in seen.calls if c[0] in ("create", "put", "list")] == [
        ("create", f"{path}/data/r000000"),
        ("put", f"{path}/index/g000000"),
        ("put", f"{path}/index/root"),
        ("list", "attempts"),
        ("put", f"{path}/commit"),
        ("list", "attempts"),
    ]


def test_a_later_fence_before_the_commit_prevents_it(store: Any) -> None:
    store.put("attempts/000002.json", b"")
    with pytest.raises(FencedError):
        publish(store, SerialGroup(), draft(), write(store))
    assert not store.exists("versions/00000001-a000001/commit")


def test_a_later_fence_during_the_commit_is_not_success(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    put = store.put

    def late(key: str, data: bytes) -> None:
        put(key, data)
        if key.endswith("/commit"):
            put("attempts/000002.json", b"")

    monkeypatch.setattr(store, "put", late)
    with pytest.raises(FencedError):
        publish(store, SerialGroup(), draft(), write(store))


def test_a_failure_names_version_and_rank_and_leaves_no_commit(store: Any) -> None:
    def fail(key: str) -> Part:
        raise OSError("a strange thing")

    with pytest.raises(CheckpointError, match="Version 1 was not written: rank 0.*a strange thing") as caught:
        publish(store, SerialGroup(), draft(), fail)
    assert caught.value.version == 1 and caught.value.causes[0].type == "OSError"
    assert not store.exists("versions/00000001-a000001/commit")


@pytest.mark.parametrize("file", ["data/r000000", "index/g000000", "index/root"])
def test_every_flipped_byte_is_found_and_placed(store: Any, file: str) -> None:
    commit = publish(store, SerialGroup(), draft(), write(store)).commit
    path = Path(store.location) / commit.path / file
    whole = path.read_bytes()
    step = max(1, len(whole) // 60)
    for at in range(0, len(whole), step):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        (damage,) = verify_version(store, commit, 2, lambda n: None)
        assert damage.file == f"{commit.path}/{file}" and damage.version == 1 and damage.offset is not None
        assert damage.offset <= at, "blocks begin at or before the byte"
        if file.startswith("data/") and damage.object is None:
            assert damage.offset == at and whole[at] == 0


def test_progress_counts_every_byte(store: Any) -> None:
    commit = publish(store, SerialGroup(), draft(), write(store)).commit
    seen: list[int] = []
    list(verify_version(store, commit, 2, seen.append))
    assert sum(seen) == sum(b.nbytes for o in open_part(store, commit, 0, 1).part.objects for b in o.buffers)


def test_a_missing_rank_is_damage(store: Any) -> None:
    commit = publish(store, SerialGroup(), draft(), write(store)).commit
    with pytest.raises(DamageError, match="no index of rank 1"):
        open_part(store, commit, 1, 1)
    assert [g.ranks for g in read_groups(store, commit)] == [1]
