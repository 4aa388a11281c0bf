"""Processes beside this one: who is gone is told of once, who stands still in a repair is ended; by the first two that live."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from holdfast.group.repair import beside
from holdfast.group.repair.beside import Beside, Neighbours


class World:
    """Eyes for processes that are only numbers."""

    def __init__(self) -> None:
        self.dead: set[int] = set()
        self.stopped: set[int] = set()
        self.ended: list[int] = []
        self.told: list[int] = []
        self.repairing = False

    def is_dead(self, pid: int, start: int) -> bool:
        return pid in self.dead

    def is_stopped(self, pid: int, start: int) -> bool:
        return pid in self.stopped

    def end(self, pid: int, start: int) -> None:
        self.ended.append(pid)
        self.dead.add(pid)

    def crew(self, *places: int) -> list[Beside]:
        return [Beside(100 + place, 1, place, 10 + place) for place in places]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def neighbours(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Neighbours]:
    monkeypatch.setattr(beside, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(beside, "STOPPED_SECONDS", 0.1)
    found = Neighbours(world, world.told.append, lambda: world.repairing)
    yield found
    found.close()


def until(done: Callable[[], bool]) -> bool:
    end = time.monotonic() + 5
    while not done() and time.monotonic() < end:
        time.sleep(0.005)
    return done()


def test_who_is_gone_is_told_of_once(world: World, neighbours: Neighbours) -> None:
    neighbours.watch(0, world.crew(1, 2, 3))
    world.dead.add(102)
    assert until(lambda: world.told == [12])
    neighbours.watch(0, world.crew(1, 2, 3))  # after a repair that did not know of it
    neighbours.look()
    assert world.told == [12]


def test_the_first_two_that_live_look(world: World, neighbours: Neighbours) -> None:
    neighbours.watch(2, world.crew(0, 1, 3))
    world.dead.add(103)
    time.sleep(0.1)
    neighbours.look()
    assert world.told == []  # two before it live
    world.dead.add(100)
    assert until(lambda: sorted(world.told) == [10, 13])


def test_who_stands_still_is_ended_while_it_is_waited_for(world: World, neighbours: Neighbours) -> None:
    neighbours.watch(0, world.crew(1, 2))
    world.stopped.add(101)
    time.sleep(0.3)
    assert world.ended == []  # the board's matter
    world.repairing = True
    assert until(lambda: world.ended == [101])
    assert until(lambda: world.told == [11])


def test_nobody_is_missed_any_more_once_it_is_closed(world: World, neighbours: Neighbours) -> None:
    neighbours.watch(0, world.crew(1))
    neighbours.close()
    world.dead.add(101)
    time.sleep(0.1)
    assert world.told == []
