"""A thread on each rank that beats, looks at the others of its node, has what it saw judged, and acts on that.

It looks into /proc at the two processes behind its own slot, at its part of the spares, and at those that gave it a reason: a
beat that is missing, a mark that another watcher made, a loop that stands still. So each is always looked at by two, and a
node of 64 ranks costs each of them no more than one of four.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from _thread import start_new_thread
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event as Flag
from threading import Lock, get_ident

from ..errors import UsageError
from .board import Board
from .events import KINDS, Event
from .judging import PERIOD, Limits, Memory, Own, Seen, Verdict, judge
from .layout import NO_RANK, Slot
from .phases import CALLING, COMPUTING, LEFT, PHASES, STANDING, STORAGE
from .processes import is_dead, look, send, supervisor
from .stacks import Stacks, dump
from .waiting import waits

log = logging.getLogger("holdfast")

LIMITS = Limits()
NEIGHBOURS = 2
_MISSING = 3 * PERIOD  # without a beat: look
_AGAIN = 2.0  # seconds after which who was marked and still lives is killed by anyone
_DUMP = 0.5  # seconds that stacks are waited for: half of what detection may take
_LAST_WORDS = 1.0  # seconds that a process has to tell why it ends itself
_LAST = Own(suspended=True)  # whose times begin anew: it judges no waits
_LAUNCHER = 10  # beats between looks at it
_CALLING = 1.0  # seconds for which it holds that a process was seen in a call of MPI by itself
_NANO = 1e-9


class Beat:
    """Health of the ranks of a node, as one of them sees it (each process makes its own, in its program's thread; local).

    `board`: joined already; it is left by `stop`. `on_event`: called in the beat's thread for each Event, also for those
    that another process found out; it must return soon, and what it raises is logged. `limits`: in seconds. `stacks`:
    whether this process lets itself be asked for its stacks. `kill`: asked before a process is ended that was judged
    stopped or stalled; False leaves it alone. `launcher`: (pid, start) of the `holdfast run` above, if it lives on this
    node. `report`: called before `on_event` for what no other process of the node reports: once for all of them. `moves`:
    asked at each beat in which this process is at a checkpoint or restores: whether it gets on with that, which is progress.
    `spare_died`: called with (pid, start) of a spare of this node that is dead for certain, before its event is told.
    """

    def __init__(
        self,
        board: Board,
        on_event: Callable[[Event], object],
        *,
        limits: Limits = LIMITS,
        stacks: bool = True,
        kill: Callable[[Event], bool] = lambda event: True,
        launcher: tuple[int, int] | None = None,
        report: Callable[[Event], object] = lambda event: None,
        moves: Callable[[], bool] = lambda: False,
        spare_died: Callable[[int, int], object] = lambda pid, start: None,
    ) -> None:
        self.board, self.limits = board, limits
        self.progress: Callable[..., None] = board.progress  # (step=-1): the cheap call for loop heads
        self._on_event, self._may_kill = on_event, kill
        self._report, self._moves, self._spare_died = report, moves, spare_died
        self._host = os.uname().nodename
        self._launcher = launcher or supervisor()
        self._memory, self._count = Memory(), 0
        self._stacks = Stacks(board.path, board.pid, board.start) if stacks else None
        self._ending, self._running = Flag(), Lock()
        self._thread, self._program = 0, get_ident()
        self._lost = False
        self.seconds = 0.0  # of processor time that the thread has used, until now

    def start(self) -> None:
        """Begin to beat. Raises RuntimeError where no thread can be had, as on the way out of the interpreter."""
        if self._stacks is not None:
            self.board.take_signal(self._stacks.arm())
        # One call that runs or does not: a threading.Thread whose start is interrupted can stand still for ever
        # (engine/workers.py has it as a class, on a floor above).
        start_new_thread(self._run, ())

    def end(self, lost: bool = False) -> None:
        """Nothing is expected of this process any more: the thread ends, soon. `lost`: other ranks are, by what MPI says, which
        is sooner: a last look is to tell what has become of them. `stop` is still to be called."""
        if os.getpid() == self.board.pid and not self._ending.is_set():
            self.board.enter(LEFT)
            self._lost = lost
            self._ending.set()

    def stop(self, timeout: float = 2.0) -> None:
        """`end`, and leave the board. Waits for the thread, at most `timeout` seconds. May be called again; also without
        `start`, and from `on_event`."""
        if os.getpid() != self.board.pid:  # a child made by fork has neither the thread nor the files
            return
        self.end()
        if get_ident() != self._thread and self._running.acquire(timeout=timeout):
            self._running.release()
        if self._stacks is not None:
            self.board.take_signal(0)
            self._stacks.disarm()
        self.board.leave()

    def note(self, kind: str, nbytes: int) -> None:
        """Bytes were flushed or read: progress. `kind`: what for, of which nothing is made yet; any thread."""
        self.board.note(nbytes)

    def enter(self, phase: str) -> str:
        """What this process is in from now on, one of PHASES up to `leaving`; returns what it was in. Else UsageError."""
        if phase not in PHASES[:LEFT]:
            raise UsageError(f"There is no phase {phase!r:.80}: it is one of {', '.join(PHASES[:LEFT])}.")
        if self._ending.is_set():  # a thread of the program's may yet come out of what it was in
            return phase
        return PHASES[self.board.enter(PHASES.index(phase))]

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """`enter`, and what it was in before at the end."""
        before = self.enter(phase)
        try:
            yield
        finally:
            self.enter(before)

    def take_rank(self, rank: int) -> None:
        """Another rank is this process's, as after a repair; NO_RANK for a spare."""
        self.board.take_rank(rank)

    def _run(self) -> None:
        with self._running:
            self._thread = get_ident()
            due = time.monotonic()
            while not self._ending.is_set():
                try:
                    self._once()
                except Exception:  # a look that failed must not end the watch
                    log.warning("health: a look at the ranks of this node failed", exc_info=True)
                self.seconds = time.thread_time()
                due = max(due + PERIOD, time.monotonic() + PERIOD / 2)
                self._ending.wait(max(0.0, due - time.monotonic()))
            if self._lost:
                try:
                    self._last()
                except Exception:
                    log.warning("health: the last look at the ranks of this node failed", exc_info=True)

    def _once(self) -> None:
        board = self.board
        board.beat()
        if board.phase in STORAGE and self._moves():
            board.progress()
        self._sample(board)
        if (
            self._launcher is not None
            and self._count % _LAUNCHER == 0
            and is_dead(look(self._launcher[0]), self._launcher[1])
        ):
            gone = Event("launcher gone", None, self._host, f"process {self._launcher[0]} is gone", time.time())
            self._tell(gone, board.slot == 0)
            self._launcher = None
        self._count += 1
        slots = board.read()
        now = time.monotonic()
        seen = self._look(slots, now)
        own = Own(board.slot, time.process_time(), any(s.state == "T" for s in seen) and self._launcher_stopped())
        verdicts, self._memory = judge(seen, now, self.limits, self._memory, own)
        if verdicts:
            self._act(verdicts, slots)
        for one in seen:  # its watcher may have died before it could act
            if one.told in ("stopped", "stalled") and now - one.told_at > _AGAIN and one.state and one.phase != LEFT:
                self._end(one, self._event(one.told, one, "it lives on although it was to be killed"))

    def _sample(self, board: Board) -> None:
        """Whether the program's thread waits in a call of MPI: looked at only when it may soon be judged, since it costs."""
        stall, phase = self.limits.stall, board.phase
        if stall is None or phase not in (COMPUTING, CALLING) or self._ending.is_set():
            return
        late = board.still > stall / 2
        waiting = late and waits(self._program)
        if phase == COMPUTING:
            board.calling(waiting)
        elif late and not waiting:  # in the midst of a call something of the program's own runs, as a signal's handler
            board.call_away()

    def _last(self) -> None:
        """Who has died by now, and what others have found out; nobody is judged to hang any more."""
        slots = self.board.read()
        now = time.monotonic()
        verdicts, self._memory = judge(self._look(slots, now, everyone=True), now, self.limits, self._memory, _LAST)
        self._act([v for v in verdicts if v.kind == "died" or not v.first], slots)

    def _look(self, slots: list[Slot], now: float, everyone: bool = False) -> list[Seen]:
        own, stall = self.board.slot, self.limits.stall
        there = [i for i, s in enumerate(slots) if s.phase != LEFT and s.pid and s.start and i != own]
        spares = [i for i in there if slots[i].phase == STANDING]  # who don't look themselves
        others = [i for i in there if slots[i].phase != STANDING]
        place = sum(i < own for i in others)
        near = set((others[place:] + others[:place])[:NEIGHBOURS])
        near.update(i for n, i in enumerate(spares) if (n - place) % (len(others) + 1) < NEIGHBOURS)
        seen = []
        for i in [*there, own] if own < len(slots) else there:
            s = slots[i]
            beat_at, progress_at = s.beat_at * _NANO, s.progress_at * _NANO
            told = KINDS[s.verdict - 1] if 0 < s.verdict <= len(KINDS) else ""
            still = stall is not None and now - progress_at >= stall
            missing = now - beat_at > _MISSING and s.phase != STANDING  # a spare never beats
            reason = everyone or i in near or missing or told or still
            state, found = look(s.pid) if reason and i != own else (None, 0)
            # Seen by itself, since calls of its own are told only on communicators that are known to wait for others.
            sampled = s.phase == COMPUTING and s.call_at * _NANO > max(progress_at, now - _CALLING)
            phase = CALLING if sampled else s.phase
            seen.append(
                Seen(i, s.pid, s.start, s.rank, phase, s.beats, beat_at, progress_at, s.step, state, found, told,
                     s.verdict_at * _NANO)
            )  # fmt: skip
        return seen

    def _launcher_stopped(self) -> bool:
        """Whether who started us is stopped: a batch system or a person suspends the job."""
        above = [os.getppid(), *([self._launcher[0]] if self._launcher else [])]
        return any(look(pid).state == "T" for pid in above)

    def _act(self, verdicts: list[Verdict], slots: list[Slot]) -> None:
        """Mark, ask for stacks, end, tell: in this order, so that others see soon that someone acts."""
        mine: list[Verdict] = []
        now = self.board.read()
        for verdict in verdicts:
            i, number = verdict.seen.slot, KINDS.index(verdict.kind) + 1
            # The first mark stays: who is dead anyway is seen to be, but why it was ended would be lost.
            if verdict.first and verdict.kind != "silent" and i < len(now) and now[i].verdict == 0:
                self.board.mark(i, number)
                mine.append(verdict)
        stalled = [slots[v.seen.slot] for v in mine if v.kind == "stalled"]
        texts = dump(self.board.path, [(s.pid, s.start, s.signal) for s in stalled if s.signal], _DUMP)
        own: list[tuple[Seen, Event]] = []
        for verdict in verdicts:
            one = verdict.seen
            event = self._event(verdict.kind, one, verdict.detail, texts.get(one.pid, ""))
            if verdict in mine and verdict.kind in ("stopped", "stalled"):
                if one.slot == self.board.slot:
                    own.append((one, event))
                    continue
                self._end(one, event)
            if event.kind == "spare lost":
                self._spare_died(one.pid, one.start)
            self._tell(event, verdict in mine or verdict.kind == "silent")
        for one, event in own:  # last: there is no afterwards
            # Telling may never end: what hangs may hold a lock that it needs.
            start_new_thread(self._end_later, (one, event))
            self._tell(event, True)
            self._end(one, event)

    def _end_later(self, one: Seen, event: Event) -> None:
        time.sleep(_LAST_WORDS)
        self._end(one, event)

    def _end(self, one: Seen, event: Event) -> None:
        slots = self.board.read()
        if event.kind == "stalled":
            s = slots[one.slot] if one.slot < len(slots) else None  # None: this process has left meanwhile
            if s is None or s.phase == LEFT or s.progress_at > s.verdict_at:  # what it waited for may have been ended
                return
        if self._may_kill(event):
            send(one.pid, one.start, signal.SIGKILL)

    def _event(self, kind: str, one: Seen, detail: str, text: str = "") -> Event:
        rank = None if one.rank == NO_RANK else one.rank
        if kind == "died" and one.phase == STANDING:
            kind = "spare lost"
        phase = PHASES[one.phase] if 0 <= one.phase < len(PHASES) else "an unknown phase"
        return Event(kind, rank, self._host, f"{detail} ({phase})" + (f"\n{text}" if text else ""), time.time())

    def _tell(self, event: Event, report: bool) -> None:
        for call in [self._report, self._on_event] if report else [self._on_event]:
            try:
                call(event)
            except BaseException:  # whatever the program raises there: the thread goes on looking after the ranks
                log.warning("health: what the program does on %r failed", event.kind, exc_info=True)
