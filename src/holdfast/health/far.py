"""Signs of life between nodes: each counts its own, and tells what it knows of all, so that all know of each.

Every node has a count that grows as long as somebody on it runs. Once a second one of its processes sends all counts that it
knows to two other nodes; who gets them keeps the larger ones, and notes when each has grown (van Renesse, Minsky,
Hayden: A gossip-style failure detection service, 1998). The one is 1, 2, 4, ... nodes further on in turn, so that with n
nodes news are everywhere after some log2(n) seconds; the other is any in turn, so that a half of a job that is cut hears its
own, wherever the cut goes (in a part of a tenth some may hold their own for silent, too, for a while). No clock is compared
with another. What is known stands on the node's board, for all of its processes: any of them receives, and the first that
beats sends.

A node that is silent is no dead node: it may be cut off, stopped, or all of its processes hold the GIL in compiled code. So
nobody is killed from afar. It is told, and, where that is longer than a program may stand still, a repair is called for: in
that MPI and the quorum decide.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from _thread import start_new_thread
from array import array
from collections.abc import Callable, Sequence
from typing import Protocol

from .board import Board
from .judging import SELF
from .phases import LEFT, STANDING

log = logging.getLogger("holdfast")

PERIOD = 1.0  # seconds between a node's messages
SILENT = 10.0  # seconds without a sign after which it is told
_SLEPT = 3  # periods without a look of one's own, after which others' times begin anew: the job may have been suspended
_FRESH = 1.5  # seconds since its last beat for which another process of the node is taken to send in one's place
LEFT_COUNT = 1 << 62  # of a node that nothing is expected of any more

Tell = Callable[[dict[int, float]], object]
Limit = tuple[float, Tell]


class Post(Protocol):
    """Messages between ranks that are neither waited for nor promised to arrive. OSError when there can't be any more."""

    def send(self, rank: int, data: bytes) -> None: ...

    def receive(self) -> list[bytes]: ...


class Table:
    """What is known of all nodes: by node its count, and when that has grown (nanoseconds of the monotonic clock). `words`: two
    for each node, shared by the processes of this one. Of two that write at once one may be lost: the next message mends it.
    """

    def __init__(self, words: memoryview[int] | array[int], nodes: int, own: int) -> None:
        self._words, self.nodes, self.own = words, nodes, own

    def count(self, now: int) -> int:
        """One more sign of this node; how many there were before."""
        before = int(self._words[2 * self.own])
        if before < LEFT_COUNT:
            self._grow(self.own, before + 1, now)
        return before

    def leave(self, now: int) -> None:
        """Nothing is expected of this node any more."""
        self._grow(self.own, LEFT_COUNT, now)

    def merge(self, data: bytes, now: int) -> None:
        """What another node knows. Nothing is made of what is no such message."""
        if len(data) == 8 * self.nodes:
            for node, count in enumerate(array("q", data)):
                if count > self._words[2 * node] and node != self.own:
                    self._grow(node, count, now)

    def message(self) -> bytes:
        return array("q", [self._words[2 * node] for node in range(self.nodes)]).tobytes()

    def heard(self, node: int) -> int | None:
        """When there was a sign of it, 0 if there was none yet; None if it has left."""
        return None if self._words[2 * node] >= LEFT_COUNT else int(self._words[2 * node + 1])

    def _grow(self, node: int, count: int, now: int) -> None:
        self._words[2 * node] = count
        self._words[2 * node + 1] = now


