"""The protected objects of one rank: captured for a checkpoint, filled from a version, compared with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import state
from ..engine import Item, PartReader
from ..errors import DamageError, MismatchError, StaleObjectError, UnsupportedError, UsageError
from ..format import StoredObject
from .untouched import Untouched


@dataclass(frozen=True)
class Shard:
    """The part of a global array that one rank holds: `global_shape` and the `offset` of its first element,
    both in elements and as long as the array has dimensions."""

    global_shape: tuple[int, ...]
    offset: tuple[int, ...]

    def __init__(self, global_shape: Any, offset: Any) -> None:
        object.__setattr__(self, "global_shape", tuple(int(n) for n in np.atleast_1d(global_shape)))
        object.__setattr__(self, "offset", tuple(int(n) for n in np.atleast_1d(offset)))

    def check(self, name: str, obj: object) -> None:
        """UsageError unless `obj` is an array that lies within the global shape."""
        if not isinstance(obj, np.ndarray):
            raise UsageError(f"{name!r} has a shard but is no NumPy array.", object=name)
        if not len(self.global_shape) == len(self.offset) == obj.ndim:
            raise UsageError(f"{name!r}: array, global shape and offset have different dimensions.", object=name)
        for i, n in enumerate(obj.shape):
            if not 0 <= self.offset[i] <= self.offset[i] + n <= self.global_shape[i]:
                raise UsageError(
                    f"{name!r}: a shard of shape {obj.shape} at {self.offset} does not lie within {self.global_shape}.",
                    object=name,
                )


CAPTURES = ("auto", "copy", "cow", "reference", "direct")


def check_text(call: str, text: object, most: int = 255) -> None:
    """UsageError unless `text` is a string of 1 to `most` characters that can be stored."""
    try:
        if isinstance(text, str) and 0 < len(text) <= most and text.encode():
            return
    except UnicodeEncodeError:
        pass
    raise UsageError(f"{call}({text!r}): a name of 1 to {most} characters that UTF-8 can hold is needed.")


def check_frozen(name: str, obj: object) -> None:
    """UnsupportedError for an array: one that can be filled in place can change, and can't be captured by reference. What is
    inside of other objects may be replaced, and is looked at in each checkpoint."""
    if isinstance(obj, np.ndarray):
        raise UnsupportedError(
            f"run.protect({name!r}, capture='reference'): its memory can change: it is writeable, or a read-only view of "
            "writeable memory. Nothing was protected. Use capture='copy', or keep arrays that own read-only memory "
            "(a.flags.writeable = False), or JAX arrays, in run.state or in a dict.",
            object=name,
        )


@dataclass
class Entry:
    """A protected object. `late`: first protected after the loop was entered; `replicated`: the same on all ranks."""

    name: str
    obj: Any
    shard: Shard | None
    pickle: bool
    late: bool
    capture: str = "auto"
    replicated: bool = False

    @property
    def bulky(self) -> bool:
        """Whether it may hold much: an array of a MiB, or anything that has arrays inside."""
        return self.obj.nbytes >= 1 << 20 if isinstance(self.obj, np.ndarray) else True

    @property
    def stored_shard(self) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        return (self.shard.global_shape, self.shard.offset) if self.shard else None

    def item(self) -> Item:
        """What a checkpoint writes of it: structure and buffers, the array's own memory where it is contiguous."""
        encoded = state.encode(self.obj, pickle=self.pickle, name=self.name)
        how = (self.capture,) * len(encoded.buffers)
        return Item(
            self.name, encoded.kind, self.late, self.stored_shard, encoded.tree, encoded.buffers, how,
            replicated=self.replicated,
        )  # fmt: skip

    def mismatch(self, reader: PartReader, stored: StoredObject) -> str | None:
        """Why the stored value can't be put into the object; None if it can."""
        if stored.shard != self.stored_shard:
            return f"stored: shard (global shape, offset) {stored.shard}; the program has: {self.stored_shard}"
        tree = reader.tree(stored)
        if self.pickle and is_foreign_pickle(reader, tree):
            return FOREIGN
        return state.mismatch(tree, self.obj, pickle=self.pickle)

    def fill(self, reader: PartReader, stored: StoredObject) -> None:
        """Put the stored value into the object, verified; it stays the same object. MismatchError if that can't be, and
        for a pickle in files that somebody else could have written."""
        tree = reader.tree(stored)
        if self.pickle and is_foreign_pickle(reader, tree):
            raise MismatchError(f"{self.name!r}: {FOREIGN}.", object=self.name)
        state.decode(tree, reader.source(stored), live=self.obj, pickle=self.pickle, name=self.name)

    def equals(self, reader: PartReader, stored: StoredObject, untouched: Untouched, version: str) -> bool:
        """Whether the object holds exactly the stored state of `version`, by digests where `untouched` does not know; read are
        the structure, and blocks that later ones hide in part."""
        item = self.item()
        buffers = stored.buffers if stored.tree is not None else stored.buffers[:-1]
        if item.tree != reader.tree(stored) or len(item.buffers) != len(buffers):
            return False
        return all(
            reader.same(stored_buffer, memory, self.name, written)
            for memory, stored_buffer, written in zip(
                item.buffers, buffers, untouched.written(item, version), strict=True
            )
        )


