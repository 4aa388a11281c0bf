"""Messages between two ranks over nonblocking MPI calls: how they are cut, numbered, and kept while in flight.

A message is a header (number, length, length of the call's name) and the call's name, with the bytes behind it if they are
few; else the bytes follow in chunks. Messages from one rank to another are numbered, and MPI delivers them in order. A
message of a call that has missed its deadline is thereby known when it comes at last, and dropped. (Rejected: a tag for
each call. Tags wrap around, and messages that nobody asks for any more would pile up in MPI's queue.) Numbers go wrong where
a rank that came late has left out a call that the others have made: the name tells, and what belongs to another call is
never taken for an answer. No receive is posted before its message is there, so that a missed deadline leaves nothing behind
but sends and the chunk that is on its way.
"""

from __future__ import annotations

import struct
import threading
from typing import TYPE_CHECKING, Any

from ..errors import RankError

if TYPE_CHECKING:
    from mpi4py import MPI

HEADER = struct.Struct("<QQI")
TAG = 0
INLINE_BYTES = 64 << 10
CHUNK_BYTES = 64 << 20  # far below 2**31 - 1, the most that one MPI call takes

# What MPI may still read or write. A request that is not over keeps its buffer alive from here: neither a group nor
# its owner may be collected before MPI is done. Entries that failed stay for good (freeing a failed send has been
# seen to end the job).
_unfinished: set[Transfer] = set()


class Transfer:
    """A nonblocking MPI call under way, with the memory that it uses. Any thread may ask for it: MPI is asked by one at a time,
    since two that test one request at once free it twice, and the next call's request with it."""

    def __init__(self, request: Any, *buffers: object) -> None:
        self._request: Any = request
        self._buffers = buffers
        self._error: Exception | None = None
        self._asking = threading.Lock()
        _unfinished.add(self)

    def done(self) -> bool:
        """Whether it is over (makes progress). Raises mpi4py's exception if it failed, each time."""
        if not self._asking.acquire(blocking=False):
            return False  # another thread, in `reap`, is asking: its answer is there the next time
        try:
            if self._error is not None:
                raise self._error
            if self._request is None:
                return True
            try:
                over: bool = self._request.Test()
            except Exception as e:
                self._error = e
                raise
            if over:
                self._request = None
                _unfinished.discard(self)
            return over
        finally:
            self._asking.release()


def reap() -> None:
    """Let go of transfers that calls have left behind at their deadline and that are over by now."""
    for transfer in list(_unfinished):
        if transfer._error is None:
            try:
                transfer.done()
            except Exception:
                continue  # kept in the transfer, for its owner


class Outgoing:
    """One message to one rank. The data must not change before it is gone: bytes."""

    def __init__(self, comm: MPI.Comm, byte: Any, dest: int, number: int, what: str, data: bytes) -> None:
        self._comm, self._byte, self._dest = comm, byte, dest
        name = what.encode(errors="surrogatepass")
        header = HEADER.pack(number, len(data), len(name)) + name
        if len(data) <= INLINE_BYTES:
            self._parts: list[Any] = [header + data]
        else:
            view = memoryview(data)
            self._parts = [header, *(view[i : i + CHUNK_BYTES] for i in range(0, len(data), CHUNK_BYTES))]
        self._transfers: list[Transfer] | None = None

    def advance(self) -> bool:
        """Send, or look after what was sent; True when MPI has taken all of it."""
        if self._transfers is None:
            self._transfers = []
            for part in self._parts:
                self._transfers.append(Transfer(self._comm.Isend([part, self._byte], self._dest, TAG), part))
        while self._transfers and self._transfers[0].done():
            del self._transfers[0]
        return not self._transfers


class Incoming:
    """The stream of messages from one rank. It lives as long as the group and survives a missed deadline."""

    def __init__(self, comm: MPI.Comm, byte: Any, status: Any, source: int, rank: int) -> None:
        self._comm, self._byte, self._status, self._source, self._rank = comm, byte, status, source, rank
        self._expected = -1
        self._wanted = ""  # the name of the call whose message is expected
        self._number = -1
        self._name = ""
        self._buffer = bytearray()
        self._filled = 0  # bytes of _buffer that have come or are on their way
        self._transfer: Transfer | None = None
        self._head: bytearray | None = None  # a first part on its way
        self._open = False  # a header has been read, its bytes are not complete

    def expect(self, what: str) -> None:
        """From now on the next message is wanted, that of the call `what`, and earlier ones are not (once for each call)."""
        self._expected += 1
        self._wanted = what

    def advance(self) -> bool:
        """Take what has come; True when the message wanted is whole (`take` it then)."""
        while True:
            if self._transfer is not None:
                if not self._transfer.done():
                    return False
                self._transfer = None
                if self._head is not None:
                    self._begin(self._head)
                    self._head = None
            if self._open and self._filled == len(self._buffer):
                self._open = False
                if self._number == self._expected:
                    self._check_name()
                    return True
                self._check_order()
                self._buffer = bytearray()
            message = self._comm.Improbe(self._source, TAG, self._status)
            if message is None:
                return False
            nbytes = self._status.Get_count(self._byte)
            if self._open:
                target: Any = memoryview(self._buffer)[self._filled : self._filled + nbytes]
                self._filled += nbytes
            else:
                target = self._head = bytearray(nbytes)
            self._transfer = Transfer(message.Irecv([target, self._byte]), target)

    def take(self) -> bytes:
        """The message's bytes."""
        data, self._buffer = bytes(self._buffer), bytearray()
        return data

    def _begin(self, head: bytearray) -> None:
        self._number, nbytes, length = HEADER.unpack_from(head)
        start = HEADER.size + length
        self._name = head[HEADER.size : start].decode(errors="surrogatepass")
        self._open = True
        if len(head) - start == nbytes:
            self._buffer, self._filled = head[start:], nbytes
        else:
            self._buffer, self._filled = bytearray(nbytes), 0

    def _check_order(self) -> None:
        if self._number > self._expected:
            raise RankError(
                f"rank {self._source} is {self._number - self._expected} calls ahead of rank {self._rank}: the ranks "
                "have not made the same collective calls. Committed versions are as they were; end the program, and "
                "let every rank make each call.",
                rank=self._source,
            )

    def _check_name(self) -> None:
        if self._name != self._wanted:
            self._buffer = bytearray()
            raise RankError(
                f"rank {self._source} is in another call ({self._name}) than rank {self._rank}: one of them came late and the "
                "other has gone on without it, or they have not made the same collective calls. Committed versions are as "
                "they were; end the program and start it again, it resumes.",
                rank=self._source,
            )
