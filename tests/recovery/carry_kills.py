"""Kills all processes of a recovery at a storage call of one node, again and again. Started by test_recovery_carry.py; prints
what it found as JSON: `points` that were tried, `problems`.

All are threads of one child here, so that they die together: what each has left must be provable by itself."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path

from carry_support import Cluster, interfered, whole
from faults import Faults

from holdfast.recovery import Carried


def at_node(call: object) -> bool:
    return "/c/" in call.path and "/versions/" in call.path  # type: ignore[attr-defined]


def carry(cluster: Cluster, homes: list[str]) -> None:
    made = cluster.plan(homes)
    outcomes = cluster.carry(made, homes)
    assert all(isinstance(one, Carried) for one in outcomes), outcomes


def killed(cluster: Cluster, homes: list[str], at: int) -> bool:
    """Whether the child was killed, at its call of that number; False if it was through before."""
    child = os.fork()
    if not child:
        code = 1
        try:
            with Faults("kill", at=at, match=at_node):
                carry(cluster, homes)
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    assert status == 0 or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL), status
    return status != 0


def main(top: Path, first: int, step: int) -> None:
    problems, points, at = [], 0, first
    while True:
        root = top / str(at)
        cluster, homes = interfered(root)
        again = killed(cluster, homes, at)
        try:
            for node in cluster.nodes():
                place = cluster.place(node, "memory")
                for version in place.versions():
                    for rank in place.ranks(version):
                        whole(cluster, version, rank, node)
            made = cluster.plan(homes)
            assert made.takes[0].link == cluster.candidates[0].link
            carry(cluster, homes)
            cluster.complete(made, homes)
        except Exception as error:
            problems.append(f"{at}: {type(error).__name__}: {error}")
        shutil.rmtree(root)
        if not again:
            break
        points, at = points + 1, at + step
    print(json.dumps({"points": points, "problems": problems}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
