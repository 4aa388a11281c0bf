"""What this host has of a run besides the run's own store: places of its node, and what is left in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from . import human
from .outcomes import elsewhere

if TYPE_CHECKING:
    from ..catalog import Catalog
    from ..catalog.attempts import Holder
    from ..catalog.places import Identity, StalePlace


class Seen(NamedTuple):
    """A run with levels, as this host sees it. `catalog`: with the versions that its places have; `levels`: by a version's
    name; `places`: (kind, directory); `node`: what it is called; `others`: whether other nodes may hold something too."""

    catalog: Catalog
    levels: dict[str, list[str]]
    places: tuple[tuple[str, str], ...]
    node: str
    others: bool = True

    def line(self) -> str:
        """For people."""
        if not self.places:
            others = "; others may: `holdfast plan --hostfile`" if self.others else ""
            return f"levels: node {self.node} has no place of this run{others}"
        where = ", ".join(f"{kind} in {root}" for kind, root in self.places)
        if not self.others:
            return f"levels: {where}"
        return f"levels: as node {self.node} alone sees it ({where}); others may hold more: `holdfast plan --hostfile`"


def look_here(url: str, catalog: Catalog) -> Seen | None:
    """`catalog` is what the run's own store says. None if no attempt had places on nodes. Nothing is changed."""
    if not any(attempt.places for attempt in catalog.attempts):
        return None
    from ..catalog import read_catalog
    from ..errors import DamageError, StorageError
    from ..group import SerialGroup
    from ..run.levels.outlook import Outlook, identify
    from ..run.levels.view import as_store

    levels = {v.name: ["global"] for v in catalog.versions if v.status in ("current", "abandoned")}
    group = SerialGroup()
    try:
        outlook = Outlook(group, *identify(group, url))
        outlook.look()
    except (DamageError, StorageError) as error:
        human.note(f"problem: what this node holds can't be told: {error.message}")
        return None
    assert outlook.holdings is not None
    for version, _, place in sorted(outlook.holdings.of, key=lambda key: key[2], reverse=True):
        levels.setdefault(version, []).insert(0, place)  # memory, local, global
    (asked,) = outlook.asked
    if outlook.view.commits:
        catalog = read_catalog(as_store(outlook.view))
    others = not catalog.complete and (not asked.places or elsewhere(catalog.attempts))
    return Seen(catalog, levels, asked.places, asked.node, others)


def in_use(url: str) -> Holder | None:
    """Who holds the run; None if it is free, or if that can't be told."""
    from ..catalog import find_holder
    from ..config import load
    from ..errors import HoldfastError
    from ..store import open_store

    try:
        return find_holder(open_store(url, create=False, read_only=True), load({}).lease)
    except HoldfastError:
        return None


def find_left(url: str, catalog: Catalog) -> list[StalePlace]:
    """Places on this node that nobody comes back to: in its memory, and in local directories that this run has used."""
    from ..catalog import known_places
    from ..catalog.places import run_is_gone, stale_places
    from ..errors import HoldfastError
    from ..run.levels.nodes import memory_root
    from ..store import open_store

    def over(identity: Identity) -> str | None:
        if catalog.complete and identity.run == catalog.run:
            return "its run is complete"
        return run_is_gone(identity)

    known = known_places(open_store(url, create=False, read_only=True))
    found: dict[str, StalePlace] = {}
    for root in dict.fromkeys([memory_root(), *(root for _, root in known if root)]):
        try:
            found.update((one.path, one) for one in stale_places(root, over))
        except HoldfastError as error:
            human.note(f"problem: {error.message}")
    return list(found.values())


def clean_left(places: Sequence[StalePlace]) -> list[StalePlace]:
    """Remove them; those that went. What can't be removed is told."""
    from ..catalog.places import clean
    from ..errors import HoldfastError

    gone = []
    for one in places:
        try:
            if clean([one]):
                gone.append(one)
        except HoldfastError as error:
            human.note(f"problem: {error.message}")
    return gone
