"""A record: what one transaction put, committed on all ranks or not at all."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from .. import state
from ..engine import Item
from ..errors import CheckpointError, RankError, UsageError
from ..group import together
from .objects import check_text

if TYPE_CHECKING:
    from .execution import Execution


class Transaction:
    """Made by `run.transaction(label)`; use it with `with` (collective: all ranks enter and leave it).

    `version`: the record's number once it is committed, None before.
    """

    def __init__(self, run: Execution, label: str) -> None:
        check_text("run.transaction", label)
        self._run, self.label = run, label
        self._items: dict[str, Item] = {}
        self._open = False
        self.version: int | None = None

    def put(self, name: str, obj: object) -> None:
        """Put a value under `name` (local). It is copied: what becomes of `obj` afterwards does not matter."""
        if not self._open:
            raise UsageError(f"txn.put({name!r}) outside of its `with` block.", object=name)
        check_text("txn.put", name)
        encoded = state.encode(obj, root=False, name=name)
        copies = [np.array(b, copy=True) for b in encoded.buffers]
        self._items[name] = Item(name, encoded.kind, False, None, encoded.tree, copies)

    def __enter__(self) -> Transaction:
        self._run.settle()
        self._open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        if error is not None and not isinstance(error, Exception):
            return  # leaving at once (KeyboardInterrupt, SystemExit): the others get a DeadlineError
        group = self._run.group
        failed = error and RankError(f"{type(error).__name__}: {error}", rank=group.rank)
        try:
            together(group, "the end of a transaction", error=failed)  # whose label may be another on each rank
        except RankError as others:
            if error is not None:
                return  # our own exception goes on
            raise CheckpointError(
                f"The transaction {self.label!r} was given up: another rank failed inside it. Nothing of it exists on any "
                "rank; checkpoints are untouched.",
                causes=others.causes,
            ) from None
        self._run.land()  # what a checkpoint before has failed with is no failure of this record, if it is only warned of
        with self._run.watching.during("checkpoint"):
            published = self._run.writer.record(
                time.perf_counter(), self.label, self._run.step, list(self._items.values())
            )
        self.version = published.commit.version
