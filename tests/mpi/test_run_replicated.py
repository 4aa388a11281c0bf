"""Replicated objects on several ranks: written once, the same on all or refused alike, whole or passed over alike."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from faults import Faults, named
from test_run_state import EACH, flip, go, leave, raised_alike, reopen, shard

import holdfast
from holdfast.format import BLOCK
from holdfast.run.maintenance import show, verify

MiB = 1 << 20
KEEP = holdfast.Keep(last=20)


def spare(run):
    """As if there were a version already that shares nothing with the newest: else the next is written whole."""
    run._x.writer.arrive()
    run._x.writer.chain = replace(run._x.writer.chain, spared=True)


def written(comm, run, version):
    """Bytes that each rank has written for a version."""
    comm.Barrier()
    name = next(v.name for v in run.versions if v.number == version)
    return [(Path(run.url) / f"versions/{name}/data/r{rank:06d}").stat().st_size for rank in range(comm.size)]


def settle(run):
    """Wait for what is in flight and for what is being deleted."""
    run._x.land()
    run._x.writer.close()


def quit(run):
    """As `leave`, and without threads and helpers that stay behind."""
    settle(run)
    leave(run)


def field(nbytes, seed=0):
    """An array of so many bytes that no block of another has; the same on all ranks."""
    return np.random.default_rng(seed).random(nbytes // 8)


def blank(array):
    return np.zeros_like(array)


# -- written once ------------------------------------------------------------------------------


def test_written_once_and_evenly(comm, shared_tmp):
    run = reopen(comm, shared_tmp)
    u = run.protect("u", field(64 * MiB), replicated=True)
    handle = run.checkpoint()
    each = written(comm, run, 1)
    assert 64 * MiB <= sum(each) <= 64 * MiB + 4096 * comm.size
    assert max(each) - min(each) <= BLOCK
    (version,) = run.versions
    assert handle.bytes == version.bytes == sum(each)
    assert version.state == u.nbytes
    expected = u.tobytes()
    run = reopen(comm, shared_tmp, run)
    u = run.protect("u", blank(u), replicated=True)
    run.ready()
    assert u.tobytes() == expected
    quit(run)


def test_many_small_ones(comm, shared_tmp):
    def begin(run, factor):
        return [run.protect(f"o{i}", np.full(1 + i % 50, float(factor * i)), replicated=True) for i in range(400)]

    run = reopen(comm, shared_tmp)
    found = begin(run, 1)
    run.checkpoint()
    each = written(comm, run, 1)
    assert sum(each) <= 400 * 51 * 8 + 4096 * comm.size
    assert max(each) - min(each) <= 4096
    run = reopen(comm, shared_tmp, run)
    found = begin(run, 0 * len(found))
    run.ready()
    assert all((a == i).all() for i, a in enumerate(found))
    quit(run)


class Model:
    """Its arrays can't change: they are replaced."""

    def __init__(self, fresh):
        self.w, self.name, self.b = [field(2 * MiB, seed=i) * fresh for i in range(5)], "m", np.zeros(7)

    def advance(self, step):
        self.w[step] = self.w[step] + 1
        self.name += "x"

    def state_dict(self):
        for array in self.w:
            array.flags.writeable = False
        return {"w": self.w, "name": self.name, "b": self.b}

    def load_state_dict(self, state):
        self.w, self.name, self.b = state["w"], state["name"], state["b"]


