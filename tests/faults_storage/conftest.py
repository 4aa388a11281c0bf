"""Where the faults are played, and how many they were."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory, in memory if there is room: what a fault leaves does not depend on the disk, and the fsyncs of
    thousands of checkpoints take minutes on one."""
    above = tmp_path_factory.getbasetemp()
    if os.access(MEMORY, os.W_OK | os.X_OK) and shutil.disk_usage(MEMORY).free > 1 << 30:
        above = MEMORY
    with tempfile.TemporaryDirectory(prefix="holdfast-faults-", dir=above) as made:
        yield Path(made) / "ground"


@pytest.fixture
def say(record_property: Callable[[str, object], None]) -> Iterator[list[str]]:
    """Lines put here are printed at the end of the test run (tests/conftest.py): how many points were tried."""
    lines: list[str] = []
    yield lines
    for line in lines:
        record_property("points of faults", line)
