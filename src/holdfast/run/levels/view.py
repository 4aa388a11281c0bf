"""What a rank reads versions from: its node's places first, then the run's own store.

To those who read it is one store. Keys are the same everywhere and what has a key never changes, so that it does not matter
where the bytes come from; each is verified. What was found damaged at a place is not read there again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from ...catalog import Commit
from ...catalog.places import Held, Place
from ...errors import DamageError, StorageError
from ...format import Part, parse_version
from ...format.keys import COMMIT_NAME
from ...store import KeyMissingError, Store
from ...store.base import Names, Reader
from ...store.base import Writer as StoreWriter

_OF = re.compile(r"versions/([^/]+)/(commit|index|data|part)(?:/(?:r([0-9]+)|.*))?")

Holding = tuple[str, str, int]  # kind of the place, version's name, rank


class View:
    """`store`: the run's own; `places`: this node's, by kind; `commits`: record files that were found on nodes, by version's
    name. `bad`: holdings not to be read. `counts`: bytes that were opened for reading, by where they are."""

    def __init__(self, store: Store, places: Mapping[str, Place], commits: Mapping[str, bytes] | None = None) -> None:
        self.store, self.places = store, dict(places)
        self.commits: dict[str, bytes] = dict(commits or {})
        self.bad: set[Holding] = set()
        self.counts: dict[str, int] = {}
        self.location, self.read_only = store.location, store.read_only
        self._held: dict[tuple[str, str, int], Held | None] = {}
        self._origin: dict[str, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)  # what is not about reading versions

    # -- where things are ------------------------------------------------------------------------

    def held(self, kind: str, version: str, rank: int) -> Held | None:
        """The rank's record at a place of this node, if it is there, whole, and not known to be bad (local)."""
        if (kind, version, rank) in self.bad or parse_version(version) is None:
            return None
        key = (kind, version, rank)
        if self._held.get(key) is None:  # what was not there may have come since
            try:
                self._held[key] = self.places[kind].read_held(version, rank)
            except (StorageError, DamageError):
                self._held[key] = None
        return self._held[key]

    def forget(self) -> None:
        """Look anew at what places hold."""
        self._held.clear()

    def refresh(self) -> None:
        """Know the versions that this node's places have now, and no others of nodes: once it is settled what to go on from."""
        self.forget()
        self.commits = {}
        for place in self.places.values():
            try:
                found = {name: place.read_commit(name) for name in place.versions()}
            except (StorageError, DamageError):
                continue
            self.commits.update({name: record for name, record in found.items() if record is not None})

    def blame(self, error: DamageError) -> bool:
        """Whether the damage is of something that was read at a place of this node, which is not read there any more."""
        match = _OF.fullmatch(error.file or "")
        kind = self._origin.get(error.file or "")
        if match is None or kind is None or match[3] is None:
            return False
        self.bad.add((kind, match[1], int(match[3])))
        return True

    def _kinds(self, version: str, rank: int) -> list[str]:
        return [kind for kind in ("memory", "local") if kind in self.places and self.held(kind, version, rank)]

    # -- reading ---------------------------------------------------------------------------------

    def get(self, key: str, limit: int) -> bytes:
        """See `Store.get`. A commit is the one that was found on nodes, or the run's store has it."""
        match = _OF.fullmatch(key)
        if match is not None and match[2] == COMMIT_NAME and match[1] in self.commits:
            return self.commits[match[1]]
        return self.store.get(key, limit)

    def exists(self, key: str) -> bool:
        match = _OF.fullmatch(key)
        return (match is not None and match[2] == COMMIT_NAME and match[1] in self.commits) or self.store.exists(key)

    def size(self, key: str) -> int:
        match = _OF.fullmatch(key)
        if match is not None and match[2] == "data" and match[3] is not None:
            for kind in self._kinds(match[1], int(match[3])):
                try:
                    return self.places[kind].store.size(key)
                except KeyMissingError:
                    continue
        return self.store.size(key)

    def list(self, prefix: str) -> Names:
        """See `Store.list`; among the versions those that were found on nodes."""
        names = self.store.list(prefix)
        return sorted({*names, *self.commits}) if prefix == "versions" else names

    def open(self, key: str) -> Reader:
        """See `Store.open`. A data file is read where it is nearest."""
        match = _OF.fullmatch(key)
        if match is not None and match[2] == "data" and match[3] is not None:
            for kind in self._kinds(match[1], int(match[3])):
                try:
                    reader: Reader = self.places[kind].store.open(key)
                except KeyMissingError:
                    continue
                self._origin[key] = kind
                self.counts[kind] = self.counts.get(kind, 0) + reader.nbytes
                return reader
        reader = self.store.open(key)
        if match is not None:
            self._origin.pop(key, None)
            self.counts["global"] = self.counts.get("global", 0) + reader.nbytes
        return reader

    def owner_is_me(self, key: str) -> bool:
        """See `Store.owner_is_me`. What came from nodes was found in directories that only this user can write."""
        match = _OF.fullmatch(key)
        if match is not None and match[1] in self.commits:
            if match[2] == "data" and match[3] is not None:
                for kind in self._kinds(match[1], int(match[3])):
                    return self.places[kind].store.owner_is_me(key)
            elif not self.store.exists(key):
                return True
        return self.store.owner_is_me(key)

    def find_part(self, commit: Commit, rank: int) -> Part | None:
        """A rank's index from a place of this node; None if none has it whole."""
        for kind in self._kinds(commit.name, rank):
            held = self.held(kind, commit.name, rank)
            key = Place.part_key(commit.name, rank)
            if held is None or held.ranks != commit.ranks or held.attempt != commit.attempt:
                continue
            try:
                part = Part.decode(self.places[kind].read_part(held), rank, key)
            except (DamageError, StorageError):
                self.bad.add((kind, commit.name, rank))
                continue
            return part
        return None

    # -- writing goes to the run's store -----------------------------------------------------------

    def put(self, key: str, data: bytes | bytearray | memoryview) -> None:
        self.store.put(key, data)

    def create(self, key: str, nbytes: int | None) -> StoreWriter:
        return self.store.create(key, nbytes)


def as_store(view: View) -> Store:
    """The view as what it stands for."""
    return cast("Store", view)
