"""How versions hang together: when the next one is written whole, so that it needs no other."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..catalog import Commit

_ROOM = 1.5  # times the state: a chain that has written more is ended by a version that is written whole


@dataclass(frozen=True)
class Chain:
    """What the newest version hangs on; alike on all ranks. `behind`: how many versions behind it is the newest that refers to
    no other; `written`: bytes that these have taken; `state`: bytes of its state; `spared`: whether a version is kept that
    shares no block with it."""

    behind: int = 0
    written: int = 0
    state: int = 0
    spared: bool = False

    def ends(self, most: int) -> bool:
        """Whether the next version is written whole, where reading one may touch `most` versions.

        The second one is as well: one bad block is not to take all there is. And one is when a chain has taken much more room
        than the state: all of it is kept for the one block that never changes."""
        return not self.spared or self.behind + 2 > most or self.written > _ROOM * self.state

    def with_one(self, commit: Commit, kept: bool) -> Chain:
        """With the version `commit` as the newest. `kept`: whether one that is written whole leaves another that is spared."""
        if commit.refs:
            return replace(self, behind=self.behind + 1, written=self.written + commit.nbytes, state=commit.state)
        return Chain(0, commit.nbytes, commit.state, kept)

    def torn(self) -> Chain:
        """What it referred to is not there any more: the next version is to need nothing."""
        return replace(self, spared=False)


__all__ = ["Chain"]
