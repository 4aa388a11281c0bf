"""What goes on from the nodes' places to other levels."""

from __future__ import annotations

from typing import NamedTuple

from ...catalog import Commit
from ...format import Link


class Placed(NamedTuple):
    """A version at the nodes' places, on its way further. `record`: its commit's file; `due`: the levels it is to reach, by
    their kinds."""

    commit: Commit
    link: Link
    record: bytes
    due: tuple[str, ...]
