"""What the nodes hold brought to where it is needed: reports gathered, the plan made, the plan carried out (all collective).

Done when a run is opened, and again whenever something of it turns out to be damaged: each time there is less to plan with, so
that it comes to an end (what was rebuilt and is damaged all the same: `distrust`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ...catalog import read_commit
from ...catalog.places import KINDS
from ...errors import DamageError, HoldfastError, StorageError
from ...format import RECORD_LIMIT, Link, parse_version
from ...format.keys import COMMIT_NAME
from ...group import Group, at_root, from_root, together
from .distrust import Brought, read_through
from .ladder import Ladder
from .view import Holding, View, as_store

if TYPE_CHECKING:
    from ...recovery import Holdings, RecoveryPlan
    from ...recovery.recoveryplan import Source

log = logging.getLogger("holdfast")

Names = Sequence[tuple[str, str]]  # candidates, newest first: a version's name, its commit's digest ("": whatever it is)


class Arranged(NamedTuple):
    """What was found: the candidate to begin with, by number, and why newer ones can't be had. `unsafe`: whether there is
    nothing to begin with but the run's first version, lost before it was anywhere but in the memory of its ranks' nodes."""

    start: int
    passed: dict[int, str]
    unsafe: bool = False


class Recovery:
    """For one execution. `view`: from which this rank reads; its commits are filled in by `look`."""

    def __init__(self, ladder: Ladder, view: View, run_id: str, domain: str) -> None:
        self.ladder, self.view = ladder, view
        self._run_id, self._domain = run_id, domain
        self._bad: set[Holding] = set()  # of all ranks' nodes
        self._holdings: Holdings | None = None  # on rank 0
        self._brought = Brought()
        self.sources: dict[str, list[str]] = {}  # by version's name: each rank's source, in words

    @property
    def _group(self) -> Group:
        return self.ladder.group

    # -- looking -------------------------------------------------------------------------------

    def look(self, error: Exception | None = None) -> None:
        """Gather what all nodes hold, and give all ranks the commits that were found there (collective). `error`: what this
        rank has met before, which is raised on all.

        A commit on one node proves that all have written: where the job died before all nodes had it, they are given it."""
        for again in (True, False):
            commits, lacking = self._reported(error)
            self.view.commits = commits
            self.view.forget()
            if not (lacking and again):
                return
            try:
                for kind, name in self._uncommitted() if self.ladder.leads else ():
                    if name in commits:
                        self.ladder.places[kind].put_commit(name, commits[name])
            except HoldfastError as error:  # what this node holds of it does not count, then
                log.warning("a commit could not be put on this node: %s", error.message)

    def _uncommitted(self) -> list[tuple[str, str]]:
        """(place's kind, version's name) of what this node's ranks have proved and has no commit here."""
        return [
            (kind, name)
            for kind, place in self.ladder.places.items()
            for name in place.versions()
            if not place.store.exists(place.commit_key(name)) and place.ranks(name)
        ]

    def _reported(self, error: Exception | None) -> tuple[dict[str, bytes], bool]:
        """All commits that were found, by version's name, and whether some node lacks one of them (collective)."""
        from ...recovery import NodeReport, merge, report

        mine: list[Any] = []
        try:
            if self.ladder.leads and error is None:
                name = self.ladder.nodes.of[self._group.rank]
                kept, commits, notes = report(name, self._domain, list(self.ladder.places.values()), exclude=self._bad)
                for note in notes:
                    log.debug("%s: %s", name, note)
                digests = {(v, k.digest) for versions in kept.places.values() for v, k in versions.items()}
                records = [[version, commits[digest]] for version, digest in sorted(digests)]
                mine = [kept.to_wire(), records, [version for _, version in self._uncommitted()]]
        except Exception as failed:
            error = failed

        def merged(told: list[Any]) -> list[Any]:
            told = [body for body in told if body]  # of ranks that lead a node
            self._holdings = merge(NodeReport.from_wire(wire) for wire, _, _ in told)
            found: dict[str, bytes] = {}
            for name, record in (each for _, records, _ in told for each in records):
                found.setdefault(name, record)
            return [found, any(name in found for _, _, names in told for name in names)]

        every, lacking = at_root(self._group, "asking nodes what they hold", mine, merged, error)
        return every, lacking

    # -- arranging -------------------------------------------------------------------------------

    def arrange(self, candidates: Names) -> Arranged:
        """Bring the newest version that can be had to the ranks' nodes, as far as it is not in the run's own store
        (collective). `candidates`: the lineage."""
        while True:
            plan = self._plan(candidates)
            if not self._needs_work(plan):
                break
            try:
                self._carry_out(plan)
                break
            except DamageError:  # less to plan with
                self.look()
            except HoldfastError as error:
                self.ladder.drop_channel()
                if self._group.rank == 0:
                    text = "what nodes hold could not be brought together (%s); the run's own store is read"
                    log.warning(text, error.message)
                self.view.places, self.view.commits = {}, {}
                self._holdings = plan = None
                break
        self._remember(plan)
        names = [name for name, _ in candidates]
        if plan is None or plan.version is None:
            return Arranged(0, {}, bool(from_root(self._group, "looking what was safe", lambda: self._unsafe(candidates))))
        start = names.index(plan.version.name)
        passed = dict.fromkeys(range(start), "neither a node that is there nor the run's own store has its commit")
        passed.update({names.index(p.link.name): p.reason for p in plan.passed if p.link.name in names})
        return Arranged(start, passed)

    def _unsafe(self, candidates: Names) -> bool:
        """On rank 0, where nothing can be had: whether there is only the run's first version, lost before it had parity or a
        copy anywhere, as nodes tell that still hold a part of it. On a later one more work may depend, and a node's disk may
        come back: a person decides. One that an attempt went on from, which has a digest, was whole."""
        if self._holdings is None or self._bad or len(candidates) != 1:
            return False
        ((name, digest),) = candidates
        number, _ = parse_version(name) or (0, 0)
        held = {place: holders for (version, _, place), holders in self._holdings.of.items() if version == name}
        only_parts = list(held) == ["memory"] and not held["memory"].sets
        return number == 1 and not digest and only_parts and not self.view.store.exists(f"versions/{name}/{COMMIT_NAME}")

    @property
    def worse(self) -> bool:
        """Whether this rank has found damage at a place since `arrange` (local)."""
        return bool(self.view.bad - self._bad)

    def _without(self, found: set[Holding]) -> None:
        """These are damaged, which all know now: what was made from them too, or nodes are not asked for that version any
        more (collective)."""
        suspect, hopeless = self._brought.suspect(found)
        for version in suspect:
            self._read_through(version)
        for version in hopeless:
            if self._group.rank == 0:
                log.warning("version %s is damaged, rebuilt twice: nodes are not asked for it any more", version)
            everything = {(kind, version, rank) for kind in KINDS for rank in range(self._group.size)}
            self.view.bad |= everything
            self._bad |= everything  # all come to the same: nobody has to be told
        if suspect:
            self._know(together(self._group, "telling what was made from it", self._news()))
        self.look()

    def _news(self) -> list[Any]:
        """What this rank has found to be damaged and the others don't know of (local)."""
        return [list(holding) for holding in sorted(self.view.bad - self._bad)]

    def _know(self, told: list[Any]) -> set[Holding]:
        new = {(str(k), str(v), int(r)) for one in told if isinstance(one, list) for k, v, r in one}
        self._bad |= new
        return new

    def _read_through(self, version: str) -> None:
        """What this node holds of a version, shared out among its ranks (local)."""
        of, me = self.ladder.nodes.of, self._group.rank
        mine = [rank for rank, node in enumerate(of) if node == of[me]]
        try:
            commit = read_commit(as_store(self.view), "checkpoint", version)[0]
            share = slice(mine.index(me), None, len(mine))
            for holding in read_through(self.ladder.places, commit, share, self._bad):
                kind, _, rank = holding
                log.warning("rank %d of version %s is damaged in this node's %s: it is no source", rank, version, kind)
                self.view.bad.add(holding)
        except (DamageError, StorageError) as error:
            log.warning("version %s could not be read through: %s", version, error.message)

    def _plan(self, candidates: Names) -> RecoveryPlan | None:
        """What is to be done (collective). Damage that a rank has found since is told first, and planned around."""
        from ...recovery import RecoveryPlan

        def planned(told: list[Any]) -> list[Any]:
            news = [one for one in told if one]
            return [news, b"" if news else self._planned(candidates)]

        while True:
            news, wire = at_root(self._group, "planning the recovery", self._news(), planned)
            if not news:
                return RecoveryPlan.from_wire(wire) if wire else None
            self._without(self._know(news))

    def _planned(self, candidates: Names) -> bytes:
        """On rank 0: the plan; nothing if no node holds anything."""
        from ...recovery import Candidate, Homes, plan

        if self._holdings is None or not self._holdings.of:
            return b""
        known = []
        store = self.view.store
        for name, digest in candidates:
            try:
                commit, found, _ = read_commit(as_store(self.view), "checkpoint", name)
            except (DamageError, StorageError):
                continue
            # With another number of ranks a rank needs others' data too: only the run's own store has them all.
            if (digest and digest != found) or commit.ranks != self._group.size:
                continue
            stored = store.exists(f"versions/{name}/{COMMIT_NAME}")
            known.append(Candidate(Link(name, found), commit.ranks, commit.refs, stored))
        found_plan = plan(self._holdings, known, Homes.by_name(self.ladder.nodes.of))
        for line in found_plan.lines():
            log.debug("%s", line)
        return found_plan.to_wire() if found_plan.version is not None else b""

    def _needs_work(self, plan: RecoveryPlan | None) -> bool:
        if plan is None:
            return False
        counts = plan.counts()
        works = any(take.works or any(len(m.ranks) for m in take.parities) for take in plan.takes)
        return bool(counts["move"] or counts["rebuild"] or works)

    def _carry_out(self, plan: RecoveryPlan | None) -> None:
        assert plan is not None
        from ...recovery import carry_out

        group, nodes = self._group, self.ladder.nodes
        error: Exception | None = None
        brought: list[list[Any]] = []
        try:
            carried = carry_out(
                plan, self.ladder.places, self.ladder.channel(), range(group.size), nodes.of, self._domain,
                self._commits_of(plan), self.ladder.timeout, lambda line: log.info("%s", line),
            )  # fmt: skip
            brought = [list(stream) for stream in carried.brought]
        except DamageError as failed:
            self._blame(failed)
            error = failed
        except Exception as failed:
            error = failed
        self.view.forget()
        told = together(group, "bringing versions to their nodes", brought, error)
        # What was damaged and has been rebuilt, or come from elsewhere, is good now.
        good = {(version, rank) for one in told if isinstance(one, list) for version, rank in one}
        self._brought.add(good)
        self._bad = {holding for holding in self._bad if holding[1:] not in good}
        self.view.bad = {holding for holding in self.view.bad if holding[1:] not in good}

    def _commits_of(self, plan: RecoveryPlan) -> dict[str, bytes]:
        names = [take.link.name for take in plan.takes]
        return {name: self.view.get(f"versions/{name}/{COMMIT_NAME}", RECORD_LIMIT) for name in names}

    def _blame(self, error: DamageError) -> None:
        """A source that could not be read: not to be planned with again."""
        source = getattr(error, "source", None)
        if source is not None:
            self.view.bad.add((source.place, source.version, source.rank))

    def _remember(self, plan: RecoveryPlan | None) -> None:
        if plan is None or plan.version is None:
            return
        words = []
        sources = [plan.source(rank) for rank in range(plan.ranks)]
        for source in sources:
            text = {
                "own": f"{source.place}, on its own node",
                "move": f"{source.place}, moved from {source.node}",
                "rebuild": f"{source.place}, rebuilt by ranks {_named(source.members, sources)}",
            }.get(source.kind, "the run's own store")
            words.append(text)
        self.sources[plan.version.name] = words


def _named(members: Sequence[int], sources: Sequence[Source]) -> str:
    """Those of a set that are left."""
    return ", ".join(str(r) for r in members if sources[r].kind != "rebuild")
