"""Places for runs that are built once and copied hundreds of times: in memory where the machine has such a place."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from damage_support import Built, build

_MEMORY = Path("/dev/shm")


@pytest.fixture(scope="session")
def fast_session() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="holdfast-damage-", dir=_MEMORY if _MEMORY.is_dir() else None))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def fast(fast_session: Path) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(dir=fast_session))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session", params=[1, 2], ids=["serial", "two-ranks"])
def built(request: pytest.FixtureRequest, fast_session: Path) -> Built:
    """A whole run: three kept versions, a record, three attempts, an output file; never changed, only copied."""
    return build(fast_session / f"built-{request.param}", request.param)


@pytest.fixture(scope="session")
def serial(fast_session: Path) -> Built:
    return build(fast_session / "built-alone", 1)
