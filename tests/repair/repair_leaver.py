"""A program that is repaired once and then ends in a way that depends on its rank: python repair_leaver.py FOLDER.

Run by itself it starts itself once more and writes the exit status of that process to FOLDER/RANK.status, RANK being the
rank that it had when it ended. The one that had rank 1 first is killed, the spare takes its place.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

WAYS = {  # rank: what it does, exit status
    0: ("falls off the end", 0),
    1: ("sys.exit", 7),
    2: ("raise SystemExit", 9),
    3: ("uncaught exception", 1),
    4: ("caught exit", 0),
}


def main(folder: Path) -> None:
    import atexit
    import signal

    atexit.register(lambda: print("first handler runs last"))
    from mpi4py import MPI

    from holdfast.group.repair import Crew, leave_after_repair

    crew = Crew.form(MPI.COMM_WORLD, len(WAYS), timeout=30)
    if crew.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        while crew.rank is not None:
            crew.comm.Barrier()
    except MPI.Exception:
        crew.revoke()
    assert crew.rank is not None or crew.stand_by(lambda: None)
    crew.repair(3, 10)
    assert leave_after_repair() and leave_after_repair()
    crew.comm.Barrier()
    assert crew.rank is not None
    (folder / f"{os.getpid()}.rank").write_text(str(crew.rank))
    sys.stdout = open(folder / f"{crew.rank}.out", "w")  # noqa: SIM115  (flushed by the interpreter's end, or never)
    print("buffered text")
    crew.comm.Barrier()
    crew.close()
    atexit.register(lambda: print("last handler runs first"))
    way = WAYS[crew.rank][0]
    if way == "sys.exit":
        sys.exit(7)
    if way == "raise SystemExit":
        raise SystemExit(9)
    if way == "uncaught exception":
        raise ValueError("not caught")
    if way == "caught exit":
        try:
            sys.exit(5)
        except SystemExit:
            return


if __name__ == "__main__":
    where = Path(sys.argv[1])
    if len(sys.argv) > 2:
        main(where)
    else:
        child = subprocess.Popen([sys.executable, __file__, str(where), "child"])
        status = child.wait()
        named = where / f"{child.pid}.rank"
        if named.exists():
            (where / f"{named.read_text()}.status").write_text(str(status))
