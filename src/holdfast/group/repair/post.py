"""Small messages between ranks by MPI, that nobody waits for: nonblocking, on a communicator of their own.

A message to a rank that has not taken the one before is left out, so that a rank that hangs costs one message and not more
and more memory. None is promised to arrive.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..making import begun, making, over
from ..transfers import Transfer
from ..waiting import wait_until

_TAG = 0
_MOST = 64  # messages that are taken at once
MOMENT = 1.0  # seconds for the duplicate to be made, as a rule milliseconds; if it takes longer it is made beside the program


class MpiPost:
    """`Post` of health/far.py between the ranks of `comm`, over a duplicate of it (making one is collective). MPI must have
    been started with MPI_THREAD_MULTIPLE. One thread calls the rest."""

    def __init__(self, comm: Any) -> None:
        from mpi4py import MPI

        self._mpi, self._status = MPI, MPI.Status()
        self._sent: dict[int, Transfer] = {}
        self._coming: list[tuple[Transfer, bytearray]] = []
        self._usable = False
        with self._as_os_error():
            with making():
                self._comm, request = MPI.Intracomm(comm).Idup()
                begun(self._comm)
            self._made = Transfer(request, self._comm)
            wait_until(self._ready, MOMENT)

    def send(self, rank: int, data: bytes) -> None:
        with self._as_os_error():
            before = self._sent.get(rank)
            if self._ready() and (before is None or before.done()):
                self._sent[rank] = Transfer(self._comm.Isend([data, self._mpi.BYTE], rank, _TAG), data)

    def receive(self) -> list[bytes]:
        with self._as_os_error():
            for _ in range(_MOST if self._ready() else 0):
                message = self._comm.Improbe(self._mpi.ANY_SOURCE, _TAG, self._status)
                if message is None:
                    break
                data = bytearray(self._status.Get_count(self._mpi.BYTE))
                self._coming.append((Transfer(message.Irecv([data, self._mpi.BYTE]), data), data))
            over = [transfer.done() for transfer, _ in self._coming]
        here = [bytes(data) for (_, data), done in zip(self._coming, over, strict=True) if done]
        self._coming = [one for one, done in zip(self._coming, over, strict=True) if not done]
        return here

    def _ready(self) -> bool:
        if not self._usable and self._made.done():
            over(self._comm)
            self._comm.Set_errhandler(self._mpi.ERRORS_RETURN)
            self._usable = True
        return self._usable

    @contextmanager
    def _as_os_error(self) -> Iterator[None]:
        try:
            yield
        except self._mpi.Exception as error:
            raise OSError(error.Get_error_string()) from None


def threads_allowed() -> bool:
    """Whether MPI may be called from several threads at once (local)."""
    from mpi4py import MPI

    allowed: bool = MPI.Query_thread() >= MPI.THREAD_MULTIPLE
    return allowed
