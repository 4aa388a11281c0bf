"""Processes beside this one: who is gone is told of once, who stands still in a repair is ended; by the first two that live."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from holdfast.group.repair import beside
from holdfast.group.repair.beside import Beside, Neighbours
from holdfast.health.processes import Eyes, look


class World:
    """Eyes for processes that are only numbers."""

    def __init__(self) -> None:
        self.dead: set[int] = set()
        self.stopped: set[int] = set()
        self.ended: list[int] = []
        self.told: list[int] = []
        self.repairing = False
        self.pipes: dict[int, int] = {}  # the writing end, by pid
        self.held: list[int] = []

    def is_dead(self, pid: int, start: int) -> bool:
        return pid in self.dead

    def is_stopped(self, pid: int, start: int) -> bool:
        return pid in self.stopped

    def end(self, pid: int, start: int) -> None:
        self.ended.append(pid)
        self.dead.add(pid)

    def hold(self, pid: int, start: int) -> int:
        if pid not in self.pipes:
            return -1
        self.held.append(pid)
        reading, writing = os.pipe()
        self.pipes[pid] = writing
        return reading

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
    if found._thread.is_alive():
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


def test_an_end_is_heard_of_at_once_and_each_descriptor_closed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "LOOK_SECONDS", 60.0)
    world.pipes = {101: -1, 102: -1}
    before = len(os.listdir("/proc/self/fd"))
    neighbours = Neighbours(world, world.told.append, lambda: False)
    neighbours.watch(0, world.crew(1, 2, 3))
    assert until(lambda: len(world.held) == 2)
    world.dead.add(101)
    os.close(world.pipes[101])
    assert until(lambda: world.told == [11])
    os.close(world.pipes[102])  # it may be heard of before it can be seen: nothing turns round and round for it
    time.sleep(0.1)
    assert world.told == [11] and sorted(world.held) == [101, 102]
    neighbours.watch(0, world.crew(3))
    neighbours.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_kernel_tells_of_a_process_that_ends_and_of_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "LOOK_SECONDS", 60.0)
    told: list[int] = []
    sleeper = [sys.executable, "-c", "input()"]
    with subprocess.Popen(sleeper, stdin=subprocess.PIPE) as one, subprocess.Popen(sleeper, stdin=subprocess.PIPE) as other:
        neighbours = Neighbours(Eyes(), told.append, lambda: False)
        its, others = look(one.pid).start, look(other.pid).start
        assert Eyes().hold(one.pid, its + 1) == -1
        neighbours.watch(0, [Beside(one.pid, its, 1, 11), Beside(other.pid, others, 2, 12)])
        one.send_signal(signal.SIGKILL)
        assert until(lambda: told == [11])
        other.send_signal(signal.SIGKILL)
        assert until(lambda: told == [11, 12])
        neighbours.close()
