"""What a run offers, with versions at a place: going back, loading, output files, transactions, chains, ways of capture."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lf_ladders import committed, left_behind

import holdfast
from holdfast.run import maintenance

EACH = holdfast.steps(1)
FAR = holdfast.versions(1000)


@pytest.fixture
def where(tmp_path: Path) -> Path:
    (tmp_path / "memory").mkdir()
    return tmp_path


def begin(where: Path, *levels: Any, nbytes: int = 80_000, **options: Any) -> tuple[holdfast.Run, np.ndarray]:
    chosen = levels or (holdfast.memory(where / "memory"), holdfast.global_(every=FAR))
    options = {"takeover": True, "signals": False, **options}  # this process is its own predecessor
    run = holdfast.open(where / "run", levels=list(chosen), **options)
    return run, run.protect("u", np.zeros(nbytes // 8))


def rest(run: holdfast.Run) -> None:
    """Until nothing is under way."""
    run._x.writer.arrive()
    assert run._x.levels is not None
    run._x.levels.drain(20)
    run._x.writer.tidying.finish()


def advance(run: holdfast.Run, u: np.ndarray, until: int) -> None:
    """Steps until `until - 1` versions are there, and leave the loop as an exception would."""
    for step in run.steps(1000, every=EACH):
        u += step + 1
        rest(run)
        if step + 1 == until:
            break


def after(steps: int) -> float:
    return steps * (steps + 1) / 2


def die(run: holdfast.Run) -> None:
    """As far as the next start can tell, a kill: no end is recorded."""
    run._x.left = True
    run._x.end = lambda *a, **k: None  # type: ignore[method-assign]
    run.close()


def every_second(where: Path, keep: int = 3) -> list[Any]:
    return [holdfast.memory(where / "memory", keep=holdfast.Keep(last=keep)), holdfast.global_(every=holdfast.versions(2))]


@pytest.mark.parametrize("inside", [False, True])
def test_rollback_to_a_version_in_the_store(where: Path, inside: bool) -> None:
    levels = every_second(where)
    run, u = begin(where, *levels, keep=10)
    if inside:
        back = False
        for step in run.steps(20, every=EACH):
            u += step + 1
            rest(run)
            if step == 7 and not back:
                back = True
                run.rollback(4)
            elif back and step == 4:
                assert u[0] == after(5)
            if back and step == 9:
                break
    else:
        advance(run, u, 8)
        run.rollback(4)
        assert u[0] == after(4)
        advance(run, u, 10)
    rest(run)
    newest = max(committed(where)["memory"])
    assert newest > 8 and max(committed(where)["global"]) >= newest - 1, committed(where)  # copying goes on
    # what came before, and does not count any more, is not at the place
    names = sorted(p.name for p in (where / "memory").glob("*/*/versions/*"))
    assert not any(n.endswith("-a000001") and int(n[:8]) > 4 for n in names), names
    die(run)
    run, u = begin(where, *levels, keep=10)
    run.ready()
    assert run.restored is not None and run.restored.version == newest and u[0] == after(run.restored.step or 0)
    run.complete()
    run.close()
    assert not left_behind(where)


def test_rollback_to_a_version_at_the_place(where: Path) -> None:
    levels = [holdfast.memory(where / "memory", keep=holdfast.Keep(last=3)), holdfast.global_(every=FAR)]
    run, u = begin(where, *levels)
    advance(run, u, 8)
    assert not committed(where)["global"] and committed(where)["memory"][-3:] == [5, 6, 7]
    run.rollback(6)
    assert u[0] == after(6)
    advance(run, u, 9)
    die(run)
    run, u = begin(where, *levels)
    run.ready()
    assert run.restored is not None and u[0] == after(run.restored.step or 0) and run.restored.version > 7
    with pytest.raises(holdfast.UsageError, match="no checkpoint 2"):
        run.rollback(2)
    run.complete()
    run.close()


def test_rollback_while_a_version_is_being_copied(where: Path, caplog: pytest.LogCaptureFixture) -> None:
    """That one does not count any more; copying goes on with those that do."""
    levels = [holdfast.memory(where / "memory", keep=holdfast.Keep(last=5)), holdfast.global_(limit="2MB/s")]
    run, u = begin(where, *levels, nbytes=1 << 20)
    for step in run.steps(1000, every=EACH):
        u += step + 1
        if step == 3:
            break
    run._x.writer.arrive()
    assert not run._x.writer.levels.keeper.idle
    run.rollback(2)
    assert u[0] == after(2)
    advance(run, u, 6)
    assert max(committed(where)["global"]) == max(committed(where)["memory"]) > 3
    assert not caplog.records, caplog.text
    run.complete()
    run.close()


def test_rollback_from_outside(where: Path) -> None:
    levels = every_second(where)
    run, u = begin(where, *levels, keep=10)
    advance(run, u, 8)
    die(run)
    maintenance.rollback(where / "run", 4, takeover=True)
    run, u = begin(where, *levels, keep=10)
    run.ready()
    assert run.restored is not None and run.restored.version == 4 and u[0] == after(4)
    advance(run, u, 7)
    newest = max(committed(where)["memory"])
    die(run)
    run, u = begin(where, *levels, keep=10)
    run.ready()
    assert run.restored is not None and run.restored.version == newest and u[0] == after(run.restored.step or 0)
    run.complete()
    run.close()


def test_load_finds_the_newest_and_older_ones(where: Path) -> None:
    run, u = begin(where, *every_second(where), keep=10)
    advance(run, u, 8)
    assert committed(where)["global"][-1] == 6 and committed(where)["memory"][-1] == 7
    assert run.load("u")[0] == after(7)
    assert run.load("u", 7)[0] == after(7)
    assert run.load("u", 4)[0] == after(4)
    assert max(v.number for v in run.versions) == 7
    die(run)
    run, u = begin(where, *every_second(where), keep=10)
    assert run.load("u")[0] == after(7)
    run.close()


def test_drop_and_protect_again(where: Path) -> None:
    run, u = begin(where)
    kept = [run.protect("w", np.full(5000, 7.0))]
    for step in run.steps(1000, every=EACH):
        u += step + 1
        rest(run)
        if step == 3:
            run.drop("w")
        if step == 6:
            break
    die(run)
    run, u = begin(where)
    run.ready()
    assert run.restored is not None and run.restored.step == 6 and u[0] == after(6)
    kept = [run.protect("w", np.full(5000, 9.0))]
    assert kept[0][0] == 9
    advance(run, u, 9)
    die(run)
    run, u = begin(where)
    w = run.protect("w", np.zeros(5000))
    run.ready()
    assert w[0] == 9 and u[0] == after(8)
    run.complete()
    run.close()


def test_objects_that_the_program_protects_late_are_carried(where: Path) -> None:
    """Also from a version at the place to one in the run's own store."""
    run, u = begin(where)
    w = run.protect("w", np.full(5000, 7.0))
    advance(run, u, 4)
    die(run)
    run, u = begin(where, objects_changed="accept")
    run.ready()
    assert u[0] == after(3)
    advance(run, u, 6)
    assert run.checkpoint().durable
    shutil.rmtree(where / "memory")
    (where / "memory").mkdir()
    die(run)
    run, u = begin(where)
    w = run.protect("w", np.zeros(5000))
    run.ready()
    assert w[0] == 7 and u[0] == after(6)
    run.complete()
    run.close()


