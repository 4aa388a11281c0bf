"""What a program says of its state: objects, output files, and what it gives up. `Run` says what each call means. All local."""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING, Any

from .. import state
from ..errors import MismatchError, UsageError
from .objects import CAPTURES, Entry, Shard, check_frozen, check_text
from .outfiles import find_stored

if TYPE_CHECKING:
    from .execution import Execution


def protect(
    x: Execution, name: str, obj: object, shard: Shard | None, replicated: bool, pickle: bool, capture: str
) -> None:
    """See `Run.protect`."""
    check_text("run.protect", name)
    state.check(name, obj, pickle=pickle)
    if shard is not None:
        if not isinstance(shard, Shard):
            raise UsageError(f"run.protect({name!r}, shard={shard!r}): holdfast.Shard(global_shape, offset) is needed.")
        shard.check(name, obj)
    again = name in x.objects
    if capture not in CAPTURES:
        raise UsageError(f"run.protect({name!r}, capture={capture!r}): one of {', '.join(CAPTURES)} is needed.")
    if replicated and shard is not None:
        raise UsageError(f"run.protect({name!r}): an object is either a shard or replicated, not both.", object=name)
    if not isinstance(replicated, bool):
        raise UsageError(f"run.protect({name!r}, replicated={replicated!r}): True or False is needed.", object=name)
    if replicated and x.settled and not (again and x.objects[name].replicated):
        raise UsageError(
            f"run.protect({name!r}, replicated=True): the ranks agree on what is replicated when the loop is entered. "
            "Protect it before.",
            object=name,
        )
    late = x.objects[name].late if again else x.settled
    if capture == "reference":
        check_frozen(name, obj)
    entry = Entry(name, obj, shard, pickle, late, capture, replicated)
    x.objects.add(entry)
    if name in x.dropped:
        x.dropped[name] = None  # what is stored under the name stays given up
        x.used = True
    elif not again:
        x.used = True
        with x.watching.during("restore"):
            _provide(x, entry)


def _provide(x: Execution, entry: Entry) -> None:
    """Fill a new object from what is stored, provisionally before it is settled."""
    if not x.settled:
        x.resume.provide(entry)
        return
    if x.restored is not None and x.resume.recut and not x.writer.written:
        x.resume.provide(entry)
        return
    x.arrive()
    carry = x.writer.carry
    if carry is None or entry.name not in carry.objects:
        return
    why = entry.mismatch(carry, carry.objects[entry.name])
    if why is None:
        entry.fill(carry, carry.objects[entry.name])
    elif x.options.objects_changed == "error":
        x.objects.drop(entry.name)
        raise MismatchError(
            f"{entry.name!r} does not fit what version {x.newest} holds: {why}. Nothing was changed. Give the stored "
            f"value up with run.drop({entry.name!r}), or accept with objects_changed='accept'.",
            object=entry.name,
            rank=x.group.rank,
        )


def open_file(x: Execution, path: str | os.PathLike[str], mode: str, options: dict[str, Any]) -> IO[Any]:
    """See `Run.file`."""
    name = os.path.normpath(os.fspath(path))
    check_text("run.file", name, 4096)
    x.arrive()
    if x.settled:
        known = (x.writer.carry.part.files if x.writer.carry else ()) + x.foreign
    else:
        known = x.resume.known_files()
    stored = find_stored(known, name)
    # If there are versions and none of them is whole, what the file holds is all that is left of the run; and a newer one than
    # this rank finds whole may yet be.
    return x.files.open(name, mode, stored, options, cut=x.settled or not (x.resume.at_a_loss or x.resume.may_return))


def drop(x: Execution, name: str) -> None:
    """See `Run.drop`."""
    x.arrive()
    reader = x.writer.carry if x.settled else x.resume.reader
    entry = x.objects.drop(name)
    if entry is None and (reader is None or name not in reader.objects):
        raise UsageError(f"run.drop({name!r}): there is no object of this name.", object=name)
    x.dropped[name] = entry
