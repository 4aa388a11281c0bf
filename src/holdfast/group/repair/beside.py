"""The crew's processes of this node, looked at as long as there is a crew: also while a run is opened and in a repair.

Health's board (`health/`) is there only while a run is open. Two things can't wait for it: a process that has left by itself,
which MPI is told of (`telling.py`), and one that stands still in state T while all others wait for it in a repair.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

LOOK_SECONDS = 0.1  # between two looks
STOPPED_SECONDS = 2.0  # of a process in state T, while it is waited for
WATCHERS = 2  # of a node, should one of them be stopped: the first that live


class Eyes(Protocol):
    """What can be known of a process of this node, by pid and start time, and done to it."""

    def is_dead(self, pid: int, start: int) -> bool:
        """Whether it is gone for certain."""

    def is_stopped(self, pid: int, start: int) -> bool:
        """Whether it is in state T, and not because the whole job is."""

    def end(self, pid: int, start: int) -> None:
        """SIGKILL."""


class Beside(NamedTuple):
    """A process of the crew on this node. `place`: in the crew; `world`: its rank in MPI.COMM_WORLD."""

    pid: int
    start: int
    place: int
    world: int


class Neighbours:
    """A thread that looks after those beside this process. `tell`: called with the rank in MPI.COMM_WORLD of one that is gone,
    once; `waits`: whether a repair is under way."""

    def __init__(self, eyes: Eyes, tell: Callable[[int], object], waits: Callable[[], bool]) -> None:
        self._eyes, self._tell, self._waits = eyes, tell, waits
        self._place, self._beside = -1, list[Beside]()
        self._told: set[int] = set()
        self._since: dict[int, float] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="holdfast-beside", daemon=True)
        self._thread.start()

    def watch(self, place: int, beside: Iterable[Beside]) -> None:
        """From now on these, in the order of their places; this process has `place`."""
        with self._lock:
            self._place, self._beside = place, list(beside)
            self._since.clear()

    def look(self) -> None:
        """At once, also by another thread: who is gone has been told of when this returns."""
        with self._lock:
            before = 0
            for one in self._beside:
                dead = self._eyes.is_dead(one.pid, one.start)
                before += not dead and one.place < self._place
                if before >= WATCHERS:
                    return
                if dead and one.world not in self._told:
                    self._told.add(one.world)
                    self._tell(one.world)
                elif not dead:
                    self._end_if_stopped(one)

    def close(self) -> None:
        """Nobody is looked at any more."""
        self._over.set()
        if self._thread is not threading.current_thread():
            self._thread.join(2.0)

    # -- inside -----------------------------------------------------------------------------

    def _end_if_stopped(self, one: Beside) -> None:
        if not self._waits() or not self._eyes.is_stopped(one.pid, one.start):
            self._since.pop(one.world, None)
        elif time.monotonic() - self._since.setdefault(one.world, time.monotonic()) > STOPPED_SECONDS:
            self._eyes.end(one.pid, one.start)

    def _run(self) -> None:
        last = time.monotonic()
        while not self._over.wait(LOOK_SECONDS):
            if time.monotonic() - last > STOPPED_SECONDS / 2:  # this process has slept, with the others perhaps
                with self._lock:
                    self._since.clear()
            last = time.monotonic()
            self.look()
