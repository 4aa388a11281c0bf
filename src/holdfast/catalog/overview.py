"""Everything there is in a run, as plain values for tables and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import DamageError
from ..format import Link, parse_version
from ..format.keys import COMMIT_NAME, RUN_KEY, Kind, folder
from ..format.records import RECORD_LIMIT, decode_record
from ..policy import Keep
from ..store import KeyMissingError, Store
from .attempts import Attempt, read_attempt
from .lineage import Snapshot
from .retention import plan

ON_NODES = "is on nodes only, or lost with them"


@dataclass(frozen=True)
class Version:
    """A version as listed. `status`: `current` (counts), `abandoned`, `damaged`, `fragment` (never committed),
    `nodes` (not in the run's own store, and made by an attempt for which nodes had places: there alone, or lost with them).
    `step`: steps completed; `parent`: a version's number; `time`: of the commit, seconds since 1970; `seconds`: the stall;
    `content`: a digest that equal states share; `bytes`: of the data files written for it; `state`: bytes of the state;
    `refs`: numbers of the versions that some of its blocks are in, newest first; `chain`: how many versions a read of it
    touches. What is not known of a damaged one or a fragment is None, 0 or empty."""

    name: str
    number: int
    attempt: int
    kind: Kind
    status: str
    step: int | None = None
    parent: int | None = None
    time: float = 0.0
    seconds: float = 0.0
    bytes: int = 0
    ranks: int = 0
    objects: int = 0
    complete: bool = False
    reason: str = ""
    label: str | None = None
    content: str = ""
    problem: str | None = None
    state: int = 0
    chain: int = 0
    refs: tuple[int, ...] = ()


@dataclass(frozen=True)
class Catalog:
    """A run: `versions` of all kinds, newest first; `lineage`: the checkpoints that count, newest first."""

    run: str
    attempts: list[Attempt]
    versions: list[Version]
    lineage: list[Version]
    complete: bool
    problems: list[str]


def read_catalog(store: Store) -> Catalog:
    """The whole catalog, every commit read (local; never writes)."""
    snapshot = Snapshot(store)
    versions = list_versions(snapshot)
    lineage = [v for v in versions if v.kind == "checkpoint" and v.status == "current"]
    attempts = [read_attempt(store, n, snapshot.attempts[n]) for n in sorted(snapshot.attempts)]
    problems = [a.damaged for a in attempts if a.damaged] + snapshot.complaints
    problems += [f"{folder(v.kind)}/{v.name}: {v.problem}" for v in versions if v.status == "damaged"]
    run, complaint = _run_id(store)
    problems += [complaint] if complaint else []
    return Catalog(run, attempts, versions, lineage, bool(lineage) and lineage[0].complete, problems)


def list_versions(snapshot: Snapshot) -> list[Version]:
    """Every version directory of the run, newest first."""
    links = {e.name: e.digest if isinstance(e, Link) else None for e in snapshot.lineage}
    counting: dict[Kind, dict[str, str | None]] = {
        "checkpoint": links,
        "record": {n.name: None for n in snapshot.records},
    }
    found = [
        _version(snapshot, kind, n.name, n.number, n.attempt, counting[kind])
        for kind in counting
        for n in snapshot.names[kind]
    ]
    for e in snapshot.missing:
        status, problem = ("nodes", ON_NODES) if snapshot.on_nodes(e.name) else ("damaged", "is missing")
        found.append(Version(e.name, *(parse_version(e.name) or (0, 0)), "checkpoint", status, problem=problem))
    # Of two with one number (a fenced writer's leftover) the one that counts comes first.
    return sorted(found, key=lambda v: (-v.number, v.status != "current"))


def _version(
    snapshot: Snapshot, kind: Kind, name: str, number: int, attempt: int, counting: dict[str, str | None]
) -> Version:
    known: dict[str, Any] = {"name": name, "number": number, "attempt": attempt, "kind": kind}
    try:
        commit, digest = snapshot.commit(kind, name)
    except KeyMissingError:
        if name in snapshot.lost and kind == "checkpoint" and snapshot.on_nodes(name):
            return Version(**known, status="nodes", problem=ON_NODES)
        if name in snapshot.lost:
            problem = f"{folder(kind)}/{name}/{COMMIT_NAME} is missing"
            return Version(**known, status="damaged", problem=problem)
        return Version(**known, status="fragment", problem="never committed")
    except DamageError as error:
        return Version(**known, status="damaged", problem=error.message)
    meant = counting.get(name, "")
    parent = parse_version(commit.parent.name) if commit.parent else None
    return Version(
        **known,
        status="current" if meant is None or meant == digest else "abandoned",
        step=commit.step,
        parent=parent[0] if parent else None,
        time=commit.created,
        seconds=commit.seconds,
        bytes=commit.nbytes,
        ranks=commit.ranks,
        objects=commit.objects,
        complete=commit.complete,
        reason=commit.reason,
        label=commit.label,
        content=commit.index_digest,
        state=commit.state,
        chain=1 + len(commit.refs),
        refs=tuple(parsed[0] for link in commit.refs if (parsed := parse_version(link.name))),
    )


def why_kept(lineage: Sequence[Version], keep: Keep) -> dict[int, str]:
    """For each version of `Catalog.lineage` beyond the newest `keep.last` that retention keeps: "held by 12", which needs its
    blocks or those behind it, or "spare of 12", with which it shares none; by number."""
    names = [str(v.number) for v in lineage]
    kept = plan([frozenset(map(str, v.refs)) for v in lineage], names, keep.last)
    return {
        lineage[i].number: f"{'spare of' if why.spare else 'held by'} {lineage[why.needed].number}"
        for i, why in kept.items()
    }


def _run_id(store: Store) -> tuple[str, str | None]:
    try:
        body, _, complaints = decode_record(store.get(RUN_KEY, RECORD_LIMIT), RUN_KEY)
        return str(body.get("run", "")), complaints[0] if complaints else None
    except (DamageError, KeyMissingError) as error:
        return "", error.message
