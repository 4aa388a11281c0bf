"""Levels on several ranks, each its own node: versions in memory, protected, lost with nodes, rebuilt, moved."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from test_run_state import flip, leave, reopen

import holdfast

IN_FLIGHT = True
FAR = holdfast.global_(every=holdfast.versions(1000))  # never within a test
EACH = holdfast.steps(1)


@pytest.fixture
def node(comm, shared_tmp, monkeypatch):
    """`node(name)`: this rank is on that node from now on; its directory."""

    def move(name):
        memory = shared_tmp / "nodes" / name
        memory.mkdir(parents=True, exist_ok=True)
        monkeypatch.setenv("HOLDFAST_NODE_MEMORY", str(memory))
        monkeypatch.setenv("HOLDFAST_FAILURE_DOMAIN", name)
        return memory

    move(f"node{comm.rank}")
    return move


def advance(run, u, steps, first=0):
    """Steps of a program; what `u` holds at the newest version that has arrived."""
    for step in run.steps(first + steps, every=EACH):
        u += run.comm.rank + step
        if step == first + steps - 1:
            break
    run._x.writer.arrive()


def program(comm, path, run=None, nbytes=None, **options):
    run = reopen(comm, path, run, **options)
    size = 200_000 + 5000 * comm.rank if nbytes is None else nbytes[comm.rank]
    u = run.protect("u", np.zeros(size // 8))
    return run, u


def expected(rank, size, steps):
    return np.full(size, sum(rank + step for step in range(steps)), float)


def lose(comm, shared_tmp, *ranks):
    """The nodes of these ranks are gone, with their memory."""
    comm.Barrier()
    if comm.rank == 0:
        for rank in ranks:
            shutil.rmtree(shared_tmp / "nodes" / f"node{rank}")
    comm.Barrier()


def resumed(comm, path, run, node, caplog, **options):
    """Another start, on nodes by the same names or those that `node` was told; checked: what it resumes from is right."""
    run, u = program(comm, path, run, **options)
    run.ready()
    assert run.restored is not None
    assert np.array_equal(u, expected(comm.rank, u.size, run.restored.step)), (u[:2], run.restored)
    return run, u


def read(run, where):
    return run._x.levels.view.counts.get(where, 0)


def redundancies(size):
    found = {1: [()], 2: [(holdfast.partner(),), (holdfast.xor(),)], 3: [(holdfast.xor(),), (holdfast.rs(3, 2),)]}
    return found.get(size, [(holdfast.xor(4),), (holdfast.rs(4, 2),), (holdfast.partner(),)])


def test_a_relaunched_job_restores_from_memory(comm, shared_tmp, node, caplog):
    levels = [holdfast.memory(), *redundancies(comm.size)[0], FAR]
    run, u = program(comm, shared_tmp, levels=levels)
    advance(run, u, 6)
    assert not list((shared_tmp / "run" / "versions").glob("*/commit"))
    run, u = resumed(comm, shared_tmp, run, node, caplog, levels=levels)
    assert run.restored.version == 5 and read(run, "memory") and not read(run, "global")
    assert set(run.restored.sources) == {"memory, on its own node"}
    for _ in run.steps(8, every=EACH):
        u += 1
    run.complete()
    run.close()
    comm.Barrier()
    assert not list((shared_tmp / "nodes").glob("*/*/*"))  # a complete run leaves nothing in memory
    again = reopen(comm, shared_tmp, levels=levels)
    again.protect("u", np.zeros(u.size))
    again.ready()
    assert again.restored.step == 8
    again.close()


@pytest.mark.parametrize("which", range(3))
def test_a_lost_node_is_rebuilt(comm, shared_tmp, node, caplog, which):
    if comm.size == 1:
        return
    kinds = redundancies(comm.size)
    (level,) = kinds[which % len(kinds)]
    levels = [holdfast.memory(), level, FAR]
    run, u = program(comm, shared_tmp, levels=levels)
    advance(run, u, 4)
    for lost in range(comm.size):
        gone = [(lost + i) % comm.size for i in range(level.m)]
        lose(comm, shared_tmp, *gone)
        node(f"node{comm.rank}")
        run, u = resumed(comm, shared_tmp, run, node, caplog, levels=levels)
        assert run.restored.version == 3 and not read(run, "global")
        for rank, source in enumerate(run.restored.sources):
            assert ("rebuilt" in source) == (rank in gone), source
    leave(run)


def test_more_is_lost_than_can_be_rebuilt(comm, shared_tmp, node, caplog):
    if comm.size < 2:
        return
    (level,) = redundancies(comm.size)[0]
    levels = [holdfast.memory(), level, holdfast.global_(every=holdfast.versions(3))]
    run, u = program(comm, shared_tmp, levels=levels)
    advance(run, u, 6)
    run._x.levels.drain(20)
    assert [p.parent.name for p in (shared_tmp / "run" / "versions").glob("*/commit")] == ["00000003-a000001"]
    comm.Barrier()
    lose(comm, shared_tmp, *range(level.m + 1))
    node(f"node{comm.rank}")
    with caplog.at_level(logging.INFO, "holdfast"):
        run, u = resumed(comm, shared_tmp, run, node, caplog, levels=levels)
    assert run.restored.version == 3 and read(run, "global") and set(run.restored.sources) == {"the run's own store"}
    if comm.size > 2:  # else nobody is left who has heard of the newer ones
        assert "00000005" in run.restored.skipped[0][0] and "rank" in run.restored.skipped[0][1]
    leave(run)


@pytest.mark.parametrize("what", ["the first", "the second", "one with parity"])
def test_the_first_version_is_lost_before_anything_is_safe(comm, shared_tmp, node, caplog, what):
    """A node is lost before its set has parity: nothing was safe, nobody is needed to say so. Not so where parity was there, or
    where the version is not the first: more work may depend on what a person can bring back."""
    if comm.size < 3:
        return
    levels = [holdfast.memory(), holdfast.xor(), FAR]
    run, u = program(comm, shared_tmp, levels=levels)
    advance(run, u, 3 if what == "the second" else 2)
    comm.Barrier()
    here = next((shared_tmp / "nodes" / f"node{comm.rank}").glob("*/*/versions"))
    if what != "one with parity":
        for kind in ("protected", "parity"):
            for folder in here.glob(f"*/{kind}"):
                shutil.rmtree(folder)
    lose(comm, shared_tmp, 0, *([1] if what == "one with parity" else []))
    node(f"node{comm.rank}")
    with caplog.at_level(logging.WARNING, "holdfast"):
        run, u = program(comm, shared_tmp, run, levels=levels)
        if what != "the first":
            with pytest.raises(holdfast.NoWholeVersionError):
                run.ready()
        else:
            run.ready()
            assert run.restored is None and not u.any()
            assert comm.rank or "had neither parity nor a copy yet when a part of it was lost" in caplog.text
            advance(run, u, 3)
            run, u = resumed(comm, shared_tmp, run, node, caplog, levels=levels)
            assert run.restored.step == 2
    leave(run)


def test_ranks_are_placed_differently(comm, shared_tmp, node, caplog):
    levels = [holdfast.memory(), *redundancies(comm.size)[0], FAR]
    run, u = program(comm, shared_tmp, levels=levels)
    advance(run, u, 4)
    comm.Barrier()
    node(f"node{(comm.rank + 1) % comm.size}")
    run, u = resumed(comm, shared_tmp, run, node, caplog, levels=levels)
    assert run.restored.version == 3 and not read(run, "global")
    if comm.size > 1:
        assert all("moved from" in source for source in run.restored.sources)
    advance(run, u, 3, first=3)
    run, u = resumed(comm, shared_tmp, run, node, caplog, levels=levels)
    assert run.restored.version > 3
    leave(run)


def test_one_commit_proves_that_all_have_written(comm, shared_tmp, node, caplog):
    levels = [holdfast.memory(), *redundancies(comm.size)[0], FAR]
    run, u = program(comm, shared_tmp, levels=levels)
    advance(run, u, 4)
    comm.Barrier()
    if comm.rank:  # the job died while the nodes put the commit
        (path,) = (shared_tmp / "nodes" / f"node{comm.rank}").glob("*/*/versions/00000003*/commit")
        path.unlink()
    run, u = resumed(comm, shared_tmp, run, node, caplog, levels=levels)
    assert run.restored.version == 3 and not read(run, "global")
    leave(run)


@pytest.mark.parametrize("kind", ["data", "parity"])
def test_a_flipped_bit_is_rebuilt_around(comm, shared_tmp, node, caplog, kind):
    if comm.size < 3:
        return
    levels = [holdfast.memory(), holdfast.xor(), FAR]
    run, u = program(comm, shared_tmp, levels=levels)
    advance(run, u, 4)
    comm.Barrier()
    if comm.rank == 0:
        (path,) = (shared_tmp / "nodes" / "node1").glob(f"*/*/versions/00000003*/{kind}/r000001")
        path.chmod(0o600)
        flip(path, 5000)
    comm.Barrier()
    if kind == "parity":
        lose(comm, shared_tmp, 0)
        node(f"node{comm.rank}")
    run, u = program(comm, shared_tmp, run, levels=levels)
    if kind == "data":
        run.ready()
        assert run.restored.version == 3 and "rebuilt" in run.restored.sources[1] and not read(run, "global")
        assert np.array_equal(u, expected(comm.rank, u.size, 3))
    else:  # rank 0 is lost and rank 1's parity is wrong: with one parity nothing is left of this version
        with pytest.raises(holdfast.NoWholeVersionError):
            run.ready()
    leave(run)


@pytest.mark.parametrize("m", [1, 2])
def test_what_is_rebuilt_from_a_bit_that_nobody_reads(comm, shared_tmp, node, caplog, m):
    """Behind the last object of rank 1 a bit flips, which a restart does not notice, and in rank 0's data one that it does.
    The latter's stream is rebuilt, and wrong where rank 1's is: all there is gets read through, and there is an end."""
    if comm.size < m + 2:
        return
    levels = [holdfast.memory(), holdfast.rs(comm.size, m), FAR]
    run, u = program(comm, shared_tmp, levels=levels)
    advance(run, u, 4)
    comm.Barrier()
    for rank, at in ((0, 5000), (1, -10)):
        if comm.rank == rank:
            (path,) = (shared_tmp / "nodes" / f"node{rank}").glob(f"*/*/versions/00000003*/data/r{rank:06d}")
            path.chmod(0o600)
            flip(path, path.stat().st_size + at if at < 0 else at)
    comm.Barrier()
    with caplog.at_level(logging.WARNING, "holdfast"):
        run, u = program(comm, shared_tmp, run, levels=levels)
        if m == 1:  # two are damaged
            with pytest.raises(holdfast.NoWholeVersionError):
                run.ready()
        else:
            run.ready()
            assert run.restored.version == 3 and not read(run, "global")
            assert [rank for rank, source in enumerate(run.restored.sources) if "rebuilt" in source] == [0, 1]
            assert np.array_equal(u, expected(comm.rank, u.size, 3))
    if comm.rank == 1:
        assert "rank 1 of version 00000003-a000001 is damaged in this node's memory: it is no source" in caplog.text
    leave(run)


def test_lines_behind_a_version_that_is_rebuilt_stay(comm, shared_tmp, node):
    """A rank that finds its newest state damaged goes on from an older one, as it seems, until all have settled."""
    if comm.size < 3:
        return
    levels = [holdfast.memory(), holdfast.xor(), holdfast.global_(every=holdfast.versions(2))]  # version 2 is there
    path = shared_tmp / f"log{comm.rank}.txt"
    run, u = program(comm, shared_tmp, levels=levels)
    log = run.file(path, "a")
    for step in run.steps(4, every=EACH):
        u += comm.rank + step
        log.write(f"{step}\n")
        if step == 3:
            break
    run._x.writer.arrive()
    assert run._x.writer.levels.keeper.finish(20)
    log.flush()
    comm.Barrier()
    if comm.rank == 0:
        (data,) = (shared_tmp / "nodes" / "node1").glob("*/*/versions/00000003*/data/r000001")
        data.chmod(0o600)
        flip(data, 5000)
    comm.Barrier()
    run, u = program(comm, shared_tmp, run, levels=levels)
    log = run.file(path, "a")
    if comm.rank == 1:  # killed here, it must find all of them again
        assert run._x.resume.link.name.startswith("00000002") and path.read_text().split() == list("0123")
    run.ready()
    assert run.restored.version == 3 and "rebuilt" in run.restored.sources[1]
    assert np.array_equal(u, expected(comm.rank, u.size, 3)) and path.read_text().split() == list("012")
    log.write("next\n")
    log.flush()
    assert path.read_text().split() == [*"012", "next"]
    leave(run)


def test_full_memory_goes_to_the_store_and_comes_back(comm, shared_tmp, node, caplog, monkeypatch):
    from holdfast.catalog.places import Place

    levels = [holdfast.memory(), *redundancies(comm.size)[0], holdfast.global_(every=holdfast.versions(1000))]
    run, u = program(comm, shared_tmp, levels=levels, keep=holdfast.Keep(last=50))
    real, aims = Place.free_bytes, []
    with caplog.at_level(logging.WARNING, "holdfast"):
        for step in run.steps(30, every=EACH):
            u += comm.rank + step
            if step == 5:
                monkeypatch.setattr(Place, "free_bytes", lambda self: -(1 << 40))
            if step == 15:
                monkeypatch.setattr(Place, "free_bytes", real)
            run._x.writer.arrive()
            aims.append(run._x.writer._aim)
    assert all(aims[1:5]) and not any(aims[9:15]) and all(aims[19:])
    if comm.rank == 0:
        assert sum("no room" in record.getMessage() for record in caplog.records) == 1
    run.complete()
    assert np.array_equal(u, expected(comm.rank, u.size, 30))
    run.close()


def test_default_levels_need_failure_domains(comm, shared_tmp, node):
    run, u = program(comm, shared_tmp)
    if comm.size == 1:
        assert run._x.levels is None
    else:
        assert run._x.levels.ladder.names() == ["memory", "xor", "global"]
    run.close()
    comm.Barrier()
    node("one")
    run, u = program(comm, Path(shared_tmp / "other"))
    assert run._x.levels is None
    run.close()


def test_sets_larger_than_domains_are_refused(comm, shared_tmp, node):
    with pytest.raises(holdfast.ConfigError, match="failure domain"):
        reopen(comm, shared_tmp, levels=[holdfast.memory(), holdfast.xor(5), FAR])
    comm.Barrier()
    assert not list((shared_tmp / "nodes").glob("*/*"))


def test_replicated_objects_are_told_to_go_to_the_store(comm, shared_tmp, node, caplog):
    if comm.size == 1:
        return
    with caplog.at_level(logging.WARNING, "holdfast"):
        run = reopen(comm, shared_tmp, levels=[holdfast.memory(), FAR])
        u = run.protect("weights", np.zeros(1000), replicated=True)
        for _ in run.steps(3, every=EACH):
            u += 1
            run._x.writer.arrive()
    run.close()
    assert [r.getMessage()[:50] for r in caplog.records] == (
        ["the program has replicated objects, such as 'weigh"] if comm.rank == 0 else []
    )
    comm.Barrier()
    assert list((shared_tmp / "run" / "versions").glob("*/commit"))
