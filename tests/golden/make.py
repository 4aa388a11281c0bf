"""Makes tests/golden/v1, once, with the library that first wrote format 1. It is not to be made again:

    python tests/golden/make.py NEW_DIRECTORY

A new version of the format gets a directory of its own, and the old ones stay.
"""

from __future__ import annotations

import getpass
import sys
from typing import Any

import numpy as np
from program import arrays, generators, tree

import holdfast
from holdfast.catalog import process


def attempt(url: str, upto: int) -> None:
    """Go on to `upto` completed steps, a checkpoint after each, and stop as after an error."""
    run = holdfast.open(url, keep=holdfast.Keep(last=2), params={"n": 3, "case": "golden"}, signals=False)
    held: dict[str, Any] = {name: run.protect(name, np.zeros_like(a)) for name, a in arrays(0).items()}
    shard = run.protect("shard", np.zeros((2, 3)), shard=holdfast.Shard((4, 3), (2, 0)))
    config = run.protect("tree", tree(0))
    rng, python = generators(0)
    run.protect("rng", rng)
    run.protect("python_rng", python)
    s = run.state(k=0)
    for step in run.steps(10, every=holdfast.steps(1)):
        if step == upto:
            break
        k = step + 1
        for name, value in arrays(k).items():
            held[name][...] = value
        shard[:] = k
        config.update(tree(k))
        rng.random()
        python.random()
        s.k = k
    if upto == 2:
        with run.transaction("spectrum") as txn:
            txn.put("spectrum", np.linspace(0, 1, 5))
    run.close()


if __name__ == "__main__":
    # Whose machine it was does not belong into the format's memory.
    somewhere = process._Host("golden", "00000000-0000-4000-8000-000000000000", "pid:[1]")
    process._this_host = lambda: somewhere
    getpass.getuser = lambda: "user"
    sys.argv[0] = "make.py"
    attempt(sys.argv[1], 2)
    attempt(sys.argv[1], 3)
