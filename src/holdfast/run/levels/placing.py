"""Versions written to the nodes' places: which, what protects them there, what goes on from there, what is deleted.

All that ranks must do alike is told by rank 0 with the version's commit, or has been agreed on with the version before.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any

from ...catalog import Commit
from ...catalog.places import Held
from ...engine import Here, Published, publish_at
from ...errors import CheckpointError, HoldfastError, StorageError
from ...format import Part, parse_version
from ...group import Group, together
from ...levels import Level
from ...store import Store
from ...units import bytes_text
from .ahead import Ahead
from .keeper import Keepers
from .ladder import Ladder
from .placed import Placed
from .retaining import retain

log = logging.getLogger("holdfast")

_HEADROOM = 1.1  # times what the last version took must be there for the next one
_DIRECT = ("final", "signal", "request", "rollback")  # versions for which somebody waits: in the run's own store at once
_PAUSE = 64  # versions at most that go by a place that has failed again and again, before it is tried anew
_OURS = {"DeadlineError", "RankError"}  # ranks that do not answer: no failure of a place


class Placing:
    """For one rank's execution. `ready`: whether the place took the last version and has room for the next; alike on all
    ranks. `open`: until the program leaves. `lineage`: names of the versions that count, newest first. `ahead`: what the next
    version is captured into."""

    def __init__(self, ladder: Ladder, store: Store, background: Group, keeper: Keepers | None, attempt: int) -> None:
        self.ladder, self.store, self.keeper, self.attempt = ladder, store, keeper, attempt
        self._group = background
        self.ready = self.open = True
        self.lineage: list[str] = []
        self._protected = ""  # the newest version that has its parity
        self._told: set[str] = set()
        self._last: dict[str, tuple[int, int | None, float]] = {}  # by level: versions, step and time of the last one
        self._made = 0
        self._failures = self._pause = 0  # of the place, one after the other; versions that go by it
        self._superseded: list[tuple[str, Placed]] = []  # on rank 0, by the version that is being committed
        rank = background.rank
        self.ahead = Ahead(ladder.place, rank)
        self._here = Here(ladder.place, ladder.leads, ladder.nodes.domains[rank], os.geteuid())

    def wants(self, reason: str, waits: bool) -> bool:
        """Whether a version goes to the places (alike on all ranks)."""
        return self.ladder.first is not None and self.open and self.ready and not waits and reason not in _DIRECT

    # -- in the version's flight (collective) --------------------------------------------------------

    def publish(self, draft: Commit, write: Callable[[str], Part], since: float | None) -> Published:
        """Commit the version at the places; then protect it there. Raises as `publish_at`."""
        place, rank = self.ladder.place, self._group.rank
        began = time.perf_counter()
        sealing: list[str] = []
        self._superseded = []  # those of the version before are gone on all ranks, and are not put back should this one fail
        try:
            done = publish_at(
                self._here, self.store, self._group, draft, write, since, self.room, self._due,
                lambda: sealing.append(draft.name),
            )  # fmt: skip
        except BaseException as failed:
            if self.keeper is not None and self._superseded:
                self.keeper.put_back(self._superseded)
            if not isinstance(failed, (CheckpointError, StorageError)):
                raise
            if sealing:
                # Some node may have its commit: then it is whole, and another start may go on from it. It goes as an older one.
                self.lineage.insert(0, draft.name)
                raise
            try:
                place.forget(draft.name, rank)
                if self.ladder.leads:
                    place.remove(draft.name)
            except HoldfastError as error:
                log.debug("what there is of version %d at the place was not removed: %s", draft.version, error.message)
            raise
        self.ready, self._failures = done.room, 0
        if not done.room:
            self._warn("room", f"the level {self._name} has no room for the next version, which goes to the run's own store")
        else:
            self._told -= {"room", "place"}
        self.lineage.insert(0, done.link.name)
        due = tuple(map(str, done.told[0]))
        superseded = [(str(level), str(name)) for level, name in done.told[1]]
        took = time.perf_counter() - began
        if rank == 0:
            log.info(
                "checkpoint %d at the level %s: step %s, %s in %.3g s",
                draft.version, self._name, draft.step, bytes_text(done.commit.nbytes), took,
            )  # fmt: skip
        if self.keeper is not None:
            further = tuple(level for level in due if level != "rs")
            self.keeper.add(Placed(done.commit, done.link, done.record, further), superseded)
        if "rs" not in due or self._protect(draft):
            self._protected = done.link.name if "rs" in due or not self.ladder.sets else self._protected
            self._retain()
        return done

    @property
    def _name(self) -> str:
        return self.ladder.first.name if self.ladder.first is not None else "global"

    def room(self, nbytes: int) -> bool:
        """Whether this node has room for another version like this one, once what is older has gone."""
        if self.ladder.first is None:
            return True
        place = self.ladder.place
        ranks = self.ladder.nodes.together_with(self._group.rank)
        m, n = (self.ladder.redundancy.m, min(map(len, self.ladder.sets))) if self.ladder.redundancy else (0, 2)
        need = _HEADROOM * nbytes * ranks * (1 + m / (n - m))
        pinned = set(self.keeper.pinned if self.keeper is not None else ())
        try:
            old = [name for name in place.versions() if name not in pinned and name in self.lineage]
            going = sum(size for name in old for _, size in place.store.tree(f"versions/{name}"))
            return place.free_bytes() + going >= need
        except HoldfastError:
            return False

    def _due(self, commit: Commit) -> list[list[Any]]:
        """On rank 0: the levels behind the first that this version is to reach, and the versions that are not copied for it."""
        self._made += 1
        found = []
        for level in (self.ladder.second, self.ladder.redundancy, self.ladder.stored):
            if level is not None and self._is_due(level, commit):
                found.append(level.kind)
                self._last[level.kind] = self._made, commit.step, time.monotonic()
        if self.keeper is not None:
            self._superseded = self.keeper.supersede(found)
        return [found, [[level, placed.link.name] for level, placed in self._superseded]]

    def _is_due(self, level: Level, commit: Commit) -> bool:
        every = level.every
        if every is None or (every.versions is None and every.steps is None and every.seconds is None):
            return True
        made, step, at = self._last.get(level.kind, (0, 0, float("-inf")))
        if every.versions is not None and self._made - made >= every.versions:
            return True
        if every.steps is not None and (commit.step is None or commit.step - (step or 0) >= every.steps):
            return True
        return every.seconds is not None and time.monotonic() - at >= every.seconds

    def _protect(self, draft: Commit) -> bool:
        """Compute and keep the parities of a version; whether all ranks have."""
        from ...catalog.places.held import Member
        from ...recovery import protect

        group, ladder = self._group, self.ladder
        assert ladder.redundancy is not None
        error: Exception | None = None
        held: Held | None = None
        try:
            held = ladder.place.read_held(draft.name, group.rank)
        except HoldfastError as failed:
            error = failed
        try:
            mine = [held.data_bytes, held.part_bytes, held.part_digest] if held else []
            told = together(group, f"protecting version {draft.version}", mine, error)
            sizes = {r: Member(r, *one) for r, one in enumerate(told) if isinstance(one, list)}
            assert held is not None
            try:
                protect(
                    ladder.channel(), ladder.place, [held], ladder.sets, ladder.redundancy.m, range(group.size), sizes,
                    ladder.timeout,
                )  # fmt: skip
            except Exception as failed:
                log.debug("parity of version %d", draft.version, exc_info=True)
                error = failed
            together(group, f"parity of version {draft.version}", error=error)
        except HoldfastError as failed:
            ladder.drop_channel()
            name = ladder.redundancy.name
            self._warn("rs", f"version {draft.version} is missing at the level {name}: {failed.message}")
            return False
        self._told.discard("rs")
        return True

    def _retain(self) -> None:
        """Delete what is superfluous at this node's place (by one rank of a node)."""
        if not self.ladder.leads or self.ladder.first is None:
            return
        pinned = self.keeper.pinned if self.keeper is not None else []
        needed = {*pinned, self._protected}
        retain(self.ladder.place, self.store, self.attempt, self.lineage, self.ladder.first.keep, needed)

    def retain_second(self) -> None:
        """The same at the second place, in the keeper's thread."""
        if self.ladder.leads and self.ladder.second is not None:
            place = self.ladder.places[self.ladder.second.kind]
            retain(place, self.store, self.attempt, list(self.lineage), self.ladder.second.keep, ())

    # -- what became of it (alike on all ranks) --------------------------------------------------------

    def failed(self, name: str, error: HoldfastError) -> bool:
        """Whether a version failed for its place alone: the program goes on, and the next one goes to the run's own store."""
        if not isinstance(error, CheckpointError) or any(cause.type in _OURS for cause in error.causes):
            return False
        self.ready = False
        self._failures += 1
        self._pause = min(1 << (self._failures - 1), _PAUSE)
        version = (parse_version(name) or (0, 0))[0]
        self._warn("place", f"version {version} is missing at the level {self._name}: {error.message}")
        return True

    def stored(self, done: Published) -> None:
        """A version went to the run's own store directly."""
        self.lineage.insert(0, done.link.name)
        self._pause = max(0, self._pause - 1)
        self.ready = done.room and not self._pause

    def _warn(self, what: str, text: str) -> None:
        """One warning until it works again."""
        if self._group.rank == 0 and what not in self._told:
            log.warning("%s", text)
        self._told.add(what)

    def abandon(self) -> None:
        """Ranks are lost: nothing comes to a place or is copied any more (local)."""
        self.open = False
        self.ahead.close_later()
        if self.keeper is not None:
            self.keeper.abandon()

    def end(self, seconds: float) -> None:
        """The program leaves: no version comes to a place any more, and none is copied (by all ranks)."""
        self.open = False
        self.ahead.close()
        if self.keeper is not None:
            self.keeper.end()
            self.keeper.finish(seconds)
