"""A look at a run from outside: what each node that is asked holds, and what could be resumed from.

One process for each node, or one alone on this one. Nothing is changed: no attempt is taken, no place is made (unless `look` is
told to, by the salvage that has taken one).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from ...catalog import Snapshot, find_holder, known_places, read_commit
from ...catalog.places import Held, Place, open_place
from ...errors import DamageError, HoldfastError, StorageError
from ...format import RECORD_LIMIT, Link, decode_record, parse_version
from ...format.keys import COMMIT_NAME, RUN_KEY
from ...group import Group, at_root, from_root, together
from ...store import KeyMissingError, PosixStore, Store, open_store
from .ladder import Root
from .nodes import Nodes, domain_of, find_nodes, memory_root, words_of
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


class Lost(NamedTuple):
    """A version that counts and whose commit can't be read. `name`: the version's; `line`: for people."""

    name: str
    line: str


def newer(lost: Sequence[Lost], than: Link | None) -> list[str]:
    """What is told of those that are newer than the version that would be gone on from; of all if there is none: what is older
    changes nothing."""
    age = parse_version(than.name) if than is not None else None
    return [one.line for one in lost if age is None or (parse_version(one.name) or age) > age]


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
    together(group, "opening the run's store", error=error)
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
        something can be brought there, and the commits that it lacks. StorageError, and what agreeing raises."""
        notes: list[str] = []
        error: Exception | None = None
        try:
            self.domain = domain_of(None)
            self.places = self._open(make, notes)
        except Exception as failed:
            error = failed
        told: Any = together(self.group, "opening the places of nodes", words_of(self.places, self.domain), error)
        self.nodes = find_nodes([[str(word) for word in words] for words in told])
        found, lacking = self._gather({}, notes)
        if lacking:
            # A commit on one node proves that all have written: where the job died before all had it, it serves the others too.
            error = None
            try:
                if make and self.leads:
                    for kind, name in self._uncommitted():
                        if name in found:
                            self.places[kind].put_commit(name, found[name])
            except Exception as failed:
                error = failed
            together(self.group, "giving nodes the commits that they lack", error=error)
            found, _ = self._gather(found, notes)
        self.view = View(self.store, self.places, found)

    def _uncommitted(self) -> list[tuple[str, str]]:
        """(place's kind, version's name) of what ranks have proved on this node and has no commit here."""
        return [
            (kind, name)
            for kind, place in self.places.items()
            for name in place.versions()
            if not place.store.exists(place.commit_key(name)) and place.ranks(name)
        ]

    def _gather(self, known: dict[str, bytes], notes: list[str]) -> tuple[dict[str, bytes], bool]:
        """The commits that nodes have, by version's name, and whether one of them lacks one (collective). `known`: commits
        that count as if they were on this node."""
        from ...recovery import NodeReport, merge, report

        mine: list[Any] = []
        error: Exception | None = None
        try:
            if self.leads:
                exclude = [(kind, version, rank) for kind, version, rank, node in self.bad if node == self.node]
                places = [_with_commits(place, known) if known else place for place in self.places.values()]
                kept, commits, more = report(self.node, self.domain, places, exclude=exclude)
                digests = {(v, k.digest) for versions in kept.places.values() for v, k in versions.items()}
                records = [[version, commits[digest]] for version, digest in sorted(digests)]
                roots = [[kind, place.root] for kind, place in self.places.items()]
                versions = sorted({v for v, _ in digests}, reverse=True)
                bare = [name for _, name in self._uncommitted()]
                mine = [kept.to_wire(), records, bare, [self.node, roots, versions, notes + more]]
        except Exception as failed:
            error = failed

        def merged(told: list[Any]) -> list[Any]:
            told = [body for body in told if body]  # of processes that lead a node
            self.holdings = merge(NodeReport.from_wire(wire) for wire, _, _, _ in told)
            self.asked = [
                Asked(node, tuple((kind, root) for kind, root in roots), tuple(versions), tuple(said))
                for _, _, _, (node, roots, versions, said) in told
            ]
            found: dict[str, bytes] = {}
            for name, record in (each for _, records, _, _ in told for each in records):
                found.setdefault(name, record)
            return [found, any(name in found for _, _, names, _ in told for name in names)]

        every, lacking = at_root(self.group, "asking nodes what they hold", mine, merged, error)
        return every, lacking

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

    def candidates(self) -> tuple[list[Candidate], list[Lost]]:
        """The versions that count and whose commits can be read, newest first; and those whose can't."""
        from ...recovery import Candidate

        snapshot = self.snapshot()
        found: list[Candidate] = []
        lost: list[Lost] = []
        for entry in (*snapshot.missing, *snapshot.lineage):
            meant = entry.digest if isinstance(entry, Link) else ""
            try:
                commit, digest, _ = read_commit(as_store(self.view), "checkpoint", entry.name)
            except KeyMissingError:
                # Else it was never committed, and nobody has lost it.
                if meant or entry in snapshot.missing:
                    version = (parse_version(entry.name) or (0, 0))[0]
                    line = f"version {version}: neither a node that was asked nor the run's own store has its commit"
                    lost.append(Lost(entry.name, line))
                continue
            except (DamageError, StorageError) as error:
                lost.append(Lost(entry.name, error.message))
                continue
            if meant and digest != meant:
                lost.append(Lost(entry.name, f"versions/{entry.name}/{COMMIT_NAME} is not the record that was sealed"))
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


class _Committed:
    """A place's store with commits that stand elsewhere as if they stood there."""

    def __init__(self, store: PosixStore, commits: dict[str, bytes]) -> None:
        self._store = store
        self._commits = {Place.commit_key(name): record for name, record in commits.items()}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def get(self, key: str, limit: int) -> bytes:
        try:
            return self._store.get(key, limit)
        except KeyMissingError:
            if key not in self._commits:
                raise
            return self._commits[key]

    def owner_is_me(self, key: str) -> bool:
        try:
            return self._store.owner_is_me(key)
        except KeyMissingError:  # it was found where only this user can write
            if key not in self._commits:
                raise
            return True


def _with_commits(place: Place, commits: dict[str, bytes]) -> Place:
    return place._replace(store=cast("PosixStore", _Committed(place.store, commits)))
