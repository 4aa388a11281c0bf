"""Whether a spare still has ranks to wait for, by the run's records.

MPI does not tell it: not of ranks that leave with a status, nor after a death that it has missed. While a supervisor lives it
ends what is left over; where that was killed, a spare that waits for ever would keep the launcher, too, for ever.
"""

from __future__ import annotations

import os
import sys
import threading

from ..catalog import list_attempts, read_attempt
from ..catalog.attempts import EXECUTION
from ..errors import HoldfastError
from ..store import open_store

LOOK_SECONDS = 1.0  # between looks,
LOOKS = 3  # of which so many in a row must find nobody
BACK = 16  # newest attempts among which a start of the program looks for its own


class Lookout:
    """Looks at the run at `url` in a thread, since its directory may hang, in a `with` block around a spare's wait.

    `check` is called in it, by the thread that waits. Without a supervisor's name for this start of the program nobody looks:
    whose an attempt is can't be told then.
    """

    def __init__(self, url: str | os.PathLike[str]) -> None:
        self._url = url
        self._own = os.environ.get(EXECUTION)
        self._begun = False  # whether an attempt of this start of the program has been seen
        self._over, self._stop = threading.Event(), threading.Event()

    def __enter__(self) -> Lookout:
        if self._own is not None:
            threading.Thread(target=self._watch, name="holdfast-lookout", daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()

    def check(self) -> None:
        """SystemExit, with a line on standard error, if there is nobody left to wait for."""
        if self._over.is_set():
            print("holdfast: a spare leaves: the ranks that it waited for are gone, or their run is another's", file=sys.stderr)
            raise SystemExit(0)

    def _watch(self) -> None:
        looks = 0
        while not self._stop.wait(LOOK_SECONDS):
            try:
                looks = looks + 1 if self._deserted() else 0
            except (HoldfastError, OSError):  # no run yet, or it can't be read just now
                looks = 0
            if looks >= LOOKS:
                self._over.set()
                return

    def _deserted(self) -> bool:
        """Whether all ranks of the newest attempt are gone, as far as can be seen from here, or it is another start's."""
        store = open_store(self._url, create=False, read_only=True)
        found = list_attempts(store)
        if not found:
            return False
        newest, *before = sorted(found, reverse=True)[:BACK]
        attempt = read_attempt(store, newest, found[newest])
        if attempt.execution != self._own:  # an earlier start's, as long as ours has not opened the run
            self._begun = self._begun or any(read_attempt(store, n, found[n]).execution == self._own for n in before)
            return self._begun
        self._begun = True
        if all(p.here for p in attempt.processes):
            return bool(attempt.processes) and not any(p.alive for p in attempt.processes)
        return attempt.end is not None
