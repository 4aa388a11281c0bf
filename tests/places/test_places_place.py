"""A place is made and found safely; what a rank holds is put, proved and removed."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from places_support import FIRST, OTHER_RUN, RUN, SECOND, THIRD, commit, held_for, noise, put, with_set, write

from holdfast.catalog.places import Held, Place, StalePlaceError, open_place, verify_held
from holdfast.errors import DamageError, StorageError, UsageError
from holdfast.format import decode_record, encode_record
from holdfast.store import KeyExistsError, KeyMissingError, PosixStore
from holdfast.testing import StoreTests


def mode(path: str) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


class TestPlacesStore(StoreTests):
    """The store of a place is a store like any other, and what it has finished is never written again."""

    @pytest.fixture
    def store(self, memory: Place) -> PosixStore:
        memory.store.delete("place.json")
        return memory.store

    def raw_put(self, store: Any, key: str, data: bytes) -> None:
        path = Path(store.location, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(data)

    def raw_get(self, store: Any, key: str) -> bytes:
        return Path(store.location, key).read_bytes()


# -- made and found ---------------------------------------------------------------------------


def test_where_it_is_and_whose(either: Place, tmp_path: Path) -> None:
    path = tmp_path / f"holdfast-{os.geteuid()}" / RUN
    assert either.store.location == str(path) and either.root == str(tmp_path)
    assert mode(str(path)) == mode(str(path.parent)) == 0o700
    assert either.free_bytes() > 0
    again = open_place(either.kind, str(tmp_path), RUN, create=False)
    assert again.identity == either.identity
    assert (again.identity.run, again.identity.kind, again.identity.uid) == (RUN, either.kind, os.geteuid())


def test_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        place = open_place("local", str(tmp_path), RUN, create=True)
        put(place, FIRST, 0)
    finally:
        os.umask(before)
    assert mode(place.store.location) == 0o700
    for key, _ in place.store.tree(""):
        assert mode(f"{place.store.location}/{key}") == 0o400


def test_all_ranks_of_a_node_open_the_same(tmp_path: Path) -> None:
    ready, found = threading.Barrier(6), []

    def rank() -> None:
        ready.wait(20)
        found.append(open_place("memory", str(tmp_path), RUN, create=True).identity)

    threads = [threading.Thread(target=rank) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(found) == 6 and len(set(found)) == 1


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(KeyMissingError):
        open_place("memory", str(tmp_path), RUN, create=False)
    assert list(tmp_path.iterdir()) == []
    # what is not mounted is not made: its files would fill the disk below
    with pytest.raises(StorageError, match="absent"):
        open_place("memory", str(tmp_path / "absent"), RUN, create=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "run"), [("disk", RUN), ("memory", "../x"), ("memory", RUN[1:]), ("memory", RUN.upper())]
)
def test_what_is_no_place(tmp_path: Path, kind: str, run: str) -> None:
    with pytest.raises(UsageError):
        open_place(kind, str(tmp_path), run, create=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("create", [True, False])
def test_links_are_not_followed(tmp_path: Path, depth: int, create: bool) -> None:
    elsewhere, root = tmp_path / "elsewhere", _made(tmp_path / "root")
    place = open_place("memory", str(root), RUN, create=True)
    real = Path(place.store.location) if depth else Path(place.store.location).parent
    real.rename(elsewhere)
    real.symlink_to(elsewhere)
    before = sorted(str(p) for p in elsewhere.rglob("*"))
    with pytest.raises(StorageError, match="symbolic link"):
        open_place("memory", str(root), RUN, create=create)
    assert sorted(str(p) for p in elsewhere.rglob("*")) == before


def test_the_root_may_be_reached_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(_made(tmp_path / "root"))
    place = open_place("local", str(tmp_path / "link"), RUN, create=True)
    assert open_place("local", str(tmp_path / "root"), RUN, create=False).identity == place.identity


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("create", [True, False])
def test_what_another_user_has_made_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, depth: int, create: bool
) -> None:
    """To the user beside us, whose directory we have made, we are the stranger."""
    me = os.geteuid()
    theirs = _made(tmp_path / f"holdfast-{me + 1}")
    if depth:
        _made(theirs / RUN)
        real = os.lstat
        mine = os.stat_result((*tuple(real(theirs))[:4], me + 1, *tuple(real(theirs))[5:]))
        monkeypatch.setattr("holdfast.store.syscalls.lstat", lambda p: mine if p == str(theirs) else real(p))
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    with pytest.raises(StorageError, match=f"belongs to user {me}, not to user {me + 1}"):
        open_place("memory", str(tmp_path), RUN, create=create)
    assert not [p for p in theirs.rglob("*") if p.is_file()]


@pytest.mark.parametrize("bits", [0o720, 0o702, 0o777])
@pytest.mark.parametrize("depth", [0, 1])
def test_what_others_can_write_is_not_used(tmp_path: Path, bits: int, depth: int) -> None:
    place = open_place("memory", str(tmp_path), RUN, create=True)
    path = Path(place.store.location) if depth else Path(place.store.location).parent
    path.chmod(bits)
    with pytest.raises(StorageError, match="written by other users"):
        open_place("memory", str(tmp_path), RUN, create=True)
    assert mode(str(path)) == bits


def test_a_root_in_which_anyone_can_replace_ours(tmp_path: Path) -> None:
    root = _made(tmp_path / "root")
    root.chmod(0o777)
    with pytest.raises(StorageError, match="sticky"):
        open_place("memory", str(root), RUN, create=True)
    assert list(root.iterdir()) == []
    root.chmod(0o1777)
    open_place("memory", str(root), RUN, create=True)


def test_a_file_in_the_place_of_a_directory(tmp_path: Path) -> None:
    (tmp_path / f"holdfast-{os.geteuid()}").write_text("mine")
    with pytest.raises(StorageError, match="is a file in the place of a directory"):
        open_place("memory", str(tmp_path), RUN, create=True)


def test_memory_does_not_outlive_its_boot(memory: Place, reboot: Callable[[], None]) -> None:
    put(memory, FIRST, 0)
    reboot()
    for create in (True, False):
        with pytest.raises(StalePlaceError, match="earlier boot"):
            open_place("memory", memory.root, RUN, create=create)
    assert memory.versions() == [FIRST]


def test_local_does(tmp_path: Path, reboot: Callable[[], None]) -> None:
    held = put(open_place("local", str(tmp_path), RUN, create=True), FIRST, 0)
    reboot()
    assert verify_held(open_place("local", str(tmp_path), RUN, create=True), FIRST, 0) == held


def test_another_runs_place_is_not_ours(memory: Place) -> None:
    path = Path(memory.store.location)
    path.rename(path.with_name(OTHER_RUN))
    with pytest.raises(StalePlaceError, match="another kind|place of run"):
        open_place("memory", memory.root, OTHER_RUN, create=True)
    path.with_name(OTHER_RUN).rename(path)
    with pytest.raises(StalePlaceError, match="in memory"):
        open_place("local", memory.root, RUN, create=True)


def test_versions_of_nobody_are_not_ours(memory: Place) -> None:
    put(memory, FIRST, 0)
    memory.store.delete("place.json")
    with pytest.raises(StalePlaceError, match="no place.json"):
        open_place("memory", memory.root, RUN, create=True)
    assert memory.versions() == [FIRST]


def test_a_damaged_identity_is_damage(memory: Place) -> None:
    body, _, _ = decode_record(memory.store.get("place.json", 10_000), "")
    for data in (b"", b"{}\n", encode_record(body | {"uid": "0"})[0], encode_record(body | {"kind": []})[0]):
        memory.store.delete("place.json")
        memory.store.put("place.json", data)
        with pytest.raises(DamageError, match="place.json"):
            open_place("memory", memory.root, RUN, create=True)
        assert memory.store.get("place.json", 10_000) == data


# -- held -------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [0, 1, 2])
def test_what_is_put_is_held(either: Place, m: int) -> None:
    helds = {rank: put(either, FIRST, rank, m=m) for rank in (2, 0)}
    again = open_place(either.kind, either.root, RUN, create=False)
    assert again.versions() == [FIRST] and again.ranks(FIRST) == [0, 2]
    for rank, held in helds.items():
        assert again.read_held(FIRST, rank) == held == verify_held(again, FIRST, rank)
        assert len(again.read_part(held)) == held.part_bytes
    for key, _ in again.store.tree(""):
        assert mode(f"{again.store.location}/{key}") == 0o400, key
    with pytest.raises(KeyMissingError):
        again.read_held(FIRST, 1)
    assert again.complaints == []


def test_a_rank_without_data(memory: Place) -> None:
    held = held_for(FIRST, 1, b"", b"p")
    write(memory, memory.data_key(FIRST, 1), b"")
    memory.put_held(held, b"p")
    assert verify_held(memory, FIRST, 1) == held


def test_versions_newest_first(memory: Place) -> None:
    for version in (SECOND, THIRD, FIRST):
        put(memory, version, 0, m=0)
    write(memory, "versions/else/data", b"no version")
    assert memory.versions() == [THIRD, SECOND, FIRST]
    assert memory.ranks("00000009-a000001") == []


def test_nothing_is_put_that_is_not_true(memory: Place) -> None:
    part, data = b"part", noise(1000)
    held = held_for(FIRST, 0, data, part)
    with pytest.raises(DamageError, match="missing"):
        memory.put_held(held, part)
    write(memory, memory.data_key(FIRST, 0), data)
    with pytest.raises(DamageError, match="1000 bytes, not 999"):
        memory.put_held(held._replace(data_bytes=999), part)
    for wrong, what in (
        (held._replace(run=OTHER_RUN), "another run"),
        (held._replace(boot="earlier"), "another boot"),
        (held._replace(uid=held.uid + 1), "user"),
        (held._replace(rank=7), "no rank 7"),
        (held._replace(domain=""), "domain"),
        (held._replace(part_digest="0" * 32), "the part"),
        (held._replace(part_bytes=3), "the part"),
    ):
        with pytest.raises(UsageError, match=what):
            memory.put_held(wrong, part)
    assert [key for key, _ in memory.store.tree("versions")] == [memory.data_key(FIRST, 0)]
    memory.put_held(held, part)
    with pytest.raises(KeyExistsError):
        memory.put_held(held, part)
    assert verify_held(memory, FIRST, 0) == held


def test_parity_must_be_there(memory: Place) -> None:
    held = put(memory, FIRST, 0)
    memory.store.delete(memory.parity_key(FIRST, 0))
    with pytest.raises(DamageError, match="parity/r000000 is missing"):
        verify_held(memory, FIRST, 0)
    write(memory, memory.parity_key(FIRST, 0), b"short")
    with pytest.raises(DamageError, match="5 bytes"):
        verify_held(memory, FIRST, 0)
    assert memory.read_held(FIRST, 0) == held


@pytest.mark.parametrize(
    "change",
    [{"run": OTHER_RUN}, {"rank": 1}, {"version": SECOND}, {"uid": os.geteuid() + 1}, {"boot": "earlier"}],
    ids=lambda change: next(iter(change)),
)
def test_a_strangers_record_is_not_ours(memory: Place, change: dict[str, Any]) -> None:
    held = put(memory, FIRST, 0, m=0)
    memory.store.delete(memory.held_key(FIRST, 0))
    memory.store.put(memory.held_key(FIRST, 0), encode_record(held._replace(**change).to_body())[0])
    with pytest.raises(DamageError, match="not ours") as caught:
        memory.read_held(FIRST, 0)
    assert caught.value.rank == 0
    with pytest.raises(DamageError):
        verify_held(memory, FIRST, 0)


def test_an_attempt_that_was_never_sealed_is_not_ours(memory: Place) -> None:
    held = put(memory, THIRD, 0)
    assert memory.read_held(THIRD, 0, sealed={1, 2}) == held
    with pytest.raises(DamageError, match="attempt 2, which was never sealed"):
        memory.read_held(THIRD, 0, sealed={1})


@pytest.mark.parametrize("which", ["held", "part", "data"])
def test_a_file_that_others_can_write_is_not_ours(memory: Place, which: str) -> None:
    put(memory, FIRST, 0, m=0)
    key = {"held": memory.held_key, "part": memory.part_key, "data": memory.data_key}[which](FIRST, 0)
    os.chmod(f"{memory.store.location}/{key}", 0o622)
    with pytest.raises(DamageError, match=which):
        verify_held(memory, FIRST, 0)


def _cut(path: Path) -> None:
    data = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(data[:-1])


def _grow(path: Path) -> None:
    data = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(data + b"\0")


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize(
    ("which", "damage"),
    [("data", _cut), ("data", _grow), ("data", Path.unlink), ("data", _link), ("part", _cut), ("part", _grow), ("part", _flip),
     ("part", Path.unlink), ("part", _link), ("parity", _cut), ("parity", Path.unlink), ("held", _link)],
)  # fmt: skip
def test_damage_is_seen(memory: Place, which: str, damage: Callable[[Path], object]) -> None:
    put(memory, FIRST, 0, m=int(which != "held"))
    keys = {"held": memory.held_key, "part": memory.part_key, "data": memory.data_key, "parity": memory.parity_key}
    damage(Path(memory.store.location, keys[which](FIRST, 0)))
    with pytest.raises(DamageError, match=which) as caught:
        verify_held(memory, FIRST, 0)
    assert caught.value.file == keys[which](FIRST, 0)


@pytest.mark.parametrize("m", [0, 1])
def test_one_flipped_bit_of_the_record_does_no_harm(memory: Place, m: int) -> None:
    held = put(memory, FIRST, 0, m=m)
    _flip(Path(memory.store.location, memory.protected_key(FIRST, 0) if m else memory.held_key(FIRST, 0)))
    for _ in range(3):
        assert verify_held(memory, FIRST, 0) == held
    assert len(memory.complaints) == 1 and "two lines" in memory.complaints[0]


# -- protected ----------------------------------------------------------------------------------


def protect(place: Place, version: str, rank: int) -> tuple[Held, Held, bytes]:
    """Held without a set, then its parity is written: (held, held with the set, part). No record of the second yet."""
    data, part = noise(20_000, rank), noise(2_000, rank + 1)
    write(place, place.data_key(version, rank), data)
    held = held_for(version, rank, data, part)
    place.put_held(held, part)
    protected, parity = with_set(held, 1, [(9_000, 100)] * 3)
    write(place, place.parity_key(version, rank), parity)
    return held, protected, part


def test_protected_after_it_was_held(either: Place) -> None:
    held, protected, part = protect(either, FIRST, 0)
    assert verify_held(either, FIRST, 0) == held  # parity that no record proves is not there
    before = {key: os.stat(f"{either.store.location}/{key}").st_ino for key, _ in either.store.tree("")}
    either.put_held(protected, part)
    after = {key: os.stat(f"{either.store.location}/{key}").st_ino for key, _ in either.store.tree("")}
    assert after.pop(either.protected_key(FIRST, 0)) and after == before  # nothing else was written
    assert verify_held(either, FIRST, 0) == protected and either.ranks(FIRST) == [0]
    with pytest.raises(KeyExistsError):
        either.put_held(protected, part)
    assert either.complaints == []
    either.forget_parity(FIRST, 0)
    either.forget_parity(FIRST, 0)
    assert verify_held(either, FIRST, 0) == held
    assert not either.store.exists(either.parity_key(FIRST, 0))


def test_both_records_at_once(memory: Place) -> None:
    put(memory, FIRST, 0)
    protected = memory.read_held(FIRST, 0)
    memory.store.delete(memory.protected_key(FIRST, 0))
    assert memory.read_held(FIRST, 0) == protected._replace(set=None)


def test_what_is_there_must_say_the_same(memory: Place) -> None:
    held, protected, part = protect(memory, FIRST, 0)
    for key, data in (
        (memory.held_key(FIRST, 0), encode_record(held._replace(domain="another").to_body())[0]),
        (memory.held_key(FIRST, 0), b"?"),
        (memory.part_key(FIRST, 0), noise(len(part), 9)),
        (memory.part_key(FIRST, 0), part[:-1]),
    ):
        kept = memory.store.get(key, 1 << 20)
        memory.store.delete(key)
        memory.store.put(key, data)
        with pytest.raises(DamageError, match=key):
            memory.put_held(protected, part)
        assert not memory.store.exists(memory.protected_key(FIRST, 0)) and memory.store.get(key, 1 << 20) == data
        memory.store.delete(key)
        memory.store.put(key, kept)
    memory.put_held(protected, part)
    assert verify_held(memory, FIRST, 0) == protected


def test_a_damaged_protected_record_is_told_and_held_serves(memory: Place) -> None:
    protected = put(memory, FIRST, 0)
    key = memory.protected_key(FIRST, 0)
    for data in (
        b"?",
        encode_record(protected._replace(run=OTHER_RUN).to_body())[0],
        encode_record(protected._replace(set=None).to_body())[0],
    ):
        memory.complaints.clear()
        memory.store.delete(key)
        memory.store.put(key, data)
        assert verify_held(memory, FIRST, 0) == protected._replace(set=None)
        assert len(memory.complaints) == 1 and key in memory.complaints[0]
    memory.store.delete(memory.held_key(FIRST, 0))
    with pytest.raises(DamageError, match="protected/r000000 has no set"):
        memory.read_held(FIRST, 0)
    memory.store.put(memory.held_key(FIRST, 0), b"?")
    with pytest.raises(DamageError, match="held/r000000"):
        memory.read_held(FIRST, 0)


def test_a_protected_record_needs_no_other(memory: Place) -> None:
    protected = put(memory, FIRST, 2)
    memory.store.delete(memory.held_key(FIRST, 2))
    assert memory.ranks(FIRST) == [2] and verify_held(memory, FIRST, 2) == protected


def test_a_set_does_not_belong_into_held(memory: Place) -> None:
    protected = put(memory, FIRST, 0)
    memory.store.delete(memory.protected_key(FIRST, 0))
    memory.store.delete(memory.held_key(FIRST, 0))
    memory.store.put(memory.held_key(FIRST, 0), encode_record(protected.to_body())[0])
    with pytest.raises(DamageError, match="belongs into protected/"):
        memory.read_held(FIRST, 0)


# -- committed ----------------------------------------------------------------------------------


def test_a_commit_is_put_once(memory: Place) -> None:
    record, other = encode_record({"format": 1})[0], encode_record({"format": 2})[0]
    assert memory.read_commit(FIRST) is None
    memory.put_commit(FIRST, record)
    memory.put_commit(FIRST, record)  # each process of the node may
    assert memory.read_commit(FIRST) == record == memory.store.get(memory.commit_key(FIRST), 1 << 20)
    with pytest.raises(DamageError, match="something else") as caught:
        memory.put_commit(FIRST, other)
    assert caught.value.file == memory.commit_key(FIRST)
    assert memory.read_commit(FIRST) == record
    with pytest.raises(DamageError, match="whole"):
        memory.put_commit(SECOND, b"no record")
    assert memory.versions() == [FIRST]


def test_a_commit_with_one_line_damaged_is_the_same(memory: Place) -> None:
    record = encode_record({"format": 1})[0]
    memory.put_commit(FIRST, record)
    _flip(Path(memory.store.location, memory.commit_key(FIRST)))
    memory.put_commit(FIRST, record)
    assert memory.read_commit(FIRST) != record
    _cut(Path(memory.store.location, memory.commit_key(FIRST)))
    Path(memory.store.location, memory.commit_key(FIRST)).write_bytes(record[: len(record) // 2 - 2])
    with pytest.raises(DamageError, match="whole"):
        memory.put_commit(FIRST, record)


def test_a_commit_that_others_can_write_is_not_ours(memory: Place) -> None:
    memory.put_commit(FIRST, encode_record({"format": 1})[0])
    os.chmod(f"{memory.store.location}/{memory.commit_key(FIRST)}", 0o622)
    with pytest.raises(DamageError, match="written by others"):
        memory.read_commit(FIRST)


# -- removed ----------------------------------------------------------------------------------


def test_remove(memory: Place) -> None:
    for version in (FIRST, SECOND):
        put(memory, version, 0)
        put(memory, version, 1)
        commit(memory, version)
    memory.remove(FIRST)
    memory.remove(FIRST)
    assert memory.versions() == [SECOND]
    assert {rank: verify_held(memory, SECOND, rank).rank for rank in memory.ranks(SECOND)} == {0: 0, 1: 1}


def test_forget_and_put_again(memory: Place) -> None:
    put(memory, FIRST, 0)
    kept = put(memory, FIRST, 1)
    memory.forget(FIRST, 0)
    assert memory.ranks(FIRST) == [1]
    assert not [key for key, _ in memory.store.tree("versions") if key.endswith("r000000")]
    memory.forget(FIRST, 0)
    assert put(memory, FIRST, 0) == verify_held(memory, FIRST, 0)
    assert verify_held(memory, FIRST, 1) == kept


@pytest.mark.parametrize("name", ["", "..", "1", "00000001-a000001/..", "../../x", "commit"])
def test_only_versions_have_names(memory: Place, name: str) -> None:
    calls = [memory.remove, memory.ranks, memory.read_commit, lambda v: memory.put_commit(v, encode_record({})[0])]
    for take in (memory.forget, memory.forget_parity, memory.read_held):
        calls.append(lambda v, take=take: take(v, 0))
    for call in calls:
        with pytest.raises(UsageError, match="no version's name"):
            call(name)


def _made(path: Path) -> Path:
    path.mkdir(mode=0o700)
    return path
