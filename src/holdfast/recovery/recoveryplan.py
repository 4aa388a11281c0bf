"""The plan of a recovery: which version, and from which source for each rank. A frozen value.

Made once, in one process, from what all nodes hold (planning.py); then sent to all, printed, and carried out. The same holdings
give the same plan, byte for byte. To carry it out, for each of `takes`: first every stream that is not rebuilt goes to
its rank's node, and the parities in `parities` go there; then `works` are gone through in their order.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..format import Link
from .explain import plan_body, plan_lines
from .holdings import PLACES
from .packing import parse_plan, plan_bytes
from .sources import KINDS, MOVE, NO_PLACE, REBUILD, Passed, Sources


class Source(NamedTuple):
    """One rank's source. `kind`: one of KINDS; `place`: one of PLACES, None for the global store; `node`: from where it is
    moved, else None; `members`: the set that rebuilds it, else empty."""

    kind: str
    place: str | None
    node: str | None
    members: tuple[int, ...]


class RecoveryPlan:
    """Which version is taken, and from where. Frozen; equal to another that says the same; hashable.

    `version`: the commit, None if no version can be had; `takes`: the sources of that version and then of those whose data it
    refers to, newest first; `nodes`: names of the nodes from which something is moved, to which `node` in `takes`
    refers; `passed`: newer versions that can't be had; `notes`: what was found and not used.
    """

    __slots__ = ("_wire", "nodes", "notes", "passed", "takes", "version")
    version: Link | None
    nodes: tuple[str, ...]
    takes: tuple[Sources, ...]
    passed: tuple[Passed, ...]
    notes: tuple[str, ...]
    _wire: bytes

    def __init__(
        self, nodes: tuple[str, ...], takes: tuple[Sources, ...], passed: tuple[Passed, ...], notes: tuple[str, ...]
    ) -> None:
        for name, value in (
            ("version", takes[0].link if takes else None),
            ("nodes", nodes),
            ("takes", takes),
            ("passed", passed),
            ("notes", notes),
            ("_wire", plan_bytes(nodes, takes, passed, notes)),
        ):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("A plan is not changed once it is made.")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("A plan is not changed once it is made.")

    def __eq__(self, other: object) -> bool:
        return self._wire == other._wire if isinstance(other, RecoveryPlan) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._wire)

    def __repr__(self) -> str:
        return f"RecoveryPlan({' '.join(line.strip() for line in self.lines())})"

    def to_wire(self) -> bytes:
        """A message that `from_wire` turns into an equal plan. Local."""
        return self._wire

    @staticmethod
    def from_wire(data: bytes) -> RecoveryPlan:
        """The plan in a message. DamageError if it isn't one, throughout. Local."""
        return RecoveryPlan(*parse_plan(data))

    @property
    def ranks(self) -> int:
        """Ranks of the version; 0 if there is none."""
        return self.takes[0].ranks if self.takes else 0

    def counts(self) -> dict[str, int]:
        """How many ranks each kind of source has, in all of `takes` together."""
        totals = sum((np.bincount(t.kind, minlength=len(KINDS)) for t in self.takes), np.zeros(len(KINDS), np.int64))
        return {name: int(n) for name, n in zip(KINDS, totals, strict=True)}

    def source(self, rank: int, take: int = 0) -> Source:
        """The source of a rank, of the version itself or of another of `takes`."""
        t = self.takes[take]
        kind, place, node = int(t.kind[rank]), int(t.place[rank]), int(t.node[rank])
        members: tuple[int, ...] = ()
        if kind == REBUILD:
            for work in t.works:
                row = np.flatnonzero(((work.members == rank) & work.rebuilt).any(axis=1))
                if len(row):
                    members = tuple(work.members[row[0]].tolist())
        at = None if place == NO_PLACE else PLACES[place]
        return Source(KINDS[kind], at, self.nodes[node] if kind == MOVE else None, members)

    def lines(self) -> list[str]:
        """What the plan says, for people: a few short lines."""
        return plan_lines(self)

    def to_body(self) -> dict[str, object]:
        """What the plan says, for a JSON document."""
        return plan_body(self)
