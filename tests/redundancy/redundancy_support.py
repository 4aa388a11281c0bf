"""Members that are threads, with a channel of queues between them."""

from __future__ import annotations

import itertools
import threading
from collections import deque

import numpy as np

from holdfast.format.blocks import round_up
from holdfast.redundancy import Scheme, exchange


class Message:
    def __init__(self, memory):
        self.memory, self.over = memory, False

    def done(self):
        return self.over


class Net:
    """Messages meet in order, for each pair of ranks."""

    def __init__(self, size):
        self.size, self.lock = size, threading.Lock()
        self.sent = {pair: deque() for pair in itertools.product(range(size), repeat=2)}
        self.wanted = {pair: deque() for pair in self.sent}
        self.bytes = 0

    def meet(self, pair):
        while self.sent[pair] and self.wanted[pair]:
            out, into = self.sent[pair].popleft(), self.wanted[pair].popleft()
            assert out.memory.nbytes == into.memory.nbytes
            into.memory[:] = out.memory
            self.bytes += out.memory.nbytes
            out.over = into.over = True


class QueueChannel:
    def __init__(self, net, rank):
        self.net, self.rank, self.size = net, rank, net.size

    def send(self, dest, data):
        return self._add(self.net.sent, (self.rank, dest), data)

    def receive(self, source, into):
        return self._add(self.net.wanted, (source, self.rank), into)

    def _add(self, queues, pair, memory):
        message = Message(memory)
        with self.net.lock:
            queues[pair].append(message)
            self.net.meet(pair)
        return message


class Memory:
    """A member whose stream and parities are arrays. `lent`: blocks that were read and not released."""

    def __init__(self, scheme, stream, nbytes, chunk):
        self.scheme, self.nbytes, self.chunk, self.lent = scheme, nbytes, chunk, 0
        self.data = np.full(scheme.k * chunk, 0xEE, np.uint8) if stream is None else np.asarray(stream, np.uint8)
        self.parity = np.full(scheme.m * chunk, 0xEE, np.uint8)

    def _at(self, parity, number, offset, nbytes):
        whole = self.parity if parity else self.data
        start = number * self.chunk + offset
        return whole[start : start + nbytes]

    def read(self, parity, number, offset, nbytes):
        self.lent += 1
        block = self._at(parity, number, offset, nbytes)
        assert block.nbytes == nbytes
        return block

    def release(self, block):
        self.lent -= 1

    def write(self, parity, number, offset, block):
        self._at(parity, number, offset, block.nbytes)[:] = block


def streams(sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, n, np.uint8) for n in sizes]


def together(count, work):
    """Call work(rank) in a thread for each; the first error is raised."""
    errors = []

    def run(rank):
        try:
            work(rank)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


def members(scheme, given, sizes):
    chunk = scheme.chunk(sizes)
    assert chunk == round_up(-(-max(sizes) // scheme.k))
    return [Memory(scheme, s, n, chunk) for s, n in zip(given, sizes, strict=True)]


def compute(scheme, sizes, sums, kept, homes=None, timeout=20.0):
    """Exchange between as many processes as `homes` names; returns the bytes that were sent."""
    homes = list(range(scheme.n)) if homes is None else homes
    net = Net(max(homes) + 1)
    together(
        net.size,
        lambda rank: exchange(
            QueueChannel(net, rank), scheme, sizes, sums, homes,
            {i: kept[i] for i in range(scheme.n) if homes[i] == rank}, timeout, "test",
        ),
    )  # fmt: skip
    assert all(m.lent == 0 for m in kept)
    return net.bytes


def encoded(scheme: Scheme, sizes, seed=0):
    kept = members(scheme, streams(sizes, seed), sizes)
    compute(scheme, sizes, scheme.encoding(), kept)
    return kept
