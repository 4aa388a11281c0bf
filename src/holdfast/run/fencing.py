"""Taking an attempt with all ranks, and showing that its holder lives."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from ..catalog import current, put_fence
from ..errors import HoldfastError
from ..format import attempt_key
from ..group import Group, at_root
from ..store import Store

log = logging.getLogger("holdfast")


def fence(
    store: Store,
    group: Group,
    first_version: int,
    kind: str = "run",
    above: int = 0,
    places: Sequence[tuple[str, str]] = (),
) -> int:
    """Put the fence of a new attempt and return its number, greater than all there are and than `above` (collective).

    `places`: kinds and directories of the places that nodes have for it."""
    def put(everyone: list[Any]) -> int:
        holder = current().plain() | {"user": _user(), "command": " ".join(sys.argv)[:500]}
        processes = [p for p in everyone if isinstance(p, dict)]
        return put_fence(store, kind, group.size, holder, processes, first_version, above, places)

    number = at_root(group, "starting an attempt", current().plain(), put)
    assert isinstance(number, int)
    return number


def _user() -> str:
    import getpass  # not at the top: it brings termios along

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no name for this user id
        return str(os.getuid())


class Heartbeat:
    """Refreshes the lease of the attempt that `attempt()` names, from a thread of rank 0, every sixth of `lease` seconds.

    Only a sign of life for other hosts: what makes writing safe is the fence, not the lease.
    """

    def __init__(self, store: Store, attempt: Callable[[], int], lease: float) -> None:
        self._store, self._attempt, self._period = store, attempt, lease / 6
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="holdfast-lease", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._stop.wait(self._period):
            try:
                self._store.touch(attempt_key(self._attempt(), "lease"))
            except HoldfastError as error:
                log.debug("the lease was not refreshed: %s", error.message)

    def stop(self) -> None:
        """End the thread; waits for it at most a second (a hanging file system must not hang the program's end)."""
        self._stop.set()
        self._thread.join(1.0)
