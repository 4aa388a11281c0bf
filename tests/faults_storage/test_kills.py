"""Killed at each storage call in turn (invariants 1 and 3): restored is the version before or the new one, nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from fs_running import run_campaign


@pytest.mark.parametrize(
    ("phase", "size", "least"),
    [("checkpoint", "large", 80), ("first opening", "small", 80), ("opening", "small", 80), ("ending", "small", 80)],
)
def test_killed_at_every_storage_call(ground: Path, say: list[str], phase: str, size: str, least: int) -> None:
    """The next start restores, to the bit, the version before up to the naming of the commit record, and the new one from
    then on; it completes with the undisturbed result and output file; `prune` leaves nothing behind."""
    points = run_campaign("fs_kills", ground.with_name(phase.replace(" ", "-")), size, phase)
    say.append(f"killed, {phase} ({size} state): {points['kill']} calls, {points['torn']} of them also half done")
    assert points["kill"] >= least
    assert points["torn"] >= 3
