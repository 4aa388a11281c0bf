"""Writing a version as a transaction of all ranks (docs/format.md, section 7).

Each rank writes its data; the first of each group gathers and writes the group's index; rank 0 gathers the groups,
writes the root, and commits between two looks for a later fence. What any rank met on the way travels
the same road as the data, so that all ranks leave with the same answer.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import msgpack

from ..catalog import Commit, check_fence, check_refs
from ..errors import (
    Cause,
    CheckpointError,
    DamageError,
    DeadlineError,
    FencedError,
    HoldfastError,
    RankError,
    StaleObjectError,
    StorageError,
    UnsupportedError,
    UsageError,
)
from ..format import Group, Link, Part, digest_hex, parse_version
from ..format.index import encode_group, encode_root
from ..format.keys import COMMIT_NAME, GROUP_RANKS, ROOT_NAME, data_name, group_name
from ..format.layers import versions_used
from ..group import Group as Ranks
from ..store import Store
from .sharing import Share, merge

log = logging.getLogger("holdfast")

_TOTALS = ("objects", "bytes", "state")

# Errors that are not the storage's but the program's or another attempt's: raised as themselves.
_AS_THEY_ARE = {cls.__name__ for cls in (FencedError, StaleObjectError, UnsupportedError, UsageError)}


class Published(NamedTuple):
    """A durable version: its commit record and link. `bytes` counts the data files of all ranks."""

    commit: Commit
    link: Link


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
) -> Published:
    """Write and commit the version that `draft` describes (collective). `shared` in place of `write`, on all ranks alike,
    where there are replicated objects. `since`: time.perf_counter() when the program, on rank 0, began to wait for the
    commit; None if `draft.seconds` says how long it has waited.

    `write(key)` writes this rank's data file and returns its index, durable. `draft`'s numbers of objects and
    bytes and its index are filled in here. Raises on all ranks alike: FencedError, or CheckpointError with every
    rank's cause; DeadlineError on a rank that waited in vain.
    """
    first = ranks.rank - ranks.rank % GROUP_RANKS
    members = range(first, min(first + GROUP_RANKS, ranks.size))
    leaders = range(0, ranks.size, GROUP_RANKS)
    if shared is not None:
        write = _share(ranks, draft, shared)
    message = _attempt(ranks.rank, lambda: _data(store, ranks, draft, write))
    # Every rank goes all the way, also one that has waited in vain: a late rank must find each call made, in order.
    parts, late = _gather(ranks, message, members, f"data of version {draft.version}")
    answer = b""
    if ranks.rank == first:
        message = late or _attempt(ranks.rank, lambda: _group(store, draft, first, parts))
        groups, late = _gather(ranks, message, leaders, f"indexes of version {draft.version}")
        if ranks.rank == 0:
            answer = late or _attempt(ranks.rank, lambda: _root(store, draft, groups, since))
            answer = _blame_fence(store, draft, ranks.rank, answer)
    answer = ranks.broadcast(answer, range(ranks.size), f"commit of version {draft.version}", patience=3)
    try:
        body = _open([answer])[0]
    except _Failed as failed:
        raise _failure(failed.errors, draft) from None
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
    return Published(commit, Link(commit.name, body["digest"]))


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
        found = _open(messages)
        _one_place(found)  # first: at different steps they hold different values
        try:
            return merge([m["share"] for m in found])
        except UsageError as error:  # in which it is not this rank that is at fault
            raise _Failed([[error.rank, error.to_wire()]]) from None

    message = _attempt(ranks.rank, written)
    everyone, what = range(ranks.size), f"replicated objects of version {draft.version}"
    found, late = _gather(ranks, message, everyone, what)
    answer = b""
    if ranks.rank == 0:
        answer = late or _attempt(0, lambda: told(found))
    try:
        answer = ranks.broadcast(answer, everyone, what, patience=2)
    except (DeadlineError, RankError) as error:
        # Rank 0 keeps to its answer: the others have it, and the one that has not will tell.
        if ranks.rank != 0:
            wire = error.to_wire()
            answer = _attempt(ranks.rank, lambda: _raise(_Failed([[ranks.rank, wire]])))

    def part(_: str) -> Part:
        merged = _open([answer])[0]  # first: where this rank has failed, it has no parcel
        return parcels[0].part(merged)

    return part


def _gather(ranks: Ranks, message: bytes, members: range, what: str) -> tuple[list[bytes], bytes]:
    """(what the members sent, nothing) or, if a rank has waited in vain, (nothing, its error as a message)."""
    try:
        return ranks.gather(message, members, what) or [], b""
    except (DeadlineError, RankError) as error:
        wire = error.to_wire()
        return [], _attempt(ranks.rank, lambda: _raise(_Failed([[ranks.rank, wire]])))


def _raise(error: Exception) -> dict[str, Any]:
    raise error


def _data(store: Store, ranks: Ranks, draft: Commit, write: Callable[[str], Part]) -> dict[str, Any]:
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


def _group(store: Store, draft: Commit, first: int, messages: list[bytes]) -> dict[str, Any]:
    found = _open(messages)
    data, group = encode_group(first, [m["part"] for m in found])
    store.put(f"{draft.path}/{group_name(first // GROUP_RANKS)}", data)
    line = [group.first, group.ranks, group.nbytes, group.header, group.digest]
    where = _one_place(found)
    totals = {key: sum(m[key] for m in found) for key in _TOTALS}
    return {"group": line, "where": where, "refs": _refs(found), **totals}


def _refs(found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The versions that any of them refers to, newest first: (name, digest of the commit)."""
    refs = {(name, digest) for m in found for name, digest in m["refs"]}
    return sorted(refs, key=lambda ref: (parse_version(ref[0]) or (0, 0), ref), reverse=True)


