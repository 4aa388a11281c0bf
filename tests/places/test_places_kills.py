"""Killed at each storage call: no record or commit proves files that are not there, and the second attempt succeeds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MEMORY = Path("/dev/shm")


@pytest.mark.parametrize(("job", "least"), [("put", 60), ("protect", 20), ("remove", 20), ("clean", 20), ("open", 8)])
def test_killed_at_every_storage_call(tmp_path: Path, job: str, least: int) -> None:
    above = MEMORY if os.access(MEMORY, os.W_OK | os.X_OK) else tmp_path
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    with tempfile.TemporaryDirectory(prefix="holdfast-places-", dir=above) as directory:
        done = subprocess.run(
            [sys.executable, str(HERE / "places_kills.py"), job, directory],
            capture_output=True, text=True, timeout=90, env=environment,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["problems"] == []
    assert found["points"] >= least
