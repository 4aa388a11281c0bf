"""The run's own store is away for a while; a place has no room: the program goes on, and who waits is told."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults import Call, Faults
from lf_ladders import committed, left_behind

import holdfast

HERE = Path(__file__).parent
EACH = holdfast.steps(1)


@pytest.fixture
def where(tmp_path: Path) -> Path:
    (tmp_path / "memory").mkdir()
    return tmp_path


def ladder(where: Path, *more: Any) -> list[Any]:
    return [holdfast.memory(where / "memory"), *(more or (holdfast.global_(),))]


def begin(where: Path, *more: Any, nbytes: int = 80_000, **options: Any) -> tuple[holdfast.Run, np.ndarray]:
    run = holdfast.open(where / "run", levels=ladder(where, *more), signals=False, **options)
    return run, run.protect("u", np.zeros(nbytes // 8))


def away(where: Path, number: int = errno.EIO) -> Faults:
    """All calls on the run's own store fail."""
    return Faults("error", errno=number, match=lambda call: call.path.startswith(str(where / "run")))


def rest(run: holdfast.Run) -> None:
    """Until nothing is under way."""
    run._x.writer.arrive()
    assert run._x.levels is not None
    run._x.levels.drain(20)
    run._x.writer.tidying.finish()


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


MOUNT = 'mount -t tmpfs -o size=2m,mode=0700 tmpfs "$1" && exec "$2" "$3" "$1" "$4"'


def test_a_tmpfs_that_is_really_full(where: Path) -> None:
    """On a tmpfs of 2 MiB that only the child sees. Where no mount is to be had, `test_no_room_at_the_place` stands for it."""
    found = [flags for flags in (["-m"], ["-r", "-m"]) if shutil.which("unshare")
             and subprocess.run(["unshare", *flags, "true"], capture_output=True, timeout=20).returncode == 0]  # fmt: skip
    if not found:
        return
    done = subprocess.run(
        ["unshare", *found[0], "sh", "-c", MOUNT, "sh", str(where / "memory"), sys.executable, str(HERE / "lf_full.py"),
         str(where / "run")],
        capture_output=True, text=True, timeout=60, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["before"]["place"] and not seen["before"]["store"]
    assert seen["full"]["store"] and max(seen["full"]["store"]) > max(seen["full"]["place"], default=0)
    assert max(seen["after"]["place"]) > max(seen["after"]["store"])
    assert len(seen["said"]) == 1 and "level memory" in seen["said"][0], seen
    assert seen["restored"] == seen["u"] >= 24


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_the_store_is_away_for_many_versions(where: Path, caplog: pytest.LogCaptureFixture, number: int) -> None:
    run, u = begin(where)
    fault = away(where, number)
    for step in run.steps(30, every=EACH):
        u += 1
        rest(run)
        if step == 5:
            fault.__enter__()
        if 7 <= step <= 20:
            assert max(committed(where)["memory"]) == step and max(committed(where)["global"]) <= 6
        if step == 20:
            fault.__exit__(None, None, None)
        if step == 29:
            break
    rest(run)
    assert fault.fired > 50
    assert max(committed(where)["global"]) == max(committed(where)["memory"]) == 29
    said = warnings_of(caplog)
    assert 1 <= len(said) <= 3 and sum("level global" in line for line in said) == 1, said
    run.complete()
    run.close()
    assert not left_behind(where)
    again, u = begin(where)
    again.ready()
    assert u[0] == 30
    again.close()


def test_who_waits_for_the_store_hears_that_it_is_away(where: Path) -> None:
    run, u = begin(where)
    for step in run.steps(12, every=EACH):
        u += 1
        if step == 4:
            rest(run)
            with away(where) as fault, pytest.raises(holdfast.CheckpointError, match="EIO"):
                run._x.pending, run._x.patient = None, False
                raise_it(run)
            assert fault.fired
    assert u[0] == 12
    assert run.checkpoint().durable
    run.complete()
    run.close()


def raise_it(run: holdfast.Run) -> None:
    """A checkpoint at once, as outside of a loop."""
    handle = run._x.take("request", wait=True)
    raise AssertionError(f"{handle} says nothing")


def test_outside_of_loops(where: Path) -> None:
    run, u = begin(where)
    run.ready()
    assert run.checkpoint().durable
    u += 1
    with away(where), pytest.raises(holdfast.CheckpointError):
        run.checkpoint()
    u += 1
    handle = run.checkpoint()
    assert handle.durable and run.load("u")[0] == 2 == run.load("u", handle.version)[0]
    run.complete()
    run.close()


def test_a_warning_where_that_is_wanted(where: Path) -> None:
    run, u = begin(where, on_error="warn")
    run.ready()
    u += 1
    with away(where), pytest.warns(holdfast.CheckpointWarning):
        assert not run.checkpoint().durable
    assert run.checkpoint().durable
    run.close()


def test_the_store_is_away_at_a_start(where: Path) -> None:
    """No seal, no start: an error that says so, and the next start goes on from the newest version, at the place."""
    run, u = begin(where, holdfast.global_(every=holdfast.versions(1000)))
    for step in run.steps(9, every=EACH):
        u += 1
        if step == 8:
            break
    rest(run)
    run.close()
    for first in (1, 40, 60):
        calls = iter(range(1 << 30))

        def match(call: Call, first: int = first, calls: Any = calls) -> bool:
            return call.path.startswith(str(where / "run")) and next(calls) >= first

        with Faults("error", match=match), pytest.raises(holdfast.HoldfastError) as caught:
            run, u = begin(where, holdfast.global_(every=holdfast.versions(1000)))
            run.ready()
        assert isinstance(caught.value, (holdfast.StorageError, holdfast.DamageError)), caught.value
    run, u = begin(where, holdfast.global_(every=holdfast.versions(1000)))
    run.ready()
    assert run.restored is not None and run.restored.step == u[0] == 8
    run.complete()
    run.close()


def test_no_room_at_the_place(where: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each file beyond a size is refused there, as on a place that is full: versions go to the store, and come back."""
    run, u = begin(where)

    def match(call: Call) -> bool:
        return call.name == "fallocate" and (call.nbytes or 0) > 50_000 and "memory" in call.path

    fault = Faults("error", errno=errno.ENOSPC, match=match)
    for step in run.steps(30, every=EACH):
        u += 1
        rest(run)
        if step == 4:
            fault.__enter__()
        if step == 15:
            assert max(committed(where)["global"]) >= 14, committed(where)
            fault.__exit__(None, None, None)
        if step == 29:
            break
    rest(run)
    assert fault.fired >= 1 and max(committed(where)["memory"]) >= 29, committed(where)
    assert sum("level memory" in line for line in warnings_of(caplog)) <= 1, warnings_of(caplog)
    run.complete()
    run.close()