class Objects:
    """All entries of a rank, by name in the order in which they were first protected."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def add(self, entry: Entry) -> None:
        self._entries[entry.name] = entry

    def drop(self, name: str) -> Entry | None:
        return self._entries.pop(name, None)

    def check_stale(self) -> None:
        """StaleObjectError for an array that the program no longer refers to: it was rebound, not filled."""
        for entry in self._entries.values():
            if isinstance(entry.obj, np.ndarray) and state.stale(entry, "obj"):
                raise StaleObjectError(
                    f"Nobody but Holdfast refers to the array protected as {entry.name!r} any more: the program has bound "
                    "the name to another array (u = f(u); u, new = new, u), and this one is out of date. The last "
                    f"checkpoint is safe. Fill it in place (u[...] = f(u)), or call run.protect({entry.name!r}, u) again "
                    f"after rebinding, or keep it in a namespace: s = run.state({entry.name}=...); s.{entry.name} = f(...).",
                    object=entry.name,
                )


def check_aliases(items: Sequence[Item]) -> None:
    """UsageError if an attribute of `run.state` shares memory with another protected object, or two arrays inside of one object
    with each other.

    A resume gives each of them memory of its own, and what was one would be two from then on. Arrays that are protected by
    names of their own are filled where they are. One array that is met twice is stored once. Of what can't change nobody
    would notice.
    """
    across = len(items) > 1 and any(item.kind == "state" and item.buffers for item in items)
    spaces = [
        (_address(b), b.nbytes, i, k)
        for i, item in enumerate(items)
        if across or len(item.buffers) > 1
        for k, b in enumerate(item.buffers)
        if b.nbytes
    ]
    spaces.sort()
    reach: dict[int, tuple[int, int]] = {}  # how far what came before reaches, by object: (end, number of the object)
    state_end, any_end = (0, 0), (0, 0)  # of what is in the namespace, of all
    for at, nbytes, i, k in spaces:
        of_state = items[i].kind == "state"
        before = [reach.get(i, (0, i)), any_end if of_state else state_end]
        for end, j in before:
            if at < end and not _is_frozen(items[i].buffers[k]):
                raise _aliased(items[i], items[j])
        last = (at + nbytes, i)
        reach[i] = max(reach.get(i, last), last)
        any_end = max(any_end, last)
        state_end = max(state_end, last) if of_state else state_end


def _is_frozen(buffer: np.ndarray[Any, Any]) -> bool:
    from ..capture.frozen import is_frozen

    return is_frozen(buffer)


def _aliased(one: Item, other: Item) -> UsageError:
    if one is other:
        return UsageError(
            f"Two arrays in the object protected as {one.name!r} share memory (one is a view of the other, or both of a "
            "third). After a resume they would be two. The last checkpoint is safe. Keep one of them there and make the other "
            "from it, or keep a copy.",
            object=one.name,
        )
    name = other.name if one.kind == "state" else one.name
    return UsageError(
        f"An attribute of run.state shares its memory with the object protected as {name!r}. "
        "After a resume they would be two. The last checkpoint is safe. Keep the array in one of the two places, or "
        "a copy of it in the namespace.",
        object=name,
    )


def _address(buffer: np.ndarray[Any, Any]) -> int:
    return int(buffer.__array_interface__["data"][0])


def load(reader: PartReader, name: str) -> Any:
    """A stored object as a new object (local). DamageError, KeyError if there is no such object."""
    stored = reader.objects[name]
    return state.decode(reader.tree(stored), reader.source(stored), name=name)


def carried_item(reader: PartReader, stored: StoredObject) -> Item:
    """A stored object that the program has not protected yet, as it goes into the next version: verified bytes."""
    buffers = []
    tree = reader.tree(stored)
    if is_foreign_pickle(reader, tree):  # carried into a file of our own, it would be trusted from then on
        raise UnsupportedError(
            f"{stored.name!r} can't be carried into the next version: {FOREIGN}. Nothing was loaded. Make the run's "
            "files your own and unwritable for others if you trust who wrote them, or give it up with "
            f"run.drop({stored.name!r}).",
            object=stored.name,
        )
    source = reader.source(stored)
    for i, nbytes in enumerate(source.lengths):
        buffers.append(np.empty(nbytes, np.uint8))
        source.read(i, buffers[-1])
    return Item(
        stored.name, stored.kind, stored.late, stored.shard, tree, buffers, ("hold",) * len(buffers),
        replicated=stored.replicated,
    )  # fmt: skip


FOREIGN = (
    "stored: a pickle in files that another user owns or can write; a pickle is code and is loaded only from files "
    "that are the user's own"
)


def is_foreign_pickle(reader: PartReader, tree: bytes) -> bool:
    """Whether the structure is a pickle's and anybody but the user could have put it there."""
    return state.describe(tree)["kind"] == "pickle" and not reader.trusted


def verify(reader: PartReader, stored: StoredObject) -> None:
    """Read the object's blocks and structure; DamageError unless all are whole."""
    for buffer in stored.buffers:
        reader.read(buffer, None, stored.name)


__all__ = ["DamageError", "Entry", "Objects", "Shard", "carried_item", "load", "verify"]
