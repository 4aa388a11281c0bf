"""The crew's processes of this node, looked at as long as there is a crew: also while a run is opened and in a repair.

Health's board (`health/`) is there only while a run is open. Two things can't wait for it: a process that is gone, which MPI
is told of (`telling.py`), and one that stands still in state T while all others wait for it in a repair.

The launcher tells of a process that a signal has ended, too, and never of one that left by itself. So the kernel is asked to
wake this thread when a process ends (a descriptor of it, pidfd_open(2)); where it can't do that, the thread looks every
LOOK_SECONDS.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Iterable, Iterator
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

    def hold(self, pid: int, start: int) -> int:
        """A descriptor that can be read when the process has ended, for the caller to close; -1 if there is none to be had."""


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
        self._living: set[tuple[int, int]] = set()  # of those that this process looks at, by the last look
        self._held: dict[tuple[int, int], int] = {}  # descriptors by pid and start time; the thread's alone. -1: none
        self._over = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="holdfast-beside", daemon=True)
        self._thread.start()

    def watch(self, place: int, beside: Iterable[Beside]) -> None:
        """From now on these, in the order of their places; this process has `place`."""
        with self._lock:
            self._place, self._beside = place, list(beside)
            self._since.clear()
        os.eventfd_write(self._wake, 1)

    def look(self) -> list[Beside]:
        """Those that are gone, of whom has been told when this returns. At once, also by another thread."""
        with self._lock:
            living, gone = set(), []
            for one, dead in self._seen():
                if not dead:
                    living.add((one.pid, one.start))
                    self._end_if_stopped(one)
                    continue
                gone.append(one)
                if one.world not in self._told:
                    self._told.add(one.world)
                    self._tell(one.world)
            self._living = living
            return gone

    def close(self) -> None:
        """Nobody is looked at any more. Once; nothing else is called behind it."""
        self._over = True
        os.eventfd_write(self._wake, 1)
        if self._thread is not threading.current_thread():
            self._thread.join(2.0)
            if not self._thread.is_alive():
                os.close(self._wake)

    # -- inside -----------------------------------------------------------------------------

    def _seen(self) -> Iterator[tuple[Beside, bool]]:
        """Those that this process looks at, and whether they are gone: all, until there are WATCHERS that live before it."""
        before = 0
        for one in self._beside:
            dead = self._eyes.is_dead(one.pid, one.start)
            before += not dead and one.place < self._place
            if before >= WATCHERS:
                return
            yield one, dead

    def _end_if_stopped(self, one: Beside) -> None:
        if not self._waits() or not self._eyes.is_stopped(one.pid, one.start):
            self._since.pop(one.world, None)
        elif time.monotonic() - self._since.setdefault(one.world, time.monotonic()) > STOPPED_SECONDS:
            self._eyes.end(one.pid, one.start)

    def _run(self) -> None:
        last = time.monotonic()
        try:
            while not self._over:
                self._wait()
                if time.monotonic() - last > STOPPED_SECONDS / 2:  # this process has slept, with the others perhaps
                    with self._lock:
                        self._since.clear()
                last = time.monotonic()
                if not self._over:
                    self.look()
        finally:
            for process in self._held:
                self._drop(process)

    def _wait(self) -> None:
        """Until one that is looked at ends, there are others to look at, or LOOK_SECONDS are over."""
        living = self._living
        for process in self._held.keys() - living:
            self._drop(process)
            del self._held[process]
        at_once = False
        for process in living - self._held.keys():
            self._held[process] = self._eyes.hold(*process)
            at_once = at_once or self._held[process] < 0  # it may have ended since it was looked at
        poll = select.poll()
        for fd in (self._wake, *self._held.values()):
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(0 if at_once else LOOK_SECONDS * 1000)}
        if self._wake in ready:
            os.eventfd_read(self._wake)
        for process in [process for process, fd in self._held.items() if fd in ready]:
            self._drop(process)  # it has said all that it can

    def _drop(self, process: tuple[int, int]) -> None:
        fd, self._held[process] = self._held[process], -1
        if fd >= 0:
            os.close(fd)
