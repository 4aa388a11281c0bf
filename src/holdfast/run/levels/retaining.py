"""What goes at a place: versions beyond those to keep, and what counts no more (by one rank of a node)."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

from ...catalog import Commit, read_commit
from ...catalog.places import Place
from ...engine import look_for_fence
from ...errors import DamageError, FencedError, HoldfastError
from ...format import parse_version
from ...policy import Keep
from ...store import KeyMissingError, Store

log = logging.getLogger("holdfast")


def retain(
    place: Place, store: Store, attempt: int, lineage: Sequence[str], keep: Keep | None, needed: Collection[str]
) -> None:
    """Delete at this node's place what is beyond `keep` (None: the newest) of the `lineage` (names, newest first), but for
    those `needed` and what these refer to. `store`: the run's own, for fences; `attempt`: this one.

    Unlike in the run's own store there may be holes: what is missing in a place has no meaning. FencedError: the place is a
    later attempt's. What else goes wrong is told in the log: it is tried again next time.
    """
    try:
        present, known = place.versions(), set(lineage)  # the lineage grows with the run, a place does not
        commits = {name: _commit(place, name) for name in present if name in known}
        names = [name for name in lineage if commits.get(name) is not None]
        kept = {*names[: (keep or Keep(last=1)).last], *needed}
        for name in names:  # newest first: what one refers to is older
            commit = commits.get(name)
            if name in kept and commit is not None:
                kept |= {link.name for link in commit.refs}
        old = [name for name in reversed(names) if name not in kept]
        newest, _ = parse_version(lineage[0]) or (0, 0)
        # Of attempts before, which do not count any more; and what failed here and could not be removed then. Not what is
        # newer: another rank of this node may be writing its next version already.
        for name in present:
            number, writer = parse_version(name) or (0, 0)
            if name not in known and (writer, number) < (attempt, newest):
                old.append(name)
        for name in old:
            look_for_fence(store, attempt)
            place.check_fence(attempt)
            place.remove(name)
            log.debug("removed version %s from the level %s", name, place.kind)
    except FencedError:
        raise
    except HoldfastError as error:
        log.debug("old versions at the level %s were not deleted: %s", place.kind, error.message)


def _commit(place: Place, name: str) -> Commit | None:
    """The version's commit at the place, None if it is not there or not whole."""
    try:
        return read_commit(place.store, "checkpoint", name)[0]
    except (DamageError, KeyMissingError):
        return None
