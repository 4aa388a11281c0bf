"""Streams and parities that go from one node's place to another's, or between two places of a node, a few MiB at a time.

Of each move both processes know what became of it before anything is proved: a sender that can't read goes on with blocks of
nothing and says so at the end, a receiver that can't write takes them in and drops them. So no failure of storage breaks the
channel, and what else can be done is done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from typing import NamedTuple

from ..catalog.places import PARITY_BLOCK, Held
from ..errors import DamageError, HoldfastError
from ..group.channel import Moving
from ..store.aligned import empty
from .files import Arriving, Here, Leaving
from .holdings import PLACES
from .member import LOCAL
from .messages import BadSource, SourceError, heard, outcome, read_outcome, receive, send, wait

BLOCK = 4 * PARITY_BLOCK  # bytes that are sent at once, two of them under way


class Move(NamedTuple):
    """A rank's stream, or its parity, at a place (index in PLACES) of another node, by the processes that send and receive it.
    `keep`: the parity that the receiver has of a stream is still good."""

    rank: int
    place: int
    parity: bool
    sender: int
    receiver: int
    keep: bool


def in_rounds(parties: Sequence[Collection[int]]) -> list[int]:
    """An order of things each of which needs several processes, for all to go through: those that share none come next to
    each other, and are done side by side. (In any other order each may wait for the one before, through all nodes.)"""
    busy: dict[int, int] = {}
    rounds = []
    for processes in parties:
        taken = 0
        for process in processes:
            taken |= busy.get(process, 0)
        free = ~taken & (taken + 1)
        for process in processes:
            busy[process] = busy.get(process, 0) | free
        rounds.append(free.bit_length())
    return sorted(range(len(rounds)), key=rounds.__getitem__)


def send_move(here: Here, version: str, move: Move) -> None:
    """The sender's side. What can't be read goes to `here.errors`. DeadlineError, RankError of the channel."""
    road = _Road(here, move.receiver, f"moving rank {move.rank} of version {version}")
    source = BadSource(version, move.rank, PLACES[move.place], here.node, move.parity)
    try:
        leaving = Leaving(here.place(move.place), version, move.rank, move.parity)
    except LOCAL as found:
        error: Exception | None = source_error(found, source)
        here.errors.append(source_error(found, source))
        road.say(outcome(None, error))
        return
    error = None
    try:
        road.say(outcome(leaving.held.to_body(), None))
        if read_outcome(road.hear())[1] is not None:
            return  # nobody takes it; the receiver tells why
        memory = [empty(min(BLOCK, leaving.nbytes)) for _ in range(2)]
        under_way = deque[Moving]()
        for n, offset in enumerate(range(0, leaving.nbytes, BLOCK)):
            if len(under_way) == 2:
                road.wait(under_way.popleft())
            block = memory[n % 2][: leaving.nbytes - offset]
            if error is None:
                try:
                    leaving.read(offset, block)
                except LOCAL as found:
                    error = source_error(found, source)
            under_way.append(here.channel.send(move.receiver, block))
        while under_way:
            road.wait(under_way.popleft())
        road.say(outcome(leaving.part, error))
    finally:
        leaving.close()
        if error is not None:
            here.errors.append(error)


def receive_move(here: Here, version: str, move: Move) -> None:
    """The receiver's side. If it does not succeed, nothing of it is left, and the error is in `here.errors`. DeadlineError,
    RankError of the channel."""
    road = _Road(here, move.sender, f"moving rank {move.rank} of version {version}")
    body, bad = read_outcome(road.hear())
    if bad is not None:
        here.errors.append(heard(bad, move.sender))
        return
    try:
        held = Held.from_body(body, "The record that was sent")
        arriving = Arriving(here, move.place, held, version, move.rank, parity=move.parity, keep=move.keep)
    except LOCAL as found:
        here.errors.append(found)
        road.say(outcome(None, found))
        return
    try:
        road.say(outcome(None, None))
        memory = [empty(min(BLOCK, arriving.nbytes)) for _ in range(2)]
        offsets = range(0, arriving.nbytes, BLOCK)
        blocks = [memory[n % 2][: arriving.nbytes - offset] for n, offset in enumerate(offsets)]
        under_way = deque(here.channel.receive(move.sender, block) for block in blocks[:2])
        for n, offset in enumerate(offsets):
            road.wait(under_way.popleft())
            arriving.write(offset, blocks[n])
            if n + 2 < len(blocks):
                under_way.append(here.channel.receive(move.sender, blocks[n + 2]))
        part, bad = read_outcome(road.hear())
        done = arriving.finish(part) if bad is None else None
    except BaseException:
        arriving.abort()
        raise
    if done is not None:
        here.finished(done)
        return
    arriving.abort()
    error = arriving.error if bad is None else heard(bad, move.sender)
    assert error is not None
    here.errors.append(error)


def copy_stream(here: Here, source: int, place: int, version: str, rank: int, *, keep: bool) -> None:
    """A stream from one place of this node into another (indexes in PLACES). `keep`: the parity that is there already is good.
    Raises what is in LOCAL."""
    bad = BadSource(version, rank, PLACES[source], here.node, False)
    try:
        leaving = Leaving(here.place(source), version, rank, False)
    except LOCAL as error:
        raise source_error(error, bad) from error
    try:
        arriving = Arriving(here, place, leaving.held, version, rank, parity=False, keep=keep)
        try:
            memory = empty(min(BLOCK, leaving.nbytes))
            for offset in range(0, leaving.nbytes, BLOCK):
                block = memory[: leaving.nbytes - offset]
                try:
                    leaving.read(offset, block)
                except LOCAL as error:
                    raise source_error(error, bad) from error
                arriving.write(offset, block)
            done = arriving.finish(leaving.part)
            if arriving.error is not None:
                raise arriving.error
        except BaseException:
            arriving.abort()
            raise
        if done is not None:
            here.finished(done._replace(how="copied"))
    finally:
        leaving.close()


def source_error(error: Exception, source: BadSource) -> SourceError:
    """That what a plan takes from a node can't be read there."""
    said = error.message if isinstance(error, HoldfastError) else f"{type(error).__name__}: {error}"
    return SourceError(
        f"The {'parity' if source.parity else 'state'} of rank {source.rank}, version {source.version}, can't be read from "
        f"{source.place} of {source.node}: {said}",
        source=source,
        rank=source.rank,
        version=int(source.version.partition("-")[0]),
        file=error.file if isinstance(error, HoldfastError) else None,
        offset=error.offset if isinstance(error, DamageError) else None,
    )


class _Road:
    """To and from one other process."""

    def __init__(self, here: Here, peer: int, what: str) -> None:
        self._here, self._peer, self._what = here, peer, what

    def say(self, message: bytes) -> None:
        for moving in send(self._here.channel, [self._peer], message):
            self.wait(moving)

    def hear(self) -> bytes:
        return receive(self._here.channel, [self._peer], self._here.timeout, self._what)[self._peer]

    def wait(self, moving: Moving) -> None:
        wait([moving], [self._peer], self._here.channel, self._here.timeout, self._what)
