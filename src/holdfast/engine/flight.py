"""A version on its way while the program computes: a thread that writes, publishes and tidies up.

The thread is the version's own; it needs nothing of the program. What came of it is there when `over` says so. Ranks in
flight agree with each other over a communicator of their own, so that a commit waits for no rank's next call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Flight(Generic[T]):
    """`work` is running in a thread, or has been run at once (`background=False`). `name` is the version's."""

    def __init__(self, name: str, work: Callable[[], T], background: bool) -> None:
        self.name = name
        self._work = work
        self._result: T | None = None
        self._error: BaseException | None = None
        self.over = False
        self._thread: threading.Thread | None = None
        if background:
            thread = threading.Thread(target=self._run, name=f"holdfast-{name}", daemon=True)
            try:
                thread.start()
                self._thread = thread
            except RuntimeError:  # the interpreter is on its way out, or there may be no more threads
                self._run()
        else:
            self._run()

    def wait(self, seconds: float | None) -> bool:
        """Wait until it is over, at most so long; whether it is."""
        if self._thread is not None:
            self._thread.join(seconds)
        return self.over

    def result(self) -> T:
        """What `work` returned; raises what it raised. Only once it is over."""
        assert self.over
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]  # of type T whenever there is no error

    def _run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:
            self._error = error
        finally:
            self.over = True
