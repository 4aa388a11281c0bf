"""Levels on several ranks under faults: a rank killed at each stage of a version, its node lost as well, a full place."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from faults import Faults, named
from run_mpi import command, find_mpirun
from test_run_levels import EACH, expected, node, program, redundancies, resumed

import holdfast

IN_FLIGHT = True
NODE = node  # a fixture, used by name

# At which of the victim's calls it is killed, name and part of the path ({v}: the version under fault, {r}: the rank), and what
# may be gone on from: the version before, that version, either.
STAGES = {
    "data written": ("fchmod", "{v}/data/r{r}", "before"),
    "held put": ("unlink", "{v}/held/", "before"),
    "commit told": ("link", "{v}/commit", "either"),
    "commit put": ("unlink", "{v}/.tmp", "new"),
    "parity under way": ("pwrite", "{v}/parity/r{r}", "new"),
    "protected put": ("unlink", "{v}/protected/", "new"),
    "copying": ("pwrite", "run/versions/{v}/data/r{r}", "new"),
}
STEPS = 60

PROGRAM = """
    import json, os, sys
    from pathlib import Path
    from mpi4py import MPI
    comm = MPI.COMM_WORLD
    place = Path("nodes") / f"node{comm.rank}"
    place.mkdir(parents=True, exist_ok=True)
    os.environ["HOLDFAST_NODE_MEMORY"] = str(place.resolve())
    os.environ["HOLDFAST_FAILURE_DOMAIN"] = place.name
    import numpy as np, holdfast
    from faults import Faults, named
    name, path, victim, copies = json.loads(sys.argv[1])
    far = holdfast.versions(1 if copies else 1000)
    levels = [holdfast.memory(), holdfast.xor(), holdfast.global_(every=far)]
    run = holdfast.open("run", comm=comm, levels=levels, signals=False, timeout=15, takeover=True, incremental="blocks")
    u = run.protect("u", np.zeros(20_000 + 3000 * comm.rank))
    run.ready()
    restored = run.restored
    step = restored.step if restored else 0
    fine = bool((u == sum(comm.rank + i for i in range(step))).all())
    found = {"version": restored.version if restored else 0, "fine": comm.allreduce(int(fine)) == comm.size}
    target = run._x.writer.number + 2
    found["sources"] = list(restored.sources) if restored else []
    found["skipped"] = [list(s) for s in restored.skipped] if restored else []
    found["target"] = target
    if comm.rank == 0:
        Path("found.json").write_text(json.dumps(found))
    comm.Barrier()
    if name and comm.rank == victim:
        version = f"{target:08d}-a{run.attempt:06d}"
        match = named(name, path=path.format(v=version, r=f"{victim:06d}"))
        Faults("kill", at=1, match=match).__enter__()
    for step in run.steps(%d if name else (step + 3), every=holdfast.steps(1)):
        u += comm.rank + step
        run._x.writer.arrive()
        if copies:
            run._x.levels.drain(20)
    run.complete()
    found["final"] = float(u[0])
    if comm.rank == 0:
        Path("found.json").write_text(json.dumps(found))
    run.close()
