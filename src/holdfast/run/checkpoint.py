"""Taking a checkpoint: what is written, under which number, with which parent, and what is deleted after."""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Thread

from ..catalog import Commit, Loop, Snapshot
from ..catalog.retention import find_surplus, remove, remove_all, remove_surplus_records, remove_unfinished
from ..engine import Item, PartReader, Published, publish, write_part
from ..errors import CheckpointError, HoldfastError, UsageError
from ..format import Link, Part, StoredFile, version_name
from ..format.keys import Kind
from ..group import Group
from ..policy import Keep
from ..store import Store
from ..units import bytes_text, seconds_text
from .resume import reader_of

log = logging.getLogger("holdfast")

# Bytes from which an old version is deleted beside the program: freeing a GiB takes a file system a third of a second,
# which is no part of the checkpoint. Less is deleted at once, which costs less than a thread.
_DELETE_AT_ONCE = 32 << 20


class CheckpointWarning(UserWarning):
    """A checkpoint failed and the program goes on (`on_error="warn"`)."""


@dataclass
class Handle:
    """A checkpoint asked for. `version`: the number it has or will have; `done`: whether it was tried;
    `durable`: whether it is committed and fsynced; `seconds`: how long the program waited; `error`: why it failed."""

    version: int
    done: bool = False
    durable: bool = False
    seconds: float = 0.0
    bytes: int = 0
    error: HoldfastError | None = None


@dataclass
class Writer:
    """Writes this attempt's versions, on all ranks alike. `lineage`: names of the checkpoints that count, newest first;
    `number`: the next version's; `carry`: this rank's reader of the newest version."""

    store: Store
    group: Group
    attempt: int
    number: int
    keep: Keep
    threads: int
    parent: Link | None = None
    lineage: list[str] = field(default_factory=list)
    carry: PartReader | None = None
    written: int = 0  # versions of this attempt
    _deleting: Thread | None = None

    def checkpoint(
        self,
        began: float,
        step: int | None,
        loops: dict[str, Loop],
        complete: bool,
        reason: str,
        collect: Callable[[], tuple[Sequence[Item], Sequence[StoredFile]]],
    ) -> Published:
        """Write and commit one checkpoint (collective). `collect` gives this rank's items and output files."""
        draft = self._draft("checkpoint", step, loops, complete, reason, None)
        parts: list[Part] = []

        def write(key: str) -> Part:
            parts.append(write_part(self.store, key, self.group.rank, *collect(), self.threads))
            return parts[0]

        published = self._publish(draft, began, write)
        if self.carry is not None:
            self.carry.close()
        self.carry = reader_of(self.store, published.commit, parts[0], self.group.rank, self.threads)
        self.parent = published.link
        self.lineage.insert(0, published.link.name)
        self.written += 1
        if self.group.rank == 0:
            self._retain()
        return published

    def record(self, began: float, label: str, step: int | None, items: Sequence[Item]) -> Published:
        """Write and commit one record (collective)."""
        draft = self._draft("record", step, {}, False, "transaction", label)
        published = self._publish(
            draft, began, lambda key: write_part(self.store, key, self.group.rank, items, [], self.threads)
        )
        if self.group.rank == 0 and self.keep.records is not None:
            with _told("records beyond those to keep were not deleted"):
                remove_surplus_records(self.store, self.attempt, Snapshot(self.store), self.keep)
        return published

    def _draft(
        self, kind: Kind, step: int | None, loops: dict[str, Loop], complete: bool, reason: str, label: str | None
    ) -> Commit:
        number, self.number = self.number, self.number + 1
        return Commit(
            kind, number, self.attempt, self.parent, label, step, loops, complete, reason,
            self.group.size, 0, 0, 0.0, 0.0, 0, "",
        )  # fmt: skip

    def _publish(self, draft: Commit, began: float, write: Callable[[str], Part]) -> Published:
        try:
            published = publish(self.store, self.group, draft, began, write)
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

    def _retain(self) -> None:
        self.finish_deleting()
        with _told("versions beyond those to keep were not deleted"):
            found = find_surplus(self.store, self.lineage, self.keep)
            self.lineage = [name for name in self.lineage if name not in found]
            if sum(found.values()) < _DELETE_AT_ONCE:
                remove_all(self.store, self.attempt, found)
            elif found:
                self._deleting = Thread(target=self._delete, args=(self.attempt, list(found)), daemon=True)
                self._deleting.start()

    def _delete(self, attempt: int, names: list[str]) -> None:
        with _told("versions beyond those to keep were not deleted"):
            remove_all(self.store, attempt, names)

    def finish_deleting(self) -> None:
        """Wait, at most a minute, for what is being deleted: at most one version's deletion is under way."""
        if self._deleting is not None:
            self._deleting.join(60.0)
            self._deleting = None

    def clean(self) -> None:
        """Delete what earlier attempts left unfinished, on rank 0: before the first checkpoint, which may need the room."""
        with _told("what earlier attempts left unfinished was not deleted"):
            remove_unfinished(self.store, self.attempt, self.number)


@contextlib.contextmanager
def _told(what: str):  # type: ignore[no-untyped-def]
    """Failing to delete what is not needed is no failure of the checkpoint; it is told and tried again next time."""
    try:
        yield
    except HoldfastError as error:
        log.warning("%s: %s", what, error.message)


def report_failure(error: HoldfastError, on_error: str) -> None:
    """Raise a failed checkpoint's error, or warn of it if the program wants to go on."""
    if on_error == "raise" or not isinstance(error, CheckpointError):
        raise error
    warnings.warn(CheckpointWarning(str(error)), stacklevel=4)
