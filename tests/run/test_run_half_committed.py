"""A version whose commit is there although its put has failed: it may count by now, and is not taken back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults import Call, Faults
from run_support import crash

import holdfast
from holdfast.catalog import read_catalog
from holdfast.run import maintenance
from holdfast.store import open_store


class AfterTheLink:
    """Matches the fsync of the directory of version `number`, once its commit has its name."""

    def __init__(self, number: int, folder: str = "versions") -> None:
        self.path, self.linked = f"/{folder}/{number:08d}-a000001", False

    def __call__(self, call: Call) -> bool:
        self.linked = self.linked or (call.to or "").endswith(f"{self.path}/commit")
        return self.linked and call.name == "fsync" and call.path.endswith(self.path)


def durable(where: Path) -> list[int]:
    return [v.number for v in read_catalog(open_store(str(where), create=False, read_only=True)).lineage]


@pytest.fixture
def run(start: Any) -> Iterator[holdfast.Run]:
    run: holdfast.Run = start(keep=holdfast.Keep(last=2))
    kept = run.protect("still", np.arange(300_000.0)), run.protect("u", np.zeros(1000))
    run.ready()
    yield run
    del kept


def test_another_start_goes_on_from_it_and_loses_nothing(run: holdfast.Run, tmp_path: Path) -> None:
    """It resumes between the failure and what the first one would have removed, and reports a version that refers to it."""
    where, reported = tmp_path / "run", list[int]()

    def second() -> None:
        crash(run)
        other = holdfast.open(where, takeover=True)
        u, still = other.protect("u", np.zeros(1000)), other.protect("still", np.arange(300_000.0))
        other.ready()
        assert other.restored is not None and other.restored.version == 3
        for _ in range(2):
            u += 1
            reported.append(other.checkpoint().version)
        assert still[1] == 1.0
        crash(other)

    remove = run._x.writer._give_up

    def late(draft: Any) -> None:
        second()
        remove(draft)

    run._x.writer._give_up = late  # type: ignore[method-assign]
    run.checkpoint()
    run.checkpoint()
    with Faults("error", at=1, match=AfterTheLink(3)) as faults, pytest.raises(holdfast.CheckpointError, match="EIO"):
        run.checkpoint()
    assert faults.fired and reported
    assert maintenance.verify(where) == []
    assert durable(where)[0] == reported[-1]
    assert 3 in durable(where)


def test_the_same_program_goes_on(run: holdfast.Run, tmp_path: Path) -> None:
    """What the version refers to is kept as long as it is."""
    u = np.zeros(1)
    run.protect("v", u)
    for number in (1, 2):
        assert run.checkpoint().version == number
    with Faults("error", at=1, match=AfterTheLink(3)), pytest.raises(holdfast.CheckpointError):
        run.checkpoint()
    assert durable(tmp_path / "run")[0] == 3
    for number in (4, 5, 6):
        u += 1
        assert run.checkpoint().version == number
        run._x.writer.tidying.finish()
        assert maintenance.verify(tmp_path / "run") == []
    assert durable(tmp_path / "run")[0] == 6


def test_without_a_commit_nothing_stays(run: holdfast.Run, tmp_path: Path) -> None:
    def before_the_link(call: Call) -> bool:
        return call.name in ("link", "rename_new") and (call.to or "").endswith("/commit")

    with Faults("error", match=before_the_link), pytest.raises(holdfast.CheckpointError):
        run.checkpoint()
    assert not list((tmp_path / "run/versions").iterdir())


def test_a_record_stays_too(run: holdfast.Run, tmp_path: Path) -> None:
    with Faults("error", at=1, match=AfterTheLink(1, "records")) as faults, pytest.raises(holdfast.HoldfastError):
        with run.transaction("report"):
            pass
    assert faults.fired
    assert (tmp_path / "run/records/00000001-a000001/commit").exists()
