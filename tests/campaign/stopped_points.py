"""Points at which a rank can be stopped: before and after each call of MPI's that the library makes.

The library is given a communicator of a class of ours, and so makes its own from that. A point is named by who calls, with
what, and the how-manieth such call it is: so it is the same one in each run of a program that does the same, whatever its
threads do meanwhile. Polls are no points: who stops in one has stopped behind the call before it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any

CALLS = ("Isend", "Irecv", "Idup", "Iallreduce", "Iallgather")
# What may wait for ever. None of it is used where there are no repairs; were it, it would be a point as well.
BLOCKING = (
    "Barrier", "Bcast", "bcast", "Allreduce", "allreduce", "Allgather", "allgather", "Gather", "gather", "Send", "send", "Recv",
    "recv", "Sendrecv", "Probe", "Mprobe", "Split", "Dup", "Create_group", "Free", "Disconnect",
)  # fmt: skip


class Points:
    """Those of this process: `seen`, in order; the one to stop at; and what was begun collectively on each communicator."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.dups: dict[int, int] = Counter()  # by the communicator's number
        self.comms: dict[int, Any] = {}
        self._counts: Counter[str] = Counter()
        self._target: str | None = None
        self._aim: tuple[str, str, int] = "", "", 0
        self._stop: Callable[[str], None] = lambda point: None
        self._lock = threading.Lock()
        self.active = False

    def begin(self, comm: Any, target: str | None, stop: Callable[[str], None]) -> None:
        """Count anew; `comm` is what the library gets. At the point `target`, if there is one, `stop(point)` is called."""
        with self._lock:
            self.seen, self._counts, self.dups, self.comms = [], Counter(), Counter(), {0: comm}
            self._target, self._stop, self.active = target, stop, True
            self._aim = "", "", 0

    def aim(self, who: str, call: str, count: int) -> None:
        """The target is the `count`-th point (from 1; 0: none) with `who` in its callers and `call` as its end."""
        self._aim = who, call, count

    def end(self) -> None:
        self.active = False

    def at(self, when: str, call: str, frame: FrameType) -> None:
        if not self.active:
            return
        who = caller(frame)
        with self._lock:
            kind = f"{who} {when} {call}"
            self._counts[kind] += 1
            point = f"{kind} {self._counts[kind]}"
            self.seen.append(point)
            hit = point == self._target
            if self._aim[2] and self._aim[0] in who and kind.endswith(self._aim[1]):
                self._aim = (*self._aim[:2], self._aim[2] - 1)
                hit = hit or not self._aim[2]
            if hit:
                self._target = None
        if hit:
            self._stop(point)


POINTS = Points()


def caller(frame: FrameType | None) -> str:
    """The innermost function of `group/` that has a meaning to others, and the three above that called it."""
    chain: list[str] = []
    while frame is not None:
        name = frame.f_code.co_filename
        if "/holdfast/" in name:
            file = name.rpartition("/holdfast/")[2].removesuffix(".py")
            here = f"{file}:{frame.f_code.co_name}"
            if not file.startswith("group/transfers") and not here.endswith(">"):  # comprehensions: not in all Pythons
                chain.append(here)
        frame = frame.f_back
    inner = next((i for i, here in enumerate(chain) if not here.startswith(("group/", "run/watching"))), len(chain))
    return " < ".join([*chain[max(0, inner - 1) : inner], *chain[inner : inner + 3]])


def stop(note: Callable[[str], None]) -> Callable[[str], None]:
    """What stops this process, all of its threads, after `note(point)`."""

    def halt(point: str) -> None:
        note(point)
        os.kill(os.getpid(), signal.SIGSTOP)

    return halt


def stopping(base: type[Any], points: Points = POINTS) -> type[Any]:
    """A class of communicators that is `base`, with points at its calls."""
    body: dict[str, Any] = {name: _pointed(getattr(base, name), name, points) for name in (*CALLS, *BLOCKING)}
    body["Improbe"] = _probing(base.Improbe, points)
    return type(base.__name__, (base,), body)


def _pointed(method: Any, name: str, points: Points) -> Any:
    def call(self: Any, *args: Any, **kw: Any) -> Any:
        frame = sys._getframe(1)
        points.at("before", name, frame)
        if name == "Idup" and points.active:
            number = _number(self, points)
            points.dups[number] += 1
        made = method(self, *args, **kw)
        if name == "Idup" and points.active:
            _number(made[0], points)
        points.at("after", name, frame)
        return made

    return call


def _number(comm: Any, points: Points) -> int:
    """Communicators in the order in which they were begun to be made, which is the same on all ranks."""
    for number, known in points.comms.items():
        if known is comm:
            return number
    points.comms[len(points.comms)] = comm
    return len(points.comms) - 1


def _probing(method: Any, points: Points) -> Any:
    def improbe(self: Any, *args: Any, **kw: Any) -> Any:
        message = method(self, *args, **kw)
        return None if message is None else _Message(message, points)

    return improbe


class _Message:
    """A message that was found and is to be received."""

    def __init__(self, message: Any, points: Points) -> None:
        self._message, self._points = message, points

    def Irecv(self, *args: Any) -> Any:
        frame = sys._getframe(1)
        self._points.at("before", "Irecv", frame)
        request = self._message.Irecv(*args)
        self._points.at("after", "Irecv", frame)
        return request
