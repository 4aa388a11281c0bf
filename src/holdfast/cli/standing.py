"""How a run stands, told from its records, from what this node holds of it, and from its processes that live here.

Nothing is changed and nobody is asked: what only other nodes know is not known here, and said so.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from . import human
from .here import Seen, in_use, look_here
from .outcomes import Outcome, elsewhere, outcomes
from .ranks import Ranks, ranks_here, spares_of

if TYPE_CHECKING:
    from ..catalog import Attempt, Catalog, Version

_EVENTS = 5  # that are shown, of those that the records tell


def standing(url: str) -> dict[str, Any]:
    """The document of `holdfast status --json`, without its head. UsageError where there is no run; StorageError."""
    catalog, seen, restore = _look(url)
    if restore["version"] is not None and restore["time"] is None:  # it became durable in between
        catalog, seen, restore = _look(url)
    stored = {v.name: ["global"] for v in catalog.versions if v.status in ("current", "abandoned")}
    levels = seen.levels if seen is not None else stored
    holder = in_use(url)
    became = outcomes(catalog.attempts, holder is not None)
    programs = [a for a in catalog.attempts if a.kind == "run"]
    mine = programs[-1] if programs else None
    running = holder is not None and mine is not None and holder.attempt == mine.number
    start = [a for a in programs if mine and (a is mine or (a.execution is not None and a.execution == mine.execution))]
    replaced = [became[a.number] for a in start if became[a.number].word == "repaired"]
    ranks = ranks_here(catalog.run, mine.number) if running and mine is not None else None
    spares = spares_of(mine) if running and mine is not None else None
    found: dict[str, Any] = {
        "url": human.place(url),
        "run": catalog.run,
        "state": _state(catalog, mine, became, running, holder is not None),
        "holder": holder.text if holder is not None else None,
        "attempt": None if mine is None else _attempt(mine),
        "ranks": None if ranks is None else ranks._asdict(),
        "repairs": len(replaced),
        "restarts": max(0, len({a.execution or str(a.number) for a in programs}) - 1),
        "spares": None if spares is None else {"started": spares, "left": _spares_left(mine, ranks, spares, replaced)},
        "newest": _version(catalog.lineage[0], levels) if catalog.lineage else None,
        "levels": {kind: _newest(catalog, levels, kind) for kind in _kinds(catalog, levels)},
        "restore": restore,
        "health": _events(url, catalog, became)[-_EVENTS:],
        "others": seen is not None and seen.others,
        "problems": catalog.problems,
    }
    found["needs"] = _needs(url, catalog, mine, found)
    return found


def _spares_left(mine: Attempt | None, ranks: Ranks | None, started: int, replaced: list[Outcome]) -> int:
    """Those that live, where ranks and spares are on this node; else of those that were started the ones that took no rank."""
    if ranks is not None and ranks.spares is not None and mine is not None and all(p.here for p in mine.processes):
        return ranks.spares
    return started - sum(len(o.replaced) for o in replaced)


def _look(url: str) -> tuple[Catalog, Seen | None, dict[str, Any]]:
    """The run with what this node holds of it, and what a start here would go on from."""
    catalog = human.require_run(url)
    seen = look_here(url, catalog)
    catalog = seen.catalog if seen is not None else catalog
    return catalog, seen, _restore(url, catalog)


def _state(catalog: Catalog, mine: Attempt | None, became: dict[int, Outcome], running: bool, held: bool) -> str:
    if running and mine is not None:
        return "running" if mine.sealed else "starting"
    if held:
        return "in use"  # by prune, rollback or salvage
    if catalog.complete:
        return "complete"
    return "new" if mine is None else became[mine.number].word


def _attempt(a: Attempt) -> dict[str, Any]:
    hosts = sorted({p.host for p in (*a.processes, *([a.holder] if a.holder else []))})
    end = a.end._asdict() if a.end is not None else None
    return {"number": a.number, "since": a.created or None, "ranks": a.ranks or None, "hosts": hosts, "end": end}


def _version(v: Version, levels: dict[str, list[str]]) -> dict[str, Any]:
    return {"version": v.number, "step": v.step, "time": v.time, "levels": levels.get(v.name, [])}


def _kinds(catalog: Catalog, levels: dict[str, list[str]]) -> list[str]:
    """Where versions can be: in the run's own store, and where its attempts had places."""
    had = {kind for a in catalog.attempts for kind, _ in a.places} | {kind for some in levels.values() for kind in some}
    return [kind for kind in ("memory", "local") if kind in had] + ["global"]


