"""One start of the program: waits for what happens, passes requests on, clears up what is left."""

from __future__ import annotations

import os
import secrets
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..catalog import Process, evict
from ..catalog.attempts import ENDED, EXECUTION
from ..catalog.eviction import send
from ..errors import HoldfastError
from ..run.signals import TIME_LIMIT as _NUMBER
from ..run.signals import signal_name
from . import account, facts, hosts, launcher, leftovers
from .child import Child, Signals, Watch, is_proxy
from .origin import origin

TIME_LIMIT = signal_name(_NUMBER)  # where a signal's name stands else
TICK = 0.5  # seconds between looks at what the program has reported,
FIRST_TICK = 0.1  # and until it has reported from what it goes on: then its ranks are known, and watched
HOSTFILE = "hosts"
IDLE = 10.0  # seconds that mpirun gets to leave when none of its ranks lives
OWN_FAULT = 213  # exit code of Open MPI's mpirun after an error of its own (ERR_SILENT, -43)
EARLY = 1.5  # seconds that the others get to leave when one has gone before the run was opened
UNREPAIRED = 60.0  # seconds in which a lost rank is replaced in place, or all leave, several times over
START = 60.0  # seconds that mpirun gets to start its first rank, where we would see one
NAMES = 500  # names of earlier executions that are told to the next one
MOMENT = 2.0  # seconds that processes get to vanish by themselves when what was started has left in good order


@dataclass
class State:
    """What stays from one start to the next: what is started, where its words are looked for (`folder`), `grace` (seconds for a
    last checkpoint), the nodes, what was asked, which runs are known.

    `away`: ranks may be on other hosts, where we see none of them; `asked`: why the program was asked to leave (a signal's
    name, or TIME_LIMIT), None if it was not; `until`: monotonic time at which the grace of a request ends; `deadline`:
    monotonic time at which the user's time limit is over and the program is ended; `spares`: processes that have no rank
    yet; `urls`: runs that any start has opened, in order; `ended`: names of the starts that are over; `last`: the one before,
    from which nodes may hold more than the runs' own stores.
    """

    command: launcher.Command
    told: account.Account
    signals: Signals
    folder: str
    grace: float
    roster: hosts.Roster | None = None
    away: bool = False
    asked: str | None = None
    until: float = float("inf")
    deadline: float = float("inf")
    spares: int = 0
    urls: dict[str, None] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)
    last: facts.Execution | None = None

    @property
    def serial(self) -> bool:
        return self.command.mpi is None


