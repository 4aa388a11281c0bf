"""What a supervisor that was killed has left of its program: it runs on, until the next `holdfast run` takes its run over.

Ranks that hold the run are asked for a last checkpoint, and ended, by the program that opens it (`run/opening.py`). What no
record names is ended here: the launcher, which may not notice that it has nothing left to look after, spares, helpers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable

from ..catalog import Attempt, Process, evict
from ..catalog.attempts import EXECUTION
from ..catalog.eviction import abandoned
from ..catalog.process import find
from ..errors import HoldfastError


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
    left = _find(lambda pid, variables: not wanted.isdisjoint(variables)) if wanted else []
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
    above = _ancestors()
    found: list[Process] = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) in above:
            continue
        try:
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
