"""`holdfast ls` and `holdfast show`: what there is."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from . import human
from .arguments import json_option, run_argument, version_argument
from .here import in_use, look_here
from .outcomes import Outcome, outcomes

if TYPE_CHECKING:
    from ..catalog import Attempt, Catalog, Process, Version

_STORED = ("current", "abandoned")  # statuses of versions whose commit the run's own store has


@click.command(short_help="List versions, records, attempts.")
@run_argument
@click.option("--attempts", is_flag=True, help="The attempts too: who held the run, and how each ended.")
@json_option
def ls(url: str, attempts: bool, as_json: bool) -> None:
    """List a run's versions and records, newest first.

    A version's status: current (it counts), abandoned (a resume or rollback passed it over), damaged (present
    but invalid), fragment (never committed), nodes (on nodes only, or lost with them). size: of the state; written: bytes
    that this version added to the run; chain: how many versions a read of it touches. A version beyond those to keep (the
    option `keep`) says what it is kept for: it is held by a newer one that has blocks in it or behind it, or spare, one that
    shares no block with the newest.

    Of a run that has levels: where each version is, as far as this host sees it (memory, local: a place of this node has
    something of it; global: the run's own store). One that neither has is on other nodes only, or lost with them.

    \b
    --json: {format, url, run, complete, problems, lineage: [number], versions: [{name, number,
    attempt, kind, status, step, parent, time, seconds, bytes, ranks, objects, complete, reason,
    label, content, problem, state, chain, refs: [number], held, levels: [name]}], places: [[kind,
    directory]], attempts: [{number, kind, created, ranks, sealed, base, holder: {host, boot, pidns,
    pid, start, alive}, end: {outcome, time, version, step, signal, error}, outcome, replaced:
    [rank], damaged}]}. places: of this node (null if no attempt had any on nodes). created and
    time: seconds since 1970; seconds: how long the program waited; bytes: written; state: bytes of
    the state; refs: versions that hold blocks of it; alive: null on other machines; outcome: of the
    end or, without one, running, repaired (ranks, those in replaced, were replaced while the job
    went on), went on (the same processes, as a later attempt), died, lost (on other machines),
    unknown. Versions are newest first, attempts oldest first.
    """
    catalog = human.require_run(url)
    seen = look_here(url, catalog)
    if seen is not None:
        catalog = seen.catalog
    levels = seen.levels if seen is not None else {v.name: ["global"] for v in catalog.versions if v.status in _STORED}
    used = in_use(url) is not None
    held, became = _held(catalog), outcomes(catalog.attempts, used)
    if as_json:
        human.document(
            url=human.place(url),
            run=catalog.run,
            complete=catalog.complete,
            problems=catalog.problems,
            lineage=[v.number for v in catalog.lineage],
            versions=[
                asdict(v) | {"held": held.get(v.name), "levels": levels.get(v.name, [])} for v in catalog.versions
            ],
            places=None if seen is None else [list(place) for place in seen.places],
            attempts=[_attempt(a, became[a.number]) for a in catalog.attempts],
        )
        return
    now = time.time()
    _summary(url, catalog, used)
    if catalog.versions:
        columns: tuple[str, ...] = (
            "version",
            "kind",
            "status",
            "step",
            "parent",
            "attempt",
            "age",
            "size",
            "written",
            "chain",
            "stall",
            "levels",
            "notes",
        )
        where = {name: ", ".join(some) for name, some in levels.items()} if seen is not None else {}
        rows = [_version_row(v, now, held.get(v.name, ""), where.get(v.name, "")) for v in catalog.versions]
        numbers = ("version", "step", "parent", "attempt", "size", "written", "chain", "stall")
        human.table(columns, rows, right=numbers)
    if attempts:
        click.echo()
        columns = ("attempt", "kind", "ranks", "age", "base", "holder", "outcome", "ended at", "notes")
        rows = [_attempt_row(a, became[a.number], now) for a in reversed(catalog.attempts)]
        human.table(columns, rows, right=("attempt", "ranks"))
    for problem in catalog.problems:
        human.note(f"problem: {problem}")
    if seen is not None and (seen.places or seen.others):
        human.note(seen.line())


@click.command(short_help="Show what a version holds.")
@run_argument
@version_argument(required=False)
@json_option
def show(url: str, version: int | None, as_json: bool) -> None:
    """Show what a version holds: objects of each rank, their types, shapes and sizes, in which versions' files their bytes
    are, and output files.

    VERSION: a number; without it the newest that counts.

    \b
    --json: {format, url, and what `ls` gives for a version; loops: {name: {position, total, done}},
    contents: [{rank, bytes, objects: [{name, kind, dtype, shape, shard: {global_shape, offset},
    replicated, bytes, late, places: [{version, rank, bytes}]}], files: [{path, bytes}]}]}. dtype and
    shape: of arrays only; replicated: whether it is one object of all ranks; places: whose data files
    hold the object's bytes, the most first.
    """
    from ..run.maintenance import show as look

    human.require_run(url)
    found = look(url, version)
    if as_json:
        human.document(url=human.place(url), **found)
        return
    _show(found)


def _summary(url: str, catalog: Catalog, used: bool) -> None:
    head = catalog.lineage[0] if catalog.lineage else None
    state = "complete" if catalog.complete else "in use" if used else "resumable" if head else "nothing to resume from"
    where = f", at version {head.number}" + (f" (step {head.step})" if head.step is not None else "") if head else ""
    click.echo(f"{url}: {state}{where}")


def _held(catalog: Catalog) -> dict[str, str]:
    """What each version of the lineage that is beyond those to keep is kept for, by name."""
    from ..catalog import why_kept
    from ..config import load

    why = why_kept(catalog.lineage, load({}).keep)
    return {v.name: why[v.number] for v in catalog.lineage if v.number in why}


def _version_row(v: Version, now: float, held: str, levels: str) -> tuple[str, ...]:
    from ..units import bytes_text, seconds_text

    known = v.status in ("current", "abandoned")
    notes = [v.label or "", "complete" if v.complete else v.reason, held, v.problem or ""]
    return (
        str(v.number),
        v.kind,
        v.status,
        human.text(v.step),
        human.text(v.parent),
        str(v.attempt),
        human.age(v.time, now),
        bytes_text(v.state) if known else "",
        bytes_text(v.bytes) if known else "",
        str(v.chain) if known else "",
        seconds_text(v.seconds) if known else "",
        levels,
        ", ".join(filter(None, notes)),
    )


def _attempt_row(a: Attempt, became: Outcome, now: float) -> tuple[str, ...]:
    end = a.end
    at = "" if end is None or end.version is None else f"version {end.version}"
    notes = [end.signal or "", _short(end.error or "")] if end else [became.note()]
    return (
        str(a.number),
        a.kind,
        str(a.ranks),
        human.age(a.created, now),
        _base_text(a),
        f"{a.holder.pid} on {a.holder.host}" if a.holder else "",
        became.word,
        at,
        ", ".join(filter(None, [*notes, a.damaged or ""])),
    )


def _base(a: Attempt) -> str | None:
    return a.base.version.name if a.base and a.base.version else None


def _base_text(a: Attempt) -> str:
    if not a.sealed or a.base is None:
        return "" if a.sealed else "not sealed"
    return f"version {int(a.base.version.name.split('-')[0])}" if a.base.version else "the beginning"


def _short(error: str, limit: int = 80) -> str:
    """The first line of an error, cut: the whole is in --json."""
    line = (error.splitlines() or [""])[0]
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _alive(process: Process | None) -> bool | None:
    return process.alive if process and process.here else None


def _attempt(a: Attempt, became: Outcome) -> dict[str, Any]:
    return {
        "number": a.number,
        "kind": a.kind,
        "created": a.created,
        "ranks": a.ranks,
        "sealed": a.sealed,
        "base": _base(a),
        "holder": {**a.holder.plain(), "alive": _alive(a.holder)} if a.holder else None,
        "end": a.end._asdict() if a.end else None,
        "outcome": became.word,
        "replaced": list(became.replaced),
        "damaged": a.damaged,
    }


def _show(found: dict[str, Any]) -> None:
    from ..units import bytes_text

    step = "" if found["step"] is None else f", step {found['step']}"
    label = f" {found['label']!r}" if found["label"] else ""
    ranks = found["ranks"]
    click.echo(f"{found['kind']} {found['number']}{label}: {found['status']}{step}, {ranks} rank{'s' * (ranks != 1)}")
    objects, files = [], []
    for part in found["contents"]:
        rank = str(part["rank"])
        for o in part["objects"]:
            notes = ", ".join(note for note in ("replicated", "late") if o[note])
            where = _places(o["places"], found["number"], part["rank"])
            objects.append((rank, o["name"], *_type(o), _shard(o["shard"]), bytes_text(o["bytes"]), where, notes))
        files += [(rank, f["path"], bytes_text(f["bytes"])) for f in part["files"]]
    columns = ("rank", "object", "kind", "type", "shape", "shard", "size", "stored in", "notes")
    human.table(columns, objects, right=("rank", "size"))
    if files:
        click.echo()
        human.table(("rank", "output file", "size"), files, right=("rank", "size"))


def _places(places: list[dict[str, int]], version: int, rank: int) -> str:
    """Where an object's bytes are, if not all in the version's and rank's own file."""
    from ..units import bytes_text

    def place(p: dict[str, int]) -> str:
        whose = f" of rank {p['rank']}" if p["rank"] != rank else ""
        return f"version {p['version']}{whose}: {bytes_text(p['bytes'])}"

    if all((p["version"], p["rank"]) == (version, rank) for p in places):
        return ""
    return ", ".join(map(place, places))


def _type(o: dict[str, Any]) -> tuple[str, str, str]:
    """(kind, type, shape) of an object as `show` describes it: which members there are depends on its kind."""
    shape = " x ".join(map(str, o["shape"])) if o.get("shape") else "()" if o.get("shape") == [] else ""
    items = f"{o['items']} items" if "items" in o else ""
    return o["kind"], o.get("dtype") or o.get("type") or items, shape


def _shard(shard: dict[str, Any] | None) -> str:
    if shard is None:
        return ""
    return f"at {' '.join(map(str, shard['offset']))} of {' x '.join(map(str, shard['global_shape']))}"
