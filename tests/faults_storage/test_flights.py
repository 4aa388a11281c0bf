"""Versions in flight: the faults of a checkpoint tried again while the program computes and changes its state, for each way of
capturing it and of leaving out what has not changed. A sample: each fourth or sixth call, from a random one on. `make campaign`
tries every point of every variant (part E).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fs_running import run_campaign

from holdfast.capture import kernel


def can_freeze() -> bool:
    try:
        os.close(kernel.userfaultfd(user_mode_only=False))
    except OSError:
        return False
    return True


@pytest.mark.parametrize("variant", ["copy", "direct", "reference", "blocks", "pages", "chain"])
def test_killed_at_a_storage_call(ground: Path, say: list[str], variant: str) -> None:
    """Restored is the state at the call, whatever the program has done to it since; or, before the commit is named, the version
    before. What the new one refers to is there, what the deletion of a chain has left is no harm."""
    points = run_campaign("fs_kills", ground.with_name(f"flight-{variant}"), "small", "flight", variant=variant, sample=6)
    say.append(f"killed in flight, {variant}: {points['kill']} calls, {points['torn']} of them also half done")
    assert points["kill"] >= 7


@pytest.mark.parametrize(
    ("variant", "mode"), [("pages", "EIO"), ("chain", "ENOSPC-on"), ("direct", "EIO"), ("blocks", "ENOSPC"), ("copy", "short")]
)
def test_a_storage_call_fails(ground: Path, say: list[str], variant: str, mode: str) -> None:
    """The handle has the error and is not durable; the next call of the program raises it; the one after that succeeds."""
    where = ground.with_name(f"flight-{variant}-{mode}")
    sample = 1 if mode == "short" else 6
    points = run_campaign("fs_errors", where, "small", mode, "flight", variant=variant, sample=sample)
    say.append(f"{mode} in flight, {variant}: {sum(points.values())} points, {points['error']} reported")
    assert points["error"] >= 3


@pytest.mark.parametrize(("what", "variant"), [("flight", "chain"), ("flight", "pages"), ("flight, rollback", "chain")])
def test_two_writers(ground: Path, say: list[str], what: str, variant: str) -> None:
    """The first is stopped with a version in flight, another takes over and builds on what is there, the first goes on: it
    reports no success, raises FencedError at its next call, and deletes nothing that counts."""
    points = run_campaign("fs_writers", ground.with_name(f"writers-{what}-{variant}"), "small", what, variant=variant, sample=4)
    told = ", ".join(f"{n} {how}" for how, n in sorted(points.items()))
    say.append(f"two writers, {what}, {variant}: {sum(points.values())} points: {told}")
    assert points["fenced"] >= 1
    assert "raced" not in points  # the first version after going back stands alone


@pytest.mark.parametrize(("variant", "mode"), [("process", "kill"), ("process", "error errno=EIO"), ("cow", "kill")])
def test_the_helper_goes_wrong(ground: Path, say: list[str], variant: str, mode: str) -> None:
    """The program goes on; the version fails with an error that says so, or is durable; the next one succeeds."""
    if variant == "cow" and not can_freeze():
        pytest.skip("memory can't be frozen here: `cow` copies, without a helper")
    where = ground.with_name(f"helper-{variant}-{mode.split()[0]}")
    points = run_campaign("fs_helper", where, "large", mode, variant=variant, sample=6)
    say.append(f"helper process, {variant}, {mode}: {points['failed']} versions failed, {points['durable']} durable")
    assert points["failed"] >= 1
