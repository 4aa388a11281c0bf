"""Acceptance point 5: one bit flipped, one byte cut, a file emptied or missing, in every file of a run.

Attacks invariants 4 and 6 of storage: never a wrong value; an older whole version instead, the damage named; damaged
attempts fence all the same; what is damaged is not deleted unasked.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from damage_support import ATTEMPTS, KEPT, NEWEST, RECORD, Built, Copy, undisturbed

import holdfast
from holdfast.catalog import check_fence
from holdfast.engine.verify import Damage
from holdfast.run import maintenance
from holdfast.store import open_store

NEWEST_NAME = next(name for name in KEPT if name.startswith(f"{NEWEST:08d}"))


def flip(path: Path, at: int, bit: int = 3) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def cut(path: Path, at: int) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:at] + data[at + 1 :])


PLACES: dict[str, Callable[[int], int]] = {"start": lambda n: 0, "middle": lambda n: n // 2, "end": lambda n: n - 1}


def _at(change: Callable[[Path, int], None], place: Callable[[int], int]) -> Callable[[Path], None]:
    return lambda path: change(path, place(path.stat().st_size))


DAMAGES: dict[str, Callable[[Path], None]] = {
    **{f"flip-{name}": _at(flip, place) for name, place in PLACES.items()},
    **{f"cut-{name}": _at(cut, place) for name, place in PLACES.items()},
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
}


def is_record_file(file: str) -> bool:
    return file.startswith(("attempts/", "files/")) or file == "holdfast.json" or file.endswith("/commit")


def detectable(file: str, damage: str) -> bool:
    """A lease, a base, an end or the record of an output file need not exist: that they are missing proves nothing. Of the
    oldest version a missing commit looks like a deletion that was interrupted."""
    oldest = f"versions/{min(KEPT)}/commit"
    optional = file.startswith("files/") or file.endswith((".lease", ".base", ".end")) or file == oldest
    return not (damage == "missing" and optional)


def check_state(copy: Copy, outcomes: list, file: str) -> int:
    """That all ranks have the state of one version, exactly; its number."""
    (version,) = {o.version for o in outcomes}
    for rank, o in enumerate(outcomes):
        assert o.step == {int(name[:8]): step for name, step in KEPT.items()}[version], file
        assert o.state == undisturbed(rank, o.step), f"{file}: rank {rank} got a wrong value"
        assert o.lines == [str(i) for i in range(o.step)], file
        assert o.attempt == ATTEMPTS + 1, file
    return version


def check_named(damages: list[Damage], file: str, ranks: int) -> None:
    found = [d for d in damages if d.file == file]
    assert found, f"verify does not name {file}: {damages}"
    if "/data/" in file:
        rank = int(file[-6:])
        assert all(d.rank == rank and d.offset is not None for d in found), found
        assert all(d.object is not None or "between" in d.message or "bytes" in d.message or "missing" in d.message
                   for d in found), found  # fmt: skip
    if "/index/" in file:
        assert all(d.offset is not None for d in found), found


@pytest.mark.parametrize("damage", DAMAGES)
def test_one_damage_never_gives_a_wrong_value(built: Built, fast: Path, damage: str) -> None:
    for i, file in enumerate(built.files):
        copy = built.copy(fast / str(i))
        DAMAGES[damage](copy.url / file)
        damages = check_named_or_undetectable(copy, file, damage)
        fenced = file.startswith("attempts/")
        if fenced:
            with pytest.raises(holdfast.FencedError):
                check_fence(open_store(str(copy.url), create=False), ATTEMPTS - 1)
        outcomes = copy.resume(more=1)
        version = check_state(copy, outcomes, file)
        assert max(outcomes[0].numbers) == NEWEST + 1, file  # numbers go on
        one_line = is_record_file(file) and damage not in ("empty", "missing")
        gap = bool(damages) and all("between objects" in d.message for d in damages)
        harmless = NEWEST_NAME not in file or one_line or gap
        if harmless:
            assert version == NEWEST, f"{file}: {outcomes[0].skipped}"
            assert outcomes[0].skipped == (), file
        else:
            assert version == NEWEST - 1, file
            ((name, why),) = outcomes[0].skipped
            assert name == NEWEST_NAME and why, file


def check_named_or_undetectable(copy: Copy, file: str, damage: str) -> list[Damage]:
    before = copy.content()
    damages = maintenance.verify(copy.url)
    assert copy.content() == before, "verify has written"
    if detectable(file, damage):
        check_named(damages, file, copy.ranks)
    else:
        assert damages == []
    return damages


def test_the_undamaged_run_is_whole_and_resumes_from_the_newest(built: Built, fast: Path) -> None:
    copy = built.copy(fast / "whole")
    assert maintenance.verify(copy.url) == []
    assert check_state(copy, copy.resume(), "") == NEWEST


def test_verify_covers_every_byte(built: Built, fast: Path) -> None:
    copy = built.copy(fast / "copy")
    choose = random.Random(built.ranks)
    for file in built.files:
        path = copy.url / file
        whole = path.read_bytes()
        for at in choose.sample(range(len(whole)), min(len(whole), 8)):
            flip(path, at, choose.randrange(8))
            check_named(maintenance.verify(copy.url), file, built.ranks)
            path.write_bytes(whole)
    assert maintenance.verify(copy.url) == []


PARTS = ["data/r000000", "index/g000000", "index/root", "commit"]


@pytest.mark.parametrize("damage", ["flip-middle", "cut-end", "empty", "missing"])
@pytest.mark.parametrize("part", PARTS)
def test_if_no_version_is_whole_nothing_is_started_or_changed(
    built: Built, fast: Path, part: str, damage: str
) -> None:
    if part == "commit" and damage not in ("empty",):
        damage = "empty"  # anything less leaves one of its lines, or is no damage at all
    copy = built.copy(fast / "copy")
    for name in KEPT:
        DAMAGES[damage](copy.url / "versions" / name / part)
    before = copy.content()
    lines = (copy.out / "lines-0.txt").read_bytes()
    with pytest.raises(holdfast.NoWholeVersionError) as caught:
        copy.resume()
    assert all(name in str(caught.value) for name in KEPT)
    after = copy.content()
    new = {k for k in after if k not in before}
    assert new and all(k.startswith(f"attempts/{ATTEMPTS + 1:06d}.") for k in new)
    assert {k: after[k] for k in before} == before
    assert (copy.out / "lines-0.txt").read_bytes() == lines


def test_two_damaged_versions_are_both_named(built: Built, fast: Path) -> None:
    copy = built.copy(fast / "copy")
    newest, middle, oldest = sorted(KEPT, reverse=True)
    flip(copy.url / "versions" / newest / "data/r000000", 5000)
    cut(copy.url / "versions" / middle / "index/root", 3)
    outcomes = copy.resume()
    assert check_state(copy, outcomes, "") == int(oldest[:8])
    assert [name for name, _ in outcomes[0].skipped] == [newest, middle]
    assert "data/r000000" in outcomes[0].skipped[0][1] and "index/root" in outcomes[0].skipped[1][1]


@pytest.mark.parametrize("rank", [0, 1])
def test_damage_on_one_rank_moves_all_ranks(fast_session: Path, built: Built, fast: Path, rank: int) -> None:
    rank = min(rank, built.ranks - 1)
    copy = built.copy(fast / "copy")
    flip(copy.url / "versions" / NEWEST_NAME / f"data/r{rank:06d}", 70_000)
    outcomes = copy.resume()
    assert check_state(copy, outcomes, "") == NEWEST - 1
    assert all(o.skipped == outcomes[0].skipped for o in outcomes)
    assert f"r{rank:06d}" in outcomes[0].skipped[0][1]


@pytest.mark.parametrize("part", ["data/r000000", "index/g000000", "index/root", "commit"])
def test_damaged_versions_are_never_pruned_unasked(built: Built, fast: Path, part: str) -> None:
    copy = built.copy(fast / "copy")
    folder = copy.url / "versions" / NEWEST_NAME
    DAMAGES["empty" if part == "commit" else "flip-middle"](folder / part)
    kept = {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    copy.resume(more=6)  # retention deletes what is beyond the newest three meanwhile
    assert {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == kept
    removed = maintenance.prune(copy.url, keep=holdfast.Keep(last=1), takeover=True)
    assert NEWEST_NAME not in {r.name for r in removed} and len(removed) == 2
    assert {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == kept
    removed = maintenance.prune(copy.url, keep=holdfast.Keep(last=1), takeover=True, damaged=True)
    assert [(r.name, r.status) for r in removed] == [(NEWEST_NAME, "damaged")]
    assert not folder.exists()
    assert maintenance.verify(copy.url) == []


def test_abandoned_versions_that_are_whole_are_pruned(serial: Built, fast: Path) -> None:
    copy = serial.copy(fast / "copy")
    maintenance.rollback(copy.url, 4, takeover=True)
    removed = maintenance.prune(copy.url, keep=holdfast.Keep(last=3), takeover=True)
    assert [(r.name, r.status) for r in removed] == [(NEWEST_NAME, "abandoned")]


@pytest.mark.parametrize("damage", ["empty", "flip-middle"])
@pytest.mark.parametrize("suffix", ["json", "base", "lease", "end"])
def test_a_damaged_attempt_does_not_lose_records(serial: Built, fast: Path, suffix: str, damage: str) -> None:
    copy = serial.copy(fast / "copy")
    DAMAGES[damage](copy.url / f"attempts/{ATTEMPTS:06d}.{suffix}")
    copy.resume(more=1)
    removed = maintenance.prune(copy.url, keep=holdfast.Keep(last=3), takeover=True)
    assert all(r.name != RECORD for r in removed)
    assert (copy.url / "records" / RECORD / "commit").exists()


def test_a_base_that_nothing_tells_is_an_error(serial: Built, fast: Path) -> None:
    copy = serial.copy(fast / "copy")
    maintenance.rollback(copy.url, 4, takeover=True)
    DAMAGES["empty"](copy.url / f"attempts/{ATTEMPTS + 1:06d}.base")
    before = copy.content()
    with pytest.raises(holdfast.DamageError, match="rollback"):
        copy.resume()
    assert copy.content() == before
    maintenance.rollback(copy.url, 4, takeover=True)
    assert copy.resume()[0].version == 4
