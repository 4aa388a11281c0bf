"""A rank's part written while the caller waits, from memory that does not change: records, and tests."""

from __future__ import annotations

from collections.abc import Sequence

from ..format import Part, StoredFile
from ..format.layers import SourceTable
from ..store import Store
from .plan import Item, Plan
from .units import no_release
from .write import ThreadWriting


def write_part(
    store: Store, key: str, rank: int, items: Sequence[Item], files: Sequence[StoredFile], threads: int
) -> Part:
    """Write all items' buffers to the data file `key`; durable when this returns (local).

    The buffers must not change meanwhile. Raises StorageError; then the file is gone, or unreachable.
    """
    plan = Plan(rank, items, files, SourceTable())
    writing = ThreadWriting(store, key, plan.expected, threads)
    try:
        for number, unit in enumerate(list(plan.units)):
            writing.put(number, unit, no_release)
        for number, unit in plan.late_units():
            writing.put(number, unit, no_release)
        return plan.part(*writing.finish())
    except BaseException:
        writing.abort()
        raise
