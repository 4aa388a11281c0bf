"""Nodes whose places are directories, processes that are threads: versions saved there, lost, and brought back."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_TESTS = Path(__file__).resolve().parents[1]
for _path in (_TESTS, _TESTS / "redundancy"):
    if str(_path) not in sys.path:
        sys.path.append(str(_path))

from redundancy_support import Net, QueueChannel, together  # noqa: E402

from holdfast.catalog import Commit  # noqa: E402
from holdfast.catalog.places import Held, Member, Place, open_place, verify_held  # noqa: E402
from holdfast.catalog.process import current  # noqa: E402
from holdfast.format import Link, digest_hex, version_name  # noqa: E402
from holdfast.recovery import Candidate, Carried, Homes, RecoveryPlan, carry_out, merge, plan, report  # noqa: E402
from holdfast.recovery.protecting import protect  # noqa: E402
from holdfast.redundancy import Scheme  # noqa: E402
from holdfast.redundancy.sets import deal  # noqa: E402

RUN = "0123456789abcdef" * 2
TIMEOUT = 20.0


class Cluster:
    """`homes`: each rank's node by name. `states`: {(version, rank): (data, part)}, what must be there in the end."""

    def __init__(self, root: Path, homes: list[str]) -> None:
        self.root, self.homes = root, homes
        self.states: dict[tuple[str, int], tuple[bytes, bytes]] = {}
        self.candidates: list[Candidate] = []
        self.records: dict[str, bytes] = {}
        self.sets: dict[str, tuple[str, list[tuple[int, ...]], int]] = {}
        self.kinds: tuple[str, ...] = ("memory",)

    def place(self, node: str, kind: str) -> Place:
        root = self.root / node / kind
        root.mkdir(parents=True, exist_ok=True)
        return open_place(kind, str(root), RUN, create=True)

    def nodes(self) -> list[str]:
        return sorted(path.name for path in self.root.iterdir())

    # -- saving -----------------------------------------------------------------------------

    def hold(self, number: int, sizes: list[int], kind: str = "memory") -> str:
        """Each rank's data and part of a version, with its record; no commit yet. `sizes`: bytes of each rank's data."""
        version = version_name(number, 1)
        for rank, size in enumerate(sizes):
            rng = np.random.default_rng([number, rank])
            state = (rng.bytes(size), rng.bytes(100 + 37 * rank))
            assert self.states.setdefault((version, rank), state) == state
            place = self.place(self.homes[rank], kind)
            with place.store.create(place.data_key(version, rank), size) as writer:
                writer.write(0, state[0])
                writer.finish()
            place.put_held(self.held(version, rank, len(sizes), self.homes[rank]), state[1])
        return version

    def held(self, version: str, rank: int, ranks: int, domain: str) -> Held:
        data, part = self.states[version, rank]
        boot, uid = current().boot, os.geteuid()
        return Held(RUN, version, 1, rank, ranks, boot, uid, domain, len(data), len(part), digest_hex(part))

    def member(self, version: str, rank: int) -> Member:
        data, part = self.states[version, rank]
        return Member(rank, len(data), len(part), digest_hex(part))

    def commit(
        self, version: str, kinds: tuple[str, ...], refs: tuple[Link, ...] = (), stored: bool = False
    ) -> Candidate:
        number, ranks = int(version[:8]), sum(name == version for name, _ in self.states)
        commit = Commit(
            "checkpoint", number, 1, None, None, number, {}, False, "every", ranks, 1, 1, 1e9, 0.1, 10, "0" * 32, 10, refs
        )  # fmt: skip
        record, digest = commit.encode()
        self.records[version] = record
        for node in set(self.homes):
            for kind in kinds:
                self.place(node, kind).put_commit(version, record)
        self.candidates.insert(0, Candidate(Link(version, digest), ranks, refs, stored))
        return self.candidates[0]

    def save(
        self,
        number: int,
        sizes: list[int],
        m: int = 1,
        size: int | None = None,
        refs: tuple[Link, ...] = (),
        stored: bool = False,
    ) -> Candidate:
        """A version in memory, committed, then protected by one process for each rank (m = 0: not)."""
        version = self.hold(number, sizes)
        made = self.commit(version, ("memory",), refs, stored)
        if m:
            sets = deal(self.homes, size, m)
            self.sets[version] = ("memory", sets, m)
            self.protect(version, sets, m, list(range(len(sizes))))
        return made

    def protect(
        self, version: str, sets: list[tuple[int, ...]], m: int, homes: list[int], timeout: float = TIMEOUT
    ) -> list[Any]:
        """What each process's call has raised, or None. `homes`: rank -> process."""
        net = Net(max(homes) + 1)
        facts = {rank: self.member(version, rank) for rank in range(len(homes))}

        def work(process: int) -> None:
            mine = [r for r, home in enumerate(homes) if home == process]
            place = self.place(self.homes[mine[0]], "memory")
            helds = [self.held(version, r, len(homes), self.homes[r]) for r in mine]
            protect(QueueChannel(net, process), place, helds, sets, m, homes, facts, timeout)

        return outcomes(net.size, work)

    # -- losing, planning -------------------------------------------------------------------

    def lose(self, *nodes: str) -> None:
        for node in nodes:
            shutil.rmtree(self.root / node)

    def plan(self, homes: list[str], exclude: tuple[tuple[str, str, str, int], ...] = ()) -> RecoveryPlan:
        """`homes`: each rank's node now; `exclude`: (node, kind, version, rank)."""
        reports = []
        for node in self.nodes():
            kinds = [kind for kind in ("memory", "local") if (self.root / node / kind).exists()]
            places = [self.place(node, kind) for kind in kinds]
            reports.append(report(node, node, places, [e[1:] for e in exclude if e[0] == node])[0])
        return plan(merge(reports), self.candidates, Homes.by_name(homes))

    # -- carrying out -----------------------------------------------------------------------

    def carry(
        self,
        made: RecoveryPlan,
        homes: list[str],
        per_node: bool = False,
        net: Net | None = None,
        timeout: float = TIMEOUT,
        tell: Callable[[str], None] = lambda line: None,
    ) -> list[Any]:
        """What each process's call has given or raised: one for each rank (or node), and one for each node without ranks."""
        bare = [node for node in self.nodes() if node not in homes]
        nodes = [*(sorted(set(homes)) if per_node else homes), *bare]
        at = [nodes.index(node) for node in homes] if per_node else list(range(len(homes)))
        net = net or Net(len(nodes))
        places = [{kind: self.place(node, kind) for kind in self.kinds} for node in nodes]
        commits = {c.link.name: self.records[c.link.name] for c in self.candidates}
        found: list[Any] = [None] * len(nodes)

        def work(process: int) -> None:
            channel = QueueChannel(net, process)
            node = nodes[process]
            found[process] = carry_out(made, places[process], channel, at, nodes, node, commits, timeout, tell)

        errors = outcomes(len(nodes), work)
        return [error or one for error, one in zip(errors, found, strict=True)]

    def recover(self, homes: list[str], per_node: bool = False) -> tuple[RecoveryPlan, list[Carried]]:
        """Plan and carry out; then all must be there, and there must be nothing left to do."""
        made = self.plan(homes)
        carried = self.carry(made, homes, per_node)
        assert all(isinstance(one, Carried) for one in carried), carried
        self.complete(made, homes)
        again = self.plan(homes)
        assert again.version == made.version
        assert again.counts() == {"own": sum(t.ranks for t in made.takes), "move": 0, "rebuild": 0, "global": 0}
        assert all(not take.works and not take.parities for take in again.takes)
        assert self.carry(again, homes, per_node) == [Carried(())] * len(carried)
        return made, carried

    def complete(self, made: RecoveryPlan, homes: list[str]) -> None:
        """Each rank's node has its bytes of all of the plan's versions, the parities, and the commits."""
        for take in made.takes:
            version = take.link.name
            at = [homes[rank * len(homes) // take.ranks] for rank in range(take.ranks)]
            for rank, node in enumerate(at):
                held = whole(self, version, rank, node)
                assert held.domain in (node, self.homes[rank])
                assert self.place(node, "memory").read_commit(version) == self.records[version]
            if version in self.sets:
                kind, sets, m = self.sets[version]
                protected(self, version, sets, m, at, kind)


def interfered(root: Path) -> tuple[Cluster, list[str]]:
    """Node c sends rank 2's files, receives rank 0's, rebuilds rank 1 that was on b, and has a parity to compute."""
    cluster = Cluster(root, ["a", "b", "c", "d"])
    first = cluster.save(1, [9_000, 20_000, 0, 30_000], m=2).link
    version = cluster.save(2, [3_000, 10_000, 7_000, 0], m=2, refs=(first,)).link.name
    cluster.lose("b")
    place = cluster.place("d", "memory")
    place.forget_parity(version, 3)
    return cluster, ["c", "c", "a", "d"]


def outcomes(count: int, work: Any) -> list[Any]:
    """What each process raised, or None."""
    errors: list[Any] = [None] * count

    def guarded(process: int) -> None:
        try:
            work(process)
        except Exception as error:
            errors[process] = error

    together(count, guarded)
    return errors


def whole(cluster: Cluster, version: str, rank: int, node: str, kind: str = "memory") -> Held:
    """The rank's record there, after its bytes were found to be what they were."""
    place = cluster.place(node, kind)
    held = verify_held(place, version, rank)
    data, part = cluster.states[version, rank]
    assert Path(place.store.location, place.data_key(version, rank)).read_bytes() == data
    assert place.read_part(held) == part
    assert (held.ranks, held.boot) == (sum(name == version for name, _ in cluster.states), current().boot)
    return held


def protected(
    cluster: Cluster, version: str, sets: list[tuple[int, ...]], m: int, homes: list[str], kind: str = "memory"
) -> None:
    """Every rank's parity is there and what it must be, worked out here byte by byte."""
    for members in sets:
        scheme = Scheme(len(members), m)
        streams = [b"".join(cluster.states[version, r]) for r in members]
        chunk = scheme.chunk([len(s) for s in streams])
        padded = [np.frombuffer(s.ljust(scheme.k * chunk, b"\0"), np.uint8) for s in streams]
        parity = np.zeros((len(members), m, chunk), np.uint8)
        for sum_ in scheme.encoding():
            for symbol, coefficient in sum_.terms:
                at = padded[symbol.member][symbol.number * chunk :][:chunk]
                parity[sum_.symbol.member, sum_.symbol.number] ^= times(coefficient, at)
        for i, rank in enumerate(members):
            held = whole(cluster, version, rank, homes[rank], kind)
            assert held.set is not None
            assert [one.rank for one in held.set.members] == list(members)
            place = cluster.place(homes[rank], kind)
            assert Path(place.store.location, place.parity_key(version, rank)).read_bytes() == parity[i].tobytes()


def times(coefficient: int, data: np.ndarray) -> np.ndarray:
    """Each byte times a constant in GF(256), by shifting and adding."""
    table = np.zeros(256, np.uint8)
    for value in range(256):
        product, factor, b = 0, coefficient, value
        while factor:
            if factor & 1:
                product ^= b
            b = (b << 1) ^ (0x11D if b & 0x80 else 0)
            factor >>= 1
        table[value] = product
    return table[data]
