"""The supervisor: execute, clear up, gather, judge, and again.

Nothing here waits without a deadline but for the program's own computing. Everything that must survive the
supervisor's death is in the stores: kill it, start the same command again, and it goes on.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ..catalog import Process, evict
from ..catalog.eviction import send
from ..errors import HoldfastError
from . import account, facts, launcher
from .child import Child, Signals, Watch, is_proxy
from .judge import Verdict, judge

TICK = 0.5  # seconds between looks at what the program has reported,
FIRST_TICK = 0.1  # and until it has reported its first attempt: then its ranks are known, and watched
IDLE = 10.0  # seconds that mpirun gets to leave when none of its ranks lives
MOMENT = 2.0  # seconds that processes get to vanish by themselves when what was started has left in good order


@dataclass(frozen=True)
class Plan:
    """What to supervise and how: `program` (name and arguments), `ranks` (None: serial), `max_restarts` (None: as many
    as make progress), `mpi_args` (for mpirun), `prefix` (mark lines with their rank), `grace` (seconds for a last
    checkpoint), `quiet` (no account on stderr), `report` (file for the JSON report)."""

    program: tuple[str, ...]
    ranks: int | None = None
    max_restarts: int | None = None
    mpi_args: tuple[str, ...] = ()
    prefix: bool = False
    grace: float = 30.0
    quiet: bool = False
    report: str | None = None


def supervise(plan: Plan) -> int:
    """Executes the program until the runs that it opens are complete; the exit code (see `holdfast.cli`).

    To be called from the main thread: it takes SIGTERM, SIGINT, SIGUSR1 and SIGHUP for requests to the program.
    UsageError: program or MPI are missing; StorageError, DamageError: a run's catalog can't be read; RunInUseError:
    what is left of the program can't be ended.
    """
    command = launcher.command(
        plan.program, ranks=plan.ranks, mpi_args=plan.mpi_args, prefix=plan.prefix, grace=plan.grace
    )
    told = account.Account(plan.quiet)
    with Signals() as signals, tempfile.TemporaryDirectory(prefix="holdfast-") as folder:
        supervisor = _Supervisor(plan, command, told, signals, folder)
        verdict = supervisor.run()
    told.verdict(verdict, supervisor.executions)
    if plan.report and supervisor.executions:
        content = account.report(verdict, supervisor.executions, supervisor.serial)
        if complaint := account.write_report(plan.report, content):
            told.say(complaint)
    return verdict.exit


class _Supervisor:
    """The state between executions: what was started, what was asked, which runs are known."""

    def __init__(
        self, plan: Plan, command: launcher.Command, told: account.Account, signals: Signals, folder: str
    ) -> None:
        self.plan = plan
        self.command = command
        self.told = told
        self.signals = signals
        self.folder = folder
        self.serial = command.mpi is None
        self.executions: list[facts.Execution] = []
        self.asked: signal.Signals | None = None
        self.until = float("inf")  # monotonic time at which the grace of a request ends
        self.urls: dict[str, None] = {}  # runs that any execution has opened, in order

    def run(self) -> Verdict:
        while True:
            execution = _Execution(self, len(self.executions) + 1)
            self.executions.append(execution.run())
            if self.asked is None and (late := self.signals.take()):
                self.asked = late[0]  # came while nothing ran: then nothing is started again
            asked = self.asked.name if self.asked else None
            verdict = judge(self.executions, asked=asked, max_restarts=self.plan.max_restarts, serial=self.serial)
            if verdict is not None:
                return verdict
            self.told.died(self.executions[-1], self.serial)


class _Execution:
    """One start of the program, from its first process to its last."""

    def __init__(self, owner: _Supervisor, number: int) -> None:
        self.owner = owner
        self.number = number
        self.report = os.path.join(owner.folder, f"{number}.jsonl")
        self.opened: list[facts.Opened] = []
        self.processes: list[Process] = []  # ranks of the newest attempts, where known
        self.watch = Watch()
        self.empty_since: float | None = None

    def run(self) -> facts.Execution:
        owner = self.owner
        owner.told.starts(owner.command.shown)
        began = time.time()
        environment = {**owner.command.environment, launcher.REPORT: self.report}
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
        runs = facts.gather(owner.urls, self.opened)
        return facts.Execution(self.number, began, ended, code, runs, cleared, self.watch.first_dead)

    def _turn(self, child: Child) -> None:
        """Waits a little for something to happen, and does what it asks for."""
        owner = self.owner
        tick = TICK if self.opened else FIRST_TICK
        owner.signals.wait(min(tick, max(0.0, owner.until - time.monotonic())), self.watch)
        self._look()
        for number in owner.signals.take():
            if owner.asked is None:
                owner.asked = number
                owner.until = time.monotonic() + owner.plan.grace
                owner.told.say(f"{number.name}: asks for a last checkpoint, waits up to {owner.plan.grace:g} s")
                self._ask(child, number)
            else:
                owner.told.say(f"{number.name} again: ends the program at once")
                owner.until = 0.0
        if time.monotonic() >= owner.until:
            if owner.until:
                owner.told.say("the program has not left in time: it is ended")
            owner.until = float("inf")
            self._kill(child)
        elif not owner.serial and self._empty(child):
            owner.told.say("mpirun has no rank left and does not leave: it is ended")
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
            self.owner.told.opened(one, "has begun")

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
        for process in self.processes:
            if process.here:
                send(process, signal.SIGKILL)
        child.kill()

    def _empty(self, child: Child) -> bool:
        """Whether mpirun has been alone for too long: all its ranks are here and dead, and it does not leave."""
        alone = bool(self.processes) and all(p.here and not p.alive for p in self.processes)
        if not alone or any(p.pid != child.pid and not is_proxy(p) for p in child.members()):
            self.empty_since = None
            return False
        self.empty_since = self.empty_since or time.monotonic()
        return time.monotonic() - self.empty_since > IDLE

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
            evict(left, owner.plan.grace, hurry=lambda: owner.signals.pending > 1)
        else:
            rest = min(owner.until - time.monotonic(), owner.plan.grace) if owner.until < float("inf") else 0.0
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
