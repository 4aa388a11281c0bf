"""Runs a campaign of forks in a process of its own:
`python fs_driver.py NAME DIRECTORY SHARE large|small VARIANT [ARGUMENT...]`.

SHARE is "k/n": of the points, every n-th from the k-th on; VARIANT one of `fs_program.VARIANTS`.

Prints one JSON object: `points` by kind, and `problems`, one line each.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"  # no threads at the fork

import fs_program
from fs_ground import Ground


def main(name: str, directory: str, share: str, size: str, variant: str, *arguments: str) -> None:
    logging.getLogger("holdfast").setLevel(logging.CRITICAL)  # what faults make it say is expected, and long
    if size == "small":
        fs_program.shrink()
    fs_program.choose(variant)
    ground = Ground(Path(directory), share=(int(share.split("/")[0]), int(share.split("/")[1]))).prepare()
    points = importlib.import_module(name).campaign(ground, *arguments)
    print(json.dumps({"points": points, "problems": ground.problems}))


if __name__ == "__main__":
    main(*sys.argv[1:])
