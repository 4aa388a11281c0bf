"""Large messages between ranks, straight from and into memory: what redundancy is computed over.

Unlike a group's calls these are not collective and not numbered: two ranks that have agreed on what they send each other,
in which order, need nothing more. A channel on which a call has failed is not used again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from ..errors import RankError, UsageError
from .duplicates import duplicate
from .transfers import Transfer

if TYPE_CHECKING:
    import numpy as np
    from mpi4py import MPI
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]

_TAG = 1


class Moving(Protocol):
    """A message on its way."""

    def done(self) -> bool:
        """Whether it is over (local; makes progress; never waits). RankError."""


class Channel(Protocol):
    """`rank`, `size`: this process's place. One thread at a time. Messages from one rank to another arrive in order."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def send(self, dest: int, data: Bytes) -> Moving:
        """Begin to send (local). `data` must not change until it is done."""

    def receive(self, source: int, into: Bytes) -> Moving:
        """Begin to receive as many bytes as `into` has (local)."""


class SerialChannel:
    """Of a process alone, which has nobody to send to."""

    rank, size = 0, 1

    def another(self, timeout: float) -> SerialChannel:
        """As `MPIChannel.another`."""
        return self

    def send(self, dest: int, data: Bytes) -> Moving:
        raise UsageError(f"There is no rank {dest} to send to; this process is alone.")

    def receive(self, source: int, into: Bytes) -> Moving:
        raise UsageError(f"There is no rank {source} to receive from; this process is alone.")


class MPIChannel:
    """A channel over a duplicate of `comm`, an mpi4py intracommunicator (making one is collective; DeadlineError,
    RankError)."""

    def __init__(self, comm: MPI.Comm, timeout: float) -> None:
        from mpi4py import MPI

        self._mpi = MPI
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()
        self._comm = duplicate(comm, timeout)

    def another(self, timeout: float) -> MPIChannel:
        """A new one for the same ranks, where a call on this one has failed (collective; by any thread: the program's own
        communicator is not used, on which the program may just be making a collective call)."""
        return MPIChannel(self._comm, timeout)

    def send(self, dest: int, data: Bytes) -> Moving:
        return _Moving(self, dest, lambda: self._comm.Isend([data, self._mpi.BYTE], dest, _TAG), data)

    def receive(self, source: int, into: Bytes) -> Moving:
        return _Moving(self, source, lambda: self._comm.Irecv([into, self._mpi.BYTE], source, _TAG), into)


class _Moving:
    def __init__(self, channel: MPIChannel, peer: int, begin: Any, memory: Bytes) -> None:
        self._channel, self._peer = channel, peer
        try:
            self._transfer = Transfer(begin(), memory)
        except channel._mpi.Exception as error:
            raise self._error(error) from error

    def done(self) -> bool:
        try:
            return self._transfer.done()
        except self._channel._mpi.Exception as error:
            raise self._error(error) from error

    def _error(self, error: Any) -> RankError:
        return RankError(
            f"The exchange with rank {self._peer} failed; MPI says: {error.Get_error_string()}. Versions are as they were; "
            "the rank may have ended: end the program and start it again, it resumes.",
            rank=self._peer,
        )


__all__ = ["Channel", "MPIChannel", "Moving", "SerialChannel"]
