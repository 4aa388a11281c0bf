"""Which version a start would resume from, and from where each rank would have it: told without one, and nothing is changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...format import parse_version
from ...group import Group, from_root
from .outlook import Lost, Outlook, identify, newer


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
            line = f"version {number} is of {many}, and {size} can go on only from what the run's own store has: "
            lost.append(Lost(c.link.name, line + "`holdfast salvage` brings it there"))
        homes = [outlook.nodes.of[i] for i in deal(size, slots)]
        same = [c if c.ranks == size else c._replace(refs=()) for c in candidates if c not in other]
        assert outlook.holdings is not None
        if len(same) < len(candidates) or any(c.ranks != size for c in same):
            names = {c.link.name for c in candidates if c.ranks != size}
            of_size = {key: value for key, value in outlook.holdings.of.items() if key[0] not in names}
            outlook.holdings = outlook.holdings._replace(of=of_size)
        found = outlook.plan(same, homes)
        return [size, found.to_wire(), newer(lost, found.version)]

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
