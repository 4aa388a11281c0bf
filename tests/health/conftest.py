"""Makes the helpers importable; ranks that are ended whatever becomes of the test."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.append(str(HERE))

from health_support import Nursery, Rank, until  # noqa: E402

MEMORY = Path("/dev/shm")


@pytest.fixture
def node() -> Iterator[Path]:
    """A directory in memory, where there is some."""
    with tempfile.TemporaryDirectory(prefix="holdfast-health-", dir=MEMORY if MEMORY.is_dir() else None) as made:
        yield Path(made)


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.process.communicate(timeout=10)


@pytest.fixture
def start(node: Path, nursery: Nursery) -> Iterator[Callable[..., list[Rank]]]:
    """Starts so many ranks, and returns when all of them beat."""
    started: list[Rank] = []

    def call(count: int, **how: Any) -> list[Rank]:
        ranks = [Rank(nursery, node, rank, **how) for rank in range(count)]
        started.extend(ranks)
        until(ranks, lambda: all(rank.said("ready") for rank in ranks), 30)
        return ranks

    yield call
    for rank in started:
        rank.kill()
