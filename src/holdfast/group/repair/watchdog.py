"""Ends this process when a step does not end by its deadline.

Some of MPI's calls can't be given a deadline (Shrink, Split): they are blocking, and were seen to hang when a process dies at
the wrong moment. A thread looks at the clock instead, outside the call, and ends the process if the call is not over. That is
safe: committed versions are on storage, and whoever started the program starts it again. (Rejected: an exception in the
blocked thread, which is raised only when the call returns; and a timer signal, which belongs to the program.)
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ...errors import EXIT_REPAIR
from ..choose import spare_processes


class Watchdog:
    """Deadlines of this process's steps, watched by a daemon thread. Any thread may use it.

    name: who this is, for the message. expired: called in the watching thread with the name of the step that is not over;
    it need not return. The default prints a line and ends the process with status EXIT_REPAIR.
    """

    def __init__(self, name: str, expired: Callable[[str], None] | None = None) -> None:
        self._name = name
        self._expired = expired or self._leave
        self._changed = threading.Condition()
        self._deadlines: dict[object, tuple[float, str]] = {}
        self._thread: threading.Thread | None = None

    @contextmanager
    def step(self, what: str, seconds: float) -> Iterator[None]:
        """Within this block the step must be over in `seconds`. May be nested: each block has its own deadline."""
        key = object()
        with self._changed:
            self._deadlines[key] = (time.monotonic() + seconds, what)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="holdfast-watchdog", daemon=True)
                self._thread.start()
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                # The thread is not woken for that: it finds no deadline when it looks next.
                self._deadlines.pop(key, None)

    def close(self) -> None:
        """End the thread. Deadlines that stand are forgotten."""
        with self._changed:
            self._deadlines.clear()
            thread, self._thread = self._thread, None
            self._changed.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join(1.0)

    def _watch(self) -> None:
        own = threading.current_thread()
        while True:
            with self._changed:
                if self._thread is not own:
                    return
                if not self._deadlines:
                    self._changed.wait()
                    continue
                key, (deadline, what) = min(self._deadlines.items(), key=lambda item: item[1][0])
                left = deadline - time.monotonic()
                if left > 0:
                    self._changed.wait(min(left, threading.TIMEOUT_MAX))
                    continue
                del self._deadlines[key]
            self._expired(what)

    def _leave(self, what: str) -> None:
        how = "" if spare_processes() else f" (status {EXIT_REPAIR})"  # see `end_process`
        text = (
            f"holdfast: {self._name}: {what} was not over by its deadline: this process leaves{how}. "
            "Committed versions are as they were; the program is to be started again, it resumes.\n"
        )
        leave(EXIT_REPAIR, text)


def leave(status: int, text: str) -> None:
    """Print and end the process at once. No lock is waited for: a thread that is stuck may hold those of the streams."""
    try:
        os.write(2, text.encode(errors="replace"))
        time.sleep(0.05)  # let the launcher forward it
    finally:
        end_process(status)


def end_process(status: int) -> None:
    """End this process at once, so that the others see it: Open MPI tells of a process that a signal has killed, and of one
    that leaves with status 0, but never of one that leaves with another status while there are spares."""
    if spare_processes():
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(status)


def flush_streams() -> None:
    """Flush what the program has printed, as far as that works."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            continue  # closed, a broken pipe, or no stream at all
