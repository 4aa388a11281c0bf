"""From what was seen of a node's processes to what is wrong: one pure function, with all times in seconds of one clock.

Time counts only while the watcher itself could see. If it slept, together with the node (SIGSTOP or SIGTSTP of a whole job
by a batch system, a frozen container), all times begin anew; if it was merely held up, because compiled code of its own
program held the GIL, they don't: its own processor time, or the beats of others, tell the one from the other. A beat that
is missing is no fault: it says where to look.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from .phases import CALLING, LEAVING, LEFT, STANDING, STORAGE, WAITING
from .processes import GONE, UNKNOWN

PERIOD = 0.1  # seconds between a process's beats, and between its looks
SELF = 2.0  # seconds for others to find one's own program hung: what a process tells of itself goes down with it
LATE = 1.0  # seconds between two looks from which on the watcher asks itself whether it slept

_DEAD = frozenset({GONE, "Z", "X", "x"})
_STORAGE_WAIT = "D"

Key = tuple[int, int]  # pid and start time: a process, for as long as the boot lasts


class Seen(NamedTuple):
    """What is known of one process at one moment. `rank`: NO_RANK for a spare; times in seconds of the monotonic clock.

    `state`: the kernel's letter, GONE or UNKNOWN, None if nobody looked this time; `found`: start time of the process of
    that pid; `step`: of its loop, -1 if it told none; `told`: what another watcher made of it, "" if nothing; `told_at`:
    when.
    """

    slot: int
    pid: int
    start: int
    rank: int
    phase: int
    beats: int
    beat_at: float
    progress_at: float
    step: int = -1
    state: str | None = None
    found: int = 0
    told: str = ""
    told_at: float = 0.0


class Own(NamedTuple):
    """What the watcher knows of itself. `slot`: its own; `cpu`: seconds of processor time that its process has used;
    `suspended`: whether its launcher stands still (state T): the job is being stopped on purpose, or continued."""

    slot: int = -1
    cpu: float = 0.0
    suspended: bool = False


NOBODY = Own()


class Limits(NamedTuple):
    """Seconds. `stopped`: in state T; `stall`: without progress (None: never judged); `silent`: without a beat, where the
    process can't be looked at."""

    stopped: float = 2.0
    stall: float | None = None
    silent: float = 10.0


class Verdict(NamedTuple):
    """`kind`: died, stopped, stalled or silent; `seen`: of whom; `detail`: why, one line. `first`: not told by another
    watcher before, so that who has it is the one to act."""

    kind: str
    seen: Seen
    detail: str
    first: bool


class Memory(NamedTuple):
    """What one look leaves to the next. Times that began before `anew` count from there."""

    at: float | None = None
    cpu: float = 0.0
    beats: Mapping[Key, int] = {}
    anew: float = 0.0
    halted: Mapping[Key, float] = {}
    suspects: Mapping[Key, float] = {}
    told: frozenset[tuple[Key, str]] = frozenset()