"""


def launch(where: Path, ranks: int, *chosen: object) -> tuple[int, dict, str]:
    root = Path(__file__).resolve().parents[2]
    (where / "program.py").write_text(textwrap.dedent(PROGRAM % STEPS))
    launcher = ("OMPI_", "PMIX_", "PRTE_", "PMI_")
    own = {k: v for k, v in os.environ.items() if not k.startswith(launcher) or "ALLOW_RUN_AS_ROOT" in k}
    own |= {"PYTHONPATH": f"{root / 'src'}:{root / 'tests'}", "OMP_NUM_THREADS": "1"}
    mpirun = find_mpirun()
    assert mpirun is not None
    (where / "found.json").unlink(missing_ok=True)
    done = subprocess.run(
        [*command(mpirun, ranks)[:-3], sys.executable, "program.py", json.dumps(chosen)],
        cwd=where, env=own, capture_output=True, text=True, timeout=50, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    path = where / "found.json"
    return done.returncode, json.loads(path.read_text()) if path.exists() else {}, done.stderr


def check(stage: str, lost: bool, target: int, after: dict) -> None:
    """What a relaunch found after a kill at that stage of version `target`."""
    said = f"{stage}, {'node lost, ' if lost else ''}target {target}: {after}"
    assert after.get("fine"), said
    allowed = {"before": {target - 1}, "either": {target - 1, target}, "new": {target}}[STAGES[stage][2]]
    if lost:  # parities were not there yet, or not all of them
        allowed = {target - 1, target} if stage in ("protected put", "copying") else {target - 1}
    assert after["version"] in allowed, said


@pytest.mark.parametrize("lost", [False, True])
def test_a_rank_is_killed_at_each_stage(comm, shared_tmp, lost):
    """One job after the other, each killed at another stage: each goes on from where the one before was, and the last one ends
    with the undisturbed result. Always on 3 ranks, with a third of the stages; all of it with LEVELS_SAMPLE."""
    if comm.size == 1 or ((comm.size, lost) != (3, True) and "LEVELS_SAMPLE" not in os.environ):
        return
    told = None
    if comm.rank == 0:
        names = list(STAGES)
        chosen = names if "LEVELS_SAMPLE" in os.environ else names[(comm.size + 2 * lost) % 3 :: 3]
        try:
            told = history(shared_tmp, comm.size, chosen, lost)
        except BaseException as error:  # the others wait
            told = f"{type(error).__name__}: {error}"
    assert comm.bcast(told) is None


def history(where: Path, ranks: int, stages: list[str], lost: bool) -> None:
    before: tuple[str, int] | None = None
    for i, stage in enumerate([*stages, ""]):
        victim = (ranks - 1 - i) % ranks
        name, path, _ = STAGES.get(stage, ("", "", ""))
        code, found, err = launch(where, ranks, name, path, victim, stage == "copying")
        assert found, err[-3000:]
        if before is not None:
            check(before[0], lost, before[1], found)
        assert (code != 0) == bool(stage), (stage, code, err[-3000:])
        before = (stage, found["target"])
        if stage and lost:
            shutil.rmtree(where / "nodes" / f"node{victim}")
        if not stage:
            assert not list((where / "nodes").glob("*/*/*")), "a complete run leaves nothing in memory"


@pytest.mark.parametrize("how", ["create", "record", "room"])
def test_one_rank_s_place_is_full(comm, shared_tmp, node, caplog, monkeypatch, how):
    """The others' have room: all go to the run's own store together, one warning, and come back together."""
    from holdfast.catalog.places import Place

    levels = [holdfast.memory(), *redundancies(comm.size)[0], holdfast.global_(every=holdfast.versions(1000))]
    run, u = program(comm, shared_tmp, levels=levels, keep=holdfast.Keep(last=50))
    bad = comm.size - 1
    part = {"create": "/data/", "record": "/held/"}.get(how, "never")
    match = named("fallocate" if how == "create" else "pwrite", path=part)
    fault = Faults("error", errno=errno.ENOSPC, match=lambda call: match(call) and "/nodes/" in call.path)
    real, aims = Place.free_bytes, []
    with caplog.at_level(logging.WARNING, "holdfast"):
        for step in run.steps(30, every=EACH):
            u += comm.rank + step
            if step == 5 and comm.rank == bad:
                fault.__enter__()
                if how == "room":
                    monkeypatch.setattr(Place, "free_bytes", lambda self: -(1 << 40))
            if step == 12 and comm.rank == bad:
                fault.__exit__()
                monkeypatch.setattr(Place, "free_bytes", real)
            run._x.writer.arrive()
            aims.append(run._x.writer._aim)
            if step == 29:
                break
    assert comm.allgather(aims) == [aims] * comm.size
    assert all(aims[1:5]) and not all(aims[6:12]) and all(aims[25:]), aims
    if comm.rank == 0:
        said = [r.getMessage() for r in caplog.records]
        assert len(said) == 1 and "level memory" in said[0], said
    run, u = resumed(comm, shared_tmp, run, node, caplog, levels=levels)
    assert run.restored.step >= 28
    run.complete()
    run.close()


@pytest.mark.parametrize("target", [2, 5])
def test_rollback(comm, shared_tmp, node, caplog, target):
    """To a version at the nodes' places, after which versions go there again; a relaunch goes on from the newest of these."""
    second = holdfast.global_(every=holdfast.versions(2))
    levels = [holdfast.memory(keep=holdfast.Keep(last=6)), *redundancies(comm.size)[0], second]
    run, u = program(comm, shared_tmp, levels=levels, keep=holdfast.Keep(last=50))
    back = False
    for step in run.steps(12, every=EACH):
        u += comm.rank + step
        run._x.writer.arrive()
        if step == 7 and not back:
            back = True
            run.rollback(target)
        elif back and step == target:
            assert np.array_equal(u, expected(comm.rank, u.size, target + 1))
        if step == 11:
            break
    run._x.writer.arrive()
    newest = run._x.newest
    run, u = resumed(comm, shared_tmp, run, node, caplog, levels=levels)
    assert run.restored.version == newest > 8, (run.restored, newest)
    run.complete()
    run.close()
