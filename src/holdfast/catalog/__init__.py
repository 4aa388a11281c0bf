"""What exists and what counts: attempts, fences, versions, lineage, retention.

Works on record files alone: no data is read here, nothing collective happens here.
"""

from typing import TYPE_CHECKING, Any

from .attempts import (
    Attempt,
    Base,
    End,
    Holder,
    check_fence,
    find_holder,
    known_places,
    list_attempts,
    put_base,
    put_end,
    put_fence,
    read_attempt,
)
from .commits import Commit, Loop, check_refs, read_commit, read_linked
from .lineage import Name, Snapshot
from .process import Process, current

if TYPE_CHECKING:
    from .check import Problem, check_records
    from .eviction import evict
    from .overview import Catalog, Version, list_versions, read_catalog, why_kept

# Not needed by a program that starts, so not part of its import time.
_LATER = {
    "Problem": "check", "check_records": "check", "evict": "eviction",
    "Catalog": "overview", "Version": "overview", "list_versions": "overview", "read_catalog": "overview",
    "why_kept": "overview",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)


__all__ = [
    "Attempt", "Base", "End", "Holder", "check_fence", "find_holder", "known_places", "list_attempts",
    "put_base", "put_end", "put_fence", "read_attempt",
    "Problem", "check_records", "Commit", "Loop", "check_refs", "read_commit", "read_linked", "evict", "Name", "Snapshot",
    "Catalog", "Version", "list_versions", "read_catalog", "why_kept", "Process", "current",
]  # fmt: skip
