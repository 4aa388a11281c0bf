"""Units -> one data file, by threads of this process: digest, compare, write.

Workers take units in the order in which they were put. One that has to be written in any case gets its place in the file as
it is taken, so that a version that is written whole stands there in order; one that may turn out unchanged gets it when
its digests are known. Memory that is aligned and whole, as an arena's is, is written as it stands; other memory is gathered
in a worker's staging buffer first, as direct I/O asks.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from ..errors import UsageError
from ..format import digest
from ..store import Store, Writer
from ..store.aligned import empty as aligned_empty
from ..store.aligned import is_aligned
from ..store.base import Bytes
from .units import UNIT, Unit, Written
from .workers import Worker, step_back


class Writing(Protocol):
    """A data file on its way."""

    def put(self, number: int, unit: Unit, release: Callable[[], None]) -> None:
        """Have unit `number` written; its memory must not change until `release` is called, from any thread."""

    def begin(self) -> None:
        """Start writing what was put; before, nothing competes with the program's own threads."""

    def finish(self) -> tuple[list[Written], int]:
        """Wait for all units and make the file durable: what became of each, by number, and the file's size in bytes.

        Raises StorageError; then `abort`."""

    def abort(self) -> None:
        """Give the file up and remove it. Raises nothing; nothing after `finish`."""


class ThreadWriting:
    """Writes with `threads` threads, of which one is the caller of `finish`. `expected`: the file's size if no unit can be
    skipped, else None. The file is made when writing begins: making directories durable is nothing to stop the program for."""

    def __init__(self, store: Store, key: str, expected: int | None, threads: int) -> None:
        self._create: Callable[[], Writer] = lambda: store.create(key, expected)
        self._writer: Writer | None = None
        self._creating = threading.Lock()
        self._exact = expected is not None
        self._threads = threads
        self._queue: deque[tuple[int, Unit, Callable[[], None]]] = deque()
        self._changed = threading.Condition()
        self._results: dict[int, Written] = {}
        self._size = 0
        self._closed = False  # no unit comes any more
        self._error: BaseException | None = None
        self._workers: list[Worker] = []

    def put(self, number: int, unit: Unit, release: Callable[[], None]) -> None:
        with self._changed:
            self._queue.append((number, unit, release))
            self._changed.notify()

    def begin(self) -> None:
        # One at least: who captures waits for memory that only they give back.
        self._start(max(1, self._threads - 1))

    def finish(self) -> tuple[list[Written], int]:
        self._start(self._threads - 1)
        self._end()
        if self._error is not None:
            raise self._error
        self._opened().finish(None if self._exact else self._size)
        return [self._results[i] for i in range(len(self._results))], self._size

    def abort(self) -> None:
        if self._error is None:
            self._error = UsageError("the version was given up")
        self._end()
        if self._writer is not None:
            self._writer.abort()

    def _start(self, count: int) -> None:
        with self._changed:  # several threads may capture, and put what they have in any order
            if not self._workers:
                self._queue = deque(sorted(self._queue, key=lambda taken: taken[0]))
            while len(self._workers) < count:
                worker = Worker(self._help)
                self._workers.append(worker)
                try:
                    worker.start()
                except RuntimeError:  # the interpreter is on its way out: the caller of `finish` writes alone
                    return

    def _end(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._work()
        for worker in self._workers:
            worker.join()

    # -- workers -------------------------------------------------------------------------------

    def _help(self) -> None:
        step_back()
        self._work()

    def _work(self) -> None:
        staging: Bytes | None = None
        while (taken := self._next()) is not None:
            number, unit, release, offset = taken
            try:
                if self._error is None:
                    memory = _as_it_stands(unit)
                    if memory is None:
                        staging = aligned_empty(UNIT) if staging is None else staging
                        memory = staging[: unit.nbytes]
                        fill(unit, memory)
                    self._results[number] = self._write(unit, memory, offset)
            except BaseException as error:
                self._error = self._error or error
            finally:
                release()

    def _next(self) -> tuple[int, Unit, Callable[[], None], int | None] | None:
        """The next unit, with its place if it has to be written; None when there are no more."""
        with self._changed:
            while not self._queue:
                if self._closed:
                    return None
                self._changed.wait(1.0)
            number, unit, release = self._queue.popleft()
            return number, unit, release, None if unit.skippable else self._allot(unit)

    def _opened(self) -> Writer:
        with self._creating:
            if self._writer is None:
                self._writer = self._create()
            return self._writer

    def _allot(self, unit: Unit) -> int:
        offset, self._size = self._size, self._size + unit.nbytes
        return offset

    def _write(self, unit: Unit, memory: Bytes, offset: int | None) -> Written:
        digests = unit_digests(unit, memory)
        if offset is None:
            if not unit.mine or all(d == b.known for d, b in zip(digests, unit.blocks, strict=True)):
                return Written(None, digests)
            with self._changed:
                offset = self._allot(unit)
        self._opened().write(offset, memory)
        return Written(offset, digests)


def unit_digests(unit: Unit, memory: Bytes) -> Sequence[bytes]:
    """The digests of the unit's blocks, whose bytes stand in `memory`."""
    return [digest(memory[b.at : b.at + b.nbytes]) for b in unit.blocks]


def fill(unit: Unit, memory: Bytes) -> None:
    """Gather the unit's pieces in `memory` (unit.nbytes long), zeros between them."""
    if len(unit.pieces) == 1 and not unit.pieces[0].at:
        piece = unit.pieces[0].memory
        memory[: piece.nbytes] = piece
        memory[piece.nbytes :] = 0
        return
    parts: list[Bytes] = []
    at = 0
    for start, piece in unit.pieces:
        if start > at:
            parts.append(np.zeros(start - at, np.uint8))
        parts.append(piece)
        at = start + piece.nbytes
    np.concatenate(parts, out=memory[:at])  # one call: a slice and an assignment for each piece cost more than most copies
    memory[at:] = 0


def _as_it_stands(unit: Unit) -> Bytes | None:
    """The unit's memory, if it is one aligned piece that can be written without a copy."""
    if len(unit.pieces) == 1 and unit.how == "frozen" and is_aligned(0, unit.pieces[0].memory):
        memory = unit.pieces[0].memory
        return memory if memory.nbytes == unit.nbytes else None
    return None
