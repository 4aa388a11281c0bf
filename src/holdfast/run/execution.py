"""One execution of a run: its state, settled once, written at loop heads, ended once. What `Run` shows, done here.

All methods are collective unless they say otherwise; they are called in the same order by all ranks.
"""

from __future__ import annotations

import atexit
import logging
import os
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..catalog import check_fence
from ..catalog.failures import read_failures
from ..config import Options
from ..engine import Item
from ..errors import (
    CheckpointError,
    HoldfastError,
)
from ..format import StoredFile, parse_version
from ..group import Group, from_root
from ..store import Store
from . import leaving, objects
from .checkpoint import Writer
from .handle import Handle, report_failure
from .interval import Costs
from .loops import Loops
from .objects import Entry, Objects
from .outfiles import OutFiles
from .pacing import Decision, Pacer
from .resume import Restored, Resume
from .settling import settle
from .signals import Interrupts
from .timelimit import Limit
from .watching import Watching

if TYPE_CHECKING:
    from .beginnings import Beginnings
    from .levels import Levels

log = logging.getLogger("holdfast")



class Execution:
    """What one rank knows of an execution. `attempt` 0: opened for reading. `fence(first_version)` takes a new
    attempt (for rollback); `closers` are called at the end."""

    def __init__(
        self,
        url: str,
        store: Store,
        group: Group,
        background: Group | None,
        options: Options,
        resume: Resume,
        params: dict[str, Any] | None,
        attempt: int,
        next_number: int,
    ) -> None:
        self.url, self.store, self.group, self.options = url, store, group, options
        self.resume, self.params = resume, params
        self.objects = Objects()
        self.dropped: dict[str, Entry | None] = {}  # names given up, and what was protected by them
        self.files = OutFiles(store, group.rank, self._check_fence)
        self.loops = Loops()
        # Under a supervisor, that tells what goes on.
        supervised = "HOLDFAST_SUPERVISED" in os.environ
        self.interrupts = Interrupts(loud=group.rank == 0 and not supervised, handed=supervised or group.size > 1)
        self.writer = Writer(store, group, background, attempt, next_number, options)
        self.costs = Costs()
        self.limit: Limit | None = None  # looked for when the first loop is entered
        self._newest: Handle | None = None  # of the checkpoint that was begun last
        self.flying = False  # whether a version is in flight, as far as all ranks have agreed
        self.settled = self.closed = self.told = False
        self.used = False  # whether there is anything to complete
        self.begun = False  # whether it was settled before: in a rollback that was interrupted, it is not settled any more
        self.restored: Restored | None = None
        self.step: int | None = None
        self.pending: Handle | None = None
        self.patient = False  # whether the program waits for the pending checkpoint until it is durable
        self.rollback: Callable[[], None] | None = None
        self.foreign: tuple[StoredFile, ...] = ()  # output files of all ranks, if the restored version had other ranks
        self.levels: Levels | None = None
        self.watching = Watching()
        self.closers: list[Callable[[], None]] = []
        self.repairs = 0  # of the group, before this execution
        self.beginnings: Beginnings | None = None  # where `main` may be called again in this process
        self.called_off: Callable[[], bool] | None = None  # whether ranks are lost, and this one is to leave for the repair
        self._owner = os.getpid()
        self.left = False  # whether the program has said how it ends
        if attempt:
            atexit.register(leaving.remind, weakref.ref(self))

    @property
    def readonly(self) -> bool:
        return self.writer.attempt == 0

    @property
    def reading(self) -> Store:
        """What versions are read from: the run's own store, with this node's places before it."""
        if self.levels is not None and self.settled:
            self.levels.view.refresh()
        return self.writer.reading or self.store

    @property
    def forked(self) -> bool:
        """Whether this process is a child of the one that opened the run: the run is not its."""
        return os.getpid() != self._owner

    @property
    def requested(self) -> bool:
        """Whether the program asked for something to be done at the next loop head."""
        return self.pending is not None or self.rollback is not None

    def _check_fence(self) -> None:
        check_fence(self.store, self.writer.attempt)

    def settle(self) -> None:
        """Agree on the version to go on from, restore exactly its state, and seal it as this attempt's base; once."""
        if not self.settled:
            # Where nodes rebuild what others have lost, waiting for one another is part of everything, and has deadlines.
            phase = "restore" if self.levels is None else "waiting for ranks"
            with self.watching.during(phase):
                settle(self)

    def learn_mtbf(self) -> None:
        """How often the attempts on record failed, for `auto` without an `mtbf`."""

        def read() -> float:
            return read_failures(self.store, self.writer.attempt).mtbf()

        mtbf = from_root(self.group, "reading how often attempts failed", read)
        assert isinstance(mtbf, float)
        self.costs.mtbf = mtbf

    def time_limit(self) -> Limit | None:
        """Until when the program may run, None if the option says `off` (local)."""
        if self.limit is None and self.options.time_limit != "off" and not self.readonly:

            def nbytes() -> int:
                return sum(buffer.nbytes for entry in self.objects for buffer in entry.item().buffers)

            flights = self.writer.background is not None
            self.limit = Limit(
                self.options.time_limit, self.costs, flights, self.group.rank, self.group.size, nbytes
            )
        return self.limit

    def tell_complete(self) -> None:
        """Say once that there is nothing left to do (local)."""
        if self.group.rank == 0 and not self.told:
            log.warning("the run %s is complete; the objects hold its final state.", self.url)
        self.told = True

    # -- at a loop's head --------------------------------------------------------------------------

    def act(self, decision: Decision, step: int, pacer: Pacer) -> None:
        """Do what was decided at a loop's head, after `step` completed steps."""
        self.step = step
        if decision.landed:
            self.land(told=bool(decision.signal))
        if decision.signal:
            leaving.leave(self, decision.signal)
        if not decision.reason:
            return
        if decision.reason == "policy" and self.options.overlap == "skip" and self._busy():
            log.info("step %d: no checkpoint, the one before is still being written", step)
        else:
            self.take(decision.reason, wait=decision.reason == "request" and self.patient)
        pacer.taken(step)

    def _busy(self) -> bool:
        """Whether on any rank the version before is in flight: the same answer on all."""
        return self.group.begin_max(int(self.writer.flying is not None), 0).wait()[0] > 0

    def ask(self, wait: bool) -> Handle:
        """A checkpoint that the program asks for: at the next loop head, at once outside of loops."""
        self.loops.moved = True
        self.patient = (self.pending is not None and self.patient) or wait
        self.pending = self.pending or self._handle()
        return self.pending if self.loops.active else self.take("request", wait=self.patient)

    def take(self, reason: str, complete: bool = False, wait: bool = True) -> Handle:
        """Take a checkpoint now; `wait` until it is durable. Raises or warns as `on_error` says, also what the one before
        failed with; a last one (`signal`, `time limit`, `final`) always waits, and raises its own error alone."""
        with self.watching.during("checkpoint"):
            return self._take(reason, complete, wait)

    def _take(self, reason: str, complete: bool, wait: bool) -> Handle:
        began = time.perf_counter()
        last = reason in ("signal", leaving.TIME_LIMIT_NAME, "final")
        try:
            self.land(told=last)
        except HoldfastError as error:
            if self.pending is not None:  # it is not taken, neither now nor at some later head
                self.pending.end(error)
                self.pending = None
            raise
        handle, self.pending = self.pending or self._handle(), None
        self.patient, self._newest = False, handle
        self.writer.begin(
            handle, began, self.step, self.loops.positions, complete, reason, lambda: self._collect(final=complete),
            wait or last,
        )  # fmt: skip
        if wait or last or (self.writer.landed and self.group.size == 1) or self.writer.background is None:
            try:
                self.land("raise" if last else None)
                self.writer.tidying.settle()
            finally:
                handle.seconds = time.perf_counter() - began
                self.costs.took(handle.seconds)
                if handle.durable:
                    self.costs.durable(handle.seconds)
        else:
            self.costs.took(handle.seconds)
            self.flying = True
            self.loops.watch(handle)
        return handle

    def _handle(self) -> Handle:
        return Handle(self.writer.number, self.options.timeout, self.watching)

    def has_landed(self) -> bool:
        """Whether this rank knows what became of the version in flight (local, cheap)."""
        return self.writer.landed

    def land(self, on_error: str | None = None, told: bool = False) -> None:
        """Wait for the version in flight, if there is one; its error is raised or warned of as `on_error` says, or only
        told, because a later version is to be tried."""
        was_flying, self.flying = self.flying, False
        try:
            with self.watching.during("checkpoint"):
                seconds = self.writer.land()
            if was_flying and seconds is not None:
                self.costs.landed(seconds)
                if self._newest is not None and self._newest.durable:
                    self.costs.durable(self._newest.seconds + seconds)
            if self.writer.missed:  # its place failed: another one is due, and goes to the run's own store
                self.writer.missed = False
                self.pending = self.pending or self._handle()
        except HoldfastError as error:
            if told and isinstance(error, CheckpointError):
                log.error("%s", error)
            else:
                report_failure(error, on_error or self.options.on_error)
        finally:
            if was_flying:
                self.loops.watch(None)

    def arrive(self) -> None:
        """Wait for the version in flight and keep its error for `land` (local)."""
        with self.watching.during("checkpoint"):
            self.writer.arrive()

    def _collect(self, final: bool) -> tuple[list[Item], list[StoredFile]]:
        """This rank's state: protected objects, then stored ones that the program has not protected yet (local)."""
        if not final:  # at the end the function that held the arrays may have returned; the loop's end has looked
            self.objects.check_stale()
        items = [entry.item() for entry in self.objects]
        objects.check_aliases(items)
        carried: tuple[StoredFile, ...] = ()
        if self.writer.carry is not None:
            part = self.writer.carry.part
            items += [
                objects.carried_item(self.writer.carry, stored)
                for stored in part.objects
                if stored.name not in self.objects and stored.name not in self.dropped
            ]
            carried = part.files
        elif self.group.rank == 0:
            carried = self.foreign  # for whichever rank will open them
        return items, self.files.capture(carried)

    @property
    def newest(self) -> int | None:
        """The number of the newest version of this execution's lineage."""
        parsed = parse_version(self.writer.parent.name) if self.writer.parent else None
        return parsed[0] if parsed else None

    # -- leaving (leaving.py) ----------------------------------------------------------------------

    def complete(self) -> None:
        """Take a last version that says so, unless the run was complete and nothing has been run since."""
        leaving.complete(self)

    def end(self, outcome: str, signal: str | None = None, error: str | None = None) -> None:
        """Record how this attempt ended, once, by rank 0 (local)."""
        leaving.record_end(self, outcome, signal, error)

    def abandon(self) -> None:
        """Ranks are lost: let go of everything without asking the others (local)."""
        leaving.abandon(self)

    def close(self) -> None:
        """Release everything (local)."""
        leaving.close(self)
