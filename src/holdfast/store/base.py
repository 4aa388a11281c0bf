"""What every store offers, and the two errors of its own that callers tell apart.

A store keeps immutable objects under keys (`keys.py`). All methods may be called from several threads and,
except for `Writer` and `Reader` themselves, after a fork. None is collective: any one rank calls what it needs.
Every failure is a `StorageError` (mend the place) or a `DamageError` (something stands there that no store
has written).
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from holdfast.errors import StorageError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Self

    Bytes: TypeAlias = NDArray[np.uint8]
else:
    Bytes = np.ndarray  # numpy.typing would cost every program's start several milliseconds
Data: TypeAlias = bytes | bytearray | memoryview | Bytes

Names: TypeAlias = list[str]  # named here: inside a class with a method `list`, that word means the method

ALIGNMENT = 4096  # bytes: offset, length and address of a direct request are multiples of it


class Capabilities(NamedTuple):
    """What a store can do. `atomic_create`: `put` is put-if-absent also against other hosts.

    `direct_io`: aligned requests may bypass the page cache, so page-aligned buffers pay.
    `conditional_put`: an object can be replaced if it is unchanged. `max_object_bytes`: None means no limit.
    """

    atomic_create: bool
    direct_io: bool
    conditional_put: bool
    max_object_bytes: int | None = None


class SystemCallError(StorageError):
    """The operating system refused a call on the store; `errno` is its number. What was stored before is
    intact: mend what the message names, then go on."""

    def __init__(self, message: str, *, errno: int | None = None, **kw: Any) -> None:
        super().__init__(message, **kw)
        self.errno = errno


class KeyExistsError(StorageError):
    """The key is taken and nothing was written: someone else came first, or the call is a repeated one."""


class KeyMissingError(StorageError):
    """There is no such object: it was never written, or has been deleted."""


class Writer(Protocol):
    """A large object on its way. As a context manager it aborts unless `finish` has returned.

    `nbytes`: its size in bytes; None if that is said only by `finish`."""

    key: str
    nbytes: int | None

    @property
    def direct(self) -> bool:
        """True if writes with offset, length and address in multiples of 4096 bypass the page cache."""

    def write(self, offset: int, data: Data) -> None:
        """Write all of `data` at `offset` bytes. Threads may write disjoint ranges at the same time."""

    def finish(self, nbytes: int | None = None) -> None:
        """Make the object durable, `nbytes` bytes long if its size was not given before. All writes must have returned."""

    def abort(self) -> None:
        """Give the object up and remove what there is of it. Raises nothing; nothing after `finish`."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Reader(Protocol):
    """An object open for reading, `nbytes` long. A context manager."""

    key: str
    nbytes: int

    @property
    def direct(self) -> bool:
        """True if reads with offset, length and address in multiples of 4096 bypass the page cache."""

    def read(self, offset: int, out: Bytes) -> None:
        """Fill `out` (uint8, 1-D, contiguous) from `offset` bytes on. `DamageError` if the object ends before."""

    def close(self) -> None:
        """Let go of the object. Reads still under way in other threads end well."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Store(Protocol):
    """A place for objects. `location` is for people: it names the place in messages."""

    location: str
    read_only: bool

    @property
    def capabilities(self) -> Capabilities: ...

    def put(self, key: str, data: bytes | bytearray | memoryview) -> None:
        """Store a small object if the key is free: all of it or nothing, durable on return.

        Raises `KeyExistsError`. After any other error the object is absent or there completely, then perhaps not
        durably: it is never taken back, since another process may have read it.
        """

    def get(self, key: str, limit: int) -> bytes:
        """The whole object. `KeyMissingError`; `DamageError` if it has more than `limit` bytes or is no regular one."""

    def create(self, key: str, nbytes: int | None) -> Writer:
        """Begin a large object of `nbytes` bytes (None: `finish` will say) under its own name. `KeyExistsError` if the key
        is taken."""

    def open(self, key: str) -> Reader:
        """Open an object for reading in parts. `KeyMissingError`; `DamageError` if it is no regular object."""

    def list(self, prefix: str) -> Names:
        """Sorted names of the components directly below; empty if there are none. What is no key is left out."""

    def is_copy(self, where: str, key: str) -> bool:
        """Whether the place that was called `where` is another one than this, and has the object `key` too."""

    def tree(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Key and size in bytes of every object below, in the order of keys."""

    def size(self, key: str) -> int:
        """Bytes of the object. `KeyMissingError`, `DamageError`."""

    def exists(self, key: str) -> bool:
        """Whether something has this name, valid or not: what is damaged is not absent."""

    def delete(self, key: str) -> None:
        """Remove an object, durably on return; missing is fine."""

    def delete_tree(self, prefix: str) -> None:
        """Remove everything below `prefix`, which may not be empty; missing is fine, and so is a second deleter."""

    def delete_unless(self, prefix: str, name: str) -> bool:
        """`delete_tree`, unless there is an object `name` directly below `prefix`: then nothing is removed, and the answer is
        False. What another process gives this prefix meanwhile, by `move`, stays whole."""

    def move(self, source: str, target: str) -> None:
        """Give all that is below `source` its place below `target`, if nothing has that name: in one step, durable on return.

        Everything below `source` has to be durable already, and nobody may write there any more. Raises `KeyExistsError`,
        and `KeyMissingError` if there is no `source`. After any other error all of it is below one of the two names, perhaps
        not durably: it is never taken back, since another process may have read it.
        """

    def touch(self, key: str) -> None:
        """Set the time of last modification to now, by the store's clock. Need not be durable."""

    def age(self, key: str) -> float:
        """Seconds since the last modification, by the store's clock where it can be written, never negative."""

    def sync(self, prefix: str) -> None:
        """Make the names directly below durable, also those that a writer left that died before it could."""

    def sync_root(self) -> None:
        """`sync` for the root and each prefix directly below: once, by a writer, when it opens the store."""

    def leftovers(self, prefix: str) -> Names:
        """Sorted names of temporary files directly below, left by writers that died, or of one at work."""

    def remove_leftovers(self, prefix: str) -> None:
        """Remove them. Only the run's one writer may, when no other thread of it puts below `prefix`."""

    def owner_is_me(self, key: str) -> bool:
        """Whether the object belongs to the effective user and nobody else can write it. `KeyMissingError`."""
