"""Duplicates of a communicator, so that what the library says there never meets the program's messages.

Made one at a time each costs the ranks a meeting. After a repair, where a program waits to be back, some are made together with
the new communicator and lie ready.
"""

from __future__ import annotations

from typing import Any

from .making import making, over
from .transfers import Transfer
from .waiting import deadline_error, wait_until


def duplicate(comm: Any, seconds: float, what: str = "duplicating the communicator") -> Any:
    """A duplicate of `comm`, an mpi4py intracommunicator, whose errors are returned (collective over it; ranks take what lies
    ready in the same order). DeadlineError, MPI.Exception."""
    ready: list[Any] = getattr(comm, "_ready", None) or []
    if ready:
        return ready.pop(0)
    from mpi4py import MPI

    with making():
        made, request = comm.Idup()
        if not wait_until(Transfer(request, made).done, seconds):
            me = comm.Get_rank()
            raise deadline_error(what, me, (r for r in range(comm.Get_size()) if r != me), seconds, one_of=True)
    over(made)
    made.Set_errhandler(MPI.ERRORS_RETURN)
    return made


def make_ready(comm: Any, duplicates: list[Any]) -> None:
    """Have `duplicate` take these, in this order (local, on all ranks alike)."""
    comm._ready = duplicates
