"""A few threads that share a counter of spans: whoever is free takes the next."""

from __future__ import annotations

import os
import threading
from _thread import start_new_thread
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")

NICENESS = 10  # of 19


def step_back() -> None:
    """Let threads that compute go before this one, from now on: where all cores are busy, writing is not to slow the program.

    Linux has a priority for each thread; one that can't be lowered stays as it is.
    """
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


class Worker:
    """A thread that runs `target()`, which catches everything itself.

    Not a `threading.Thread`: where an exception that a signal brings interrupts the start of one, the thread can stand still
    for ever before its first line, for a lock that the start left held; and until Python 3.13 one whose `join` was
    interrupted counts as ended. Starting this one is a single call, so that it runs or does not.
    """

    def __init__(self, target: Callable[[], object]) -> None:
        self._target = target
        self._ended = threading.Lock()
        self.begun = False

    def start(self) -> None:
        """Raises RuntimeError where no thread can be had, as on the way out of the interpreter."""
        start_new_thread(self._run, ())

    def join(self) -> None:
        """Waits for its end. One that has not begun is not waited for: what it finds when it does begin has to be no work."""
        if self.begun:
            with self._ended:
                pass

    def _run(self) -> None:
        with self._ended:
            self.begun = True
            self._target()


def work_through(
    spans: range,
    threads: int,
    begin: Callable[[], T],
    work: Callable[[int, T], None],
    errors: list[BaseException] | None = None,
) -> None:
    """Call `work(start, own)` for each start in `spans`, by at most `threads` threads of which the caller is one.

    `begin()` makes what a thread has for itself (staging memory). After an error no further span is begun; the first one is
    raised when all threads have ended, also if it is an interrupt that reaches the caller: no thread goes on reading or filling
    the program's memory behind its back. `errors`: a list to keep them in, for work that waits and is to look whether it is
    still wanted. Bulk work in here releases the GIL, so that threads are enough.
    """
    if len(spans) == 1:  # most objects are small
        return work(spans[0], begin())
    starts = iter(spans)
    lock = threading.Lock()
    errors = [] if errors is None else errors
    over = False

    def run() -> None:
        try:
            with lock:
                if over:  # too late: nobody waits for this one
                    return
            own = begin()
            while not errors:
                with lock:
                    start = next(starts, None)
                if start is None:
                    return
                work(start, own)
        except BaseException as error:
            errors.append(error)

    helpers = [Worker(run) for _ in range(min(threads, len(spans)) - 1)]
    try:
        for helper in helpers:
            helper.start()
        run()
    except BaseException as error:
        errors.append(error)
    over = True
    waited = 0
    while waited < len(helpers):
        try:
            helpers[waited].join()
            waited += 1
        except BaseException as error:
            errors.append(error)
    if errors:
        raise errors[0]
