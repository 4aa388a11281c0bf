"""Writing a version to the places of the nodes, as a transaction of all ranks (docs/format.md, section 9).

Each rank writes its data and its index part to its node's place, and the record that proves them. When rank 0 knows that all
have, it makes the commit record and tells it to all; one rank of each node puts it there. So any one of these proves that
all ranks' data were whole. The indexes of groups and the root are computed, since the record names them, and not put: what
stands in the run's own store later has the same record.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from ..catalog import Commit, check_fence, check_refs, current
from ..catalog.places import Held, Place
from ..errors import FencedError, HoldfastError, StorageError
from ..format import Link, Part, digest_hex
from ..format.keys import GROUP_RANKS
from ..group import Group as Ranks
from ..store import Store
from .messages import Failed, attempt, failure, gather, open_all
from .publish import Published, data_body, group_body, published, root_body

log = logging.getLogger("holdfast")


class Here(NamedTuple):
    """Where this rank keeps versions: its node's `place`; `leads`: whether it puts the commits of its node; `domain`: its
    failure domain; `uid`: the user."""

    place: Place
    leads: bool
    domain: str
    uid: int


def publish_at(
    here: Here,
    store: Store,
    ranks: Ranks,
    draft: Commit,
    write: Callable[[str], Part],
    since: float | None = None,
    room: Callable[[int], bool] | None = None,
    tell: Callable[[Commit], Any] | None = None,
    sealing: Callable[[], None] | None = None,
) -> Published:
    """Write and commit the version that `draft` describes at the places of all nodes (collective).

    `store`: the run's own, where the fences are; where it can't be asked, the version is committed all the same: should there
    be a later attempt, it does not count (docs/format.md, section 8), and nobody is told that it were durable. `write`,
    `since`, `room`: as for `publish`. `tell(commit)`: on rank 0, what all ranks are to know (`Published.told`).
    `sealing()`: on each rank, before any node puts the commit; what fails after that may have a commit somewhere. Raises on all
    ranks alike: FencedError, or CheckpointError with every rank's cause; DeadlineError on a rank that waited in vain.
    """
    first = ranks.rank - ranks.rank % GROUP_RANKS
    members = range(first, min(first + GROUP_RANKS, ranks.size))
    leaders = range(0, ranks.size, GROUP_RANKS)
    everyone = range(ranks.size)

    def kept(key: str) -> Part:
        part = write(key)
        put_held(here, draft, ranks, part)
        return part

    message = _attempt(here, draft, ranks.rank, lambda: data_body(here.place.store, ranks, draft, kept, room))
    parts, late = gather(ranks, message, members, f"data of version {draft.version}")
    answer = b""
    if ranks.rank == first:
        message = late or attempt(ranks.rank, lambda: group_body(draft, first, parts, _nowhere))
        groups, late = gather(ranks, message, leaders, f"indexes of version {draft.version}")
        if ranks.rank == 0:
            answer = late or _attempt(here, draft, 0, lambda: _root(here, store, draft, groups, since, tell))
    answer = ranks.broadcast(answer, everyone, f"commit of version {draft.version}", patience=3)
    version = published(draft, answer)  # where it failed, on all ranks alike
    if sealing is not None:
        sealing()
    message = _attempt(here, draft, ranks.rank, lambda: _commit(here, version))
    acks, late = gather(ranks, message, everyone, f"commits of version {draft.version} on the nodes")
    if ranks.rank == 0:
        answer = late or attempt(ranks.rank, lambda: _last(store, draft, acks))
    answer = ranks.broadcast(answer, everyone, f"end of the commit of version {draft.version}", patience=2)
    try:
        open_all([answer])
    except Failed as failed:
        raise failure(failed.errors, draft) from None
    return version


def put_held(here: Here, draft: Commit, ranks: Ranks, part: Part) -> None:
    """Put this rank's index part and the record that proves its files (local)."""
    data = part.encode()
    held = Held(
        here.place.run, draft.name, draft.attempt, ranks.rank, ranks.size, current().boot, here.uid, here.domain,
        part.nbytes, len(data), digest_hex(data),
    )  # fmt: skip
    here.place.put_held(held, data)


def _attempt(here: Here, draft: Commit, rank: int, work: Callable[[], dict[str, Any]]) -> bytes:
    """See `attempt`. If it failed, and a later attempt uses the place, that is what is told: it clears away what this one was
    writing, and a missing file would be taken for a place that has failed."""

    def blamed() -> dict[str, Any]:
        try:
            return work()
        except HoldfastError:
            with suppress(StorageError):  # the storage that failed fails here too: what is known is said
                here.place.check_fence(draft.attempt)
            raise

    return attempt(rank, blamed)


def _nowhere(key: str, data: bytes) -> None:
    """An index is not put."""


def _root(
    here: Here,
    store: Store,
    draft: Commit,
    messages: list[bytes],
    since: float | None,
    tell: Callable[[Commit], Any] | None,
) -> dict[str, Any]:
    body = root_body(draft, messages, since, _nowhere)
    links = [Link(*ref) for ref in body["refs"]]
    check_refs(here.place.store, links)
    look_for_fence(store, draft.attempt)
    commit = draft._replace(nbytes=body["nbytes"], refs=tuple(links), created=body["created"])
    return {**body, "told": tell(commit) if tell is not None else None}


def _commit(here: Here, version: Published) -> dict[str, Any]:
    if here.leads:
        here.place.put_commit(version.link.name, version.record)
    here.place.check_fence(version.commit.attempt)
    return {}


def _last(store: Store, draft: Commit, acks: list[bytes]) -> dict[str, Any]:
    open_all(acks)
    look_for_fence(store, draft.attempt)
    return {}


def look_for_fence(store: Store, attempt_number: int) -> None:
    """FencedError if there is a later attempt; where the store can't be asked, a line in the log."""
    try:
        check_fence(store, attempt_number)
    except FencedError:
        raise
    except StorageError as error:
        log.info("whether there is a later attempt can't be told now: %s", error.message)


__all__ = ["Here", "look_for_fence", "publish_at", "put_held"]
