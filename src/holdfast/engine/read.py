"""A rank's data of a version, and back into memory: every block verified before a byte of it is handed on.

Large buffers are read in direct requests of a block into staging memory, by a few threads, digested there and only
then copied to where the program wants them. In memory, too: mapping a file and copying from where it stands
takes half as long again, for the page table and for a source that has left the caches since it was digested. Of a buffer in
layers the extents are read of which a byte is seen, each once, and what is seen of them is copied.
Small buffers come from windows of the files that are kept, so that ten thousand small objects cost a few reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import DamageError, StorageError
from ..format import BLOCK, Extent, Part, StoredBuffer, StoredObject, digest
from ..format.blocks import ALIGN, round_up
from ..format.index import INDEX_LIMIT
from ..format.keys import COMMIT_NAME, GROUP_RANKS, ROOT_NAME, group_name
from ..store import Store
from ..store.aligned import empty as aligned_empty
from ..store.base import Bytes
from .datafiles import DataFiles
from .pieces import Pieces
from .requests import Fetcher
from .workers import work_through

_WINDOW = 1 << 20
_WINDOWS = 8  # kept at once: a small object may lie in the file of an older version
_SMALL = 256 << 10  # buffers up to this size are read through a window


class PartReader:
    """Reads objects of one rank's part (local). Close it, or use it as a context manager."""

    def __init__(self, store: Store, key: str, part: Part, threads: int) -> None:
        self.key, self.part, self.threads = key, part, threads
        self.objects = {o.name: o for o in part.objects}
        self._store = store
        self.files = DataFiles(store, key, part)
        self._fetcher = Fetcher(self.files, threads)
        self._windows: dict[int, tuple[int, Bytes]] = {}  # by data file: where it begins, and its bytes
        self._sealed: dict[StoredBuffer, list[bytes]] = {}  # digests of the blocks of buffers in layers, once read

    def __enter__(self) -> PartReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of files and memory. Read again, it opens what it needs."""
        self.files.close()
        self._fetcher.close()
        self._windows.clear()

    @cached_property
    def trusted(self) -> bool:
        """Whether all that says what this part holds belongs to the user, who alone can write it: data of all versions that
        it is in, index, commits.

        Only then may code be run that is stored in it (pickles). False also if a file is missing.
        """
        version, _, data = self.key.rpartition("/data/r")
        group = group_name(self.part.rank // GROUP_RANKS)
        own = [f"{version}/{name}" for name in (COMMIT_NAME, ROOT_NAME, group)]
        keys = [*self.files.keys, *own, *self.files.commits()]
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
        buffer = stored.buffers[-1]
        self.check_files(buffer)
        if buffer.nbytes > INDEX_LIMIT:  # of a file with holes the length alone proves nothing
            raise self.files.damage(0, 0, stored.name, f"claims a structure of {buffer.nbytes} bytes")
        out = np.empty(buffer.nbytes, np.uint8)
        self.read(buffer, out, stored.name)
        return out.tobytes()

    def check_files(self, buffer: StoredBuffer) -> None:
        """DamageError unless all files that the buffer is in are there, and as long as the index says."""
        for number in {e.source for e in buffer.extents}:
            self.files.open(number)

    def read(self, buffer: StoredBuffer, out: Bytes | None, name: str) -> None:
        """Fill `out` (buffer.nbytes long) with the buffer's bytes; None: only verify. DamageError names file, offset and
        object; `out` may then have been filled in part, with verified bytes."""
        if buffer.nbytes <= _SMALL:
            self._read_small(buffer, out, name)
            return
        pieces = Pieces(buffer)

        def deliver(i: int, block: Bytes) -> None:
            if out is not None:
                pieces.copy(i, block, out)

        self._fetcher.fetch(buffer.extents, pieces.extents, lambda i: name, deliver)
        if out is not None and not all(pieces.whole(i) for i in pieces.extents):
            self._sealed[buffer] = self._digests(out)  # so that `same` need not read what is hidden again

    def same(self, buffer: StoredBuffer, memory: Bytes, name: str, written: Any = None) -> bool:
        """Whether `memory` holds exactly the buffer's bytes: by digests. Extents that are hidden in part are read, unless this
        reader has filled memory with them before. `written`: an int64 array of shape (runs, 2), (start, bytes): all other
        bytes are known to be the buffer's, and are not looked at."""
        if memory.nbytes != buffer.nbytes:
            return False
        if written is None and buffer in self._sealed:
            return self._digests(memory) == self._sealed[buffer]
        pieces = Pieces(buffer)
        touched = [i for i in pieces.extents if written is None or _meet(buffer.extents[i].runs, written)]
        whole = [i for i in touched if pieces.whole(i)]
        differing: list[int] = []

        def look(k: int, _: None) -> None:
            e = buffer.extents[whole[k]]
            if not differing and digest(_content(e, memory)) != e.digest:
                differing.append(k)

        work_through(range(len(whole)), self.threads if buffer.nbytes > BLOCK else 1, lambda: None, look)
        rest = [] if differing else [i for i in touched if not pieces.whole(i)]

        def deliver(i: int, block: Bytes) -> None:
            if not pieces.equal(i, block, memory):
                differing.append(i)

        self._fetcher.fetch(buffer.extents, rest, lambda i: name, deliver)
        return not differing

    def _digests(self, memory: Bytes) -> list[bytes]:
        found = [b""] * -(-memory.nbytes // BLOCK)

        def look(k: int, _: None) -> None:
            found[k] = digest(memory[k * BLOCK : (k + 1) * BLOCK])

        work_through(range(len(found)), self.threads, lambda: None, look)
        return found

    def _read_small(self, buffer: StoredBuffer, out: Bytes | None, name: str) -> None:
        extents = buffer.extents
        if len(extents) == 1 and extents[0].packed is None:
            found = self._small(extents[0], name)
            if out is not None:
                out[:] = found
        elif extents:
            pieces = Pieces(buffer)
            for i in pieces.extents:
                found = self._small(extents[i], name)
                if out is not None:
                    pieces.copy(i, found, out)

    def _small(self, e: Extent, name: str) -> Bytes:
        """An extent of a small buffer, verified."""
        begin, window = self._windows.get(e.source, (0, None))
        start, stop = e.offset, e.offset + e.nbytes
        if window is None or not (begin <= start and stop <= begin + len(window)):
            begin = start - start % ALIGN
            size = min(max(_WINDOW, round_up(stop - begin)), self.files.open(e.source).nbytes - begin)
            self._windows.pop(e.source, None)
            if len(self._windows) >= _WINDOWS:
                del self._windows[next(iter(self._windows))]
            window = aligned_empty(size)
            self.files.read(e.source, begin, window)
            self._windows[e.source] = begin, window
        found = window[start - begin : stop - begin]
        if digest(found) != e.digest:
            raise self.files.damage(e.source, start, name, f"is damaged in the block at byte {start}")
        return found


def _content(e: Extent, memory: Bytes) -> Bytes:
    """What the extent holds if the buffer is `memory`."""
    if e.packed is None:
        return memory[e.start : e.start + e.nbytes]
    return np.concatenate([memory[start : start + nbytes] for start, nbytes in e.runs.tolist()])


def _meet(runs: Any, others: Any) -> bool:
    """Whether any byte is in both; `runs` and `others`: int64, shape (n, 2), (start, bytes), each in order and apart."""
    if not len(others):
        return False
    starts, ends = others[:, 0], others[:, 0] + others[:, 1]
    # The last of the others that begins before a run ends, if there is one, is the one that may reach into it.
    last = np.searchsorted(starts, runs[:, 0] + runs[:, 1], side="left") - 1
    return bool(((last >= 0) & (ends[np.maximum(last, 0)] > runs[:, 0])).any())


class Source:
    """An object's buffers as `state.decode` wants them: `lengths` in bytes, `read(i, out)` verified."""

    def __init__(self, reader: PartReader, stored: StoredObject) -> None:
        self._reader, self._stored = reader, stored
        self._buffers = stored.buffers if stored.tree is not None else stored.buffers[:-1]
        for buffer in self._buffers:  # so that lengths are never larger than the files, whatever the index says
            reader.check_files(buffer)
        self.lengths: Sequence[int] = [b.nbytes for b in self._buffers]

    def read(self, i: int, out: Bytes) -> None:
        if out.nbytes != self.lengths[i]:
            raise self._reader.files.damage(0, 0, self._stored.name, "does not fit its structure")
        self._reader.read(self._buffers[i], out, self._stored.name)
