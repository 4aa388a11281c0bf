"""What the kernel says of processes of this node, and the one signal that ends them.

`catalog/process.py` and `catalog/eviction.py` do the like for records; they stand beside this folder, not below it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import NamedTuple

# Set by `holdfast run` for its program: its own "pid start" (catalog/eviction.py has it too; tests/health compares).
SUPERVISOR = "_HOLDFAST_SUPERVISOR"

GONE, UNKNOWN = "", "?"
_DEAD = frozenset({GONE, "Z", "X", "x"})  # a zombie is dead
_RECENT_KERNEL = hasattr(os, "pidfd_open") and hasattr(signal, "pidfd_send_signal")


class Look(NamedTuple):
    """`state`: the kernel's letter, GONE, or UNKNOWN if it could not be looked at; `start`: in clock ticks since boot, else
    0."""

    state: str
    start: int


def look(pid: int) -> Look:
    """At the process of that number."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = os.read(fd, 2048)
        finally:
            os.close(fd)
    except (FileNotFoundError, ProcessLookupError):
        # Also of another user's process where /proc hides these; but /proc itself must be there.
        return Look(GONE if os.path.exists("/proc/self/stat") else UNKNOWN, 0)
    except OSError:
        return Look(UNKNOWN, 0)
    try:
        rest = text[text.rindex(b")") + 2 :].split()  # the name before may hold spaces and parentheses
        return Look(chr(rest[0][0]), int(rest[19]))
    except (ValueError, IndexError):
        return Look(UNKNOWN, 0)


def is_dead(found: Look, start: int) -> bool:
    """Whether the process that began at `start` is no more; not where nobody knows."""
    return found.state in _DEAD or (found.state != UNKNOWN and found.start != start)


def this_process() -> tuple[int, int]:
    """(pid, start time) of this one."""
    pid = os.getpid()
    return pid, look(pid).start


class Eyes:
    """For `group/repair/beside.py`."""

    def is_dead(self, pid: int, start: int) -> bool:
        return is_dead(look(pid), start)

    def is_stopped(self, pid: int, start: int) -> bool:
        """Not where its launcher stands still as well: then the whole job is stopped, on purpose."""
        return look(pid) == Look("T", start) and look(os.getppid()).state != "T"

    def end(self, pid: int, start: int) -> None:
        send(pid, start, signal.SIGKILL)

    def hold(self, pid: int, start: int) -> int:
        """Opened first and looked at after, so that it is never that of a process which has the number since."""
        try:
            fd = os.pidfd_open(pid) if _RECENT_KERNEL else -1
        except OSError:
            return -1
        if fd >= 0 and is_dead(look(pid), start):
            os.close(fd)
            return -1
        return fd


def send(pid: int, start: int, number: int) -> bool:
    """Signals the process if it is still the one that began at `start`; whether it was signalled.

    Through a descriptor where the kernel has them: it is opened first and the start time compared after, so that a pid
    that is used again in between is never hit.
    """
    try:
        handle = os.pidfd_open(pid) if _RECENT_KERNEL else -1
    except ProcessLookupError:
        return False
    except OSError:  # an old kernel, or no descriptor left
        handle = -1
    try:
        if is_dead(look(pid), start):
            return False
        if handle >= 0:
            signal.pidfd_send_signal(handle, number)
        else:
            os.kill(pid, number)
        return True
    except OSError:
        return False
    finally:
        if handle >= 0:
            os.close(handle)


def signal_sets(pid: int | None = None) -> dict[str, int]:
    """What a process (None: this thread) does with signals, as masks of which bit n - 1 is signal n: `SigBlk` (blocked in its
    first thread), `SigIgn` (ignored), `SigCgt` (caught). Empty if it can't be looked at.

    `signal.getsignal` knows of what was there when the interpreter started and of what Python set; MPI, profilers and the
    program's own C code set theirs later.
    """
    try:
        with open("/proc/thread-self/status" if pid is None else f"/proc/{pid}/status", "rb") as f:
            lines = [line.split(b":") for line in f.read().splitlines()]
    except OSError:
        return {}
    return {
        line[0].decode(): int(line[1], 16)
        for line in lines
        if line[0] in (b"SigBlk", b"SigIgn", b"SigCgt") and len(line) == 2
    }


def supervisor(environment: Mapping[str, str] | None = None) -> tuple[int, int] | None:
    """(pid, start time) of the `holdfast run` that started this process and lives on this node; None if there is none here.

    On other nodes than its own the numbers mean nothing: only one that was seen alive can be seen to have gone.
    """
    try:
        pid, start = map(int, (os.environ if environment is None else environment)[SUPERVISOR].split())
    except (KeyError, ValueError):
        return None
    found = look(pid)
    return None if found.state == UNKNOWN or is_dead(found, start) else (pid, start)


def boot_id() -> str:
    """Of this boot of the kernel; empty where it has none."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as f:
            return f.read().strip()
    except OSError:
        return ""


def pid_namespace() -> int:
    """Pids of another one mean other processes; 0 where it can't be told."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0
