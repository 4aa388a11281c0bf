"""Two writers (invariant 6): one is stopped at each storage call in turn, another takes over, the first goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from fs_running import run_campaign


@pytest.mark.parametrize(
    ("what", "ends"),
    [
        ("checkpoint", {"fenced": 50, "reported before B came": 10}),
        ("record", {"fenced": 50}),
        ("opening", {"fenced": 30, "came later": 30}),
        ("rollback", {"fenced": 5, "reported before B came": 10}),
    ],
)
def test_stopped_at_every_storage_call(ground: Path, say: list[str], what: str, ends: dict[str, int]) -> None:
    """It reports no success unless the other stands on it; nothing of it is taken for the newest; no number counts twice."""
    points = run_campaign("fs_writers", ground.with_name(what), "small", what)
    told = ", ".join(f"{n} {how}" for how, n in sorted(points.items()))
    say.append(f"two writers, {what}: {sum(points.values())} points: {told}")
    assert points.keys() == ends.keys()
    assert all(points[how] >= least for how, least in ends.items())
