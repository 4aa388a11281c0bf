"""Where a version's files are written on their way to the run's own store: aside, under a name that only this try has."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, cast

from ...catalog import Commit
from ...catalog.incoming import arrive
from ...errors import HoldfastError
from ...format import Link
from ...store import Store
from ...store.base import Writer


class Aside:
    """For one rank. `incoming`: the place aside, the same on all ranks. What is put or created below the version's own keys
    goes there; everything else is as in `store`."""

    def __init__(self, store: Store, commit: Commit, incoming: str) -> None:
        self._store, self._commit, self._incoming = store, commit, incoming

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def _aside(self, key: str) -> str:
        own = f"{self._commit.path}/"
        return f"{self._incoming}/{self._commit.name}/{key.removeprefix(own)}" if key.startswith(own) else key

    def put(self, key: str, data: bytes | bytearray | memoryview) -> None:
        self._store.put(self._aside(key), data)

    def create(self, key: str, nbytes: int | None) -> Writer:
        return self._store.create(self._aside(key), nbytes)

    @property
    def store(self) -> Store:
        """This, as what it stands for."""
        return cast("Store", self)

    def arrive(self, link: Link, attempt: int) -> None:
        """Give the version its name (on process 0). See `catalog.incoming.arrive`."""
        arrive(self._store, link, self._incoming, attempt)

    def drop(self) -> bool:
        """Remove what there is of it (on process 0), whoever may still be writing; False if that failed."""
        with suppress(HoldfastError):
            self._store.delete_tree(self._incoming)
            return True
        return False
