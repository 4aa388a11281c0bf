"""What is stored, for the program to look at: the versions, and objects of theirs without protecting them. All local."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..catalog import Commit, Snapshot, Version, list_versions
from ..engine import PartReader, open_part
from ..errors import DamageError, UsageError
from ..format import version_name
from ..format.keys import Kind
from ..group import Group
from ..store import KeyMissingError, Store
from . import objects, shards

if TYPE_CHECKING:
    from .execution import Execution

log = logging.getLogger("holdfast")


def list_stored(x: Execution) -> list[Version]:
    """See `Run.versions`."""
    flying = x.writer.flying  # before looking: one that becomes durable meanwhile is shown as that
    found = list_versions(Snapshot(x.reading))
    if flying is None:
        return found
    status = "written" if flying.written else "captured"
    name = version_name(flying.version, x.writer.attempt)
    if not any(v.name == name for v in found):
        return [Version(name, flying.version, x.writer.attempt, "checkpoint", status), *found]
    return [replace(v, status=status, problem=None) if v.name == name and v.status == "fragment" else v for v in found]


def load(x: Execution, name: str, version: int | None, rank: int | None) -> Any:
    """See `Run.load`."""
    try:
        return load_object(x.reading, x.group, x.options.threads, name, version, rank)
    except DamageError:
        if version is not None or x.writer.flying is None:
            raise
        x.arrive()  # a version that has landed meanwhile may have made the one that was read superfluous
        x.writer.tidying.finish()
        return load_object(x.reading, x.group, x.options.threads, name, version, rank)


def load_object(
    store: Store, group: Group, threads: int, name: str, version: int | None, rank: int | None
) -> Any:
    """What `Run.load` says (local)."""
    snapshot = Snapshot(store)
    damaged: list[str] = []
    for commit in _commits(snapshot, version, damaged):
        try:
            found = _load(store, group, threads, commit, name, rank)
        except DamageError as error:
            if version is not None:
                raise
            damaged.append(error.message)
            continue
        if found is not None:
            for text in damaged:
                log.warning("%r is read from version %d; a newer one was passed over: %s", name, commit.version, text)
            return found[0]
    where = f"version {version}" if version is not None else "any version that counts"
    if damaged:
        raise DamageError(f"{name!r} can't be read: " + "; ".join(damaged), object=name, version=version)
    if version is not None and not any(n.number == version for names in snapshot.names.values() for n in names):
        raise UsageError(f"There is no version {version!r}: a number is needed that `holdfast ls` lists.", version=None)
    raise UsageError(f"There is no object {name!r} in {where}. `holdfast show` lists what there is.", object=name)


def _commits(snapshot: Snapshot, version: int | None, damaged: list[str]) -> list[Commit]:
    """Where to look, in order: the lineage from the newest, then records from the newest; or what has the number."""
    names: list[tuple[Kind, str]] = []
    if version is None:
        names = [("checkpoint", entry.name) for entry in snapshot.lineage]
        names += [("record", n.name) for n in snapshot.records]
    else:
        counting = {entry.name for entry in snapshot.lineage} | {n.name for n in snapshot.records}
        kinds: tuple[Kind, ...] = ("checkpoint", "record")
        names = [(kind, n.name) for kind in kinds for n in snapshot.names[kind] if n.number == version]
        names.sort(key=lambda kn: kn[1] not in counting)
    links = {e.name: getattr(e, "digest", None) for e in snapshot.lineage}
    found = []
    for kind, name in names:
        try:
            commit, digest = snapshot.commit(kind, name)
            if version is None and links.get(name) not in (None, digest):
                raise DamageError(f"versions/{name}/commit is not the record that was sealed", file=name)
            found.append(commit)
        except KeyMissingError:
            continue
        except DamageError as error:
            damaged.append(error.message)
    return found


def _load(
    store: Store, group: Group, threads: int, commit: Commit, name: str, rank: int | None
) -> tuple[Any] | None:
    """(value,), or None if the version has no such object."""
    if rank is not None and not 0 <= rank < commit.ranks:
        raise UsageError(f"Version {commit.version} was written by {commit.ranks} ranks; there is no rank {rank}.")
    if rank is None and commit.ranks != group.size:
        return _load_global(store, threads, commit, name)
    with open_part(store, commit, group.rank if rank is None else rank, threads) as reader:
        return (objects.load(reader, name),) if name in reader.objects else None


def _load_global(store: Store, threads: int, commit: Commit, name: str) -> tuple[Any] | None:
    holders = []
    for rank in range(commit.ranks):
        with open_part(store, commit, rank, threads) as reader:
            if name in reader.objects:
                if reader.objects[name].replicated:
                    return (objects.load(reader, name),)
                holders.append((rank, _is_shard(reader, name)))
    if not holders:
        return None
    if not all(shard for _, shard in holders):
        ranks = ", ".join(str(rank) for rank, _ in holders[:20])
        raise UsageError(
            f"{name!r} in version {commit.version} is each rank's own (ranks {ranks}): say whose with rank=.", object=name
        )
    return (shards.assemble(store, commit, threads, name),)


def _is_shard(reader: PartReader, name: str) -> bool:
    return reader.objects[name].shard is not None
