"""Where the faults are played, and their numbers in the terminal summary."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")
_SAID = pytest.StashKey[list[str]]()


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
def say(request: pytest.FixtureRequest) -> list[str]:
    """Lines put here are printed at the end of the test run: how many points were tried."""
    return request.config.stash.setdefault(_SAID, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash.get(_SAID, [])
    if lines:
        terminalreporter.section("points of faults tried")
        for line in lines:
            terminalreporter.write_line(line)
