"""Taking checkpoints: captured in the program's thread, written and committed beside it, one version in flight at a time."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

from ..catalog import Commit, Loop, Snapshot
from ..catalog.retention import remove, remove_surplus_records
from ..config import Options
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
    publish,
    write_part,
)
from ..errors import CheckpointError, DeadlineError, HoldfastError, StorageError, UsageError
from ..format import Link, Part, StoredFile, version_name
from ..format.blocks import round_up
from ..format.keys import Kind, data_name
from ..format.layers import SourceTable
from ..group import Group
from ..store import Store
from ..units import bytes_text, seconds_text
from .capturing import Capturing
from .handle import Handle
from .resume import reader_of
from .tidying import Tidying, told
from .tracking import Tracking

if TYPE_CHECKING:
    from .levels.placing import Placing

log = logging.getLogger("holdfast")

_ROOM = 1.5  # times the state: a chain that has written more is ended by a version that is written whole

Collect = Callable[[], tuple[Sequence[Item], Sequence[StoredFile]]]
_Write = Callable[[str], tuple[Plan, list[Written], int]]


@dataclass
class Writer:
    """Writes this attempt's versions, on all ranks alike. `number`: the next version's; `carry`: this rank's reader of the
    newest version; `behind`: how many versions behind that one is the newest that refers to no other; `chained`: bytes that
    these have written; `state`: bytes of the newest's state; `spared`: whether a version is kept that shares no block with it;
    `background`: the ranks as the version in flight sees them, None if only the program's thread may speak to them."""

    store: Store
    group: Group
    background: Group | None
    attempt: int
    number: int
    options: Options
    parent: Link | None = None
    behind: int = 0
    chained: int = 0
    state: int = 0
    spared: bool = False
    carry: PartReader | None = None
    written: int = 0  # versions of this attempt
    replicated: bool = False  # whether the program has replicated objects, as all ranks have agreed
    levels: Placing | None = None  # where versions come to first, if that is not the run's own store
    reading: Store | None = None  # from where what was written is read, if that is not the run's own store alone
    missed: bool = False  # whether the version before is nowhere, since its place failed
    _flight: Flight[_Landed] | None = None
    _handle: Handle | None = None
    _failed: HoldfastError | None = None
    _seconds: float | None = None
    _aim: bool = False  # whether what is in flight goes to the places
    _placed: bool | None = None  # whether the newest version is there; None: the next one is to be whole
    _most: int = 0  # bytes of data that the version in flight takes if all that it captured is kept,
    _whole: int = 0  # and that it would take if it referred to no other
    _bygone: PartReader | None = None  # of the version before `carry`: closed beside the program, which it would hold up

    def __post_init__(self) -> None:
        self.capturing = Capturing(self.store, self.options)
        self.tidying = Tidying(self.store, self.options.keep)
        self._tracking: Tracking | None = None

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
        torn: list[HoldfastError] = []  # the program goes on although its memory is still being read
        lock = Lock()
        try:
            # What a version refers to is where it is itself: in the run's own store, or at the places.
            whole = self.levels is not None and placed != self._placed
            plan = self._plan(draft, *collect(), whole=whole, placed=placed)
            self._most, self._whole = plan.most, plan.whole
            writing, waited = self._capture(plan, f"{draft.path}/{data_name(self.group.rank)}", placed)
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
            self.capturing.renew()
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
                with lock:
                    if torn:
                        raise torn[0]
                    handle.reach("written")
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
            try:
                handle.wait("written")
            except BaseException as left:
                with lock:
                    if not handle.written:
                        torn.append(_not_direct(draft.version, self.options.timeout, left))
                if not isinstance(left, HoldfastError):  # else the failure is `land`'s to raise
                    raise
        handle.seconds = time.perf_counter() - began

    def _capture(self, plan: Plan, key: str, placed: bool) -> tuple[Writing, float]:
        """Freeze what the plan says. `placed`: the version goes to the node's place, whose file in memory can take the state as
        it is. The seconds that the program waited for room."""
        levels = self.levels if placed else None
        if levels is not None and self.capturing.fits_in_place(plan) and (file := levels.ahead.take(plan.most)) is not None:
            return self.capturing.in_place(file, key, plan), 0.0
        writing = self.capturing.writing(key, plan, levels.ladder.place.store if levels is not None else None)
        try:
            return writing, self.capturing.freeze(plan, writing)
        except BaseException:
            writing.abort()
            raise

    def _plan(self, draft: Commit, items: Sequence[Item], files: Sequence[StoredFile], whole: bool, placed: bool) -> Plan:
        if self._tracking is None:
            self._tracking = Tracking(self.options.incremental, self.group.size)
        before = (self.carry.part, self.parent) if self.carry is not None and self.parent is not None else None
        sources = SourceTable()
        # Alike on all ranks. The second version is written whole as well: one bad block is not to take all there is.
        whole = whole or not self.spared or self._ends_chain(self.behind, self.chained, self.state)
        items = self.capturing.choose(items, placed and self.levels is not None and self.levels.ahead.possible)
        items = self._tracking.bases(items, draft.name, before, sources, whole)
        return Plan(self.group.rank, items, files, sources, self.group.size)

    def _ends_chain(self, behind: int, chained: int, state: int) -> bool:
        """Whether the next version is written whole. Also where a chain has taken much more room than the state: all of it is
        kept for the one block that never changes."""
        return behind + 2 > self.options.max_chain or chained > _ROOM * state

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
            self._look_ahead(published.commit)
        else:
            handle.reach("durable")
            if self.group.rank == 0:
                self.tidying.after(self.attempt, published.link.name)
            if self.levels is not None:
                self.levels.stored(published)
        handle.end()
        reader = reader_of(self.reading or self.store, published.commit, parts[0], self.group.rank, self.options.threads)
        return _Landed(published, reader, durable)

    def _look_ahead(self, done: Commit) -> None:
        """Have room made in the node's memory, beside the program, for the version after `done`."""
        behind, chained = (self.behind + 1, self.chained + done.nbytes) if done.refs else (0, done.nbytes)
        if self.levels is not None and self.capturing.may_be_in_place:
            whole = not self.spared or self._ends_chain(behind, chained, done.state)
            self.levels.ahead.prepare_beside(self._whole if whole else min(self._whole, self._most + self._most // 4))

    def arrive(self, seconds: float | None = None) -> None:
        """Wait for what is in flight and take note of what became of it; an error is kept for `land` (local).

        DeadlineError after `seconds` (None: longer than the flight's own deadlines)."""
        flight = self._flight
        if flight is None:
            return
        if not flight.wait(6 * self.options.timeout if seconds is None else seconds):
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
                self.spared = False  # what it referred to is not there any more: the next one is to need nothing
            if self._aim and self.levels is not None and self.levels.failed(flight.name, error):
                self.missed = True
            else:
                self._failed = error
            return
        self._placed = self._aim
        self._bygone, self.carry = self.carry, landed.reader
        commit = landed.published.commit
        if not commit.refs:
            self.spared = self.options.keep.last == 1 or self.parent is not None
        self.parent, self.behind = landed.published.link, self.behind + 1 if commit.refs else 0
        self.chained, self.state = commit.nbytes + (self.chained if commit.refs else 0), commit.state
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

    # -- records -----------------------------------------------------------------------------------

    def record(self, began: float, label: str, step: int | None, items: Sequence[Item]) -> Published:
        """Write and commit one record while the program waits (collective). Raises what is in flight failed with."""
        self.land()
        draft = self._draft("record", step, {}, False, "transaction", label)
        published = self._publish(
            self.group,
            draft,
            began,
            lambda key: write_part(self.store, key, self.group.rank, items, [], self.options.threads),
        )
        if self.group.rank == 0 and self.options.keep.records is not None:
            with told("records beyond those to keep were not deleted"):
                remove_surplus_records(self.store, self.attempt, Snapshot(self.store), self.options.keep)
        return published

    # -- inside ------------------------------------------------------------------------------------

    def _draft(
        self, kind: Kind, step: int | None, loops: dict[str, Loop], complete: bool, reason: str, label: str | None
    ) -> Commit:
        number, self.number = self.number, self.number + 1
        return Commit(
            kind=kind, version=number, attempt=self.attempt, parent=self.parent, label=label, step=step, loops=loops,
            complete=complete, reason=reason, ranks=self.group.size, objects=0, nbytes=0, state=0, refs=(), created=0.0,
            seconds=0.0, index_bytes=0, index_digest="",
        )  # fmt: skip

    def _publish(
        self,
        group: Group,
        draft: Commit,
        began: float,
        write: Callable[[str], Part],
        shared: Callable[[str], Parcel] | None = None,
        waits: bool = True,
    ) -> Published:
        try:
            room = self.levels.room if self.levels is not None else None
            published = publish(self.store, group, draft, write, shared, began if waits else None, room=room)
        except (CheckpointError, UsageError) as error:
            # All ranks have reported and write no more: what there is of it goes, which also makes room on a full disk.
            # Not if it was there before: then it is another process's.
            ours = not any(cause.type in ("KeyExistsError", "DeadlineError", "RankError") for cause in error.causes)
            if self.group.rank == 0 and ours:
                with contextlib.suppress(HoldfastError):
                    remove(self.store, draft.kind, version_name(draft.version, draft.attempt))
            raise
        if self.group.rank == 0:
            log.info(
                "%s %d durable: step %s, %s in %s",
                draft.kind,
                draft.version,
                draft.step,
                bytes_text(published.commit.nbytes),
                seconds_text(time.perf_counter() - began),
            )
        return published

    def prepare(self, items: Sequence[Item]) -> None:
        """Make ready, beside the program, to capture these objects (local)."""
        levels = self.levels
        placed = levels is not None and levels.wants("policy", False) and self.capturing.may_be_in_place
        if placed and levels is not None and levels.ahead.possible:
            levels.ahead.prepare_beside(sum(round_up(b.nbytes) for item in items for b in item.buffers))
        else:
            self.capturing.prepare(items)

    def close(self) -> None:
        """Let go of everything, when nothing is in flight (local)."""
        self.tidying.finish()
        if self.levels is not None:
            self.levels.ahead.close()
        self.capturing.close()
        if self._tracking is not None:
            self._tracking.close()
        self._let_go()
        if self.carry is not None:
            self.carry.close()

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


def _not_direct(version: int, seconds: float, left: BaseException) -> HoldfastError:
    changed = "what is still to be read may change from now on"
    if not isinstance(left, HoldfastError):
        return CheckpointError(
            f"the program was interrupted ({type(left).__name__}) while it waited for version {version} to be written "
            f"(capture='direct'); {changed}.",
            version=version,
        )
    return StorageError(
        f"version {version} was not written within {seconds:.4g} s, for which the program waited (capture='direct'); "
        f"{changed}. See whether the disk hangs; raise the option `timeout` if it is slow.",
        version=version,
    )
