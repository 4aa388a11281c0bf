"""A thread that looks whether somebody is gone, while the program computes."""

from __future__ import annotations

import threading
from collections.abc import Callable

LOOK_SECONDS = 0.008  # between two looks: 10 us each
LONG_SECONDS = 0.5  # in which who waits in a call that was interrupted has left it


class Watcher:
    """A thread that looks every LOOK_SECONDS until `look` says True, and then calls `again` every LONG_SECONDS: until it is
    closed."""

    def __init__(self, look: Callable[[], bool], again: Callable[[], object]) -> None:
        self._look, self._again = look, again
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="holdfast-crew", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Ask it to end, soon."""
        self._over.set()

    def close(self) -> None:
        """Have it ended, in 5 seconds at most."""
        self.end()
        if self._thread is not threading.current_thread():
            self._thread.join(5.0)

    def _run(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            if self._look():
                break
        while not self._over.wait(LONG_SECONDS):
            self._again()
