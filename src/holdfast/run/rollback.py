"""Going back to an older version, from inside a program: a new attempt, sealed on that version."""

from __future__ import annotations

from .. import state
from ..catalog import Snapshot, Version, check_refs, list_versions, read_commit
from ..errors import UsageError
from ..group import from_root
from .execution import Execution
from .fencing import fence
from .resume import Candidate, Resume


def roll_back(x: Execution, version: int) -> None:
    """Go back to checkpoint `version`: at once, or at the next loop head if a loop runs (collective)."""
    x.land()
    x.writer.tidying.finish()
    store, recovery = x.store, None
    if x.levels is not None:
        x.levels.look()  # what nodes hold by now
        store, recovery = x.levels.store, x.levels.recovery
    found = from_root(x.group, "looking for the version to roll back to", lambda: candidates(Snapshot(store), version))
    assert isinstance(found, list)
    targets: list[Candidate] = [(name, digest) for name, digest in found]
    loops = read_commit(store, "checkpoint", targets[0][0])[0].loops
    strict = x.options.objects_changed == "error"
    if not x.settled and not x.begun:
        x.resume.close()
        x.resume = Resume(store, x.group, targets, x.options.threads, strict, recovery)
        return

    def carry_out() -> None:
        x.land()
        x.resume.close()
        if x.writer.carry is not None:
            x.writer.carry.close()
            x.writer.carry = None
        x.writer.attempt = fence(x.store, x.group, x.writer.number, places=x.levels.roots if x.levels is not None else ())
        if x.levels is not None:
            x.levels.fence(x.writer.attempt)
        x.resume = Resume(store, x.group, targets, x.options.threads, strict, recovery)
        held = x.resume.reader.objects if x.resume.reader is not None else {}
        for name, entry in x.dropped.items():
            # One that the program has let go of as well is carried, as are those that it has not protected yet.
            if entry is not None and name in held and not state.stale(entry, "obj"):
                x.objects.add(entry)  # at that version it was not dropped yet
        x.dropped.clear()
        x.begun, x.settled = True, False  # interrupted from here on, objects may hold something of either version
        x.settle()
        x.loops.moved = True

    x.loops.check_target(loops, version)
    if x.loops.active:
        x.rollback = carry_out
    else:
        carry_out()
        x.loops.start_again()


def candidates(snapshot: Snapshot, version: int) -> list[list[str]]:
    """[[name, digest]] of checkpoint `version` and, behind it, what it was made from (local).

    UsageError if there is none, DamageError if a version is not there that it refers to."""
    chosen = find(snapshot, version)
    commit, digest = snapshot.commit("checkpoint", chosen.name)
    check_refs(snapshot.store, commit.refs)
    found = [[chosen.name, digest]]
    present = {n.name for n in snapshot.names["checkpoint"]}
    while commit.parent is not None and commit.parent.name in present and len(found) < 1000:
        found.append([commit.parent.name, commit.parent.digest])
        try:
            commit, digest = snapshot.commit("checkpoint", commit.parent.name)
        except Exception:
            break
    return found


def find(snapshot: Snapshot, version: int) -> Version:
    """The whole checkpoint with this number (local); UsageError that lists those there are."""
    usable = [
        v for v in list_versions(snapshot) if v.kind == "checkpoint" and v.status in ("current", "abandoned")
    ]
    for v in usable:
        if v.number == version:
            return v
    there = ", ".join(str(v.number) for v in usable) or "none"
    raise UsageError(f"There is no checkpoint {version} to go back to. Nothing was changed. There are: {there}.")
