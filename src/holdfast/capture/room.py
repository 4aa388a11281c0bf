"""Whether a node's memory has room for checkpoints: what its tmpfs, the machine and the cgroups leave."""

from __future__ import annotations

import os

from ..errors import StorageError
from ..store.owned import free_bytes
from ..units import bytes_text
from .memory import available_bytes

VERSIONS = 2  # the newest and the one before: the older goes before the next is written in its place
_HEADROOM = 8  # an eighth more than is needed must be there, for what the program itself will take
_LEAST = 64 << 20  # bytes, and so much at least


def memory_room(path: str, root: str = "/") -> int:
    """Bytes that files below the directory `path`, in memory, can still take: its file system's, the machine's, and what
    cgroups leave to this process (local). `root` is where /proc and /sys are looked for. StorageError: it can't be told."""
    return min(free_bytes(path), available_bytes(root))


def default_memory(
    state_bytes: int, path: str = "/dev/shm", *, parity: float = 0.0, held: int = 0, root: str = "/"
) -> tuple[bool, str]:
    """Whether checkpoints are kept in memory where nobody has said so, and one line that tells why (local; by one rank of
    a node).

    `state_bytes`: of the state of all ranks of this node; `parity`: the share of parity, m / (n - m); `held`: bytes below
    `path` that will make way for the new ones. There must be room for the newest and the one before, and headroom.
    """
    need = VERSIONS * (state_bytes + int(state_bytes * parity))
    wanted = need + max(need // _HEADROOM, _LEAST)
    share = f" with {parity:.0%} parity" if parity else ""
    what = f"{VERSIONS} versions of {bytes_text(state_bytes)}{share} and headroom take {bytes_text(wanted)}"
    try:
        own, all_in_all = free_bytes(path), available_bytes(root)
    except (StorageError, OSError) as error:
        return False, f"memory level off: the room in {path} can't be told ({getattr(error, 'message', error)})"
    room = min(own, all_in_all) + held
    if not os.access(path, os.W_OK | os.X_OK):
        return False, f"memory level off: {path} can't be written"
    limit = path if own <= all_in_all else "the memory of this machine or cgroup"
    if room < wanted:
        return False, f"memory level off: {what}, {limit} has {bytes_text(room)}"
    return True, f"memory level on: {what}, of {bytes_text(room)} in {limit}"
