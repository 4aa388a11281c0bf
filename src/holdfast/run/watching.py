"""An execution that is watched: this process stands on its node's board, and what is found out there is told.

The program's thread says what it is in: at a checkpoint, where bytes that move are progress; waiting for ranks in a call of
the library's, which has a deadline, so that the fault is another's; in a call of MPI of its own. Where nobody is watched (one
rank, no `stall_timeout`) there is no thread, and nothing of `health` is imported.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from ..errors import HoldfastError
from ..group import Group

if TYPE_CHECKING:
    from ..group.base import Pending
    from ..health import Beat, Event
    from .handle import Handle

log = logging.getLogger("holdfast")

Hook = Callable[["Event"], object]


class Watching:
    """What this process knows of its node's ranks (local). `events`: found out so far, oldest first, each once; `progress`: for
    loop heads, with the outermost loop's step; None where nobody is watched."""

    def __init__(self) -> None:
        self.events: tuple[Event, ...] = ()
        self.progress: Callable[..., None] | None = None
        self._beat: Beat | None = None
        self._hooks: list[Hook] = []
        self._told: set[tuple[str, int | None, str]] = set()

    def join(
        self, run: str, attempt: int, rank: int, stall_timeout: float | None, flying: Callable[[], Handle | None]
    ) -> None:
        """Take a slot and begin to beat. Where that can't be, one warning: the program goes on unwatched.

        `stall_timeout`: seconds; `flying`: the version in flight, by the beat's thread.
        """
        from ..health import Beat, Board, Limits, memory_root
        from ..health.moving import Moving

        moving = Moving()

        def moves() -> bool:
            handle = flying()
            moved = moving()  # always asked, so that it counts from beat to beat
            return moved or (handle is not None and handle.written)  # what is left of it is for other ranks as well

        try:
            board = Board.join(memory_root(), run, attempt, rank)
        except (HoldfastError, OSError) as error:
            why = error.message if isinstance(error, HoldfastError) else error
            log.warning("rank %d on %s is not watched: %s", rank, os.uname().nodename, why)
            return
        beat = Beat(board, self._tell, limits=Limits(stall=stall_timeout), report=_report, moves=moves)
        try:
            beat.start()
        except RuntimeError as error:
            beat.stop()
            log.warning("rank %d on %s is not watched: %s", rank, os.uname().nodename, error)
            return
        self._beat, self.progress = beat, beat.progress

    def recall(self, events: tuple[Event, ...]) -> None:
        """What an execution before this one found out, in the same process."""
        self.events = events + self.events
        self._told.update(_key(event) for event in events if event.kind == "launcher gone")  # found anew by each

    def on_event(self, hook: Hook) -> None:
        """Call `hook` with each event from now on."""
        self._hooks.append(hook)

    def during(self, phase: str) -> AbstractContextManager[None]:
        """The program's thread is in `phase` (health/phases.py) inside the block."""
        return nullcontext() if self._beat is None else self._beat.during(phase)

    def call(self, entering: bool) -> None:
        """The program goes into a call of MPI of its own, or comes out of it."""
        if self._beat is not None:
            self._beat.board.call(entering)

    @property
    def calls(self) -> Callable[[bool], None] | None:
        """`call`, as directly as can be, for what is called often; None where nobody is watched."""
        return None if self._beat is None else self._beat.board.call

    def mark(self, group: Group) -> Group:
        """`group` for the program's thread, whose waits in it are known as such."""
        return group if group.size == 1 else _Marked(group, self)

    def leave(self) -> None:
        """From now on this process is on its way out: it may take its time."""
        if self._beat is not None:
            self._beat.enter("leaving")

    def stop(self, lost: bool = False) -> None:
        """Nothing is expected of this process any more. May be called again, and by any thread. `lost`: other ranks are; what
        has become of those of this node is told first."""
        beat, self._beat, self.progress = self._beat, None, None
        if beat is not None:
            beat.stop(lost=lost)

    def _tell(self, event: Event) -> None:
        if _key(event) in self._told:
            return
        self._told.add(_key(event))
        self.events += (event,)
        for hook in tuple(self._hooks):
            try:
                hook(event)
            except Exception:
                log.warning("what the program does on a health event failed: %s", event, exc_info=True)


def _key(event: Event) -> tuple[str, int | None, str]:
    return event.kind, event.rank, event.host


def _report(event: Event) -> None:
    log.warning("%s%s", event, f"\n{event.stacks}" if event.stacks else "")


class _Marked:
    """A group (see `Group`) whose waits are told."""

    def __init__(self, group: Group, watching: Watching) -> None:
        self._group, self._watching = group, watching
        self.rank, self.size, self.comm = group.rank, group.size, group.comm

    def gather(self, data: bytes, members: range, what: str, *, patience: int = 1) -> list[bytes] | None:
        with self._watching.during("waiting for ranks"):
            return self._group.gather(data, members, what, patience=patience)

    def broadcast(self, data: bytes | None, members: range, what: str, *, patience: int = 1) -> bytes:
        with self._watching.during("waiting for ranks"):
            return self._group.broadcast(data, members, what, patience=patience)

    def begin_max(self, *values: int) -> Pending:
        return _MarkedPending(self._group.begin_max(*values), self._watching)

    def close(self) -> None:
        self._group.close()


class _MarkedPending:
    def __init__(self, pending: Pending, watching: Watching) -> None:
        self._pending, self._watching = pending, watching
        self.test = pending.test

    def wait(self) -> tuple[int, ...]:
        found = self.test()  # what has come already, as at most loop heads, is not waited for
        if found is not None:
            return found
        with self._watching.during("waiting for ranks"):
            return self._pending.wait()
