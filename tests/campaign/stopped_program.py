"""One rank of a team in which ranks are stopped (see `stopped_teams.py`): plays a scene for each order that it finds.

    python stopped_program.py FOLDER TEAM     under mpirun; TEAM: ranks of a team; the world is as many teams as it has

Team t works in FOLDER/t: orders are N.order there, JSON with `scene`, `victim`, `point`; each rank answers with N.RANK.result,
and notes in N.RANK.stop that it stops. Nobody is judged by `health` here: only deadlines end a wait.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mpi4py import MPI

from campaign.stopped_points import POINTS, stop, stopping
from campaign.stopped_scenes import SCENES
from holdfast.errors import HoldfastError
from holdfast.group import transfers
from holdfast.run import opening

TICK = 0.005
LEVEL_SECONDS = 10.0


def main(folder: str, size: int) -> None:
    world = MPI.COMM_WORLD
    team = world.Split(world.rank // size, world.rank)
    base = Path(folder) / str(world.rank // size)
    stacks = open(base / f"{team.rank}.stacks", "a")  # noqa: SIM115  (to the end: a signal handler writes to it)
    faulthandler.register(signal.SIGUSR2, file=stacks, all_threads=True)
    faulthandler.enable(stacks)
    opening._watch = lambda execution, run: None
    signal.signal(signal.SIGTERM, lambda *_: None)  # one that a loop has left unheeded comes again behind it
    logging.getLogger("holdfast").addHandler(logging.NullHandler())
    number = 0
    write(base / f"ready.{team.rank}", {"pid": os.getpid()})
    while True:
        order = wait_for(base / f"{number}.order")
        if not order["scene"]:
            os._exit(0)  # MPI's own end is not what is looked at
        play(base, number, order, team)
        number += 1


def play(base: Path, number: int, order: dict[str, Any], team: Any) -> None:
    given = team.Dup()  # blocking calls are the program's own here: everyone is alive
    comm = stopping(MPI.Intracomm)(team.Dup())
    place = base / str(number)
    place.mkdir(exist_ok=True)
    target = order["point"] if team.rank == order["victim"] else None

    def begin() -> Any:
        given.Barrier()
        POINTS.begin(comm, target, stop(lambda point: write(base / f"{number}.{team.rank}.stop", {"at": time.monotonic()})))
        return comm

    result: dict[str, Any] = {"outcome": "finished"}
    try:
        SCENES[order["scene"]](place, given, begin)
    except BaseException as error:
        result = {"outcome": "raised", **described(error)}
    result["at"] = time.monotonic()
    POINTS.end()
    result["points"] = POINTS.seen if order["point"] is None else []
    result["threads"] = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
    write(base / f"{number}.{team.rank}.result", result)
    wait_for(base / f"{number}.over")  # all have answered, also who was stopped
    level(team)
    if team.rank == 0:
        shutil.rmtree(place, ignore_errors=True)
    team.Barrier()


def level(team: Any) -> None:
    """Ranks that gave up have begun fewer duplicates of communicators than others, and MPI makes no more as long as some are
    half made: the rest is begun now."""
    for number in range(max(team.allgather(len(POINTS.comms)))):
        have = POINTS.dups[number] if number in POINTS.comms else 0
        most = max(team.allgather(have))
        if most == 0:
            continue
        comm = POINTS.comms[number]
        requests = []
        for _ in range(most - have):
            made, request = comm.Idup()
            POINTS.comms[len(POINTS.comms)] = made
            requests.append(transfers.Transfer(request, made))
        until = time.monotonic() + LEVEL_SECONDS
        while not all(request.done() for request in requests):
            if time.monotonic() > until:
                raise TimeoutError("communicators that were half made are not made")
            time.sleep(TICK)
        team.Barrier()


def described(error: BaseException) -> dict[str, Any]:
    ours = isinstance(error, HoldfastError)
    return {
        "type": type(error).__name__,
        "ours": ours or type(error).__name__ == "Interrupted",
        "rank": getattr(error, "rank", None),
        "text": str(error),
        "trace": "".join(traceback.format_exception(type(error), error, error.__traceback__)[-6:]),
    }


def write(path: Path, value: dict[str, Any]) -> None:
    """At once as a whole: others look for the name."""
    path.with_suffix(path.suffix + ".new").write_text(json.dumps(value))
    path.with_suffix(path.suffix + ".new").replace(path)


def wait_for(path: Path) -> dict[str, Any]:
    while not path.exists():
        time.sleep(TICK)
    found: dict[str, Any] = json.loads(path.read_text() or "{}")
    return found


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
