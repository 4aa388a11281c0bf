"""Deleting what retention leaves over, on rank 0: beside the program, and after the version that makes it superfluous."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Container, Iterator
from threading import Event, Lock, Thread

from ..catalog import Commit
from ..catalog.incoming import remove_incoming
from ..catalog.retention import find_surplus, remove_all, remove_unfinished
from ..errors import HoldfastError
from ..format import parse_version
from ..policy import Keep
from ..store import Store

log = logging.getLogger("holdfast")

# Bytes from which an old version's deletion is not waited for, even where the program waits for the checkpoint: freeing a GiB
# takes a file system a third of a second.
_BEHIND = 32 << 20
_PATIENCE = 60.0  # seconds


class Tidying:
    """For one attempt's rank 0. `lineage`: names of the checkpoints that count, newest first."""

    def __init__(self, store: Store, keep: Keep) -> None:
        self._store, self._keep = store, keep
        self.lineage: list[str] = []
        self._known: dict[str, Commit | None] = {}
        self._thread: Thread | None = None
        self._one = Lock()
        self._done = Event()
        self._done.set()

    def after(self, attempt: int, *names: str) -> None:
        """These checkpoints are durable: delete what is beyond those to keep, in a thread. One at a time."""
        with self._one:  # what comes from the places of nodes comes in another thread, and may come late
            self.finish()
            self.lineage = sorted({*self.lineage, *names}, key=_age, reverse=True)
            self._done.clear()
            thread = Thread(target=self._retain, args=(attempt,), name="holdfast-tidy", daemon=True)
            try:
                thread.start()
                self._thread = thread
            except RuntimeError:  # the interpreter is on its way out: the next attempt deletes them
                self._done.set()

    def settle(self) -> None:
        """Wait until what is small has been deleted, so that a program that waits for a checkpoint sees what there is."""
        self._done.wait(_PATIENCE)

    def finish(self) -> None:
        """Wait, at most a minute, for all that is being deleted."""
        if self._thread is not None:
            self._thread.join(_PATIENCE)
            self._thread = None

    def clean(self, attempt: int, below: int, spare: Container[str] = ()) -> None:
        """Delete what earlier attempts left unfinished: before the first checkpoint, which may need the room."""
        with told("what earlier attempts left unfinished was not deleted"):
            remove_unfinished(self._store, attempt, below, spare)
            remove_incoming(self._store, attempt)

    def counts(self, name: str) -> None:
        """The checkpoint may be durable, although nobody was told so: retention keeps what it refers to."""
        with self._one:
            self.finish()
            self.lineage = sorted({*self.lineage, name}, key=_age, reverse=True)

    def _retain(self, attempt: int) -> None:
        try:
            with told("versions beyond those to keep were not deleted"):
                found = find_surplus(self._store, self.lineage, self._keep, self._known)
                if sum(found.values()) >= _BEHIND:
                    self._done.set()
                remove_all(self._store, attempt, list(found))
                # Only now: what could not be deleted is tried again next time.
                self.lineage = [name for name in self.lineage if name not in found]
        finally:
            self._done.set()


def _age(name: str) -> tuple[int, int]:
    return parse_version(name) or (0, 0)


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Failing to delete what is not needed is no failure of the checkpoint; it is told and tried again next time."""
    try:
        yield
    except HoldfastError as error:
        log.warning("%s: %s", what, error.message)
