"""The levels of one execution put together: what there was on the nodes, and where the next versions go."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ...catalog import Commit
from ...config import Options
from ...engine import Here
from ...errors import HoldfastError
from ...group import Group, make_background
from ...levels import Level
from ...store import Store
from .ladder import Ladder, Root
from .ladder import climb as climb_ladder
from .nodes import fence_here, memory_root
from .recover import Recovery
from .sweeping import sweep_places
from .view import View, as_store

if TYPE_CHECKING:
    from ..checkpoint import Writer
    from .placing import Placing


log = logging.getLogger("holdfast")


class Levels:
    """For one rank's execution. `store`: what versions are read from; `recovery`: brings together what nodes hold."""

    def __init__(self, ladder: Ladder, store: Store, run_id: str, options: Options) -> None:
        self.ladder, self.options = ladder, options
        self.view = View(store, ladder.places)
        self.recovery = Recovery(ladder, self.view, run_id, ladder.nodes.domains[ladder.group.rank])
        self.placing: Placing | None = None
        self.ended = False

    @property
    def store(self) -> Store:
        return as_store(self.view)

    @property
    def roots(self) -> list[Root]:
        """The places, for the attempt's record: those that come after look there. "" is a node's memory, wherever that is."""
        found = []
        for kind, place in self.ladder.places.items():
            found.append((kind, "" if kind == "memory" and place.root == memory_root() else place.root))
        return found

    def look(self) -> None:
        """See what is on the nodes now (collective)."""
        self.recovery.look()

    def fence(self, attempt: int, sweep: bool = False) -> None:
        """Say at the places of all nodes whose they are now, and see what is there then (collective). StorageError. `sweep`:
        remove what earlier executions left there of versions to come.

        A node is looked at by the rank that has put its fence: what is found there comes after that."""
        error: Exception | None = None
        places = self.ladder.places.values()
        try:
            fence_here(places, self.ladder.leads, attempt)
            if sweep:
                sweep_places(places, self.ladder.leads, beside=True)
        except Exception as failed:
            error = failed
        self.recovery.look(error)

    def begin(self, writer: Writer) -> None:
        """Have the versions of `writer` go to the levels (collective)."""
        from .copier import Copier, ToPlace, ToStore
        from .keeper import Keeper, Keepers
        from .placing import Placing

        ladder = self.ladder
        writer.reading = self.store
        if ladder.first is None:
            return
        if writer.background is None:
            ladder.switch_off("versions can't be protected and copied beside the program here")
            return
        keepers: list[Keeper] = []
        if ladder.second is not None and (group := make_background(ladder.group, ladder.timeout)) is not None:
            domain = ladder.nodes.domains[group.rank]
            here = Here(ladder.places[ladder.second.kind], ladder.leads, domain, os.geteuid())
            keepers.append(Keeper(ToPlace(Copier(ladder.place, group), here, self._retain_second), ladder.timeout))
        if ladder.stored is not None and (group := make_background(ladder.group, ladder.timeout)) is not None:
            copier = Copier(ladder.place, group, ladder.stored.limit)

            def after(names: Sequence[str]) -> None:
                writer.tidying.after(writer.attempt, *names)

            keepers.append(Keeper(ToStore(copier, writer.store, after), ladder.timeout))
        keeper = Keepers(keepers) if keepers else None
        self.placing = writer.levels = Placing(ladder, writer.store, writer.background, keeper, writer.attempt)

    def _retain_second(self) -> None:
        if self.placing is not None:
            self.placing.retain_second()

    @property
    def pinned(self) -> list[str]:
        """Names of the versions that are being copied, or are to be (local)."""
        return self.placing.keeper.pinned if self.placing is not None and self.placing.keeper is not None else []

    def account(self, commit: Commit, told: Sequence[Mapping[str, int]]) -> tuple[tuple[str, ...], tuple[tuple[str, int], ...]]:
        """For `Restored`: each rank's source of the version, and what all ranks have read, of which each has `told` (local)."""
        total = dict.fromkeys(("memory", "local", "global"), 0)
        for counts in told:
            for where, nbytes in counts.items():
                total[str(where)] += int(nbytes)
        stored = ["the run's own store"] * commit.ranks
        return tuple(self.recovery.sources.get(commit.name, stored)), tuple(total.items())

    def no_room(self, sizes: Sequence[int]) -> str:
        """Why this node's memory has no room for versions of ranks' states of `sizes` bytes; "" where it has, or where none go
        there (local)."""
        if self.placing is None or self.ladder.first is None or self.ladder.first.kind != "memory":
            return ""
        from ...capture.room import default_memory

        ladder = self.ladder
        share = ladder.redundancy.m / (min(map(len, ladder.sets)) - ladder.redundancy.m) if ladder.redundancy else 0.0
        node = ladder.nodes.of[ladder.group.rank]
        state = sum(n for r, n in enumerate(sizes) if ladder.nodes.of[r] == node)
        try:
            held = sum(size for _, size in ladder.place.store.tree("versions"))
            room, why = default_memory(state, ladder.place.root, parity=share, held=held)
        except HoldfastError as error:
            return error.message
        return "" if room else why

    def settle(self, lineage: Sequence[str], attempt: int, no_room: Sequence[str]) -> None:
        """What the execution goes on from is settled: `lineage` newest first. `no_room`: why, on ranks that have said so (by
        all alike)."""
        if self.placing is None or self.ladder.first is None:
            return
        self.placing.lineage, self.placing.attempt = list(lineage), attempt
        if no_room and self.ladder.chosen:
            self.placing.ready = False
            self.ladder.switch_off(str(no_room[0]))

    def end(self, complete: bool) -> None:
        """The program leaves, in good order (by all ranks at one point of the program); again is fine. What comes after goes to
        the run's own store: a place that was removed is not begun anew."""
        if self.ended:
            return
        self.ended = True
        if self.placing is not None:
            self.placing.end(2 * self.ladder.timeout)
        if complete and self.ladder.leads:
            self._remove()

    def _remove(self) -> None:
        """The run is complete: this node's places go, also those that were only read from."""
        from ...catalog.places import StalePlace, clean

        for place in self.ladder.places.values():
            try:
                clean([StalePlace(place.store.location, place.run, place.identity, 0, "its run is complete")])
            except HoldfastError as error:
                log.debug("%s was not removed: %s", place.store.location, error.message)

    def drain(self, seconds: float) -> None:
        """The program leaves: what is being copied may arrive (local)."""
        if self.placing is not None and self.placing.keeper is not None:
            self.placing.keeper.finish(seconds)


def climb(
    group: Group,
    store: Store | None,
    options: Options,
    run_id: str,
    where: str,
    known: list[Root],
    error: Exception | None = None,
) -> Levels | None:
    """The levels of an execution, and a first look at what nodes hold (collective); None if there is nothing but the run's own
    store, now and before. `error`: why there is no `store` on this rank, which is raised on all. ConfigError: what is asked for
    can't be; StorageError: a place can't be made."""
    wanted: tuple[Level, ...] | None = options.levels
    ladder = climb_ladder(group, wanted, run_id, where, known, options.timeout, error)
    if ladder is None:
        return None
    assert store is not None
    levels = Levels(ladder, store, run_id, options)
    levels.look()
    return levels


__all__ = ["Levels", "climb"]