def judge(
    seen: Iterable[Seen], now: float, limits: Limits, before: Memory, own: Own = NOBODY
) -> tuple[list[Verdict], Memory]:
    """What is wrong that was not said before, in order of slots, and what to remember.

    Each is said once for a process: died (gone, a zombie, or another process has its number), stopped (state T for longer
    than `limits.stopped`; a debugger's t is not), stalled (no progress for `limits.stall` at two looks), silent (no beat,
    and can't be looked at). Nothing is said of those that have left.
    """
    seen = [s for s in seen if s.pid and s.start and s.phase != LEFT]
    slept = (
        own.suspended
        or before.at is None
        or _slept(now - before.at, own.cpu - before.cpu, seen, before.beats, own.slot)
    )
    told = set(before.told)
    anew = now if slept else before.anew
    verdicts: list[Verdict] = []

    def say(kind: str, one: Seen, detail: str) -> None:
        if ((one.pid, one.start), kind) not in told:
            told.add(((one.pid, one.start), kind))
            verdicts.append(Verdict(kind, one, detail, one.told != kind))

    halted: dict[Key, float] = {}
    stalled: dict[Key, Seen] = {}
    suspects: dict[Key, float] = {}
    for one in seen:
        key = (one.pid, one.start)
        dead = one.state is not None and _is_dead(one)
        if one.told in ("died", "stopped", "stalled") and not (dead and one.told == "died"):
            say(one.told, one, "another process of the node found it so")
        if dead:
            say("died", one, _of_dead(one, told))
        if dead or one.told:
            continue
        if one.slot == own.slot:
            pass  # it runs: it is looking
        elif one.state == "T":
            since = halted[key] = now if slept else before.halted.get(key, now)
            if now - since >= limits.stopped:
                say("stopped", one, f"for {now - since:.1f} s, in state T")
                continue
        elif one.state == UNKNOWN and now - max(one.beat_at, anew) >= limits.silent:
            say("silent", one, f"no beat for {now - one.beat_at:.1f} s")
        if limits.stall is None or not _may_stall(one, own):
            continue
        # Who waits in a call of MPI waits for another, on whatever node: that one is found first, and so ends the call.
        late = one.phase == CALLING or (one.slot == own.slot and len(seen) > 1)
        patience = limits.stall + (SELF if late else 0.0)
        if now - max(one.progress_at, anew) >= patience:
            suspects[key] = one.progress_at
            if before.suspects.get(key) == one.progress_at:  # twice: once may be a look at words half written
                stalled[key] = one
    if _disturbs(verdicts):
        stalled.clear()  # they may have waited for the one of whom something is said now
    for one in _hindmost(stalled.values()):
        where = f" since step {one.step}" if one.step >= 0 else ""
        say("stalled", one, f"none for {now - one.progress_at:.1f} s{where}")
    if _disturbs(verdicts):
        anew = now  # the others repair, or wait for who is to be killed: they would follow it
    beats = {(s.pid, s.start): s.beats for s in seen}
    return verdicts, Memory(now, own.cpu, beats, anew, halted, suspects, frozenset(t for t in told if t[0] in beats))


def _disturbs(verdicts: Iterable[Verdict]) -> bool:
    """Whether others may stand still because of what was found: nobody waits for a spare."""
    return any(v.kind != "silent" and v.seen.phase != STANDING for v in verdicts)


def _slept(gap: float, cpu: float, seen: list[Seen], before: Mapping[Key, int], own: int) -> bool:
    """Whether the node, and not only the watcher's loop, stood still between two looks."""
    if gap < LATE or cpu >= gap / 2:
        return False
    # Those that were stopped too may beat a few times before the watcher looks again.
    lived = gap / PERIOD / 2
    return not any(s.slot != own and s.beats - before.get((s.pid, s.start), s.beats) >= lived for s in seen)


def _is_dead(one: Seen) -> bool:
    return one.state in _DEAD or (one.state != UNKNOWN and one.found != one.start)


def _may_stall(one: Seen, own: Own) -> bool:
    """Only of those that were looked at, so that a few watchers act and not all; and of oneself.

    A spare has nothing to do. Who waits for other ranks in the library has a deadline there, and it is another's fault.
    Storage has deadlines of its own, which count bytes: a call that the kernel can't interrupt, made for storage, is
    theirs. Who is traced, is being looked at by a person; who is stopped, is judged as stopped.
    """
    if one.rank < 0 or one.phase in (WAITING, LEAVING):
        return False
    if one.phase in STORAGE and one.state == _STORAGE_WAIT:
        return False
    return one.slot == own.slot or (one.state is not None and one.state not in (UNKNOWN, "T", "t"))


def _hindmost(stalled: Iterable[Seen]) -> list[Seen]:
    """Of several that stand still, those that are in no call of MPI, and of these those at the lowest step: the others may wait
    for them."""
    stalled = list(stalled)
    stalled = [one for one in stalled if one.phase != CALLING] or stalled
    least = min((one.step for one in stalled), default=0)
    return [one for one in stalled if one.step == least]


def _of_dead(one: Seen, told: set[tuple[Key, str]]) -> str:
    how = f"process {one.pid} is {'a zombie' if one.state == 'Z' else 'gone'}"
    for kind in ("stopped", "stalled"):
        if one.told == kind or ((one.pid, one.start), kind) in told:
            return f"{how} after it was found {kind}"
    return how
