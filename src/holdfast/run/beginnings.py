"""What objects held when the loop was entered first in this process, where `main` is called again after a repair.

Before the first version there is nothing to restore: `main` begins anew, in processes that have computed. What it makes itself
it makes anew. What it was given, by a module or a closure, a rank that lives has changed, and one that takes a lost one's place
has not: going on would be a wrong result. Digests tell, for nothing else needs the content of then. (Rejected: to keep a copy
of it until there is a version, which is a version by another name, and memory that nobody has counted on.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import RepairError
from ..format.blocks import digest

if TYPE_CHECKING:
    from .objects import Entry


class Beginnings:
    """Of one process, from its first execution to its last (local). `computed`: an execution of it has failed."""

    def __init__(self) -> None:
        self.computed = False
        self._first: dict[str, bytes] = {}

    def changed(self, entry: Entry) -> bool:
        """Whether an object for which nothing is stored has another content than at first, or none is known of that time. One
        that can't be stored is for the checkpoint to refuse."""
        try:
            now = _content(entry)
        except Exception:
            return False
        if entry.name not in self._first and not self.computed:
            self._first[entry.name] = now
        return self._first.get(entry.name) != now


def _content(entry: Entry) -> bytes:
    item = entry.item()
    parts = [digest(item.tree), *map(digest, item.buffers)]
    return digest(b"".join(parts))


def check(changed: list[list[str]]) -> None:
    """RepairError if there is nothing to restore and any rank has objects that its first execution has changed."""
    for rank, names in enumerate(changed):
        if names:
            raise RepairError(
                f"Ranks were lost before there was a version, and {names[0]!r} is not what it was at first: "
                "it is made outside of main, or differs from call to call. So the job is started again, not repaired in place. "
                "Make the state inside of main, or have an early checkpoint.",
                object=names[0],
                rank=rank,
            )


__all__ = ["Beginnings", "check"]
