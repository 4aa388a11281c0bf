"""What a group is: the calls that everything above uses to talk to other ranks."""

from __future__ import annotations

from typing import Protocol


class Pending(Protocol):
    """A nonblocking element-wise maximum of a few integers over all ranks, under way.

    Call `wait`, or `test` until it answers, before the group is closed. Both may be called again after that.
    """

    def test(self) -> tuple[int, ...] | None:
        """The maxima, or None while a rank is missing (local; never waits; makes progress). RankError."""
        ...

    def wait(self) -> tuple[int, ...]:
        """The maxima (local; waits at most the group's timeout). DeadlineError, RankError."""
        ...


class Group(Protocol):
    """The ranks that take part. One thread at a time may use a group; calls are collective over the ranks
    named, and every rank makes them in the same order.

    `rank`, `size`: this process's place, 0 to size - 1; `comm`: the communicator with which the program
    computes (the group's own traffic never uses it). `what` names the call in messages: "checkpoint 42".

    `patience`: the wait is bounded by `patience` times the group's timeout. A call that waits for what other
    ranks can say only after a wait of their own takes one more, or it would give up just before the answer.

    After a `DeadlineError` the group stays usable: late messages of the call are recognised and dropped,
    provided that a rank that was late makes its part of the call nevertheless, before any later one. If it does not, its next
    call meets another's message: RankError on who receives that, which is known by `what`. So all ranks give a call the same
    name, and calls in a row different ones.
    """

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    @property
    def comm(self) -> object: ...

    def gather(self, data: bytes, members: range, what: str, *, patience: int = 1) -> list[bytes] | None:
        """Collect every member's bytes at `members[0]` (collective over `members`).

        Returns the list in the order of `members` at `members[0]`, None elsewhere, where it returns as soon as
        the bytes are on their way. Any length, also different on each rank. DeadlineError, RankError, UsageError.
        """
        ...

    def broadcast(self, data: bytes | None, members: range, what: str, *, patience: int = 1) -> bytes:
        """Give the bytes of `members[0]` to all members (collective over `members`; `data` counts there only).

        DeadlineError, RankError, UsageError. At `members[0]` an error means that some member has not taken the
        bytes; the others have.
        """
        ...

    def begin_max(self, *values: int) -> Pending:
        """Begin the element-wise maximum of one to four signed 64-bit integers over all ranks (collective; never waits).

        Ranks may pass different numbers of them: each gets as many as it passed, and a missing one is less than any.
        Several may be under way; they match in the order in which they were begun. RankError, UsageError.
        """
        ...

    def close(self) -> None:
        """Take part in nothing any more (local; again is fine)."""
        ...
