"""SIGTERM, SIGINT, SIGUSR1 while a loop runs: the first asks for a last checkpoint, the second leaves at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Interrupts:
    """The handlers of one run. `pending` is the number of the signal that asked, 0 if none did.

    Handlers can be set in the main thread only; elsewhere `install` does nothing. A signal that was ignored
    (nohup, a background job) stays ignored; an earlier handler of the program's is called too.
    """

    def __init__(self) -> None:
        self.pending = 0
        self._owner = os.getpid()
        self._earlier: dict[int, Any] = {}

    def install(self) -> None:
        if self._earlier or threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            earlier = signal.getsignal(number)
            if earlier is not signal.SIG_IGN and earlier is not None:  # None: set by C code, which we can't chain
                self._earlier[number] = earlier
                signal.signal(number, self._handle)

    def restore(self) -> None:
        """Put the earlier handlers back where ours still stand."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number, earlier in self._earlier.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, earlier)
        self._earlier = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        earlier: Callable[[int, FrameType | None], Any] | Any = self._earlier.get(number)
        if self.pending or os.getpid() != self._owner:  # a forked child: multiprocessing ends its workers by SIGTERM
            # The second: as if we had never been there. SIGINT raises KeyboardInterrupt, the others end the process.
            self.restore()
            os.kill(os.getpid(), number)
            return
        self.pending = number
        if callable(earlier) and earlier is not signal.default_int_handler:
            earlier(number, frame)


def signal_name(number: int) -> str:
    return signal.Signals(number).name
