"""What exists and what counts: attempts, fences, versions, lineage, retention.

Works on record files alone: no data is read here, nothing collective happens here.
"""

from .attempts import (
    Attempt,
    Base,
    End,
    Holder,
    check_fence,
    find_holder,
    list_attempts,
    put_base,
    put_end,
    put_fence,
    read_attempt,
)
from .check import Problem, check_records
from .commits import Commit, Loop, read_commit
from .evict import evict
from .lineage import Name, Snapshot
from .overview import Catalog, Version, list_versions, read_catalog
from .process import Process, current

__all__ = [
    "Attempt", "Base", "End", "Holder", "check_fence", "find_holder", "list_attempts",
    "put_base", "put_end", "put_fence", "read_attempt",
    "Problem", "check_records", "Commit", "Loop", "read_commit", "evict", "Name", "Snapshot",
    "Catalog", "Version", "list_versions", "read_catalog", "Process", "current",
]  # fmt: skip
