"""Who takes part: one process, or the ranks of an MPI communicator. The only door to MPI.

Every wait in here has a deadline and names the ranks it waits for. What the ranks say to each other
is bytes; what they mean by it (versions, objects, stores) must not be known here.
"""

from __future__ import annotations

from .agree import at_root, from_root, together
from .base import Group, Pending
from .choose import cores, launcher_ranks, local_ranks, make_background, make_group, spare_processes
from .serial import SERIAL, SerialComm, SerialGroup

__all__ = [
    "SERIAL",
    "Group",
    "Pending",
    "SerialComm",
    "SerialGroup",
    "at_root",
    "from_root",
    "launcher_ranks",
    "cores",
    "local_ranks",
    "make_background",
    "make_group",
    "spare_processes",
    "together",
]
