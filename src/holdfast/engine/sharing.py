"""Replicated objects: the same value on all ranks, written once, its blocks shared out over the ranks.

Every rank digests all of it, so that a rank whose value is another is found; each writes the blocks that are its own. The
ranks then tell each other where their blocks are, and every rank's index names all of them: a reader needs no other rank's.
A rank also tells where a block is that it did not write again: what the others have of the version before does not matter,
and may be another value, as of an object that was each rank's own until then.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

from ..errors import UsageError
from ..format import DataSource
from ..format.layers import SourceTable

# [rank, data files as [version, digest, rank, bytes], {object: [digest of its structure, digest of its content, [[block,
# number of the data file, offset] for each block that is this rank's]]}], all of it plain values. What a rank says grows with
# what it writes, not with the whole state: the values are compared by one digest of the blocks' digests.
Share = list[Any]


def share_out(sizes: Sequence[int], ranks: int) -> list[int]:
    """Which rank writes each block: in order, each goes to the rank that has the least so far, in bytes.

    No rank has more than the largest block above any other. Neighbouring blocks go to different ranks, so that what has
    changed in one place is shared out as well.
    """
    load = [(0, rank) for rank in range(ranks)]
    owners = []
    for nbytes in sizes:
        least, rank = load[0]
        owners.append(rank)
        heapq.heapreplace(load, (least + nbytes, rank))
    return owners


def merge(shares: Sequence[Share]) -> dict[str, Any]:
    """Where each block of each replicated object is (at one rank): {"files": data files as in a share, "blocks": {object:
    [[number of the file, offset], …]}}.

    UsageError naming object and ranks if the ranks do not hold the same.
    """
    names = sorted({name for _, _, objects in shares for name in objects})
    differing = [name for name in names if len({_value(share, name) for share in shares}) > 1]
    if differing:
        raise _difference(differing, shares)
    table = SourceTable()
    blocks: dict[str, dict[int, list[int]]] = {name: {} for name in names}
    for _, files, objects in shares:
        for name, (_, _, told) in objects.items():
            for block, file, offset in told:
                blocks[name][block] = [table.add(DataSource(*files[file])) - 1, offset]
    # All ranks cut the same objects in the same way: each block is one rank's, and that rank has told.
    return {
        "files": [list(file) for file in table.tuple()],
        "blocks": {name: [found[k] for k in range(len(found))] for name, found in blocks.items()},
    }


def _value(share: Share, name: str) -> tuple[bytes, bytes] | None:
    """What a rank holds by that name: (structure, content), None if it has not protected it as replicated."""
    told = share[2].get(name)
    return None if told is None else (told[0], told[1])


def _difference(names: Sequence[str], shares: Sequence[Share]) -> UsageError:
    """Which ranks differ from which in the first of the names."""
    groups: dict[tuple[bytes, bytes] | None, list[int]] = {}
    for share in shares:
        groups.setdefault(_value(share, names[0]), []).append(share[0])
    most = max(groups.values(), key=len)
    others = sorted(rank for ranks in groups.values() if ranks is not most for rank in ranks)
    if None in groups:
        text = f"{_ranks(groups[None])} have" if len(groups[None]) > 1 else f"{_ranks(groups[None])} has"
        text += " not protected it so, the others have"
    else:
        what = "structure (type, shape, keys)" if len({value[0] for value in groups if value}) > 1 else "value"
        text = f"{_ranks(others)} differ{'s' * (len(others) == 1)} in {what} from {_ranks(most)}"
    more = f" So do they in {_some(names[1:])}." if len(names) > 1 else ""
    return UsageError(
        f"{names[0]!r} is protected as replicated, but the ranks do not hold the same: {text}.{more} No version was written; "
        "the versions before are intact. Let every rank compute the same value, or broadcast it, or protect it without "
        "replicated=True: each rank's value is then its own.",
        object=names[0],
        rank=others[0],
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:4])) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _ranks(ranks: Sequence[int]) -> str:
    shown = ", ".join(map(str, ranks[:8])) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")
    return f"rank{'s' if len(ranks) > 1 else ''} {shown}"
