"""One execution of a run: its state, settled once, written at loop heads, ended once. What `Run` shows, done here.

All methods are collective unless they say otherwise; they are called in the same order by all ranks.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import time
import weakref
from collections.abc import Callable
from typing import Any

from ..catalog import Base, End, Snapshot, check_fence, put_base, put_end
from ..config import Options
from ..engine import Item
from ..errors import (
    EXIT_INTERRUPTED,
    EXIT_INTERRUPTED_NO_PROGRESS,
    EXIT_LAST_CHECKPOINT_FAILED,
    HoldfastError,
    Interrupted,
    StorageError,
    UsageError,
)
from ..format import StoredFile, parse_version
from ..group import Group, from_root, together
from ..store import Store
from . import objects
from .checkpoint import Handle, Writer, report_failure
from .loops import Loops
from .objects import Entry, Objects
from .outfiles import OutFiles
from .pacing import Decision, Pacer
from .resume import Restored, Resume
from .signals import Interrupts, signal_name

log = logging.getLogger("holdfast")


def _remind(there: weakref.ref[Execution]) -> None:
    """At the program's end: a run that nobody has closed or completed."""
    x = there()
    if x is None or x.closed or x.forked or x.left or not x.settled or "HOLDFAST_SUPERVISED" in os.environ:
        return
    newest = f"A start goes on from version {x.newest}" if x.newest else "There is no version: a start begins anew"
    print(
        f"holdfast: the program has ended and the run {x.url} is not complete. {newest}. "
        "If the program is done, let it say so: `with holdfast.open(...) as run:`, or run.complete().",
        file=sys.stderr,
    )


