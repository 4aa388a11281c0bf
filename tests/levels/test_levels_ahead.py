"""State is captured into the next version's file, which was made ahead in the node's memory; what is left of one goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import holdfast
import holdfast.store
from holdfast.run.levels.ahead import Ahead
from holdfast.run.levels.sweeping import sweep_places

EACH = holdfast.steps(1)
FAR = holdfast.versions(1000)
MIB = 1 << 20

pytestmark = pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="this system has no file system in memory")

PROGRAM = """
import os, sys, signal, time
import numpy as np, holdfast
root = sys.argv[1]
levels = [holdfast.memory(root + "/memory"), holdfast.global_(every=holdfast.versions(1000))]
with holdfast.open(root + "/run", levels=levels) as run:
    u = run.protect("u", np.zeros(1 << 19))
    run.ready()
    print(0 if run.restored is None else run.restored.step, flush=True)
    for step in run.steps(1000, every=holdfast.steps(1)):
        assert (u == step).all()
        u += 1
        if step == int(sys.argv[2]):
            run._x.writer.arrive()
            while not [f for _, _, fs in os.walk(root + "/memory") for f in fs if "-" in f]:
                time.sleep(0.01)  # until the next version's file has been made
            os.kill(os.getpid(), signal.SIGKILL)
"""


def open_run(where: Path, **options: Any) -> holdfast.Run:
    (where / "memory").mkdir(exist_ok=True)
    levels = [holdfast.memory(where / "memory"), holdfast.global_(every=FAR)]
    return holdfast.open(where / "run", levels=levels, takeover=True, signals=False, **options)


def ahead(where: Path) -> list[Path]:
    return sorted((where / "memory").glob("*/*/ahead/*"))


def wait_for(what: Any, seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not come to be"
        time.sleep(0.005)


def test_the_file_is_there_before_its_version(tmp_path: Path) -> None:
    """As large as the state, made beside the program; the version has its inode; none is left when the program leaves."""
    with pytest.raises(KeyError), open_run(tmp_path) as run:
        u, before = run.protect("u", np.zeros(MIB // 8 * 3)), 0
        for step in run.steps(9, every=EACH):
            run._x.writer.arrive()
            wait_for(lambda: ahead(tmp_path))
            (file,) = ahead(tmp_path)
            wait_for(lambda f=file: f.stat().st_size >= 3 * MIB)
            inode = file.stat().st_ino
            if step:
                stands = {p.stat().st_ino for p in (tmp_path / "memory").glob("*/*/versions/*/data/*")}
                assert before in stands
            before = inode
            u += 1
            if step == 4:
                assert run._x.writer.freezing.capturing._arena is None  # nothing was captured to any other memory
                raise KeyError
    assert ahead(tmp_path) == []
    run = open_run(tmp_path)
    u = run.protect("u", np.zeros(MIB // 8 * 3))
    run.ready()
    assert run.restored is not None and (u == run.restored.step).all()
    run.complete()
    run.close()
    assert list((tmp_path / "memory").glob("*/*")) == []


def test_state_that_grows_and_shrinks(tmp_path: Path) -> None:
    """A file made ahead that is too small is given back; each version holds what the program had."""
    sizes = [MIB, 3 * MIB, 100, 9 * MIB, 2 * MIB, 2 * MIB]
    with open_run(tmp_path) as run:
        s = run.state(u=np.zeros(8, np.uint8))
        for step in run.steps(len(sizes), every=EACH):
            if step:
                run._x.writer.arrive()
                assert (run.load("state")["u"] == np.full(sizes[step - 1], step, np.uint8)).all()
            s.u = np.full(sizes[step], step + 1, np.uint8)
    assert ahead(tmp_path) == []


def test_what_a_killed_program_left_goes_with_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    first = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path), "3"], capture_output=True, text=True, timeout=60)
    assert first.returncode == -signal.SIGKILL, first.stderr
    left = ahead(tmp_path)
    assert left
    second = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path), "6"], capture_output=True, text=True, timeout=60)
    assert second.returncode == -signal.SIGKILL, second.stderr
    assert int(second.stdout) >= 2
    assert not set(left) & set(ahead(tmp_path))
    assert len(ahead(tmp_path)) == 1


def test_nothing_ahead_where_another_process_writes(tmp_path: Path) -> None:
    """The helper process makes its files itself."""
    with open_run(tmp_path, engine="process") as run:
        u = run.protect("u", np.zeros(MIB))
        for _ in run.steps(3, every=EACH):
            run._x.writer.arrive()
            u += 1
            assert ahead(tmp_path) == []


class _Place:
    kind = "memory"

    def __init__(self, store: Any) -> None:
        self.store = store


def test_taken_while_it_is_being_made(tmp_path: Path) -> None:
    """Who asks waits for a step of it, not for all; a second one is made when asked for twice; none after the end."""
    store = holdfast.store.PosixStore(str(tmp_path / "place"), create=True)
    made = Ahead(_Place(store), 3)  # type: ignore[arg-type]
    made.prepare_beside(256 * MIB)
    wait_for(lambda: store.list("ahead"))
    first = made.take(200 * MIB)
    assert first is not None and first.nbytes in (256 * MIB, 200 * MIB)
    first.view[-1] = 7
    second = made.take(MIB)
    assert second is not None and second.view[0] == 0
    made.prepare(5000)
    assert len(store.list("ahead")) == 3
    made.close()
    assert made.take(1) is None
    first.abort()
    second.abort()
    wait_for(lambda: not store.list("ahead"))
    assert os.listdir(tmp_path / "place" / "ahead") == []


def test_no_room_ahead_is_no_failure(tmp_path: Path) -> None:
    store = holdfast.store.PosixStore(str(tmp_path / "place"), create=True)
    made = Ahead(_Place(store), 0)  # type: ignore[arg-type]
    made.prepare(1 << 50)
    assert made.take(1 << 50) is None
    assert made.possible
    file = made.take(1)
    assert file is not None
    file.abort()


def test_what_is_large_goes_beside_the_program_and_nothing_new_with_it(tmp_path: Path) -> None:
    store = holdfast.store.PosixStore(str(tmp_path / "place"), create=True)
    for name, size in (("r0-a", 40 * MIB), ("r1-b", 5)):
        with store.create(f"ahead/{name}", size) as writer:
            writer.finish()
    gate = threading.Event()

    class Slow:
        def __getattr__(self, name: str) -> object:
            return getattr(store, name)

        def delete(self, key: str) -> None:
            assert gate.wait(20)
            store.delete(key)

    place = _Place(Slow())
    sweep_places([place], leads=False, beside=True)  # type: ignore[list-item]
    sweep_places([place], leads=True, beside=True)  # type: ignore[list-item]
    assert store.list("ahead") == ["r0-a", "r1-b"]
    with store.create("ahead/r0-new", 5) as writer:
        writer.finish()
    gate.set()
    wait_for(lambda: store.list("ahead") == ["r0-new"])
    sweep_places([place], leads=True, beside=True)  # type: ignore[list-item]
    assert store.list("ahead") == []  # what is small, at once


def test_room_that_is_on_its_way_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = holdfast.store.PosixStore(str(tmp_path / "place"), create=True)
    made = Ahead(_Place(store), 0)  # type: ignore[arg-type]
    create, tries = store.create_in_memory, []

    def full(key: str, nbytes: int) -> object:
        tries.append(key)
        if len(tries) == 3:
            store.delete("ahead/r0-old")
        if len(tries) < 4:
            raise holdfast.StorageError("no room")
        return create(key, nbytes)

    monkeypatch.setattr(store, "create_in_memory", full)
    with store.create("ahead/r0-old", 5) as writer:
        writer.finish()
    assert made.take(5) is None and len(tries) == 3  # not when there is nothing left that would go
    tries[:] = ["", "", ""]
    file = made.take(5)
    assert file is not None and made.possible
    file.abort()
