"""The storage calls of a checkpoint fail in turn: the disk is full, the device gives errors, writes come short."""

from __future__ import annotations

from pathlib import Path

import pytest
from fs_running import run_campaign

MODES = {
    "EIO": "fails once with EIO",
    "ENOSPC": "fails once with ENOSPC",
    "EIO-on": "and all later ones fail with EIO",
    "ENOSPC-on": "and all later ones fail with ENOSPC",
    "short": "moves half, one or none of its bytes",
}


@pytest.mark.parametrize(("mode", "on_error"), [
    ("EIO", "raise"), ("ENOSPC", "warn"), ("EIO-on", "warn"), ("ENOSPC-on", "raise"), ("short", "raise"), ("short", "warn"),
])  # fmt: skip
def test_storage_calls_fail(ground: Path, say: list[str], mode: str, on_error: str) -> None:
    """An error (or warning) that names file, cause, what is safe and what to do; the version before is intact and what a
    start would find; the next checkpoint of the same process succeeds; `prune` clears up.

    Each way of failing is tried at every second call, all writes come short; part E of `make campaign` takes every call."""
    sample = 1 if mode == "short" else 2
    points = run_campaign("fs_errors", ground.with_name(f"{mode}-{on_error}"), "small", mode, on_error, sample=sample)
    say.append(
        f"a call {MODES[mode]}, on_error={on_error!r}: {sum(points.values())} points, "
        f"{points['error']} reported, {points['harmless']} without effect on the version"
    )
    assert points["error"] >= (3 if mode == "short" else 15)
    assert points["harmless"] >= 6
