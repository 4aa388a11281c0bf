"""Versions that are copied aside and given their names whole: who comes second, what is left, what stands there already."""

from __future__ import annotations

from pathlib import Path

import pytest
from catalog_support import Hand
from faults import Faults, named

from holdfast.catalog.incoming import arrive, find_incoming, has_arrived, new_incoming, remove_incoming
from holdfast.errors import DamageError, FencedError, StorageError
from holdfast.store import KeyMissingError, PosixStore, syscalls

NAME = "00000003-a000001"


class Copies(Hand):
    """A run of attempt 1, whose version 3 is on nodes."""

    def __init__(self, path: Path) -> None:
        super().__init__(path / "run")
        self.attempt(1)
        source = Hand(path / "nodes")
        source.commit(NAME)
        self.record = source.store.get(f"versions/{NAME}/commit", 1 << 20)
        self.link = source.links[NAME]

    def aside(self, attempt: int = 1, commit: bool = True) -> str:
        """A copy that is finished, or lacks its commit."""
        incoming = new_incoming(attempt)
        for key in ("data/r000000", "data/r000001", "index/root"):
            self.store.put(f"{incoming}/{NAME}/{key}", key.encode())
        if commit:
            self.store.put(f"{incoming}/{NAME}/commit", self.record)
        return incoming

    @property
    def files(self) -> list[str]:
        return [key.removeprefix(f"versions/{NAME}/") for key, _ in self.store.tree("versions")]


WHOLE = ["commit", "data/r000000", "data/r000001", "index/root"]


@pytest.fixture
def run(tmp_path: Path) -> Copies:
    return Copies(tmp_path)


def test_a_version_arrives_whole_and_leaves_nothing_aside(run: Copies) -> None:
    assert not has_arrived(run.store, run.link)
    incoming = run.aside()
    arrive(run.store, run.link, incoming, 1)
    assert (run.files, run.store.list("incoming")) == (WHOLE, [])
    assert has_arrived(run.store, run.link)


def test_what_is_there_already_stays_and_the_copy_goes(run: Copies) -> None:
    arrive(run.store, run.link, run.aside(), 1)
    inode = (run.path / f"versions/{NAME}").stat().st_ino
    arrive(run.store, run.link, run.aside(), 1)
    assert (run.files, run.store.list("incoming")) == (WHOLE, [])
    assert (run.path / f"versions/{NAME}").stat().st_ino == inode


def test_what_is_there_is_made_durable_before_it_is_believed(run: Copies) -> None:
    """Who gave it its name may have died before the fsync."""
    arrive(run.store, run.link, run.aside(), 1)
    with Faults("error", match=named("fsync", path="versions")), pytest.raises(StorageError):
        has_arrived(run.store, run.link)


def test_half_a_version_gives_way(run: Copies) -> None:
    for key in ("data/r000000", "index/root", "index/g000000"):
        run.store.put(f"versions/{NAME}/{key}", b"old")
    assert not has_arrived(run.store, run.link)
    arrive(run.store, run.link, run.aside(), 1)
    assert run.files == WHOLE and run.store.get(f"versions/{NAME}/data/r000000", 100) == b"data/r000000"


def test_another_commit_there_is_damage_and_stays(run: Copies) -> None:
    run.commit(NAME, step=77)
    with pytest.raises(DamageError, match="is not the record that was committed"):
        arrive(run.store, run.link, run.aside(), 1)
    run.spoil(f"versions/{NAME}/commit")
    with pytest.raises(DamageError):
        arrive(run.store, run.link, run.aside(), 1)
    assert run.files == ["commit"]


def test_a_later_attempt_is_looked_for_before_and_after(run: Copies, monkeypatch: pytest.MonkeyPatch) -> None:
    incoming, real = run.aside(), syscalls.rename_new

    def late(old: str, new: str) -> None:
        run.attempt(2)
        real(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(syscalls, "rename_new", late)
        with pytest.raises(FencedError):
            arrive(run.store, run.link, incoming, 1)
    assert run.files == WHOLE  # it does no harm
    run.store.delete_tree("versions")
    with pytest.raises(FencedError):
        arrive(run.store, run.link, run.aside(), 1)
    assert run.files == []


def test_tidying_takes_what_earlier_attempts_left(run: Copies) -> None:
    left = [run.aside(), run.aside(commit=False), run.aside(2)]
    run.store.put("incoming/strange", b"")
    run.attempt(2)
    run.attempt(3)
    mine = run.aside(3)
    assert find_incoming(run.store, 3) == sorted(left)
    remove_incoming(run.store, 3)
    assert run.store.list("incoming") == sorted([mine.removeprefix("incoming/"), "strange"])
    run.aside(1)
    with pytest.raises(FencedError):  # one that has been stopped since
        remove_incoming(run.store, 2)
    assert len(find_incoming(run.store, 3)) == 1


@pytest.mark.parametrize("call", range(1, 24))
def test_a_late_name_during_tidying_is_of_a_whole_version_or_of_none(
    run: Copies, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """The copier has looked for a fence, and is stopped; it goes on at any call of the next attempt's tidying."""
    incoming = run.aside()
    run.attempt(2)
    late = PosixStore(run.store.location, create=False)
    count, moved = 0, None
    names = [name for name in syscalls.__all__ if name not in ("close", "fstat")]
    with monkeypatch.context() as patch:
        for name in names:
            real = getattr(syscalls, name)

            def act(*args, real=real):
                nonlocal count, moved
                count += 1
                if count == call:
                    count += 10_000
                    try:
                        late.move(f"{incoming}/{NAME}", f"versions/{NAME}")
                        moved = True
                    except KeyMissingError:
                        moved = False
                return real(*args)

            patch.setattr(syscalls, name, act)
        remove_incoming(run.store, 2)
    assert moved is not None, f"there are only {count} calls"
    assert run.files == (WHOLE if moved else [])
    assert run.store.list("incoming") == []