@pytest.mark.parametrize("overlap", ["off", "wait"])
@pytest.mark.parametrize("capture", ["auto", "copy", "direct", "cow", "process"])
def test_beside_private_and_sharded_objects(comm, shared_tmp, capture, overlap):
    rank = comm.rank
    process = capture == "process"
    options = {"overlap": overlap, "engine": "process" if process else "thread", "capture": "copy" if process else capture}

    def begin(run, fresh):
        cut, rows = shard(comm)
        u, model = field(9 * MiB) * fresh, Model(fresh)
        # Each rank in its own order.
        names = [("u", u), ("model", model)][:: -1 if rank % 2 else 1]
        for name, obj in names:
            run.protect(name, obj, replicated=True, capture="reference" if obj is model and capture == "copy" else "auto")
        rows = run.protect("rows", np.full((rows.stop - rows.start, 3), rank + 1.0) * fresh, shard=cut)
        own = run.protect("own", np.full(300_000 + rank, rank + 1.0) * fresh)
        s = run.state(mine=rank * fresh, array=np.full(3, float(rank)) * fresh)
        return u, model, rows, own, s

    run = reopen(comm, shared_tmp, **options)
    u, model, rows, own, s = begin(run, 1)
    private = sum(comm.allgather(own.nbytes + rows.nbytes + s.array.nbytes))
    for step in run.steps(3, every=EACH):
        if step == 2:
            break
        u[step * BLOCK // 8] += 1
        model.advance(step)
        rows += 1
        s.mine += 1
    settle(run)
    (version,) = [v for v in run.versions if v.number == 1]
    assert version.state == 9 * MiB + 10 * MiB + 7 * 8 + private
    assert sum(written(comm, run, 1)) <= version.state + 4096 * 20 * comm.size
    expected = [u.tobytes(), [w.tobytes() for w in model.w]]
    run = reopen(comm, shared_tmp, run, **options)
    u, model, rows, own, s = begin(run, 0)
    assert go(run, 3) == [2]
    assert [u.tobytes(), [w.tobytes() for w in model.w]] == expected
    assert model.name == "mxx"
    assert (rows == rank + 3).all() and (own == rank + 1).all()
    assert (s.mine, s.array.tolist()) == (rank + 2, [rank] * 3)
    quit(run)
    comm.Barrier()
    if rank == 0:
        assert list(verify(shared_tmp / "run")) == []


def test_it_is_shown(comm, shared_tmp):
    run = reopen(comm, shared_tmp)
    protected = run.protect("u", np.ones(5), replicated=True), run.protect("own", np.ones(2))
    run.checkpoint()
    assert len(protected) == 2
    quit(run)
    comm.Barrier()
    found = show(shared_tmp / "run")
    for part in found["contents"]:
        assert {o["name"]: o["replicated"] for o in part["objects"]} == {"u": True, "own": False}
        assert all(o["shard"] is None for o in part["objects"])
    assert found["state"] == 5 * 8 + 2 * 8 * comm.size


# -- what is as before -------------------------------------------------------------------------


def test_unchanged_blocks_are_written_by_nobody(comm, shared_tmp):
    run = reopen(comm, shared_tmp, keep=KEEP, incremental="blocks")
    u = run.protect("u", field(40 * MiB), replicated=True)
    run.checkpoint()
    spare(run)
    run.checkpoint()
    assert written(comm, run, 2) == [0] * comm.size
    u[6 * BLOCK // 8] += 1
    spare(run)
    run.checkpoint()
    assert sorted(written(comm, run, 3)) == [0] * (comm.size - 1) + [BLOCK]
    expected = u.tobytes()
    # The next attempt goes on where this one was, from files of all ranks.
    run = reopen(comm, shared_tmp, run, keep=KEEP, incremental="blocks")
    u = run.protect("u", blank(u), replicated=True)
    run.ready()
    assert u.tobytes() == expected
    u[-1] += 1
    spare(run)
    newest = run.checkpoint().version
    assert sorted(written(comm, run, newest)) == [0] * (comm.size - 1) + [BLOCK]
    assert run.load("u").tobytes() == u.tobytes()
    assert run.load("u", 3, rank=comm.size - 1).tobytes() == expected
    quit(run)


def test_retention_keeps_what_other_ranks_files_hold(comm, shared_tmp):
    """The rows change in turn, so that versions long gone from the list of those to keep are still needed."""
    run = reopen(comm, shared_tmp, keep=holdfast.Keep(last=1), max_chain=5)
    u = run.protect("u", field(7 * BLOCK), replicated=True)
    for step in run.steps(14, every=EACH):
        u[(step % 3) * BLOCK // 8] += 1
    newest = run.checkpoint().version
    settle(run)
    comm.Barrier()
    kept = sorted(v.number for v in run.versions)
    assert kept[-1] == newest and 1 < len(kept) <= 6
    expected = u.tobytes()
    run = reopen(comm, shared_tmp, run)
    u = run.protect("u", blank(u), replicated=True)
    run.ready()
    assert run.restored.version == newest
    assert u.tobytes() == expected
    quit(run)


@pytest.mark.parametrize("owner", ["first", "last"])
def test_damage_in_one_ranks_file_takes_all_back(comm, shared_tmp, owner):
    run = reopen(comm, shared_tmp, keep=KEEP)
    u = run.protect("u", field(6 * BLOCK), replicated=True)
    at = 0 if owner == "first" else comm.size - 1
    run.checkpoint()
    before = u.tobytes()
    u += 1
    run.checkpoint()
    names = {v.number: v.name for v in run.versions}
    if comm.rank == 0:
        flip(Path(run.url) / f"versions/{names[2]}/data/r{at:06d}", 5000)
    run = reopen(comm, shared_tmp, run, keep=KEEP)
    u = run.protect("u", blank(u), replicated=True)
    assert u.tobytes() == before  # before they have spoken, each rank has found it
    run.ready()
    assert run.restored.version == 1
    assert u.tobytes() == before
    ((name, why),) = run.restored.skipped
    assert name == names[2] and f"data/r{at:06d}" in why
    u[0] += 1
    run.checkpoint()
    assert run.load("u").tobytes() == u.tobytes()
    quit(run)


@pytest.mark.parametrize("owner", ["first", "last"])
def test_damage_in_a_file_that_later_versions_need(comm, shared_tmp, owner):
    run = reopen(comm, shared_tmp, keep=KEEP)
    u = run.protect("u", field(6 * BLOCK), replicated=True)
    run.checkpoint()
    before = u.tobytes()
    u += 1
    run.checkpoint()
    u[0] += 1  # all other blocks stay in the files of version 2
    run.checkpoint()
    names = {v.number: v.name for v in run.versions}
    if comm.rank == 0:
        path = Path(run.url) / f"versions/{names[2]}/data/r{0 if owner == 'first' else comm.size - 1:06d}"
        for at in range(0, path.stat().st_size, BLOCK):  # which block stands where, the disk has decided
            flip(path, at)
    run = reopen(comm, shared_tmp, run, keep=KEEP)
    u = run.protect("u", blank(u), replicated=True)
    run.ready()
    assert [name for name, _ in run.restored.skipped] == [names[3], names[2]]
    assert run.restored.version == 1
    assert u.tobytes() == before
    quit(run)


# -- the same, or refused alike ----------------------------------------------------------------


def test_a_rank_with_another_value(comm, shared_tmp):
    run = reopen(comm, shared_tmp)
    u = run.protect("u", field(3 * BLOCK), replicated=True)
    t = run.protect("t", {"a": [1, 2.5], "b": np.arange(4)}, replicated=True)
    run.checkpoint()
    if comm.size == 1:
        return quit(run)
    last = comm.size - 1
    for spoil, mend, name, what in [
        (lambda: u.__setitem__(BLOCK // 8, 7.0), lambda: u.__setitem__(BLOCK // 8, 8.0), "u", "value"),
        (lambda: t["b"].__setitem__(2, 9), lambda: t["b"].__setitem__(2, 2), "t", "value"),
        (lambda: t["a"].append(1), lambda: t["a"].pop(), "t", "structure"),
        (lambda: t.__setitem__("b", np.arange(5)), lambda: t.__setitem__("b", np.arange(4)), "t", "structure"),
    ]:
        u[BLOCK // 8] = 8.0
        if comm.rank == last:
            spoil()
        error = raised_alike(comm, holdfast.UsageError, run.checkpoint)
        rest = "rank 0" if comm.size == 2 else "ranks " + ", ".join(map(str, range(last)))
        if comm.size == 2:
            assert "rank 1 differs" in str(error)
        assert f"{name!r} is protected as replicated" in str(error)
        assert f"rank {last} differs in {what}" in str(error) and f"from {rest}" in str(error)
        assert (error.object, error.rank) == (name, last)
        if comm.rank == last:
            mend()
        newest = run.checkpoint()
        comm.Barrier()
        assert [v.status for v in run.versions if v.number == newest.version - 1] == []  # nothing is left of it
    u[0] = -1
    expected = u.tobytes()
    run.checkpoint()
    run = reopen(comm, shared_tmp, run)
    u, t = run.protect("u", blank(u), replicated=True), run.protect("t", {"a": [], "b": np.zeros(4, int)}, replicated=True)
    run.ready()
    assert u.tobytes() == expected
    assert t["a"] == [1, 2.5] and t["b"].tolist() == [0, 1, 2, 3]
    quit(run)


def test_in_flight_the_error_comes_at_one_loop_head(comm, shared_tmp):
    run = reopen(comm, shared_tmp, overlap="wait")
    u = run.protect("u", np.zeros(10), replicated=True)
    seen = []

    def loop():
        for step in run.steps(40, every=EACH):
            u[...] = step + (step == 3 and comm.rank == comm.size - 1)
            seen.append(step)

    if comm.size == 1:
        loop()
    else:
        raised_alike(comm, holdfast.UsageError, loop)
        assert len(set(comm.allgather(len(seen)))) == 1
        assert 4 <= len(seen) < 40
        u[...] = 39
    run.checkpoint()
    assert run.load("u").tolist() == [39] * 10
    quit(run)


def test_ranks_at_different_steps(comm, shared_tmp):
    """They hold different values for that reason, and it is what they are told."""
    run = reopen(comm, shared_tmp)
    u = run.protect("u", np.zeros(3), replicated=True)
    for step in run.steps(10):
        u += 1
        if step == (4 if comm.rank else 5):
            break
    if comm.size > 1:
        error = raised_alike(comm, holdfast.UsageError, run.checkpoint)
        assert "not at one step" in str(error)
    quit(run)


def test_ranks_that_protect_differently(comm, shared_tmp):
    run = reopen(comm, shared_tmp)
    u = run.protect("u", np.ones(3), replicated=comm.rank == 0)
    if comm.size > 1:
        error = raised_alike(comm, holdfast.UsageError, run.ready)
        assert "'u' is protected as replicated by some ranks and not by others" in str(error)
        assert "rank 0 has done so, rank 1 has not" in str(error)
        assert (error.object, error.rank) == ("u", 1)
    run.protect("u", u, replicated=True)  # mended, it goes on
    run.checkpoint()
    assert run.load("u").tolist() == [1, 1, 1]
    quit(run)


def test_given_up_by_some_ranks_only(comm, shared_tmp):
    run = reopen(comm, shared_tmp)
    u, v = [run.protect(name, np.ones(3), replicated=True) for name in "uv"]
    run.checkpoint()
    if comm.rank == 0:
        run.drop("u")
    if comm.size > 1:
        error = raised_alike(comm, holdfast.UsageError, run.checkpoint)
        assert "'u' is protected as replicated" in str(error) and "rank 0 has not protected it so" in str(error)
        if comm.rank > 0:
            run.drop("u")
    v += 1
    run.checkpoint()
    error = raised_alike(comm, holdfast.UsageError, lambda: run.protect("u", u, replicated=True))
    assert "Protect it before" in str(error)
    if comm.size > 1 and comm.rank > 0:
        run.protect("v", v)  # each rank's own from now on, but not by rank 0
    if comm.size > 1:
        error = raised_alike(comm, holdfast.UsageError, run.checkpoint)
        assert "'v'" in str(error) and "not protected it so" in str(error)
    run.protect("v", v)
    v += comm.rank
    run.checkpoint()
    assert run.load("v").tolist() == [2 + comm.rank] * 3
    quit(run)


def test_from_each_ranks_own_to_replicated_and_back(comm, shared_tmp):
    """Taken over either way; that the ranks hold different values is told at the checkpoint."""
    run = reopen(comm, shared_tmp, keep=KEEP)
    own = field(4 * BLOCK, seed=comm.rank)
    u = run.protect("u", own.copy())
    run.checkpoint()
    run = reopen(comm, shared_tmp, run, keep=KEEP)
    u = run.protect("u", blank(own), replicated=True)
    run.ready()
    assert u.tobytes() == own.tobytes()
    if comm.size > 1:
        error = raised_alike(comm, holdfast.UsageError, run.checkpoint)
        assert "'u' is protected as replicated, but the ranks do not hold the same" in str(error)
    u[...] = field(4 * BLOCK, seed=0)  # what rank 0 has stored already
    spare(run)
    run.checkpoint()
    newest = run._x.newest
    assert written(comm, run, newest)[0] == 0
    run = reopen(comm, shared_tmp, run, keep=KEEP)
    u = run.protect("u", blank(own))
    run.ready()
    assert u.tobytes() == field(4 * BLOCK, seed=0).tobytes()
    u[0] = comm.rank
    run.checkpoint()
    run = reopen(comm, shared_tmp, run, keep=KEEP)
    u = run.protect("u", blank(own))
    run.ready()
    assert u[0] == comm.rank and u[1:].tobytes() == field(4 * BLOCK, seed=0)[1:].tobytes()
    quit(run)


def test_carried_along_it_stays_replicated(comm, shared_tmp):
    run = reopen(comm, shared_tmp)
    u = run.protect("u", field(2 * BLOCK), replicated=True)
    run.checkpoint()
    run = reopen(comm, shared_tmp, run, objects_changed="accept", incremental="off")
    other = run.protect("other", np.ones(2))
    newest = run.checkpoint().version
    assert 2 * BLOCK <= sum(written(comm, run, newest)) <= 2 * BLOCK + 4096 * 2 * comm.size
    assert run.load("u").tobytes() == field(2 * BLOCK).tobytes()
    u = run.protect("u", blank(field(2 * BLOCK)))  # late: each rank's own from now on
    assert u.tobytes() == field(2 * BLOCK).tobytes()
    assert other.tolist() == [1, 1]
    quit(run)


def test_rollback_brings_it_back(comm, shared_tmp):
    run = reopen(comm, shared_tmp, keep=KEEP)
    u = run.protect("u", field(3 * BLOCK), replicated=True)
    first = u.tobytes()
    run.checkpoint()
    u += 1
    run.checkpoint()
    run.drop("u")
    run.checkpoint()
    run.rollback(1)
    assert u.tobytes() == first
    u[0] = 5
    run.checkpoint()
    assert run.load("u").tobytes() == u.tobytes()
    assert sum(written(comm, run, run._x.newest)) == 3 * BLOCK  # the first after going back needs nothing of what was before
    quit(run)


# -- another number of ranks -------------------------------------------------------------------


@pytest.mark.parametrize("fewer", [True, False])
def test_on_another_number_of_ranks(comm, shared_tmp, fewer):
    some = max(1, comm.size // 2)
    part = comm.Split(comm.rank < some, comm.rank)
    first, second = (comm, part) if fewer else (part, comm)
    u, small = field(5 * BLOCK), {"k": [1, 2], "x": np.arange(3.0)}
    if fewer or comm.rank < some:
        run = reopen(first, shared_tmp)
        run.protect("u", u, replicated=True)
        run.protect("small", small, replicated=True)
        own = run.protect("own", np.full(2, float(comm.rank)))
        run.checkpoint()
        u[BLOCK // 8] += 1
        run.checkpoint()
        assert own[0] == comm.rank
        quit(run)
    comm.Barrier()
    u[BLOCK // 8] = field(5 * BLOCK)[BLOCK // 8] + 1
    changed = some != comm.size
    if not fewer or comm.rank < some:
        run = reopen(second, shared_tmp, ranks_changed="accept", takeover=True)
        assert run.load("u").tobytes() == u.tobytes()
        if changed:
            assert run.load("own", rank=0).tolist() == [0, 0]
            found = run.protect("own", np.full(2, 7.0))
            error = raised_alike(second, holdfast.MismatchError, run.ready)
            assert "'own'" in str(error) and "the number of ranks has changed" in str(error)
            assert found.tolist() == [7, 7]
            run = reopen(second, shared_tmp, run, ranks_changed="accept", objects_changed="accept")
        found = run.protect("own", np.full(2, 7.0))
        mine = run.protect("u", blank(u), replicated=True)
        t = run.protect("small", {"k": [], "x": np.zeros(3)})  # each rank's own from now on
        assert mine.tobytes() == u.tobytes()
        mine[...] = 0
        run.ready()
        assert mine.tobytes() == u.tobytes()
        assert t["k"] == [1, 2] and t["x"].tolist() == [0, 1, 2]
        assert found.tolist() == ([7, 7] if changed else [second.rank] * 2)
        mine[0] = -1
        run.checkpoint()
        assert run.load("u").tobytes() == mine.tobytes()
        quit(run)
    part.Free()
    comm.Barrier()


def test_damage_is_found_on_another_number_of_ranks(comm, shared_tmp):
    u = field(6 * BLOCK)
    run = reopen(comm, shared_tmp, keep=KEEP)
    run.protect("u", u, replicated=True)
    run.checkpoint()
    before = u.tobytes()
    u += 1
    run.checkpoint()
    names = {v.number: v.name for v in run.versions}
    quit(run)
    comm.Barrier()
    part = comm.Split(comm.rank == 0)
    if comm.rank == 0:
        flip(shared_tmp / f"run/versions/{names[2]}/data/r{comm.size - 1:06d}", 100)
        run = reopen(part, shared_tmp, ranks_changed="accept", takeover=True)
        assert run.load("u").tobytes() == before
        u = run.protect("u", blank(u), replicated=True)
        run.ready()
        assert u.tobytes() == before
        assert [name for name, _ in run.restored.skipped] == [names[2]]
        quit(run)
    part.Free()
    comm.Barrier()


# -- what fails --------------------------------------------------------------------------------


@pytest.mark.parametrize("overlap", ["off", "wait"])
@pytest.mark.parametrize("call", ["pwrite", "fsync", "open"])
def test_a_rank_that_can_t_write(comm, shared_tmp, call, overlap):
    run = reopen(comm, shared_tmp, overlap=overlap)
    u = run.protect("u", field(5 * BLOCK), replicated=True)
    own = run.protect("own", np.full(4, float(comm.rank)))
    run.checkpoint()
    u += 1
    last = comm.size - 1
    with Faults("error", errno=errno.ENOSPC, match=named(call, path=f"data/r{last:06d}")) as faults:
        error = raised_alike(comm, holdfast.CheckpointError, run.checkpoint)
        assert faults.fired == 0 if comm.rank != last else faults.fired > 0
    assert [(c.rank, c.type) for c in error.causes] == [(last, "SystemCallError")]
    assert f"rank {last}: can't" in str(error) and "free space there" in str(error)
    run.checkpoint()
    comm.Barrier()
    assert next(v.number for v in run.versions if v.status == "current") == 3
    expected = u.tobytes()
    run = reopen(comm, shared_tmp, run)
    u, own = run.protect("u", blank(u), replicated=True), run.protect("own", blank(own))
    run.ready()
    assert u.tobytes() == expected and own.tolist() == [comm.rank] * 4
    quit(run)


def test_a_rank_that_can_t_capture(comm, shared_tmp):
    """Its own object is stale: what it has met, all hear of, before any has told where its blocks are."""
    run = reopen(comm, shared_tmp)
    u = run.protect("u", field(2 * BLOCK), replicated=True)
    v = run.protect("v", np.zeros(3))
    run.checkpoint()
    if comm.rank == comm.size - 1:
        v = v + 1  # rebound
    error = raised_alike(comm, holdfast.StaleObjectError, run.checkpoint)
    assert error.object == "v"
    run.protect("v", v)
    u += 1
    run.checkpoint()
    assert run.load("u").tobytes() == u.tobytes()
    quit(run)
