"""Which version comes to which level: by each one's cadence, the newest where a store is slow, and no faster than its limit."""

from __future__ import annotations

import logging
import threading
import time

import numpy as np
import pytest

import holdfast
from holdfast.levels import Level
from holdfast.run.levels import copier as copying
from holdfast.store import PosixStore

MiB = 1 << 20
EACH = holdfast.steps(1)


@pytest.fixture
def stored(tmp_path):
    """The numbers of the versions in the run's store."""
    return lambda: sorted(int(p.parent.name[:8]) for p in (tmp_path / "run" / "versions").glob("*/commit"))


def start(tmp_path, *levels: Level, **options):
    run = holdfast.open(tmp_path / "run", levels=list(levels), signals=False, keep=holdfast.Keep(last=99), **options)
    return run, run.protect("u", np.zeros(MiB // 8))


def advance(run, u, steps, each=lambda step: None):
    """Versions 1 to `steps`, each where it goes before the next is taken, and copied on if it is due."""
    for step in run.steps(steps + 1, every=EACH):
        run._x.writer.arrive()
        each(step)
        if step == steps:
            break
        u += 1


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        (holdfast.versions(3), [3, 6, 9]),
        (holdfast.steps(4), [4, 8]),
        (holdfast.versions(5) | holdfast.steps(4), [4, 8]),
        (holdfast.seconds(1e6), [1]),
        (holdfast.versions(1), list(range(1, 11))),
    ],
    ids=["versions", "steps", "both", "seconds", "each"],
)
def test_the_run_s_store_has_its_own_cadence(tmp_path, stored, every, expected):
    memory = tmp_path / "memory"
    memory.mkdir()
    run, u = start(tmp_path, holdfast.memory(memory), holdfast.global_(every=every))
    advance(run, u, 10, lambda step: run._x.levels.drain(20))
    assert stored() == expected
    run.close()


def test_a_second_place_has_its_own_cadence_and_retention(tmp_path, stored):
    memory, disk = tmp_path / "memory", tmp_path / "disk"
    memory.mkdir()
    levels = [
        holdfast.memory(memory),
        holdfast.local(disk, every=holdfast.versions(4), keep=holdfast.Keep(last=1)),
        holdfast.global_(every=holdfast.versions(1000)),
    ]
    run, u = start(tmp_path, *levels)
    advance(run, u, 10, lambda step: run._x.levels.drain(20))
    on_disk = sorted(int(p.parent.name[:8]) for p in disk.glob("*/*/versions/*/commit"))
    in_memory = sorted(int(p.parent.name[:8]) for p in memory.glob("*/*/versions/*/commit"))
    assert on_disk[-1] == 8 and len(on_disk) <= 2 and in_memory == [10] and stored() == []
    run.close()


def test_a_slow_store_gets_the_newest(tmp_path, stored, monkeypatch):
    memory = tmp_path / "memory"
    memory.mkdir()
    run, u = start(tmp_path, holdfast.memory(memory), holdfast.global_())
    go, real, begun = threading.Event(), PosixStore.create, []

    def create(self, key, nbytes):
        if self.location == str(tmp_path / "run"):
            begun.append(key)
            assert go.wait(20)
        return real(self, key, nbytes)

    monkeypatch.setattr(PosixStore, "create", create)

    def each(step):
        if step == 1:  # before others come it is on its way
            end = time.monotonic() + 20
            while not begun:
                assert time.monotonic() < end
                time.sleep(0.01)

    advance(run, u, 8, each)
    go.set()
    run._x.levels.drain(20)
    assert stored() == [1, 8]
    assert len(list(memory.glob("*/*/versions/*/commit"))) <= 3
    run.close()


def test_a_limit_of_the_store_s_speed(tmp_path, monkeypatch):
    memory = tmp_path / "memory"
    memory.mkdir()
    run, u = start(tmp_path, holdfast.memory(memory), holdfast.global_(limit="1MB/s"))
    slept = []

    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

        def sleep(self, seconds):
            slept.append(seconds)
            self.now += seconds

    monkeypatch.setattr(copying, "time", Clock())
    advance(run, u, 1)
    run._x.levels.drain(20)
    monkeypatch.undo()
    assert 0.9 < sum(slept) < 1.1 and max(slept) <= 0.5  # a MiB; others are told of it twice a second
    run.close()


def test_a_slow_store_holds_up_neither_a_local_disk_nor_the_end(tmp_path, stored):
    memory, disk = tmp_path / "memory", tmp_path / "disk"
    memory.mkdir()
    levels = [holdfast.memory(memory), holdfast.local(disk), holdfast.global_(limit="10kB/s")]  # 100 s for a version
    run, u = start(tmp_path, *levels)

    def each(step):
        assert run._x.levels.placing.keeper.each[0].finish(20)

    advance(run, u, 6, each)
    assert sorted(int(p.parent.name[:8]) for p in disk.glob("*/*/versions/*/commit")) == [6]
    began = time.monotonic()
    run.complete()
    run.close()
    assert time.monotonic() - began < 30 and stored() == [7]
    assert len(list((tmp_path / "run" / "versions").iterdir())) == 1  # nothing is left of what was given up


def test_a_store_that_is_away_is_told_once(tmp_path, stored, caplog):
    memory = tmp_path / "memory"
    memory.mkdir()
    run, u = start(tmp_path, holdfast.memory(memory), holdfast.global_())
    away = tmp_path / "away"

    def each(step):
        run._x.levels.drain(20)
        if step == 3:
            (tmp_path / "run").rename(away)
        if step == 8:
            away.rename(tmp_path / "run")

    with caplog.at_level(logging.WARNING, "holdfast"):
        advance(run, u, 12, each)
    warned = [r.getMessage() for r in caplog.records if "missing at the level global" in r.getMessage()]
    assert len(warned) == 1 and warned[0].startswith("version 4 ")
    assert stored()[-1] == 12 and not {4, 5, 6, 7, 8} & set(stored())
    run.complete()
    assert (u == 12).all() and stored()[-1] == 13
    run.close()
