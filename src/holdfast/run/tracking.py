"""What of the state is known to be as the version before has it, buffer by buffer.

By digests always: a block whose digest is that of the version before is not written again. By pages where that pays: the kernel
tells which were written since they were last asked for, and only those are captured at all. It costs a fault for each page that
is written, so `auto` asks for it only where a sample of pages says that few change, and gives it up where most do.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..engine import Base, Item
from ..engine.plan import OWN_UNIT
from ..format import Link, Part
from ..format.layers import SourceTable, adopt

if TYPE_CHECKING:
    from ..capture.tracker import PageTracker

log = logging.getLogger("holdfast")

_SPARSE = 0.25  # of the sampled pages: where no more change, pages are worth tracking
_DENSE = 0.5  # of the bytes: where more have changed, they are not
_AMPLIFIED = 2.0  # times its size: a buffer that takes more reading than that is written whole again

Key = tuple[str, int]  # an object's name, a buffer's number


class Tracking:
    """For one rank's run, one of `ranks`. `mode`: the option `incremental`."""

    def __init__(self, mode: str, ranks: int = 1) -> None:
        self._mode, self._ranks = mode, ranks
        self._at: dict[Key, str] = {}  # the version at whose capture the pages of a buffer were last asked for
        self._tracker: PageTracker | None = None
        self._sampler: Any = None
        if mode in ("auto", "pages"):
            from ..capture.sampling import Sampler
            from ..capture.tracker import PageTracker

            why = PageTracker.available()
            if why is None:
                self._tracker = PageTracker()
                self._sampler = Sampler()
            elif mode == "pages":
                log.warning("incremental='pages': pages can't be tracked here (%s); blocks are compared by digest.", why)

    def bases(
        self, items: Sequence[Item], name: str, before: tuple[Part, Link] | None, table: SourceTable, whole: bool
    ) -> list[Item]:
        """The items with what the version before has of each buffer, to be captured now for version `name` (local).

        `before`: this rank's part of the newest version; `table`: the new part's sources; `whole`: write everything.
        """
        if self._mode == "off":
            return list(items)
        known = {} if before is None else {o.name: o for o in before[0].objects}
        found = []
        for item in items:
            if all(memory.nbytes < OWN_UNIT for memory in item.buffers):  # always written: the way of many small objects
                found.append(item)
                continue
            stored = known.get(item.name)
            buffers = () if stored is None else stored.buffers if stored.tree is not None else stored.buffers[:-1]
            bases: list[Base | None] = []
            for i, memory in enumerate(item.buffers):
                if memory.nbytes < OWN_UNIT:
                    bases.append(None)
                    continue
                key = (item.name, i)
                # A range has one tracker in the kernel: what is write-protected at each capture can't be tracked besides.
                cow = bool(item.how) and item.how[i] == "cow"
                # Of a replicated object every rank digests all: that the values are the same is to be known, not believed.
                all_of_it = cow or (item.replicated and self._ranks > 1)
                dirty = None
                if all_of_it:
                    self._give_up(key, memory)
                else:
                    dirty = self._dirty(key, memory, name, before)
                base = None
                if before is not None and not whole and len(buffers) == len(item.buffers):
                    old = buffers[i]
                    more = 0 if dirty is None else int(dirty[:, 1].sum())
                    if old.nbytes == memory.nbytes and old.stored + more <= _AMPLIFIED * old.nbytes:
                        base = Base(adopt(table, *before, old), dirty)
                bases.append(base)
            found.append(item._replace(bases=bases))
        return found

    def _dirty(self, key: Key, memory: Any, name: str, before: tuple[Part, Link] | None) -> Any:
        """(start, bytes) of what may have changed since the version before was captured, if that is known."""
        tracker = self._tracker
        if tracker is None:
            return None
        runs = None
        last = self._at.pop(key, None)
        if last is not None and (runs := tracker.scan(memory, key)) is not None:
            self._at[key] = name
            if self._mode == "auto" and int(runs[:, 1].sum()) > _DENSE * memory.nbytes:
                tracker.forget(memory, key)
                del self._at[key]
        elif (self._mode == "pages" or self._sparse(key, memory)) and tracker.watch(memory, key):
            self._at[key] = name
        # What was asked for at the capture of a version that failed says nothing of the one before it.
        return runs if before is not None and last == before[1].name else None

    def _give_up(self, key: Key, memory: Any) -> None:
        if self._tracker is not None and self._at.pop(key, None) is not None:
            self._tracker.forget(memory, key)

    def _sparse(self, key: Key, memory: Any) -> bool:
        changed = self._sampler.look(key, memory)
        return changed is not None and changed <= _SPARSE

    def close(self) -> None:
        """Give back what the kernel holds (local)."""
        if self._tracker is not None:
            self._tracker.close()
            self._tracker = None
        self._at.clear()
