"""A version's number, its commit, and what is left of it if it fails: what checkpoints and records have in common."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..catalog import Commit, Loop, Snapshot
from ..catalog.retention import remove, remove_surplus_records
from ..config import Options
from ..engine import Item, Parcel, Published, publish, write_part
from ..errors import CheckpointError, HoldfastError, UsageError
from ..format import Link, Part
from ..format.keys import COMMIT_NAME, Kind
from ..group import Group
from ..store import Store
from ..units import bytes_text, seconds_text
from .tidying import Tidying, told

if TYPE_CHECKING:
    from .levels.placing import Placing

log = logging.getLogger("holdfast")


@dataclass
class Publishing:
    """Where this attempt's versions go, alike on all ranks. `number`: the next version's; `background`: the ranks as the
    version in flight sees them, None if only the program's thread may speak to them; `parent`: the newest checkpoint."""

    store: Store
    group: Group
    background: Group | None
    attempt: int
    number: int
    options: Options
    parent: Link | None = None
    levels: Placing | None = None  # where versions come to first, if that is not the run's own store

    def __post_init__(self) -> None:
        self.tidying = Tidying(self.store, self.options.keep)

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
                    self._give_up(draft)
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

    def _record(self, began: float, label: str, step: int | None, items: Sequence[Item]) -> Published:
        """Write and commit one record (collective)."""
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

    def _give_up(self, draft: Commit) -> None:
        """Remove what there is of a version that failed, unless it has its commit: then it is whole, another start may go on
        from it by now, and it is left as it is. Nobody but this rank puts that."""
        if not self.store.exists(f"{draft.path}/{COMMIT_NAME}"):
            remove(self.store, draft.kind, draft.name)
            return
        log.info("%s %d failed behind its commit, and stays: a start may go on from it", draft.kind, draft.version)
        if draft.kind == "checkpoint":
            self.tidying.counts(draft.name)
