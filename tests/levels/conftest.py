from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
for _path in (TESTS, TESTS / "faults_storage"):  # what is made to fail, and children by fork
    if str(_path) not in sys.path:
        sys.path.append(str(_path))


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """In memory, where there is a file system for that: so that what is a node's memory here is one."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="holdfast-tests-", dir=memory if memory.is_dir() else tmp_path) as made:
        yield Path(made)


@pytest.fixture(autouse=True)
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative names, and a holdfast.toml, are the test's own; no launcher started these tests."""
    monkeypatch.chdir(tmp_path)
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_SIZE", "MV2_COMM_WORLD_SIZE", "MPI_LOCALNRANKS"):
        monkeypatch.delenv(name, raising=False)
