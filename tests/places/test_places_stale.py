"""Places that can go are found and removed; what may be needed, is another's, or is reached by a link stays."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from places_support import FIRST, OTHER_RUN, RUN, SECOND, commit, put

from holdfast.catalog.places import Place, StalePlaceError, clean, open_place, stale_places, verify_held
from holdfast.catalog.places.stale import UNFINISHED
from holdfast.errors import StorageError
from holdfast.format import encode_record
from holdfast.store import PosixStore


def make(kind: str, root: Path, run: str = RUN, where: str | None = None) -> Place:
    """A place with a version in it."""
    place = open_place(kind, str(root), run, create=True, where=where)
    put(place, FIRST, 0)
    commit(place, FIRST)
    return place


def begin_run(where: Path, run: str) -> None:
    """A run's directory as its first attempt makes it."""
    PosixStore(str(where), create=True).put("holdfast.json", encode_record({"format": 1, "run": run, "created": 0})[0])


CASES = ["not mounted", "nothing above", "being made", "damaged", "unreadable", "untold", "relative"]


def names(root: Path) -> list[str]:
    return sorted(p.name for p in (root / f"holdfast-{os.geteuid()}").iterdir())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir(mode=0o700)
    return tmp_path / "root"


def test_nothing_is_stale(root: Path) -> None:
    assert stale_places(str(root)) == []
    make("memory", root)
    make("local", root, OTHER_RUN)
    assert stale_places(str(root)) == []


def test_memory_of_an_earlier_boot(root: Path, reboot: Callable[[], None]) -> None:
    old = make("memory", root)
    kept = make("local", root, OTHER_RUN)
    reboot()
    with pytest.raises(StalePlaceError):
        open_place("memory", str(root), RUN, create=True)
    (found,) = stale_places(str(root))
    assert (found.path, found.run) == (old.store.location, RUN)
    assert found.nbytes == sum(size for _, size in old.store.tree(""))
    (line,) = clean([found])
    assert old.store.location in line and "KiB" in line and "earlier boot" in line
    assert names(root) == [OTHER_RUN] and verify_held(kept, FIRST, 0).rank == 0
    assert open_place("memory", str(root), RUN, create=True).versions() == []
    assert clean([found]) == []  # what is there now is not what was found
    assert names(root) == [RUN, OTHER_RUN]


def test_a_run_that_is_gone(root: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    begin_run(runs / "heat", RUN)
    begin_run(runs / "other", OTHER_RUN)
    for kind in ("memory", "local"):
        make(kind, root, where=str(runs / "heat"))
        assert stale_places(str(root)) == []
        (runs / "heat").rename(tmp_path / "away")
        (found,) = stale_places(str(root))
        assert "is gone" in found.why
        (tmp_path / "away").rename(runs / "heat")
        assert stale_places(str(root)) == []
        assert clean([found])
        assert names(root) == []


def test_another_run_stands_there_now(root: Path, tmp_path: Path) -> None:
    begin_run(tmp_path / "heat", OTHER_RUN)
    make("memory", root, where=str(tmp_path / "heat"))
    (found,) = stale_places(str(root))
    assert "another run's" in found.why


@pytest.mark.parametrize("case", CASES)
def test_what_is_not_known_to_be_gone_stays(root: Path, tmp_path: Path, case: str) -> None:
    """A place may hold the only copy of a state."""
    where = tmp_path / "runs" / "heat"
    if case == "not mounted":
        where.parent.mkdir()
    elif case == "being made":
        where.mkdir(parents=True)
    elif case == "damaged":
        where.mkdir(parents=True)
        (where / "holdfast.json").write_bytes(b"?")
    elif case == "unreadable":
        where.parent.mkdir()
        where.symlink_to(where)
    make("memory", root, where={"untold": None, "relative": "runs/heat"}.get(case, str(where)))
    assert stale_places(str(root)) == []


def test_the_caller_may_know_more(root: Path) -> None:
    make("memory", root)
    make("memory", root, OTHER_RUN)
    found = stale_places(str(root), lambda identity: "it is complete" if identity.run == RUN else None)
    assert [(one.run, one.why) for one in found] == [(RUN, "it is complete")]
    assert "it is complete" in clean(found)[0]
    assert names(root) == [OTHER_RUN]


def test_what_was_begun_and_never_finished(root: Path) -> None:
    top = root / f"holdfast-{os.geteuid()}"
    (top / RUN).mkdir(parents=True, mode=0o700)
    top.chmod(0o700)
    assert stale_places(str(root)) == []  # another process may be at it
    os.utime(top / RUN, (time.time() - UNFINISHED - 9,) * 2)
    (found,) = stale_places(str(root))
    assert clean([found]) and names(root) == []
    assert clean([found]) == []


def test_what_holds_something_and_has_no_record_stays(root: Path) -> None:
    """Nobody can tell what it is: it is looked at by a person."""
    place = make("memory", root)
    place.store.delete("place.json")
    os.utime(place.store.location, (0, 0))
    assert stale_places(str(root)) == []


def test_what_is_damaged_stays(root: Path, reboot: Callable[[], None]) -> None:
    place = make("memory", root)
    place.store.delete("place.json")
    place.store.put("place.json", b"?")
    reboot()
    assert stale_places(str(root)) == []


def test_links_are_not_followed(root: Path, tmp_path: Path, reboot: Callable[[], None]) -> None:
    """Neither one that leads to a place, nor one in a place."""
    elsewhere, other = tmp_path / "elsewhere", tmp_path / "other"
    place = Path(make("memory", root).store.location)
    other.mkdir()
    (other / "precious").write_text("mine")
    (place / "versions" / FIRST / "more").symlink_to(other)
    (place / "link").symlink_to(other)
    place.with_name(OTHER_RUN).symlink_to(place)
    reboot()
    (found,) = stale_places(str(root))
    assert found.run == RUN
    place.rename(elsewhere)
    place.symlink_to(elsewhere)
    with pytest.raises(StorageError, match="symbolic link"):
        clean([found])
    assert (elsewhere / "place.json").exists()
    place.unlink()
    elsewhere.rename(place)
    assert len(clean([found])) == 1
    assert (other / "precious").read_text() == "mine"
    assert names(root) == [OTHER_RUN]


def test_another_users_stay(root: Path, monkeypatch: pytest.MonkeyPatch, reboot: Callable[[], None]) -> None:
    place = make("memory", root)
    me = os.geteuid()
    (found,) = stale_places(str(root), lambda _: "for a test")
    reboot()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    assert stale_places(str(root)) == []
    with pytest.raises(StorageError, match="belongs to user"):
        clean([found])
    Path(place.store.location).parent.rename(root / f"holdfast-{me + 1}")
    with pytest.raises(StorageError, match="belongs to user"):
        stale_places(str(root))
    monkeypatch.undo()
    assert (root / f"holdfast-{me + 1}" / RUN / "place.json").exists()


def test_a_place_with_many_versions(root: Path) -> None:
    place = make("memory", root)
    put(place, SECOND, 0)
    (found,) = stale_places(str(root), lambda _: "for a test")
    assert clean([found]) and names(root) == []
