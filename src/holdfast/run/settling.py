"""Settling: what an execution goes on from, agreed by all ranks, restored exactly, and sealed as its base (all collective)."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..catalog import Base, Snapshot, put_base
from ..catalog.retention import has_spare, since_full
from ..engine import Item
from ..errors import HoldfastError, StorageError, UsageError
from ..format.keys import COMMIT_NAME
from ..group import at_root, together
from ..units import bytes_text
from . import beginnings
from .chain import Chain
from .reporting import report_settled
from .resume import Restored

if TYPE_CHECKING:
    from .execution import Execution

log = logging.getLogger("holdfast")


def settle(x: Execution) -> None:
    """Agree on the version to go on from, restore exactly its state, and seal it as this attempt's base."""
    held, standing, changed = _agree_on_protected(x)
    reader = x.resume.settle(x.objects, x.dropped, held, standing)
    commit = x.resume.commit
    if commit is None:
        beginnings.check(changed)
    sizes, counts = _settle_files(x)
    if commit is not None and reader is not None:
        recut = commit.ranks != x.group.size
        sources: tuple[str, ...] = ()
        read: tuple[tuple[str, int], ...] = ()
        if x.levels is not None:
            sources, read = x.levels.account(commit, counts)
        stored = x.levels is None or x.store.exists(f"{commit.path}/{COMMIT_NAME}")
        source = f"{x.url}/{commit.path}" if stored else "the places of nodes"
        x.restored = Restored(commit.version, commit.step, source, x.resume.skipped, sources, read)
        x.step = commit.step
        x.loops.resume(commit.loops, commit.complete)
        x.writer.carry = None if recut else reader
        x.writer.parent = x.resume.link
    if not x.readonly:
        no_room = x.levels.no_room(sizes) if x.levels is not None else ""
        behind, written, spared, lineage, reasons = at_root(x.group, "sealing the base", no_room, lambda all_: _seal(x, all_))
        x.writer.chain = Chain(behind, written, commit.state if commit is not None else 0, spared)
        if x.levels is not None:
            x.levels.settle(lineage, x.writer.attempt, reasons)
        if commit is not None:
            x.costs.recall(commit.seconds)
    x.settled = True
    if not x.readonly:
        if x.group.rank == 0:
            report_settled(x.url, x.writer.attempt, commit, x.restored.read if x.restored is not None else ())
        with suppress(Exception):  # what can't be captured is told by the checkpoint, to all ranks
            x.writer.prepare([entry.item() for entry in x.objects if entry.bulky])
    if x.group.rank == 0 and x.restored is not None:
        for name, why in x.restored.skipped:
            log.warning("version %s was passed over: %s", name, why)
        log.info("resumes from version %d (step %s)", x.restored.version, x.restored.step)
        for rank, source in enumerate(x.restored.sources):
            log.info("rank %d: from %s", rank, source)
        if x.restored.read:
            told = ", ".join(f"{bytes_text(n)} from {where}" for where, n in x.restored.read)
            log.info("all ranks together read %s", told)


def _items(x: Execution) -> list[Item]:
    """The protected objects as they would be written now; none if that can't be said, which the checkpoint will tell."""
    try:
        return [entry.item() for entry in x.objects]
    except Exception:
        return []


def _agree_on_protected(x: Execution) -> tuple[list[Any], list[Any], list[Any]]:
    """The shards that all ranks have protected; of each where it stands in the candidates, and which of its objects an
    execution before has changed. UsageError unless all have protected the same objects as replicated."""
    mine = sorted(entry.name for entry in x.objects if entry.replicated)
    shards = [[e.name, e.shard.global_shape, e.shard.offset, e.obj.shape, str(e.obj.dtype)] for e in x.objects if e.shard]
    changed = []
    if x.beginnings is not None and x.resume.commit is None:
        changed = [entry.name for entry in x.objects if x.beginnings.changed(entry)]
    exchanged: Any = together(x.group, "settling what is protected", [mine, shards, x.resume.standing, changed])
    told, held = [names for names, _, _, _ in exchanged], [shard for _, its, _, _ in exchanged for shard in its]
    standing, everyones = [its for _, _, its, _ in exchanged], [names for _, _, _, names in exchanged]
    if x.group.size == 1:
        return held, standing, everyones
    for rank, names in enumerate(told):
        for name in sorted(set(names) ^ set(told[0])):
            having, lacking = (rank, 0) if name in names else (0, rank)
            raise UsageError(
                f"{name!r} is protected as replicated by some ranks and not by others: rank {having} has done so, rank "
                f"{lacking} has not. Nothing was changed. Protect it on all ranks alike, before the loop.",
                object=name,
                rank=lacking,
            )
    x.writer.replicated = bool(mine)
    if mine and x.options.levels is not None and x.group.rank == 0 and not x.readonly:
        log.warning(
            "the program has replicated objects, such as %r: each version goes to the run's own store, whatever the levels "
            "say. On nodes, every rank would have to keep all of them.",
            mine[0],
        )
    return held, standing, everyones


def _settle_files(x: Execution) -> tuple[list[int], list[Any]]:
    """Cut output files back to the version; what goes wrong on one rank, all hear of. Returns what each rank has told besides:
    the bytes of its state, and how many it has read, by where they are."""
    error: Exception | None = None
    nbytes, counts = 0, {}
    try:
        found = x.resume.files()
        x.foreign = found if x.resume.recut else ()
        x.files.settle(found)
        if x.levels is not None:
            nbytes, counts = sum(b.nbytes for item in _items(x) for b in item.buffers), dict(x.levels.view.counts)
    except OSError as failed:
        error = StorageError(f"An output file could not be cut back: {failed}.", file=failed.filename)
    except HoldfastError as failed:
        error = failed
    told: Any = together(x.group, "cutting output files back", [nbytes, counts], error)
    return [int(n) for n, _ in told], [each for _, each in told]


def _seal(x: Execution, no_room: list[str]) -> list[Any]:
    """On rank 0; `behind`, `written` and `spared` of the writer's chain, the names of the lineage, and why there is no room in
    memory for what comes, as all ranks say."""
    reasons = [line for line in no_room if line]
    link = x.writer.parent
    chain = tuple(x.resume.behind) if link else ()
    behind = (link, *chain) if link else ()
    reading = x.writer.reading or x.store
    snapshot = Snapshot(reading)
    records = snapshot.counting_records(behind)
    put_base(x.store, x.writer.attempt, Base(link, chain, records, x.params, x.group.size))
    names = [other.name for other in behind]
    stored = names if reading is x.store else [n for n in names if x.store.exists(f"versions/{n}/{COMMIT_NAME}")]
    x.writer.tidying.lineage = stored
    x.writer.tidying.clean(x.writer.attempt, x.writer.number, x.levels.pinned if x.levels is not None else ())
    commit = x.resume.commit
    if commit is None:
        return [0, 0, x.options.keep.last == 1, names, reasons]
    spared = x.options.keep.last == 1 or has_spare(reading, names)
    if snapshot.names["checkpoint"][0].number > commit.version:
        # Going back behind versions that there were: who made them may still be deleting what those did not need. The first
        # version from here on is to need nothing of it.
        return [x.options.max_chain, 0, spared, names, reasons]
    return [*since_full(reading, commit, x.options.max_chain), spared, names, reasons]
