"""Writing a version as a transaction of all ranks (docs/format.md, section 7).

Each rank writes its data; the first of each group gathers and writes the group's index; rank 0 gathers the groups,
writes the root, and commits between two looks for a later fence. What any rank met on the way travels
the same road as the data, so that all ranks leave with the same answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import msgpack

from ..catalog import Commit, check_fence, check_refs
from ..errors import DamageError, DeadlineError, FencedError, HoldfastError, RankError, UsageError
from ..format import Group, Link, Part, digest_hex, parse_version
from ..format.index import encode_group, encode_root
from ..format.keys import COMMIT_NAME, GROUP_RANKS, ROOT_NAME, data_name, group_name
from ..format.layers import versions_used
from ..group import Group as Ranks
from ..store import Store
from .messages import Failed, attempt, failure, gather, give, one_place, open_all
from .sharing import Share, merge

_TOTALS = ("objects", "bytes", "state")

Put = Callable[[str, bytes], None]


class Published(NamedTuple):
    """A committed version: its commit record and link. `record`: the record's file. `room`: whether every rank said that
    there is room where it would keep the next one; `told`: what rank 0 had to say to all."""

    commit: Commit
    link: Link
    record: bytes = b""
    room: bool = True
    told: Any = None


class Parcel(NamedTuple):
    """What a rank has written where there are replicated objects: its share of them, and how its index is made when those of
    all ranks are known (see `sharing`)."""

    share: Share
    part: Callable[[dict[str, Any]], Part]


def publish(
    store: Store,
    ranks: Ranks,
    draft: Commit,
    write: Callable[[str], Part],
    shared: Callable[[str], Parcel] | None = None,
    since: float | None = None,
    sealed: Link | None = None,
    room: Callable[[int], bool] | None = None,
) -> Published:
    """Write and commit the version that `draft` describes (collective). `shared` in place of `write`, on all ranks alike,
    where there are replicated objects. `since`: time.perf_counter() when the program, on rank 0, began to wait for the
    commit; None if `draft.seconds` says how long it has waited. `sealed`: the version has been committed elsewhere, as this
    link says; `draft` is its commit, and the record has to be the same. `room(nbytes)`: of this rank, for `Published.room`.

    `write(key)` writes this rank's data file and returns its index, durable. `draft`'s numbers of objects and
    bytes and its index are filled in here. Raises on all ranks alike: FencedError, or CheckpointError with every
    rank's cause; DeadlineError on a rank that waited in vain.
    """
    first = ranks.rank - ranks.rank % GROUP_RANKS
    members = range(first, min(first + GROUP_RANKS, ranks.size))
    leaders = range(0, ranks.size, GROUP_RANKS)
    if shared is not None:
        write = _share(ranks, draft, shared)
    message = attempt(ranks.rank, lambda: data_body(store, ranks, draft, write, room))
    # Every rank goes all the way, also one that has waited in vain: a late rank must find each call made, in order.
    parts, late = gather(ranks, message, members, f"data of version {draft.version}")
    answer = b""
    if ranks.rank == first:
        message = late or attempt(ranks.rank, lambda: group_body(draft, first, parts, store.put))
        groups, late = gather(ranks, message, leaders, f"indexes of version {draft.version}")
        if ranks.rank == 0:
            answer = late or attempt(ranks.rank, lambda: _root(store, draft, groups, since, sealed))
            answer = _blame_fence(store, draft, ranks.rank, answer)
    answer = ranks.broadcast(answer, range(ranks.size), f"commit of version {draft.version}", patience=3)
    return published(draft, answer)


def published(draft: Commit, answer: bytes) -> Published:
    """What rank 0's answer says; raises what it tells of."""
    try:
        body = open_all([answer])[0]
    except Failed as failed:
        raise failure(failed.errors, draft) from None
    commit = draft._replace(
        objects=body["objects"],
        nbytes=body["nbytes"],
        state=body["state"],
        refs=tuple(Link(*ref) for ref in body["refs"]),
        created=body["created"],
        seconds=body["seconds"],
        index_bytes=body["index_bytes"],
        index_digest=body["index_digest"],
    )
    link = Link(commit.name, body["digest"])
    return Published(commit, link, body["record"], body["room"], body.get("told"))


def _share(ranks: Ranks, draft: Commit, write: Callable[[str], Parcel]) -> Callable[[str], Part]:
    """Write, and tell all ranks where the blocks of replicated objects are; returns what makes this rank's index of it.

    The ranks exchange what they have or what has failed; nothing is raised here, or a rank would leave the others waiting
    in the calls that follow. What has failed is raised by what is returned, on all ranks.
    """
    key, parcels = f"{draft.path}/{data_name(ranks.rank)}", []

    def written() -> dict[str, Any]:
        parcels.append(write(key))
        return {"share": parcels[0].share, "where": _where(draft)}

    def told(messages: list[bytes]) -> dict[str, Any]:
        found = open_all(messages)
        one_place(found)  # first: at different steps they hold different values
        try:
            return merge([m["share"] for m in found])
        except UsageError as error:  # in which it is not this rank that is at fault
            raise Failed([[error.rank, error.to_wire()]]) from None

    message = attempt(ranks.rank, written)
    everyone, what = range(ranks.size), f"replicated objects of version {draft.version}"
    found, late = gather(ranks, message, everyone, what)
    answer = b""
    if ranks.rank == 0:
        answer = late or attempt(0, lambda: told(found))
    try:
        answer = ranks.broadcast(answer, everyone, what, patience=2)
    except (DeadlineError, RankError) as error:
        # Rank 0 keeps to its answer: the others have it, and the one that has not will tell.
        if ranks.rank != 0:
            wire = error.to_wire()
            answer = attempt(ranks.rank, lambda: give(Failed([[ranks.rank, wire]])))

    def part(_: str) -> Part:
        merged = open_all([answer])[0]  # first: where this rank has failed, it has no parcel
        return parcels[0].part(merged)

    return part


