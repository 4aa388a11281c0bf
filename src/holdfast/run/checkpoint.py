"""Taking checkpoints: captured in the program's thread, written and committed beside it, one version in flight at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..catalog import Commit, Loop
from ..engine import (
    Flight,
    Item,
    Parcel,
    PartReader,
    Plan,
    Published,
    Writing,
    Written,
    no_release,
)
from ..errors import CheckpointError, DeadlineError, HoldfastError
from ..format import Part, StoredFile
from ..format.keys import data_name
from ..store import Store
from ..units import seconds_text
from .chain import Chain
from .direct import Reading
from .freezing import Freezing
from .handle import Handle
from .publishing import Publishing
from .resume import reader_of

log = logging.getLogger("holdfast")

Collect = Callable[[], tuple[Sequence[Item], Sequence[StoredFile]]]
_Write = Callable[[str], tuple[Plan, list[Written], int]]


@dataclass
class Writer(Publishing):
    """Writes this attempt's versions, on all ranks alike. `carry`: this rank's reader of the newest version; `chain`: what that
    one hangs on."""

    chain: Chain = field(default_factory=Chain)
    carry: PartReader | None = None
    written: int = 0  # versions of this attempt
    replicated: bool = False  # whether the program has replicated objects, as all ranks have agreed
    reading: Store | None = None  # from where what was written is read, if that is not the run's own store alone
    missed: bool = False  # whether the version before is nowhere, since its place failed
    _flight: Flight[_Landed] | None = None
    _handle: Handle | None = None
    _failed: HoldfastError | None = None
    _seconds: float | None = None
    _aim: bool = False  # whether what is in flight goes to the places
    _placed: bool | None = None  # whether the newest version is there; None: the next one is to be whole
    _bygone: PartReader | None = None  # of the version before `carry`: closed beside the program, which it would hold up

    def __post_init__(self) -> None:
        super().__post_init__()
        self.freezing = Freezing(self.store, self.group.rank, self.group.size, self.options)

    # -- checkpoints -----------------------------------------------------------------------------

    @property
    def flying(self) -> Handle | None:
        """The handle of the version that is in flight and not over, if there is one."""
        return self._handle if self._flight is not None and not self._flight.over else None

    @property
    def failed(self) -> HoldfastError | None:
        """What a version failed with that has arrived and whose error nobody has been told."""
        return self._failed

    @property
    def landed(self) -> bool:
        """Whether a version was in flight and is over, and nobody has taken note yet (local)."""
        arrived = self._failed is not None or self._seconds is not None
        return arrived or (self._flight is not None and self._flight.over)

    def begin(
        self,
        handle: Handle,
        began: float,
        step: int | None,
        loops: dict[str, Loop],
        complete: bool,
        reason: str,
        collect: Collect,
        waits: bool = False,
    ) -> None:
        """Capture this rank's state and let it be written and committed beside the program (collective; waits for no rank).

        `waits`: the program is going to wait until it is durable. Nothing may be in flight. What goes wrong, here or on the
        way, is raised by `land` on all ranks alike.
        """
        draft = self._draft("checkpoint", step, loops, complete, reason, None)
        placed = self.levels is not None and self.levels.wants(reason, waits) and not self._sharing
        handle.version, handle.begun = draft.version, True
        writing: Writing | None = None
        plan: Plan | None = None
        error: Exception | None = None
        direct = False
        reading = Reading(handle)
        try:
            # What a version refers to is where it is itself: in the run's own store, or at the places.
            whole = self.levels is not None and placed != self._placed
            whole = whole or self.chain.ends(self.options.max_chain)  # alike on all ranks
            before = (self.carry.part, self.parent) if self.carry is not None and self.parent is not None else None
            placing = self.levels if placed else None
            plan = self.freezing.plan(draft.name, *collect(), before, whole, placing)
            writing, waited = self.freezing.capture(plan, f"{draft.path}/{data_name(self.group.rank)}", placing)
            direct = any(unit.how == "direct" for unit in plan.units)
            plan.let_go()
            handle.reach("captured")
            if waited > 0.1:
                log.info("version %d: the program waited %s for room to capture to", draft.version, seconds_text(waited))
        except Exception as failed:  # the other ranks are to hear of it, which they do in `publish`
            error = failed
        except BaseException as left:
            if writing is not None:
                writing.abort()
            self.freezing.capturing.renew()
            handle.end(CheckpointError(f"Version {draft.version} was given up: {type(left).__name__} in its capture."))
            raise
        stalled = time.perf_counter() - began

        def write(_: str) -> tuple[Plan, list[Written], int]:
            try:
                if error is not None:
                    raise error
                assert plan is not None and writing is not None
                for number, unit in plan.late_units():
                    writing.put(number, unit, no_release)
                written, nbytes = writing.finish()
                reading.over()
                return plan, written, nbytes
            except BaseException:
                if writing is not None:
                    writing.abort()
                raise

        def fly() -> _Landed:
            return self._fly(draft, handle, began, stalled, write, waits or direct or self.background is None, placed)

        self._handle, self._aim = handle, placed
        # Alone, a rank has nobody to wait for with its own error: it is over at once.
        alone = error is not None and self.group.size == 1
        self._flight = Flight(draft.name, fly, background=self.background is not None and not alone)
        if direct:
            reading.wait(draft.version, self.options.timeout)
        handle.seconds = time.perf_counter() - began

    @property
    def _sharing(self) -> bool:
        """Whether there may be replicated objects, the program's or carried ones: the same answer on all ranks, as the version
        before holds the same ones on all of them."""
        stored = () if self.carry is None else self.carry.part.objects
        return self.group.size > 1 and (self.replicated or any(o.replicated for o in stored))

    def _fly(
        self, draft: Commit, handle: Handle, began: float, stalled: float, write: _Write, waits: bool, placed: bool
    ) -> _Landed:
        """In the flight's thread: everything after the capture."""
        parts: list[Part] = []
        self._let_go()

        def keep(part: Part) -> Part:
            parts.append(part)
            return part

        def whole(key: str) -> Part:
            plan, written, nbytes = write(key)
            return keep(plan.part(written, nbytes))

        def shared(key: str) -> Parcel:
            plan, written, nbytes = write(key)
            share = plan.share(written, nbytes, draft.name)
            return Parcel(share, lambda merged: keep(plan.part(written, nbytes, draft.name, merged)))

        group = self.background or self.group
        try:
            known = draft._replace(seconds=stalled)
            if self.levels is not None and placed:
                published = self.levels.publish(known, whole, began if waits else None)
            else:
                published = self._publish(group, known, began, whole, shared if self._sharing else None, waits)
        except HoldfastError as error:
            handle.end(error)
            raise
        except BaseException as error:  # nobody is to wait for what is over
            handle.end(CheckpointError(f"Version {draft.version} was not written: {type(error).__name__}: {error}"))
            raise
        durable = time.perf_counter() - began - stalled
        handle.bytes = published.commit.nbytes
        if placed and self.levels is not None:
            self.freezing.look_ahead(self.levels, self._chain_with(published.commit).ends(self.options.max_chain))
        else:
            handle.reach("durable")
            if self.group.rank == 0:
                self.tidying.after(self.attempt, published.link.name)
            if self.levels is not None:
                self.levels.stored(published)
        handle.end()
        reader = reader_of(self.reading or self.store, published.commit, parts[0], self.group.rank, self.options.threads)
        return _Landed(published, reader, durable)

    def _chain_with(self, commit: Commit) -> Chain:
        return self.chain.with_one(commit, self.options.keep.last == 1 or self.parent is not None)

    def arrive(self, seconds: float | None = None) -> None:
        """Wait for what is in flight and take note of what became of it; an error is kept for `land` (local).

        DeadlineError after `seconds` (None: longer than the flight's own deadlines)."""
        flight = self._flight
        if flight is None:
            return
        if not flight.wait(10 * self.options.timeout if seconds is None else seconds):
            raise DeadlineError(
                f"Version {flight.name} is in flight for longer than any wait in it may last. The versions before it are "
                "intact. End the program and start it again; it resumes.",
                rank=self.group.rank,
            )
        self._flight = None
        try:
            landed = flight.result()
        except HoldfastError as error:
            if any(cause.type in ("DamageError", "KeyMissingError") for cause in error.causes):
                self.chain = self.chain.torn()
            if self._aim and self.levels is not None and self.levels.failed(flight.name, error):
                self.missed = True
            else:
                self._failed = error
            return
        self._placed = self._aim
        self._bygone, self.carry = self.carry, landed.reader
        commit = landed.published.commit
        self.chain, self.parent = self._chain_with(commit), landed.published.link
        self.written += 1
        self._seconds = landed.seconds

    def land(self) -> float | None:
        """`arrive`, and raise what the version in flight failed with (collective: all ranks raise alike, or none).

        Seconds from its capture until it was durable, None if nothing was in flight."""
        self.arrive()
        error, self._failed = self._failed, None
        seconds, self._seconds = self._seconds, None
        if error is not None:
            raise error
        return seconds

    def record(self, began: float, label: str, step: int | None, items: Sequence[Item]) -> Published:
        """Write and commit one record while the program waits (collective). Raises what is in flight failed with."""
        self.land()
        return self._record(began, label, step, items)

    # -- the end -----------------------------------------------------------------------------------

    def prepare(self, items: Sequence[Item]) -> None:
        """Make ready, beside the program, to capture these objects (local)."""
        self.freezing.prepare(items, self.levels)

    def close(self) -> None:
        """Let go of everything, when nothing is in flight (local)."""
        self.tidying.finish()
        if self.levels is not None:
            self.levels.ahead.close()
        self.freezing.close()
        self._let_go()
        if self.carry is not None:
            self.carry.close()

    def abandon(self, seconds: float) -> None:
        """Let go of everything although ranks are lost (local). What is in flight has `seconds` to end; what does not keeps
        its memory, and a later attempt's fence keeps it from counting."""
        over = self._flight is None or self._flight.wait(seconds)
        if self.levels is not None:
            self.levels.abandon()
        if over:
            self.freezing.close()
            if self.carry is not None:
                self.carry.close()
        else:
            self.freezing.abandon()
        self._let_go()

    def _let_go(self) -> None:
        bygone, self._bygone = self._bygone, None
        if bygone is not None:
            bygone.close()


@dataclass(frozen=True)
class _Landed:
    """A version that is durable: what was published, a reader of this rank's part, seconds from its capture until then."""

    published: Published
    reader: PartReader
    seconds: float
