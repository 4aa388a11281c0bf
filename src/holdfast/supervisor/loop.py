"""The supervisor: execute, clear up, gather, judge, and again.

Nothing here waits without a deadline but for the program's own computing. Everything that must survive the
supervisor's death is in the stores: kill it, start the same command again, and it goes on.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from dataclasses import dataclass, replace

from ..errors import UsageError
from ..run.timelimit import DEADLINE, find_deadline
from ..units import seconds_text
from . import account, crashloop, facts, hosts, launcher, leftovers, reach, surviving
from .child import Signals, Watch
from .execution import HOSTFILE, TIME_LIMIT, Running, State
from .folder import meeting_place
from .judge import Verdict, failed_behind, fell_for, in_crash_loop, judge, pause


@dataclass(frozen=True)
class Plan:
    """What to supervise and how: `program` (name and arguments), `ranks` (None: serial), `max_restarts` (None: as many
    as make progress), `mpi_args` (for mpirun), `prefix` (mark lines with their rank), `grace` (seconds for a last
    checkpoint), `quiet` (no account on stderr), `report` (file for the JSON report), `hostfile` (nodes for the ranks), `spares`
    (how many of them, from its end, are kept to take the place of lost ones), `time_limit` (seconds after which the program has
    left; None: as long as the batch system gives), `spare_ranks` (processes that are started to take the place of ranks that
    die)."""

    program: tuple[str, ...]
    ranks: int | None = None
    max_restarts: int | None = None
    mpi_args: tuple[str, ...] = ()
    prefix: bool = False
    grace: float = 30.0
    quiet: bool = False
    report: str | None = None
    hostfile: str | None = None
    spares: int = 0
    time_limit: float | None = None
    spare_ranks: int = 0


def supervise(plan: Plan) -> int:
    """Executes the program until the runs that it opens are complete; the exit code (see `holdfast.cli`).

    To be called from the main thread: it takes SIGTERM, SIGINT, SIGUSR1 and SIGHUP for requests to the program.
    UsageError: program or MPI are missing, the hostfile can't be read or has too few slots; StorageError, DamageError: a
    run's catalog can't be read; RunInUseError: what is left of the program can't be ended.
    """
    roster = _roster(plan)
    told = account.Account(plan.quiet)
    environment, deadline = _limited(plan, told)
    away = plan.ranks is not None and (roster is not None or launcher.elsewhere(plan.mpi_args, os.environ))
    with Signals() as signals, contextlib.ExitStack() as stack:
        over = _take_over(plan, environment, told, signals) if away else []  # before the place of its reports is swept away
        folder, complaint = stack.enter_context(meeting_place(away))
        command = launcher.command(
            plan.program,
            ranks=plan.ranks,
            mpi_args=plan.mpi_args,
            prefix=plan.prefix,
            grace=plan.grace,
            hostfile=os.path.join(folder, HOSTFILE) if roster else None,
            environment=environment,
            spares=plan.spare_ranks,
        )
        if complaint:
            told.say(complaint)
        if command.mpi is not None and (line := leftovers.end_unopened(command.words)):
            told.say(line)
        state = State(command, told, signals, folder, plan.grace, roster, away, spares=plan.spare_ranks)
        state.ended += over
        if plan.time_limit is not None and deadline is not None:  # the batch system's own it enforces itself
            state.deadline = time.monotonic() + deadline - time.time()
        supervisor = _Supervisor(plan, state, deadline)
        verdict = supervisor.run()
        told.verdict(verdict, supervisor.executions)
        supervisor.salvage()
    if plan.report and supervisor.executions:
        content = account.report(verdict, supervisor.executions, command.mpi is None)
        if complaint := account.write_report(plan.report, content):
            told.say(complaint)
    return verdict.exit


def _take_over(plan: Plan, environment: dict[str, str], told: account.Account, signals: Signals) -> list[str]:
    """Ends what a supervisor that was killed has left of this program on other hosts; names of starts that are over by that."""
    path = os.pathsep.join([os.path.dirname(sys.executable), *filter(None, [environment.get("PATH")])])
    words = launcher.program_words(plan.program, path)
    over, line = leftovers.take_over(words, environment, plan.grace, hurry=lambda: signals.pending > 0)
    if line:
        told.say(line)
    return over


def _limited(plan: Plan, told: account.Account) -> tuple[dict[str, str], float | None]:
    """The program's environment, with the time (unix) by which it is to have left, if there is one."""
    environment = dict(os.environ)
    deadline = find_deadline(environment)
    if plan.time_limit is not None:
        given = time.time() + plan.time_limit
        deadline = given if deadline is None else min(given, deadline)
    if deadline is not None:
        environment[DEADLINE] = repr(deadline)
        told.say(f"time limit: {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(deadline))}")
    return environment, deadline


def _roster(plan: Plan) -> hosts.Roster | None:
    if plan.hostfile is None:
        return None
    if plan.ranks is None:
        raise UsageError("A hostfile is for ranks, and a serial program has none. Nothing was started. Say -n.")
    if launcher.names_nodes(plan.mpi_args):
        raise UsageError(
            "Both --hostfile and --mpi-args say on which nodes to start. Nothing was started. Leave one of them out."
        )
    try:
        with open(plan.hostfile, encoding="utf-8", errors="replace") as f:
            text = f.read()
    except OSError as error:
        raise UsageError(
            f"The hostfile {plan.hostfile} can't be read: {error.strerror}. Nothing was started.", file=plan.hostfile
        ) from None
    return hosts.choose(hosts.parse_hostfile(text, plan.hostfile), plan.ranks + plan.spare_ranks, plan.spares)


