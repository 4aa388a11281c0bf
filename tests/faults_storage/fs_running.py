"""Starts a campaign in a process of its own (forks want one without threads) and reads what it found."""

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
DEADLINE = 110  # seconds
PROCESSES = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2  # as many as there are cores at least; another worker has the other


def run_campaign(
    name: str, ground: Path, size: str, *arguments: str, share: int = PROCESSES, variant: str = "full", sample: int = 1
) -> dict[str, int]:
    """The points of `fs_driver.py NAME`, played by `share` processes; AssertionError with all that was found wrong.

    `sample`: only each so many-th point, from a random one on; a failure names its points."""
    first, seed = random.randrange(share * sample), random.randrange(1 << 30)
    with ThreadPoolExecutor(share) as pool:
        parts = [
            pool.submit(_drive, name, ground if share == 1 else ground.with_name(f"{ground.name}-{k}"),
                        f"{(first + k * sample) % (share * sample)}/{share * sample}/{seed}", size, variant, *arguments)
            for k in range(share)
        ]  # fmt: skip
    points: Counter[str] = Counter()
    problems: list[str] = []
    for part in parts:
        points.update(part.result()["points"])
        problems += part.result()["problems"]
    assert not problems, f"{len(problems)} of {dict(points)}:\n" + "\n".join(p[:1500] for p in problems[:10])
    return dict(points)


def _drive(name: str, ground: Path, *arguments: str) -> dict[str, Any]:
    paths = [str(HERE.parents[1] / "src"), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    found = subprocess.run(
        [sys.executable, "-W", "error", str(HERE / "fs_driver.py"), name, str(ground), *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in paths if p)},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        cwd=ground.parent,
    )
    assert found.returncode == 0, found.stderr[-6000:]
    answer: dict[str, Any] = json.loads(found.stdout)
    return answer
