"""Blocks sent between the members of a set, added up where they arrive: encoding and rebuilding alike.

What is to be computed is a list of sums that all processes have in the same order. It is gone through block by block; each
process sends what others need of it and computes what is its own, some steps ahead, so that blocks travel while others
are added up. Messages between two processes have no numbers: both go through the same list. Memory is bounded by the steps
under way.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from ..errors import DeadlineError
from ..group.channel import Channel, Moving
from ..store.aligned import empty
from ..store.base import Bytes
from .coding import add_up
from .scheme import Scheme, Sum, Symbol

BLOCK = 1 << 20  # bytes of a symbol that are sent at once
MEMORY = 16 << 20  # bytes for blocks on their way, about: more of it is slower, since less of it stays in caches


# Blocks of exchanges that are over. Fresh memory costs as much as a tenth of an exchange: each page is cleared by the kernel.
_spare: list[Bytes] = []


class Member(Protocol):
    """What a process keeps for one member. Called by one thread."""

    def read(self, parity: bool, number: int, offset: int, nbytes: int) -> Bytes:
        """Bytes of chunk or parity `number` from `offset` on; they stay as they are until `release`."""

    def release(self, block: Bytes) -> None:
        """A block that `read` gave is needed no longer."""

    def write(self, parity: bool, number: int, offset: int, block: Bytes) -> None:
        """Keep what was computed. `block` is the caller's again on return."""


@runtime_checkable
class MemoryMember(Member, Protocol):
    """A member that has in memory what it is to keep: sums are computed where they stay, and are not copied."""

    def room_for(self, parity: bool, number: int, offset: int, nbytes: int) -> Bytes:
        """Memory (uint8, one-dimensional, contiguous, writable, and no part of what `read` has given) in which the block is
        computed with which `write` is called then."""


class _Step(NamedTuple):
    """One block of one sum."""

    symbol: Symbol
    offset: int
    nbytes: int
    terms: list[tuple[Symbol, int, int]]  # symbol, coefficient, bytes of it that are there: the rest is zero


class _Sending(NamedTuple):
    moving: Moving
    member: Member
    block: Bytes


class _Part(NamedTuple):
    """A term of a sum: `block`, as much of its symbol as is there, in staging memory or as `member` has given it."""

    coefficient: int
    block: Bytes
    staging: Bytes | None
    member: Member | None


class _Receiving(NamedTuple):
    """A sum under way here."""

    step: _Step
    arriving: list[Moving]
    parts: list[_Part]


def exchange(
    channel: Channel,
    scheme: Scheme,
    nbytes: Sequence[int],
    sums: Sequence[Sum],
    homes: Sequence[int],
    members: Mapping[int, Member],
    timeout: float,
    what: str,
) -> None:
    """Compute all `sums` of a set (collective over the processes in `homes`, which make their calls in the same order).

    `nbytes`: of each member's stream; `homes`: for each member, the rank in `channel` of the process that keeps it, or is
    going to; `members`: those that this process keeps. Raises DeadlineError when nothing has moved for `timeout` seconds,
    RankError, and what a member raises; what the others send is then left unread: the channel is not to be used again.
    """
    _Exchange(channel, scheme, nbytes, homes, members, timeout, what).run(sums)


