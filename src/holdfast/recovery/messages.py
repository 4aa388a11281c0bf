"""Small messages between processes that carry out one thing together: what each has, and what went wrong for it.

Over a channel, in which messages from one process to another arrive in order and have no numbers: those who talk do so at the
same point of a list that all go through.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import Cause, DamageError, HoldfastError, RankError
from ..group.channel import Channel, Moving
from ..group.waiting import deadline_error, wait_until
from .wire import pack, unpack


class BadSource(NamedTuple):
    """What could not be read: `version` (name), `rank`, `place` (its kind), `node` (its name), and whether it is the rank's
    parity (else its stream: data file or part)."""

    version: str
    rank: int
    place: str
    node: str
    parity: bool


class SourceError(DamageError):
    """What a plan wanted to take from a node can't be read there. Nothing was proved by it and nothing that counts was
    changed: plan again without `source`, which is None only where the error came by another road than a recovery's."""

    def __init__(self, message: str, *, source: BadSource | None = None, **kw: Any) -> None:
        super().__init__(message, **kw)
        self.source = source

    def to_wire(self) -> dict[str, Any]:
        return {**super().to_wire(), "source": self.source and list(self.source)}


_MOST = 1 << 30  # bytes of a message: what a header may claim is bounded by this


def wait(moving: Sequence[Moving], peers: Sequence[int], channel: Channel, timeout: float, what: str) -> None:
    """Until all are done. DeadlineError, naming those of `peers` (one for each) that are not after `timeout` seconds."""
    left = list(zip(moving, peers, strict=True))

    def done() -> bool:
        left[:] = [(one, peer) for one, peer in left if not one.done()]
        return not left

    if not wait_until(done, timeout):
        raise deadline_error(what, channel.rank, {peer for _, peer in left}, timeout)


def send(channel: Channel, peers: Sequence[int], message: bytes) -> list[Moving]:
    """Begin to send a message to each: two for each in the list."""
    size = np.frombuffer(len(message).to_bytes(8, "little"), np.uint8)
    body = np.frombuffer(message or b"\0", np.uint8)
    return [channel.send(peer, data) for peer in peers for data in (size, body)]


def receive(channel: Channel, peers: Sequence[int], timeout: float, what: str) -> dict[int, bytes]:
    """The next message of each. DeadlineError, RankError."""
    sizes = [np.zeros(8, np.uint8) for _ in peers]
    arriving = [channel.receive(peer, size) for peer, size in zip(peers, sizes, strict=True)]
    wait(arriving, peers, channel, timeout, what)
    lengths = [int.from_bytes(size.tobytes(), "little") for size in sizes]
    for peer, length in zip(peers, lengths, strict=True):
        if length > _MOST:
            raise RankError(
                f"{what}: rank {peer} said something that is no message. Versions are as they were; end the program and start "
                "it again.",
                rank=peer,
            )
    bodies = [np.zeros(max(length, 1), np.uint8) for length in lengths]
    arriving = [channel.receive(peer, body) for peer, body in zip(peers, bodies, strict=True)]
    wait(arriving, peers, channel, timeout, what)
    return {p: body.tobytes()[:n] for p, body, n in zip(peers, bodies, lengths, strict=True)}


def share(channel: Channel, peers: Sequence[int], message: bytes, timeout: float, what: str) -> dict[int, bytes]:
    """Send `message` to each of `peers`, and give what each has sent, and this process itself (collective among them)."""
    others = [peer for peer in peers if peer != channel.rank]
    sending = send(channel, others, message)
    told = receive(channel, others, timeout, what)
    wait(sending, [peer for peer in others for _ in range(2)], channel, timeout, what)
    return {**told, channel.rank: message}


def outcome(value: Any, error: Exception | None) -> bytes:
    """A message: `value` (for MessagePack), or the error in its place."""
    return pack([value, None if error is None else to_wire(error)])


def read_outcome(message: bytes, parse: Callable[[Any], Any] = lambda value: value) -> tuple[Any, HoldfastError | None]:
    """(value, None) or (None, the error) of a message from `outcome`."""
    value, wire = unpack(message, "What another process said", lambda v: (v[0] if v[1] else parse(v[0]), v[1]))
    return (None, from_wire(wire)) if wire else (value, None)


def failure(told: dict[int, bytes], mine: Exception | None, own: int) -> Exception | None:
    """What is to be raised here after outcomes were shared: this process's own error, else the others' with who had it. What
    could not be read goes before the damage that comes of it."""
    others = [
        heard(error, process)
        for process, message in sorted(told.items())
        if process != own and (error := read_outcome(message)[1]) is not None
    ]
    others.sort(key=lambda error: not isinstance(error, SourceError))
    if mine is None or (type(mine) is DamageError and others and isinstance(others[0], SourceError)):
        return others[0] if others else None
    return mine


def heard(error: HoldfastError, process: int) -> HoldfastError:
    """Another process's error as this one raises it: damage as the damage that it is, so that all can plan without it."""
    cause = Cause(process, type(error).__name__, error.message)
    if isinstance(error, DamageError):
        error.causes = (cause,)
        return error
    return RankError(
        f"Rank {process} could not do its part: {error.message}", rank=process, version=error.version, causes=(cause,)
    )


def to_wire(error: Exception) -> dict[str, Any]:
    if isinstance(error, HoldfastError):
        return error.to_wire()
    return RankError(f"{type(error).__name__}: {error}").to_wire()


def from_wire(wire: dict[str, Any]) -> HoldfastError:
    """The error, with the source that it is about if it is a `SourceError`."""
    error = HoldfastError.from_wire(wire)
    if isinstance(error, SourceError) and wire.get("source"):
        error.source = BadSource(*wire["source"])
    return error
