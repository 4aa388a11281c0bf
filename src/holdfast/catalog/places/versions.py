"""A version's directory at a place: its path, and how it goes."""

from __future__ import annotations

from ...errors import UsageError
from ...format import parse_version
from ...format.keys import COMMIT_NAME
from ...store import PosixStore

RECORDS = ("held", "protected")  # the directories of the records that prove a rank's files, in the order of writing


def version_path(name: str) -> str:
    """The key below which all of the version lies. UsageError if it is no version's name."""
    if parse_version(name) is None:  # it becomes part of a path
        raise UsageError(f"{name!r:.80} is no version's name; nothing was read or changed.")
    return f"versions/{name}"


def remove_version(store: PosixStore, version: str) -> None:
    """See `Place.remove`."""
    top = version_path(version)
    store.delete(f"{top}/{COMMIT_NAME}")
    for folder in reversed(RECORDS):
        store.delete_tree(f"{top}/{folder}")
    store.delete_tree(top)
