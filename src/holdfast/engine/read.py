"""A rank's data of a version, and back into memory: every block verified before a byte of it is handed on.

Large buffers are read in direct requests of a few blocks into staging memory, by a few threads, digested
there and only then copied to where the program wants them. Small ones come from a window of the file that is kept, so that
ten thousand small objects cost a few reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from ..errors import DamageError, StorageError
from ..format import BLOCK, DIGEST_BYTES, Part, StoredBuffer, StoredObject, digest
from ..format.blocks import round_up
from ..format.index import INDEX_LIMIT
from ..format.keys import COMMIT_NAME, GROUP_RANKS, ROOT_NAME, group_name
from ..store import KeyMissingError, Reader, Store
from ..store.aligned import empty as aligned_empty
from ..store.base import Bytes
from .workers import work_through

REQUEST = 2 * BLOCK  # bytes read at once
_WINDOW = 1 << 20
_SMALL = 256 << 10  # buffers up to this size are read through the window


class PartReader:
    """Reads objects of one rank's part (local). Close it, or use it as a context manager."""

    def __init__(self, store: Store, key: str, part: Part, threads: int) -> None:
        self.key, self.part, self.threads = key, part, threads
        self.objects = {o.name: o for o in part.objects}
        self._store = store
        self._reader: Reader | None = None
        self._window = np.empty(0, np.uint8)
        self._window_at = 0

    def __enter__(self) -> PartReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._window = np.empty(0, np.uint8)

    @cached_property
    def trusted(self) -> bool:
        """Whether all that says what this part holds belongs to the user, who alone can write it: data, index, commit.

        Only then may code be run that is stored in it (pickles). False also if a file is missing.
        """
        version, _, data = self.key.rpartition("/data/r")
        group = group_name(self.part.rank // GROUP_RANKS)
        keys = [self.key, *(f"{version}/{name}" for name in (COMMIT_NAME, ROOT_NAME, group))]
        try:
            return bool(version and data) and all(self._store.owner_is_me(key) for key in keys)
        except (DamageError, StorageError):
            return False

    def source(self, stored: StoredObject) -> Source:
        """The object's buffers, without its structure."""
        return Source(self, stored)

    def tree(self, stored: StoredObject) -> bytes:
        """The object's structure, from the index or from its last buffer."""
        if stored.tree is not None:
            return stored.tree
        out = np.empty(self._sane(stored.buffers[-1].nbytes), np.uint8)
        self.read(stored.buffers[-1], out, stored.name)
        return out.tobytes()

    def read(self, buffer: StoredBuffer, out: Bytes | None, name: str) -> None:
        """Fill `out` with the buffer's bytes; None: only verify. DamageError names file, offset and object."""
        reader = self._open()
        if buffer.nbytes <= _SMALL:
            self._read_small(reader, buffer, out, name)
        elif buffer.nbytes:
            _Job(self, reader, buffer, out, name).run()

    def raw(self, offset: int, out: Bytes) -> None:
        """Bytes of the data file as they are, unverified: for what lies between buffers."""
        self.fetch(self._open(), offset, out)

    def fetch(self, reader: Reader, offset: int, out: Bytes) -> None:
        """Read; what the disk refuses to give back is damage as much as what it gives back wrong."""
        try:
            reader.read(offset, out)
        except StorageError as error:
            raise self.damage(offset, None, f"can't be read at byte {offset} ({error.message})") from error

    def _open(self) -> Reader:
        if self._reader is None:
            try:
                reader = self._store.open(self.key)
            except KeyMissingError as error:
                raise self.damage(0, None, "is missing") from error
            except StorageError as error:
                raise self.damage(0, None, f"can't be read ({error.message})") from error
            if reader.nbytes != self.part.nbytes:
                reader.close()
                raise self.damage(
                    min(reader.nbytes, self.part.nbytes),
                    None,
                    f"has {reader.nbytes} bytes instead of {self.part.nbytes}",
                )
            self._reader = reader
        return self._reader

    def _sane(self, nbytes: int) -> int:
        """The length of a structure, after the file has been seen to be long enough for it."""
        self._open()
        if nbytes > INDEX_LIMIT:  # of a file with holes the length alone proves nothing
            raise self.damage(0, None, f"claims a structure of {nbytes} bytes")
        return nbytes

    def _read_small(self, reader: Reader, buffer: StoredBuffer, out: Bytes | None, name: str) -> None:
        start, stop = buffer.offset, buffer.offset + buffer.nbytes
        if not (self._window_at <= start and stop <= self._window_at + len(self._window)):
            at = start - start % 4096
            window = aligned_empty(min(max(_WINDOW, round_up(stop - at)), reader.nbytes - at))
            self.fetch(reader, at, window)
            self._window, self._window_at = window, at
        found = self._window[start - self._window_at : stop - self._window_at]
        if buffer.nbytes and digest(found) != buffer.digests:
            raise self.damage(start, name, f"is damaged at byte {start}")
        if out is not None:
            out[:] = found

    def damage(self, offset: int, name: str | None, what: str) -> DamageError:
        of = f" (object {name!r}, rank {self.part.rank})" if name else ""
        return DamageError(f"{self.key} {what}{of}", file=self.key, offset=offset, object=name, rank=self.part.rank)


class Source:
    """An object's buffers as `state.decode` wants them: `lengths` in bytes, `read(i, out)` verified."""

    def __init__(self, reader: PartReader, stored: StoredObject) -> None:
        self._reader, self._stored = reader, stored
        self._buffers = stored.buffers if stored.tree is not None else stored.buffers[:-1]
        reader._open()  # so that lengths are never larger than the file, whatever the index says
        self.lengths: Sequence[int] = [b.nbytes for b in self._buffers]

    def read(self, i: int, out: Bytes) -> None:
        if out.nbytes != self.lengths[i]:
            raise self._reader.damage(self._buffers[i].offset, self._stored.name, "does not fit its structure")
        self._reader.read(self._buffers[i], out, self._stored.name)


class _Job:
    """One large buffer being read by a few workers that share a counter of requests."""

    def __init__(self, owner: PartReader, reader: Reader, buffer: StoredBuffer, out: Bytes | None, name: str) -> None:
        self.owner, self.reader, self.buffer, self.out, self.name = owner, reader, buffer, out, name

    def run(self) -> None:
        requests = range(0, self.buffer.nbytes, REQUEST)
        work_through(requests, self.owner.threads, lambda: aligned_empty(REQUEST), self._read)

    def _read(self, start: int, staging: Bytes) -> None:
        stop = min(start + REQUEST, self.buffer.nbytes)
        # Rounded up to whole pages, as direct I/O asks: a data file is a multiple of 4096 long.
        offset = self.buffer.offset + start
        nbytes = stop - start
        if offset % 4096 == 0:
            nbytes = min(round_up(nbytes), self.reader.nbytes - offset)
        self.owner.fetch(self.reader, offset, staging[:nbytes])
        for at in range(start, stop, BLOCK):
            k = at // BLOCK
            block = staging[at - start : min(at + BLOCK, stop) - start]
            if digest(block) != self.buffer.digests[k * DIGEST_BYTES : (k + 1) * DIGEST_BYTES]:
                where = self.buffer.offset + at
                raise self.owner.damage(where, self.name, f"is damaged in the block at byte {where}")
            if self.out is not None:
                self.out[at : at + len(block)] = block
