"""Starts a campaign of forks in processes of its own (forks want one without threads) and reads what it found."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DEADLINE = 110 if "LEVELS_SAMPLE" not in os.environ else 1800  # seconds


def run_points(ground: Path, name: str, ladder: str, *arguments: str, sample: int = 1) -> dict[str, int]:
    """The points of `lf_driver.py NAME`, each `sample`-th of them from a random one on; AssertionError with all that was found
    wrong."""
    share = 1 if sample > 1 else 2  # processes; to start one takes as long as ten points
    first = random.randrange(share * sample)
    with ThreadPoolExecutor(share) as pool:
        shares = [f"{(first + k * sample) % (share * sample)}/{share * sample}" for k in range(share)]
        parts = [pool.submit(_drive, ground / f"{k}", name, mine, ladder, *arguments) for k, mine in enumerate(shares)]
    points: Counter[str] = Counter()
    problems: list[str] = []
    for part in parts:
        points.update(part.result()["points"])
        problems += part.result()["problems"]
    assert not problems, f"{len(problems)} of {dict(points)}:\n" + "\n".join(p[:1500] for p in problems[:10])
    return dict(points)


def _drive(ground: Path, name: str, share: str, ladder: str, *arguments: str) -> dict[str, Any]:
    tests = HERE.parent
    paths = [str(p) for p in (tests.parent / "src", tests, tests / "faults_storage", HERE)]
    found = subprocess.run(
        [sys.executable, "-W", "error", str(HERE / "lf_driver.py"), name, str(ground), share, ladder, *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)},
        capture_output=True, text=True, timeout=DEADLINE, cwd=ground.parent,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr[-6000:]
    answer: dict[str, Any] = json.loads(found.stdout)
    return answer
