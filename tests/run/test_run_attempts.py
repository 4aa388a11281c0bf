"""Who has the run: one at a time, taken over, fenced off; readers; the end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from run_support import environment, execute, go, program

import holdfast
from holdfast.format import decode_record, encode_record

EACH = holdfast.steps(1)


def test_a_run_that_is_in_use_is_refused_by_name_of_its_holder(tmp_path):
    with holdfast.open(tmp_path / "run"):
        with pytest.raises(holdfast.RunInUseError, match=rf"process {os.getpid()} on .*takeover=True"):
            holdfast.open(tmp_path / "run")
    holdfast.open(tmp_path / "run").close()


HOLDER = """
    run = holdfast.open("run")
    u = run.protect("u", np.zeros(1))
    for step in run.steps(1000, every=holdfast.steps(1)):
        u += 1
        print(step, flush=True)
        if step == 3:
            if sys.argv[1] == "die":
                os._exit(7)
            sys.stdin.readline()
"""


def hold(tmp_path):
    """A process that has the run and waits at step 3."""
    process = subprocess.Popen(
        [*program(tmp_path, HOLDER), "wait"], cwd=tmp_path, env=environment(), stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in process.stdout:
        if line.strip() == "3":
            return process
    raise AssertionError(process.communicate()[1])


def test_another_process_that_lives_and_then_is_killed(tmp_path):
    process = hold(tmp_path)
    try:
        with pytest.raises(holdfast.RunInUseError, match=f"process {process.pid} on"):
            holdfast.open(tmp_path / "run")
        process.kill()
        process.wait(10)
        with holdfast.open(tmp_path / "run") as run:  # its holder is known to be dead: no waiting for a lease
            u = run.protect("u", np.zeros(1))
            run.ready()
            assert (u[0], run.restored.step) == (3, 3)
            run.close()
    finally:
        process.kill()
        process.communicate(timeout=10)


def test_a_program_that_leaves_without_a_word(tmp_path):
    assert execute([*program(tmp_path, HOLDER), "die"], tmp_path).returncode == 7
    run = holdfast.open(tmp_path / "run")
    u = run.protect("u", np.zeros(1))
    assert u[0] == 3
    run.close()


def test_takeover_fences_the_other_off(tmp_path):
    process = hold(tmp_path)
    try:
        run = holdfast.open(tmp_path / "run", takeover=True)
        u = run.protect("u", np.zeros(1))
        assert go(run, 6, every=EACH) == [3, 4, 5]
        versions = run.versions
        _, error = process.communicate("go on\n", timeout=20)
        assert process.returncode == 1
        assert "FencedError: Attempt 1 is fenced off: attempt 2 has taken the run over" in error
        assert [v for v in run.versions if v.status == "current"] == [v for v in versions if v.status == "current"]
        assert u[0] == 3
        assert run.checkpoint().durable
        run.close()
    finally:
        process.kill()
        process.wait(10)


def test_the_fenced_one_gets_its_error_even_if_it_wants_warnings(tmp_path):
    old = holdfast.open(tmp_path / "run", on_error="warn")
    go(old, 3, every=EACH)
    new = holdfast.open(tmp_path / "run", takeover=True)
    with pytest.raises(holdfast.FencedError, match="End this process"):
        old.checkpoint()
    new.ready()
    assert new.restored.step == 2
    new.close()
    old.close()


def test_one_that_was_overtaken_before_it_began_is_told_when_it_settles(tmp_path):
    old = holdfast.open(tmp_path / "run")
    new = holdfast.open(tmp_path / "run", takeover=True)
    with pytest.raises(holdfast.FencedError):
        go(old, 3)
    assert go(new, 3) == [0, 1, 2]
    new.close()
    old.close()


def test_a_holder_on_another_host_counts_as_living_until_its_lease_ends(start):
    run = start()
    run.checkpoint()
    fence, lease = (Path(run.url) / f"attempts/000001.{suffix}" for suffix in ("json", "lease"))
    body = decode_record(fence.read_bytes(), "attempts/000001.json")[0]
    for process in (body["holder"], *body["processes"]):
        process.update(host="elsewhere", boot="another boot", pidns="pid:[1]")
    fence.write_bytes(encode_record(body)[0])
    with pytest.raises(holdfast.RunInUseError, match="attempt 1 on elsewhere gave a sign"):
        start(takeover=False)
    past = time.time() - 61
    os.utime(lease, (past, past))
    assert start(takeover=False).attempt == 2


def test_the_lease_is_refreshed_while_the_holder_lives(tmp_path):
    with holdfast.open(tmp_path / "run", lease=0.3):
        lease = tmp_path / "run/attempts/000001.lease"
        os.utime(lease, (0, 0))
        deadline = time.monotonic() + 10
        while lease.stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)


# -- readers ----------------------------------------------------------------------------------------------


def tree(path: Path):
    return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in [path, *path.rglob("*")]}


def test_a_reader_never_writes(tmp_path):
    with holdfast.open(tmp_path / "run") as run:
        u = run.protect("u", np.arange(4.0))
        go(run, 3, every=EACH)
    before = tree(tmp_path)
    time.sleep(0.01)
    with holdfast.open(tmp_path / "run", mode="r") as reader:
        assert reader.load("u").tolist() == [0, 1, 2, 3]
        v = reader.protect("u", np.zeros(4))
        reader.ready()
        assert (v.tolist(), reader.resumed, reader.restored.step, reader.attempt) == (u.tolist(), True, 3, 0)
        assert len(reader.versions) == 2
        calls = [
            reader.checkpoint, reader.complete, lambda: reader.steps(3), lambda: reader.rollback(1),
            lambda: reader.transaction("r"), lambda: reader.file("log.txt"), lambda: reader.drop("u"),
        ]  # fmt: skip
        for call in calls:
            with pytest.raises(holdfast.UsageError, match="mode='r'"):
                call()
    assert tree(tmp_path) == before


def test_a_reader_reads_a_run_that_is_in_use(tmp_path):
    with holdfast.open(tmp_path / "run") as run:
        u = run.protect("u", np.zeros(1))
        for step in run.steps(4, every=EACH):
            if step:
                with holdfast.open(tmp_path / "run", mode="r") as reader:
                    assert reader.load("u")[0] == step
            u += 1


def test_a_reader_of_nothing_creates_nothing(tmp_path):
    with pytest.raises(holdfast.HoldfastError):
        holdfast.open(tmp_path / "nothing", mode="r")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty").mkdir()
    with pytest.raises(holdfast.UsageError, match="no run"):
        holdfast.open(tmp_path / "empty", mode="r")
    assert list((tmp_path / "empty").iterdir()) == []


# -- the end ----------------------------------------------------------------------------------------------


def test_everything_is_refused_after_close(tmp_path):
    run = holdfast.open(tmp_path / "run")
    u = run.protect("u", np.zeros(1))
    run.checkpoint()
    run.close()
    run.close()  # again is fine
    calls = [
        lambda: run.protect("u", u), run.ready, run.checkpoint, run.complete, lambda: run.steps(3),
        lambda: run.rollback(1), lambda: run.transaction("r"), lambda: run.file("log.txt"), lambda: run.drop("u"),
        lambda: run.load("u"), lambda: run.rng(1), lambda: run.state(a=1),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(holdfast.UsageError, match="closed"):
            call()


def ends(run_path: Path):
    from holdfast.catalog import read_catalog
    from holdfast.store import open_store

    return [a.end for a in read_catalog(open_store(run_path, create=False, read_only=True)).attempts]


def test_how_an_attempt_ended_is_recorded(tmp_path):
    run = holdfast.open(tmp_path / "run")
    go(run, 9, 4, every=EACH)
    run.close()
    with pytest.raises(ZeroDivisionError), holdfast.open(tmp_path / "run") as run:
        go(run, 9, 6, every=EACH)
        raise ZeroDivisionError("what happened")
    with holdfast.open(tmp_path / "run") as run:
        go(run, 9, every=EACH)
    closed, failed, complete = ends(tmp_path / "run")
    assert (closed.outcome, closed.step, closed.error) == ("closed", 5, None)
    assert (failed.outcome, failed.step, failed.error) == ("failed", 6, "ZeroDivisionError: what happened")
    assert (complete.outcome, complete.step) == ("complete", 9)
    assert complete.version == run.versions[0].number


def test_signals_of_a_killed_process_are_no_end(tmp_path):
    process = hold(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)
    assert ends(tmp_path / "run") == [None]


def test_a_child_does_not_act_for_the_process_that_opened_the_run(start):
    run = start()
    u = run.protect("u", np.zeros(1))
    run.checkpoint()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            u += 1
            run.__exit__(None, None, None)
            try:
                run.checkpoint()
            except holdfast.UsageError:
                code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert not list(Path(run.url, "attempts").glob("*.end"))
    run.checkpoint()
    assert run.load("u")[0] == 0


def test_a_directory_that_was_deleted_is_noticed(start):
    run = start()
    u = run.protect("u", np.zeros(1))
    run.checkpoint()
    shutil.rmtree(Path(run.url) / "attempts")
    u += 1
    with pytest.raises(holdfast.CheckpointError, match="deleted or replaced"):
        run.checkpoint()


def test_versions_that_are_gone_are_told(start):
    with start() as run:
        run.protect("u", np.ones(1))
    shutil.rmtree(Path(run.url) / "versions")
    with pytest.raises(holdfast.NoWholeVersionError, match="never written, or has been deleted"):
        start().ready()


def test_records_of_attempts_that_are_gone(start):
    with start() as run:
        run.protect("u", np.ones(1))
    shutil.rmtree(Path(run.url) / "attempts")
    run = start()
    assert run.protect("u", np.zeros(1))[0] == 1
    run.ready()
    assert run.attempt == 2


UNFINISHED = """
    run = holdfast.open("run")
    u = run.protect("u", np.zeros(1))
    for step in run.steps(3):
        u += 1
"""


def test_a_program_that_ends_without_completing_is_told_so(tmp_path):
    done = execute(program(tmp_path, UNFINISHED), tmp_path)
    assert done.returncode == 0
    assert "is not complete. There is no version" in done.stderr and "run.complete()" in done.stderr
    finished = execute(program(tmp_path, UNFINISHED + "    run.complete()\n"), tmp_path)
    assert (finished.returncode, finished.stderr) == (0, "")


def test_a_copy_is_not_held_by_who_holds_the_original(start, tmp_path):
    run = start()
    u = run.protect("u", np.ones(1))
    run.checkpoint()
    shutil.copytree(run.url, tmp_path / "copy")
    with holdfast.open(tmp_path / "copy") as copy:
        assert copy.protect("u", np.zeros(1)) == u
    link = tmp_path / "link"
    link.symlink_to(run.url)
    with pytest.raises(holdfast.RunInUseError):
        holdfast.open(link)
