"""The helper process: one thread that takes the program's messages, one that resolves its faults, one that speaks,
and the workers.

It ends with the program (a descriptor of the process tells; a parent-death signal would come already when the
*thread* that started it ends). It ignores the signals that people and batch systems send to all processes of a job:
the program takes its last checkpoint then. Any fault of its own ends it, which closes the userfaultfd, and that frees
all of the program's memory.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import queue
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

from ...capture import kernel
from ...errors import HoldfastError, UsageError
from ...store import open_store
from ..units import UNIT
from ..workers import step_back
from .failures import CaptureError
from .granules import HUGE, plan
from .job import Job
from .memory import ProgramMemory, Staging
from .protection import unprotect
from .trial import Trial
from .wire import Channel, unpack_unit

CHANNEL_FD = 3  # where `spawn` puts the helper's end
_WORKERS_MAX = 16
SLOTS = 50  # of UNIT bytes: workers' and spare ones together; with the interpreter, within 256 MiB
BEAT = 1.0  # seconds between signs of life while a version is on its way
_IGNORED = (
    "SIGINT",
    "SIGTERM",
    "SIGHUP",
    "SIGQUIT",
    "SIGUSR1",
    "SIGUSR2",
    "SIGALRM",
    "SIGXCPU",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
)


def main() -> None:
    """What the interpreter that `spawn` starts runs."""
    for name in _IGNORED:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # all were blocked until now
    os.closerange(CHANNEL_FD + 1, 1 << 20)  # what the program's libraries leave open to its children
    program = os.getppid()
    sys.setswitchinterval(0.0005)  # the program waits for one of the threads, seldom for the others
    plan([(0, HUGE)], [np.array([[8, HUGE - 16]])])  # what is slow the first time
    gc.freeze()
    threading.Thread(target=_end_with, args=(program,), name="holdfast-watch", daemon=True).start()
    channel = Channel(socket.socket(fileno=CHANNEL_FD))
    process = _Process(channel, program)
    with contextlib.suppress(OSError):
        process.run()
    os._exit(0)  # no thread is waited for: one may be in a write that hangs


def _end_with(program: int) -> None:
    """Wait for the program's end, then end."""
    try:
        fd = os.pidfd_open(program)
    except (AttributeError, OSError):
        fd = -1
    while os.getppid() == program:
        if fd >= 0:
            select.select([fd], [], [], 60.0)
        else:
            time.sleep(0.5)
    os._exit(0)


