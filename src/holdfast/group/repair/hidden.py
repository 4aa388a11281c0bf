"""Communicators that nobody has told us of are found in MPI's own table.

mpi4py keeps a duplicate of a communicator for its own use once a reduction of Python objects has been made on it
(`comm.allreduce(x)`), and libraries in C make theirs. A rank that waits on one of these, for a rank that is alive and has left
for a repair, is not interrupted by revoking what is known (`comms.py`). Open MPI numbers all communicators, for Fortran, so
that they can be gone through.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .means import library

if TYPE_CHECKING:
    from mpi4py import MPI

_BEYOND = 256  # numbers without a communicator behind the last: there are no more. They are given out again, lowest first


def all_communicators(known: Sequence[MPI.Comm], keep: Sequence[MPI.Comm]) -> Iterator[Any]:
    """All of this process's communicators but MPI's own and those of `keep` (local; any thread). `known`: some of them, so that
    at least their numbers are looked at. Empty where MPI is not Open MPI."""
    from mpi4py import MPI

    kept = [MPI.COMM_NULL, MPI.COMM_WORLD, MPI.COMM_SELF, *keep]
    for handle in handles(max((comm.py2f() for comm in known if comm != MPI.COMM_NULL), default=0)):
        comm = MPI.Comm.fromhandle(handle)
        if all(comm != other for other in kept):
            yield comm


def handles(last: int = 0) -> Iterator[int]:
    """Of all communicators of this process, MPI's own too, also of what is only half made (local; any thread). `last`: a number
    up to which they are looked for at least."""
    look = _by_number()
    number = 0
    while look is not None and number <= last + _BEYOND:
        handle = look(number)
        if handle:
            last = max(last, number)
            yield handle
        number += 1


@functools.cache
def _by_number() -> Callable[[int], int | None] | None:
    found = library("MPI_Comm_f2c")
    if found is None:
        return None
    found.argtypes, found.restype = [ctypes.c_int], ctypes.c_void_p
    look: Callable[[int], int | None] = found
    return look
