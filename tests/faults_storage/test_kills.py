"""Killed at the storage calls in turn (invariants 1 and 3): restored is the version before or the new one, nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from fs_running import run_campaign


@pytest.mark.parametrize(
    ("phase", "size", "least"),
    [("checkpoint", "large", 25), ("first opening", "small", 20), ("opening", "small", 12), ("ending", "small", 30)],
)
def test_killed_between_any_two_changes(ground: Path, say: list[str], phase: str, size: str, least: int) -> None:
    """The next start restores, to the bit, the version before up to the naming of the commit record, and the new one from
    then on; it completes with the undisturbed result and output file; `prune` leaves nothing behind.

    Killed before a call that only reads, a process leaves what it leaves before the next one: of the calls between two that
    change something, one at random stands for all. Part E of `make campaign` takes each of them."""
    points = run_campaign("fs_kills", ground.with_name(phase.replace(" ", "-")), size, phase, "different")
    say.append(f"killed, {phase} ({size} state): at {points['kill']} calls, {points['torn']} of them also half done")
    assert points["kill"] >= least
    assert points["torn"] >= 3