def partners(turn: int, own: int, ranks: Sequence[Sequence[int]]) -> set[int]:
    """Ranks to send to at a node's turn: at the next turn of the same node, another of its ranks."""
    nodes = len(ranks)
    hops, others = (nodes - 1).bit_length(), nodes - 1
    stride = round(0.618 * others) or 1  # golden section: few turns come to places all over the ring
    while math.gcd(stride, others) > 1:
        stride += 1
    found = set()
    for further, round_ in ((1 << turn % hops, turn // hops), (1 + turn * stride % others, turn // others)):
        there = ranks[(own + further) % nodes]
        found.add(there[round_ % len(there)])
    return found


class Silence:
    """Who is silent, as one process sees it. `limits`: seconds, each with what is called with those that have become so: {node:
    seconds of silence}, once for each silence."""

    def __init__(self, table: Table, limits: Sequence[Limit], now: int) -> None:
        self._table, self._limits = table, limits
        self._told: list[set[int]] = [set() for _ in limits]
        self._last = self._anew = now

    def look(self, now: int) -> None:
        if now - self._last > _SLEPT * PERIOD * 1e9:
            self._anew = now
        self._last = now
        silent: dict[int, float] = {}
        for node in range(self._table.nodes):
            heard = now if node == self._table.own else self._table.heard(node)
            silent[node] = 0.0 if heard is None else (now - max(heard, self._anew)) * 1e-9
        for (limit, tell), told in zip(self._limits, self._told, strict=True):
            found = {node: seconds for node, seconds in silent.items() if seconds >= limit}
            new = {node: seconds for node, seconds in found.items() if node not in told}
            told.clear()
            told.update(found)
            if new:
                tell(new)

    @property
    def silent(self) -> frozenset[int]:
        """Nodes that have been told to be, and still are."""
        return frozenset(self._told[0])


class Far:
    """A thread that sends, receives and looks, until `stop` (each process makes its own, after joining its node's board).

    `own`: this process's node; `ranks`: of each node, in order; `limits`: as of Silence.
    """

    def __init__(
        self,
        board: Board,
        post: Post,
        own: int,
        ranks: Sequence[Sequence[int]],
        limits: Sequence[Limit],
    ) -> None:
        self._board, self._post, self._ranks = board, post, ranks
        self._table = Table(board.nodes(len(ranks)), len(ranks), own)
        self._silence = Silence(self._table, limits, time.monotonic_ns())
        self._ending, self._running = threading.Event(), threading.Lock()
        self._thread = 0

    @property
    def silent(self) -> frozenset[int]:
        """Nodes of which nothing is heard now."""
        return self._silence.silent

    def start(self) -> None:
        """Raises RuntimeError where no thread can be had."""
        self._running.acquire()  # until the thread ends: whoever stops it at once waits for it as well
        try:
            start_new_thread(self._run, ())
        except BaseException:
            self._running.release()
            raise

    def stop(self, timeout: float = 2.0) -> None:
        """Leave, before the board is left. The last one of the node says that nothing is to be expected of it any more. May be
        called again; by any thread."""
        if os.getpid() != self._board.pid:  # a child made by fork has no such thread
            return
        self._board.enter(LEFT)  # of two that leave at once at least one sees that of the other
        self._ending.set()
        if threading.get_ident() != self._thread and self._running.acquire(timeout=timeout):
            self._running.release()

    def _run(self) -> None:
        self._thread = threading.get_ident()
        try:
            while not self._ending.is_set():
                self.once(time.monotonic_ns())
                self._ending.wait(PERIOD)
            if all(s.phase in (LEFT, STANDING) for s in self._board.read()):
                self._table.leave(time.monotonic_ns())
                for turn in range((len(self._ranks) - 1).bit_length()):
                    self._send(turn)
        except OSError as error:  # ranks are lost, or the program ends
            log.debug("health: no more signs of other nodes: %s", error)
        except Exception:
            log.warning("health: signs of other nodes are not looked for any more", exc_info=True)
        finally:
            self._running.release()

    def once(self, now: int) -> None:
        """One turn. For the thread."""
        for data in self._post.receive():
            self._table.merge(data, now)
        if self._leads(now):
            self._send(self._table.count(now))
        self._silence.look(now)

    def _leads(self, now: int) -> bool:
        """Whether it is this process that sends: the first on the board that beats. Others may hold the GIL."""
        before = self._board.read()[: self._board.slot]
        return not any(s.phase not in (LEFT, STANDING) and now - s.beat_at < _FRESH * 1e9 for s in before)

    def _send(self, turn: int) -> None:
        for rank in partners(turn, self._table.own, self._ranks):
            self._post.send(rank, self._table.message())


def limits(stall: float | None, tell: Tell, call_off: Tell | None) -> list[Limit]:
    """`tell` after SILENT seconds; `call_off` when a program that stands still, by `stall`, would have been found by its own
    node: never where it may stand still for ever."""
    told = [(SILENT, tell)]
    return told if stall is None or call_off is None else [*told, (max(stall + SELF, SILENT), call_off)]
