"""The crew: all processes of one start of the program, those with a role and the spares.

What is interrupted when: somebody notices a failure (an error of MPI in the program, this module's watcher, or health) and
revokes the crew's communicator. Each process's watcher sees that within some 8 ms and revokes, in turn, the program's
communicator and all that were made from it, so that nobody stays in a call on any of them. All then call `repair`.

Errors of MPI are the sign that something is wrong, never the truth about what: that is the roll call's.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import UsageError
from .. import making
from ..duplicates import duplicate, make_ready
from ..transfers import Transfer
from ..waiting import wait_until
from . import machine
from .beside import Beside, Eyes, Neighbours
from .comms import Family
from .hidden import all_communicators, handles
from .machine import NO_ROLE, Card
from .means import MpiMeans, places, suppressed, why_not
from .members import Member, Members, exchange
from .telling import can_tell, tell_gone
from .watchdog import Watchdog
from .watcher import Watcher

if TYPE_CHECKING:
    from mpi4py import MPI

STAND_BY_SECONDS = 0.005  # between a spare's
REVOKE_SECONDS = 10.0  # takes microseconds, and waits for nobody
DISMISS_SECONDS = 2.0  # for the messages to the spares
DISMISSED, LOOKED_FOR = 1, 2  # tags; of the latter no message is ever sent


class Crew:
    """What this process knows of the crew. Made by `form`. One thread calls `repair` and `stand_by`; the rest any thread may.

    rank: this process's role, the rank in the run; None on a spare. size: ranks of the run, the same through all repairs.
    repairs: how many there were. comm: communicator of those with roles, in their order (errors raise; what is made
    from it is known, see `comms`); None on a spare. lost: roles that the last repair replaced. tries: how often it had to
    begin; cards: what all that lived have told in it. on_spare_lost: called with each spare that MPI tells is gone, by the
    watcher's thread of those with roles. repairable: whether there can be repairs; reason: if not, why. eyes: for the
    processes of this node; without them who leaves by itself is not missed.
    """

    def __init__(
        self, base: MPI.Intracomm, ranks: int, reason: str | None, watchdog: Watchdog, eyes: Eyes | None
    ) -> None:
        self.rank: int | None = None
        self.size = ranks
        self.repairs = 0
        self.comm: Any = None
        self.on_spare_lost: Callable[[Member], object] | None = None
        self.lost: tuple[int, ...] = ()
        self.tries = 0
        self.cards: tuple[Card, ...] = ()
        self.reason = reason
        self._base = base
        self._watchdog = watchdog
        self._neighbours: Neighbours | None = None
        if eyes is not None and reason is None:
            can_tell()  # found now, not when somebody is gone
            self._neighbours = Neighbours(eyes, tell_gone, lambda: self._called_off)
        self._card = Card(NO_ROLE, 0, base.Get_size())
        self._roles: tuple[int, ...] = ()  # of the crew's processes, in its order
        self._members, self._place = Members(()), 0
        self._crew: Any = None  # communicator of all alive: what is revoked as the signal
        self._family = Family()
        self._called_off = False
        self._repairing = False  # calls for a repair by who saw a reason before it began are over
        self._lock = threading.RLock()  # of what a repair replaces
        self._watcher: Watcher | None = None

    @classmethod
    def form(cls, world: MPI.Intracomm, ranks: int, *, timeout: float, eyes: Eyes | None = None) -> Crew:
        """The crew of all of `world` (collective): its first `ranks` processes have roles, the others are spares.

        timeout: seconds for all to come here; after that the process ends (EXIT_REPAIR) or DeadlineError is raised.
        UsageError if `ranks` is no number from 1 to the world's size. Nothing fails where repairs are not possible.
        """
        from mpi4py import MPI

        if not 1 <= ranks <= world.Get_size():
            raise UsageError(
                f"{ranks} ranks of a world of {world.Get_size()} processes. Nothing was started; a run has 1 rank or "
                "more, and no more than there are processes. See to -n and --spares."
            )
        me = world.Get_rank()
        watchdog = Watchdog(f"process {me} on {os.uname().nodename}")
        base = duplicate(MPI.Intracomm(world), timeout, "forming the crew")
        crew = cls(base, ranks, why_not(), watchdog, eyes)
        if crew.repairable:
            making.look_with(handles)
        crew._roles = tuple(place if place < ranks else NO_ROLE for place in range(base.Get_size()))
        signal = duplicate(base, timeout, "forming the crew")
        crew._members = Members(exchange(base, ranks, timeout))
        with watchdog.step("forming the crew", timeout):
            comm = base.Split(0 if me < ranks else MPI.UNDEFINED, me)
        mine = Card(crew._roles[me], 0, base.Get_size())
        crew._take(mine, signal, comm if me < ranks else None)
        atexit.register(crew.close)  # before MPI's end, of which the watcher knows nothing
        crew._watch()
        return crew

    @property
    def repairable(self) -> bool:
        """Whether the crew can be repaired here at all."""
        return self.reason is None

    @property
    def revoked(self) -> bool:
        """Whether a repair is called for, as the watcher has last seen. Local, a microsecond."""
        return self._called_off

    @property
    def spares(self) -> int:
        """How many are left, as far as is known here."""
        return self._members.spares

    @property
    def members(self) -> tuple[Member, ...]:
        """All processes of the crew as it was last confirmed, in its order."""
        return self._members.now

    @property
    def me(self) -> Member:
        """This process, one of them."""
        return self._members.now[self._place]

    def count_out(self, pid: int, start: int) -> None:
        """The spare of this node that is that process has been seen to be gone: no quorum has to count it any more (any
        thread). Who is only silent, or is dead by what MPI says, is never counted out: it may live behind a cut."""
        with self._lock:
            self._members.count_out(pid, start, self.me.node)

    @property
    def gone(self) -> tuple[int, ...]:
        """Roles of processes that MPI knows to be gone (local; another process may know of more)."""
        if self.reason is not None:
            return ()
        with self._lock:
            return tuple(sorted(self._roles[place] for place in self._gone() if self._roles[place] != NO_ROLE))

    def look(self) -> bool:
        """Whether a repair is called for, looked at now: the crew's communicator is revoked, or it is revoked here, since
        someone with a role is gone. Local, 10 us; any thread."""
        from mpi4py import MPI

        with self._lock:
            if self._called_off:
                return True
            try:
                # The probe makes MPI progress, without which nothing would be seen, and fails if someone is gone.
                self._crew.Iprobe(MPI.ANY_SOURCE, LOOKED_FOR)
                if not self._crew.Is_revoked():
                    return False
            except MPI.Exception:
                if not self._crew.Is_revoked() and not self._roles_lost():
                    return False
            self.revoke()
            return True

    def revoke(self, *, long_after: bool = False, repairs: int | None = None) -> None:
        """Call for a repair: everyone's calls on the crew's communicators end with errors. Local, may be repeated;
        `long_after`: see `making.revoke`; `repairs`: how many there were when the reason for it was seen: nothing is done if
        the next one has begun, which revokes by itself and may be making communicators."""
        if self.reason is not None:
            return
        with self._watchdog.step("revoking the crew's communicators", REVOKE_SECONDS), self._lock:
            if repairs is not None and (self._repairing or self.repairs != repairs):
                return
            self._called_off = True
            with suppressed():
                self._crew.Revoke()
            self._family.revoke()
            for comm in all_communicators([self._base, self._crew], [self._base]):
                making.revoke(comm, long_after=long_after)

    def repair(
        self, step_seconds: float, whole_seconds: float, *, failed: int = 0, at: int = -1, alone: bool = False
    ) -> None:
        """Make the crew whole again: everyone who is alive calls this, with a role or without.

        step_seconds: for each of its steps; whole_seconds: for all of them, and for all processes to come here. failed, at,
        alone: what all are told, in `cards` (see `machine.Card`). Returns with a new `comm` and, on a spare that was taken,
        `rank`; communicators made from the old one are of no more use.
        RepairError when it can't be done; a process in which a step hangs ends with EXIT_REPAIR.
        """
        if self.reason is not None:
            raise UsageError(f"This crew can't be repaired: {self.reason}. Leave the process; start the program again.")
        with self._lock:
            self._repairing = True
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.end()  # not waited for: what it would yet do is not done any more
        self._dead()  # has MPI hear of them: Shrink waits for that
        means = MpiMeans(self._base, self.revoke, self._counts_gone)
        found = machine.repair(
            means, self._card._replace(failed=failed, at=at, alone=alone), self.size,
            step_seconds=step_seconds, whole_seconds=whole_seconds, step=self._watchdog.step, dead=self._dead,
        )  # fmt: skip
        with self._lock:
            self._roles, self.lost, self.tries, self.cards = found.roles, found.lost, found.tries, found.cards
            self._take(found.card, means.crew, found.comm, means.duplicates)
        self._watch()

    def stand_by(self, idle: Callable[[], None]) -> bool:
        """Wait without a role (spares). True: a repair is called for, join it by `repair`. False: leave, all is done.

        idle: called every few milliseconds. False also if whoever started the processes is gone, or all with roles.
        """
        parent = os.getppid()
        while True:
            # First: those who have told us that all is done leave next, which looks like a loss.
            if self._dismissed():
                return False
            if self.look():
                return True
            if os.getppid() != parent or self._alone():
                return False
            idle()
            time.sleep(STAND_BY_SECONDS)

    def dismiss(self) -> None:
        """Tell the spares that all is done (the rank 0 of the run). No error if some can't be told any more."""
        from mpi4py import MPI

        sends = []
        for place, role in enumerate(self._roles):
            if role == NO_ROLE:
                with suppressed():
                    nothing = bytearray()
                    sends.append(Transfer(self._crew.Isend([nothing, 0, MPI.BYTE], place, DISMISSED), nothing))
        wait_until(lambda: all(_settled(send) for send in sends), DISMISS_SECONDS)

    def part(self) -> None:
        """The processes are about to leave: nobody is missed for that any more. Local."""
        neighbours, self._neighbours = self._neighbours, None
        if neighbours is not None:
            neighbours.close()

    def close(self) -> None:
        """Look after the crew no longer: failures are not noticed any more, as is right when its ranks leave. Local."""
        self.part()
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.close()
        self._watchdog.close()
        atexit.unregister(self.close)

    # -- inside -----------------------------------------------------------------------------

    def _take(self, card: Card, crew: Any, comm: Any, duplicates: Sequence[Any] = ()) -> None:
        """Go over to what has been agreed on. `duplicates` of `comm`, which have been made with it."""
        from mpi4py import MPI

        crew.Set_errhandler(MPI.ERRORS_RETURN)
        self._card, self._crew, self._family, self._called_off, self._repairing = card, crew, Family(), False, False
        whole = len(self._roles) == len(self._members.everyone)
        self._members.take(range(len(self._roles)) if whole else places(crew, self._base), self._roles)
        self._place, self._family.crew = crew.Get_rank(), self
        if self._neighbours is not None:
            world = places(crew, MPI.COMM_WORLD)
            found = self._members.beside(self._place)
            self._neighbours.watch(self._place, [Beside(one.pid, one.start, i, world[i]) for i, one in found])
        self.rank = card.role if card.role != NO_ROLE else None
        self.repairs = card.repairs
        if comm is not None:
            comm.Set_errhandler(MPI.ERRORS_RETURN)
            comm = self._family.adopt(comm)
            make_ready(comm, [self._family.adopt(one) for one in duplicates])
        self.comm = comm

    def _dead(self) -> int:
        """The card's bits of spares that are known not to live any more, once this node's have been looked at."""
        if self._neighbours is not None:
            for one in self._neighbours.look():
                self.count_out(one.pid, one.start)
        return self._members.dead_bits

    def _roles_lost(self) -> bool:
        """Whether somebody with a role is gone. Spares that are gone are noted, and are no reason to stop the program."""
        gone = self._gone()
        if any(self._roles[place] != NO_ROLE for place in gone):
            return True
        with suppressed():
            self._crew.Ack_failed()
        for one in self._members.lose(gone):
            if self.on_spare_lost is not None:
                self.on_spare_lost(one)
        return False

    def _gone(self) -> list[int]:
        """Places in the crew of those that are known to be gone."""
        with suppressed():
            failed, everyone = self._crew.Get_failed(), self._crew.Get_group()
            try:
                places: list[int] = failed.Translate_ranks(None, everyone)
                return places
            finally:
                failed.Free()
                everyone.Free()
        return []

    def _counts_gone(self) -> tuple[int, int]:
        roles = [self._roles[place] for place in self._gone()]
        return len(roles), roles.count(NO_ROLE)

    def _alone(self) -> bool:
        gone = set(self._gone())
        return all(place in gone for place, role in enumerate(self._roles) if role != NO_ROLE)

    def _dismissed(self) -> bool:
        with suppressed():
            zero = self._roles.index(0)
            message = self._crew.Improbe(zero, DISMISSED)
            if message is not None:
                nothing = bytearray()
                _settled(Transfer(message.Irecv([nothing, 0, _byte()]), nothing))
                return True
        return False

    def _watch(self) -> None:
        if self.reason is None and self.rank is not None:  # a spare looks itself, in `stand_by`
            repairs = self.repairs
            self._watcher = Watcher(self.look, lambda: self.revoke(long_after=True, repairs=repairs))


def crew_of(comm: Any) -> Crew | None:
    """The crew that a communicator was made for, or from whose communicator it was made; None if there is none."""
    family: Family | None = getattr(comm, "_family", None)
    crew: Crew | None = None if family is None else family.crew
    return crew


def _settled(transfer: Transfer) -> bool:
    """Whether a transfer is over, well or not."""
    from mpi4py import MPI

    try:
        return transfer.done()
    except MPI.Exception:
        return True


def _byte() -> Any:
    from mpi4py import MPI

    return MPI.BYTE