class _Process:
    def __init__(self, channel: Channel, program: int) -> None:
        self._channel, self._pid = channel, program
        self._outgoing: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()
        self._memory = ProgramMemory(program, 0)
        self._own, self._spare = Staging(_WORKERS_MAX), Staging(SLOTS - 4)
        self._uffd = -1
        self._trial: Trial | None = None
        self._job: Job | None = None
        self._id = 0
        self._ending = False

    def run(self) -> None:
        threading.Thread(target=self._guarded, args=(self._speak,), name="holdfast-speak", daemon=True).start()
        self._guarded(self._listen)

    def _guarded(self, *work: Callable[[], None]) -> None:
        """A thread that can't go on must not leave the program waiting: say why, and end."""
        try:
            for step in work:
                step()
        except BaseException:
            text = traceback.format_exc()
            with contextlib.suppress(BaseException):
                self._channel.send(["broken", text], 1.0)
            os._exit(1)

    # -- speaking: a queue, so that no other thread ever waits for the program to listen ----------

    def _speak(self) -> None:
        while True:
            try:
                message = self._outgoing.get(timeout=BEAT)
            except queue.Empty:
                if self._job is None:
                    continue
                message = ["beat"]
            try:
                self._channel.send(message, None)
            except OSError:
                os._exit(0)  # the program is gone
            if message[0] == "failed" and message[3]:
                os._exit(0)  # the disk hangs: of no more use

    def _tell(self, *message: Any) -> None:
        self._outgoing.put(list(message))

    # -- listening -----------------------------------------------------------------------------

    def _listen(self) -> None:
        self._tell("hello", os.getpid())
        while (message := self._channel.receive()) is not None:
            kind, *rest = message
            if kind == "close":
                return
            getattr(self, f"_on_{kind}")(*rest)

    def _on_setup(self, zeros: int, token_at: int, token: bytes) -> None:
        self._memory = ProgramMemory(self._pid, zeros)
        self._tell("setup", Trial.why_no_reading(self._pid, token_at, token))

    def _on_uffd(self, address: int) -> None:
        self._uffd = self._channel.receive_fd()
        self._trial = Trial(self._uffd, self._pid, address)
        threading.Thread(target=self._guarded, args=(self._watch_faults,), name="holdfast-faults", daemon=True).start()
        self._tell("armed", self._trial.arm())

    def _on_tried(self) -> None:
        assert self._trial is not None
        self._tell("tried", self._trial.end())
        self._trial = None

    def _on_share(self, address: int, nbytes: int) -> None:
        fd = self._channel.receive_fd()
        try:
            self._memory.share(fd, address, nbytes)
            why = None
        except (OSError, ValueError) as error:
            why = str(error)
        finally:
            os.close(fd)
        self._tell("shared", why)

    def _on_unshare(self, address: int) -> None:
        self._memory.unshare(address)

    def _on_begin(
        self, number: int, location: str, key: str, expected: int | None, threads: int, patience: float
    ) -> None:
        threads = max(2, min(threads + 1, _WORKERS_MAX))  # one copies and digests while the others keep the disk busy
        self._id = number
        self._own.resize(threads)
        self._spare.resize(SLOTS - threads)
        self._ending = False
        self._job = Job(
            lambda: open_store(location, create=False).create(key, expected),
            expected is not None,
            threads,
            self._memory,
            self._own,
            self._spare,
            patience,
            self._released,
        )

    def _released(self, number: int) -> None:
        self._tell("released", self._id, number)

    def _on_put(self, number: int, unit: list[Any]) -> None:
        if self._job is not None and number == self._id:
            self._job.put(unpack_unit(unit))

    def _on_go(self, number: int) -> None:
        if self._job is not None and number == self._id:
            self._job.start()

    def _on_freeze(self, number: int, units: list[list[Any]]) -> None:
        why, wire = None, None
        job = self._job
        try:
            if job is None or number != self._id:
                raise CaptureError("there is no version on its way")
            job.freeze(self._uffd, [unpack_unit(u) for u in units])
        except CaptureError as error:
            why = str(error)
        except HoldfastError as error:
            wire = error.to_wire()
        # At once, and before the workers compete for this process's time: the program waits.
        self._channel.send(["frozen", number, why, wire], None)
        if job is not None and why is None and wire is None:
            self._on_prepare(sum(unit[1] for unit in units))
            job.start()

    def _on_prepare(self, nbytes: int) -> None:
        work = functools.partial(self._spare.warm, -(-nbytes // UNIT))
        threading.Thread(target=self._guarded, args=(step_back, work), name="holdfast-warm", daemon=True).start()

    def _on_finish(self, number: int) -> None:
        self._end(number)

    def _on_abort(self, number: int) -> None:
        if self._job is not None and number == self._id:
            self._job.fail(UsageError("the version was given up"))
        self._end(number)

    def _end(self, number: int) -> None:
        """Have a thread wait for the job's end; it answers `finished` or `failed`, once for each version."""
        if self._job is not None and number == self._id and not self._ending:
            self._ending = True
            work = functools.partial(self._finish, number, self._job)
            threading.Thread(target=self._guarded, args=(work,), name="holdfast-finish", daemon=True).start()

    def _finish(self, number: int, job: Job) -> None:
        try:
            results, size = job.finish()
        except HoldfastError as error:
            self._job = None
            self._tell("failed", number, error.to_wire(), job.hung)
        else:
            self._job = None
            self._tell("finished", number, size, results)

    # -- faults --------------------------------------------------------------------------------

    def _watch_faults(self) -> None:
        poll = select.poll()
        poll.register(self._uffd, select.POLLIN)
        while True:
            poll.poll()
            for address, _ in kernel.uffd_read_faults(self._uffd):
                job, trial = self._job, self._trial
                if trial is not None:
                    trial.faulted(address)
                elif job is None or not job.resolve(address):
                    # freed between the fault and here; or the job has ended, and this is about to be
                    unprotect(self._uffd, address & -kernel.PAGE, kernel.PAGE)


if __name__ == "__main__":
    sys.exit("this is started by a program that takes checkpoints, not by hand")
