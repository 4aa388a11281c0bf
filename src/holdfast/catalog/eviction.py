"""Ends the processes of an earlier attempt that still live here: asks for a last checkpoint, then kills."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from ..errors import RunInUseError
from .process import Process, current

# Set by `holdfast run` for its program: its own "pid start". No option of the library, and read from another process.
SUPERVISOR = "_HOLDFAST_SUPERVISOR"

KILL_DEADLINE = 10.0  # seconds that a killed process gets to be gone; longer is a process stuck in the kernel
_POLL = 0.02


def evict(
    processes: Iterable[Process],
    grace: float,
    *,
    ask: signal.Signals | None = signal.SIGTERM,
    hurry: Callable[[], bool] = lambda: False,
) -> None:
    """Ends those of `processes` that live on this machine; returns when all of them are gone (local).

    Each gets `ask` (SIGTERM: a program under Holdfast takes a last checkpoint and leaves; None: it has been asked
    already, and a second signal would make it leave without one), then up to `grace` seconds to leave, then
    SIGKILL, then up to 10 seconds to vanish. `hurry` is asked while waiting: once it says True the rest of the grace
    is forgone. Processes of other machines, and those of pid and start time that no longer match, are never
    signalled. RunInUseError names those that live on, because they are stuck or not ours to signal; and the
    supervisor, if one that is not ours lives and looks after them: then nothing is signalled at all.
    """
    left = [p for p in dict.fromkeys(processes) if p.here and p.alive and p.pid != os.getpid()]
    for process in left:
        _check_unattended(process)
    refused = {p for p in left if not send(p, ask)}
    until = time.monotonic() + grace
    while (left := _living(left)) and set(left) - refused and time.monotonic() < until and not hurry():
        time.sleep(_POLL)
    for process in left:
        send(process, signal.SIGKILL)
    until = time.monotonic() + KILL_DEADLINE
    while (left := _living(left)) and set(left) - refused and time.monotonic() < until:
        time.sleep(_POLL)
    if left:
        raise RunInUseError(_message(left, refused))


def _living(processes: list[Process]) -> list[Process]:
    return [p for p in processes if p.alive]


def send(process: Process, number: signal.Signals | None) -> bool:
    """Signals it if it is still the same process; False if that is not permitted.

    Through a pid file descriptor where the kernel has them: it is opened first and the start time compared after, so
    that a pid which is used again in between is never hit.
    """
    if number is None:
        return True
    try:
        if hasattr(os, "pidfd_open") and hasattr(signal, "pidfd_send_signal"):
            try:
                handle = os.pidfd_open(process.pid)
            except OSError:  # gone, or a kernel without them: the plain call below decides
                handle = -1
            if handle >= 0:
                try:
                    if process.alive:
                        signal.pidfd_send_signal(handle, number)
                finally:
                    os.close(handle)
                return True
        if process.alive:
            os.kill(process.pid, number)
    except ProcessLookupError:
        pass
    except PermissionError:
        return False
    return True


def abandoned(process: Process) -> bool:
    """Whether a living process of this machine was started by a `holdfast run` that lives no more (local)."""
    theirs = _supervisor(process, f"/proc/{process.pid}/environ")
    return theirs is not None and not theirs.alive


def _check_unattended(process: Process) -> None:
    """RunInUseError if another supervisor than ours looks after it: a job in good health is nobody's to end."""
    here = current()
    theirs = _supervisor(process, f"/proc/{process.pid}/environ")
    if theirs and theirs.alive and theirs not in (here, _supervisor(here, "/proc/self/environ")):
        raise RunInUseError(
            f"The run is in use: {process} holds it, and a `holdfast run` that lives ({theirs}) looks after it. "
            "Nothing was changed. Wait for it, or end it with SIGTERM: that lets it take a last checkpoint."
        )


def _supervisor(process: Process, environment: str) -> Process | None:
    try:
        with open(environment, "rb") as f:
            variables = f.read().split(b"\0")
        value = next(v for v in variables if v.startswith(SUPERVISOR.encode() + b"="))
        pid, start = value.split(b"=")[1].split()
        return replace(process, pid=int(pid), start=int(start))
    except (OSError, StopIteration, ValueError):
        return None


def _message(left: list[Process], refused: set[Process]) -> str:
    named = ", ".join(f"{p}{' (not permitted to signal it)' if p in refused else ''}" for p in left)
    return (
        f"Processes of an earlier attempt still hold the run and could not be ended: {named}. "
        "Nothing stored was changed. End them yourself, or as the user they belong to, then start again."
    )
