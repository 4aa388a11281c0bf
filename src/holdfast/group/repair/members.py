"""Who the crew's processes are to the nodes that they run on, told once, when the crew is formed.

MPI knows processes by their places in a communicator. A spare takes part in nothing, so that only its node can see whether it
is stopped, and whether it is dead for certain: for that it has to be known by pid and start time.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ..transfers import Transfer
from ..waiting import deadline_error, wait_until
from .machine import NO_ROLE

_WIRE = struct.Struct("=qqq64s")
_BITS = 63  # of the dead spares in a card: of more than that none is counted out
_BOOT = "/proc/sys/kernel/random/boot_id"


class Member(NamedTuple):
    """A process: pid, start time (clock ticks since boot), node (the same number for those that see each other's pids), host
    (name), number (among the crew's processes, from its first spare on: less than 0 for its first ranks), role (as last
    confirmed)."""

    pid: int
    start: int
    node: int
    host: str
    number: int
    role: int


class Members:
    """The crew's processes as it was last confirmed, and who of its spares is gone since. Any thread; local.

    everyone: in the order of the communicator that the crew was formed with; now: in the crew's order, with roles; gone: spares
    that are, as far as is known here; dead: those of them that a process of their node has seen to be gone.
    """

    def __init__(self, everyone: tuple[Member, ...]) -> None:
        self.everyone = self.now = everyone
        self.gone: frozenset[Member] = frozenset()
        self.dead: frozenset[Member] = frozenset()

    def take(self, places: Iterable[int], roles: Sequence[int]) -> None:
        """A crew has been confirmed: `places` of its processes in `everyone`, and their roles."""
        self.now = tuple(self.everyone[i]._replace(role=role) for i, role in zip(places, roles, strict=True))
        self.gone = self.dead = frozenset()

    def beside(self, place: int) -> list[tuple[int, Member]]:
        """(place, process) of each of the crew on the node of the one at `place` that can be looked at, without that one."""
        node = self.now[place].node
        return [(i, one) for i, one in enumerate(self.now) if one.node == node and one.start and i != place]

    def lose(self, places: Iterable[int]) -> frozenset[Member]:
        """Those of the crew at `places` are gone, as MPI says; spares of whom that was not known."""
        lost = frozenset(one for one in map(self.now.__getitem__, places) if one.role == NO_ROLE) - self.gone
        self.gone |= lost
        return lost

    def count_out(self, pid: int, start: int, node: int) -> None:
        """The spare that is that process of that node has been seen to be gone."""
        found = frozenset(one for one in self.now if (one.pid, one.start, one.node, one.role) == (pid, start, node, NO_ROLE))
        self.gone |= found
        self.dead |= found

    @property
    def spares(self) -> int:
        """How many there are left."""
        return sum(one.role == NO_ROLE for one in self.now) - len(self.gone)

    @property
    def dead_bits(self) -> int:
        """For a `machine.Card`."""
        return sum(1 << one.number for one in self.dead if 0 <= one.number < _BITS)


def exchange(comm: Any, ranks: int, timeout: float) -> tuple[Member, ...]:
    """All processes of `comm`, in its order, of which the first `ranks` have roles (collective). DeadlineError after `timeout`
    seconds."""
    from mpi4py import MPI

    size = comm.Get_size()
    mine = bytearray(_WIRE.pack(os.getpid(), _start(), _node(), os.uname().nodename.encode()[:64]))
    told = bytearray(_WIRE.size * size)
    request = comm.Iallgather([mine, MPI.BYTE], [told, MPI.BYTE])
    if not wait_until(Transfer(request, mine, told).done, timeout):
        me = comm.Get_rank()
        raise deadline_error("forming the crew", me, (r for r in range(size) if r != me), timeout, one_of=True)
    return tuple(
        Member(pid, start, node, host.rstrip(b"\0").decode(errors="replace"), i - ranks, i if i < ranks else NO_ROLE)
        for i, (pid, start, node, host) in enumerate(_WIRE.iter_unpack(told))
    )


def _start() -> int:
    """Of this process; 0 where the kernel does not tell: then nobody watches it."""
    try:
        with open("/proc/self/stat", "rb") as f:
            return int(f.read().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def _node() -> int:
    """Pids mean the same processes where this is the same: a boot of a kernel, and a pid namespace of it."""
    try:
        with open(_BOOT, "rb") as f:
            boot = f.read().strip()
        return zlib.crc32(boot) << 30 ^ os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return -os.getpid()  # of nobody else's
