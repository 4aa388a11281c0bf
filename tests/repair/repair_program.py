"""A program to kill: ranks compute together, in the way that the first argument names, until the file `stop` exists.

python repair_program.py KIND RANKS FOLDER: each process writes what happens to it as lines of JSON to FOLDER/PID.log, with
the time of the monotonic clock, which is the same for all processes of a machine. SIGUSR1 has a process leave by itself, with
status LEAVE_STATUS; the file `repair` has all call for a repair, as their node's board would.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import signal
import sys
import threading
import time
from array import array
from typing import Any

from mpi4py import MPI
from repair_job import KINDS

from holdfast.errors import EXIT_REPAIR, RepairError
from holdfast.group.repair import Crew, leave_after_repair
from holdfast.health.processes import Eyes

STEP_SECONDS = float(os.environ.get("STEP_SECONDS", "2"))
WHOLE_SECONDS = float(os.environ.get("WHOLE_SECONDS", "6"))


def main(kind: str, ranks: int, folder: str) -> None:
    log = open(f"{folder}/{os.getpid()}.log", "a", buffering=1)  # noqa: SIM115  (to the end)

    def note(what: str, **facts: Any) -> None:
        facts.update(what=what, at=time.monotonic(), pid=os.getpid())
        log.write(json.dumps(facts) + "\n")

    faulthandler.enable(open(f"{folder}/{os.getpid()}.stacks", "w"))  # noqa: SIM115
    crew = Crew.form(MPI.COMM_WORLD, ranks, timeout=30, eyes=Eyes())
    signal.signal(signal.SIGUSR1, lambda *_: os._exit(int(os.environ["LEAVE_STATUS"])))
    threading.Thread(target=call_when_told, args=(crew, folder), daemon=True).start()
    note("formed", rank=crew.rank, repairable=crew.repairable, reason=crew.reason)
    while True:
        if crew.rank is None:
            if not crew.stand_by(lambda: None):
                note("dismissed")
                break
            note("called")
        else:
            try:
                work(kind, crew, folder, note)
                note("finished", rank=crew.rank)
                break
            except MPI.Exception as error:
                note("failure", error=error.Get_error_string(), rank=crew.rank, gone=crew.gone)
                crew.revoke()
        try:
            crew.repair(STEP_SECONDS, WHOLE_SECONDS)
        except RepairError as error:
            note("gave up", error=str(error))
            sys.stderr.flush()
            os._exit(EXIT_REPAIR)
        note("repaired", rank=crew.rank, size=crew.size, repairs=crew.repairs, lost=crew.lost, spares=crew.spares,
             tries=crew.tries)  # fmt: skip
    if crew.rank == 0:
        crew.dismiss()
    crew.close()
    if crew.repairs:
        note("leaving", arranged=leave_after_repair())
    log.close()


def call_when_told(crew: Crew, folder: str) -> None:
    """In a thread: the program's own may be in a call of MPI."""
    while not os.path.exists(f"{folder}/repair"):
        time.sleep(0.01)
    crew.revoke()


def work(kind: str, crew: Crew, folder: str, note: Any) -> None:
    comm, rank = crew.comm, crew.rank
    one, total = array("q", [rank + 1]), array("q", [0])
    comm.Allreduce([one, MPI.INT64_T], [total, MPI.INT64_T])
    assert total[0] == crew.size * (crew.size + 1) // 2 and comm.Get_rank() == rank and comm.Get_size() == crew.size
    note("computing", rank=rank, repairs=crew.repairs)
    dice = random.Random(7)
    pair = comm.Split(rank // 2, rank) if kind in ("derived", "mixed") else None
    ring = comm.Create_cart([crew.size], periods=[True]) if kind in ("derived", "mixed") else None
    note("working", rank=rank, repairs=crew.repairs)  # what is made from the communicator is there
    step = 0
    while True:
        step += 1
        now = dice.choice(KINDS[:-1]) if kind == "mixed" else kind
        if now == "allreduce":
            comm.Allreduce([one, MPI.INT64_T], [total, MPI.INT64_T])
        elif now == "barrier":
            comm.Barrier()
        elif now == "sendrecv":
            comm.Sendrecv(
                [one, MPI.INT64_T], (rank + 1) % crew.size, 5, [total, MPI.INT64_T], (rank - 1) % crew.size, 5
            )
        elif now == "bcast":
            comm.Bcast([one, MPI.INT64_T], root=step % crew.size)
            one[0] = rank + 1
        elif now == "derived":
            pair.Allreduce([one, MPI.INT64_T], [total, MPI.INT64_T])
            ring.Sendrecv(
                [one, MPI.INT64_T], (rank + 1) % crew.size, 5, [total, MPI.INT64_T], (rank - 1) % crew.size, 5
            )
            for _ in range(50):
                pair.Barrier()
        elif now == "made":
            if kind == "made" or step % 20 == 0:
                part = comm.Dup() if step % 2 else comm.Split(rank % 2, rank)
                part.Barrier()
                part.Free()
        elif now == "alone":
            until = time.monotonic() + 0.005
            while time.monotonic() < until and not crew.revoked:
                time.sleep(0.0005)
        if step % 20 == 0 or kind == "alone":
            stop = array("q", [os.path.exists(f"{folder}/stop")])
            comm.Bcast([stop, MPI.INT64_T], root=0)
            if stop[0]:
                return
        time.sleep(0.0002)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
