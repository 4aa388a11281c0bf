"""Versions of the nodes' places copied behind the program: to the run's own store, and to a second place.

One thread for each level on each rank, with a group of its own: a slow store does not hold up a disk of the node. What is
next is said by rank 0, so that all ranks do the same: the newest version that is due, also if others came before it; a store
that is slower than the checkpoints gets as many as it takes. A version that refers to others is copied after these.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from ...errors import FencedError, HoldfastError, RankError
from ...group import from_root, together
from .copier import Abandoned, ToPlace, ToStore
from .placed import Placed

log = logging.getLogger("holdfast")


class Keeper:
    """For one rank and one level, to which `copy` copies."""

    def __init__(self, copy: ToStore | ToPlace, timeout: float) -> None:
        self._copy, self._group, self._timeout = copy, copy.copier.group, timeout
        copy.copier.leaving = lambda: self._over
        self.level = copy.level
        self._waiting: list[Placed | None] = []  # None: the end
        self._changed = threading.Condition()
        self._busy: Placed | None = None
        self._thread: threading.Thread | None = None
        self._told: set[str] = set()
        self.broken = self._over = False

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
        if self._over or self.broken:
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
        """Begin nothing more, and give up what is being copied (by all ranks at one point of the program: they agree on it as
        on a version)."""
        with self._changed:
            if self._thread is None or self._over or self.broken:
                return
            self._over = True
            self._waiting.append(None)
            self._changed.notify_all()

    def abandon(self) -> None:
        """Begin nothing more (local). What is being copied ends when it next asks the others."""
        with self._changed:
            self.broken = True
            self._waiting.clear()
            self._changed.notify_all()

    # -- in the thread ----------------------------------------------------------------------------

    def _work(self) -> None:
        from ...engine.workers import step_back

        step_back()
        while True:
            with self._changed:
                while not self._waiting and not self.broken:
                    self._changed.wait(60.0)
                if self.broken:
                    return
            try:
                if not self._next():
                    return
            except HoldfastError as error:
                # Not of the work, which is told to all and gone on from, but of the agreement: the ranks are apart.
                if not self.broken:
                    self._tell("keeper", f"versions are not copied from the nodes any more: {error}")
                with self._changed:
                    self.broken = True
                    self._waiting.clear()
                    self._busy = None
                    self._changed.notify_all()
                return

    def _next(self) -> bool:
        """Copy the version that rank 0 says; False if that is the end."""
        name = from_root(self._group, "choosing the version to copy", self._decide)
        placed = self._busy if self._group.rank == 0 else self._taken(str(name))
        if not name:
            return False
        missing = f"rank {self._group.rank} has no version {name} to copy" if placed is None else ""
        if any(together(self._group, "copying a version", missing)) or placed is None:
            self._release()
            return True
        try:
            self._try(placed)
        finally:
            self._release()
        return True

    def _decide(self) -> str:
        """On rank 0: take what is next. What is taken can't be superseded any more."""
        with self._changed:
            while not self._waiting and not self.broken:  # superseded just now
                self._changed.wait(60.0)
            if self.broken:
                raise RankError("ranks were lost while versions were copied. Those that have been committed are intact.")
            self._busy = self._waiting.pop(0)
            return _name(self._busy)

    def _taken(self, name: str) -> Placed | None:
        """On another rank: the same; None if it did not come in time."""
        end = time.monotonic() + self._timeout
        with self._changed:
            while not (found := [p for p in self._waiting if _name(p) == name]):
                if time.monotonic() > end or self.broken:
                    return None
                self._changed.wait(0.1)
            self._waiting.remove(found[0])
            self._busy = found[0]
            return self._busy

    def _release(self) -> None:
        with self._changed:
            self._busy = None
            self._changed.notify_all()

    def _try(self, placed: Placed) -> None:
        try:
            self._copy(placed)
        except Abandoned:
            return
        except FencedError as error:  # the next version tells the program, if it is not that it has gone back itself
            log.debug("version %d is not copied to the level %s: %s", placed.commit.version, self.level, error.message)
            return
        except HoldfastError as error:
            text = f"version {placed.commit.version} is missing at the level {self.level}: {error.message}"
            self._tell(self.level, text)
            return
        self._told.discard(self.level)
        if self._group.rank == 0:
            log.info("version %d reached the level %s", placed.commit.version, self.level)

    def _tell(self, what: str, text: str) -> None:
        """One warning until it works again."""
        if self._group.rank == 0 and what not in self._told:
            log.warning("%s", text)
        self._told.add(what)


def _name(placed: Placed | None) -> str:
    return placed.link.name if placed is not None else ""


class Keepers:
    """Those of one rank, for as many levels as there are behind the first."""

    def __init__(self, each: Sequence[Keeper]) -> None:
        self.each = list(each)

    def supersede(self, levels: Sequence[str]) -> list[tuple[str, Placed]]:
        """See `Keeper.supersede`: of the levels at which another version is due."""
        return [(k.level, placed) for k in self.each if k.level in levels for placed in k.supersede()]

    def put_back(self, superseded: Sequence[tuple[str, Placed]]) -> None:
        """See `Keeper.put_back`."""
        for k in self.each:
            if found := [placed for level, placed in superseded if level == k.level]:
                k.put_back(found)

    def add(self, placed: Placed, superseded: Sequence[tuple[str, str]]) -> None:
        """See `Keeper.add`; `superseded`: levels and names."""
        for k in self.each:
            if k.level in placed.due:
                k.add(placed, [name for level, name in superseded if level == k.level])

    @property
    def pinned(self) -> list[str]:
        """Names of the versions that must stay at the place for now."""
        return [name for k in self.each for name in k.pinned]

    @property
    def idle(self) -> bool:
        return all(k.idle for k in self.each)

    def finish(self, seconds: float) -> bool:
        """See `Keeper.finish`."""
        end = time.monotonic() + seconds
        return all([k.finish(max(0.0, end - time.monotonic())) for k in self.each])

    def abandon(self) -> None:
        """See `Keeper.abandon`."""
        for k in self.each:
            k.abandon()

    def end(self) -> None:
        """See `Keeper.end`."""
        for k in self.each:
            k.end()
