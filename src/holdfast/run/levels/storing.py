"""Versions copied from nodes' places to the run's own store by processes that may keep several ranks' files each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import msgpack

from ...catalog import Commit, check_fence, check_refs
from ...catalog.incoming import has_arrived, new_incoming
from ...errors import DamageError, StorageError
from ...format import Link, Part, digest_hex
from ...format.index import Group as Line
from ...format.index import encode_group, encode_root
from ...format.keys import COMMIT_NAME, GROUP_RANKS, ROOT_NAME, group_name
from ...group import Group, from_root, together
from ...store import KeyMissingError, Store
from .aside import Aside
from .copying import copy_data
from .outlook import Outlook

_SLICE = 0.5  # seconds of copying between two words to the others: how long it takes is nobody's deadline


class Storing:
    """For one process of a salvage with the number `attempt`. `progress(done, total)`: bytes, on process 0; `failed`: the
    damage that this process itself has met."""

    def __init__(
        self,
        group: Group,
        outlook: Outlook,
        store: Store,
        attempt: int,
        progress: Callable[[int, int], None],
        total: int,
    ) -> None:
        self._group, self._outlook, self._store, self._attempt = group, outlook, store, attempt
        self._progress, self._total, self._before = progress, total, 0
        self.failed: DamageError | None = None

    def copy(self, commit: Commit, link: Link, homes: Sequence[int]) -> None:
        """Copy a version whole, its commit byte for byte, and give it its name (collective). `homes`: for each rank the
        process on whose node its stream lies. DamageError, StorageError, FencedError on all processes alike."""
        group = self._group

        def look() -> str:
            """Where to copy to; "": it is there."""
            check_fence(self._store, self._attempt)
            return "" if has_arrived(self._store, link) else new_incoming(self._attempt)

        incoming = from_root(group, f"looking for version {commit.version}", look)
        if incoming:
            aside = Aside(self._store, commit, str(incoming))
            try:
                self._copy(commit, link, homes, aside)
            except BaseException as error:
                if group.rank == 0:
                    aside.drop()
                    if not isinstance(error, DamageError):  # with which all processes look for another source
                        with suppress(StorageError):
                            # A later attempt moves away what is aside: then that is the cause.
                            check_fence(self._store, self._attempt)
                raise
        self._before += commit.nbytes

    def _copy(self, commit: Commit, link: Link, homes: Sequence[int], aside: Aside) -> None:
        group, to = self._group, aside.store
        home = [homes[rank * len(homes) // commit.ranks] for rank in range(commit.ranks)]
        mine = [rank for rank in range(commit.ranks) if home[rank] == group.rank]
        self._copy_data(commit, mine, to)
        lines: list[Line] = []
        for first in range(0, commit.ranks, GROUP_RANKS):
            self._put_group(commit, first, mine, lines, to)
        from_root(group, f"commit of version {commit.version}", lambda: self._commit(commit, link, lines, to))
        from_root(group, f"naming version {commit.version}", lambda: aside.arrive(link, self._attempt))

    def _copy_data(self, commit: Commit, mine: Sequence[int], to: Store) -> None:
        steps = self._steps(commit, mine, to)
        done, over = 0, False
        while True:
            error: Exception | None = None
            try:
                until = time.monotonic() + _SLICE
                while not over and time.monotonic() < until:
                    step = next(steps, None)
                    done, over = (done, True) if step is None else (step, False)
            except Exception as failed:
                error = failed
                self.failed = failed if isinstance(failed, DamageError) else None
            told: list[Any] = together(self._group, f"copying version {commit.version}", [done, over], error)
            if self._group.rank == 0:
                self._progress(self._before + sum(int(one[0]) for one in told), self._total)
            if all(one[1] for one in told):
                return

    def _steps(self, commit: Commit, ranks: Sequence[int], to: Store) -> Iterator[int]:
        """Copy these ranks' data; after each step the bytes so far. SourceError."""
        before = 0
        for rank in ranks:
            place, held = self._outlook.held(commit.name, rank)
            try:
                part = Part.decode(place.read_part(held), rank, place.part_key(commit.name, rank))
                for done in copy_data(place, commit, part, to):
                    yield before + done
            except (DamageError, KeyMissingError) as error:
                raise _bad(commit, rank, place.kind, self._outlook.node, error) from error
            before += part.nbytes

    def _put_group(self, commit: Commit, first: int, mine: Sequence[int], lines: list[Line], to: Store) -> None:
        what = f"indexes of version {commit.version}"
        last = min(first + GROUP_RANKS, commit.ranks)
        error: Exception | None = None
        parts: list[Any] = []
        try:
            for rank in mine:
                if first <= rank < last:
                    place, held = self._outlook.held(commit.name, rank)
                    parts.append([rank, place.read_part(held)])
        except Exception as failed:
            error = failed
        together(self._group, f"parts of the {what}", error=error)
        packed = self._group.gather(msgpack.packb(parts), range(self._group.size), what)

        def put() -> None:
            found = dict(sorted((rank, part) for body in map(msgpack.unpackb, packed or ()) for rank, part in body))
            data, line = encode_group(first, list(found.values()))
            to.put(f"{commit.path}/{group_name(first // GROUP_RANKS)}", data)
            lines.append(line)

        from_root(self._group, f"putting the {what}", put)

    def _commit(self, commit: Commit, link: Link, lines: Sequence[Line], to: Store) -> None:
        """On process 0: the root, and the commit as it lies on the nodes."""
        root = encode_root(lines)
        if digest_hex(root) != commit.index_digest:
            raise DamageError(
                f"What nodes hold as version {commit.version} is not what was committed: its indexes are other ones. It was "
                "not brought to the run's own store.",
                version=commit.version,
            )
        to.put(f"{commit.path}/{ROOT_NAME}", root)
        check_refs(self._store, commit.refs)
        record = self._outlook.view.commits[link.name]  # its digest was compared when it was chosen
        to.put(f"{commit.path}/{COMMIT_NAME}", record)


def _bad(commit: Commit, rank: int, place: str, node: str, error: DamageError | KeyMissingError) -> DamageError:
    from ...recovery import BadSource, SourceError

    source = BadSource(commit.name, rank, place, node, False)
    return SourceError(error.message, source=source, file=error.file, rank=rank, version=commit.version)
