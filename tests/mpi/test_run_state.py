"""State on several ranks: each rank's own values, shards, generators, files; resumed alike, refused alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import holdfast

EACH = holdfast.steps(1)


def reopen(comm, path, run=None, **options):
    """Open the run of a test; `run`, opened before, has died without a word."""
    if run is not None:
        leave(run)
    comm.Barrier()
    return holdfast.open(path / "run", comm=comm, **{"takeover": run is not None, "timeout": 20, **options})


def leave(run):
    """What a kill does, as far as this process would go on with it."""
    x = run._x
    x.interrupts.restore()
    x.loops.finish()
    x.files.close()
    x.resume.close()
    if x.writer.carry is not None:
        x.writer.carry.close()
    for closer in x.closers:
        closer()
    x.watching.stop()


def go(run, n, die=None, **options):
    seen = []
    for step in run.steps(n, **options):
        if step == die:
            break
        seen.append(step)
    return seen


def raised_alike(comm, kind, call):
    """`call` raises `kind` on all ranks, with the same text; the exception."""
    with pytest.raises(kind) as caught:
        call()
    texts = comm.allgather(str(caught.value))
    assert len(set(texts)) == 1, texts
    return caught.value


def flip(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_each_rank_has_its_own_values(comm, shared_tmp):
    rank = comm.rank

    def begin(run):
        u = run.protect("u", np.zeros(3 + rank))  # other shapes are no difference between ranks
        s = run.state(name="", best=0.0)
        extra = run.protect("only odd", [0]) if rank % 2 else None
        return u, s, extra

    run = reopen(comm, shared_tmp)
    u, s, extra = begin(run)
    for step in run.steps(6, every=holdfast.steps(2)):
        if step == 5:
            break
        u += rank + 1
        s.best, s.name = s.best + 0.5, f"rank {rank}"
        if extra is not None:
            extra.append(rank)
    run = reopen(comm, shared_tmp, run)
    u, s, extra = begin(run)
    assert u.tolist() == [4.0 * (rank + 1)] * (3 + rank)
    assert go(run, 6) == [4, 5]
    assert (s.name, s.best) == (f"rank {rank}", 2.0)
    assert extra is None or extra == [0] + [rank] * 4
    for other in range(comm.size):
        assert run.load("u", rank=other).shape == (3 + other,)
    assert run.load("u").shape == (3 + rank,)
    run.complete()
    run.close()


def test_one_generator_per_rank(comm, shared_tmp):
    run = reopen(comm, shared_tmp)
    rng = run.rng(11)
    expected = np.random.default_rng(np.random.SeedSequence(11, spawn_key=(comm.rank,))).random(4)
    drawn = [rng.random(), rng.random()]
    go(run, 2)
    run.checkpoint()
    rng.random()
    run = reopen(comm, shared_tmp, run)
    rng = run.rng(11)
    run.ready()
    drawn += [rng.random(), rng.random()]
    assert drawn == expected.tolist()
    assert len(set(comm.allgather(drawn[0]))) == comm.size
    leave(run)


def shard(comm, n=7):
    """Rows of an array of n times 3, cut as evenly as it goes: (shard, rows)."""
    first, end = n * comm.rank // comm.size, n * (comm.rank + 1) // comm.size
    return holdfast.Shard((n, 3), (first, 0)), slice(first, end)


WHOLE = np.arange(21.0).reshape(7, 3)


def test_shards_make_a_global_array(comm, shared_tmp):
    run = reopen(comm, shared_tmp)
    cut, rows = shard(comm)
    u = run.protect("u", WHOLE[rows].copy(), shard=cut)
    run.checkpoint()
    run = reopen(comm, shared_tmp, run)
    v = run.protect("u", np.zeros_like(u), shard=cut)
    run.ready()
    assert np.array_equal(v, WHOLE[rows])
    if comm.size > 1:
        with holdfast.open(shared_tmp / "run", mode="r") as reader:  # one process, whatever wrote it
            assert np.array_equal(reader.load("u"), WHOLE)
            assert np.array_equal(reader.load("u", rank=0), WHOLE[: 7 // comm.size])
    leave(run)


def test_what_is_each_ranks_own_is_never_merged_in_silence(comm, shared_tmp):
    run = reopen(comm, shared_tmp)
    u = run.protect("u", np.full(2, comm.rank))
    run.checkpoint()
    with holdfast.open(shared_tmp / "run", mode="r") as reader:
        if comm.size > 1:
            with pytest.raises(holdfast.UsageError, match=r"each rank's own.*rank="):
                reader.load("u")
        assert reader.load("u", rank=comm.size - 1).tolist() == [comm.size - 1] * 2
    assert u[0] == comm.rank
    leave(run)


# -- another number of ranks -------------------------------------------------------------------------------


def written_by(comm, path, ranks):
    """A run of the first `ranks` ranks, complete; all ranks come back together."""
    part = comm.Split(0 if comm.rank < ranks else 1, comm.rank)
    if comm.rank < ranks:
        run = reopen(part, path)
        cut, rows = shard(part)
        u = run.protect("u", WHOLE[rows].copy(), shard=cut)
        own = run.protect("own", np.full(1, part.rank))
        log = run.file(path / f"log{part.rank}.txt", "w")
        print("one", file=log)
        run.checkpoint()
        print("two", file=log, flush=True)
        assert len(u) and len(own)
        leave(run)
    comm.Barrier()
    part.Free()


@pytest.mark.parametrize("fewer", [True, False])
def test_another_number_of_ranks(comm, shared_tmp, fewer):
    """Written by some and read by all, or the other way round."""
    some = max(1, comm.size - 1)
    written_by(comm, shared_tmp, comm.size if fewer else some)
    part = comm.Split(0 if comm.rank < some else 1, comm.rank)
    mine = part if fewer else comm
    if mine is comm or comm.rank < some:
        ranks, stored = mine.size, comm.size if fewer else some
        if ranks != stored:
            error = raised_alike(mine, holdfast.MismatchError, lambda: reopen(mine, shared_tmp, takeover=True))
            assert f"written by {stored} ranks; this program has {ranks}" in str(error)
            assert "ranks_changed='accept'" in str(error)
        run = reopen(mine, shared_tmp, ranks_changed="accept", takeover=True, objects_changed="accept")
        cut, rows = shard(mine)
        u = run.protect("u", np.zeros_like(WHOLE[rows]), shard=cut)
        own = run.protect("own", np.full(1, 100 + mine.rank))
        assert np.array_equal(u, WHOLE[rows])
        u[...] = -1
        log = run.file(shared_tmp / f"log{mine.rank}.txt", "w") if mine.rank < stored else None
        run.ready()
        assert np.array_equal(u, WHOLE[rows])
        assert own[0] == (100 + mine.rank if ranks != stored else mine.rank)
        if log is not None:
            assert Path(log.name).read_text() == "one\n"
        u += 1
        run.checkpoint()
        assert np.array_equal(run.load("u"), WHOLE[rows] + 1)
        leave(run)
    part.Free()
    comm.Barrier()


# -- refused alike -----------------------------------------------------------------------------------------


def test_a_mismatch_on_one_rank_is_an_error_on_all(comm, shared_tmp):
    run = reopen(comm, shared_tmp)
    u, v = run.protect("u", np.ones(3)), run.protect("v", np.ones(3))
    run.checkpoint()
    run = reopen(comm, shared_tmp, run)
    last = comm.rank == comm.size - 1
    run.protect("u", np.zeros(5 if last else 3))
    if not last:
        run.protect("v", v)
    error = raised_alike(comm, holdfast.MismatchError, run.ready)
    lines = [line for line in str(error).splitlines() if f"rank {comm.size - 1}:" in line]
    assert len(lines) == 2
    assert "'u'" in lines[0] and "(3,)" in lines[0] and "(5,)" in lines[0]
    assert "'v'" in lines[1]
    run = reopen(comm, shared_tmp, run)
    assert run.protect("u", u).tolist() == [1, 1, 1]  # nothing was lost
    leave(run)


def test_damage_of_one_ranks_data_takes_all_back(comm, shared_tmp):
    run = reopen(comm, shared_tmp, keep=holdfast.Keep(last=5))
    u = run.protect("u", np.zeros(1000))
    for _ in run.steps(4, every=EACH):
        u += 1
    if comm.rank == 0:
        (name,) = [v.name for v in run.versions if v.number == 3]
        flip(shared_tmp / f"run/versions/{name}/data/r{comm.size - 1:06d}", 5000)
    run = reopen(comm, shared_tmp, run)
    u = run.protect("u", np.zeros(1000))
    run.ready()
    assert (u == 2).all()
    assert (run.restored.version, run.restored.step) == (2, 2)
    ((name, why),) = run.restored.skipped
    assert name.startswith("00000003") and f"rank {comm.size - 1}" in why
    assert go(run, 4) == [2, 3]
    leave(run)


def test_no_version_whole_is_an_error_on_all(comm, shared_tmp):
    """Each version is damaged on another rank."""
    run = reopen(comm, shared_tmp, keep=holdfast.Keep(last=5))
    u = run.protect("u", np.zeros(1000))
    for _ in run.steps(3, every=EACH):
        u += 1
    comm.Barrier()
    if comm.rank == 0:
        for v in run.versions:
            flip(shared_tmp / f"run/versions/{v.name}/data/r{v.number % comm.size:06d}", 100)
    run = reopen(comm, shared_tmp, run)
    run.protect("u", u)
    error = raised_alike(comm, holdfast.NoWholeVersionError, run.ready)
    assert "00000001" in str(error) and "00000002" in str(error)
    leave(run)


def test_params_and_options_are_refused_on_all(comm, shared_tmp):
    run = reopen(comm, shared_tmp, params={"n": 1})
    go(run, 2)
    run.checkpoint()
    leave(run)
    comm.Barrier()
    error = raised_alike(
        comm, holdfast.MismatchError, lambda: reopen(comm, shared_tmp, params={"n": 2}, takeover=True)
    )
    assert "n: stored 1, given 2" in str(error)
    error = raised_alike(comm, holdfast.RunInUseError, lambda: reopen(comm, shared_tmp))
    assert "takeover=True" in str(error)


def test_output_files_of_each_rank(comm, shared_tmp):
    path = shared_tmp / f"log{comm.rank}.txt"

    def program(run, die=None):
        log = run.file(path, "w")
        for step in run.steps(8, every=holdfast.steps(3)):
            print(comm.rank, step, file=log, flush=True)
            if step == die:
                break

    run = reopen(comm, shared_tmp)
    program(run, 4)
    run = reopen(comm, shared_tmp, run)
    program(run)
    assert path.read_text().splitlines() == [f"{comm.rank} {step}" for step in range(8)]
    leave(run)
