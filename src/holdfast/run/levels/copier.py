"""A version of the nodes' places copied to another level: to the run's own store, or to a second place (collective)."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress

from ...catalog import Commit, check_fence, read_linked
from ...catalog.incoming import has_arrived, new_incoming
from ...catalog.places import Place
from ...engine import Here, publish, put_held
from ...errors import FencedError, HoldfastError, StorageError
from ...format import Link, Part
from ...group import Group, from_root, together
from ...store import Store
from .aside import Aside
from .copying import copy_data, own_part
from .placed import Placed

_SLICE = 0.5  # seconds of copying between two words to the others


class Abandoned(HoldfastError):
    """The program leaves, and what was being copied is of no use to it any more."""


class Copier:
    """From the first place, on one rank. `group`: of the thread that copies; `limit`: bytes per second that all ranks
    together write, None for none. `leaving`: whether what is being copied is to be given up, also by all others."""

    def __init__(self, place: Place, group: Group, limit: int | None = None) -> None:
        self.place, self.group, self.limit = place, group, limit
        self.leaving: Callable[[], bool] = lambda: False

    def commit_of(self, link: Link) -> Commit:
        """The commit of a version that another one refers to."""
        return read_linked(self.place.store, link)

    def copy(self, commit: Commit, to: Store | None) -> Part | None:
        """Copy this rank's data file (None: it is there) and return its index (collective). Abandoned, on all ranks alike.

        The ranks have a word with each other after each slice of time, so that no deadline depends on how long it takes."""
        what = f"copying version {commit.version}"
        part: Part | None = None
        steps: Iterator[int] = iter(())
        began, copied, over = time.monotonic(), 0, to is None
        try:
            while True:
                error: Exception | None = None
                try:
                    if part is None and to is not None:
                        part = own_part(self.place, commit.name, self.group.rank)
                        steps = copy_data(self.place, commit, part, to)
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
                told = together(self.group, what, [over, self.leaving()], error)
                if all(isinstance(one, list) and one[0] for one in told):
                    return part
                if any(isinstance(one, list) and one[1] for one in told):
                    raise Abandoned(f"Version {commit.version} is not copied any further; the program leaves.")
        finally:
            if isinstance(steps, Generator):
                steps.close()  # and with it its files

    def _ahead(self, copied: int, seconds: float) -> float:
        """Seconds that this rank is ahead of the limit, which is of all together: they are about as far."""
        return 0.0 if self.limit is None else copied * self.group.size / self.limit - seconds


class ToStore:
    """To the run's own store, after those that a version refers to. `after(names)`: called on rank 0 with what has arrived."""

    level = "global"

    def __init__(self, copier: Copier, store: Store, after: Callable[[Sequence[str]], None]) -> None:
        self.copier, self._store, self._after = copier, store, after
        self._left: list[Aside] = []  # on rank 0: copies that were given up and could not be removed then

    def __call__(self, placed: Placed) -> None:
        for link in reversed(placed.commit.refs):  # oldest first
            self._flush(self.copier.commit_of(link), link)
        self._flush(placed.commit, placed.link)
        if self.copier.group.rank == 0:
            self._after([placed.link.name, *(link.name for link in placed.commit.refs)])

    def _flush(self, commit: Commit, link: Link) -> None:
        group = self.copier.group

        def look() -> str:
            """Where to copy to; "": it is there."""
            self._left = [aside for aside in self._left if not aside.drop()]
            return "" if has_arrived(self._store, link) else new_incoming(commit.attempt)

        incoming = from_root(group, f"looking for version {commit.version}", look)
        if not incoming:
            return
        aside = Aside(self._store, commit, str(incoming))
        try:
            part = self.copier.copy(commit, aside.store)
            assert part is not None
            found = part
            publish(aside.store, group, commit, lambda _: found, sealed=link)
            from_root(group, f"naming version {commit.version}", lambda: aside.arrive(link, commit.attempt))
        except BaseException:
            if group.rank == 0:
                if not aside.drop():
                    self._left.append(aside)
                with suppress(StorageError):
                    check_fence(self._store, commit.attempt)  # a later attempt moves away what is aside: that is the cause then
            raise


class ToPlace:
    """To a second place of each node. `after()`: called on each rank when a version has arrived."""

    level = "local"

    def __init__(self, copier: Copier, here: Here, after: Callable[[], None]) -> None:
        self.copier, self._here, self._after = copier, here, after

    def __call__(self, placed: Placed) -> None:
        for link in reversed(placed.commit.refs):
            self._bring(self.copier.commit_of(link), None)
        self._bring(placed.commit, placed.record)
        with suppress(FencedError):
            self._after()

    def _bring(self, commit: Commit, record: bytes | None) -> None:
        here, group, what = self._here, self.copier.group, f"copying version {commit.version}"
        there = False

        def look() -> None:
            nonlocal there
            there = group.rank in here.place.ranks(commit.name)
            if not there:
                here.place.forget(commit.name, group.rank)

        def prove() -> None:
            if part is not None:
                put_held(here, commit, group, part)

        def put() -> None:
            if here.leads:
                here.place.put_commit(commit.name, record or self.copier.place.read_commit(commit.name) or b"")

        self._all(f"{what}: what is there", look)
        part = self.copier.copy(commit, None if there else here.place.store)
        self._all(f"{what}: its proof", prove)
        self._all(f"{what}: its commit", put)

    def _all(self, what: str, work: Callable[[], None]) -> None:
        """`work` on all ranks; what one has met, all raise."""
        error: Exception | None = None
        try:
            work()
        except Exception as failed:
            error = failed
        together(self.copier.group, what, error=error)
