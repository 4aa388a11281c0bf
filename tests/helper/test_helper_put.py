"""Memory that does not change until it is released: any memory of the program's, and shared memory without a copy."""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from snapshots import check_stored, image, images, packed, units_of

from holdfast.engine.helper import CaptureError, Helper
from holdfast.engine.units import UNIT, Block, Piece, Unit
from holdfast.store.aligned import address


def test_release_comes_when_the_unit_is_written(helper: Helper, root: Path) -> None:
    """As an arena does it: the slot is filled anew as soon as it is released."""
    slot = np.empty(UNIT, np.uint8)
    free = threading.Semaphore(1)
    writing = helper.begin(str(root), "data", UNIT * 5, 2)
    writing.begin()
    for i in range(5):
        assert free.acquire(timeout=10.0)
        slot[:] = i
        writing.put(i, units_of([slot])[0][1], free.release)
    results, size = writing.finish()
    assert size == UNIT * 5 and [r.offset for r in results] == [i * UNIT for i in range(5)]
    stored = np.fromfile(root / "data", np.uint8).reshape(5, UNIT)
    assert all((stored[i] == i).all() for i in range(5))


def test_nothing_is_written_before_begin(helper: Helper, root: Path) -> None:
    released = threading.Event()
    writing = helper.begin(str(root), "data", None, 2)
    writing.put(0, units_of([np.ones(UNIT, np.uint8)])[0][1], released.set)
    assert not released.wait(0.3)
    writing.begin()
    assert released.wait(10.0)
    assert writing.finish()[1] == UNIT


def test_small_arrays_and_gaps(helper: Helper, root: Path) -> None:
    """Gaps of any length are zero, also in slots that had something else in them before."""
    rng = np.random.default_rng(0)
    dirt = np.full(UNIT, 255, np.uint8)
    small = [rng.integers(1, 255, n, np.uint8) for n in rng.integers(0, 300, 3000)]
    far = [Piece(100, small[1]), Piece(9000, small[2]), Piece(3_000_000, small[3])]
    units = [
        *enumerate(
            [u for _, u in units_of([dirt, dirt])]
            + [packed(small), packed(small[:5], 4096), Unit(UNIT, far, [Block(0, UNIT, 0, 0)])]
        )
    ]
    writing = helper.begin(str(root), "data", None, 1)
    for number, unit in units:
        writing.put(number, unit, lambda: None)
    results, _ = writing.finish()
    check_stored(root, "data", units, results, images(units))


def shared_memory(nbytes: int) -> tuple[int, np.ndarray]:
    fd = os.memfd_create("arena")
    os.ftruncate(fd, nbytes)
    return fd, np.frombuffer(mmap.mmap(fd, nbytes), np.uint8)


def test_a_shared_arena(helper: Helper, root: Path) -> None:
    fd, arena = shared_memory(UNIT * 2)
    arena[:] = np.random.default_rng(0).integers(0, 255, arena.nbytes, np.uint8)
    helper.share(fd, address(arena), arena.nbytes)
    os.close(fd)
    other = np.full(5000, 3, np.uint8)
    mixed = Unit(8192 * 2, [Piece(0, arena[100:5000]), Piece(8192, other)], [Block(0, 13192, 0, 0)])
    apart = Unit(
        8192, [Piece(8, arena[100:200]), Piece(5000, arena[:50])], [Block(8, 100, 0, 0), Block(5000, 50, 1, 0)]
    )
    for version, permitted in enumerate((True, False)):
        helper.reads_memory = permitted  # as where ptrace is restricted
        units = [*units_of([arena]), (2, apart), *([(3, mixed)] if permitted else [])]
        writing = helper.begin(str(root), f"data{version}", None, 2)
        for number, unit in units:
            writing.put(number, unit, lambda: None)
        if not permitted:
            with pytest.raises(CaptureError, match="shared memory"):
                writing.put(3, mixed, lambda: None)
        results, _ = writing.finish()
        check_stored(root, f"data{version}", units, results, images(units))
    helper.unshare(address(arena))


def test_an_arena_that_is_shared_anew(helper: Helper, root: Path) -> None:
    """At the same address, after a larger or another one took its place."""
    places = set()
    for version in range(3):
        fd, arena = shared_memory(UNIT)
        arena[:] = version
        helper.share(fd, address(arena), arena.nbytes)
        os.close(fd)
        writing = helper.begin(str(root), f"data{version}", None, 1)
        units = units_of([arena])
        writing.put(0, units[0][1], lambda: None)
        results, _ = writing.finish()
        check_stored(root, f"data{version}", units, results, images(units))
        places.add(address(arena))
        del arena, units, writing
    for place in places:
        helper.unshare(place)


def test_unshared_memory_is_read_as_it_is(helper: Helper, root: Path) -> None:
    """The arena's address has other memory now."""
    fd, arena = shared_memory(UNIT)
    helper.share(fd, address(arena), arena.nbytes)
    os.close(fd)
    helper.unshare(address(arena))
    call = ctypes.CDLL(None).mmap
    call.restype = ctypes.c_void_p
    fixed = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10
    assert call(ctypes.c_void_p(address(arena)), ctypes.c_size_t(UNIT), 3, fixed, -1, ctypes.c_long(0)) == address(
        arena
    )
    arena[:] = 9
    writing = helper.begin(str(root), "data", None, 1)
    writing.put(0, units_of([arena])[0][1], lambda: None)
    writing.finish()
    assert (root / "data").read_bytes() == b"\t" * UNIT


def test_units_of_other_ranks_are_only_digested(helper: Helper, root: Path) -> None:
    array = np.ones(UNIT, np.uint8)
    unit = units_of([array])[0][1]
    writing = helper.begin(str(root), "data", None, 1)
    writing.put(0, unit._replace(mine=False), lambda: None)
    writing.put(1, unit, lambda: None)
    (other, own), size = writing.finish()
    assert size == UNIT and other.offset is None and own.offset == 0 and other.digests == own.digests


def test_a_version_without_units(helper: Helper, root: Path) -> None:
    assert helper.begin(str(root), "data", None, 2).finish() == ([], 0)
    assert (root / "data").read_bytes() == b""


def test_memory_that_is_gone_fails_the_version_alone(helper: Helper, root: Path) -> None:
    from holdfast.errors import StorageError

    memory = mmap.mmap(-1, UNIT)
    array = np.frombuffer(memory, np.uint8)
    unit = Unit(UNIT, [Piece(0, array)], [Block(0, UNIT, 0, 0)])
    writing = helper.begin(str(root), "data", None, 1)
    writing.put(0, unit, lambda: None)
    # Nothing of it can be read any more. Not unmapped: whatever this process allocates meanwhile would come to lie there.
    protect = ctypes.CDLL(None).mprotect
    assert protect(ctypes.c_void_p(address(array)), ctypes.c_size_t(UNIT), 0) == 0
    try:
        with pytest.raises(StorageError, match="must stay allocated"):
            writing.finish()
    finally:
        assert protect(ctypes.c_void_p(address(array)), ctypes.c_size_t(UNIT), mmap.PROT_READ | mmap.PROT_WRITE) == 0
    unit = units_of([np.ones(4096, np.uint8)])[0][1]
    writing = helper.begin(str(root), "next", None, 1)
    writing.put(0, unit, lambda: None)
    writing.finish()
    assert (root / "next").read_bytes() == image(unit)
