"""Versions on their way from nodes to the run's own store: copied aside, then given their names whole.

Each attempt copies below a name of its own, `incoming/ATTEMPT-RANDOM/VERSION/...`, where nobody else writes. A version comes to
`versions/` with its commit and all its data, in one step; so nobody clears a directory in which another may commit, and no late
commit lands among files that are not its own. What is left below `incoming/` is nobody's: no reader looks there.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress

from ..errors import DamageError, StorageError
from ..format import Link, parse_version
from ..format.keys import COMMIT_NAME
from ..store import KeyExistsError, KeyMissingError, Store
from .attempts import check_fence
from .commits import read_commit

FOLDER = "incoming"

_NAME = re.compile(r"([0-9]{6,12})-[0-9a-f]{16}")
_TRIES = 3


def new_incoming(attempt: int) -> str:
    """A new place aside, for one try of this attempt to copy one version."""
    return f"{FOLDER}/{attempt:06d}-{os.urandom(8).hex()}"


def has_arrived(store: Store, link: Link) -> bool:
    """Whether the version stands in the store, durable on return (local). DamageError if another commit does, or none that is
    whole."""
    path = f"versions/{link.name}"
    try:
        digest = read_commit(store, "checkpoint", link.name)[1]
    except KeyMissingError:
        return False
    if digest != link.digest:
        raise DamageError(
            f"{path}/{COMMIT_NAME} is not the record that was committed. Nothing was changed; what nodes hold stays there.",
            file=f"{path}/{COMMIT_NAME}", offset=0, version=(parse_version(link.name) or (0, 0))[0],
        )  # fmt: skip
    store.sync("versions")  # whoever gave it its name may have died before this
    return True


def arrive(store: Store, link: Link, incoming: str, attempt: int) -> None:
    """Give the version below `incoming`, whole and durable with its commit, its name (on one rank, when all have finished their
    files). Where it stands there already the copy is removed.

    FencedError, also if it is there by then: a later attempt has begun, which tidies what is aside. DamageError: something else
    stands there. StorageError.
    """
    path = f"versions/{link.name}"
    # After all that was written aside: whoever tidies has put a fence before, and moves a copy away as a whole.
    check_fence(store, attempt)
    for _ in range(_TRIES):
        try:
            store.move(f"{incoming}/{link.name}", path)
            break
        except KeyExistsError:
            if has_arrived(store, link):
                break
            # Half deleted, or its commit is lost. Nobody commits there any more: versions of nodes come whole, and another
            # one that comes now stays as it is.
            store.delete_unless(path, COMMIT_NAME)
        except KeyMissingError:
            check_fence(store, attempt)
            raise
    else:
        raise StorageError(f"{path} was taken again and again: version {link.name} could not get its name.", file=path)
    check_fence(store, attempt)
    with suppress(StorageError):  # nobody's; the next start removes it
        store.delete_tree(incoming)


def find_incoming(store: Store, attempt: int) -> list[str]:
    """What attempts before `attempt` have left aside."""
    found = [(name, match) for name in store.list(FOLDER) if (match := _NAME.fullmatch(name))]
    return [f"{FOLDER}/{name}" for name, match in found if int(match[1]) < attempt]


def remove_incoming(store: Store, attempt: int) -> None:
    """Delete that (on one rank of `attempt`, which has put its fence). FencedError if there is a later one.

    Each is moved away before it is emptied: a process that was stopped right before it gave its copy the version's name
    either does so with all of it, or finds nothing.
    """
    for left in find_incoming(store, attempt):
        check_fence(store, attempt)
        mine = new_incoming(attempt)
        try:
            store.move(left, mine)
        except KeyMissingError:
            continue
        store.delete_tree(mine)


__all__ = ["FOLDER", "arrive", "find_incoming", "has_arrived", "new_incoming", "remove_incoming"]