def _root(store: Store, draft: Commit, messages: list[bytes], since: float | None) -> dict[str, Any]:
    found = _open(messages)
    _one_place(found)
    root = encode_root([Group(*m["group"]) for m in found])
    store.put(f"{draft.path}/{ROOT_NAME}", root)
    refs = _refs(found)
    known: dict[str, Any] = {
        "objects": sum(m["objects"] for m in found),
        "nbytes": sum(m["bytes"] for m in found),
        "state": sum(m["state"] for m in found),
        "created": time.time(),
        "seconds": draft.seconds if since is None else time.perf_counter() - since,
        "index_bytes": len(root),
        "index_digest": digest_hex(root),
    }
    links = tuple(Link(*ref) for ref in refs)
    record, digest = draft._replace(**known, refs=links).encode()
    check_refs(store, links)
    check_fence(store, draft.attempt)
    store.put(f"{draft.path}/{COMMIT_NAME}", record)
    check_fence(store, draft.attempt)
    return {**known, "refs": refs, "digest": digest}


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


def _one_place(found: list[dict[str, Any]]) -> Any:
    """Where all ranks stand; UsageError if they do not stand at one place: a version of that would be torn."""
    for message in found:
        if message["where"] != found[0]["where"]:
            raise UsageError(
                f"The ranks are not at one step: some are at {found[0]['where']}, others at {message['where']} "
                "(step, loops with position, length, done, what is written). Nothing was written; the versions before are "
                "intact. "
                "Give `steps` the same numbers on all ranks, and decide `break` from values that all ranks share."
            )
    return found[0]["where"]


# -- errors on the same road ------------------------------------------------------------------


def _attempt(rank: int, work: Callable[[], dict[str, Any]]) -> bytes:
    """What `work` returns, or what it raised, as bytes for other ranks."""
    try:
        body: dict[str, Any] = work()
    except _Failed as failed:
        body = {"errors": failed.errors}
    except HoldfastError as error:
        body = {"errors": [[rank, error.to_wire()]]}
    except Exception as error:
        log.debug("what a rank met while it wrote a version", exc_info=True)
        wire = StorageError(f"{type(error).__name__}: {error}").to_wire() | {"type": type(error).__name__}
        body = {"errors": [[rank, wire]]}
    packed = msgpack.packb(body)
    assert isinstance(packed, bytes)
    return packed


class _Failed(Exception):
    def __init__(self, errors: list[Any]) -> None:
        self.errors = errors


def _open(messages: list[bytes]) -> list[dict[str, Any]]:
    """The messages' bodies; if any tells of errors, all of them together as one exception."""
    bodies = [msgpack.unpackb(m) for m in messages]
    errors: list[Any] = []
    for error in (e for body in bodies for e in body.get("errors", ())):
        if error not in errors:  # what failed while replicated objects were shared, each rank tells again
            errors.append(error)
    if errors:
        raise _Failed(errors)
    return bodies


def _failure(errors: list[Any], draft: Commit) -> HoldfastError:
    """The exception that all ranks raise for what some of them met: [[rank, wire], …]."""
    causes = tuple(Cause(rank, wire["type"], wire["message"]) for rank, wire in errors)
    for rank, wire in errors:
        if wire["type"] in _AS_THEY_ARE:
            return HoldfastError.from_wire(wire | {"rank": rank, "version": draft.version}, causes)
    rank, wire = errors[0]
    return CheckpointError(
        f"Version {draft.version} was not written: rank {rank}: {wire['message']} "
        "The versions before it are intact and the program's state is untouched.",
        object=wire["object"],
        rank=rank,
        file=wire["file"],
        version=draft.version,
        causes=causes,
    )
