"""The data files that a part's extents are in: its own, and those of other versions and ranks, opened when first read.

A file of another version is opened only after that version's commit has been found to be the one that was meant: a link that is
broken is told as such, and versions that do not need it are whole.
"""

from __future__ import annotations

import threading

from ..catalog import read_linked
from ..errors import DamageError, StorageError
from ..format import Link, Part, parse_version
from ..format.keys import COMMIT_NAME, data_name
from ..store import KeyMissingError, Reader, Store
from ..store.base import Bytes


class DataFiles:
    """Readers of the data files of `part`, whose own one is `key`; number 0, its sources from 1 on. Thread-safe.

    `named`: whether messages say which version refers to a file of another."""

    def __init__(self, store: Store, key: str, part: Part, named: bool = True) -> None:
        self.part, self._named = part, named
        self._store = store
        self._path = key.rpartition("/data/")[0]
        own = [f"{self._path if not s.digest else 'versions/' + s.version}/{data_name(s.rank)}" for s in part.sources]
        self.keys = [key, *own]
        self._readers: dict[int, Reader] = {}
        self._checked: set[str] = set()
        self._lock = threading.Lock()

    def close(self) -> None:
        with self._lock:
            for reader in self._readers.values():
                reader.close()
            self._readers.clear()

    def commits(self) -> list[str]:
        """Keys of the commits of the other versions that the part refers to."""
        return sorted({f"versions/{s.version}/{COMMIT_NAME}" for s in self.part.sources if s.digest})

    def open(self, number: int) -> Reader:
        """The reader of data file `number`, which exists and has the right size. DamageError names what is not so."""
        reader = self._readers.get(number)
        if reader is not None:
            return reader
        with self._lock:
            if number not in self._readers:
                if number:
                    self._check(number)
                self._readers[number] = self._open(number)
            return self._readers[number]

    def read(self, number: int, offset: int, out: Bytes) -> None:
        """Bytes as they are, unverified. What the disk refuses to give back is damage as much as what it gives back wrong."""
        try:
            self.open(number).read(offset, out)
        except DamageError:
            raise
        except StorageError as error:
            raise self.damage(number, offset, None, f"can't be read at byte {offset} ({error.message})") from error

    def in_memory(self, number: int) -> bool:
        """Whether no device is waited for when that file is read, as far as the store tells; not if it can't be opened."""
        try:
            return bool(getattr(self.open(number), "in_memory", False))
        except (DamageError, StorageError):  # told with the object that needs it
            return False

    def damage(self, number: int, offset: int, name: str | None, what: str) -> DamageError:
        """An error that names data file, byte, object and, if it is not the part's own, the version whose it is."""
        key, rank = self.keys[number], self.part.rank
        of = f" (object {name!r}, rank {rank})" if name else ""
        source = self.part.sources[number - 1] if number else None
        foreign = source is not None and bool(source.digest)
        needed = f", which {self._path} refers to," if foreign and self._named else ""
        version = parse_version(source.version) if foreign and source is not None else None
        return DamageError(
            f"{key}{needed} {what}{of}",
            file=key,
            offset=offset,
            object=name,
            rank=rank,
            version=version[0] if version else None,
        )

    def _check(self, number: int) -> None:
        """DamageError unless the source's version is there and the one that was meant."""
        source = self.part.sources[number - 1]
        if not source.digest:
            if source.version != self._path.rpartition("/")[2]:
                raise self.damage(number, 0, None, "is not of this version, as its index says")
        elif source.version not in self._checked:
            try:
                read_linked(self._store, Link(source.version, source.digest))
            except StorageError as error:
                raise self._broken(source.version, error.message) from error
            except DamageError as error:
                raise self._broken(source.version, error.message) from error
            self._checked.add(source.version)

    def _broken(self, name: str, why: str) -> DamageError:
        version = parse_version(name)
        return DamageError(
            f"{self._path} needs blocks of version {version[0] if version else name}, but {why}",
            file=f"versions/{name}/{COMMIT_NAME}",
            offset=0,
            rank=self.part.rank,
            version=version[0] if version else None,
        )

    def _open(self, number: int) -> Reader:
        expected = self.part.sources[number - 1].nbytes if number else self.part.nbytes
        try:
            reader = self._store.open(self.keys[number])
        except KeyMissingError as error:
            raise self.damage(number, 0, None, "is missing") from error
        except StorageError as error:
            raise self.damage(number, 0, None, f"can't be read ({error.message})") from error
        if reader.nbytes != expected:
            reader.close()
            what = f"has {reader.nbytes} bytes instead of {expected}"
            raise self.damage(number, min(reader.nbytes, expected), None, what)
        return reader
