"""Blocks sent between the members of a set, added up where they arrive: encoding and rebuilding alike.

What is to be computed is a list of sums that all processes have in the same order. It is gone through block by block, in
the steps of `steps.py`; each process sends what others need of it and computes what is its own, some steps ahead, so that
blocks travel while others are added up. Memory is bounded by the steps under way.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from ..errors import DeadlineError
from ..group.channel import Channel, Moving
from ..group.waiting import ranks_text
from ..store.aligned import empty
from ..store.base import Bytes
from .coding import add_up_all
from .scheme import Scheme, Sum, Symbol
from .steps import Shape, events

BLOCK = 2 << 20  # bytes of a symbol that are sent at once, at most: each costs the interpreter some 50 µs
MEMORY = 16 << 20  # bytes for blocks on their way, about: more of it is slower, since less of it stays in caches


# Blocks of exchanges that are over. Fresh memory costs as much as a tenth of an exchange: each page is cleared by the kernel.
_spare: list[Bytes] = []


def block_bytes(scheme: Scheme) -> int:
    """Bytes of a symbol that are sent at once: so many that the steps under way keep within MEMORY, a power of two."""
    return min(BLOCK, max(1 << 16, 1 << (MEMORY // (2 * scheme.n)).bit_length() - 1))


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


class _Sending(NamedTuple):
    to: int
    moving: Moving
    block: Bytes
    member: Member | None  # who has given the block; None: it was computed, in staging memory


class _Part(NamedTuple):
    """A term of a sum: `block`, as much of its symbol as is there, in staging memory or as `member` has given it."""

    block: Bytes
    staging: Bytes | None
    member: Member | None


class _Computing(NamedTuple):
    """A step whose terms are on their way here."""

    here: _Here
    offset: int
    arriving: list[Moving]
    parts: list[_Part]


class _Landing(NamedTuple):
    """A result on its way here that another process has computed: the first `sent` bytes of `block`, the others are zero."""

    home: int
    moving: Moving | None
    symbol: Symbol
    offset: int
    block: Bytes
    sent: int
    staging: Bytes | None


class _Result(NamedTuple):
    """What was computed here for another process."""

    to: int
    block: Bytes
    staging: Bytes


class _Here(NamedTuple):
    """What a step is for this process: with the members that it keeps, or None and where the member is."""

    shape: Shape
    home: bool
    given: list[tuple[Member, Symbol, int]]  # of the terms, those that it has
    terms: list[tuple[Member | None, int, Symbol, int]]
    results: list[tuple[Member | None, int, Symbol, int]]
    kept: bool  # no result is another's


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
        # A step has k blocks arriving and as many results as there are parities, at most; what waits to be sent on is bounded
        # by itself, and is no copy where a member has its stream in memory.
        self.block = block_bytes(scheme)
        self.ahead = max(1, min(8, MEMORY // (2 * scheme.n * self.block)))
        self.most_sending = max(2 * scheme.k, MEMORY // self.block)
        self.sending: deque[_Sending] = deque()
        self.computing: deque[_Computing] = deque()
        self.landing: deque[_Landing] = deque()
        self.computed: deque[list[_Result]] = deque()
        self.free: list[Bytes] = []
        self.moved = time.monotonic()

    def run(self, sums: Sequence[Sum]) -> None:
        heres: dict[Shape, _Here] = {}
        for shape, offset, late in events(self.scheme, self.nbytes, sums, self.homes, self.block, self.ahead):
            here = heres.get(shape)
            if here is None:
                here = heres[shape] = self._here(shape)
            if not late:
                if here.home:
                    self._receive(here, offset)
                else:
                    self._send(here, offset)
            elif here.home:
                while not self.computed:
                    self._progress()
                for result in self.computed.popleft():
                    self.sending.append(_Sending(result.to, self.channel.send(result.to, result.block), result.staging, None))
            else:
                self._land(here, offset)
            while (
                len(self.computing) > self.ahead
                or len(self.sending) > self.most_sending
                or len(self.landing) > self.ahead * self.scheme.m
            ):
                self._progress()
        while self.computing or self.sending or self.landing:
            self._progress()
        # After a failure they stay where they are: a message may still come into them.
        _spare.extend(self.free)
        del _spare[MEMORY // self.block :]

    def _here(self, shape: Shape) -> _Here:
        def found(symbols: Sequence[tuple[Symbol, int]]) -> list[tuple[Member | None, int, Symbol, int]]:
            return [(self.members.get(s.member), self.homes[s.member], s, nbytes) for s, nbytes in symbols]

        terms, results = found(shape.terms), found(shape.results)
        given = [(member, symbol, nbytes) for member, _, symbol, nbytes in terms if member is not None]
        kept = all(member is not None for member, *_ in results)
        return _Here(shape, shape.home == self.channel.rank, given, terms, results, kept)

    def _send(self, here: _Here, offset: int) -> None:
        for member, symbol, nbytes in here.given:
            block = member.read(symbol.parity, symbol.number, offset, nbytes)
            self.sending.append(_Sending(here.shape.home, self.channel.send(here.shape.home, block), block, member))

    def _receive(self, here: _Here, offset: int) -> None:
        arriving, parts = [], []
        for member, source, symbol, nbytes in here.terms:
            if member is not None:
                parts.append(_Part(member.read(symbol.parity, symbol.number, offset, nbytes), None, member))
            else:
                staging = self._staging()
                block = staging[:nbytes]
                arriving.append(self.channel.receive(source, block))
                parts.append(_Part(block, staging, None))
        self.computing.append(_Computing(here, offset, arriving, parts))

    def _land(self, here: _Here, offset: int) -> None:
        for member, _, symbol, nbytes in here.results:
            if member is None:
                continue
            block = self._room(symbol, offset, nbytes)
            staging = None
            if block is None:
                staging = self._staging()
                block = staging[:nbytes]
            sent = min(nbytes, here.shape.known)
            moving = self.channel.receive(here.shape.home, block[:sent]) if sent else None
            self.landing.append(_Landing(here.shape.home, moving, symbol, offset, block, sent, staging))

    def _progress(self) -> None:
        """Take what has arrived; wait a little if nothing has. The first in line first: the others' blocks come behind its."""
        before = len(self.sending), len(self.landing)
        while self.sending and self.sending[0].moving.done():
            sent = self.sending.popleft()
            if sent.member is None:
                self.free.append(sent.block)
            else:
                sent.member.release(sent.block)
        while self.landing and ((moving := self.landing[0].moving) is None or moving.done()):
            self._keep(self.landing.popleft())
        if self.computing and self._has_arrived(self.computing[0]):
            self._compute(self.computing.popleft())
        elif before == (len(self.sending), len(self.landing)):
            self._wait()
            return
        self.moved = time.monotonic()

    def _has_arrived(self, computing: _Computing) -> bool:
        arriving = computing.arriving
        while arriving and arriving[-1].done():
            arriving.pop()
        return not arriving

    def _wait(self) -> None:
        idle = time.monotonic() - self.moved
        if idle > self.timeout:
            late = sorted(self._awaited())
            raise DeadlineError(
                f"{self.what}: nothing has come from the other members of the redundancy set for {self.timeout:.4g} s; waited "
                f"for {ranks_text(late)}. Versions are as they were; this one is not protected. See whether their ranks are "
                "hung, stopped or gone.",
                rank=late[0] if late else None,
            )
        if idle > 2e-3:
            time.sleep(min(idle / 16, 1e-3))
        else:
            time.sleep(0)  # another process may have the very block, and wait for this core

    def _awaited(self) -> set[int]:
        """Ranks of the channel of which a message, or the word that one was taken, has not come."""
        found = {sending.to for sending in self.sending} | {landing.home for landing in self.landing}
        for computing in self.computing:
            sources = [source for member, source, *_ in computing.here.terms if member is None]
            found.update(sources[: len(computing.arriving)])
        return found

    def _keep(self, landing: _Landing) -> None:
        block, symbol = landing.block, landing.symbol
        if landing.sent < block.nbytes:
            block[landing.sent :] = 0
        self.members[symbol.member].write(symbol.parity, symbol.number, landing.offset, block)
        if landing.staging is not None:
            self.free.append(landing.staging)

    def _compute(self, computing: _Computing) -> None:
        here, offset, _, parts = computing
        shape = here.shape
        size = shape.nbytes
        blocks, used = [], []
        for block, staging, member in parts:
            if block.nbytes < size:  # its stream ends within: zeros follow
                end = block.nbytes
                if member is not None:
                    staging = self._staging()
                    staging[:end] = block
                assert staging is not None
                staging[end:size] = 0
                block = staging[:size]
            blocks.append(block)
            if staging is not None:
                used.append(staging)
        outs: list[Bytes] = []
        computed: list[_Result] = []
        if shape.rows == ((1,),) and here.kept:
            outs = blocks  # the other's as it is: so do partners keep it
        else:
            for member, home, symbol, nbytes in here.results:
                out = self._room(symbol, offset, nbytes) if nbytes == size else None
                if out is None:
                    staging = self._staging()
                    out = staging[:size]
                    if member is None and shape.known:
                        computed.append(_Result(home, out[: min(nbytes, shape.known)], staging))
                    else:
                        used.append(staging)
                outs.append(out)
            add_up_all(outs, shape.rows, blocks)
        for (member, _, symbol, nbytes), out in zip(here.results, outs, strict=True):
            if member is not None:
                member.write(symbol.parity, symbol.number, offset, out[:nbytes])
        if not here.kept:
            self.computed.append(computed)
        self.free += used
        for block, _, member in parts:
            if member is not None:
                member.release(block)

    def _room(self, symbol: Symbol, offset: int, nbytes: int) -> Bytes | None:
        placing = self.placing.get(symbol.member)
        return None if placing is None else placing.room_for(symbol.parity, symbol.number, offset, nbytes)

    def _staging(self) -> Bytes:
        if not self.free:
            while _spare:
                if (block := _spare.pop()).nbytes == self.block:  # not those of a set of another size
                    self.free.append(block)
                    return self.free.pop()
            page = empty(max(self.block, BLOCK))  # a huge page, where there are some
            self.free += (page[at : at + self.block] for at in range(0, page.nbytes, self.block))
        return self.free.pop()
