"""Runs a campaign of forks in a process of its own: `python lf_driver.py NAME DIRECTORY SHARE LADDER [ARGUMENT...]`.

SHARE is "k/n": of the points, every n-th from the k-th on. Prints one JSON object: `points` by kind, `problems`, a line each.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import pkgutil
import sys
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"  # no threads at the fork

import fs_program
import lf_ladders
import numpy.ma
import numpy.random

import holdfast

LOADED = (numpy.ma, numpy.random)  # as all that a child would import


def main(name: str, directory: str, share: str, ladder: str, *arguments: str) -> None:
    logging.getLogger("holdfast").setLevel(logging.CRITICAL)  # what faults make it say is expected, and long
    for module in pkgutil.walk_packages(holdfast.__path__, "holdfast."):  # before the forks, not in each of them
        if module.name.split(".")[1] not in ("cli", "supervisor", "testing", "group"):
            importlib.import_module(module.name)
    fs_program.shrink()
    k, n = share.split("/")
    ground = lf_ladders.Played(Path(directory), share=(int(k), int(n)))
    lf_ladders.choose(ladder, ground.work, steps=8 if name == "lf_kills" else 14)
    ground.prepare()
    points = importlib.import_module(name).campaign(ground, *arguments)
    print(json.dumps({"points": points, "problems": ground.problems}))


if __name__ == "__main__":
    main(*sys.argv[1:])
