"""What a supervisor that was killed has left of its program: it runs on, until the next `holdfast run` takes its run over.

Ranks that hold the run are asked for a last checkpoint, and ended, by the program that opens it (`run/opening.py`). What no
record names is ended here: the launcher, which may not notice that it has nothing left to look after, spares, helpers; and what
has never come to open a run, which may be for ever: where a process was lost, the others wait for it in MPI's start.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from ..catalog import Attempt, Process, current, evict
from ..catalog.attempts import EXECUTION
from ..catalog.eviction import abandoned, send
from ..catalog.process import find
from ..errors import HoldfastError
from . import facts, launcher


def end_superseded(url: str, own: Collection[str]) -> str:
    """As `end_leftovers`, for all starts that have had the run at `url`, those named in `own` aside."""
    try:
        return end_leftovers(superseded(facts.catalog_of(url).attempts, own))
    except HoldfastError:  # unreadable: what there is to say of that, the program says
        return ""


def superseded(attempts: Iterable[Attempt], own: Collection[str]) -> set[str]:
    """Names of the starts of a program to which attempts of a run belong, those in `own` aside: once an attempt of ours has
    fenced them off, none of them has anything to do there.

    A serial program that came to its end may have left helpers on purpose, which are left alone.
    """
    attempts = list(attempts)
    done = {a.execution for a in attempts if a.ranks == 1 and a.end is not None and a.end.outcome == "complete"}
    return {a.execution for a in attempts if a.execution is not None} - done - set(own)


def end_leftovers(names: Collection[str]) -> str:
    """End at once whatever lives on this host of these starts, if the supervisor that looked after it is dead; a sentence on
    what was done, "" if there was nothing. To be called when an attempt of ours has begun: their last checkpoint is taken."""
    wanted = {f"{EXECUTION}={name}".encode() for name in names}
    return _end(_find(lambda pid, variables: not wanted.isdisjoint(variables)) if wanted else [])


def end_unopened(program: Sequence[str]) -> str:
    """As `end_leftovers`, for starts of this very `program` (all its words) in this working directory that have not opened any
    run. To be called before it is started."""
    here = os.getcwd()
    tail = b"\0".join(os.fsencode(word) for word in program) + b"\0"
    names: dict[bytes, bool] = {}  # of starts, and whether it is this program

    def look(pid: str, variables: list[bytes]) -> bool:
        found = {key: value for key, _, value in (v.partition(b"=") for v in variables) if key in _TOLD}
        if len(found) == len(_TOLD) and os.readlink(f"/proc/{pid}/cwd") == here and _opened_nothing(found[_TOLD[1]]):
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                same = f.read().endswith(tail)
            name = found[_TOLD[0]]
            names[name] = names.get(name, False) or same
        return False

    _find(look)
    return end_leftovers([name.decode() for name, same in names.items() if same])


def take_over(
    program: Sequence[str], environment: Mapping[str, str], grace: float, hurry: Callable[[], bool] = lambda: False
) -> tuple[list[str], str]:
    """For ranks on other hosts, which nothing here can ask or end: their launcher hands the question on, and ends them.

    Starts of this very `program` in this directory and `environment`, whose supervisor is dead, are asked for a last
    checkpoint, get `grace` seconds to leave, and are ended; `hurry`: forgo the rest of it. Returns their names, which are known
    to be over now, and a sentence ("" if there are none). What differs in any of these is another job, and is left alone.
    """
    here, tail = os.getcwd(), b"\0".join(os.fsencode(word) for word in program) + b"\0"
    same = _chosen(environment.items())
    names: dict[int, str] = {}

    def leads(pid: str, variables: list[bytes]) -> bool:
        theirs = dict(os.fsdecode(v).partition("=")[::2] for v in variables if b"=" in v)
        if EXECUTION not in theirs or os.getsid(int(pid)) != int(pid) or os.readlink(f"/proc/{pid}/cwd") != here:
            return False
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            if not f.read().endswith(tail) or _chosen(theirs.items()) != same:
                return False
        names[int(pid)] = theirs[EXECUTION]
        return True

    leaders = _find(leads)
    for leader in leaders:
        send(leader, signal.SIGUSR1)
    until = time.monotonic() + grace
    while any(leader.alive for leader in leaders) and time.monotonic() < until and not hurry():
        time.sleep(0.02)
    over = [names[leader.pid] for leader in leaders]
    said = end_leftovers(over)
    if not leaders:
        return [], ""
    asked = f"asked an earlier start, whose supervisor is dead, for a last checkpoint (mpirun: {leaders[0].pid})"
    return over, f"{asked}\n{said}" if said else asked


_ADDED = ("_HOLDFAST_", "HOLDFAST_REPORT", "HOLDFAST_SUPERVISED", "HOLDFAST_DEADLINE", "PRTE_", "PMIX_", "OMPI_", "OPAL_")
_LOGIN = ("SSH_", "XDG_", "SLURM_", "PBS_", "LSB_", "DBUS_", "DISPLAY", "TERM", "COLUMNS", "LINES", "SHLVL", "PWD", "OLDPWD")


def _chosen(environment: Iterable[tuple[str, str]]) -> dict[str, str]:
    """What a user may have said by the environment: not what we or MPI add, nor what is another at each login."""
    passed = (*_ADDED, *_LOGIN)
    return {name: value for name, value in environment if not name.startswith(passed) and name not in ("PATH", "_")}


_TOLD = (EXECUTION.encode(), launcher.REPORT.encode())


def _opened_nothing(report: bytes) -> bool:
    """Whether a start has reported no attempt; False where it can't be told any more."""
    path = os.fsdecode(report)
    return os.path.isfile(path) and not facts.read_report(path)


def _end(left: Sequence[Process]) -> str:
    if not left:
        return ""
    shown = ", ".join(str(p.pid) for p in left[:8]) + (", ..." if len(left) > 8 else "")
    try:
        evict(left, 0.0, ask=None)
    except HoldfastError as error:
        return error.message
    many = f"{len(left)} process{'es' * (len(left) != 1)}"
    return f"has ended {many} of an earlier start, whose supervisor is dead ({shown})"


def any_left() -> bool:
    """Whether anything lives here whose supervisor is dead and that was started in this working directory, of whatever run."""
    here = os.getcwd()
    mark = f"{EXECUTION}=".encode()

    def ours(pid: str, variables: list[bytes]) -> bool:
        return any(v.startswith(mark) for v in variables) and os.readlink(f"/proc/{pid}/cwd") == here

    return bool(_find(ours))


def _find(ours: Callable[[str, list[bytes]], bool]) -> list[Process]:
    """Living processes here that `ours` chooses, by number and environment, if their supervisor is dead."""
    above, here = _ancestors(), current().pidns
    found: list[Process] = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) in above:
            continue
        try:
            if os.readlink(f"/proc/{name}/ns/pid") != here:  # in a container: what number its supervisor has here is not known
                continue
            with open(f"/proc/{name}/environ", "rb") as f:
                chosen = ours(name, f.read().split(b"\0"))
        except OSError:  # another user's, or gone
            continue
        process = find(int(name)) if chosen else None
        if process is not None and process.alive and abandoned(process):
            found.append(process)
    return found


def _ancestors() -> set[int]:
    """This process and those above it: a supervisor may have been started by what an earlier one has left."""
    found: set[int] = set()
    pid = os.getpid()
    while pid > 1 and pid not in found:
        found.add(pid)
        try:
            with open(f"/proc/{pid}/stat", "rb") as f:
                pid = int(f.read().rpartition(b")")[2].split()[1])
        except OSError:
            break
    return found
