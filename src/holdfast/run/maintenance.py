"""Looking after a run from outside: verify, show, roll back, prune. All local; the last two take an attempt."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from .. import state
from ..catalog import (
    Base,
    Commit,
    End,
    Snapshot,
    Version,
    check_records,
    check_refs,
    find_holder,
    known_places,
    list_versions,
    put_base,
    put_end,
)
from ..catalog.incoming import find_incoming, remove_incoming
from ..catalog.retention import plan, remove
from ..config import Options, load
from ..engine import open_part
from ..engine.verify import Damage, Verifier
from ..errors import DamageError, UsageError
from ..format import Link, Part, StoredObject, parse_version, visible
from ..format.keys import COMMIT_NAME, Kind, folder
from ..group import SerialGroup
from ..policy import Keep
from ..store import KeyMissingError, Store, open_store
from .fencing import fence
from .rollback import candidates, find

Url = str | os.PathLike[str]


@dataclass(frozen=True)
class Removed:
    """What pruning removed: a version's name, its status, its size in bytes."""

    name: str
    status: str
    bytes: int


def verify(url: Url, version: int | None = None, progress: Callable[[int, int], None] | None = None) -> list[Damage]:
    """Read every byte of a run, or of one version, and list all damage, empty if it is whole.

    What versions share is read once; damage in it is listed for each version that is not whole for it. Of one version the
    blocks are read that it has in files of others, too. `progress(done, total)` is called with bytes as they are read. Never
    writes.
    """
    store = open_store(url, create=False, read_only=True)
    snapshot = Snapshot(store)
    damages: list[Damage] = []
    commits: list[Commit] = []
    for v in _chosen(snapshot, version):
        if v.status == "damaged":
            damages.append(Damage(f"{folder(v.kind)}/{v.name}/{COMMIT_NAME}", 0, None, None, v.number, v.problem or ""))
        elif v.status not in ("fragment", "nodes"):
            commit = snapshot.commit(v.kind, v.name)[0]
            if v.status == "current" or version is not None or _refs_there(store, commit):
                commits.append(commit)
    total, done = sum(c.nbytes if version is None else max(c.nbytes, c.state) for c in commits), 0

    def read(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if progress is not None:
            progress(min(done, total), total)

    verifier = Verifier(store, Options().threads)
    for commit in commits:
        found = list(verifier.version(commit, read))
        # A program that writes deletes old versions meanwhile: commit first.
        if found and store.exists(f"{commit.path}/{COMMIT_NAME}"):
            damages += found
    chosen = {f"{commit.path}/{COMMIT_NAME}" for commit in commits}
    for problem in check_records(store, snapshot):
        if version is None or problem.file in chosen:
            damages.append(Damage(problem.file, None, None, None, None, problem.message))
    if progress is not None:
        progress(total, total)
    return damages


def _refs_there(store: Store, commit: Commit) -> bool:
    """Whether what the version refers to is there. Of an abandoned one it need not be: retention does not ask for it."""
    try:
        check_refs(store, commit.refs)
    except DamageError:
        return False
    return True


def _chosen(snapshot: Snapshot, version: int | None) -> list[Version]:
    found = [v for v in list_versions(snapshot) if version in (None, v.number)]
    if version is not None and not found:
        raise UsageError(f"There is no version {version}.", version=version)
    return found


def show(url: Url, version: int | None = None) -> dict[str, Any]:
    """What a version holds, as plain values: its commit, and for each rank its objects and output files; for each object
    also in which versions' files its bytes are (`places`, the most first).

    `version` None: the newest that counts. Raises UsageError if there is none, DamageError if its index is not whole.
    """
    store = open_store(url, create=False, read_only=True)
    snapshot = Snapshot(store)
    usable = [v for v in _chosen(snapshot, version) if v.status in ("current", "abandoned")]
    if version is None:
        usable = [v for v in usable if v.status == "current" and v.kind == "checkpoint"]
    if not usable:
        raise UsageError("There is no whole version to show." if version is None else f"Version {version} is not whole.")
    commit = snapshot.commit(usable[0].kind, usable[0].name)[0]
    ranks = []
    for rank in range(commit.ranks):
        with open_part(store, commit, rank, Options().threads) as reader:
            found = [
                {
                    "name": o.name,
                    **state.describe(reader.tree(o)),
                    "kind": o.kind,
                    "bytes": o.nbytes or len(o.tree or b""),
                    "late": o.late,
                    "places": _places(reader.part, o, commit.version),
                    "replicated": o.replicated,
                    "shard": None if o.shard is None else {"global_shape": o.shard[0], "offset": o.shard[1]},
                }
                for o in reader.part.objects
            ]
            files = [{"path": f.path, "bytes": f.nbytes} for f in reader.part.files]
            ranks.append({"rank": rank, "bytes": reader.part.nbytes, "objects": found, "files": files})
    loops = {name: loop._asdict() for name, loop in commit.loops.items()}
    return {**asdict(usable[0]), "loops": loops, "contents": ranks}


def _places(part: Part, stored: StoredObject, version: int) -> list[dict[str, int]]:
    """[{version, rank, bytes}]: in whose data files the bytes of an object are that a read gives, the most first."""
    found: dict[int, int] = {}
    for buffer in stored.buffers:
        seen = visible(buffer)
        for i, nbytes in zip(seen.extent.tolist(), seen.nbytes.tolist(), strict=True):
            source = buffer.extents[i].source
            found[source] = found.get(source, 0) + nbytes
    places = []
    for source, nbytes in sorted(found.items(), key=lambda item: -item[1]):
        name = part.sources[source - 1] if source else None
        number = (parse_version(name.version) or (version,))[0] if name else version
        places.append({"version": number, "rank": name.rank if name else part.rank, "bytes": nbytes})
    return places


def rollback(url: Url, version: int, takeover: bool = False) -> None:
    """Make checkpoint `version` the one to resume from. Later ones stay, abandoned, until pruned; numbers never come
    back. RunInUseError if a holder lives and `takeover` is false; UsageError if there is no such checkpoint."""
    candidates(Snapshot(open_store(url, create=False, read_only=True)), version)  # before anyone is fenced off for it
    with _attempt(url, "rollback", takeover) as (store, number):
        snapshot = Snapshot(store)
        chain = [Link(name, digest) for name, digest in candidates(snapshot, version)]
        params = snapshot.sealed.base.params if snapshot.sealed and snapshot.sealed.base else None
        ranks = find(snapshot, version).ranks
        records = snapshot.counting_records(chain)
        put_base(store, number, Base(chain[0], tuple(chain[1:]), records, params, ranks))


def prune(
    url: Url,
    keep: Keep | None = None,
    takeover: bool = False,
    damaged: bool = False,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Removed]:
    """Delete abandoned versions, fragments, what was being copied from nodes, and what is beyond `keep` (default: the
    option's); damaged ones only if `damaged`, for which abandoned ones are read and verified first. `dry_run` only tells.
    `progress(done, total)` counts versions. RunInUseError as in `rollback`."""
    keep = keep or load({}).keep
    if dry_run:
        look = open_store(url, create=False, read_only=True)
        return _surplus(look, Snapshot(look), keep, damaged)
    with _attempt(url, "prune", takeover) as (store, number):
        snapshot = Snapshot(store)
        removed = _surplus(store, snapshot, keep, damaged)
        _seal_tip(store, snapshot, number)
        for i, gone in enumerate(removed):
            kinds: tuple[Kind, ...] = ("checkpoint", "record")
            for kind in kinds:
                if any(n.name == gone.name for n in snapshot.names[kind]):
                    remove(store, kind, gone.name)
            if progress is not None:
                progress(i + 1, len(removed))
        remove_incoming(store, number)
        for prefix in ("", "attempts", "files", *_folders(snapshot)):
            store.remove_leftovers(prefix)
    return removed


def _folders(snapshot: Snapshot) -> Iterator[str]:
    for kind, names in snapshot.names.items():
        for n in names:
            yield f"{folder(kind)}/{n.name}"
            yield f"{folder(kind)}/{n.name}/index"


def _surplus(store: Store, snapshot: Snapshot, keep: Keep, damaged: bool) -> list[Removed]:
    versions = list_versions(snapshot)
    current = [v for v in versions if v.status == "current"]
    old, needed = _beyond(snapshot, versions, keep, damaged)
    if keep.records is not None:
        seen: dict[str | None, int] = {}
        for v in (v for v in current if v.kind == "record"):
            seen[v.label] = seen.get(v.label, 0) + 1
            if seen[v.label] > keep.records:
                old.add(v.name)
    removed = []
    # From the oldest, as retention does: a kill half-way leaves no hole in the lineage.
    for v in reversed(versions):
        status = "surplus" if v.name in old else v.status
        if status == "abandoned" and not _whole(store, snapshot.commit(v.kind, v.name)[0]):
            status = "damaged"
        unwanted = status in ("surplus", "abandoned", "fragment") or (damaged and status == "damaged")
        if unwanted and not (v.kind == "checkpoint" and v.name in needed):
            removed.append(Removed(v.name, status, _size(store, f"{folder(v.kind)}/{v.name}")))
    # What was being copied from nodes when its process ended.
    left = find_incoming(store, snapshot.newest_attempt + 1)
    return removed + [Removed(path, "fragment", _size(store, path)) for path in left]


def _size(store: Store, path: str) -> int:
    return sum(n for _, n in store.tree(path))


def _beyond(
    snapshot: Snapshot, versions: list[Version], keep: Keep, damaged: bool
) -> tuple[set[str], set[str]]:
    """(checkpoints of the lineage that retention would not keep, names that those refer to that it keeps).

    The latter are never deleted, whatever has become of them. A damaged version may refer to anything behind it, unless it is
    to go too.
    """
    status = {v.name: v.status for v in versions if v.kind == "checkpoint"}
    kinds = ("current",) if damaged else ("current", "damaged")
    names = [entry.name for entry in snapshot.lineage if status.get(entry.name) in kinds]
    refs = [
        frozenset(link.name for link in snapshot.commit("checkpoint", name)[0].refs) if status[name] == "current" else None
        for name in names
    ]
    kept = plan(refs, names, keep.last)
    first = max([keep.last, *(i + 1 for i in kept)])
    needed = {name for some in refs[:first] for name in some or ()}
    return {name for name in names[first:] if status[name] == "current"}, needed


def _whole(store: Store, commit: Commit) -> bool:
    """Whether an abandoned version is just that, and not one that a resume passed over because it is damaged: every byte
    that was written for it is read. What it has in other versions' files is told of those."""
    verifier = Verifier(store, Options().threads, own=True)
    return next(verifier.version(commit, lambda nbytes: None), None) is None


def _seal_tip(store: Store, snapshot: Snapshot, number: int) -> None:
    """Seal the newest version as it is: pruning changes nothing in what a resume finds.

    Where nodes may hold newer versions than can be seen from here nothing is sealed: these would count no more. A holder that
    was stopped may then still commit one; what that refers to is kept."""
    links = []
    for entry in snapshot.lineage:
        try:
            links.append(snapshot.counting(entry)[1])
        except KeyMissingError:
            continue
        except DamageError:
            if isinstance(entry, Link):
                links.append(entry)
    sealed = snapshot.sealed
    base = sealed.base if sealed else None
    away = any(snapshot.on_nodes(entry.name) for entry in snapshot.missing)
    if snapshot.lost_base or (not links and not away and base is not None and base.version is not None):
        raise DamageError(
            "What the run goes on from can't be read. Nothing was deleted. Choose a version with `holdfast rollback`."
        )
    if away or (sealed is not None and sealed.places and (sealed.end is None or sealed.end.outcome != "complete")):
        return
    ranks = base.ranks if base else 1
    params = base.params if base else None
    put_base(
        store, number, Base(links[0] if links else None, tuple(links[1:]), snapshot.counting_records(links), params, ranks)
    )


@contextmanager
def _attempt(url: Url, kind: str, takeover: bool) -> Iterator[tuple[Store, int]]:
    """A short attempt of one process: fenced, ended."""
    store = open_store(url, create=False)
    options = load({})
    snapshot = Snapshot(store)
    if not snapshot.attempts:
        raise UsageError(f"There is no run at {os.fspath(url)!r}.", file=os.fspath(url))
    holder = find_holder(store, options.lease)
    if holder is not None and not takeover:
        raise holder.error(os.fspath(url))
    first = snapshot.next_number() + (1 if holder else 0)
    number = fence(store, SerialGroup(), first, kind, places=known_places(store))  # those that come after look there too
    outcome = "failed"
    try:
        yield store, number
        outcome = "closed"
    finally:
        put_end(store, number, End(outcome, time.time()))
