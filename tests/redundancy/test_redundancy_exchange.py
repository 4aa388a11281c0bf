"""Sets of any size, any loss that they are made for: what was lost comes back, byte for byte."""

from __future__ import annotations

import importlib
import itertools
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redundancy_support import Memory, Net, QueueChannel, compute, encoded, streams, together

from holdfast.errors import DeadlineError, UsageError
from holdfast.redundancy import MemoryMember, Scheme, exchange

exchanging = importlib.import_module("holdfast.redundancy.exchange")  # the package has a function of that name

SETS = [(2, 1), (3, 1), (4, 1), (4, 2), (6, 2), (8, 3)]


def sizes_of(n, seed):
    """Unequal sizes: none at all on the first, odd ones, more than a block on the last."""
    rng = np.random.default_rng(seed)
    return [0, *(int(x) for x in rng.integers(1, 60_000, n - 2)), 70_001]


@pytest.mark.parametrize(("n", "m"), SETS)
def test_the_layout(n, m):
    scheme = Scheme(n, m).check()
    symbols = [scheme.symbol(s, row) for s in range(n) for row in range(n)]
    assert len(set(symbols)) == n * n
    for s in range(n):
        assert {scheme.symbol(s, row).member for row in range(n)} == set(range(n))  # a member lost is a symbol lost
        assert all(scheme.stripe(scheme.symbol(s, row)) == s for row in range(n))
    assert sorted(x.symbol for x in scheme.encoding()) == sorted(x for x in symbols if x.parity)
    assert scheme.chunk([10 << 20] * n) * m <= (10 << 20) * m / (n - m) + 4096 * m


@pytest.mark.parametrize(("n", "m"), SETS)
def test_every_pattern_of_loss(n, m):
    """Each of up to m members lost, with data and parity: rebuilt equal, parities as well."""
    scheme, sizes = Scheme(n, m), sizes_of(n, n * m)
    whole = encoded(scheme, sizes)
    for count in range(1, m + 1):
        for lost in itertools.combinations(range(n), count):
            kept = [Memory(scheme, None if i in lost else w.data, sizes[i], w.chunk) for i, w in enumerate(whole)]
            for i, w in enumerate(whole):
                if i not in lost:
                    kept[i].parity = w.parity
            compute(scheme, sizes, scheme.rebuilding(lost), kept)
            for i in lost:
                assert np.array_equal(kept[i].data[: sizes[i]], whole[i].data), (lost, i)
                assert np.array_equal(kept[i].parity, whole[i].parity), (lost, i)
    with pytest.raises(UsageError, match="can be rebuilt"):
        scheme.rebuilding(range(m + 1))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_sizes_losses_and_homes(data):
    n = data.draw(st.integers(2, 6))
    m = data.draw(st.integers(1, n - 1))
    scheme = Scheme(n, m).check()
    sizes = data.draw(st.lists(st.sampled_from([0, 1, 4095, 4096, 4097, 30_000]), min_size=n, max_size=n))
    lost = data.draw(st.sets(st.integers(0, n - 1), max_size=m))
    stale = data.draw(st.sets(st.integers(0, n - 1), max_size=m - len(lost)))
    # processes may keep several members: one for each node, after a job that had many ranks on each
    homes = data.draw(st.lists(st.integers(0, n - 1), min_size=n, max_size=n))
    whole = encoded(scheme, sizes, seed=n)
    kept = [Memory(scheme, None if i in lost else w.data, sizes[i], w.chunk) for i, w in enumerate(whole)]
    for i, w in enumerate(whole):
        if i not in lost | stale:
            kept[i].parity = w.parity
    compute(scheme, sizes, scheme.rebuilding(lost, stale), kept, homes)
    for i, w in enumerate(whole):
        assert np.array_equal(kept[i].data[: sizes[i]], w.data) and np.array_equal(kept[i].parity, w.parity)


def test_more_than_a_block_and_what_is_sent():
    scheme, sizes = Scheme(4, 2), [5_000_000, 3_000_001, 0, 5_000_000]
    kept = members_of(scheme, sizes)
    sent = compute(scheme, sizes, scheme.encoding(), kept)
    chunk = scheme.chunk(sizes)
    longest = 0
    for s in range(4):
        data = [scheme.symbol(s, row) for row in range(scheme.k)]
        longest += max(min(chunk, max(0, sizes[x.member] - x.number * chunk)) for x in data)
    # Each byte goes to one parity; from there the stripe's other parities go on, as far as they are not known to be zero.
    assert sent == sum(sizes) + (scheme.m - 1) * longest
    again = encoded(scheme, sizes)
    assert all(np.array_equal(a.parity, b.parity) for a, b in zip(kept, again, strict=True))


def test_partners_keep_each_others_stream():
    kept = encoded(Scheme(2, 1), [10_000, 9_000])
    assert np.array_equal(kept[0].parity[:9_000], kept[1].data) and np.array_equal(kept[1].parity[:10_000], kept[0].data)
    assert not kept[0].parity[9_000:].any()