def _newest(catalog: Catalog, levels: dict[str, list[str]], kind: str) -> dict[str, Any] | None:
    return next((_version(v, levels) for v in catalog.lineage if kind in levels.get(v.name, [])), None)


def _restore(url: str, catalog: Catalog) -> dict[str, Any]:
    """What a start on this node would go on from: {version, step, time, lines}."""
    from ..config import load
    from ..errors import HoldfastError
    from ..group import SerialGroup
    from ..run.levels.foresight import foresee

    try:
        plan = foresee(SerialGroup(), human.place(url), [1], None, load({}).lease)
    except HoldfastError as error:
        return {"version": None, "step": None, "time": None, "lines": [error.message]}
    v = next((v for v in catalog.versions if v.number == plan["version"] and v.kind == "checkpoint"), None)
    step, at = (v.step, v.time) if v is not None else (None, None)
    return {"version": plan["version"], "step": step, "time": at, "lines": plan["lines"]}


def _events(url: str, catalog: Catalog, became: dict[int, Outcome]) -> list[dict[str, Any]]:
    """What has happened to ranks and attempts, oldest first: {time, attempt, text}. Those that ended in good order are none."""
    from ..errors import HoldfastError
    from ..format import attempt_key
    from ..store import open_store

    store = open_store(url, create=False, read_only=True)
    after = {a.number: later for a, later in zip(catalog.attempts, catalog.attempts[1:], strict=False)}
    found = []
    for a in (a for a in catalog.attempts if a.kind == "run"):
        one = became[a.number]
        if one.word in ("complete", "closed", "running", "went on"):
            continue
        at = a.end.time if a.end is not None else 0.0
        text, note = one.word, one.note()
        if one.word == "repaired":
            at, text = after[a.number].created, note
        elif a.end is not None:
            why = a.end.signal if one.word == "interrupted" and a.end.signal else (a.end.error or "").partition("\n")[0]
            text += f": {why}" if why else ""
        else:
            try:
                at = time.time() - store.age(attempt_key(a.number, "lease"))
                text = f"the last sign of it, before it {'was lost' if text == 'lost' else text}"
            except HoldfastError:
                at = a.created
            text += f"; {note}" if note else ""
        found.append({"time": at, "attempt": a.number, "text": text})
    return found


def _needs(url: str, catalog: Catalog, mine: Attempt | None, found: dict[str, Any]) -> list[str]:
    """What a person is asked to do, in the order in which it is best done; empty: nothing."""
    from ..catalog.eviction import abandoned

    needs = [f"{problem}: see `holdfast verify {url}`" for problem in found["problems"]]
    state, newest, restore = found["state"], found["newest"], found["restore"]["version"]
    if state in ("running", "starting"):
        ranks = found["ranks"]
        if ranks is not None and (ranks["dead"] or ranks["stopped"]) and not found["spares"]:
            needs.append("ranks are dead or stopped, and there are no spares: the job is about to end, or waits for them")
        assert mine is not None
        if any(p.here and p.alive and abandoned(p) for p in mine.processes):
            needs.append("the `holdfast run` that looked after it is gone: start it again, it takes the run over")
        return needs
    if state in ("complete", "in use", "new"):
        return needs
    if newest is not None and restore != newest["version"] and restore is None:
        needs.append("no version that counts can be had whole from here: " + "; ".join(found["restore"]["lines"]))
    end = mine.end if mine is not None else None
    if end is not None and end.error:
        needs.append(f"see why it ended: {end.error.partition(chr(10))[0]}")
    only = newest is not None and "global" not in newest["levels"]
    if only or (found["others"] and elsewhere(catalog.attempts)):
        what = f"version {newest['version']}" if only else "what nodes may still hold"
        needs.append(f"before the nodes are given back, bring {what} to the run's directory: `holdfast salvage {url}`")
    where = "from the beginning" if restore is None else f"from version {restore}"
    needs.append(f"nothing runs: start the program again (unless `holdfast run` is about to); it goes on {where}")
    return needs
