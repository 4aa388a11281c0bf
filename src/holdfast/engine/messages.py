"""What ranks tell each other while a version is written: what they have, or what they met instead, on the same road."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import msgpack

from ..catalog import Commit
from ..errors import (
    Cause,
    CheckpointError,
    DeadlineError,
    FencedError,
    HoldfastError,
    RankError,
    StaleObjectError,
    StorageError,
    UnsupportedError,
    UsageError,
)
from ..group import Group as Ranks

log = logging.getLogger("holdfast")

# Errors that are not the storage's but the program's or another attempt's: raised as themselves.
_AS_THEY_ARE = {cls.__name__ for cls in (FencedError, StaleObjectError, UnsupportedError, UsageError)}


def gather(ranks: Ranks, message: bytes, members: range, what: str) -> tuple[list[bytes], bytes]:
    """(what the members sent, nothing) or, if a rank has waited in vain, (nothing, its error as a message)."""
    try:
        return ranks.gather(message, members, what) or [], b""
    except (DeadlineError, RankError) as error:
        wire = error.to_wire()
        return [], attempt(ranks.rank, lambda: give(Failed([[ranks.rank, wire]])))


def give(error: Exception) -> dict[str, Any]:
    """Raises it: for `attempt`."""
    raise error


def one_place(found: list[dict[str, Any]]) -> Any:
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


def attempt(rank: int, work: Callable[[], dict[str, Any]]) -> bytes:
    """What `work` returns, or what it raised, as bytes for other ranks."""
    try:
        body: dict[str, Any] = work()
    except Failed as failed:
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


class Failed(Exception):
    def __init__(self, errors: list[Any]) -> None:
        self.errors = errors


def open_all(messages: list[bytes]) -> list[dict[str, Any]]:
    """The messages' bodies; if any tells of errors, all of them together as one exception."""
    bodies = [msgpack.unpackb(m) for m in messages]
    errors: list[Any] = []
    for error in (e for body in bodies for e in body.get("errors", ())):
        if error not in errors:  # what failed while replicated objects were shared, each rank tells again
            errors.append(error)
    if errors:
        raise Failed(errors)
    return bodies


def failure(errors: list[Any], draft: Commit) -> HoldfastError:
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
