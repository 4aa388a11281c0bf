"""One data file in the helper: units to copy, digest and write, and faults of the program that want some of them
copied at once.

Workers copy a unit into staging memory of their own and write it before they take the next: the disk sets their pace.
The program's faults do not wait for the disk: their units are copied into the spare slots, and go before all others
to the workers. Only when these are used up does the program wait for a write; if then none ends for `patience`
seconds, the version is given up.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ...errors import HoldfastError, StorageError
from ...format import digest
from ...store import Writer
from ...store.base import Bytes
from ..workers import step_back
from .failures import CaptureError
from .memory import ProgramMemory, Staging
from .protection import Protection
from .wire import Order, split_digests

_WAITING, _COPYING, _COPIED = range(3)


class Job:
    """`create`: makes the file, by the first thread that needs it: the program does not wait for that. `exact`:
    whether its size is known already. `own`: a slot for each worker; `spare`: those for faults. `released(number)` is
    called when a unit's memory, if it was put, is needed no more. `hung`: no write ends any more, and workers may
    hang with it."""

    def __init__(
        self,
        create: Callable[[], Writer],
        exact: bool,
        threads: int,
        memory: ProgramMemory,
        own: Staging,
        spare: Staging,
        patience: float,
        released: Callable[[int], None],
    ) -> None:
        self._memory, self._own, self._spare = memory, own, spare
        self._patience, self._released = patience, released
        self._changed = threading.Condition()
        self._queue: deque[Order] = deque()  # put, or frozen and not copied by a fault meanwhile
        self._copied: deque[tuple[Order, Bytes]] = deque()  # by faults
        self._frozen: dict[int, int] = {}  # number -> place in the protection's units
        self._orders: list[Order] = []
        self._states: list[int] = []  # of the frozen units
        self._froze = False
        self._protection: Protection | None = None
        self._threads, self._started, self._busy = threads, 0, 0
        self._closed = False
        self._results: list[list[Any]] = []
        self._size = 0
        self._writes = 0  # that have ended
        self.error: HoldfastError | None = None
        self.hung = False
        self._create, self._exact = create, exact
        self._opening = threading.Lock()
        self._writer: Writer | None = None

    # -- what the program says -----------------------------------------------------------------

    def put(self, order: Order) -> None:
        with self._changed:
            self._queue.append(order)
            self._changed.notify_all()

    def freeze(self, uffd: int, orders: Sequence[Order]) -> None:
        """Protect the units' memory, to be written after `start`; CaptureError if that can't be. The job's own error,
        if it has one."""
        if self.error is not None:
            raise self.error
        if self._froze:
            raise CaptureError("memory was frozen for this version before, or could not be; one call takes all")
        self._froze = True
        protection = Protection(uffd, self._memory.pid, orders)
        with self._changed:  # before the first page is protected: its fault may come at once
            self._orders = list(orders)
            self._states = [_WAITING] * len(orders)
            self._frozen = {o.number: i for i, o in enumerate(orders)}
            self._protection = protection
        try:
            protection.protect()
        except CaptureError:
            with self._changed:
                self._protection, self._frozen = None, {}  # a fault may still be looking at the others
                while self._copied:
                    self._spare.give(self._copied.pop()[1])
            raise
        with self._changed:
            self._queue.extend(orders)

    def start(self) -> None:
        """Begin to write what was put."""
        with self._changed:
            self._changed.notify_all()
            count, self._started = self._threads - self._started, self._threads
        for _ in range(count):
            threading.Thread(target=self._write_behind, name="holdfast-write", daemon=True).start()

    def _write_behind(self) -> None:
        step_back()  # what the program waits for, its faults, is another thread's
        self._work()

    def finish(self) -> tuple[list[list[Any]], int]:
        """Wait for all units, make the file durable: [number, offset or None, digests joined] of each, and the file's
        size.

        Raises what went wrong; the file is removed then, unless the disk hangs and would not take that either."""
        self._drain()
        if self._protection is not None:
            self._protection.lift()
        try:
            if self.error is None:
                self._open().finish(None if self._exact else self._size)
        except HoldfastError as error:
            self.fail(error)
        if self.error is not None:
            if self._writer is not None and not self.hung:
                self._writer.abort()
            raise self.error
        return self._results, self._size

    def fail(self, error: HoldfastError) -> None:
        """Give the version up: free the program's memory at once."""
        with self._changed:
            if self.error is not None:
                return
            self.error = error
            self._changed.notify_all()
        if self._protection is not None:
            self._protection.lift()

    def _drain(self) -> None:
        self.start()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            while not self.hung and (self._queue or self._copied or self._busy or self._fault_is_copying()):
                self._changed.wait(1.0)

    def _fault_is_copying(self) -> bool:
        return self.error is None and self._protection is not None and _COPYING in self._states

    # -- workers -------------------------------------------------------------------------------

    def _work(self) -> None:
        own = self._own.take()
        assert own is not None  # there are as many as workers
        while (taken := self._next()) is not None:
            order, slot = taken
            try:
                if self.error is None:
                    memory = slot if slot is not None else self._read(order, own)
                    self._write(order, memory[: order.nbytes])
            except HoldfastError as error:
                self.fail(error)
            except Exception as error:
                self.fail(
                    StorageError(f"A unit of the version can't be written: {error!r}. Versions before are intact.")
                )
            finally:
                with self._changed:
                    if slot is not None:
                        self._spare.give(slot)
                    self._busy -= 1
                    self._changed.notify_all()
                if order.number not in self._frozen:
                    self._released(order.number)
        self._own.give(own)

    def _next(self) -> tuple[Order, Bytes | None] | None:
        """The next unit, with the slot that holds its copy if a fault had it copied; None when there are no more."""
        with self._changed:
            while True:
                if self._copied:
                    self._busy += 1
                    return self._copied.popleft()
                while self._queue:
                    order = self._queue.popleft()
                    place = self._frozen.get(order.number)
                    if place is not None:
                        if self._states[place] != _WAITING:
                            continue
                        self._states[place] = _COPYING
                    self._busy += 1
                    return order, None
                if self._closed and not self._fault_is_copying():  # what it copies comes to the queue of copies
                    return None
                self._changed.wait(1.0)

    def _read(self, order: Order, own: Bytes) -> Bytes:
        place = self._frozen.get(order.number)
        if place is None and (memory := self._memory.as_it_stands(order)) is not None:
            return memory
        self._copy(order, own)
        if place is not None:
            self._has_copied(place)
        return own

    def _copy(self, order: Order, out: Bytes) -> None:
        try:
            self._memory.fill(order, out[: order.nbytes])
        except OSError as error:
            raise StorageError(
                f"The program's memory can't be read while a version of it is written: {error}. Versions before are intact. "
                "Memory that is protected must stay allocated until the version is stored."
            ) from error

    def _has_copied(self, place: int) -> None:
        assert self._protection is not None
        self._protection.copied(place)
        with self._changed:
            self._states[place] = _COPIED
            self._changed.notify_all()

    def _write(self, order: Order, memory: Bytes) -> None:
        # A unit that is written in any case gets its place now, so that a full version stands in order.
        offset = self._allot(order) if order.known is None and order.mine else None
        digests = [digest(memory[at : at + nbytes]) for at, nbytes in order.blocks]
        if order.known is not None and split_digests(order.known) != digests:
            offset = self._allot(order)
        if offset is not None:
            self._open().write(offset, memory)
        with self._changed:
            self._writes += 1
            self._results.append([order.number, offset, b"".join(digests)])

    def _open(self) -> Writer:
        with self._opening:
            if self._writer is None:
                self._writer = self._create()
            return self._writer

    def _allot(self, order: Order) -> int:
        with self._changed:
            offset, self._size = self._size, self._size + order.nbytes
        return offset

    # -- faults --------------------------------------------------------------------------------

    def resolve(self, address: int) -> bool:
        """Have the page at `address` free for writing; False if this job does not protect it. Called by the fault
        thread alone."""
        protection = self._protection
        units = () if protection is None or self.error is not None else protection.units_at(address)
        for place in units:
            slot = self._claim(place)
            if slot is None:
                continue
            order = self._orders[place]
            try:
                self._copy(order, slot)
            except StorageError as error:
                self._spare.give(slot)
                self.fail(error)
                return True
            assert protection is not None
            protection.copied(place)
            with self._changed:
                self._states[place] = _COPIED
                if self._protection is protection:
                    self._copied.append((order, slot))
                else:  # the freeze has failed meanwhile
                    self._spare.give(slot)
                self._changed.notify_all()
        return len(units) > 0

    def _claim(self, place: int) -> Bytes | None:
        """A slot to copy this unit into; None when somebody else has copied it, or there is nothing to copy it for."""
        seen, since = -1, 0.0
        with self._changed:
            while self.error is None:
                if self._states[place] == _COPIED:
                    return None
                if self._states[place] == _WAITING and (slot := self._spare.take()) is not None:
                    self._states[place] = _COPYING
                    return slot
                if seen != self._writes:
                    seen, since = self._writes, time.monotonic()
                elif time.monotonic() - since > self._patience:
                    break
                self._changed.wait(0.2)
            if self.error is not None:
                return None
            self.hung = True
        self.fail(
            StorageError(
                f"The disk has taken nothing for {self._patience:.4g} s while the program waited to write to memory that was "
                "not stored yet. The version was given up so that the program goes on; those before are intact. See whether "
                "the place of the run hangs."
            )
        )
        return None
