"""One repair of the crew, as a state machine that starts again at any failure.

    REVOKE -> SHRINK -> ROLL CALL -> QUORUM -> ASSIGN -> MAKE -> CONFIRM -> done
      ^                                                              |
      +------------ a failure at any step (Lost), time left ---------+

It knows nothing of MPI: what it does with it stands in `Means`, so that tests can put a world of their own there. Three
rules make it safe to start again at any point, whatever other processes have seen meanwhile.

1. All processes always shrink the same communicator, the one that the crew was formed with. It is never revoked and never
   replaced: whoever is one attempt behind or has confirmed what another has not meets the others in Shrink.
2. A process keeps its role and its counts until it has confirmed. What it reports in the roll call is what it last
   confirmed, so no two living processes ever report the same role: a role is dealt only if nobody in the roll call has it.
3. Everything that is decided follows from the roll call alone, which is the same for all that have it. Whoever lacks
   it, or lacks the confirmation, revokes the new communicators, and so calls back those who have gone on already.
"""

from __future__ import annotations

import contextlib
import functools
import operator
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from ...errors import RepairError

NO_ROLE = -1


class Lost(Exception):
    """A step failed: somebody is gone, or has called it off, or is late. Start again."""


class Card(NamedTuple):
    """What a process says of itself in the roll call, all as it last confirmed it.

    role: its rank in the run, or NO_ROLE. repairs: repairs that it has confirmed. counted: processes that were
    alive in the last of these, or when the crew was formed. dead: a bit for each spare of these that is known not to live any
    more, because its node has seen it gone: not because nothing is heard of it. failed, at, alone: of no interest here, and
    told along: how often in a row its program has failed at step `at`, and whether by an error of its own.
    """

    role: int
    repairs: int
    counted: int
    dead: int = 0
    failed: int = 0
    at: int = -1
    alone: int = 0


class Means(Protocol):
    """What a repair does with the world. Each may raise Lost. `seconds`: give up after that, with Lost, if that is possible."""

    def revoke(self) -> None:
        """Interrupt everyone in calls on communicators of earlier attempts and of the program. Never blocks."""

    def gone(self) -> tuple[int, int]:
        """How many of the crew as it was last confirmed are held for dead here, and how many of these are spares. Local; others
        may know of more."""

    def shrink(self) -> None:
        """From now on the crew is those alive (collective over these; blocking). A new communicator for the steps behind."""

    def roll_call(self, card: Card, seconds: float) -> list[Card]:
        """The cards of all of the crew, in its order (collective over the crew)."""

    def make(self, roles: Sequence[int]) -> Any:
        """The communicator of those with roles, in their order; None on a spare (collective over the crew; blocking).
        roles[i] is the role of the crew's i-th process."""

    def confirm(self, digest: int, seconds: float) -> bool:
        """Whether all of the crew have come here with the same digest (collective over the crew)."""

    def me(self) -> int:
        """This process's place in the crew's order."""


class Plan(NamedTuple):
    """What follows from a roll call: the new roles in the crew's order, roles that others take over, repairs then."""

    roles: tuple[int, ...]
    lost: tuple[int, ...]
    repairs: int

    @property
    def digest(self) -> int:
        return zlib.crc32(repr(tuple(self)).encode())


@dataclass(frozen=True)
class Repaired:
    """What a process has after a repair: its card, all cards of the roll call, the whole crew's roles, roles replaced,
    communicator (None: a spare)."""

    card: Card
    cards: tuple[Card, ...]
    roles: tuple[int, ...]
    lost: tuple[int, ...]
    comm: Any
    tries: int


