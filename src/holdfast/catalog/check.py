"""Reading every record file of a run, and telling which are damaged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..errors import DamageError, StorageError
from ..format import RECORD_LIMIT, decode_record, parse_attempt
from ..format.keys import COMMIT_NAME, RUN_KEY, folder
from ..format.records import count
from ..store import KeyMissingError, Store
from .attempts import parse_attempt_record
from .commits import read_commit
from .lineage import Snapshot


class Problem(NamedTuple):
    """A record file that is not as it was written, and what is wrong with it."""

    file: str
    message: str


def check_records(store: Store, snapshot: Snapshot) -> Iterator[Problem]:
    """Every problem with a record file (local). Commits that are no record at all are not told: those are damaged
    versions."""
    yield from _check(store, RUN_KEY)
    yield from (Problem(f"attempts/{n:06d}.json", f"attempts/{n:06d}.json is missing")
                for n, suffixes in sorted(snapshot.attempts.items()) if "json" not in suffixes)  # fmt: skip
    for folder_name in ("attempts", "files"):
        for name in store.list(folder_name):
            yield from _check(store, f"{folder_name}/{name}")
    for kind, names in snapshot.names.items():
        for n in names:
            try:
                yield from (
                    Problem(f"{folder(kind)}/{n.name}/{COMMIT_NAME}", c) for c in read_commit(store, kind, n.name)[2]
                )
            except (DamageError, KeyMissingError):
                continue


def _check(store: Store, key: str) -> Iterator[Problem]:
    try:
        body, _, complaints = decode_record(store.get(key, RECORD_LIMIT), key)
        yield from (Problem(key, c) for c in complaints)
        if key.startswith("files/"):
            count(body, "bytes", key)
        elif (parsed := parse_attempt(key.removeprefix("attempts/"))) is not None:
            parse_attempt_record(body, *parsed, key)
    except (DamageError, StorageError) as error:
        yield Problem(key, error.message)
