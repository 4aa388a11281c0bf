"""Model of the run's own store: fences, bases, commits, lineage, retention, by processes of which any may be a zombie.

A *writer* stands for all ranks of one start of the program: the order among its ranks matters in the data alone. A kill needs
no step of its own: it is a writer that makes none any more, and the next one may start at any moment, whatever the others do,
so that each is a zombie that stopped anywhere and comes back at the worst moment. A power loss does need one, since it takes
what was not fsynced. Each step is one access to the store:

    list, fence   catalog/attempts.put_fence        data          engine/write, one rank after the other
    look          run/opening._look, after fence    root, look    engine/publish._root: check_refs, check_fence
    settle        run/resume.Resume.settle          commit, sync  store.put: link, then fsync of the directory
    seal          catalog/attempts.put_base         look after    engine/publish._root: the second check_fence
    clean         catalog/retention.remove_unfinished    retain   run/tidying: find_surplus, remove_all

A state is (records, versions, writers, told, power):
records   for each attempt number from 1: () fenced, or (base,) sealed; None if nobody has it
versions  (id, parent, refers to parent, data, root, commit); ids are (number, attempt, writer)
writers   (what is next, attempt, parent, versions left, more, lineage known)
told      id of the newest version reported durable; whether two reports contradict each other
power     power losses that may come yet
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from .explorer import State, Step, replace

NOTHING, FIRST, WRITTEN, DURABLE, GONE = 0, 1, 2, 3, -1  # of data: of one rank, of all, fsynced, deleted
NO, SEEN, SYNCED = 0, 1, 2  # of a commit: none, visible, durable

OUT = ("out", 0, None, 0, (), ())
IDLE = ("idle", 0, None, 0, (), ())


@dataclass(frozen=True)
class Rules:
    """The protocol; each field that differs from its default is a mutation of it."""

    data_first: bool = True  # the commit is put when all ranks' data are durable
    data_synced: bool = True
    commit_synced: bool = True
    look_before: bool = True
    look_after: bool = True
    absent: bool = True  # put-if-absent; else what is there is overwritten
    look_again: bool = True  # what there is is looked at after the fence
    base_synced: bool = True  # what the base names is fsynced before it is named
    sealed: bool = True  # nothing is written before the base is sealed
    newest: str = "sealed"  # the attempt whose versions count; or "fenced"
    lineage: bool = True  # newest means lineage; else the largest number
    commit_goes_first: bool = True  # of a version that is deleted
    keeps_refs: bool = True  # retention keeps what those kept refer to
    retain_when_told: bool = True  # retention follows the look after the commit
    whole_after_rollback: bool = True
    cleans_rooted: bool = False  # fragments with a root index are left alone
    failed_removed: bool = False  # a version whose commit may be there is not removed by the writer that failed to put it


class Size(NamedTuple):
    """Versions that each writer may make; the first holds the run already."""

    versions: tuple[int, ...]
    power: int = 0
    rollback: bool = False
    retain: bool = True
    put_fails: bool = False  # a commit's fsync may report an error


class Version(NamedTuple):
    id: tuple[int, int, int]
    parent: Any
    refers: bool
    data: int
    root: bool
    commit: int


class StoreModel:
    """See the module. `ends`: nobody has anything left to do."""

    def __init__(self, size: Size, rules: Rules | None = None) -> None:
        self.size, self.rules = size, rules or Rules()
        self.name = f"store, {len(size.versions)} writers"
        self.properties: dict[str, Callable[[State], bool]] = {
            "a commit proves all data": self._whole,
            "nothing reported is lost": self._durable,
            "what a seal leaves behind stays behind": self._one_lineage,
            "reports do not contradict": lambda state: not state[3][1],
        }

    def initial(self) -> Iterator[State]:
        first = (1, 1, 0)
        versions = (Version(first, None, False, DURABLE, True, SYNCED),)
        writers: tuple[Any, ...] = (("begin", 1, first, self.size.versions[0], (), (first,)),)
        writers += (IDLE,) * (len(self.size.versions) - 1)
        yield ((((None,),), versions, writers, (first, False), self.size.power))

    def ends(self, state: State) -> bool:
        # A kill is a writer without further steps: every state is an end.
        return True

    # -- what the records say, as the code reads it ----------------------------------------------

    def lineage(self, records: Any, versions: Any) -> list[Any]:
        """Ids of the versions that count, newest first (catalog/lineage.Snapshot)."""
        present = {v.id: v for v in versions if v.commit}
        if not self.rules.lineage:
            return sorted(present, reverse=True)
        counts = [n for n, record in enumerate(records, 1) if record or (self.rules.newest == "fenced" and record == ())]
        newest = max(counts, default=0)
        if not newest:
            return []
        own = sorted((i for i in present if i[1] == newest), reverse=True)
        base = records[newest - 1]
        behind = _behind(versions, base[0]) if base else []
        return own + [i for i in behind if i in present]

    def recoverable(self, records: Any, versions: Any, entries: Any = None) -> Any:
        """The newest version that counts and is whole, with what it refers to; None if there is none."""
        known = {v.id: v for v in versions}
        for entry in self.lineage(records, versions) if entries is None else entries:
            if entry in known and _is_whole(known, entry):
                return entry
        return None

    # -- properties -----------------------------------------------------------------------------

    def _whole(self, state: State) -> bool:
        return all(v.data == DURABLE for v in state[1] if v.commit)

    def _durable(self, state: State) -> bool:
        records, versions, _, (told, _), _ = state
        return told is None or told in _behind(versions, self.recoverable(records, versions))

    def _one_lineage(self, state: State) -> bool:
        records, versions, _, _, _ = state
        newest = max((n for n, record in enumerate(records, 1) if record), default=0)
        chosen = self.recoverable(records, versions)
        if not newest or chosen is None or chosen[1] == newest:
            return True
        return chosen in _behind(versions, records[newest - 1][0])

    # -- steps ----------------------------------------------------------------------------------

    def steps(self, state: State) -> Iterator[Step]:
        records, versions, writers, told, power = state
        idle = False
        for w, writer in enumerate(writers):
            if writer[0] == "out" or (writer[0] == "idle" and idle):
                continue  # those that have not begun are interchangeable
            idle = idle or writer[0] == "idle"
            for text, new_records, new_versions, new_writer, new_told in getattr(self, f"_{writer[0]}")(
                w, writer, records, versions, told
            ):
                after = replace(writers, w, new_writer)
                yield f"writer {w}: {text}", (new_records, new_versions, after, new_told, power)
        if power and any(v.commit == SEEN or WRITTEN >= v.data > NOTHING for v in versions):
            left = tuple(_after_power_loss(v) for v in versions)
            gone = tuple(writer if writer[0] == "idle" else OUT for writer in writers)
            yield "power loss", (records, left, gone, told, power - 1)

    def _fenced(self, records: Any, attempt: int) -> bool:
        return len(records) > attempt

    def _idle(self, w: int, writer: Any, records: Any, versions: Any, told: Any) -> Iterator[Any]:
        early = () if self.rules.look_again else tuple(self.lineage(records, versions))
        yield "lists the attempts", records, versions, ("fence", len(records) + 1, None, 0, early, ()), told

    def _fence(self, w: int, writer: Any, records: Any, versions: Any, told: Any) -> Iterator[Any]:
        _, n, _, _, early, _ = writer
        following = ("look", n, None, self.size.versions[w], early, ())
        if len(records) < n:
            yield f"puts fence {n}", (*records, ()), versions, following, told
        elif self.rules.absent:
            yield f"finds fence {n} taken", records, versions, IDLE, told
        else:
            yield f"overwrites fence {n}", records, versions, following, told

    def _look(self, w: int, writer: Any, records: Any, versions: Any, told: Any) -> Iterator[Any]:
        _, n, _, left, early, _ = writer
        found = tuple(self.lineage(records, versions)) if self.rules.look_again else early
        yield "looks what there is", records, versions, ("settle", n, None, left, found, ()), told
        if self.size.rollback and len(found) > 1:
            target = (*found[1:], "back")
            yield "looks for the version to go back to", records, versions, ("settle", n, None, left, target, ()), told

    def _settle(self, w: int, writer: Any, records: Any, versions: Any, told: Any) -> Iterator[Any]:
        _, n, _, left, found, _ = writer
        back = found[-1:] == ("back",)
        chosen = self.recoverable(records, versions, found[:-1] if back else found)
        if chosen is None:
            yield "finds no whole version and gives up", records, versions, OUT, told
            return
        chain = tuple(_behind(versions, chosen))
        following = ("seal", n, chosen, left, ("back",) if back else (), chain)
        if not self.rules.sealed:
            following = ("begin", *following[1:])
        yield f"restores {_name(chosen)}", records, versions, following, told

    def _seal(self, w: int, writer: Any, records: Any, versions: Any, told: Any) -> Iterator[Any]:
        _, n, base, left, more, chain = writer
        if self._fenced(records, n):
            yield "finds a later fence", records, versions, OUT, told
            return
        synced = versions
        if self.rules.base_synced:
            synced = tuple(v._replace(commit=SYNCED) if v.commit and v.id in chain else v for v in versions)
        yield f"fsyncs {_name(base)}", records, synced, ("base", n, base, left, more, chain), told

    def _base(self, w: int, writer: Any, records: Any, versions: Any, told: Any) -> Iterator[Any]:
        _, n, base, left, more, chain = writer
        sealed = replace(records, n - 1, (base,))
        # Who goes back gives up what was reported since, and at first has no more than what he goes back to (failure-model.md).
        undone = more == ("back",) and n == len(records)
        yield f"seals {_name(base)}", sealed, versions, ("sealed", *writer[1:]), (None, told[1]) if undone else told

    def _sealed(self, w: int, writer: Any, records: Any, versions: Any, told: Any) -> Iterator[Any]:
        _, n, base, left, more, chain = writer
        if self._fenced(records, n):
            yield "finds a later fence", records, versions, OUT, told
            return
        fragments = [v for v in versions if v.id[1] < n and not v.commit and v.data > NOTHING]
        unfinished = tuple(v.id for v in fragments if not v.root or self.rules.cleans_rooted)
        yield "looks for fragments", records, versions, ("clean", n, base, left, (*more, unfinished), chain), told

    def _clean(self, w: int, writer: Any, records: Any, versions: Any, told: Any) -> Iterator[Any]:
        _, n, base, left, more, chain = writer
        following = ("begin", n, base, left, more[:-1], chain)
        found = more[-1]
        cleaned = tuple(v._replace(data=GONE) if v.id in found and v.data != GONE else v for v in versions)
        yield "cleans up" if found else "has nothing to clean up", records, cleaned, following, told

    def _begin(self, w: int, writer: Any, records: Any, versions: Any, told: Any) -> Iterator[Any]:
        _, n, parent, left, more, chain = writer
        if not left:
            yield "leaves", records, versions, OUT, told
            return
        number = max(v.id[0] for v in versions) + 1 if n > parent[1] else parent[0] + 1
        number = max([number, *(v.id[0] + 1 for v in versions if v.id[1:] == (n, w))])
        name = (number, n, w)
        kept = versions
        if any(v.id[:2] == name[:2] for v in versions):
            if self.rules.absent:
                return  # another has this very name: exclusive creation refuses; nothing can be done
            kept = tuple(v for v in versions if v.id[:2] != name[:2])
        for refers in (False, True):
            if refers and self.rules.whole_after_rollback and more == ("back",):
                continue
            new = Version(name, parent, refers, FIRST, False, NO)
            text = f"writes data of {_name(name)} on one rank" + (f", referring to {_name(parent)}" if refers else "")
            yield text, records, _put(kept, new), ("data", n, parent, left - 1, name, chain), told

    def _data(self, w: int, writer: Any, records: Any, versions: Any, told: Any) -> Iterator[Any]:
        name = writer[4]
        version = _find(versions, name)
        if version is None or version.data == GONE:
            yield "finds its files gone and fails", records, versions, OUT, told
            return
        if version.data == FIRST:
            done = version._replace(data=WRITTEN)
            yield "writes data on the other ranks", records, _put(versions, done), writer, told
            if not self.rules.data_first:
                rooted = version._replace(root=True)
                yield "puts the root", records, _put(versions, rooted), ("refs", *writer[1:]), told
        elif version.data == WRITTEN:
            done = version._replace(data=DURABLE)
            yield "fsyncs the data", records, _put(versions, done), writer, told
            if not self.rules.data_synced:
                rooted = version._replace(root=True)
                yield "puts the root", records, _put(versions, rooted), ("refs", *writer[1:]), told
        else:
            rooted = version._replace(root=True)
            yield "puts the root", records, _put(versions, rooted), ("refs", *writer[1:]), told

    def _refs(self, w: int, writer: Any, records: Any, versions: Any, told: Any) -> Iterator[Any]:
        version = _find(versions, writer[4])
        known = {v.id: v for v in versions}
        if version is None or (version.refers and not (version.parent in known and known[version.parent].commit)):
            yield "finds what it refers to gone and fails", records, versions, OUT, told
        elif self.rules.look_before:
            yield "finds the commits that it refers to", records, versions, ("before", *writer[1:]), told
        else:
            yield "finds the commits that it refers to", records, versions, ("commit", *writer[1:]), told

    def _before(self, w: int, writer: Any, records: Any, versions: Any, told: Any) -> Iterator[Any]:
        if self._fenced(records, writer[1]):
            yield "finds a later fence before its commit", records, versions, OUT, told
        else:
            yield "finds no later fence", records, versions, ("commit", *writer[1:]), told

    def _commit(self, w: int, writer: Any, records: Any, versions: Any, told: Any) -> Iterator[Any]:
        version = _find(versions, writer[4])
        if version is None:
            yield "finds its files replaced and fails", records, versions, OUT, told
            return
        seen = _put(versions, version._replace(commit=SEEN))
        text = f"commits {_name(writer[4])}"
        yield text, records, seen, ("sync" if self.rules.commit_synced else "after", *writer[1:]), told
        if self.size.put_fails:
            following = ("failed", *writer[1:]) if self.rules.failed_removed else OUT
            yield f"{text}, and is told of an I/O error", records, seen, following, told

    def _failed(self, w: int, writer: Any, records: Any, versions: Any, told: Any) -> Iterator[Any]:
        removed = tuple(v._replace(data=GONE, commit=NO) if v.id == writer[4] else v for v in versions)
        yield f"removes {_name(writer[4])}", records, removed, OUT, told

    def _sync(self, w: int, writer: Any, records: Any, versions: Any, told: Any) -> Iterator[Any]:
        done = tuple(v._replace(commit=SYNCED) if v.id == writer[4] and v.commit else v for v in versions)
        yield "fsyncs the commit", records, done, ("after", *writer[1:]), told

    def _after(self, w: int, writer: Any, records: Any, versions: Any, told: Any) -> Iterator[Any]:
        _, n, parent, left, name, chain = writer
        if self.rules.look_after and self._fenced(records, n):
            yield "finds a later fence after its commit", records, versions, OUT, told
            if not self.rules.retain_when_told:
                yield from self._retain_early(writer, records, versions, told)
            return
        # A report must be of what the one before it led to.
        conflict = told[1] or (told[0] is not None and told[0] not in _behind(versions, name))
        text = f"reports {_name(name)} durable"
        following = ("surplus" if self.size.retain else "begin", n, name, left, (), (name, *chain))
        yield text, records, versions, following, (name, conflict)
        if not self.rules.retain_when_told:
            yield from self._retain_early(writer, records, versions, told)

    def _retain_early(self, writer: Any, records: Any, versions: Any, told: Any) -> Iterator[Any]:
        _, n, _, left, name, chain = writer
        yield "begins to tidy", records, versions, ("surplus", n, name, left, (), (name, *chain)), told

    def _surplus(self, w: int, writer: Any, records: Any, versions: Any, told: Any) -> Iterator[Any]:
        """keep.last is 1: the newest, and what it needs (catalog/retention.find_surplus)."""
        _, n, parent, left, _, chain = writer
        known = {v.id: v for v in versions}
        needed = 0
        if self.rules.keeps_refs:
            while chain[needed] in known and known[chain[needed]].refers:
                needed += 1
        surplus = tuple(i for i in reversed(chain[needed + 1 :]) if i in known and known[i].commit)
        following = ("begin", n, parent, left, (), chain[: needed + 1])
        if surplus:
            following = ("retain", n, parent, left, surplus, chain[: needed + 1])
        yield "finds what need not be kept", records, versions, following, told

    def _retain(self, w: int, writer: Any, records: Any, versions: Any, told: Any) -> Iterator[Any]:
        _, n, parent, left, surplus, chain = writer
        if not surplus:
            yield "has tidied", records, versions, ("begin", n, parent, left, (), chain), told
        elif self._fenced(records, n) and self.rules.retain_when_told:
            yield "finds a later fence before it deletes", records, versions, OUT, told
        else:
            yield "finds no later fence", records, versions, ("delete", *writer[1:]), told

    def _delete(self, w: int, writer: Any, records: Any, versions: Any, told: Any) -> Iterator[Any]:
        _, n, parent, left, surplus, chain = writer
        version = _find(versions, surplus[0])
        if version is None or (version.data == GONE and not version.commit):
            yield f"has deleted {_name(surplus[0])}", records, versions, ("retain", n, parent, left, surplus[1:], chain), told
        elif version.commit and (self.rules.commit_goes_first or version.data == GONE):
            done = version._replace(commit=NO)
            yield f"deletes the commit of {_name(surplus[0])}", records, _put(versions, done), writer, told
        else:
            done = version._replace(data=GONE)
            yield f"deletes the data of {_name(surplus[0])}", records, _put(versions, done), writer, told


def _find(versions: Any, name: Any) -> Version | None:
    return next((v for v in versions if v.id == name), None)


def _put(versions: Any, new: Version) -> Any:
    return tuple(sorted([*(v for v in versions if v.id != new.id), new]))


def _behind(versions: Any, name: Any) -> list[Any]:
    """The version and those that it was made from, newest first, also such as are deleted."""
    parents = {v.id: v.parent for v in versions}
    found = []
    while name is not None:
        found.append(name)
        name = parents.get(name)
    return found


def _is_whole(known: dict[Any, Version], name: Any) -> bool:
    version: Version | None = known[name]
    while version is not None:
        if not version.commit or version.data < WRITTEN:
            return False
        version = known.get(version.parent) if version.refers else None
    return True


def _after_power_loss(v: Version) -> Version:
    return v._replace(commit=NO if v.commit == SEEN else v.commit, data=GONE if WRITTEN >= v.data > NOTHING else v.data)


def _name(i: Any) -> str:
    return f"v{i[0]}-a{i[1]}"