def assign(cards: Sequence[Card], size: int) -> Plan:
    """The plan for a crew with these cards and a run of `size` ranks: the first spares take the lost roles, in order.

    RepairError, the same on all that have these cards, without a quorum, with spares alone, or with too few of them.
    """
    repairs = max(card.repairs for card in cards)
    newest = [card for card in cards if card.repairs == repairs]
    dead = functools.reduce(operator.or_, (card.dead for card in newest))
    _check_quorum(len(cards), max(card.counted for card in newest) - dead.bit_count())
    roles = [card.role for card in cards]
    if all(role == NO_ROLE for role in roles):
        # More spares than half of the crew are a quorum by their number. If they are cut off, the ranks have lost nobody
        # that they need, and go on.
        raise RepairError(
            f"none of the {len(cards)} processes that are left is a rank; the ranks may go on elsewhere. {_NEXT}"
        )
    lost = [role for role in range(size) if role not in roles]
    spares = [place for place, role in enumerate(roles) if role == NO_ROLE]
    if len(spares) < len(lost):
        raise RepairError(
            f"{len(lost)} of {size} ranks are lost ({', '.join(map(str, lost[:8]))}{', ...' * (len(lost) > 8)}), "
            f"and there {'is 1 spare' if len(spares) == 1 else f'are {len(spares)} spares'}. {_NEXT}"
        )
    for place, role in zip(spares, lost, strict=False):
        roles[place] = role
    return Plan(tuple(roles), tuple(lost), repairs + 1)


def repair(
    means: Means,
    card: Card,
    size: int,
    *,
    step_seconds: float,
    whole_seconds: float,
    step: Callable[[str, float], AbstractContextManager[None]],
    clock: Callable[[], float] = time.monotonic,
    dead: Callable[[], int] = lambda: 0,
) -> Repaired:
    """Repair the crew: every living process of it calls this, as often as it is called off.

    dead: the card's, as of now. It is asked when all that live are known: who is not among them may have ended just then.
    step: the watchdog's (`Watchdog.step`): it ends the process when a blocking step is not over by its deadline.
    Returns when all have confirmed the same crew. RepairError without quorum, with too few spares, or when `whole_seconds`
    are over: the process then has to leave.
    """
    end = clock() + whole_seconds
    tries = 0
    why: Lost | None = None
    while (left := end - clock()) > 0:
        tries += 1
        try:
            with step("revoking what was broken", min(step_seconds, left)):
                means.revoke()
                # The dead do not come back: no need for Shrink to say so, which was seen to hang after many deaths.
                # Of the spares another process may know that they need not be counted.
                gone, spares = means.gone()
                _check_quorum(card.counted - gone, card.counted - spares)
            # All that are alive have to come here first, and some may be in the middle of a long computation: the whole time.
            with step("finding out who is alive (Shrink)", left):
                means.shrink()
            with step("the roll call", 2 * step_seconds):
                cards = means.roll_call(card._replace(dead=dead()), step_seconds)
            try:
                plan = assign(cards, size)
            except RepairError as verdict:
                # Whoever left at once would be one more death, in the roll call of those who are behind: Shrink was
                # seen to hang on these. All who have the cards come to the same verdict, whatever becomes of this.
                with step("the agreement to give up", 2 * step_seconds), contextlib.suppress(Lost):
                    means.confirm(zlib.crc32(verdict.message.encode()), step_seconds)
                raise
            with step("making the new communicator (Split)", step_seconds):
                comm = means.make(plan.roles)
            with step("the confirmation", 2 * step_seconds):
                if not means.confirm(plan.digest, step_seconds):
                    raise Lost("processes have different plans")
        except Lost as error:
            why = error
            continue
        except RepairError:
            means.revoke()  # those who lack the roll call are to find out as well
            raise
        mine = Card(plan.roles[means.me()], plan.repairs, len(cards))
        return Repaired(mine, tuple(cards), plan.roles, plan.lost, comm, tries)
    raise RepairError(
        f"the processes have not come together again in {whole_seconds:.4g} s ({tries} tries: {why}). {_NEXT}"
    )


def _check_quorum(alive: int, counted: int) -> None:
    """`counted`: those who may be in either half, should the network be cut. The dead are in none: each half may count out as
    many of them as it knows, and still two halves never both have more than half of the rest."""
    if 2 * alive <= counted:
        raise RepairError(
            f"{alive} of {counted} processes are left: no more than half, the others may go on elsewhere. {_NEXT}"
        )


_NEXT = (
    "Committed versions are as they were. This process has to leave, and the program to be started again: it resumes."
)
