"""Runs a campaign of forks in a process of its own:
`python fs_driver.py NAME DIRECTORY SHARE large|small VARIANT [ARGUMENT...]`.

SHARE is "k/n/SEED": of the points, every n-th from the k-th on; the seed decides which stand for others, where not all are
played. VARIANT is one of `fs_program.VARIANTS`.

Prints one JSON object: `points` by kind, and `problems`, one line each.
"""

from __future__ import annotations

import gc
import importlib
import json
import logging
import os
import pkgutil
import sys
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"  # no threads at the fork

import fs_program
import numpy.ma
import numpy.random
from fs_ground import Ground

import holdfast

LOADED = (numpy.ma, numpy.random)  # as all that a child would import


def main(name: str, directory: str, share: str, size: str, variant: str, *arguments: str) -> None:
    logging.getLogger("holdfast").setLevel(logging.CRITICAL)  # what faults make it say is expected, and long
    for module in pkgutil.walk_packages(holdfast.__path__, "holdfast."):  # before the forks, not in each of them
        if module.name.split(".")[1] not in ("cli", "supervisor", "testing", "group"):
            importlib.import_module(module.name)
    if size == "small":
        fs_program.shrink()
    fs_program.choose(variant)
    k, n, seed = map(int, share.split("/"))
    gc.collect()
    gc.freeze()  # or each child's collector would copy all of this
    ground = Ground(Path(directory), share=(k, n), seed=seed).prepare()
    points = importlib.import_module(name).campaign(ground, *arguments)
    print(json.dumps({"points": points, "problems": ground.problems}))


if __name__ == "__main__":
    main(*sys.argv[1:])
