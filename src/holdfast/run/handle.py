"""What a program holds of a checkpoint that it asked for."""

from __future__ import annotations

import threading
import time
import warnings

from ..errors import CheckpointError, DeadlineError, HoldfastError, UsageError
from .watching import Watching

STATES = ("captured", "written", "durable")


class CheckpointWarning(UserWarning):
    """A checkpoint failed and the program goes on (`on_error="warn"`)."""


class Handle:
    """A checkpoint asked for (local).

    `version`: the number it has or will have; `captured`: the program may change its state again; `written`: this rank's
    data is on storage, fsynced; `durable`: committed, fsynced and fenced on all ranks, nothing less; `done`: over, durable or
    failed; `error`: why it failed. `seconds`: how long the program waited for it (the stall); `bytes`: bytes written by all
    ranks, once it is durable.
    """

    def __init__(self, version: int, timeout: float, watching: Watching | None = None) -> None:
        self.version = version
        self.captured = self.written = self.durable = self.done = False
        self.seconds = 0.0
        self.bytes = 0
        self.error: HoldfastError | None = None
        self.begun = False
        self._timeout = timeout
        self._watching = watching or Watching()
        self._changed = threading.Condition()

    def __repr__(self) -> str:
        reached = "failed" if self.error else next((s for s in reversed(STATES) if getattr(self, s)), "pending")
        return f"<checkpoint {self.version}: {reached}>"

    def wait(self, state: str = "durable", timeout: float | None = None) -> None:
        """Wait until it is `captured`, `written` or `durable`; at most `timeout` seconds (None: the run's `timeout`).

        Call it on all ranks or on none where what follows depends on it: a failure is raised on every rank that waits.
        Raises what the checkpoint failed with, which the next call that all ranks make raises too; DeadlineError, after which
        it goes on; UsageError in a loop's body before the loop head at which it begins.
        """
        if state not in STATES:
            raise UsageError(f"handle.wait({state!r}): one of {', '.join(map(repr, STATES))} is needed.")
        if timeout is not None and (not isinstance(timeout, (int, float)) or isinstance(timeout, bool) or timeout < 0):
            raise UsageError(f"handle.wait(timeout={timeout!r}): a number of seconds is needed, or None for the run's timeout.")
        if not self.begun and not self.done:
            raise UsageError(
                f"handle.wait: checkpoint {self.version} begins at the next loop head, where the state is whole; waiting for "
                "it here would take for ever. Let the loop go on, and wait in a later iteration."
            )
        seconds = self._timeout if timeout is None else timeout
        end = time.monotonic() + seconds
        with self._watching.during("checkpoint"), self._changed:
            while not (getattr(self, state) or self.done):
                rest = end - time.monotonic()
                if rest <= 0:
                    raise DeadlineError(
                        f"Checkpoint {self.version} is not {state} after {seconds:.4g} s. It goes on; the versions before it "
                        "are intact. Wait again, or see whether the storage hangs.",
                        version=self.version,
                    )
                self._changed.wait(rest)
        if not getattr(self, state) and self.error is not None:
            raise self.error

    def reach(self, state: str) -> None:
        """Say that it is this far (by the library)."""
        with self._changed:
            setattr(self, state, True)
            self._changed.notify_all()

    def end(self, error: HoldfastError | None = None) -> None:
        """Say that it is over (by the library)."""
        with self._changed:
            self.error, self.done = error, True
            self._changed.notify_all()


def report_failure(error: HoldfastError, on_error: str) -> None:
    """Raise a failed checkpoint's error, or warn of it if the program wants to go on."""
    if on_error == "raise" or not isinstance(error, CheckpointError):
        raise error
    warnings.warn(CheckpointWarning(str(error)), stacklevel=4)
