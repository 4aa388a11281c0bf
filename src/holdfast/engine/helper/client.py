"""The program's side of the helper process: started once for each run and rank, used from version to version.

One thread of the program listens to it: it hands back memory that is written, and keeps the answers. Nothing here
waits without end: each wait ends with the helper's silence, which ends the helper; the disk alone may take as long as
it wants.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ...errors import DeadlineError, HoldfastError
from ...store.aligned import address
from ..units import Unit
from .failures import CaptureError, lost
from .spawn import Probe, spawn
from .wire import Channel
from .writing import HelperWriting

SILENCE = 60.0  # seconds without a sign of life after which the helper counts as lost
PATIENCE = 30.0  # seconds without a write's end after which the program's faults wait no longer for the disk
_TICK = 0.5  # seconds


class Helper:
    """Local: one rank starts and uses its own. `why_no_freeze`: None if memory can be frozen, else why not;
    `reads_memory`: whether `put` takes any memory, or only such as was shared. In a forked child it counts as
    dead."""

    def __init__(self, channel: Channel, pid: int) -> None:
        self.pid = pid
        self.silence, self.patience = SILENCE, PATIENCE
        self.why_no_freeze: str | None = "it was not tried"
        self.reads_memory = False
        self._channel, self._owner = channel, os.getpid()
        self._probe = Probe()
        self._pidfd = _pidfd(pid)
        self._changed = threading.Condition()
        self._heard = 0  # messages that have come
        self._answers: dict[str, list[Any]] = {}
        self._lost: str | None = None  # how it ended
        self._buried = False
        self._shares: list[tuple[int, int]] = []
        self._writing: HelperWriting | None = None
        self._count = 0
        self._listener = threading.Thread(target=self._listen, name="holdfast-helper", daemon=True)
        self._listener.start()

    @staticmethod
    def start(timeout: float) -> Helper:
        """Start the process and try out what it can do here, within `timeout` seconds. HelperLostError if it does not
        come up."""
        helper = Helper(*spawn())
        try:
            helper.silence = timeout
            helper.wait(lambda: "hello" in helper._answers)
            why = helper._probe.why_no_reading(helper._ask)
            helper.reads_memory = why is None
            helper.why_no_freeze = why or helper._probe.why_no_freeze(helper._ask, helper.kill, timeout)
            helper.silence = SILENCE
        except BaseException:
            helper.close()
            raise
        return helper

    @property
    def alive(self) -> bool:
        return self._lost is None and os.getpid() == self._owner

    def share(self, fd: int, address: int, nbytes: int) -> None:
        """Let the helper map the shared memory `fd`, which the program has at `address`. CaptureError if it can't."""
        why = self._ask(["share", address, nbytes], "shared", fd)[0]
        if why is not None:
            raise CaptureError(f"the helper can't map the shared memory: {why}")
        self._shares.append((address, nbytes))

    def unshare(self, address: int) -> None:
        """Forget the shared memory at `address`, before the program unmaps it: other memory may come to stand there."""
        self._shares = [s for s in self._shares if s[0] != address]
        self.send(["unshare", address])

    def prepare(self, nbytes: int) -> None:
        """Have staging memory ready for freezing a state of `nbytes` bytes, soon: the first one is slower otherwise.
        Returns at once."""
        self.send(["prepare", nbytes])

    def begin(self, location: str, key: str, expected: int | None, threads: int) -> HelperWriting:
        """Begin the data file `key` in the store at `location`; `expected`: its size in bytes if no unit can be
        skipped; `threads`: so many write at the same time. One file at a time. HelperLostError if the helper is gone."""
        if os.getpid() != self._owner:
            raise lost("belongs to the parent of this process")
        assert self._writing is None or self._writing.over, "one version at a time"
        self._count += 1
        self.send(["begin", self._count, location, key, expected, threads, self.patience])
        self._writing = HelperWriting(self, self._count)
        return self._writing

    def close(self) -> None:
        """End the helper, and wait for that. A version on its way is lost. Idempotent; in a forked child, only forget
        it."""
        if os.getpid() != self._owner:
            return
        with suppress(HoldfastError):
            self.send(["close"])
        self._listener.join(5.0)
        self.kill()
        self._listener.join(5.0)

    def kill(self) -> None:
        """End the process at once. The kernel then frees all memory that it protects."""
        with self._changed, suppress(OSError):
            if not self._buried and os.getpid() == self._owner:  # else its number may be somebody else's by now
                os.kill(self.pid, signal.SIGKILL)

    # -- for HelperWriting ---------------------------------------------------------------------

    def send(self, message: list[Any], fd: int | None = None) -> None:
        """HelperLostError if it is gone or takes nothing for `silence` seconds."""
        if os.getpid() != self._owner:
            raise lost("belongs to the parent of this process")
        if self._lost is None:
            try:
                return self._channel.send(message, self.silence, fd)
            except DeadlineError:
                self.give_up(f"took no messages for {self.silence:.4g} s and was ended")
            except OSError:
                pass
        self.wait(lambda: False)  # it is lost, and how is about to be known

    def can_read(self, unit: Unit) -> bool:
        """Whether the helper can read a unit's memory."""
        if self.reads_memory:
            return True
        return all(
            any(start <= address(m) and address(m) + m.nbytes <= start + nbytes for start, nbytes in self._shares)
            for _, m in unit.pieces
        )

    def wait(self, ready: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait for it, for `timeout` seconds or as long as the helper gives signs of life; whether it came.
        HelperLostError."""
        deadline = None if timeout is None else time.monotonic() + timeout
        heard, idle = -1, 0.0
        with self._changed:
            while not ready():
                if self._lost is not None:
                    raise lost(self._lost)
                now = time.monotonic()
                if deadline is not None and now >= deadline:
                    return False
                self._changed.wait(_TICK if deadline is None else min(_TICK, deadline - now))
                # Time in which this process did not run, stopped or swapped out, is no silence of the helper's.
                idle = 0.0 if heard != self._heard else idle + min(time.monotonic() - now, 2 * _TICK)
                heard = self._heard
                if idle >= self.silence and not ready():
                    break
            else:
                return True
        self.give_up(f"gave no sign of life for {self.silence:.4g} s and was ended")
        raise lost(self._lost or "ended")

    def _ask(self, message: list[Any], answer: str, fd: int | None = None) -> list[Any]:
        self._answers.pop(answer, None)
        self.send(message, fd)
        self.wait(lambda: answer in self._answers)
        return self._answers.pop(answer)

    def give_up(self, how: str) -> None:
        """End the helper, and count it as lost at once: one that hangs in a write does not end before that returns."""
        self.kill()
        with self._changed:
            self._lost = self._lost or how
            self._changed.notify_all()

    # -- listening -----------------------------------------------------------------------------

    def _listen(self) -> None:
        why = "was no longer listened to and was ended"
        try:
            while self._readable() and (message := self._channel.receive()) is not None:
                self._take(*message)
            why = ""
        finally:  # also when a unit's `release` has raised something: nobody may wait for ever
            self._bury(why)

    def _take(self, kind: str, *rest: Any) -> None:
        if kind == "broken":
            with self._changed:
                self._lost = self._lost or f"failed:\n{rest[0]}"
        elif self._writing is not None and kind in ("released", "frozen", "finished", "failed"):
            self._writing.told(kind, list(rest))
        with self._changed:
            self._heard += 1
            self._answers[kind] = list(rest)
            self._changed.notify_all()

    def _readable(self) -> bool:
        """Wait for a message; False if the process has ended. The channel alone would not tell: a child that the
        program forked may have the other end too."""
        poll = select.poll()
        poll.register(self._channel.sock, select.POLLIN)
        if self._pidfd >= 0:
            poll.register(self._pidfd, select.POLLIN)
        return any(fd == self._channel.sock.fileno() for fd, _ in poll.poll())

    def _bury(self, why: str) -> None:
        """The process has ended, or is about to: take its exit status, so that no zombie stays, and tell those who
        wait."""
        how = why or "ended"
        self.kill()  # it has closed the channel: it is ending anyhow
        with self._changed:
            self._buried = True
        with suppress(ChildProcessError):  # somebody else took it
            _, status = os.waitpid(self.pid, 0)
            if os.WIFSIGNALED(status):
                how = why or f"was killed by signal {os.WTERMSIG(status)}"
        with self._changed:
            self._lost = self._lost or how
            self._changed.notify_all()
        if self._pidfd >= 0:
            os.close(self._pidfd)
        self._channel.sock.close()
        if self._writing is not None:
            self._writing.release_all()


def _pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return -1  # before Linux 5.3
