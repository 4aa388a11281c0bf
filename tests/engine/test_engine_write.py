"""A data file from units: in order, without what is as before, by any number of threads; given up without a trace."""

from __future__ import annotations

import errno

import numpy as np
import pytest
from faults import Faults, named

from holdfast.engine.units import UNIT, Block, Piece, Unit, Written
from holdfast.engine.write import ThreadWriting, fill
from holdfast.errors import StorageError
from holdfast.format import digest
from holdfast.store import open_store

KEY = "versions/00000001-a000001/data/r000000"


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "run", create=True)


def unit(seed, nbytes, known=None, mine=True):
    memory = np.random.default_rng(seed).integers(0, 256, nbytes, np.uint8)
    blocks = (Block(0, nbytes, 0, 0, None, known),)
    return Unit(-(-nbytes // 4096) * 4096, (Piece(0, memory),), blocks, mine=mine)


def same(u):
    return u._replace(blocks=(u.blocks[0]._replace(known=digest(u.pieces[0].memory)),))


def write(store, units, threads, order=None, expected=None):
    released = []
    writing = ThreadWriting(store, KEY, expected, threads)
    for number in order or range(len(units)):
        writing.put(number, units[number], lambda number=number: released.append(number))
    result = writing.finish()
    assert sorted(released) == list(range(len(units)))
    return result


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_file_is_in_order_whatever_order_units_came_in(store, threads):
    units = [unit(k, n) for k, n in enumerate([UNIT, 5000, UNIT, 4096, 1])]
    total = sum(u.nbytes for u in units)
    written, nbytes = write(store, units, threads, [3, 0, 4, 2, 1], total)
    assert nbytes == total == store.size(KEY)
    at = 0
    out = np.empty(total, np.uint8)
    with store.open(KEY) as reader:
        reader.read(0, out)
    for u, w in zip(units, written, strict=True):
        memory = u.pieces[0].memory
        assert w == Written(at, [digest(memory)])
        assert out[at : at + u.nbytes].tobytes() == memory.tobytes() + bytes(u.nbytes - memory.nbytes)
        at += u.nbytes


@pytest.mark.parametrize("threads", [1, 3])
def test_what_is_as_before_leaves_no_hole(store, threads):
    units = [same(unit(0, UNIT)), unit(1, 8192), unit(2, UNIT, known=bytes(16)), same(unit(3, 4096)), unit(4, 4096, mine=False)]
    written, nbytes = write(store, units, threads)
    assert [w.offset is None for w in written] == [True, False, False, True, True]
    assert nbytes == store.size(KEY) == 8192 + UNIT
    assert [w.digests for w in written] == [[digest(u.pieces[0].memory)] for u in units]


def test_nothing_at_all(store):
    assert write(store, [], 2) == ([], 0)
    assert store.size(KEY) == 0


@pytest.mark.parametrize("call", ["pwrite", "fsync"])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_failure_gives_all_memory_back_and_leaves_nothing(store, call, threads):
    units = [unit(k, UNIT) for k in range(5)]
    released = []
    with Faults("error", at=2 if call == "pwrite" else 1, errno=errno.EIO, match=named(call, path="/data/")):
        writing = ThreadWriting(store, KEY, None, threads)
        for number, u in enumerate(units):
            writing.put(number, u, lambda number=number: released.append(number))
        with pytest.raises(StorageError):
            writing.finish()
        writing.abort()
    assert sorted(released) == list(range(5)) and not store.exists(KEY)


def test_given_up_before_anything_was_written(store):
    released = []
    writing = ThreadWriting(store, KEY, None, 2)
    writing.put(0, unit(0, UNIT), lambda: released.append(0))
    writing.abort()
    assert released == [0] and not store.exists(KEY)


def test_pieces_have_zeros_between_them():
    memory = np.full(8192, 9, np.uint8)
    pieces = (Piece(8, np.full(5, 1, np.uint8)), Piece(16, np.full(4, 2, np.uint8)), Piece(4096, np.full(1, 3, np.uint8)))
    fill(Unit(8192, pieces, ()), memory)
    expected = bytes(8) + b"\1" * 5 + bytes(3) + b"\2" * 4
    assert memory.tobytes() == expected + bytes(4096 - len(expected)) + b"\3" + bytes(4095)
