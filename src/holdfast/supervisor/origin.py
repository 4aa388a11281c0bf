"""Where the data came from that an attempt goes on from: what the program reports, else what the records and this node tell."""

from __future__ import annotations

from ..catalog.places.opening import open_place
from ..errors import HoldfastError
from ..units import bytes_text
from .facts import Opened, catalog_of

_STORE = "the run's own store"
_NAMES = {"memory": "memory", "local": "local disks", "global": _STORE}


def origin(one: Opened, away: bool) -> str:
    """For people: from where the version was read that the attempt reported in `one` goes on from; "" if it began from the
    beginning or that can't be told. `away`: ranks may be on other nodes.

    To be asked soon after the report: nodes keep a version until newer ones are safe. Where nodes and the run's store have it,
    ranks prefer their nodes; what of it a node lacked is read elsewhere, which is known only if the program has told it.
    """
    if one.version is None:
        return ""
    if any(count for _, count in one.read):
        return ", ".join(f"{_NAMES.get(where, where)} ({bytes_text(count)})" for where, count in one.read if count)
    try:
        catalog = catalog_of(one.url)
    except HoldfastError:
        return ""
    attempt = next((a for a in catalog.attempts if a.number == one.attempt), None)
    link = attempt.base.version if attempt is not None and attempt.base is not None else None
    if attempt is None or link is None:
        return ""
    stored = any(version.name == link.name for version in catalog.versions)
    places = {kind: root for a in catalog.attempts[-2:] for kind, root in a.places}
    if not places:
        return _STORE
    if not away:
        for kind in _NAMES:
            if kind in places and _has(kind, places[kind], catalog.run, link.name):
                return _NAMES[kind]
        return _STORE if stored else ""
    nodes = " or ".join(_NAMES[kind] for kind in _NAMES if kind in places)
    return f"{nodes} of nodes, where they have it, else {_STORE}" if stored else f"{nodes} of nodes"


def _has(kind: str, root: str, run: str, name: str) -> bool:
    """Whether this node's place of that kind has the version. `root`: "" for its memory, wherever that is."""
    from ..run.levels.nodes import memory_root  # brings the levels along

    try:
        place = open_place(kind, root or memory_root(), run, create=False)
        return place.store.exists(place.commit_key(name))
    except (HoldfastError, OSError):
        return False
