"""Versions copied to the run's own store while somebody else does the same, or comes back late: nothing that was reported is
lost, and what has a commit is whole."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from faults import Call, Faults
from lf_ladders import committed
from test_levels_run import EACH, advance, after, begin, die, rest

import holdfast
from holdfast.catalog import read_catalog
from holdfast.config import load
from holdfast.errors import FencedError
from holdfast.group import SerialGroup
from holdfast.run import maintenance
from holdfast.run.levels.aside import Aside
from holdfast.run.levels.salvage import Telling, salvage
from holdfast.store import open_store, syscalls


@pytest.fixture
def where(tmp_path: Path) -> Path:
    (tmp_path / "memory").mkdir()
    return tmp_path


def rescue(where: Path) -> dict[str, Any]:
    return salvage(SerialGroup(), str(where / "run"), load({}), True, Telling(lambda line: None, lambda done, total: None))


@contextmanager
def before(
    monkeypatch: pytest.MonkeyPatch, name: str, pattern: str, act: Callable[[], None], within: str = ""
) -> Iterator[list[str]]:
    """`act` once, before the first call of the storage function `name` that concerns a path like `pattern`, in threads
    whose names begin with `within`; what has happened is in the list."""
    real, done = getattr(syscalls, name), list[str]()

    def call(*args: Any) -> Any:
        paths = [str(arg) for arg in args]
        if not done and any(re.search(pattern, path) for path in paths) and threading.current_thread().name.startswith(within):
            done.append(paths[0])
            act()
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(syscalls, name, call)
        yield done


def in_memory_alone(where: Path, until: int = 5) -> None:
    """A run that has died, and left versions in memory."""
    run, u = begin(where)
    advance(run, u, until)
    die(run)
    assert committed(where)["global"] == []


def whole(where: Path, version: int) -> None:
    """The run's own store has the version, and nothing else is wrong with it."""
    assert maintenance.verify(where / "run") == []
    lineage = read_catalog(open_store(str(where / "run"), create=False, read_only=True)).lineage
    assert lineage[0].number == version


class Killed(BaseException):
    """What is under way ends here."""


def killed() -> None:
    raise Killed


def kill_rescue(where: Path, monkeypatch: pytest.MonkeyPatch, name: str, pattern: str) -> None:
    """A salvage that is killed at a call: nothing is removed by it."""
    with monkeypatch.context() as patch:
        patch.setattr(Aside, "drop", lambda self: True)
        with before(monkeypatch, name, pattern, killed), pytest.raises(Killed):
            rescue(where)


ASIDE = r"run/incoming/000001-.*"
LATE = pytest.mark.parametrize(
    ("name", "pattern"),
    [("open", f"{ASIDE}/data/"), ("link", f"{ASIDE}/commit$"), ("rename_new", "run/versions/")],
    ids=["before it copies", "before the commit is put aside", "before it is given its name"],
)


# -- a keeper that is late


def held(where: Path, monkeypatch: pytest.MonkeyPatch, name: str, pattern: str, act: Callable[[], None]) -> None:
    """A program whose keeper is held at a call, where `act` happens; then both go on until the program is told."""
    run, u = begin(where, holdfast.memory(where / "memory"), holdfast.global_(every=holdfast.versions(2)))
    with before(monkeypatch, name, pattern, act, "holdfast-keeper") as done, pytest.raises(FencedError):
        for step in run.steps(100, every=EACH):
            u += step + 1
            rest(run)
            assert step < 20, "nobody told the program"
    assert done
    die(run)


@LATE
def test_a_late_keeper_takes_nothing_from_what_a_salvage_has_reported(
    where: Path, monkeypatch: pytest.MonkeyPatch, name: str, pattern: str
) -> None:
    result: list[dict[str, Any]] = []
    held(where, monkeypatch, name, pattern, lambda: result.append(rescue(where)))
    number = result[0]["version"]
    assert number in committed(where)["global"]
    whole(where, number)
    again, u = begin(where)
    again.ready()
    assert again.restored is not None and (again.restored.version, u[0]) == (number, after(number))
    advance(again, u, number + 3)
    assert os.listdir(where / "run" / "incoming") == []
    again.close()


