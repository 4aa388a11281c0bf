"""A look at a run from outside: what each node that is asked holds, and what could be resumed from.

One process for each node, or one alone on this one. Nothing is changed: no attempt is taken, no place is made (unless `look` is
told to, by the salvage that has taken one).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgpack

from ...catalog import Snapshot, find_holder, known_places, read_commit
from ...catalog.places import Held, Place, open_place
from ...errors import DamageError, HoldfastError, StorageError
from ...format import RECORD_LIMIT, Link, decode_record, parse_version
from ...format.keys import COMMIT_NAME, RUN_KEY
from ...group import Group, from_root, together
from ...store import KeyMissingError, Store, open_store
from .ladder import Root
from .nodes import Nodes, domain_of, find_nodes, memory_root
from .view import View, as_store

if TYPE_CHECKING:
    from ...recovery import Candidate, Holdings, RecoveryPlan

log = logging.getLogger("holdfast")

Bad = tuple[str, str, int, str]  # a holding that is damaged: kind of the place, version's name, rank, node


class Asked(NamedTuple):
    """A node that was asked. `places`: (kind, directory) of the run's on it; `versions`: names of those that it has anything
    of, newest first; `notes`: what was found there and is no use, or why nothing could be looked at."""

    node: str
    places: tuple[tuple[str, str], ...]
    versions: tuple[str, ...]
    notes: tuple[str, ...]

    def line(self) -> str:
        """For people."""
        if not self.places:
            why = f" ({'; '.join(self.notes)})" if self.notes else ""
            return f"node {self.node}: nothing can be had from it: it has no place of this run{why}"
        where = ", ".join(f"{kind} in {root}" for kind, root in self.places)
        if not self.versions:
            return f"node {self.node}: nothing can be had from it: its place is empty ({where})"
        numbers = [str((parse_version(name) or (0, 0))[0]) for name in self.versions]
        some = ", ".join(numbers[:4]) + (f", … ({len(numbers)} in all)" if len(numbers) > 4 else "")
        return f"node {self.node}: version{'s' * (len(numbers) > 1)} {some} ({where})"


class Of(NamedTuple):
    """The run: its directory, its id, and the places that its attempts had."""

    where: str
    run: str
    known: tuple[Root, ...]


def identify(group: Group, url: str) -> tuple[Store, Of]:
    """The run at `url`, opened for reading (collective). StorageError; DamageError if its identity can't be read."""

    def look() -> list[Any]:
        store = open_store(url, create=False, read_only=True)
        body, _, _ = decode_record(store.get(RUN_KEY, RECORD_LIMIT), RUN_KEY)
        return [str(store.location), str(body.get("run", "")), [list(root) for root in known_places(store)]]

    told = from_root(group, "opening the run", look)
    assert isinstance(told, list)
    where, run, known = told
    return open_all(group, where, read_only=True), Of(where, run, tuple((kind, root) for kind, root in known))


def open_all(group: Group, where: str, *, read_only: bool) -> Store:
    """The run's own store, on all processes alike (collective)."""
    error: Exception | None = None
    store: Store | None = None
    try:
        store = open_store(where, create=False, read_only=read_only)
    except Exception as failed:
        error = failed
    together(group, "opening the run", error=error)
    assert store is not None
    return store


