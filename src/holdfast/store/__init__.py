"""Places where bytes are kept: immutable objects under keys, put if absent, durable when said so.

The only door to storage; all its system calls are in `syscalls.py`. It knows nothing of versions, objects or ranks.
A store of one's own follows `Store` and passes `holdfast.testing.StoreTests`.
"""

from holdfast.store.base import (
    ALIGNMENT,
    Capabilities,
    KeyExistsError,
    KeyMissingError,
    Reader,
    Store,
    SystemCallError,
    Writer,
)
from holdfast.store.keys import check_key
from holdfast.store.posix import PosixStore
from holdfast.store.urls import open_store

__all__ = [
    "ALIGNMENT",
    "Capabilities",
    "KeyExistsError",
    "KeyMissingError",
    "PosixStore",
    "Reader",
    "Store",
    "SystemCallError",
    "Writer",
    "check_key",
    "open_store",
]