class _Supervisor:
    """Starts, asks which nodes are left, judges, and again."""

    def __init__(self, plan: Plan, state: State, deadline: float | None) -> None:
        self.plan = plan
        self.state = state
        self.deadline = deadline  # unix time by which the program is to have left
        self.executions: list[facts.Execution] = []
        self.reached = False  # whether a node has ever answered
        self.falls: tuple[facts.Fall, ...] = ()  # of which it is not known yet whether they helped

    def run(self) -> Verdict:
        state = self.state
        for line in self._look_for_nodes()[1]:  # what is lost already is replaced before the first start
            state.told.say(line)
        while True:
            running = Running(state, len(self.executions) + 1)
            execution = running.run()
            state.ended.append(running.name)
            lines: list[str] = []
            if state.asked is None and (not execution.complete or failed_behind(execution)):
                lost, lines = self._look_for_nodes()
                execution = replace(execution, lost_nodes=lost)
            execution = replace(execution, falls=self.falls)
            self.executions = [facts.learn(before, running.opened) for before in self.executions]
            self.executions.append(execution)
            self._note_late()
            verdict = self._judge()
            if verdict is None:
                if not (execution.lost_nodes or execution.stillborn):
                    self.falls = ()  # it has come beyond what was given up, or nodes may tell that it has
                fallen: list[str] = []
            elif (fallen := self._fall_back(verdict)) == []:
                return verdict
            execution = self.executions[-1]
            state.told.died(execution, state.serial, fallen)
            state.last = execution
            for line in lines:
                state.told.say(line)
            self._pause()
            if state.asked is not None and (verdict := self._judge()) is not None:
                return verdict

    def _judge(self) -> Verdict | None:
        asked, plan = self.state.asked, self.plan
        return judge(self.executions, asked=asked, max_restarts=plan.max_restarts, serial=self.state.serial)

    def _note_late(self) -> None:
        """A request that came while nothing ran, or a time limit that is over: then nothing is started again."""
        state = self.state
        if state.asked is None and (late := state.signals.take()):
            state.asked = late[0].name
        if state.asked is None and self.deadline is not None and time.time() >= self.deadline:
            state.asked = TIME_LIMIT

    def _fall_back(self, verdict: Verdict) -> list[str]:
        """After a verdict of no progress: takes the runs that get nowhere back to the version before, if that may help; lines
        to tell, none if nothing was taken back."""
        allowed = self.plan.max_restarts is None or len(self.executions) <= self.plan.max_restarts
        if verdict.outcome != "no progress" or not allowed or not in_crash_loop(self.executions) or fell_for(self.executions):
            return []
        self.executions[-1], self.falls, lines = crashloop.fall_back(self.executions[-1])
        if not self.falls:
            for line in lines:
                self.state.told.say(line)
            return []
        return lines

    def _pause(self) -> None:
        """Waits before the next start when there was no progress; a request or the time limit ends the wait."""
        seconds = pause(self.executions)
        if seconds:
            self.state.told.say(f"waits {seconds_text(seconds)} before the next start")
        until = time.monotonic() + seconds
        watch = Watch()
        self._note_late()
        while self.state.asked is None and (rest := until - time.monotonic()) > 0:
            if self.deadline is not None:
                rest = min(rest, max(0.0, self.deadline - time.time()))
            self.state.signals.wait(rest, watch)
            self._note_late()

    def salvage(self) -> None:
        """Brings to the runs' own stores what nodes still hold of those that are given up: soon the nodes may be others'.

        A run whose program left in good order has its last version there.
        """
        state = self.state
        placed = {run.url for execution in self.executions for run in execution.runs if run.places}
        last = self.executions[-1].runs if self.executions else ()
        left = [run for run in last if run.url in placed and not run.complete and run.rival is None]
        urls = [run.url for run in left if run.end is None or run.end.outcome not in ("interrupted", "closed")]
        if urls and state.away and state.roster is None:
            state.told.say("its nodes may hold newer versions: `holdfast salvage --hostfile` brings them to the run's store")
        elif urls:
            hosts = None if state.roster is None else state.roster.hosts
            surviving.salvage_after(
                urls, hosts, state.told.say, ended=state.ended, mpi_args=self.plan.mpi_args,
                hurry=lambda: state.signals.pending > 0,
            )  # fmt: skip

    def _look_for_nodes(self) -> tuple[tuple[str, ...], list[str]]:
        """Asks all nodes and puts others in the place of those in use that give no answer: the names of these, and
        what there is to tell."""
        state, roster = self.state, self.state.roster
        if roster is None or state.command.mpi is None:
            return (), []
        environment = state.command.environment
        words = reach.agent(state.command.mpi.kind, self.plan.mpi_args, environment)
        silent = reach.silent(roster.names, words, environment, hurry=lambda: state.signals.pending > 0)
        if not self.reached and len(silent) == len(roster.names):
            # Then it is rather the question that does not get through; whether mpirun does will be seen.
            lines = [f"no node answers `{' '.join(words)} NODE true`: lost nodes can't be told from others"]
            return (), [] if self.executions else lines
        self.reached = True
        state.roster, lines = hosts.adapt(roster, silent)
        return tuple(seat.host.name for seat in roster.used if seat.host.name in silent), lines
