"""What is known of an execution once it has ended: the words of the program, and what its runs' catalogs say."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ..catalog import Attempt, Catalog, End, Process, Version, read_catalog
from ..catalog.eviction import abandoned
from ..format import attempt_key, parse_version
from ..store import open_store


@dataclass(frozen=True)
class Opened:
    """The program's word that it began attempt `attempt` of the run at `url`; once it has `settled` from
    which version it goes on: its number and step, and when it was `stored` (seconds since 1970); None: from the beginning.
    `read`: bytes that all ranks have read, by level, where the program tells them; `at`: when it began, or had settled."""

    url: str
    attempt: int
    settled: bool = False
    version: int | None = None
    step: int | None = None
    stored: float | None = None
    read: tuple[tuple[str, int], ...] = ()
    at: float | None = None


@dataclass(frozen=True)
class RunFacts:
    """A run after an execution.

    `attempt`: the newest that this execution began, None if it did not come that far; `end`: how that one ended, None
    if it did not live to say so; `complete`: the newest version and the newest attempt's end both say so;
    `rival`: a sentence on another attempt that began later and lives, None if there is none; `version`, `step`:
    newest of the lineage; `gained`: versions of the lineage that this execution wrote; `safe`: when the state
    that would be resumed from was stored (seconds since 1970), None if there is none. All of this is told from the run's
    own store. `places`: nodes may hold newer versions; `based`: number of the version that attempt `attempt` went on
    from, wherever it was, None if from the beginning or not known; `known`: `safe` is of what was gone on from afterwards,
    wherever that was. `since`: when that attempt had its state and began to work, None if not known; `had`: when the state that
    it had then was stored, None if it began anew; `gone`: there is no trace of that attempt where it has begun.
    """

    url: str
    attempt: int | None
    end: End | None = None
    complete: bool = False
    rival: str | None = None
    version: int | None = None
    step: int | None = None
    gained: int = 0
    safe: float | None = None
    places: bool = False
    based: int | None = None
    known: bool = False
    since: float | None = None
    had: float | None = None
    gone: bool = False


@dataclass(frozen=True)
class Fall:
    """A run was taken back: from version `crashed` (and its `step`), after which it got nowhere, to version `to`."""

    url: str
    crashed: int
    step: int | None
    to: int


@dataclass(frozen=True)
class Execution:
    """One start of the program: its number (from 1), when it began and ended (seconds since 1970), the exit code of
    what was started (negative: the signal that killed it), whether the supervisor ended it or what was left of it
    unasked (`cleared`), the rank that was seen to die first and its pid, its runs, the nodes in use that gave no answer
    afterwards (`lost_nodes`), whether the launcher never came to start a rank (`stillborn`), whether it was ended because its
    time was over, to the limit or behind a request (`overdue`), what was taken back before it (`falls`), how many spares its
    ranks had (`spares`) and how often ranks were replaced by them (`repairs`), the versions that its attempts went on from
    (`resumed`, with words for where the data came from), whether it opened no run while something lived here that an
    earlier supervisor had left (`orphans`), whether the supervisor itself has killed what was started (`put_down`), how many of
    its spares were lost without a need for them (`spares_lost`), which ranks were ended by others of its processes, and why
    (`judged`), the seconds of work that were done again behind its repairs (`repaired_lost`), and when its first rank was seen
    to die (`fault`)."""

    number: int
    began: float
    ended: float
    code: int
    runs: tuple[RunFacts, ...] = ()
    cleared: bool = False
    first_dead: tuple[int, int] | None = None
    lost_nodes: tuple[str, ...] = ()
    stillborn: bool = False
    overdue: bool = False
    falls: tuple[Fall, ...] = ()
    spares: int = 0
    repairs: int = 0
    judged: tuple[str, ...] = ()
    repaired_lost: float = 0.0
    orphans: bool = False
    resumed: tuple[tuple[Opened, str], ...] = ()
    fault: float | None = None
    put_down: bool = False
    spares_lost: int = 0

    @property
    def gained(self) -> bool:
        return any(run.gained for run in self.runs)

    @property
    def complete(self) -> bool:
        """Whether it has opened runs, and all that there are say so."""
        return bool(self.runs) and all(run.complete for run in self.runs)

    @property
    def lost(self) -> float:
        """Seconds of work that are done again, of its newest attempt (those before it: `repaired_lost`): what that had done
        since the newest state kept, and what lay between that state and its own, if it had begun with a newer one."""
        return max((self._lost_of(run) for run in self.runs if not run.complete), default=0.0)

    def _lost_of(self, run: RunFacts) -> float:
        safe = run.safe or 0.0
        until = run.end.time if run.end is not None else self.fault or self.ended
        taken_back = max(0.0, run.had - safe) if run.had and run.safe else 0.0
        return max(0.0, until - max(run.since or self.began, safe)) + taken_back


def _lines(path: str) -> Iterator[dict[str, Any]]:
    """What the program has reported so far; a line that is not whole yet is left for later, and what is not ours left out: the
    program may write anything anywhere."""
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as f:  # else nobody may take it for nothing reported
        for line in f.read().split(b"\n")[:-1]:
            with contextlib.suppress(ValueError):
                value = json.loads(line)
                if isinstance(value, dict):
                    yield value


def read_report(path: str) -> list[Opened]:
    """The attempts that the program has reported so far."""
    found = []
    for value in _lines(path):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            one = Opened(str(value["url"]), int(value["attempt"]), at=value.get("at"))
            if value.get("settled"):
                number, step, stored = value["version"], value["step"], value["stored"]
                read = tuple((str(where), int(count)) for where, count in value.get("read") or ())
                one = replace(one, settled=True, version=number, step=step, stored=stored, read=read)
            found.append(one)
    return found


def repaired_lost(opened: Iterable[Opened]) -> float:
    """Seconds of work that are done again behind repairs, in what one start has reported: what had been done until each of
    them, less what the state that it went back to had of it."""
    parts: dict[str, list[tuple[float, float]]] = {}  # of a run: when each attempt began, and the seconds of work it had then
    begun = {(one.url, one.attempt): one.at for one in opened if not one.settled and one.at is not None}
    lost = 0.0
    for one in opened:
        at = begun.get((one.url, one.attempt)) if one.settled else None
        if at is None:
            continue
        before = parts.setdefault(one.url, [])
        stored = one.stored or 0.0
        kept = next((done + stored - since for since, done in reversed(before) if since <= stored), 0.0)
        if before:
            since, done = before[-1]
            lost += max(0.0, done + at - since - kept)
        before.append((at, kept))
    return lost


def read_ended(path: str) -> tuple[str, ...]:
    """Which ranks the program itself has ended, and why, in words."""
    found = []
    for value in _lines(path):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            found.append(f"rank {int(value['ended'])} was ended: {str(value['why'])[:500]}")
    return tuple(found)


def read_spares_lost(path: str) -> int:
    """How many spares the program itself has missed."""
    return sum("spare lost" in value for value in _lines(path))


def learn(execution: Execution, opened: Iterable[Opened]) -> Execution:
    """What is known of an execution once later attempts, reported in `opened`, have settled from where they go on."""
    settled = {one.url: one for one in reversed(list(opened)) if one.settled}  # the first: later ones saw what it wrote
    runs = tuple(
        replace(run, safe=settled[run.url].stored, known=True) if run.url in settled and not run.known else run
        for run in execution.runs
    )
    return replace(execution, runs=runs)


def catalog_of(url: str) -> Catalog:
    return read_catalog(open_store(url, create=False, read_only=True))


def processes_of(opened: Iterable[Opened]) -> list[Process]:
    """The processes of the newest reported attempt of each run, in order of ranks."""
    newest: dict[str, int] = {}
    for one in opened:
        newest[one.url] = max(one.attempt, newest.get(one.url, 0))
    found: dict[Process, None] = {}
    for url, number in newest.items():
        for attempt in catalog_of(url).attempts:
            if attempt.number == number:
                found.update(dict.fromkeys(attempt.processes))
    return list(found)


def gather(urls: Iterable[str], opened: Iterable[Opened], name: str | None = None) -> tuple[RunFacts, ...]:
    """The facts of each run of `urls`, of which this execution, whose name is `name`, began the attempts `opened`."""
    opened = list(opened)
    found = (facts_of(url, catalog_of(url), {o.attempt for o in opened if o.url == url}, name) for url in urls)
    return tuple(replace(_with_work(run, opened), gone=_is_gone(run)) for run in found)


def _is_gone(run: RunFacts) -> bool:
    """Whether there is no version and not even the attempt's fence. What else is in an attempt's name living ranks may have put
    again, where what was their directory is another one now."""
    if run.attempt is None or run.version is not None:
        return False
    return not open_store(run.url, create=False, read_only=True).exists(attempt_key(run.attempt, "json"))


def _with_work(run: RunFacts, opened: Iterable[Opened]) -> RunFacts:
    """With when its attempt began to work, as that has reported: not yet, if it has begun and has not settled."""
    mine = {one.settled: one for one in opened if (one.url, one.attempt) == (run.url, run.attempt)}
    if run.attempt is None or (mine and True not in mine):
        return replace(run, since=time.time())
    return replace(run, since=mine[True].at, had=mine[True].stored) if mine else run


def facts_of(url: str, catalog: Catalog, own: set[int], name: str | None = None) -> RunFacts:
    """What `catalog` says of a run of which this execution began the attempts `own`, and those that bear its name: a rank
    on a node that is lost may not have come to report one."""
    own = own | {a.number for a in catalog.attempts if name is not None and a.execution == name}
    # A program that rolls back takes further attempts by itself: they have the same processes.
    ours = {p for a in catalog.attempts if a.number in own for p in a.processes}
    own = own | {a.number for a in catalog.attempts if a.holder in ours and a.number > min(own)}
    newest = max(own, default=None)
    programs = [a for a in catalog.attempts if a.kind == "run"]
    last = programs[-1].end if programs else None
    mine = next((a for a in catalog.attempts if a.number == newest), None)
    rival = next((a for a in reversed(catalog.attempts) if newest and a.number > newest and _lives(a)), None)
    head: Version | None = catalog.lineage[0] if catalog.lineage else None
    return RunFacts(
        url,
        newest,
        end=mine.end if mine else None,
        complete=catalog.complete and last is not None and last.outcome == "complete",
        rival=f"attempt {rival.number}, {rival.holder}" if rival else None,
        version=head.number if head else None,
        step=head.step if head else None,
        gained=_gained(catalog, own),
        safe=head.time if head else None,
        places=bool(mine and mine.places),
        based=_based(mine),
    )


def _based(attempt: Attempt | None) -> int | None:
    link = attempt.base.version if attempt and attempt.base else None
    parsed = parse_version(link.name) if link else None
    return parsed[0] if parsed else None


def _gained(catalog: Catalog, own: set[int]) -> int:
    """How many versions of the lineage these attempts wrote; none if the newest holds what the one before them held: a
    program that writes a version and then dies, each time at the same step, gets nowhere."""
    written = [v for v in catalog.lineage if v.attempt in own]
    before = next((v for v in catalog.lineage if v.attempt not in own), None)
    if written and before is not None and (written[0].step, written[0].content) == (before.step, before.content):
        return 0
    return len(written)


def _lives(attempt: Attempt) -> bool:
    """Whether an attempt is under way and somebody's; of one on another machine we know only that it has not ended.

    One whose supervisor is dead is nobody's: the next start takes it over.
    """
    if attempt.end is not None:
        return False
    known = [p for p in (attempt.holder, *attempt.processes) if p is not None]
    return any(not p.here or (p.alive and not abandoned(p)) for p in known)


def shown(url: str) -> str:
    """A run's place as people would type it: relative where it lies below the working directory."""
    relative = os.path.relpath(url)
    return url if relative.startswith("..") else relative