def test_a_member_that_does_nothing_is_waited_for_and_no_longer():
    scheme, sizes = Scheme(3, 1), [9000] * 3
    kept, net, told = members_of(scheme, sizes), Net(3), []

    def work(rank):
        if rank == 2:
            return
        with pytest.raises(DeadlineError, match="redundancy set for 0.3 s"):
            exchange(
                QueueChannel(net, rank), scheme, sizes, scheme.encoding(), range(3), {rank: kept[rank]}, 0.3, "version 7"
            )
        told.append(rank)

    together(3, work)
    assert sorted(told) == [0, 1]


def test_an_error_of_a_member_is_raised_there():
    scheme, sizes = Scheme(2, 1), [9000] * 2
    kept, net, done = members_of(scheme, sizes), Net(2), threading.Event()

    def fail(*args):
        raise OSError(28, "no space")

    kept[0].write = fail

    def work(rank):
        call = (QueueChannel(net, rank), scheme, sizes, scheme.encoding(), range(2), {rank: kept[rank]}, 5.0, "x")
        if rank:
            exchange(*call)  # has all it needs
            done.set()
        else:
            with pytest.raises(OSError, match="no space"):
                exchange(*call)

    together(2, work)
    assert done.is_set()


@pytest.mark.parametrize(("n", "m"), [(2, 0), (2, 2), (1, 1), (200, 2)])
def test_schemes_that_can_not_be(n, m):
    with pytest.raises(UsageError):
        Scheme(n, m).check()


def members_of(scheme, sizes):
    chunk = scheme.chunk(sizes)
    return [Memory(scheme, s, n, chunk) for s, n in zip(streams(sizes), sizes, strict=True)]


class Placing(Memory):
    """A member that has the memory in which sums are computed."""

    def room_for(self, parity, number, offset, nbytes):
        return self._at(parity, number, offset, nbytes)

    def write(self, parity, number, offset, block):
        self.copied = getattr(self, "copied", 0) + (not np.shares_memory(block, self._at(parity, number, offset, 1)))
        super().write(parity, number, offset, block)


@pytest.mark.parametrize(("n", "m"), [(4, 1), (4, 2), (3, 1)])
def test_sums_are_computed_where_they_stay(n, m):
    scheme, sizes = Scheme(n, m), [2_500_000, 2_499_001, *[2_480_000] * (n - 2)]
    whole, chunk = encoded(scheme, sizes), scheme.chunk(sizes)
    assert not isinstance(whole[0], MemoryMember)
    kept = [Placing(scheme, w.data, w.nbytes, chunk) for w in whole[:-1]] + [whole[-1]]  # both kinds in one set
    assert isinstance(kept[0], MemoryMember)
    before = [w.parity.copy() for w in whole]
    compute(scheme, sizes, scheme.encoding(), kept)
    assert all(np.array_equal(k.parity, b) for k, b in zip(kept, before, strict=True))
    assert not any(k.copied for k in kept[:-1])
    lost = Placing(scheme, None, sizes[0], chunk)
    compute(scheme, sizes, scheme.rebuilding([0]), [lost, *kept[1:]])
    assert np.array_equal(lost.data[: sizes[0]], whole[0].data) and np.array_equal(lost.parity, before[0])
    assert lost.copied == 0


def test_blocks_are_kept_for_the_next_exchange_and_no_more_of_them_than_allowed(monkeypatch):
    monkeypatch.setattr(exchanging, "_spare", spare := [])
    made = []
    monkeypatch.setattr(exchanging, "empty", lambda nbytes: made.append(nbytes) or np.empty(nbytes, np.uint8))
    scheme, sizes = Scheme(3, 1), [7 << 20] * 3
    first = encoded(scheme, sizes)
    block = exchanging.block_bytes(scheme)
    assert made and 0 < len(spare) <= exchanging.MEMORY // block
    assert len({block.__array_interface__["data"] for block in spare}) == len(spare)
    spare[:] = [np.full(block, 0xAB, np.uint8) for _ in range(64)]  # what is in them does not matter
    made.clear()
    second = encoded(scheme, sizes)
    assert made == [] and len(spare) <= exchanging.MEMORY // block
    assert all(np.array_equal(a.parity, b.parity) for a, b in zip(first, second, strict=True))


def test_blocks_of_an_exchange_that_failed_are_not_used_again(monkeypatch):
    """Messages may still come into them."""
    monkeypatch.setattr(exchanging, "_spare", [])
    scheme, sizes = Scheme(3, 1), [9000] * 3
    kept, net = members_of(scheme, sizes), Net(3)
    with pytest.raises(DeadlineError, match="waited for ranks 1-2.") as caught:
        exchange(QueueChannel(net, 0), scheme, sizes, scheme.encoding(), range(3), {0: kept[0]}, 0.05, "version 7")
    assert caught.value.rank == 1
    assert exchanging._spare == []