class Running:
    """One start of the program, from its first process to its last."""

    def __init__(self, owner: State, number: int) -> None:
        self.owner = owner
        self.number = number
        self.name = secrets.token_hex(8)
        self.report = os.path.join(owner.folder, f"{number}.jsonl")
        self.opened: list[facts.Opened] = []
        self.processes: list[Process] = []  # ranks of the newest attempts, where known
        self.watch = Watch()
        self.empty_since: float | None = None
        self.started = owner.serial or owner.away  # whether any rank has been seen; of those elsewhere none will be
        self.start_until = float("inf")
        self.stillborn = False
        self.seen: set[tuple[int, int]] = set()  # ranks and spares, before a run was opened
        self.lost_since: float | None = None
        self.torn_since: float | None = None
        self.put_down = False  # whether it was killed by us
        self.overdue = False  # whether it was ended because its time was over, to the limit or behind a request
        self.resumed: list[tuple[facts.Opened, str]] = []  # attempts that go on from a version, and where its data came from
        self.tidied: set[str] = set()  # runs from which what earlier supervisors had left has been cleared away

    def run(self) -> facts.Execution:
        # There before anybody looks: that a file is missing is remembered for a while by other hosts' file systems.
        with open(self.report, "wb"):
            pass
        if self.owner.roster is not None and self.owner.command.mpi is not None:
            with open(os.path.join(self.owner.folder, HOSTFILE), "w") as f:
                f.write(self.owner.roster.text(self.owner.command.mpi.kind))
        with tempfile.TemporaryDirectory(prefix="holdfast-mpi-", ignore_cleanup_errors=True) as session:
            return self._run(session)

    def _run(self, session: str) -> facts.Execution:
        owner = self.owner
        owner.told.starts(owner.command.shown, owner.roster)
        began = time.time()
        self.start_until = time.monotonic() + START
        environment = {
            **launcher.own_session(owner.command, session),
            launcher.REPORT: self.report,
            EXECUTION: self.name,
            ENDED: ",".join(owner.ended[-NAMES:]) or "none",
        }
        child = Child(owner.command.arguments, environment, None if owner.serial else launcher.REPORT)
        try:
            while not child.dead:
                self._turn(child)
            ended = time.time()
            self._look()
            cleared = self._clear(child)
            code = child.reap()
        finally:
            child.end()
            self.watch.close()
        stillborn = self.stillborn or (not owner.serial and not self.opened and code == OWN_FAULT)
        runs = facts.gather(owner.urls, self.opened, self.name)
        orphans = not runs and code != 0 and leftovers.any_left()
        first_dead = self.watch.first_dead
        return facts.Execution(
            self.number, began, ended, code, runs, cleared, first_dead, stillborn=stillborn, overdue=self.overdue,
            spares=owner.spares, repairs=self._repairs(), orphans=orphans, resumed=tuple(self.resumed),
            judged=facts.read_ended(self.report), repaired_lost=facts.repaired_lost(self.opened) if owner.spares else 0.0,
            fault=self.watch.fault, put_down=self.put_down, spares_lost=facts.read_spares_lost(self.report),
        )

    def _repairs(self) -> int:
        """How often its ranks were repaired in place: each time the run was opened once more."""
        opened = Counter(url for url, _ in {(one.url, one.attempt) for one in self.opened})
        return max(opened.values(), default=1) - 1 if self.owner.spares else 0

    def _turn(self, child: Child) -> None:
        """Waits a little for something to happen, and does what it asks for."""
        owner = self.owner
        tick = TICK if self.opened and self.opened[-1].settled else FIRST_TICK
        first = min(owner.until, owner.deadline)
        owner.signals.wait(min(tick, max(0.0, first - time.monotonic())), self.watch)
        self._look()
        for number in owner.signals.take():
            if owner.asked is None:
                owner.asked = number.name
                owner.until = time.monotonic() + owner.grace
                owner.told.say(f"{number.name}: asks for a last checkpoint, waits up to {owner.grace:g} s")
                self._ask(child, number)
            else:
                owner.told.say(f"{number.name} again: ends the program at once")
                owner.until = 0.0
        if time.monotonic() >= owner.deadline:
            owner.told.say("the time limit is over and the program has not left: it is ended")
            owner.asked, self.overdue = owner.asked or TIME_LIMIT, True
            owner.deadline = owner.until = float("inf")
            self._kill(child)
        elif time.monotonic() >= owner.until:
            if owner.until:  # else by a second signal, which is no question of time
                owner.told.say("the program has not left in time: it is ended")
                self.overdue = True
            owner.until = float("inf")
            self._kill(child)
        elif not owner.serial and self._empty(child):
            owner.told.say("mpirun has no rank left and does not leave: it is ended")
            self._kill(child)
        elif owner.spares and self._unrepaired():
            owner.told.say(f"a rank has been gone for {UNREPAIRED:g} s and was not replaced: what is left of the job is ended")
            self._kill(child)
        elif owner.spares and not self.opened and self._lost_early(child):
            owner.told.say("a process has died before the run was opened, for which MPI waits for ever: it is ended")
            self.stillborn = True
            self._kill(child)
        elif not self.started and self._unborn(child):
            owner.told.say(f"mpirun has started no rank within {START:g} seconds: it is ended")
            self.stillborn = True
            self.start_until = float("inf")
            self._kill(child)

    def _look(self) -> None:
        """Takes in what the program has reported since the last look."""
        new = facts.read_report(self.report)[len(self.opened) :]
        if not new:
            return
        self.opened += new
        self.owner.urls.update(dict.fromkeys(one.url for one in new))
        try:
            self.processes = facts.processes_of(self.opened)
        except HoldfastError:
            self.processes = []  # unreadable: signals then go through what was started
        self.watch.add(self.processes)
        for one in new:
            if not one.settled:
                self.owner.told.opened(one, "has begun")
                if one.url not in self.tidied:
                    self.tidied.add(one.url)
                    if line := leftovers.end_superseded(one.url, {self.name, *self.owner.ended}):
                        self.owner.told.say(line)
                continue
            if self.owner.last is not None:
                self._learn(self.owner.last, one)
            if one.version is not None:
                self.resumed.append((one, origin(one, self.owner.away)))
                self.owner.told.restored(*self.resumed[-1])

    def _learn(self, last: facts.Execution, one: facts.Opened) -> None:
        """What was lost with the last start is known now; it was told already, if all versions are in the run's own store."""
        self.owner.last = facts.learn(last, [one])
        if any(run.url == one.url and run.places and not run.known for run in last.runs):
            self.owner.told.resumed(one, self.owner.last)

    def _ask(self, child: Child, number: signal.Signals) -> None:
        """Asks every rank once for a last checkpoint.

        The ranks themselves where they are all known and here: what was started may be a shell, which would die of
        the signal and take no checkpoint. Otherwise mpirun hands SIGUSR1 on to ranks elsewhere; a program that
        has not opened a run yet has nothing to save, and is ended.
        """
        if self.processes and all(p.here for p in self.processes):
            for process in self.processes:
                send(process, signal.SIGTERM if number is signal.SIGHUP else number)
        elif self.opened and not self.owner.serial:
            child.signal(signal.SIGUSR1)
        else:
            child.signal(signal.SIGTERM)

    def _kill(self, child: Child) -> None:
        self.put_down = True
        for process in self.processes:
            if process.here:
                send(process, signal.SIGKILL)
        child.kill()

    def _empty(self, child: Child) -> bool:
        """Whether mpirun has been alone for too long: all its ranks are here and dead, and it does not leave.

        One death of several is no end where there are spares: then mpirun goes on with those who live."""
        alone = bool(self.processes) and all(p.here and not p.alive for p in self.processes)
        # Spares that are left alone have nobody to repair with; had they taken a rank, it would have been reported.
        others = not self.owner.spares and any(p.pid != child.pid and not is_proxy(p) for p in child.members())
        if not alone or others:
            self.empty_since = None
            return False
        self.empty_since = self.empty_since or time.monotonic()
        return time.monotonic() - self.empty_since > IDLE

    def _unrepaired(self) -> bool:
        """Whether ranks are gone for good while others stay: a hung one, that nobody could end, keeps mpirun for ever when all
        others have left. Not at a run's end, after which ranks leave when they like."""
        gone = sum(p.here and not p.alive for p in self.processes)
        if not 0 < gone < len(self.processes):
            self.torn_since = None
            return False
        self.torn_since = self.torn_since or time.monotonic()
        if time.monotonic() - self.torn_since < UNREPAIRED:
            return False
        self.torn_since = None  # not looked at again at once
        try:
            runs = facts.gather(self.owner.urls, self.opened, self.name)
        except HoldfastError:
            return False
        return any(run.end is None and not run.complete for run in runs)

    def _lost_early(self, child: Child) -> bool:
        """Whether a rank or a spare is gone although no run was opened: with spares mpirun goes on, and the others wait in
        MPI's start, where nothing of theirs can look. For a moment it may be the program's end that is seen."""
        if self.owner.away:  # not seen from here
            return False
        now = child.ranks()
        self.seen |= now
        if self.seen == now or child.dead:
            self.lost_since = None
            return False
        self.lost_since = self.lost_since or time.monotonic()
        return time.monotonic() - self.lost_since > EARLY

    def _unborn(self, child: Child) -> bool:
        """Whether mpirun has had its time and has never had a process but its own helpers."""
        if self.opened or any(p.pid != child.pid and not is_proxy(p) for p in child.members()):
            self.started = True
        return not self.started and time.monotonic() > self.start_until

    def _clear(self, child: Child) -> bool:
        """Ends what outlived the process that was started; whether there was anything to end.

        Ranks are asked for a last checkpoint first, unless they have been asked already. A serial program's helpers are
        left alone once its runs are complete.
        """
        owner = self.owner
        left = self._left(child)
        until = time.monotonic() + (0.0 if child.killed else MOMENT)
        while left and time.monotonic() < until:
            time.sleep(0.02)
            left = self._left(child)
        if not left or (owner.serial and _complete(owner.urls, self.opened)):
            return False
        many = f"{len(left)} process{'es' * (len(left) != 1)} left behind ({_pids(left)})"
        owner.told.say(f"ends {many}" if owner.asked else f"asks {many} for a last checkpoint, then ends what is left")
        if owner.asked is None:
            evict(left, owner.grace, hurry=lambda: owner.signals.pending > 1)
        else:
            rest = min(owner.until - time.monotonic(), owner.grace) if owner.until < float("inf") else 0.0
            evict(left, max(0.0, rest), ask=None, hurry=lambda: owner.signals.pending > 0)
        return True

    def _left(self, child: Child) -> list[Process]:
        found = dict.fromkeys(p for p in child.members() if p.pid != child.pid)
        found.update(dict.fromkeys(p for p in self.processes if p.here and p.alive and p.pid != child.pid))
        return list(found)


def _complete(urls: dict[str, None], opened: Sequence[facts.Opened]) -> bool:
    return bool(urls) and all(run.complete for run in facts.gather(urls, opened))


def _pids(processes: Sequence[Process]) -> str:
    return ", ".join(str(p.pid) for p in processes[:8]) + (", ..." if len(processes) > 8 else "")
