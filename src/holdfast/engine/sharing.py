"""Replicated objects: the same value on all ranks, written once, its blocks shared out over the ranks.

Every rank digests all of it, so that a rank whose value is another is found; each writes the blocks that are its own. The
ranks then tell each other where they wrote, and every rank's index names all blocks: a reader needs no other rank's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import UsageError

# [rank, bytes of its data file, {object: [digest of its structure, [[digest, offset or -1] for each block]]}]
Share = list[Any]


def merge(shares: Sequence[Share]) -> dict[str, Any]:
    """Where each block of each replicated object was written: {"sizes": bytes of each rank's data file, "blocks": {object:
    [[rank, offset, digest] or None where it is as before]}} (at one rank).

    UsageError naming object and ranks if the ranks do not hold the same.
    """
    first = shares[0][2]
    for name in sorted({name for _, _, objects in shares for name in objects}):
        _check_same(name, {rank: objects.get(name) for rank, _, objects in shares})
    blocks: dict[str, list[Any]] = {name: [None] * len(told) for name, (_, told) in first.items()}
    for rank, _, objects in shares:
        for name, (_, told) in objects.items():
            for k, (digest, offset) in enumerate(told):
                if offset >= 0:
                    blocks[name][k] = [rank, offset, digest]
    return {"sizes": [nbytes for _, nbytes, _ in shares], "blocks": blocks}


def _check_same(name: str, told: dict[int, Any]) -> None:
    """The same structure and digests on all ranks; else who differs from whom."""
    groups: dict[Any, list[int]] = {}
    for rank, value in told.items():
        key = None if value is None else (value[0], tuple(digest for digest, _ in value[1]))
        groups.setdefault(key, []).append(rank)
    if len(groups) == 1:
        return
    most = max(groups.values(), key=len)
    others = sorted(rank for ranks in groups.values() if ranks is not most for rank in ranks)
    missing = f" ({_ranks(groups[None])} have not protected it)" if None in groups else ""
    raise UsageError(
        f"{name!r} was protected as replicated, but the ranks do not hold the same: {_ranks(others)} differ from "
        f"{_ranks(most)}{missing}. Nothing was written; the versions before are intact. Let every rank compute the same value, "
        "or broadcast it, or protect it without replicated=True: each rank's value is then its own.",
        object=name,
        rank=others[0],
    )


def _ranks(ranks: Sequence[int]) -> str:
    shown = ", ".join(map(str, ranks[:8])) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")
    return f"rank{'s' if len(ranks) > 1 else ''} {shown}"
