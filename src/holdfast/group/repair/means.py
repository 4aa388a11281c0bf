"""The steps of a repair by MPI (ULFM). Measured with Open MPI 5.0.11:

Shrink is the only call that gives all processes the same truth about who is alive; its nonblocking form fails on a communicator
that has lost someone, so it is called blocking, under the watchdog. Messages and reductions are nonblocking and polled.
Nothing that has failed is freed or waited for (that may end the job): a repair leaves some communicators behind.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .. import making
from ..transfers import Transfer
from ..waiting import wait_until
from .machine import Card, Lost

if TYPE_CHECKING:
    from mpi4py import MPI

DUPLICATES = 4  # of the new communicator: the run's group, its background, and for levels a channel and a copier's group


class MpiMeans:
    """`machine.Means` by MPI. base: the communicator that the crew was formed with. revoke: interrupts everyone.

    gone: how many of the crew are held for dead, and how many of these are spares. `crew`: the communicator of those alive,
    once shrunk.
    """

    def __init__(self, base: MPI.Intracomm, revoke: Callable[[], None], gone: Callable[[], tuple[int, int]]) -> None:
        self.gone = gone
        self.crew: Any = None
        self._base = base
        self._revoke = revoke
        self.duplicates: list[Any] = []  # of the last communicator that was made
        self._made: list[Any] = []  # in this repair; kept, since dropping them would free nothing

    def revoke(self) -> None:
        self._revoke()
        for comm in self._made:
            making.revoke(comm)

    def shrink(self) -> None:
        with _as_lost(), making.making():
            self.crew = self._base.Shrink()
            self._made.append(self.crew)

    def me(self) -> int:
        rank: int = self.crew.Get_rank()
        return rank

    def roll_call(self, card: Card, seconds: float) -> list[Card]:
        from mpi4py import MPI

        size = self.crew.Get_size()
        mine, all_cards = array("q", card), array("q", bytes(8 * len(card) * size))
        with _as_lost():
            request = self.crew.Iallgather([mine, MPI.INT64_T], [all_cards, MPI.INT64_T])
            self._finish(Transfer(request, mine, all_cards), seconds)
        return [Card(*all_cards[i : i + len(card)]) for i in range(0, len(all_cards), len(card))]

    def make(self, roles: Sequence[int]) -> Any:
        from mpi4py import MPI

        mine = roles[self.me()]
        with _as_lost(), making.making():
            comm = self.crew.Split(0 if mine >= 0 else MPI.UNDEFINED, max(mine, 0))
            if mine < 0:
                return None
            self._made.append(comm)
            if comm.Get_rank() != mine:
                raise Lost("the new communicator is not of those that were meant")
            comm.Set_errhandler(MPI.ERRORS_RETURN)
            self.duplicates = []
            for _ in range(DUPLICATES):
                self.duplicates.append(comm.Dup())
                self._made.append(self.duplicates[-1])
            return comm

    def confirm(self, digest: int, seconds: float) -> bool:
        from mpi4py import MPI

        mine, largest = array("q", (digest, -digest)), array("q", (0, 0))
        with _as_lost():
            request = self.crew.Iallreduce([mine, MPI.INT64_T], [largest, MPI.INT64_T], MPI.MAX)
            self._finish(Transfer(request, mine, largest), seconds)
        return largest[0] == -largest[1]

    def _finish(self, transfer: Transfer, seconds: float) -> None:
        def over() -> bool:
            if transfer.done():  # whatever has happened since: its result is the same for all that have it
                return True
            if self.crew.Is_revoked():
                raise Lost("it was called off")
            return False

        if not wait_until(over, seconds):
            raise Lost(f"others have not come in {seconds:.4g} s")


@contextmanager
def _as_lost() -> Iterator[None]:
    """Any of MPI's errors may be the sign of a failure: its classes are not reliable."""
    from mpi4py import MPI

    try:
        yield
    except MPI.Exception as error:
        raise Lost(error.Get_error_string()) from None


@contextmanager
def suppressed() -> Iterator[None]:
    """What may fail since somebody is gone, where that changes nothing."""
    from mpi4py import MPI

    try:
        yield
    except MPI.Exception:
        return


def places(crew: MPI.Intracomm, base: MPI.Intracomm) -> list[int]:
    """Of each process of `crew`, in its order, the rank in `base` (local). Two lists of ranks stay behind in MPI."""
    return list(crew.Get_group().Translate_ranks(None, base.Get_group()))


def why_not() -> str | None:
    """Why communicators can't be repaired in this process; None if they can. MPI must be running.

    Only Open MPI is asked, for a fact that it keeps: its repair functions are there without `--with-ft ulfm`, too, and Shrink
    then never returns.
    """
    from mpi4py import MPI

    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        return "MPI was started without MPI_THREAD_MULTIPLE"
    if not all(hasattr(MPI.Intracomm, name) for name in ("Revoke", "Is_revoked", "Shrink", "Get_failed", "Ack_failed")):
        return "mpi4py has no Revoke and Shrink (it has from 4.0 on)"
    name = MPI.Get_library_version().strip("\0").split(",")[0].split("\n")[0].strip()
    if not name.startswith("Open MPI"):
        return f"{name} ends the job when a process dies"
    enabled = symbol("ompi_ftmpi_enabled", ctypes.c_bool)
    if enabled is None:
        return f"{name} was built without fault tolerance"
    return None if enabled.value else f"{name} was started without `--with-ft ulfm`"


def symbol(name: str, kind: type[Any]) -> Any:
    """The variable `name` of the MPI library that is loaded, as a ctypes object of `kind`; None if there is none."""
    for loaded in _libraries():
        try:
            return kind.in_dll(loaded, name)
        except ValueError:
            continue
    return None


def library(name: str, part: str = "libmpi") -> Any:
    """The function `name` of the MPI library that is loaded, as ctypes has it; None if there is none. `part`: of which of its
    libraries, by what its file's name has in it."""
    return next((found for loaded in _libraries(part) if (found := getattr(loaded, name, None)) is not None), None)


def _libraries(part: str = "libmpi") -> Iterator[ctypes.CDLL]:
    try:
        with open("/proc/self/maps") as maps:
            paths = {line.split(maxsplit=5)[5].strip() for line in maps if part in line}
    except OSError:
        return
    for path in sorted(paths):
        try:
            yield ctypes.CDLL(path)
        except OSError:
            continue