def test_objects_changed(where: Path) -> None:
    run, u = begin(where)
    advance(run, u, 4)
    die(run)
    run, u = begin(where, nbytes=24)
    with pytest.raises(holdfast.MismatchError):
        run.ready()
    run.close()
    run, u = begin(where)
    run.ready()
    assert u[0] == after(3)
    run.close()


def test_output_files(where: Path) -> None:
    run, u = begin(where)
    log = run.file(where / "log.csv")
    for step in run.steps(1000, every=EACH):
        u += step + 1
        print(step, file=log)
        rest(run)
        if step == 6:
            break
    log.flush()
    die(run)
    run, u = begin(where)
    log = run.file(where / "log.csv")
    for step in run.steps(9, every=EACH):
        print(step, file=log)
    run.complete()
    run.close()
    assert (where / "log.csv").read_text().split() == [str(step) for step in range(9)]


def test_transactions(where: Path) -> None:
    run, u = begin(where)
    for step in run.steps(1000, every=EACH):
        u += step + 1
        if step in (2, 4):
            with run.transaction("spectrum") as t:
                t.put("s", np.full(10, float(step)))
        rest(run)
        if step == 6:
            break
    assert run.load("s")[0] == 4
    die(run)
    run, u = begin(where)
    run.ready()
    assert u[0] == after(6) and run.load("s")[0] == 4
    run.complete()
    run.close()


