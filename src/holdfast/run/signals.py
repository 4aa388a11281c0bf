"""SIGTERM, SIGINT, SIGUSR1 while a loop runs: the first asks for a last checkpoint, the second leaves at once.

Where a supervisor or a launcher hands signals on, one that is sent to all processes of a job comes twice, or three times: what
comes within a moment of the first is the same one.

The time limit asks as a signal does, with a number that no signal has."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
TIME_LIMIT = 65  # greater than any signal's number
MOMENT = 1.0  # seconds


class Interrupts:
    """The handlers of one run. `pending` is the number of the signal that asked, 0 if none did; `loud`: whether
    to say on stderr that it was heard; `handed`: whether others hand signals on to this process.

    Handlers can be set in the main thread only; elsewhere `install` does nothing. A signal that was ignored
    (nohup, a background job) stays ignored; an earlier handler of the program's is called too.
    """

    def __init__(self, loud: bool = False, handed: bool = False) -> None:
        self.loud = loud
        self._moment = MOMENT if handed else 0.0
        self._asked = -MOMENT
        self.pending = 0
        self._owner = os.getpid()
        self._earlier: dict[int, Any] = {}
        self._listening = False

    def install(self) -> None:
        if self._listening or threading.current_thread() is not threading.main_thread():
            return
        self._listening = True
        for number in SIGNALS:
            earlier = signal.getsignal(number)
            if earlier not in (signal.SIG_IGN, None, self._handle):  # None: set by C code, which we can't chain
                self._earlier[number] = earlier
                signal.signal(number, self._handle)

    def restore(self) -> None:
        """Put the earlier handlers back where ours still stand; where another was set since, ours only passes signals on."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._listening = False
        for number, earlier in list(self._earlier.items()):
            if signal.getsignal(number) == self._handle:
                signal.signal(number, earlier)
                del self._earlier[number]

    def leave(self, heeded_later: bool = False) -> None:
        """The outermost loop is over: signals mean again what they mean without us, one that no head has heeded too, unless
        it stays `pending` for who asks later."""
        self.restore()
        if self.pending and not heeded_later:
            number, self.pending = self.pending, 0
            os.kill(os.getpid(), number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        earlier: Callable[[int, FrameType | None], Any] | Any = self._earlier.get(number)
        called = signal.getsignal(number) == self._handle  # else a handler that was set later passes it on, and decides
        forked = os.getpid() != self._owner  # multiprocessing ends its workers by SIGTERM
        now = time.monotonic()
        if self.pending and self._listening and not forked and now - self._asked < self._moment:
            return
        if called and (self.pending or forked or not self._listening):
            # The second: as if we had never been there. SIGINT raises KeyboardInterrupt, the others end the process.
            self.restore()
            os.kill(os.getpid(), number)
            return
        if self._listening:
            if self.loud and not self.pending:
                # Not by logging: its locks may be held by what the signal has interrupted.
                name = signal_name(number)
                text = f"holdfast: {name}: a last checkpoint at the loop's next head, then out; again to leave at once\n"
                with contextlib.suppress(OSError):
                    os.write(2, text.encode())
            if not self.pending:
                self.pending, self._asked = number, now
        if callable(earlier) and earlier is not signal.default_int_handler:
            earlier(number, frame)


def signal_name(number: int) -> str:
    return "time limit" if number == TIME_LIMIT else signal.Signals(number).name