@LATE
def test_a_late_keeper_in_a_salvage_that_is_killed_half_way(
    where: Path, monkeypatch: pytest.MonkeyPatch, name: str, pattern: str
) -> None:
    """Whatever the keeper then leaves is whole, or nothing; the next salvage has it."""

    def half() -> None:
        kill_rescue(where, monkeypatch, "link", r"run/incoming/000002-.*/index/root$")

    held(where, monkeypatch, name, pattern, half)
    assert maintenance.verify(where / "run") == []
    result = rescue(where)
    number = result["version"] or max(committed(where)["global"])
    whole(where, number)
    assert os.listdir(where / "run" / "incoming") == []


# -- a salvage that is late


@LATE
@pytest.mark.parametrize("half", [False, True], ids=["that is through", "that is killed half way"])
def test_a_late_salvage_and_the_next_one(
    where: Path, monkeypatch: pytest.MonkeyPatch, name: str, pattern: str, half: bool
) -> None:
    in_memory_alone(where)
    pattern = pattern.replace("000001", "000002")
    result: list[dict[str, Any]] = []

    def another() -> None:
        if half:
            kill_rescue(where, monkeypatch, "link", r"run/incoming/000003-.*/index/root$")
        else:
            result.append(rescue(where))

    with before(monkeypatch, name, pattern, another) as done, pytest.raises(FencedError):
        rescue(where)
    assert done and maintenance.verify(where / "run") == []
    result.append(rescue(where))
    assert committed(where)["global"][-1] == 4 and result[0]["version"] in (4, None)
    whole(where, 4)
    assert os.listdir(where / "run" / "incoming") == []


# -- what stands there, and what is left


def test_half_of_a_version_at_its_name_gives_way_to_the_whole_one(where: Path) -> None:
    in_memory_alone(where)
    there = where / "run/versions/00000004-a000001"
    (there / "data").mkdir(parents=True)
    (there / "data/r000000").write_bytes(b"half")
    assert rescue(where)["version"] == 4
    whole(where, 4)


def test_what_a_killed_copy_leaves_is_nobody_s_and_pruned(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_memory_alone(where)
    kill_rescue(where, monkeypatch, "rename_new", "run/versions/")
    (left,) = (where / "run/incoming").iterdir()
    assert left.name.startswith("000002-")
    store = open_store(str(where / "run"), create=False, read_only=True)
    assert read_catalog(store).versions == [] or all(v.status == "nodes" for v in read_catalog(store).versions)
    assert maintenance.verify(where / "run") == []
    told = maintenance.prune(where / "run", dry_run=True)
    assert [(one.name, one.status) for one in told] == [(f"incoming/{left.name}", "fragment")] and told[0].bytes > 0
    assert left.exists()
    assert maintenance.prune(where / "run") == told
    assert not left.exists()
    assert rescue(where)["version"] == 4


# -- a commit at a place whose put failed though it was done


def test_a_version_whose_commit_may_be_at_the_place_is_left_there(where: Path) -> None:
    """Another start may go on from it by then, and would lose it."""
    linked = False

    def after_the_link(call: Call) -> bool:
        nonlocal linked
        linked = linked or (call.to or "").endswith("/versions/00000002-a000001/commit")
        return linked and call.name == "fsync" and call.path.endswith("/versions/00000002-a000001")

    run, u = begin(where)
    with Faults("error", match=after_the_link) as faults:
        for step in run.steps(100, every=EACH):
            u += step + 1
            run._x.writer.arrive()
            if step == 2:
                break
    assert faults.fired
    assert 2 in committed(where)["memory"]
    die(run)
    again, u = begin(where)
    again.ready()
    assert again.restored is not None and u[0] == after(again.restored.version)
    advance(again, u, again.restored.version + 4)
    rest(again)
    assert 2 not in committed(where)["memory"]  # it goes as an older one
    again.close()
