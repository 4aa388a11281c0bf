"""A serial program killed at random times, against the ledger and the oracle: a sample of `make campaign`."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from campaign.serial_kills import ELEMENTS, STEPS, audit
from campaign.small import Truth

TESTS = Path(__file__).resolve().parents[1]
KILLS = 15


def test_killed_at_random_times(tmp_path):
    seed = random.randrange(1 << 30)
    words = [sys.executable, "-m", "campaign.serial_kills", str(tmp_path / "serial"), str(KILLS), str(seed)]
    done = subprocess.run(words, cwd=TESTS, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["problems"] == [], f"seed {seed}"
    assert result["kills"] == KILLS
    assert result["resumes"] >= KILLS // 5  # some kills come before there is a first version


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({}, None),
        ({"version": 1}, "version 2 was durable, 1 restored"),
        ({"step": 2}, "another state"),
        ({"skipped": [["00000003-a000001", "damaged"]]}, "passed over"),
    ],
)
def test_the_audit_finds(change, complaint):
    truth = Truth(STEPS, ELEMENTS)
    resumed = {"event": "resumed", "version": 2, "step": 4, "digest": truth.digests[4], "skipped": [], **change}
    problems = audit([{"event": "durable", "version": 2, "step": 4}, resumed], truth)
    assert [complaint in problem for problem in problems] == ([True] if complaint else [])