class Outlook:
    """Of one process. `places`: of its node, by kind; `nodes`: of all processes; `holdings`, `asked`: on process 0, what all
    nodes hold and what each said."""

    def __init__(self, group: Group, store: Store, of: Of) -> None:
        self.group, self.store, self.of = group, store, of
        self.places: dict[str, Place] = {}
        self.domain = ""
        self.nodes = Nodes((), ())
        self.view = View(store, {})
        self.bad: set[Bad] = set()
        self.holdings: Holdings | None = None
        self.asked: list[Asked] = []

    @property
    def node(self) -> str:
        """This process's."""
        return self.nodes.of[self.group.rank]

    @property
    def leads(self) -> bool:
        """Whether this process does what is done once on its node."""
        return self.nodes.leads(self.group.rank)

    # -- looking ---------------------------------------------------------------------------------

    def look(self, make: bool = False) -> None:
        """Ask all nodes what they hold (collective). `make`: a node that has one place of the run is given the others, so that
        something can be brought there. StorageError, and what agreeing raises."""
        from ...recovery import NodeReport, merge, report

        notes: list[str] = []
        error: Exception | None = None
        try:
            self.domain = domain_of(None)
            self.places = self._open(make, notes)
        except Exception as failed:
            error = failed
        together(self.group, "opening the places of nodes", error=error)
        self.nodes = find_nodes(self.group, self.places, self.domain)
        mine: list[Any] = []
        error = None
        try:
            if self.leads:
                exclude = [(kind, version, rank) for kind, version, rank, node in self.bad if node == self.node]
                kept, commits, more = report(self.node, self.domain, list(self.places.values()), exclude=exclude)
                digests = {(v, k.digest) for versions in kept.places.values() for v, k in versions.items()}
                records = [[version, commits[digest]] for version, digest in sorted(digests)]
                roots = [[kind, place.root] for kind, place in self.places.items()]
                versions = sorted({v for v, _ in digests}, reverse=True)
                mine = [kept.to_wire(), records, [self.node, roots, versions, notes + more]]
        except Exception as failed:
            error = failed
        together(self.group, "asking nodes what they hold", error=error)
        packed = self.group.gather(msgpack.packb(mine), range(self.group.size), "asking nodes what they hold")
        told = [body for body in map(msgpack.unpackb, packed or ()) if body]
        found: dict[str, bytes] = {}
        if self.group.rank == 0:
            self.holdings = merge(NodeReport.from_wire(wire) for wire, _, _ in told)
            self.asked = [
                Asked(node, tuple((kind, root) for kind, root in roots), tuple(versions), tuple(said))
                for _, _, (node, roots, versions, said) in told
            ]
            for name, record in (each for _, records, _ in told for each in records):
                found.setdefault(name, record)
        commits_of = from_root(self.group, "telling what nodes hold", lambda: found)
        assert isinstance(commits_of, dict)
        self.view = View(self.store, self.places, commits_of)

    def _open(self, make: bool, notes: list[str]) -> dict[str, Place]:
        places: dict[str, Place] = {}
        for kind, root in self.of.known:
            try:
                places[kind] = open_place(kind, root or memory_root(), self.of.run, create=False)
            except KeyMissingError:
                continue
            except (DamageError, StorageError) as error:
                notes.append(f"{kind}: {error.message}")
        if make and any(place.versions() for place in places.values()):
            for kind, root in self.of.known:
                if kind not in places:
                    places[kind] = open_place(kind, root or memory_root(), self.of.run, create=True, where=self.of.where)
        return places

    def held(self, version: str, rank: int) -> tuple[Place, Held]:
        """Where this node has the rank's stream. DamageError if it hasn't (local)."""
        for kind in ("memory", "local"):
            if kind in self.places and (kind, version, rank, self.node) not in self.bad:
                try:
                    return self.places[kind], self.places[kind].read_held(version, rank)
                except (DamageError, StorageError) as error:
                    log.debug("%s: rank %d of version %s: %s", kind, rank, version, error.message)
        raise DamageError(
            f"What rank {rank} has of version {version} is not on node {self.node} any more. Nothing was changed.", rank=rank
        )

    # -- what there is to go on from (on process 0) ------------------------------------------------

    def snapshot(self) -> Snapshot:
        """The run as it is with what nodes hold."""
        return Snapshot(as_store(self.view))

    def candidates(self) -> tuple[list[Candidate], list[str]]:
        """The versions that count and whose commits can be read, newest first; a line for each whose can't."""
        from ...recovery import Candidate

        snapshot = self.snapshot()
        found, lost = [], []
        for entry in (*snapshot.missing, *snapshot.lineage):
            meant = entry.digest if isinstance(entry, Link) else ""
            try:
                commit, digest, _ = read_commit(as_store(self.view), "checkpoint", entry.name)
            except KeyMissingError:
                # Else it was never committed, and nobody has lost it.
                if meant or entry in snapshot.missing:
                    version = (parse_version(entry.name) or (0, 0))[0]
                    lost.append(f"version {version}: neither a node that was asked nor the run's own store has its commit")
                continue
            except (DamageError, StorageError) as error:
                lost.append(error.message)
                continue
            if meant and digest != meant:
                lost.append(f"versions/{entry.name}/{COMMIT_NAME} is not the record that was sealed")
                continue
            found.append(Candidate(Link(entry.name, digest), commit.ranks, commit.refs, self.stored(Link(entry.name, digest))))
        return found, lost

    def stored(self, link: Link) -> bool:
        """Whether the run's own store has this very version."""
        try:
            return read_commit(self.store, "checkpoint", link.name)[1] == link.digest
        except (DamageError, KeyMissingError):
            return False

    def plan(self, candidates: Sequence[Candidate], homes: Sequence[str]) -> RecoveryPlan:
        """`homes`: each rank's node by name."""
        from ...recovery import Homes, plan

        assert self.holdings is not None
        return plan(self.holdings, candidates, Homes.by_name(homes))

    def in_use(self, lease: float) -> str:
        """Who holds the run, in words; empty if it is free."""
        try:
            holder = find_holder(self.store, lease)
        except HoldfastError as error:
            return error.message
        return holder.text if holder is not None else ""


