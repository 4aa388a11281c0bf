"""A program under `holdfast.launch` with spares, of which one rank after the other stops (see `stopped_spares.py`).

    python stopped_spares_program.py FOLDER     under mpirun --with-ft ulfm; HOLDFAST_SPARES says how many are spares

FOLDER/targets has a list in JSON: behind so many repairs, which rank stops, and where (beginnings and ends of points that have
to fit, and the how-manieth that does). Each process notes what happens to it as lines of JSON in FOLDER/PID.log, with
the time of the monotonic clock.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from mpi4py import MPI

import holdfast
from campaign.stopped_points import POINTS, stop, stopping
from holdfast.group import spare_processes
from holdfast.group.repair import comms
from holdfast.run import repairing

STEPS = 6  # behind the last repair
# Longer than it takes to find out that a rank is stopped: who it is should be known, not guessed.
TIMEOUT = float(os.environ.get("STOPPED_TIMEOUT", "8"))
PAUSE = 0.01


def main(folder: str) -> None:
    base, pid = Path(folder), os.getpid()
    log = open(base / f"{pid}.log", "a", buffering=1)  # noqa: SIM115  (to the end)
    faulthandler.enable(open(base / f"{pid}.stacks", "w"))  # noqa: SIM115
    faulthandler.register(signal.SIGUSR2, file=sys.stderr, all_threads=True)
    targets: list[list[Any]] = json.loads((base / "targets").read_text())
    # One node, on which all look after each other, and yet domains of their own, so that parity is computed.
    os.environ["HOLDFAST_NODE_MEMORY"] = str(base / "node")
    os.environ["HOLDFAST_FAILURE_DOMAIN"] = f"domain {MPI.COMM_WORLD.rank}"

    def note(what: str, **facts: Any) -> None:
        log.write(json.dumps({"what": what, "at": time.monotonic(), "pid": pid, **facts}) + "\n")

    comms.tracked_types()
    comms._types["Intracomm"] = stopping(comms._types["Intracomm"])
    reopen = repairing._reopen

    def reopened(url: Any, crew: Any, past: Any, began: float, options: Any) -> Any:
        begin, end, count = "", "", 0
        if crew.repairs < len(targets) and targets[crew.repairs][0] == crew.rank:
            _, begin, end, count = targets[crew.repairs]
        POINTS.begin(crew.comm, None, stop(lambda point: note("stopping", rank=crew.rank, repairs=crew.repairs, point=point)))
        POINTS.aim(begin, end, count)
        return reopen(url, crew, past, began, options)

    repairing._reopen = reopened
    world: Any = MPI.COMM_WORLD
    if not spare_processes():  # nobody is replaced: the communicator is the program's
        world = MPI.Intracomm(world)
        if targets[0][0] == world.rank:
            world = stopping(MPI.Intracomm)(world)
            POINTS.begin(world, None, stop(lambda point: note("stopping", rank=world.rank, repairs=0, point=point)))
            POINTS.aim(*targets[0][1:])

    def program(run: holdfast.Run) -> None:
        state = run.protect("u", np.zeros(40_000))
        run.ready()
        first = (run.restored.step if run.restored is not None else None) or 0
        for step in run.steps(every=holdfast.steps(1)):
            if step == first + STEPS and run.repairs == len(targets):
                break
            state += step
            time.sleep(PAUSE)
            note("step", step=step, repairs=run.repairs, rank=run.comm.rank)
        assert state[0] == state[-1] == step * (step - 1) // 2, (state[0], step)
        note("done", rank=run.comm.rank, repairs=run.repairs)

    levels = (holdfast.memory(), holdfast.xor(), holdfast.global_(every=holdfast.versions(5)))
    try:
        holdfast.launch(program, base / "run", comm=world, timeout=TIMEOUT, levels=levels)
    except BaseException as error:
        note("left", type=type(error).__name__, rank=getattr(error, "rank", None), text=str(error))
        raise
    note("left", type=None)


if __name__ == "__main__":
    main(sys.argv[1])
