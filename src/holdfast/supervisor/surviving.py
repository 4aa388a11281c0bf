"""One process on each surviving node, to look at a run or to salvage it; what `holdfast run` salvages before it gives up."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any, NamedTuple

from ..catalog.attempts import ENDED, EXECUTION
from ..catalog.eviction import SUPERVISOR
from ..config import load
from ..errors import Cause, HoldfastError, RankError, UsageError
from ..run.levels.program import MARK
from . import launcher, reach
from .facts import shown
from .hosts import Host, Roster, Seat, parse_hostfile

_MODULE = "holdfast.run.levels.program"
_TICK = 0.2  # seconds between looks at whether somebody is in a hurry
_PATIENCE = 4.0  # times the option `timeout` without a word after which it is ended: each of its waits has a deadline itself
_LEAVING = 10.0  # seconds that it gets to leave when it has been asked to, or has said all

Hurry = Callable[[], bool]


class Survivors(NamedTuple):
    """Nodes of a hostfile that answer, in its order, and names of those that don't."""

    hosts: tuple[Host, ...]
    silent: tuple[str, ...]

    def lines(self) -> list[str]:
        """For people."""
        return [f"node {name}: nothing can be had from it: it does not answer" for name in self.silent]


def read_hosts(path: str) -> tuple[Host, ...]:
    """The nodes that a hostfile names. UsageError."""
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return parse_hostfile(f.read(), path)
    except OSError as error:
        raise UsageError(
            f"The hostfile {path} can't be read: {error.strerror}. Nothing was started.", file=path
        ) from None


def find_survivors(hosts: Sequence[Host], mpi_args: Sequence[str] = (), hurry: Hurry = lambda: False) -> Survivors:
    """Ask each node for a sign, as mpirun would get there; if none answers, all are taken to be there, and mpirun says what it
    has to say. UsageError: there is no mpirun."""
    environment = dict(os.environ)
    mpi = launcher.find_mpi(_path(environment))
    words = reach.agent(mpi.kind, mpi_args, environment)
    silent = reach.silent([host.name for host in hosts], words, environment, hurry=hurry)
    if len(silent) == len(hosts):
        return Survivors(tuple(hosts), ())
    there = tuple(host for host in hosts if host.name not in silent)
    return Survivors(there, tuple(host.name for host in hosts if host.name in silent))


def ask(
    request: dict[str, Any],
    hosts: Sequence[Host] | None,
    heard: Callable[[dict[str, Any]], None],
    *,
    ended: Iterable[str] = (),
    mpi_args: Sequence[str] = (),
    hurry: Hurry = lambda: False,
) -> dict[str, Any]:
    """Carry out a request (`run.levels.program`) by one process on each of `hosts`, here alone where it is None: its result.

    `heard`: gets what is told meanwhile; `ended`: names of the starts of the program that are known to be over; it is ended
    when `hurry` says so. Raises the error that it told of; RankError if it ended without a word.
    """
    with tempfile.TemporaryDirectory(prefix="holdfast-nodes-", ignore_cleanup_errors=True) as folder:
        program = [sys.executable, "-m", _MODULE, json.dumps(request)]
        words: Sequence[str] = program
        environment = dict(os.environ)
        if hosts is not None:
            hostfile = os.path.join(folder, "hosts")
            command = launcher.command(program, ranks=len(hosts), mpi_args=mpi_args, grace=0.0, hostfile=hostfile)
            assert command.mpi is not None
            with open(hostfile, "w") as f:
                f.write(Roster(tuple(Seat(host, 1) for host in hosts)).text(command.mpi.kind))
            words, environment = command.arguments, launcher.own_session(command, folder)
        # None of the program's starts: a supervisor that is told of this attempt must not take it for one.
        own = {launcher.REPORT: "", launcher.SUPERVISED: "", EXECUTION: "", ENDED: ",".join(ended) or "none"}
        environment.update(own)
        environment.pop(SUPERVISOR, None)
        return _listen(words, environment, heard, hurry)


def salvage_after(
    urls: Iterable[str],
    hosts: Sequence[Host] | None,
    say: Callable[[str], None],
    *,
    ended: Iterable[str] = (),
    mpi_args: Sequence[str] = (),
    hurry: Hurry = lambda: False,
) -> None:
    """Bring what the nodes of a job that was given up still hold of these runs to the runs' own stores; `hosts`: its nodes,
    None if it was on this one alone. Says on the way what was done; a failure is told and not raised."""
    for url in urls:
        said: list[str] = []
        try:
            there = hosts
            if hosts is not None:
                survivors = find_survivors(hosts, mpi_args, hurry)
                there, said = survivors.hosts, survivors.lines()

            def heard(event: dict[str, Any], said: list[str] = said) -> None:
                if line := event.get("say"):
                    said.append(line)

            request = {"do": "salvage", "url": url}
            result = ask(request, there, heard, ended=ended, mpi_args=mpi_args, hurry=hurry)
        except (HoldfastError, OSError) as error:  # the program's outcome stands, whatever becomes of this
            say(f"{shown(url)} was not salvaged: {error.message if isinstance(error, HoldfastError) else error}")
            say(f"what nodes hold of it may still be had: `holdfast salvage {shown(url)}`")
            continue
        if result["version"] is not None or result["lines"]:
            for line in said:
                say(f"  {line}")
        say(f"{shown(url)}: {result['message']}")


# -- the process that is started -----------------------------------------------------------------------


def _path(environment: dict[str, str]) -> str:
    return os.pathsep.join([os.path.dirname(sys.executable), *filter(None, [environment.get("PATH")])])


def _listen(
    words: Sequence[str], environment: dict[str, str], heard: Callable[[dict[str, Any]], None], hurry: Hurry
) -> dict[str, Any]:
    process = subprocess.Popen(
        words, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    try:
        for event in _events(process.stdout, hurry):
            if "result" in event:
                result = event["result"]
                assert isinstance(result, dict)
                return result
            if "error" in event:
                raise HoldfastError.from_wire(event["error"], tuple(Cause(*cause) for cause in event["causes"]))
            heard(event)
    finally:
        _end(process)
    raise RankError(
        f"The processes on the nodes ended (exit code {process.returncode}) without a word of what became of it; what was "
        "written on standard error may tell. Versions are as they were; it can be done again."
    )


def _events(stream: IO[bytes], hurry: Hurry) -> Iterator[dict[str, Any]]:
    """What it tells, until it says no more."""
    silence = _PATIENCE * load({}).timeout
    last, rest = time.monotonic(), b""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while True:
            if not selector.select(_TICK):
                if hurry() or time.monotonic() - last > silence:
                    return
                continue
            data = os.read(stream.fileno(), 1 << 16)
            if not data:
                return
            last = time.monotonic()
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                _, mark, body = line.decode(errors="replace").partition(MARK)
                if mark:
                    with contextlib.suppress(ValueError):
                        yield json.loads(body)


def _end(process: subprocess.Popen[bytes]) -> None:
    """It leaves by itself when it has told its result; else it is asked to, then made to."""
    assert process.stdout is not None
    process.stdout.close()
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_LEAVING)
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_LEAVING)
