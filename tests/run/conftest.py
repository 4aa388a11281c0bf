from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from run_support import crash

import holdfast

Start = Callable[..., holdfast.Run]


@pytest.fixture(autouse=True)
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative names, and a holdfast.toml, are the test's own; no launcher started these tests."""
    monkeypatch.chdir(tmp_path)
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_SIZE", "MV2_COMM_WORLD_SIZE", "MPI_LOCALNRANKS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def without_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tested here survives a kill without it; power loss is tested elsewhere, and fsync would take most of the time."""
    monkeypatch.setattr("holdfast.store.syscalls.fsync", lambda fd: None)


@pytest.fixture(autouse=True)
def landed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that dies has its last version durable, or it would depend on the disk from which step it resumes. Modules with
    IN_FLIGHT test that it need not be."""
    if not getattr(request.module, "IN_FLIGHT", False):
        monkeypatch.setenv("HOLDFAST_OVERLAP", "off")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(**options)` opens the run of the test. One that was opened before and not closed has died without a word."""
    opened: list[holdfast.Run] = []

    def start(**options: Any) -> holdfast.Run:
        dead = bool(opened) and not opened[-1]._x.closed
        if dead:
            crash(opened[-1])
        run = holdfast.open(tmp_path / "run", **{"takeover": dead, **options})
        opened.append(run)
        return run

    yield start
    for run in opened:
        crash(run)
