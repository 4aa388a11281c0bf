"""What was brought from other nodes, or rebuilt there, and is damaged all the same: from which holding the damage came.

Data are verified when they are used, and only by who uses them. So a member of a redundancy set may hold something wrong
that it never reads: a flipped bit between two blocks, or in an object that this program has not protected. What is rebuilt from
it is wrong at the same place, and would be so each time again. The first time, all that nodes hold of the version is read
through, and what is found is no source any more. If it is damaged once more, nodes are asked for this version no longer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from ...catalog import Commit
from ...catalog.places import Place
from ...errors import DamageError, StorageError
from ...format import Part
from .view import Holding


class Brought:
    """How often a rank's stream of a version has been brought to its node. The same on all ranks."""

    def __init__(self) -> None:
        self._times: Counter[tuple[str, int]] = Counter()

    def add(self, streams: Iterable[tuple[str, int]]) -> None:
        """(version's name, rank) of what has been brought now."""
        self._times.update(streams)

    def suspect(self, damaged: Iterable[Holding]) -> tuple[list[str], list[str]]:
        """Versions that are to be read through, and versions to be given up, after damage was found."""
        times: dict[str, int] = {}
        for _, version, rank in damaged:
            times[version] = max(times.get(version, 0), self._times[version, rank])
        return sorted(v for v, n in times.items() if n == 1), sorted(v for v, n in times.items() if n > 1)


def read_through(
    places: Mapping[str, Place], commit: Commit, share: slice, known: Collection[Holding]
) -> Iterable[Holding]:
    """Those of the node's holdings of a version that are not whole, whether anybody reads what is damaged or not (local).
    `share`: of the ranks at a place, those that this process looks at; `known`: to be bad, and not looked at."""
    from ...engine.verify import verify_own

    for kind, place in places.items():
        for rank in place.ranks(commit.name)[share]:
            if (kind, commit.name, rank) in known:
                continue
            try:
                part = Part.decode(
                    place.read_part(place.read_held(commit.name, rank)), rank, place.part_key(commit.name, rank)
                )
                damaged = any(True for _ in verify_own(place.store, commit, part))
            except (StorageError, DamageError):
                damaged = True
            if damaged:
                yield kind, commit.name, rank
