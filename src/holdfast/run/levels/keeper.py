"""Versions of the nodes' places copied behind the program: to the run's own store, and to a second place.

One thread for each rank, with a group of its own. What is next is said by rank 0, so that all ranks do the same: the newest
version that is due, also if others came before it; a store that is slower than the checkpoints gets as many as it takes. A
version that refers to others is copied after these.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from ...catalog import Commit
from ...catalog.places import Place
from ...engine import Here, publish, put_held
from ...errors import FencedError, HoldfastError
from ...format import Link, Part
from ...format.keys import COMMIT_NAME
from ...group import Group, from_root, together
from ...store import Store
from .copying import copy_data, own_part

log = logging.getLogger("holdfast")

_SLICE = 0.5  # seconds of copying between two words to the others


class Placed(NamedTuple):
    """A version at the nodes' places, on its way further. `record`: its commit's file; `due`: names of the levels it is to
    reach."""

    commit: Commit
    link: Link
    record: bytes
    due: tuple[str, ...]


class Keeper:
    """For one rank. `after(names)`: called on rank 0 when a version, and what it refers to, have reached the run's own store;
    `second`: where the local level's copies go, None if there is none behind the first."""

    def __init__(
        self,
        store: Store,
        place: Place,
        group: Group,
        limit: int | None,
        second: Here | None,
        timeout: float,
        after: Callable[[Sequence[str]], None],
    ) -> None:
        self._store, self._place, self._group, self._limit = store, place, group, limit
        self._second, self._timeout, self._after = second, timeout, after
        self._waiting: list[Placed | None] = []  # None: the end
        self._changed = threading.Condition()
        self._busy: Placed | None = None
        self._thread: threading.Thread | None = None
        self._told: set[str] = set()
        self.broken = self._over = False
        self.retain: Callable[[], None] = lambda: None  # called when a version has reached the second place
        self.reached: dict[str, str] = {}  # the newest version at each level, by the level's name

    # -- what there is to do (local) ----------------------------------------------------------------

    def supersede(self) -> list[Placed]:
        """On rank 0: what waits is not taken any more, since another version is due; `put_back` if that fails."""
        with self._changed:
            found = [p for p in self._waiting if p is not None]
            self._waiting = [p for p in self._waiting if p is None]
            return found

    def put_back(self, superseded: list[Placed]) -> None:
        """On rank 0."""
        with self._changed:
            self._waiting = [*superseded, *self._waiting]
            self._changed.notify_all()

    def add(self, placed: Placed, superseded: Sequence[str] = ()) -> None:
        """A version has been committed at the places, and those by the names `superseded` are not copied; on all ranks
        alike. So no place has to keep more than what is being copied, what is next, and what comes in."""
        if not placed.due or self._over or self.broken:
            return
        with self._changed:
            self._waiting = [p for p in self._waiting if p is None or p.link.name not in superseded]
            self._waiting.append(placed)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="holdfast-keeper", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    @property
    def pinned(self) -> list[str]:
        """Names of the versions that must stay at the place for now."""
        with self._changed:
            return [p.link.name for p in (*self._waiting, self._busy) if p is not None]

    @property
    def idle(self) -> bool:
        with self._changed:
            return not self._waiting and self._busy is None

    def finish(self, seconds: float) -> bool:
        """Wait until nothing is left to do, at most so long; whether that is so."""
        end = time.monotonic() + seconds
        with self._changed:
            while (self._waiting or self._busy is not None) and not self.broken:
                rest = end - time.monotonic()
                if rest <= 0:
                    return False
                self._changed.wait(min(rest, 1.0))
        return True

    def end(self) -> None:
        """Begin nothing more (by all ranks at one point of the program: they agree on it as on a version)."""
        with self._changed:
            if self._thread is None or self._over or self.broken:
                return
            self._over = True
            self._waiting.append(None)
            self._changed.notify_all()

    # -- in the thread ----------------------------------------------------------------------------

    def _work(self) -> None:
        from ...engine.workers import step_back

        step_back()
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait(60.0)
            try:
                if not self._next():
                    return
            except HoldfastError as error:
                # Not of the work, which is told to all and gone on from, but of the agreement: the ranks are apart.
                self._tell("keeper", f"versions are not copied from the nodes any more: {error}")
                with self._changed:
                    self.broken = True
                    self._waiting.clear()
                    self._busy = None
                    self._changed.notify_all()
                return

    def _next(self) -> bool:
        """Copy the version that rank 0 says; False if that is the end."""
        name = from_root(self._group, "copying a version", self._decide)
        placed = self._busy if self._group.rank == 0 else self._taken(str(name))
        if not name:
            return False
        missing = f"rank {self._group.rank} has no version {name} to copy" if placed is None else ""
        if any(together(self._group, "copying a version", missing)) or placed is None:
            self._release()
            return True
        try:
            for level, copy in (("local", self._to_second), ("global", self._to_store)):
                if level in placed.due:
                    self._try(level, placed, copy)
        finally:
            self._release()
        return True

    def _decide(self) -> str:
        """On rank 0: take what is next. What is taken can't be superseded any more."""
        with self._changed:
            while not self._waiting:  # superseded just now
                self._changed.wait(60.0)
            self._busy = self._waiting.pop(0)
            return _name(self._busy)

    def _taken(self, name: str) -> Placed | None:
        """On another rank: the same; None if it did not come in time."""
        end = time.monotonic() + self._timeout
        with self._changed:
            while not (found := [p for p in self._waiting if _name(p) == name]):
                if time.monotonic() > end:
                    return None
                self._changed.wait(0.1)
            self._waiting.remove(found[0])
            self._busy = found[0]
            return self._busy

    def _release(self) -> None:
        with self._changed:
            self._busy = None
            self._changed.notify_all()

    def _try(self, level: str, placed: Placed, copy: Callable[[Placed], None]) -> None:
        try:
            copy(placed)
        except FencedError as error:  # the next version tells the program, if it is not that it has gone back itself
            log.debug("version %d is not copied to the level %s: %s", placed.commit.version, level, error.message)
            return
        except HoldfastError as error:
            self._tell(level, f"version {placed.commit.version} is missing at the level {level}: {error.message}")
            return
        self._told.discard(level)
        self.reached[level] = placed.link.name
        if self._group.rank == 0:
            log.info("version %d reached the level %s", placed.commit.version, level)

    def _tell(self, what: str, text: str) -> None:
        """One warning until it works again."""
        if self._group.rank == 0 and what not in self._told:
            log.warning("%s", text)
        self._told.add(what)

    # -- copying (collective) ----------------------------------------------------------------------

    def _to_store(self, placed: Placed) -> None:
        for link in reversed(placed.commit.refs):  # oldest first
            self._flush(self._commit_of(link), link)
        self._flush(placed.commit, placed.link)
        if self._group.rank == 0:
            self._after([placed.link.name, *(link.name for link in placed.commit.refs)])

    def _commit_of(self, link: Link) -> Commit:
        from ...catalog import read_linked

        return read_linked(self._place.store, link)

    def _flush(self, commit: Commit, link: Link) -> None:
        def there() -> bool:
            return self._store.exists(f"{commit.path}/{COMMIT_NAME}")

        if from_root(self._group, f"looking for version {commit.version}", there):
            return

        def clear() -> bool:  # what an earlier try has left
            self._store.delete_tree(commit.path)
            return True

        from_root(self._group, f"making room for version {commit.version}", clear)
        part = self._copy(commit, self._store)
        assert part is not None
        found = part
        publish(self._store, self._group, commit, lambda _: found, sealed=link)

    def _to_second(self, placed: Placed) -> None:
        assert self._second is not None
        here = self._second
        for link in (*reversed(placed.commit.refs), placed.link):
            commit = placed.commit if link == placed.link else self._commit_of(link)
            rank = self._group.rank
            error: Exception | None = None
            try:
                there = rank in here.place.ranks(commit.name)
                if not there:
                    here.place.forget(commit.name, rank)
            except HoldfastError as failed:
                there, error = False, failed
            together(self._group, f"copying version {commit.version}", error=error)
            part = self._copy(commit, None if there else here.place.store)
            try:
                if part is not None:
                    put_held(here, commit, self._group, part)
            except HoldfastError as failed:
                error = failed
            together(self._group, f"copying version {commit.version}", error=error)
            error = None
            try:
                if here.leads:
                    record = placed.record if link == placed.link else self._place.read_commit(commit.name) or b""
                    here.place.put_commit(commit.name, record)
            except Exception as failed:
                error = failed
            together(self._group, f"committing version {commit.version}", error=error)
        with suppress(FencedError):
            self.retain()

    def _copy(self, commit: Commit, to: Store | None) -> Part | None:
        """Copy this rank's data file (None: it is there) and return its index (collective).

        The ranks have a word with each other after each slice of time, so that no deadline depends on how long it takes."""
        part: Part | None = None
        steps: Iterator[int] = iter(())
        began, copied, over = time.monotonic(), 0, to is None
        try:
            while True:
                error: Exception | None = None
                try:
                    if part is None and to is not None:
                        part = own_part(self._place, commit.name, self._group.rank)
                        steps = copy_data(self._place, commit, part, to)
                    until = time.monotonic() + _SLICE
                    while not over and (now := time.monotonic()) < until:
                        ahead = self._ahead(copied, now - began)
                        if ahead > 0:
                            time.sleep(min(ahead, until - now))
                            continue
                        step = next(steps, None)
                        copied, over = (copied, True) if step is None else (step, False)
                except Exception as failed:
                    error = failed
                if all(together(self._group, f"copying version {commit.version}", over, error)):
                    return part
        finally:
            if isinstance(steps, Generator):
                steps.close()  # and with it its files

    def _ahead(self, copied: int, seconds: float) -> float:
        """Seconds that this rank is ahead of the limit, which is of all together: they are about as far."""
        return 0.0 if self._limit is None else copied * self._group.size / self._limit - seconds


def _name(placed: Placed | None) -> str:
    return placed.link.name if placed is not None else ""
