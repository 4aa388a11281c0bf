"""The ranks of an MPI communicator as a group.

Blocking MPI calls can't have deadlines, so none is made: messages and reductions are nonblocking, and polled (see
`transfers` and `waiting`). MPI is the program's: it is neither initialised, nor finalised, nor aborted here. Any
thread level will do from which this thread may call MPI at all; at THREAD_MULTIPLE the program may compute with its
own communicator in another thread.
"""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from ..errors import RankError, UsageError
from .checks import INT64_MIN, MAX_VALUES, check_data, check_int64, check_members
from .duplicates import duplicate
from .transfers import Incoming, Outgoing, Transfer, reap
from .waiting import deadline_error, ranks_text, wait_until

if TYPE_CHECKING:
    from mpi4py import MPI


class MPIGroup:
    """The ranks of `comm`, an mpi4py intracommunicator (see `Group`). Creating it is collective over `comm`.

    `timeout`: seconds that a call waits for other ranks. `comm` is duplicated, so that the group's messages never
    meet the program's. UsageError if MPI is not running or the arguments are wrong; DeadlineError, RankError.
    """

    def __init__(self, comm: MPI.Comm, timeout: float) -> None:
        from mpi4py import MPI

        if not (math.isfinite(timeout) and timeout > 0):
            raise UsageError(f"timeout={timeout!r}: every wait has a deadline. Pass a positive number of seconds.")
        if not MPI.Is_initialized() or MPI.Is_finalized():
            raise UsageError("MPI is not running. Nothing was started; open the run between MPI's Init and Finalize.")
        if comm == MPI.COMM_NULL or comm.Is_inter():
            raise UsageError("comm is no intracommunicator. Nothing was started; pass one, such as MPI.COMM_WORLD.")
        self.comm: object = comm
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()
        self._mpi = MPI
        self._timeout = float(timeout)
        self._sent: dict[int, int] = defaultdict(int)  # number of the next message to each rank
        self._streams: dict[int, Incoming] = {}
        self._late: set[int] = set()  # whose part of an earlier call has not come in time, nor anything since
        self._broken: str | None = None
        self._status = MPI.Status()
        with self._translated("duplicating the communicator"):
            self._comm = duplicate(comm, self._timeout)

    def gather(self, data: bytes, members: range, what: str, *, patience: int = 1) -> list[bytes] | None:
        root = check_members(members, self.rank, self.size, what)
        if self.rank != root:
            self._run({root: self._outgoing(root, what, data)}, what, patience, receiving=False)
            return None
        streams = {m: self._expect(m, what) for m in members if m != root}
        self._run(streams, what, patience, receiving=True)
        return [data if m == root else streams[m].take() for m in members]

    def broadcast(self, data: bytes | None, members: range, what: str, *, patience: int = 1) -> bytes:
        root = check_members(members, self.rank, self.size, what)
        if self.rank == root:
            data = check_data(data, what)
            sends = {m: self._outgoing(m, what, data) for m in members if m != root}
            self._run(sends, what, patience, receiving=False)
            return data
        stream = self._expect(root, what)
        self._run({root: stream}, what, patience, receiving=True)
        return stream.take()

    def begin_max(self, *values: int) -> PendingMax:
        self._check_usable("maximum over ranks")
        given = check_int64(*values)
        # Always as many: a rank that leaves by an error asks a question of its own, which meets the others' round.
        mine = array("q", given + (INT64_MIN,) * (MAX_VALUES - len(given)))
        result = array("q", mine)
        with self._translated("maximum over ranks"):
            kind = self._mpi.INT64_T
            request = self._comm.Iallreduce([mine, MAX_VALUES, kind], [result, MAX_VALUES, kind], self._mpi.MAX)
        return PendingMax(self, Transfer(request, mine, result), result, len(given))

    def close(self) -> None:
        """Take part in nothing any more (local). The duplicate is left to MPI's own end: freeing it is collective and has no
        deadline, and messages of a call that failed may still be on their way."""
        self._broken = "closed"

    # -- inside -----------------------------------------------------------------------------

    def _outgoing(self, dest: int, what: str, data: bytes) -> Outgoing:
        self._sent[dest] += 1
        return Outgoing(self._comm, self._mpi.BYTE, dest, self._sent[dest] - 1, what, data)

    def _expect(self, source: int, what: str) -> Incoming:
        if source not in self._streams:
            self._streams[source] = Incoming(self._comm, self._mpi.BYTE, self._status, source, self.rank)
        self._streams[source].expect(what)
        return self._streams[source]

    def _run(self, peers: Mapping[int, Advancing], what: str, patience: int, *, receiving: bool) -> None:
        """Advance all until they are through, a receive has failed, or the time is up.

        Message numbers were taken before, so that they stay right whatever happens here. Who has missed an earlier call is not
        waited for to take what is sent: the bytes are kept for it, nobody is served by waiting, and calls made in a row would
        last longer than their caller waits for them. What is needed of it is waited for.
        """
        self._check_usable(what)
        reap()
        waiting = dict(peers)
        failed: dict[int, Exception] = {}
        def ready() -> bool:
            for peer in list(waiting):
                try:
                    if not waiting[peer].advance():
                        continue
                    self._late.discard(peer)
                except (self._mpi.Exception, RankError) as e:
                    failed[peer] = e
                del waiting[peer]
            # One failed receive settles the call; one failed send must not keep the bytes from the others.
            return not waiting or (bool(failed) if receiving else self._late.issuperset(waiting))

        seconds = self._timeout * patience
        try:
            in_time = wait_until(ready, seconds)
        except BaseException:
            # An interrupt: the other ranks are in a call that this one has left. It can't take part in another.
            self._broken = f"interrupted during {what}"
            raise
        if failed:
            peer, error = min(failed.items())
            raise self._rank_error(f"{what}: the exchange with {ranks_text(failed)} failed", error, peer) from error
        if waiting:
            self._late.update(waiting)
            raise deadline_error(what, self.rank, waiting, None if in_time else seconds)

    def _check_usable(self, what: str) -> None:
        if self._broken is not None:
            raise RankError(
                f"{what}: rank {self.rank} can't take part, its group was {self._broken}. "
                "Committed versions are as they were; end the program and start it again, it resumes.",
                rank=self.rank,
            )

    def _others(self) -> list[int]:
        return [r for r in range(self.size) if r != self.rank]

    def _rank_error(self, what: str, error: Exception, peer: int | None = None) -> RankError:
        if not isinstance(error, self._mpi.Exception):
            return RankError(f"{what}: {error}", rank=peer)
        said = error.Get_error_string()
        crew = getattr(getattr(self.comm, "_family", None), "crew", None)
        if crew is not None and crew.repairable:
            advice = "a rank may have ended: then a repair is under way, or the job is started again."
        else:
            advice = "a rank may have ended: end the program and start it again, it resumes."
        return RankError(f"{what}: MPI says: {said}. Committed versions are as they were; {advice}", rank=peer)

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._mpi.Exception as e:
            raise self._rank_error(what, e) from e


class PendingMax:
    """An `Iallreduce` under way (see `Pending`). MPI does not tell which rank is late: the error names all others."""

    def __init__(self, group: MPIGroup, transfer: Transfer, result: array[int], count: int) -> None:
        self._group = group
        self._transfer = transfer
        self._result = result
        self._count = count

    def test(self) -> tuple[int, ...] | None:
        try:
            if not self._transfer.done():
                return None
        except self._group._mpi.Exception as e:
            raise self._group._rank_error("maximum over ranks", e) from e
        return tuple(self._result[: self._count])

    def wait(self) -> tuple[int, ...]:
        group = self._group
        if not wait_until(lambda: self.test() is not None, group._timeout):
            raise deadline_error("maximum over ranks", group.rank, group._others(), group._timeout, one_of=True)
        return tuple(self._result[: self._count])


class Advancing(Protocol):
    """A message being sent or received."""

    def advance(self) -> bool: ...