class Execution:
    """What one rank knows of an execution. `attempt` 0: opened for reading. `fence(first_version)` takes a new
    attempt (for rollback); `closers` are called at the end."""

    def __init__(
        self,
        url: str,
        store: Store,
        group: Group,
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
        self.interrupts = Interrupts(loud=group.rank == 0 and "HOLDFAST_SUPERVISED" not in os.environ)
        self.writer = Writer(store, group, attempt, next_number, options.keep, options.threads)
        self.settled = self.closed = self.told = False
        self.restored: Restored | None = None
        self.step: int | None = None
        self.pending: Handle | None = None
        self.rollback: Callable[[], None] | None = None
        self.foreign: tuple[StoredFile, ...] = ()  # output files of all ranks, if the restored version had other ranks
        self.closers: list[Callable[[], None]] = []
        self._owner = os.getpid()
        self.left = False  # whether the program has said how it ends
        if group.rank == 0 and attempt:
            atexit.register(_remind, weakref.ref(self))

    @property
    def readonly(self) -> bool:
        return self.writer.attempt == 0

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

    # -- settling --------------------------------------------------------------------------------

    def settle(self) -> None:
        """Agree on the version to go on from, restore exactly its state, and seal it as this attempt's base."""
        if self.settled:
            return
        reader = self.resume.settle(self.objects, self.dropped)
        commit = self.resume.commit
        if commit is not None and reader is not None:
            recut = commit.ranks != self.group.size
            self.restored = Restored(commit.version, commit.step, f"{self.url}/{commit.path}", self.resume.skipped)
            self.step = commit.step
            self.loops.resume(commit.loops, commit.complete)
            self.writer.carry = None if recut else reader
            self.writer.parent = self.resume.link
        self._settle_files()
        if not self.readonly:
            from_root(self.group, "sealing the base", self._seal)
        self.settled = True
        if self.group.rank == 0 and self.restored is not None:
            for name, why in self.restored.skipped:
                log.warning("version %s was passed over: %s", name, why)
            log.info("resumes from version %d (step %s)", self.restored.version, self.restored.step)

    def _settle_files(self) -> None:
        """Cut output files back to the version; what goes wrong on one rank, all hear of."""
        error: Exception | None = None
        try:
            found = self.resume.files()
            self.foreign = found if self.resume.recut else ()
            self.files.settle(found)
        except OSError as failed:
            error = StorageError(f"An output file could not be cut back: {failed}.", file=failed.filename)
        except HoldfastError as failed:
            error = failed
        together(self.group, "cutting output files back", error=error)

    def _seal(self) -> None:
        """On rank 0."""
        link = self.writer.parent
        chain = tuple(self.resume.behind) if link else ()
        behind = (link, *chain) if link else ()
        records = Snapshot(self.store).counting_records(behind)
        put_base(self.store, self.writer.attempt, Base(link, chain, records, self.params, self.group.size))
        self.writer.lineage = [x.name for x in behind]
        self.writer.clean()

    def tell_complete(self) -> None:
        """Say once that there is nothing left to do (local)."""
        if self.group.rank == 0 and not self.told:
            log.warning("the run %s is complete; the objects hold its final state.", self.url)
        self.told = True

    # -- at a loop's head --------------------------------------------------------------------------

    def act(self, decision: Decision, step: int, pacer: Pacer) -> None:
        """Do what was decided at a loop's head, after `step` completed steps."""
        self.step = step
        if decision.signal:
            self._leave(decision.signal)
        self.take(decision.reason)
        pacer.taken(step)

    def take(self, reason: str, complete: bool = False) -> Handle:
        """Take a checkpoint now. Raises or warns as `on_error` says; a last one (`signal`, `final`) always raises."""
        began = time.perf_counter()
        handle, self.pending = self.pending or Handle(self.writer.number), None
        handle.version = self.writer.number
        try:
            published = self.writer.checkpoint(
                began,
                self.step,
                self.loops.positions,
                complete,
                reason,
                lambda: self._collect(final=complete),
            )
            handle.durable, handle.bytes = True, published.commit.nbytes
        except HoldfastError as error:
            handle.error = error
            report_failure(error, "raise" if reason in ("signal", "final") else self.options.on_error)
        finally:
            handle.done, handle.seconds = True, time.perf_counter() - began
        return handle

    def _collect(self, final: bool) -> tuple[list[Item], list[StoredFile]]:
        """This rank's state: protected objects, then stored ones that the program has not protected yet (local)."""
        if not final:  # at the end the function that held the arrays may have returned; the loop's end has looked
            self.objects.check_stale()
        items = [entry.item() for entry in self.objects]
        if any(item.kind == "state" and item.buffers for item in items):
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

    def _leave(self, number: int) -> None:
        """A signal: a last checkpoint if anything is new, the record of it, and out."""
        name, code = signal_name(number), EXIT_INTERRUPTED
        error: HoldfastError | None = None
        if self.loops.moved:
            try:
                self.take("signal")
            except HoldfastError as failed:
                error, code = failed, EXIT_LAST_CHECKPOINT_FAILED
        elif not self.writer.written:
            code = EXIT_INTERRUPTED_NO_PROGRESS
        if error is None:
            # Before any rank leaves: launchers end the others as soon as one has left with a status.
            from_root(self.group, "recording the interrupt", lambda: self.end("interrupted", name))
        else:
            self.end("failed", name, str(error))
            if self.group.rank == 0:
                log.error("%s: the last checkpoint failed: %s", name, error)
        self.interrupts.pending = 0
        self.left = True
        raise Interrupted(code, name, self.newest) from error

    @property
    def newest(self) -> int | None:
        """The number of the newest version of this execution's lineage."""
        parsed = parse_version(self.writer.parent.name) if self.writer.parent else None
        return parsed[0] if parsed else None

    # -- leaving -----------------------------------------------------------------------------------

    def complete(self) -> None:
        """Take a last version that says so, unless the run was complete and nothing has been run since."""
        self.settle()
        if self.rollback is not None:
            raise UsageError("run.rollback was asked for and no loop head came after it: let the loop go on, or call it after.")
        self.loops.leave_all()
        self.loops.finish()
        if not self.loops.complete or self.loops.moved:
            self.take("final", complete=True)
            self.loops.complete, self.loops.moved = True, False
        self.end("complete")
        self.left = True

    def end(self, outcome: str, signal: str | None = None, error: str | None = None) -> None:
        """Record how this attempt ended, once, by rank 0 (local). Failing to is no harm: that no process lives tells as
        well."""
        if self.readonly or self.group.rank != 0 or self.forked:
            return
        try:
            put_end(self.store, self.writer.attempt, End(outcome, time.time(), self.newest, self.step, signal, error))
        except HoldfastError as failed:
            log.warning("how the attempt ended could not be recorded: %s", failed.message)

    def close(self) -> None:
        """Release everything (local)."""
        if self.closed or self.forked:
            return
        self.end("closed")
        self.closed = True
        self.writer.finish_deleting()
        self.interrupts.restore()
        self.files.close()
        self.resume.close()
        if self.writer.carry is not None:
            self.writer.carry.close()
        for closer in self.closers:
            closer()