class _Exchange:
    def __init__(
        self,
        channel: Channel,
        scheme: Scheme,
        nbytes: Sequence[int],
        homes: Sequence[int],
        members: Mapping[int, Member],
        timeout: float,
        what: str,
    ) -> None:
        self.channel, self.scheme, self.nbytes, self.homes, self.members = channel, scheme, nbytes, homes, members
        self.placing = {i: member for i, member in members.items() if isinstance(member, MemoryMember)}
        self.timeout, self.what = timeout, what
        self.chunk = scheme.chunk(nbytes)
        # A sum under way has k blocks arriving and one in which they are added up; about as many are on their way out.
        self.ahead = max(2, min(8, MEMORY // ((2 * scheme.k + 1) * BLOCK)))
        self.sending: deque[_Sending] = deque()
        self.receiving: deque[_Receiving] = deque()
        self.free: list[Bytes] = []
        self.moved = time.monotonic()

    def run(self, sums: Sequence[Sum]) -> None:
        for step in self._steps(sums):
            self._send(step)
            if step.symbol.member in self.members:
                self._receive(step)
            while len(self.receiving) > self.ahead or len(self.sending) > self.ahead * self.scheme.k:
                self._progress()
        while self.receiving or self.sending:
            self._progress()
        # After a failure they stay where they are: a message may still come into them.
        _spare.extend(self.free)
        del _spare[MEMORY // BLOCK :]

    def _steps(self, sums: Sequence[Sum]) -> Iterator[_Step]:
        """Those that this process takes part in, in the order of all."""
        ours = [
            s for s in sums if s.symbol.member in self.members or any(t.member in self.members for t, _ in s.terms)
        ]
        for offset in range(0, self.chunk, BLOCK):
            for each in ours:
                size = self._there(each.symbol, offset)
                if size:
                    terms = [(t, c, min(n, size)) for t, c in each.terms if (n := self._there(t, offset))]
                    yield _Step(each.symbol, offset, size, terms)

    def _there(self, symbol: Symbol, offset: int) -> int:
        """How many bytes of the block at `offset` are not known to be zero."""
        end = self.chunk
        if not symbol.parity:
            end = min(end, self.nbytes[symbol.member] - symbol.number * self.chunk)
        return max(0, min(BLOCK, end - offset))

    def _send(self, step: _Step) -> None:
        to = self.homes[step.symbol.member]
        for symbol, _, nbytes in step.terms:
            if to == self.channel.rank or symbol.member not in self.members:
                continue
            member = self.members[symbol.member]
            block = member.read(symbol.parity, symbol.number, step.offset, nbytes)
            self.sending.append(_Sending(self.channel.send(to, block), member, block))

    def _receive(self, step: _Step) -> None:
        arriving, parts = [], []
        for symbol, coefficient, nbytes in step.terms:
            member = self.members.get(symbol.member)
            if member is not None:
                block = member.read(symbol.parity, symbol.number, step.offset, nbytes)
                parts.append(_Part(coefficient, block, None, member))
            else:
                staging = self._staging()
                arriving.append(self.channel.receive(self.homes[symbol.member], staging[:nbytes]))
                parts.append(_Part(coefficient, staging[:nbytes], staging, None))
        self.receiving.append(_Receiving(step, arriving, parts))

    def _progress(self) -> None:
        """Take what has arrived; wait a little if nothing has. The first in line first: the others' blocks come behind its."""
        while self.sending and self.sending[0].moving.done():
            sent = self.sending.popleft()
            sent.member.release(sent.block)
            self.moved = time.monotonic()
        if self.receiving and all(moving.done() for moving in self.receiving[0].arriving):
            self._finish(self.receiving.popleft())
            self.moved = time.monotonic()
            return
        idle = time.monotonic() - self.moved
        if idle > self.timeout:
            raise DeadlineError(
                f"{self.what}: nothing has come from the other members of the redundancy set for {self.timeout:.4g} s. "
                "Versions "
                "are as they were; this one is not protected. See whether their ranks are hung, stopped or gone.",
            )
        if idle > 2e-3:
            time.sleep(min(idle / 16, 1e-3))
        else:
            time.sleep(0)  # another process may have the very block, and wait for this core

    def _finish(self, sum_: _Receiving) -> None:
        step, blocks, used = sum_.step, [], []
        symbol = step.symbol
        for part in sum_.parts:
            block, staging = part.block, part.staging
            if block.nbytes < step.nbytes:  # its stream ends within: zeros follow
                if staging is None:
                    staging = self._staging()
                    staging[: block.nbytes] = block
                staging[block.nbytes : step.nbytes] = 0
                block = staging[: step.nbytes]
            blocks.append(block)
            if staging is not None:
                used.append(staging)
        if len(blocks) == 1 and sum_.parts[0].coefficient == 1:
            total = blocks[0]  # the other's as it is: so do partners keep it
        else:
            placing = self.placing.get(symbol.member)
            if placing is not None:
                total = placing.room_for(symbol.parity, symbol.number, step.offset, step.nbytes)
            else:
                used.append(self._staging())
                total = used[-1][: step.nbytes]
            if blocks:
                add_up(total, [part.coefficient for part in sum_.parts], blocks)
            else:
                total[:] = 0
        self.members[symbol.member].write(symbol.parity, symbol.number, step.offset, total)
        self.free += used
        for part in sum_.parts:
            if part.member is not None:
                part.member.release(part.block)

    def _staging(self) -> Bytes:
        if not self.free:
            try:
                self.free.append(_spare.pop())
            except IndexError:
                both = empty(2 * BLOCK)  # a huge page, where there are some
                self.free += (both[:BLOCK], both[BLOCK:])
        return self.free.pop()
