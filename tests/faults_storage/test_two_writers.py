"""Two writers (invariant 6): one is stopped at its storage calls in turn, another takes over, the first goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from fs_running import run_campaign


@pytest.mark.parametrize(
    ("what", "every", "ends"),
    [
        ("checkpoint", 2, {"fenced": 10, "reported before B came": 5}),
        ("record", 1, {"fenced": 20}),
        ("opening", 2, {"fenced": 15, "came later": 10}),
        ("rollback", 1, {"fenced": 3, "reported before B came": 5}),
    ],
)
def test_stopped_at_storage_calls(ground: Path, say: list[str], what: str, every: int, ends: dict[str, int]) -> None:
    """It reports no success unless the other stands on it; nothing of it is taken for the newest; no number counts twice.

    With a file that it has opened it does the same whenever the other comes: of the calls between two that look a name up or
    change something, one at random stands for all. Of checkpoint and opening only every second of these is played, and one of
    each kind (which call, on which file). Part E of `make campaign` takes every call."""
    points = run_campaign("fs_writers", ground.with_name(what), "small", what, str(every))
    told = ", ".join(f"{n} {how}" for how, n in sorted(points.items()))
    say.append(f"two writers, {what}: {sum(points.values())} points: {told}")
    assert points.keys() == ends.keys()
    assert all(points[how] >= least for how, least in ends.items())
