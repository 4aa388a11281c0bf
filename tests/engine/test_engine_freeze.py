"""Units captured to an arena: all of them, in slots that are shared and given back, also where there are few."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from holdfast.capture.arena import SLOT, Arena
from holdfast.engine.freeze import freeze, slots
from holdfast.engine.units import Block, Piece, Unit
from holdfast.errors import DeadlineError


class Disk:
    """Stands for a writing: keeps what it was given, and gives memory back when told to, or at once after `begin`."""

    def __init__(self) -> None:
        self.units: dict[int, tuple[Unit, bytes]] = {}
        self.release: list = []
        self.begun = False
        self._lock = threading.Lock()

    def put(self, number, unit, release):
        content = bytes(b"".join(bytes(p.memory) for p in unit.pieces))
        with self._lock:
            assert number not in self.units
            self.units[number] = unit, content
            self.release.append(release)
            done, self.release = (self.release, []) if self.begun else ([], self.release)
        for give in done:
            give()

    def begin(self):
        with self._lock:
            self.begun = True
            done, self.release = self.release, []
        for give in done:
            give()

    def finish(self):
        return [], 0

    def abort(self):
        pass


def unit(memory, how="copy", buffer=0, start=0):
    nbytes = -(-memory.nbytes // 4096) * 4096
    return Unit(nbytes, (Piece(0, memory),), (Block(0, memory.nbytes, buffer, start),), how)


def cut(nbytes, buffer=0):
    memory = np.random.default_rng(nbytes).integers(0, 256, nbytes, np.uint8)
    return [unit(memory[at : at + SLOT], buffer=buffer, start=at) for at in range(0, nbytes, SLOT)]


def check(units, disk):
    for number, u in enumerate(units):
        frozen, content = disk.units[number]
        memory = u.pieces[0].memory
        assert content == memory.tobytes() + bytes(len(content) - memory.nbytes)
        if u.how == "copy":
            assert frozen.how == "frozen" and len(content) == u.nbytes
            assert not np.shares_memory(frozen.pieces[0].memory, memory)
        else:
            assert frozen.pieces[0].memory is memory


SIZES = [9 << 20, 5000, 1 << 20, (1 << 20) + 1, 3 << 20, 4 << 20, 8, 2 << 20, 7 << 20]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("room", [1, 2, 5, 100])
def test_everything_is_captured_and_every_slot_given_back(threads, room):
    units = [u for k, nbytes in enumerate(SIZES) for u in cut(nbytes, k)]
    arena, disk = Arena(room * SLOT), Disk()
    freeze(list(enumerate(units)), arena, disk, threads, 10.0)
    assert disk.begun == (room < 100)
    check(units, disk)
    disk.begin()
    taken = [arena.take(0) for _ in range(arena.slots)]
    assert sorted(taken) == list(range(arena.slots))
    arena.close()


def test_slots_are_as_many_as_are_taken():
    units = [u for k, nbytes in enumerate(SIZES) for u in cut(nbytes, k)]
    count = slots(u.nbytes for u in units)
    assert count * SLOT < 1.4 * sum(SIZES)
    arena, disk = Arena(count * SLOT), Disk()
    freeze(list(enumerate(units)), arena, disk, 2, 0.0)
    assert not disk.begun and arena.take(0) is None
    arena.close()


def test_what_does_not_change_is_not_copied():
    units = [unit(np.full(5 << 10, k, np.uint8), how) for k, how in enumerate(["hold", "direct", "hold"])]
    disk = Disk()
    assert freeze(list(enumerate(units)), None, disk, 2, 1.0) == 0.0
    check(units, disk)


def test_a_disk_that_hangs():
    units = cut(9 << 20)
    arena, disk = Arena(SLOT), Disk()
    disk.begin = lambda: None
    with pytest.raises(DeadlineError, match="0.05 s"):
        freeze(list(enumerate(units)), arena, disk, 1, 0.05)
    arena.close()


def test_memory_that_can_not_be_read_keeps_no_slot():
    arena, disk = Arena(2 * SLOT), Disk()

    class Gone:
        nbytes = 5000

    broken = Unit(8192, (Piece(0, Gone()),), (Block(0, 5000, 0, 0),))
    with pytest.raises((TypeError, ValueError)):
        freeze([(0, broken)], arena, disk, 1, 1.0)
    assert sorted(arena.take(0) for _ in range(2)) == [0, 1]
    arena.close()
