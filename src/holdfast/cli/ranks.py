"""What the ranks of this node do now, from the board on which they watch each other, and what /proc says of them."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ..catalog import Attempt
    from ..health.layout import Slot


class Ranks(NamedTuple):
    """Of this node. `ranks`: how many; `first`, `last`: the least and the greatest step that one is in, None if none has come
    to a loop; `phases`: how many are in which (health/phases.py); `idle`: seconds since the one moved that did not for longest;
    `dead`: ranks whose processes are gone without having left; `stopped`: those in the kernel's state T; `spares`: processes
    that stand by, and live; None where none was ever put there."""

    ranks: int
    first: int | None
    last: int | None
    phases: dict[str, int]
    idle: float
    dead: tuple[int, ...]
    stopped: tuple[int, ...]
    spares: int | None = None


def ranks_here(run: str, attempt: int) -> Ranks | None:
    """None where nobody is watched: one rank without `stall_timeout`, or none on this node (local; changes nothing)."""
    from ..health import memory_root
    from ..health.layout import COUNT_AT, HEADER, SLOT, SLOTS, Identity, read_slots
    from ..health.processes import is_dead, look

    ours = Identity.here(run, attempt)
    path = f"{os.path.abspath(memory_root())}/holdfast-{ours.uid}/boards/{ours.name}"
    with suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if Identity.parse(os.pread(fd, COUNT_AT, 0)) != ours:
                return None
            count = min(int.from_bytes(os.pread(fd, 8, COUNT_AT), sys.byteorder), SLOTS)
            data = os.pread(fd, count * SLOT, HEADER)
        finally:
            os.close(fd)
        slots = [s for s in read_slots(data[: len(data) // SLOT * SLOT]) if s.pid]
        found = summary([s for s in slots if s.rank >= 0])
        standing_by = [not is_dead(look(s.pid), s.start) for s in slots if s.rank < 0]
        return found and found._replace(spares=sum(standing_by) if standing_by else None)
    return None


def summary(slots: list[Slot]) -> Ranks | None:
    """Of the slots of processes that have a rank; None if there are none."""
    from ..health.phases import LEFT, PHASES
    from ..health.processes import is_dead, look

    there = [s for s in slots if s.phase != LEFT]
    if not there:
        return None
    phases: dict[str, int] = {}
    dead, stopped = [], []
    for slot in there:
        found = look(slot.pid)
        if is_dead(found, slot.start):
            dead.append(slot.rank)
            continue
        if found.state == "T":
            stopped.append(slot.rank)
        word = PHASES[slot.phase] if slot.phase < len(PHASES) else "unknown"
        phases[word] = phases.get(word, 0) + 1
    steps = [s.step for s in there if s.step >= 0]
    idle = max(0.0, (time.monotonic_ns() - min(s.progress_at for s in there)) / 1e9)
    first, last = (min(steps), max(steps)) if steps else (None, None)
    return Ranks(len(there), first, last, phases, idle, tuple(sorted(dead)), tuple(sorted(stopped)))


def spares_of(attempt: Attempt) -> int | None:
    """How many spares its program was started with, from the environment of a process of it that lives here; None if there is
    none that can be asked (local)."""
    from ..group.choose import SPARES

    for process in (attempt.holder, *attempt.processes):
        if process is None or not process.here or not process.alive:
            continue
        with suppress(OSError, ValueError):
            with open(f"/proc/{process.pid}/environ", "rb") as f:
                variables = f.read().split(b"\0")
            return next((int(v.partition(b"=")[2]) for v in variables if v.startswith(SPARES.encode() + b"=")), 0)
    return None
