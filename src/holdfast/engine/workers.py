"""A few threads that share a counter of spans: whoever is free takes the next."""

from __future__ import annotations

import os
import threading
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


def work_through(spans: range, threads: int, begin: Callable[[], T], work: Callable[[int, T], None]) -> None:
    """Call `work(start, own)` for each start in `spans`, by at most `threads` threads of which the caller is one.

    `begin()` makes what a thread has for itself (staging memory). After an error no further span is begun; the first one is
    raised when all threads have ended. Bulk work in here releases the GIL, so that threads are enough.
    """
    if len(spans) == 1:  # most objects are small
        return work(spans[0], begin())
    starts = iter(spans)
    lock = threading.Lock()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            own = begin()
            while not errors:
                with lock:
                    start = next(starts, None)
                if start is None:
                    return
                work(start, own)
        except BaseException as error:
            errors.append(error)

    helpers = [
        threading.Thread(target=run, name="holdfast-io", daemon=True) for _ in range(min(threads, len(spans)) - 1)
    ]
    for helper in helpers:
        helper.start()
    run()
    for helper in helpers:
        helper.join()
    if errors:
        raise errors[0]
