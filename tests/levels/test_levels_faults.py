"""Versions at places under faults: a kill, an error, a second writer at each storage call in turn. A sample of the cases and of
their points; all cases with LEVELS_SAMPLE in the environment, and every such a point (1: all)."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from lf_running import run_points

MEMORY = Path("/dev/shm")


def some(cases: list[tuple[object, ...]], *chosen: int) -> list[tuple[object, ...]]:
    """Those that are tried always."""
    return cases if "LEVELS_SAMPLE" in os.environ else [cases[i] for i in chosen]


def sample(n: int) -> int:
    """Each n-th point, or what the environment says."""
    return int(os.environ.get("LEVELS_SAMPLE", n))


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Path]:
    """In memory if there is room: what a fault leaves does not depend on the disk, and fsyncs take most of the time on one."""
    room = os.access(MEMORY, os.W_OK | os.X_OK) and shutil.disk_usage(MEMORY).free > 1 << 30
    with tempfile.TemporaryDirectory(prefix="holdfast-levels-", dir=MEMORY if room else tmp_path) as made:
        yield Path(made)


@pytest.mark.parametrize(
    ("ladder", "stretch", "n"),
    some(
        [
            ("memory", "taking", 16), ("local", "taking", 30), ("both", "taking", 40), ("both", "first opening", 25),
            ("memory", "opening", 30), ("both", "opening", 50), ("local", "ending", 25), ("both", "ending", 30),
        ],
        4,
    ),
)  # fmt: skip
def test_killed_at_a_storage_call(ground: Path, ladder: str, stretch: str, n: int) -> None:
    """What a start goes on from is the newest version that has a commit anywhere; it ends with the undisturbed result, and
    leaves nothing at places."""
    points = run_points(ground, "lf_kills", ladder, stretch, sample=sample(n))
    assert sum(points.values()) >= 5


@pytest.mark.parametrize(("stretch", "n"), some([("taking", 50), ("opening", 60), ("ending", 30)], 0))
def test_killed_and_the_node_s_memory_lost(ground: Path, stretch: str, n: int) -> None:
    """Gone on from is the newest version that was on the disk or in the run's own store."""
    points = run_points(ground, "lf_kills", "both", stretch, "lost", sample=sample(n))
    assert sum(points.values()) >= 5


@pytest.mark.parametrize(
    ("ladder", "store", "mode", "n"),
    some(
        [
            ("memory", "memory", "EIO", 10), ("memory", "memory", "ENOSPC-on", 10), ("local", "local", "EIO-on", 14),
            ("local", "run", "EIO", 14), ("local", "run", "ENOSPC-on", 14), ("both", "local", "EIO", 12),
            ("both", "local", "ENOSPC-on", 12), ("both", "run", "EIO-on", 20),
        ],
        7,
    ),
)  # fmt: skip
def test_a_storage_call_fails(ground: Path, ladder: str, store: str, mode: str, n: int) -> None:
    """Of one store alone: the program goes on, a line for each level says so, later versions come to all levels again."""
    points = run_points(ground, "lf_errors", ladder, store, mode, sample=sample(n))
    assert sum(points.values()) >= 4


@pytest.mark.parametrize(
    ("ladder", "away"), some([("memory", ""), ("memory", "away"), ("both", ""), ("both", "away")], 1)
)
def test_two_writers(ground: Path, ladder: str, away: str) -> None:
    """The first is stopped while it takes a version, another runs on at the same places, the first goes on: FencedError, also
    if it can't reach the run's store, and nothing that the other needs is gone."""
    n = 16 if ladder == "memory" else 50
    points = run_points(ground, "lf_writers", ladder, *([away] if away else []), sample=sample(n))
    assert points.keys() == {"FencedError"} and points["FencedError"] >= 4
