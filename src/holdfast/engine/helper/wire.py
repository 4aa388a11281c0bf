"""What the program and the helper say to each other: length-prefixed MessagePack over a pair of sockets, descriptors
beside it.

A message is an array that begins with its kind. Units go as addresses and lengths, packed: a GiB is 256 units, and
each may have thousands of pieces.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from typing import Any, NamedTuple

import msgpack
import numpy as np
import numpy.typing as npt

from ...errors import DeadlineError
from ...format import DIGEST_BYTES
from ...store.aligned import address
from ..units import Unit

_HEADER = struct.Struct("<Q")


class Order(NamedTuple):
    """A unit as the helper sees it. `pieces`: int64, shape (n, 3): at, address in the program, bytes. `blocks`: (at,
    bytes). `known`: the digests that would make it needless to write, joined; None if it is written in any case.
    `mine`: if not, it is only digested."""

    number: int
    nbytes: int
    pieces: npt.NDArray[np.int64]
    blocks: list[tuple[int, int]]
    known: bytes | None
    mine: bool


def pack_unit(number: int, unit: Unit) -> list[Any]:
    """As a message holds it. The unit's memory must stay alive until the helper has done with it."""
    pieces: list[int] = []
    for at, memory in unit.pieces:
        pieces += (at, address(memory), memory.nbytes)
    blocks = [n for b in unit.blocks for n in (b.at, b.nbytes)]
    known = b"".join(b.known or b"" for b in unit.blocks) if unit.mine and unit.skippable else None
    return [number, unit.nbytes, _longs(pieces), _longs(blocks), known, unit.mine]


def unpack_unit(value: list[Any]) -> Order:
    number, nbytes, pieces, blocks, known, mine = value
    flat = memoryview(blocks).cast("q").tolist()
    pairs = list(zip(flat[::2], flat[1::2], strict=True))
    return Order(number, nbytes, np.frombuffer(pieces, np.int64).reshape(-1, 3), pairs, known, mine)


def split_digests(joined: bytes) -> list[bytes]:
    return [joined[i : i + DIGEST_BYTES] for i in range(0, len(joined), DIGEST_BYTES)]


def _longs(values: list[int]) -> bytes:
    return struct.pack(f"={len(values)}q", *values)


class Channel:
    """One end. Any thread may send; one thread receives."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._sending = threading.Lock()

    def send(self, message: list[Any], timeout: float | None, fd: int | None = None) -> None:
        """Send a message, and with it a descriptor, which stays open here. OSError if the other end is gone;
        DeadlineError if it takes nothing for `timeout` seconds: then, or after any error, the channel is of no more
        use."""
        body = msgpack.packb(message)
        rest = memoryview(_HEADER.pack(len(body)) + body)
        with self._sending:
            while rest:
                rest = rest[self._send_some(rest, timeout) :]
            if fd is not None:
                socket.send_fds(self.sock, [b"\0"], [fd])

    def _send_some(self, data: memoryview, timeout: float | None) -> int:
        # Not a socket timeout: it would hold for the thread that receives as well.
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                return self.sock.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise DeadlineError("the other process takes no messages") from None
                ready = select.poll()
                ready.register(self.sock, select.POLLOUT)
                ready.poll(None if left is None else left * 1000)

    def receive(self) -> list[Any] | None:
        """The next message; None when the other end is gone."""
        header = self._exactly(_HEADER.size)
        body = None if header is None else self._exactly(_HEADER.unpack(header)[0])
        return None if body is None else list(msgpack.unpackb(body, use_list=True))

    def receive_fd(self) -> int:
        """The descriptor that came with the message received last. OSError if the other end is gone."""
        _, fds, _, _ = socket.recv_fds(self.sock, 1, 1)
        if not fds:
            raise ConnectionResetError("the descriptor did not come")
        return fds[0]

    def _exactly(self, nbytes: int) -> bytearray | None:
        data = bytearray(nbytes)
        rest = memoryview(data)
        while rest:
            try:
                n = self.sock.recv_into(rest)
            except ConnectionError:
                return None
            if n == 0:
                return None
            rest = rest[n:]
        return data
