"""Extents read from data files in large requests, by a few threads, each verified as a whole before it is handed on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from ..errors import DamageError
from ..format import BLOCK, Extent, digest
from ..format.blocks import ALIGN, round_up
from ..group import cores
from ..store.aligned import empty as aligned_empty
from ..store.base import Bytes
from .datafiles import DataFiles
from .workers import work_through

REQUEST = BLOCK  # bytes read at once; with twice as much a thread digests for longer before it asks again, and the disk waits
SLOT = REQUEST + 2 * ALIGN  # bytes of staging memory of a thread: a request, widened to whole pages
MOST_THREADS = 8  # so that staging stays below 40 MiB, however many threads there may be
_GAP = 64 << 10  # bytes that are read along rather than asked around

Deliver = Callable[[int, Bytes], None]  # called with an extent's number and its verified bytes, by any thread
Complain = Callable[[int, DamageError], None]  # called with the number of an extent that is damaged, and the damage


class Request(NamedTuple):
    """A range of a data file, whole pages as direct I/O asks, and the numbers of the extents in it."""

    source: int
    offset: int
    nbytes: int
    extents: list[int]


class Fetcher:
    """Reads extents of `files` with at most `threads` threads. Their staging memory is kept from one call to the next, until
    `close`: making it costs as much as reading into it."""

    def __init__(self, files: DataFiles, threads: int) -> None:
        self.files, self.threads = files, min(threads, MOST_THREADS)
        self._free: list[Bytes] = []

    def close(self) -> None:
        """Give the staging memory back; it comes again when it is needed."""
        self._free.clear()

    def fetch(
        self,
        extents: Sequence[Extent],
        numbers: Iterable[int],
        name: Callable[[int], str],
        deliver: Deliver,
        complain: Complain | None = None,
    ) -> None:
        """Read and verify the extents with these numbers, and `deliver` each.

        `name(i)`: the object that extent i belongs to, for messages. The first damage is raised, or each is told to
        `complain`.
        """
        requests = list(self._cut(extents, numbers))
        slots: list[Bytes] = []

        def begin() -> Bytes:
            slots.append(self.slot())
            return slots[-1]

        def verify(i: int, block: Bytes) -> None:
            e = extents[i]
            if digest(block) == e.digest:
                deliver(i, block)
                return
            error = self.files.damage(e.source, e.offset, name(i), f"is damaged in the block at byte {e.offset}")
            if complain is None:
                raise error
            complain(i, error)

        def work(number: int, slot: Bytes) -> None:
            request = requests[number]
            try:
                self.files.read(request.source, request.offset, slot[: request.nbytes])
            except DamageError:
                if complain is None:
                    raise
                for i in request.extents:  # which of them it is that the disk refuses
                    e = extents[i]
                    try:
                        self.files.read(e.source, e.offset, slot[: e.nbytes])
                    except DamageError as error:
                        complain(i, error)
                    else:
                        verify(i, slot[: e.nbytes])
                return
            for i in request.extents:
                at = extents[i].offset - request.offset
                verify(i, slot[at : at + extents[i].nbytes])

        try:
            work_through(range(len(requests)), self._threads(requests), begin, work)
        finally:
            self._free += slots

    def _threads(self, requests: Sequence[Request]) -> int:
        """Where no device is waited for, no more than this rank's share of the cores: more would take turns, and together
        have more staging memory than the caches hold (four ranks on two cores: 34 ms with two threads each, 22 with one)."""
        if not all(self.files.in_memory(source) for source in {request.source for request in requests}):
            return self.threads
        return min(self.threads, cores())

    def slot(self) -> Bytes:
        """Staging memory of SLOT bytes; `fetch` puts what it takes back."""
        try:
            return self._free.pop()
        except IndexError:
            return aligned_empty(SLOT)

    def _cut(self, extents: Sequence[Extent], numbers: Iterable[int]) -> Iterator[Request]:
        """Requests that read these extents, in the order of the files; what lies close together is one."""
        order = sorted(numbers, key=lambda i: (extents[i].source, extents[i].offset))
        source, first, last = -1, 0, 0
        some: list[int] = []
        for i in order:
            e = extents[i]
            start, stop = e.offset - e.offset % ALIGN, e.offset + e.nbytes
            if some and (e.source != source or start - last > _GAP or round_up(stop) - first > REQUEST):
                yield self._request(source, first, last, some)
                some = []
            if not some:
                source, first, last = e.source, start, stop
            some.append(i)
            last = max(last, stop)
        if some:
            yield self._request(source, first, last, some)

    def _request(self, source: int, first: int, last: int, some: list[int]) -> Request:
        return Request(source, first, min(round_up(last), self.files.open(source).nbytes) - first, some)