@pytest.mark.parametrize("incremental", ["blocks", "pages", "auto"])
@pytest.mark.parametrize("both", [False, True])
def test_chains_at_a_place(where: Path, incremental: str, both: bool) -> None:
    """A large array of which each step changes little; retention deletes nothing that is still referred to."""
    second = [holdfast.local(where / "local")] if both else []
    levels = [holdfast.memory(where / "memory"), *second, holdfast.global_(every=holdfast.versions(4))]
    options: dict[str, Any] = {"incremental": incremental, "max_chain": 5, "nbytes": 9 << 20}
    run, u = begin(where, *levels, **options)
    for round_ in range(4):
        first = run.step or 0
        for step in run.steps(1000, every=EACH):
            u[(step * 1000) % u.size] += 1
            if step == first + 9:
                break
        rest(run)
        assert all(len(committed(where)[kind]) <= 2 * 5 + 1 for kind in ("memory", "local")), committed(where)
        if both and round_ % 2:
            shutil.rmtree(where / "memory")
            (where / "memory").mkdir()
        die(run)
        run, u = begin(where, *levels, **options)
        run.ready()
        assert run.restored is not None and not run.restored.skipped
        expected = np.zeros(u.size)
        for step in range(run.restored.step or 0):
            expected[(step * 1000) % u.size] += 1
        assert np.array_equal(u, expected) and run.restored.step >= first + 8
    run.complete()
    run.close()
    assert not left_behind(where)


@pytest.mark.parametrize(
    "options",
    [
        {"overlap": "skip"}, {"overlap": "off"}, {"capture": "direct"}, {"capture": "reference"}, {"capture": "copy"},
        {"capture": "cow"}, {"engine": "process"}, {"on_error": "warn"}, {"engine": "process", "incremental": "pages"},
    ],
    ids=lambda o: "-".join(o.values()),
)  # fmt: skip
def test_ways_of_taking_versions(where: Path, options: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    run, u = begin(where, nbytes=6 << 20, **options)
    for step in run.steps(1000, every=EACH):
        u += step + 1
        rest(run)
        if step == 6:
            break
    there = committed(where)
    if options != {"overlap": "off"}:
        assert there["memory"][-1] >= 6 and not there["global"], there
    else:
        assert there["global"][-1] >= 6 and not there["memory"], there  # nothing goes beside the program
    die(run)
    run, u = begin(where, nbytes=6 << 20, **options)
    run.ready()
    assert run.restored is not None and run.restored.step == 6 and u[0] == u[-1] == after(6)
    run.complete()
    run.close()
    assert not left_behind(where)


def test_complete_twice_and_go_on(where: Path) -> None:
    """A run that is complete goes on in the run's own store: nothing is begun anew at a place that has gone."""
    run, u = begin(where)
    with run:
        for _ in run.steps(4, every=EACH):
            pass
        run.complete()
        assert not left_behind(where)
        for _ in run.steps(8, every=EACH, name="more"):
            pass
    assert not left_behind(where), u
    again, _ = begin(where)
    again.ready()
    again.close()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone is supported")
def test_a_fork_leaves_places_alone(where: Path) -> None:
    run, u = begin(where)
    advance(run, u, 4)
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    assert committed(where)["memory"]
    run.complete()
    run.close()
