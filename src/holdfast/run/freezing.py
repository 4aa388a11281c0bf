"""What of a rank's state a version takes, and what it is captured into: an arena, or a file in the node's memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..config import Options
from ..engine import Item, Plan, Writing
from ..format import Link, Part, StoredFile
from ..format.blocks import round_up
from ..format.layers import SourceTable
from ..store import Store
from .capturing import Capturing
from .tracking import Tracking

if TYPE_CHECKING:
    from .levels.placing import Placing


class Freezing:
    """For one rank's run, one of `ranks` (local). `placing`, here and there: where a version goes if that is a node's place."""

    def __init__(self, store: Store, rank: int, ranks: int, options: Options) -> None:
        self._rank, self._ranks, self._options = rank, ranks, options
        self.capturing = Capturing(store, options)
        self._tracking: Tracking | None = None
        # Bytes of data that the last version takes if all that it captured is kept, and if it referred to no other.
        self._most = self._whole = 0

    def plan(
        self,
        name: str,
        items: Sequence[Item],
        files: Sequence[StoredFile],
        before: tuple[Part, Link] | None,
        whole: bool,
        placing: Placing | None,
    ) -> Plan:
        """What version `name` is made of. `before`: this rank's part of the newest one; `whole`: write everything."""
        if self._tracking is None:
            self._tracking = Tracking(self._options.incremental, self._ranks)
        sources = SourceTable()
        items = self.capturing.choose(items, placing is not None and placing.ahead.possible)
        items = self._tracking.bases(items, name, before, sources, whole)
        plan = Plan(self._rank, items, files, sources, self._ranks)
        self._most, self._whole = plan.most, plan.whole
        return plan

    def capture(self, plan: Plan, key: str, placing: Placing | None) -> tuple[Writing, float]:
        """Capture what the plan says, for the data file `key`; the seconds that the program waited for room. It may go on when
        this returns."""
        if placing is not None and self.capturing.fits_in_place(plan):
            file = placing.ahead.take(plan.most)
            if file is not None:
                return self.capturing.in_place(file, key, plan), 0.0
        writing = self.capturing.writing(key, plan, placing.ladder.place.store if placing is not None else None)
        try:
            return writing, self.capturing.freeze(plan, writing)
        except BaseException:
            writing.abort()
            raise

    def prepare(self, items: Sequence[Item], placing: Placing | None) -> None:
        """Make ready, beside the program, to capture these objects for the first time."""
        placed = placing is not None and placing.wants("policy", False) and self.capturing.may_be_in_place
        if placed and placing is not None and placing.ahead.possible:
            placing.ahead.prepare_beside(sum(round_up(b.nbytes) for item in items for b in item.buffers))
        else:
            self.capturing.prepare(items)

    def look_ahead(self, placing: Placing, whole: bool) -> None:
        """Have room made in the node's memory, beside the program, for the next version, `whole` or as large as the last."""
        if self.capturing.may_be_in_place:
            placing.ahead.prepare_beside(self._whole if whole else min(self._whole, self._most + self._most // 4))

    def abandon(self) -> None:
        """Give back what the program's memory is bound to; what is in flight still has the rest."""
        if self._tracking is not None:
            self._tracking.close()

    def close(self) -> None:
        """Give everything back. Only while nothing is in flight."""
        self.capturing.close()
        if self._tracking is not None:
            self._tracking.close()


__all__ = ["Freezing"]