def deal(ranks: int, slots: Sequence[int]) -> list[int]:
    """For each of `ranks` ranks the process it would run at: `slots` of the processes in order, what is more dealt to the least
    crowded, as `holdfast run` does it."""
    counts = [0] * len(slots)
    for i, most in enumerate(slots):
        counts[i] = min(most, ranks - sum(counts))
    for _ in range(ranks - sum(counts)):
        at = min(range(len(slots)), key=lambda i: ((counts[i] + 1) / max(slots[i], 1), i))
        counts[at] += 1
    return [i for i, count in enumerate(counts) for _ in range(count)]


def foresee(group: Group, url: str, slots: Sequence[int], ranks: int | None, lease: float) -> dict[str, Any]:
    """What a start on these nodes would resume from (collective): on process 0 `{ranks, plan, lines, asked, in_use}`, else
    nothing in it. `slots`: ranks for each process's node; `ranks`: as many as the newest version has where None."""
    from ...recovery import RecoveryPlan

    store, of = identify(group, url)
    outlook = Outlook(group, store, of)
    outlook.look()

    def look() -> list[Any]:
        candidates, lost = outlook.candidates()
        size = ranks or next((c.ranks for c in candidates), sum(slots))
        # With another number of ranks a rank needs others' data too: only the run's own store has them all.
        other = [c for c in candidates if c.ranks != size and not c.stored]
        for c in other:
            number = (parse_version(c.link.name) or (0, 0))[0]
            many = f"{c.ranks} rank{'s' * (c.ranks != 1)}"
            lost.append(
                f"version {number} is of {many}, and {size} can go on only from what the run's own store has: "
                "`holdfast salvage` brings it there"
            )
        homes = [outlook.nodes.of[i] for i in deal(size, slots)]
        same = [c if c.ranks == size else c._replace(refs=()) for c in candidates if c not in other]
        assert outlook.holdings is not None
        if len(same) < len(candidates) or any(c.ranks != size for c in same):
            names = {c.link.name for c in candidates if c.ranks != size}
            of_size = {key: value for key, value in outlook.holdings.of.items() if key[0] not in names}
            outlook.holdings = outlook.holdings._replace(of=of_size)
        found = outlook.plan(same, homes)
        return [size, found.to_wire(), lost]

    told = from_root(group, "planning", look)
    assert isinstance(told, list)
    if group.rank != 0:
        return {}
    size, wire, lost = told
    found = RecoveryPlan.from_wire(wire)
    number = None if found.version is None else (parse_version(found.version.name) or (0, 0))[0]
    return {
        "ranks": size,
        "version": number,
        "plan": found.to_body(),
        "lines": [*found.lines(), *lost],
        "asked": [{**one._asdict(), "line": one.line()} for one in outlook.asked],
        "in_use": outlook.in_use(lease),
    }
