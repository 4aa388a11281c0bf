"""A few threads that share a counter of spans: whoever is free takes the next."""

from __future__ import annotations

import os
import threading
import time
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
    begun: list[int] = []
    ended: list[int] = []

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

    def help_out() -> None:
        begun.append(1)
        run()
        ended.append(1)

    helpers = [
        threading.Thread(target=help_out, name="holdfast-io", daemon=True) for _ in range(min(threads, len(spans)) - 1)
    ]
    try:
        for helper in helpers:
            helper.start()
        run()
        for helper in helpers:
            helper.join()
    except BaseException as error:
        errors.append(error)
        # Not by `join`: until Python 3.13 one that is interrupted takes the thread for ended. One that has not begun finds the
        # error and does nothing.
        while len(ended) < len(begun):
            try:
                time.sleep(1e-3)
            except BaseException as another:
                errors.append(another)
    if errors:
        raise errors[0]
