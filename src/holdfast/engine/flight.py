"""A version on its way while the program computes: a thread that writes, publishes and tidies up.

The thread is the version's own; it needs nothing of the program. What came of it is there when `over` says so. Ranks in
flight agree with each other over a communicator of their own, so that a commit waits for no rank's next call.
"""

from __future__ import annotations

import _thread
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from .workers import step_back

T = TypeVar("T")

# Seconds that the thread lets its starter go first: it would have the interpreter's lock for a switch interval otherwise,
# several times what a capture may take.
_FIRST = 0.5e-3


class Flight(Generic[T]):
    """`work` is running in a thread, or has been run at once (`background=False`). `name` is the version's."""

    def __init__(self, name: str, work: Callable[[], T], background: bool) -> None:
        self.name = name
        self._work = work
        self._result: T | None = None
        self._error: BaseException | None = None
        self._done = threading.Event()
        if background:
            try:
                # Not threading.Thread: its `start` waits until the thread runs, and the program would wait with it.
                _thread.start_new_thread(self._beside, ())
                return
            except RuntimeError:  # the interpreter is on its way out, or there is no room for a thread
                pass
        self._run()

    @property
    def over(self) -> bool:
        return self._done.is_set()

    def wait(self, seconds: float | None) -> bool:
        """Wait until it is over, at most so long; whether it is."""
        return self._done.wait(seconds)

    def result(self) -> T:
        """What `work` returned; raises what it raised. Only once it is over."""
        assert self.over
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]  # of type T whenever there is no error

    def _beside(self) -> None:
        step_back()
        time.sleep(_FIRST)
        self._run()

    def _run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:
            self._error = error
        finally:
            self._done.set()