def data_body(
    store: Store, ranks: Ranks, draft: Commit, write: Callable[[str], Part], room: Callable[[int], bool] | None
) -> dict[str, Any]:
    """A rank's message, once its data are written."""
    part = write(f"{draft.path}/{data_name(ranks.rank)}")
    _check_sources(store, part)
    counted = [o for o in part.objects if ranks.rank == 0 or not o.replicated]  # these are one object of all ranks
    return {
        "part": part.encode(),
        "objects": len(counted),
        "bytes": part.nbytes,
        "state": sum(o.nbytes for o in counted),
        "refs": sorted(versions_used(part)),
        "where": _where(draft),
        "room": room is None or room(part.nbytes),
    }


def _where(draft: Commit) -> list[Any]:
    """Where a rank stands: the same on all of them."""
    loops = sorted([name, *loop] for name, loop in draft.loops.items())
    return [draft.step, loops, draft.kind, draft.version, draft.label, draft.complete]


def _check_sources(store: Store, part: Part) -> None:
    """Each data file that the index refers to is there and of the right size: a link that broke since it was made.

    Those of other ranks that hold nothing but blocks of replicated objects are looked at by these ranks, whose indexes name
    them as well.
    """
    own = {e.source for o in part.objects if not o.replicated for b in o.buffers for e in b.extents}
    for number, source in enumerate(part.sources, 1):
        if not source.digest or not (source.rank == part.rank or number in own):
            continue
        key = f"versions/{source.version}/{data_name(source.rank)}"
        if (size := store.size(key)) != source.nbytes:
            raise DamageError(f"{key}, to which this version refers, has {size} bytes instead of {source.nbytes}", file=key)


def group_body(draft: Commit, first: int, messages: list[bytes], put: Put) -> dict[str, Any]:
    """A group's message: its index is `put`, and its line for the root."""
    found = open_all(messages)
    data, group = encode_group(first, [m["part"] for m in found])
    put(f"{draft.path}/{group_name(first // GROUP_RANKS)}", data)
    line = [group.first, group.ranks, group.nbytes, group.header, group.digest]
    where, room = one_place(found), all(m["room"] for m in found)
    totals = {key: sum(m[key] for m in found) for key in _TOTALS}
    return {"group": line, "where": where, "refs": _refs(found), "room": room, **totals}


def _refs(found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The versions that any of them refers to, newest first: (name, digest of the commit)."""
    refs = {(name, digest) for m in found for name, digest in m["refs"]}
    return sorted(refs, key=lambda ref: (parse_version(ref[0]) or (0, 0), ref), reverse=True)


def root_body(
    draft: Commit, messages: list[bytes], since: float | None, put: Put, sealed: Link | None = None
) -> dict[str, Any]:
    """Rank 0's answer, with the commit record in it, which is not put yet; the root index is."""
    found = open_all(messages)
    one_place(found)
    root = encode_root([Group(*m["group"]) for m in found])
    put(f"{draft.path}/{ROOT_NAME}", root)
    refs = _refs(found)
    known: dict[str, Any] = {
        "objects": sum(m["objects"] for m in found),
        "nbytes": sum(m["bytes"] for m in found),
        "state": sum(m["state"] for m in found),
        "created": draft.created if sealed else time.time(),
        "seconds": draft.seconds if since is None else time.perf_counter() - since,
        "index_bytes": len(root),
        "index_digest": digest_hex(root),
    }
    record, digest = draft._replace(**known, refs=tuple(Link(*ref) for ref in refs)).encode()
    if sealed is not None and digest != sealed.digest:
        raise DamageError(
            f"Version {draft.version} is not what was committed: its indexes are other ones.", version=draft.version
        )
    return {**known, "refs": refs, "digest": digest, "record": record, "room": all(m["room"] for m in found)}


def _root(
    store: Store, draft: Commit, messages: list[bytes], since: float | None, sealed: Link | None
) -> dict[str, Any]:
    body = root_body(draft, messages, since, store.put, sealed)
    check_refs(store, [Link(*ref) for ref in body["refs"]])
    check_fence(store, draft.attempt)
    store.put(f"{draft.path}/{COMMIT_NAME}", body["record"])
    check_fence(store, draft.attempt)
    return body


def _blame_fence(store: Store, draft: Commit, rank: int, answer: bytes) -> bytes:
    """If the version failed, add that a later attempt exists, if so: it clears away what this one was writing, and
    "No such file" would let a program go on that has lost its run."""
    body = msgpack.unpackb(answer)
    if "errors" not in body:
        return answer
    try:
        check_fence(store, draft.attempt)
    except FencedError as error:
        body["errors"].append([rank, error.to_wire()])
    except HoldfastError:
        pass  # the storage that failed fails here too: what is known is said
    packed = msgpack.packb(body)
    assert isinstance(packed, bytes)
    return packed


