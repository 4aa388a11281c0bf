"""An execution that is watched: this process stands on its node's board, and what is found out there is told.

The program's thread says what it is in: at a checkpoint, where bytes that move are progress; waiting for ranks in a call of
the library's, which has a deadline, so that the fault is another's; in a call of MPI of its own. Where nobody is watched (one
rank, no `stall_timeout`) there is no thread, and nothing of `health` is imported.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

from ..errors import HoldfastError
from ..group import Group, together
from ..group.waiting import ranks_text
from .reporting import report_ended, report_spare_lost

if TYPE_CHECKING:
    from ..group.base import Pending
    from ..group.repair import Crew
    from ..group.repair.members import Member
    from ..health import Beat, Board, Event
    from ..health.far import Far
    from .handle import Handle

log = logging.getLogger("holdfast")

Hook = Callable[["Event"], object]
_HANDED = 32  # events that are handed to who takes a lost rank's place
_ONCE = ("launcher gone", "died", "stalled")  # spares have no names, and a node may be silent again


class Watching:
    """What this process knows of its node's ranks (local). `events`: found out so far, oldest first, each once; `progress`: for
    loop heads, with the outermost loop's step; None where nobody is watched."""

    def __init__(self) -> None:
        self.events: tuple[Event, ...] = ()
        self.progress: Callable[..., None] | None = None
        self._beat: Beat | None = None
        self._hooks: list[Hook] = []
        self._told: set[tuple[str, int | None, str]] = set()
        self._group: Group | None = None
        self._crew: Crew | None = None
        self._on_spare_lost: Callable[[Member], object] | None = None
        self._far: Far | None = None

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

        board: Board | None = None
        try:
            board = Board.join(memory_root(), run, attempt, rank)
        except (HoldfastError, OSError) as error:
            why = error.message if isinstance(error, HoldfastError) else error
            log.warning("rank %d on %s is not watched: %s", rank, os.uname().nodename, why)
        self._crew = None if self._group is None else _crew_of(self._group)
        far = self._watch_nodes(board, stall_timeout)
        if board is None:
            return
        beat = Beat(
            board, self._tell, limits=Limits(stall=stall_timeout), report=_report, moves=moves, spare_died=self._spare_died
        )
        self._watch_spares(board)
        try:
            beat.start()
        except RuntimeError as error:
            beat.stop()
            log.warning("rank %d on %s is not watched: %s", rank, os.uname().nodename, error)
            return
        self._beat, self.progress = beat, beat.progress
        if far is not None:
            with suppress(RuntimeError):  # no thread can be had: said of the beat's, if it is so for long
                far.start()
                self._far = far

    def recall(self, events: Sequence[Event]) -> None:
        """What was found out before this execution, by this process or by others."""
        self.events = tuple(events)
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
        self._group = group
        return group if group.size == 1 else _Marked(group, self)

    def leave(self) -> None:
        """From now on this process is on its way out: it may take its time."""
        if self._beat is not None:
            self._beat.enter("leaving")

    def leave_lost(self) -> None:
        """Ranks are lost, and nothing is expected of this process any more. What has become of those of this node is told by
        the beat's thread before it ends, which `stop` waits for."""
        self._let_go()
        if self._beat is not None:
            self._beat.end(lost=True)

    def stop(self) -> None:
        """Nothing is expected of this process any more. May be called again, and by any thread."""
        self._let_go()
        beat, self._beat = self._beat, None
        if beat is not None:
            beat.stop()

    def _let_go(self) -> None:
        self.progress = None
        crew = self._crew
        if crew is not None and crew.on_spare_lost is self._on_spare_lost:  # else a later execution's
            crew.on_spare_lost = None
        far, self._far = self._far, None
        if far is not None:
            far.stop()

    def _watch_spares(self, board: Board) -> None:
        """Spares of this node stand on its board, put there by one of its ranks; of others MPI tells that they are gone."""
        crew = self._crew
        if crew is None or not crew.repairable:
            return
        here = [one for one in crew.members if one.node == crew.me.node]
        if crew.rank == min((one.role for one in here if one.role >= 0), default=None):
            for one in here:
                if one.role < 0 and one.start:
                    try:
                        board.put(one.pid, one.start)
                    except (HoldfastError, OSError) as error:
                        log.warning("a spare on %s is not watched: %s", one.host, error)
        watched = {one.node for one in crew.members if one.role >= 0}

        def lost(one: Member) -> None:
            if one.node != crew.me.node:  # else it is seen on the board
                detail = f"process {one.pid} is gone, by what MPI says (standing by)"
                event = Event("spare lost", None, one.host, detail, time.time())
                if crew.rank == 0 and one.node not in watched:
                    _report(event)
                self._tell(event)

        from ..health import Event

        crew.on_spare_lost = self._on_spare_lost = lost

    def _watch_nodes(self, board: Board | None, stall: float | None) -> Far | None:
        """What looks for signs of other nodes (collective); None where there are none, or it can't be had."""
        group = self._group
        if group is None or group.size == 1:
            return None
        mine = [board.node if board is not None else "", os.uname().nodename, _briefly(self.events)]
        try:
            told: Any = together(group, "finding out which ranks share a node", mine)
            self._hear(told)
            names = list(dict.fromkeys(name for name, _, _ in told if name))
            if len(names) < 2:
                return None
            from ..group.repair.post import MpiPost, threads_allowed
            from ..health import Event, far
            from ..health.layout import NODES

            post = MpiPost(group.comm) if len(names) <= NODES and threads_allowed() else None
        except (HoldfastError, OSError) as error:
            log.warning("rank %d does not look for signs of other nodes: %s", group.rank, error)
            return None
        if post is None and group.rank == 0:
            why = f"there are more than {NODES}" if len(names) > NODES else "MPI was not initialised with THREAD_MULTIPLE"
            log.warning("nodes do not look for signs of each other: %s. The ranks of each look after each other.", why)
        if post is None or board is None:
            return None
        ranks = [[rank for rank, (name, _, _) in enumerate(told) if name == node] for node in names]

        def say(found: dict[int, float], what: str) -> None:
            lost = [(ranks[node], seconds) for node, seconds in found.items()]
            text = "; ".join(f"{ranks_text(its)} on {told[its[0]][1]} for {seconds:.0f} s" for its, seconds in lost)
            log.warning("no sign of %s. %s", text, what)

        def tell(found: dict[int, float]) -> None:
            heard = [rank for node, its in enumerate(ranks) for rank in its if node not in watcher.silent]
            if group.rank == min(heard):  # once for all that hear of each other
                say(found, "They are left alone; MPI will tell whether they live.")
            for node, seconds in found.items():
                for rank in ranks[node]:
                    detail = f"no sign of its node for {seconds:.0f} s"
                    self._tell(Event("silent", rank, told[rank][1], detail, time.time()))

        def call_off(found: dict[int, float]) -> None:
            crew = self._crew
            if crew is not None and crew.repairable and not crew.revoked:  # the first to come to it says so, or the first few
                say(found, "A repair is called for, in which those that are left find out who they are.")
                crew.revoke()

        watcher = far.Far(board, post, names.index(mine[0]), ranks, far.limits(stall, tell, call_off))
        return watcher

    def _hear(self, told: Sequence[Any]) -> None:
        """What any rank has found out before a repair: who has taken a lost one's place knows nothing of it yet. Several find
        the same, each at a time of its own; the same may have happened twice."""
        from ..health import Event

        most: dict[tuple[str, int | None, str], list[Event]] = {}
        for _, _, before in told:
            found: dict[tuple[str, int | None, str], list[Event]] = {}
            for event in map(Event.parse, before):
                found.setdefault(_key(event), []).append(event)
            for key, events in found.items():
                most[key] = max(most.get(key, []), events, key=len)
        mine = {(*_key(event), event.at): event for event in self.events}  # with stacks
        heard = sorted((event for events in most.values() for event in events), key=lambda event: event.at)
        self.recall([mine.get((*_key(event), event.at), event) for event in heard])

    def _spare_died(self, pid: int, start: int) -> None:
        if self._crew is not None:
            self._crew.count_out(pid, start)

    def _tell(self, event: Event) -> None:
        if event.kind in _ONCE and _key(event) in self._told:
            return
        self._told.add(_key(event))
        self.events += (event,)
        for hook in tuple(self._hooks):
            try:
                hook(event)
            except BaseException:  # sys.exit in it would end the thread that looks after the ranks
                log.warning("what the program does on a health event failed: %s", event, exc_info=True)


def _crew_of(group: Group) -> Crew | None:
    """Whose ranks the group connects, where a program was started with spares."""
    if not hasattr(group.comm, "_family"):
        return None
    from ..group.repair.crew import crew_of

    return crew_of(group.comm)


def _briefly(events: tuple[Event, ...]) -> list[dict[str, Any]]:
    """For other ranks: the last ones, without stacks."""
    return [event._replace(detail=event.detail.partition("\n")[0]).plain() for event in events[-_HANDED:]]


def _key(event: Event) -> tuple[str, int | None, str]:
    return event.kind, event.rank, event.host


def _report(event: Event) -> None:
    log.warning("%s%s", event, f"\n{event.stacks}" if event.stacks else "")
    if event.why_ended and event.rank is not None:
        report_ended(event.rank, event.why_ended)
    if event.kind == "spare lost":
        report_spare_lost(event.host)


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
