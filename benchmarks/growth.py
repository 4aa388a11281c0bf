"""Growth: what a recovery's plan and a commit cost from 10^3 to 10^6 ranks, without MPI, by the code that runs use.

    python benchmarks/growth.py [RANKS ...]      # or as a case of the bench

64 ranks a node, sets of 8 with one parity, two versions in the nodes' memory, one node in fifty lost. Twice for each number of
ranks: lost side by side, so that no set has lost two and the newest version is had from the nodes; and lost at random: of
many nodes, some share a set, and the version before is taken, with what these sets have lost from the global store. Each
prints a line: seconds for dealing the sets, for reading all nodes' messages, merging and planning (the plan's message
included), bytes of the messages and of the index's root.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from holdfast.format import Group, Link, version_name
from holdfast.format.index import encode_root
from holdfast.format.keys import GROUP_RANKS
from holdfast.recovery import Candidate, Homes, Kept, NodeReport, RecoveryPlan, Sets, merge, plan
from holdfast.redundancy.sets import deal
from holdfast.units import bytes_text, seconds_text

NODE_RANKS, SET_SIZE, PARITIES = 64, 8, 1
RANKS = [10**3, 10**4, 10**5, 10**6]
ROOT_LIMIT = 1 << 20  # bytes that the root of an index is to stay below
NEW, OLD = (Link(version_name(n, 1), f"{n:032x}") for n in (43, 42))


class Row(NamedTuple):
    """One number of ranks, one way of losing nodes. Seconds: `deal`, `read`, `merge`, `plan`; bytes: `report` (the largest),
    `reports`, `message` (the plan's), `root`, `memory` (the most that the process has had)."""

    ranks: int
    nodes: int
    lost: int
    side_by_side: bool
    version: Link | None
    counts: dict[str, int]
    deal: float
    read: float
    merge: float
    plan: float
    report: int
    reports: int
    message: int
    root: int
    memory: int

    @property
    def seconds(self) -> float:
        """From the messages to the plan's message."""
        return self.read + self.merge + self.plan

    def line(self) -> str:
        sources = ", ".join(f"{n} {kind}" for kind, n in self.counts.items() if n)
        return (
            f"{self.ranks} ranks, {self.nodes} nodes, {self.lost} lost {'side by side' if self.side_by_side else 'at random'} "
            f"({sources}): sets {seconds_text(self.deal)}; messages read {seconds_text(self.read)}, merged "
            f"{seconds_text(self.merge)}, planned {seconds_text(self.plan)}; a node's message {bytes_text(self.report)}, all "
            f"{bytes_text(self.reports)}, the plan {bytes_text(self.message)}; root {bytes_text(self.root)}; memory "
            f"{bytes_text(self.memory)}"
        )


def measure(ranks: int, side_by_side: bool = True) -> Row:
    """All of it for so many ranks (1000 or more), in this process."""
    nodes = -(-ranks // NODE_RANKS)
    names = [f"n{i:05d}" for i in range(nodes)]
    at = np.arange(ranks, dtype=np.int32) // NODE_RANKS
    domains = [names[i] for i in at.tolist()]
    begin = time.perf_counter()
    sets = deal(domains, SET_SIZE, PARITIES)
    dealt = time.perf_counter()

    count = max(1, nodes // 50)
    lost = set(range(count)) if side_by_side else set(random.Random(1).sample(range(nodes), count))
    messages = [report.to_wire() for report in _reports(names, sets, ranks, lost)]
    # What ran on a lost node runs on the next one that is left.
    left = np.array([i for i in range(nodes) if i not in lost], np.int32)
    homes = Homes(tuple(names), left[np.searchsorted(left, at) % len(left)])
    candidates = [Candidate(NEW, ranks), Candidate(OLD, ranks, (), stored=True)]

    start = time.perf_counter()
    reports = [NodeReport.from_wire(message) for message in messages]
    read = time.perf_counter()
    holdings = merge(reports)
    merged = time.perf_counter()
    found = plan(holdings, candidates, homes)
    message = found.to_wire()
    planned = time.perf_counter()
    if RecoveryPlan.from_wire(message) != found:
        raise SystemExit("the plan does not come back from its message")

    sizes = [len(message) for message in messages]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Row(
        ranks, nodes, count, side_by_side, found.version, found.counts(), dealt - begin, read - start, merged - read,
        planned - merged, max(sizes), sum(sizes), len(message), root_bytes(ranks), memory,
    )  # fmt: skip


def root_bytes(ranks: int, part: int = 1 << 20) -> int:
    """The size of the root of an index of so many ranks, with parts of so many bytes (docs/format.md, section 4)."""
    groups = []
    for first in range(0, ranks, GROUP_RANKS):
        size = min(GROUP_RANKS, ranks - first)
        header = 8 + 3 + size * 40  # the magic, the array, each rank's entry
        groups.append(Group(first, size, header + size * part, header, bytes(16)))
    return len(encode_root(groups))


def _reports(names: Sequence[str], sets: Sequence[tuple[int, ...]], ranks: int, lost: set[int]) -> Iterator[NodeReport]:
    """What each node that is left says."""
    number: Any = np.empty(ranks, np.int32)
    for i, members in enumerate(sets):
        number[list(members)] = i
    for node, name in enumerate(names):
        if node not in lost:
            own = np.arange(node * NODE_RANKS, min((node + 1) * NODE_RANKS, ranks), dtype=np.int32)
            mine = [sets[i] for i in sorted(set(number[own].tolist()))]
            sizes = sorted({len(s) for s in mine})
            kinds = tuple(Sets(PARITIES, np.array([s for s in mine if len(s) == n], np.int32)) for n in sizes)
            kept = {link.name: Kept(link.digest, own, own, own, kinds) for link in (NEW, OLD)}
            yield NodeReport(name, name, {"memory": kept})


def main() -> None:
    parser = argparse.ArgumentParser(description="Growth of a recovery's plan and of a commit, 10^3 to 10^6 ranks.")
    parser.add_argument("ranks", nargs="*", type=int, default=RANKS)
    for ranks in parser.parse_args().ranks:
        for side_by_side in (True, False):
            print(measure(ranks, side_by_side).line(), flush=True)


def rows(context: Any) -> list[Any]:
    """The figures as rows of the bench."""
    import row

    found: list[Any] = []
    for ranks in context.more.get("ranks", RANKS):
        number = f"{ranks:,}".replace(",", " ")
        for side_by_side in (True, False):
            grown = measure(ranks, side_by_side)
            program = f"growth, {number} ranks, nodes lost {'side by side' if side_by_side else 'at random'}"
            found += [
                row.Row(program, "", "from messages to the plan", "s", grown.seconds),
                row.Row(program, "", "largest message of a node", "B", grown.report),
                row.Row(program, "", "the plan's message", "B", grown.message),
            ]
        found.append(row.Row(f"growth, index of {number} ranks", "", "root", "B", root_bytes(ranks)))
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == ["growth"]:
        import job

        job.main({"growth": rows})
    else:
        main()
