"""The time limit: found out, left for early enough, the same way out as a signal's."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import pytest
from run_support import execute, program
from test_run_pacing import Ranks, now  # noqa: F401  (a fixture)

import holdfast
from holdfast.config import load
from holdfast.group import SerialGroup
from holdfast.policy import Every
from holdfast.run import timelimit
from holdfast.run.interval import Costs
from holdfast.run.pacing import Decision, Pacer
from holdfast.run.signals import TIME_LIMIT, Interrupts
from holdfast.run.timelimit import SPARE, Limit, deadline_of_job, find_deadline

OVER = Decision("signal", TIME_LIMIT)
NAMES = ("HOLDFAST_DEADLINE", "SLURM_JOB_ID", "SLURM_JOB_END_TIME")


@pytest.fixture(autouse=True)
def no_job(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


# -- who says so --------------------------------------------------------------------------------------------


def squeue(tmp_path, monkeypatch, text):
    """A `squeue` that does this; the environment of a job under it."""
    path = tmp_path / "bin" / "squeue"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    return dict(os.environ)


def test_what_slurm_says_in_the_environment():
    assert deadline_of_job({"SLURM_JOB_ID": "77", "SLURM_JOB_END_TIME": "1900000000"}) == 1900000000.0
    assert deadline_of_job({}) is None


def test_what_squeue_says(tmp_path, monkeypatch):
    end = 1900000000
    said = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(end))
    script = f'[ "$*" = "-h -j 77 -o %e" ] && [ $SLURM_TIME_FORMAT = standard ] && echo {said}'
    environment = squeue(tmp_path, monkeypatch, script)
    assert deadline_of_job(environment) == end
    assert deadline_of_job(environment, ask=False) is None


@pytest.mark.parametrize("text", ["echo N/A", "exit 1", "exec sleep 20"])
def test_a_squeue_that_knows_nothing(tmp_path, monkeypatch, text):
    monkeypatch.setattr(timelimit, "_PATIENCE", 0.2)
    began = time.monotonic()
    assert deadline_of_job(squeue(tmp_path, monkeypatch, text)) is None
    assert time.monotonic() - began < 10


def test_the_earlier_holds_and_nobody_is_asked_twice():
    both = {"HOLDFAST_DEADLINE": "1900000100", "SLURM_JOB_ID": "77", "SLURM_JOB_END_TIME": "1900000000", "PATH": ""}
    assert find_deadline(both) == 1900000000.0
    assert find_deadline({**both, "HOLDFAST_DEADLINE": "1899999999.5"}) == 1899999999.5
    assert find_deadline({"HOLDFAST_DEADLINE": "1900000100", "SLURM_JOB_ID": "77"}) == 1900000100.0


def test_a_deadline_that_is_none_is_told_and_ignored(caplog):
    assert find_deadline({"HOLDFAST_DEADLINE": "tomorrow"}) is None
    assert "HOLDFAST_DEADLINE=tomorrow is no unix time" in caplog.text


def test_an_old_slurm_is_asked_beside_the_program(tmp_path, monkeypatch):
    said = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 1000))
    squeue(tmp_path, monkeypatch, f"echo {said}")
    limit = Limit("auto", Costs(), False, 0, 2, lambda: 0)
    other = Limit("auto", Costs(), False, 1, 2, lambda: 0)
    assert limit.active and not other.active
    until = time.monotonic() + 10
    while limit.left == math.inf and time.monotonic() < until:
        time.sleep(0.01)
    assert 990 < limit.left < 1001


def test_the_option():
    for value, seconds in (("90", 90.0), ("2h", 7200.0), ("1.5 min", 90.0), (30, 30.0), ("1 d", 86400.0), ("1h30m", 5400.0)):
        assert load({"time_limit": value}).time_limit == load({"timeout": value}).timeout == seconds
    assert load({}).time_limit == "auto" and load({"time_limit": "off"}).time_limit == "off"
    for bad in ("soon", "0", "-1", "2 parsecs", "h", "30m1h", "1h1h", "1h30", "1h,5m"):
        with pytest.raises(holdfast.ConfigError, match="time_limit"):
            load({"time_limit": bad})


# -- from when on -------------------------------------------------------------------------------------------


@pytest.fixture
def clock(now, monkeypatch):  # noqa: F811
    """The pacer's clock, which the limit has too; unix time is later by a thousand."""
    monkeypatch.setattr("holdfast.run.timelimit.monotonic", lambda: now[0])
    monkeypatch.setattr("holdfast.run.timelimit.time.time", lambda: now[0] + 1000)
    return now


def left_at(pacer, clock, step_seconds, first=0, last=100_000):
    """The time at the head at which the loop is left."""
    for step in range(first, last):
        if pacer.decide(step, False) == OVER:
            return clock[0]
        clock[0] += step_seconds
    raise AssertionError("the time limit was not heeded")


def limited(limit, every=None):
    return Pacer(every or Every(steps=10**9), SerialGroup(), Interrupts(), 0, None, None, limit)


def test_it_is_left_for_as_late_as_the_dearest_checkpoint_and_the_longest_step_allow(clock):
    costs = Costs()
    for seconds in (2.0, 8.0, 3.0):
        costs.durable(seconds)
    end = clock[0] + 1000
    at = left_at(limited(Limit(1000.0, costs, False, 0, 1, lambda: 0)), clock, 0.5)
    assert end - (1.5 * 8 + 0.5 + SPARE) <= at <= end - (1.5 * 8 + SPARE)


def test_twice_as_early_where_a_version_may_be_in_flight(clock):
    costs = Costs()
    costs.durable(8.0)
    end = clock[0] + 1000
    at = left_at(limited(Limit(1000.0, costs, True, 0, 1, lambda: 0)), clock, 0.5)
    assert at == end - 2 * 1.5 * 8 - SPARE - 0.5


@pytest.mark.parametrize(
    ("whole", "nbytes", "expected"), [(100.0, 0, 10.0), (10_000.0, 0, 60.0), (10_000.0, 10**10, 200.0), (100.0, 10**11, 50.0)]
)
def test_before_anything_was_measured(clock, whole, nbytes, expected):
    limit = Limit(whole, Costs(), False, 0, 1, lambda: nbytes)
    assert limit.margin == expected + SPARE


def test_what_is_no_step_does_not_count_as_one(clock):
    costs = Costs()
    costs.durable(0.0)
    limit = Limit(1000.0, costs, False, 0, 1, lambda: 0)
    pacer = limited(limit)
    for step in range(10):
        assert pacer.decide(step, False) is None
        clock[0] += 1.0
    clock[0] += 50  # a checkpoint at step 10's head
    pacer.taken(10)
    pacer.watch(object())
    clock[0] += 50
    pacer.watch(None)
    assert pacer.decide(11, False) is None
    assert limit.margin == 1.0 + SPARE
    clock[0] += 20  # between two loops
    limited(limit).decide(1, False)
    assert limit.margin == 1.0 + SPARE
    clock[0] += 7
    assert pacer.decide(12, False) is None
    assert limit.margin == 7.0 + SPARE


def test_a_measurement_counts_from_the_next_checkpoint_on(clock):
    costs = Costs()
    limit = Limit(1000.0, costs, False, 0, 1, lambda: 0)
    pacer = limited(limit)
    clock[0] += 500
    costs.durable(200.0)
    pacer.taken(1)
    at = left_at(pacer, clock, 1.0, first=2)
    assert 1000 + 1000 - 300 - SPARE - 2 <= at <= 1000 + 1000 - 300 - SPARE


@pytest.mark.parametrize("pace", [0.001, 0.3])
def test_one_rank_that_knows_is_enough_and_all_leave_at_one_step(clock, pace):
    ranks = Ranks(3, holdfast.seconds(30.0), clock, skew=pace / 3)
    limit = Limit(20.0, Costs(), False, 1, 3, lambda: 0)
    ranks.pacers[1]._limit = limit
    end = clock[0] + 20
    for step in range(100_000):
        if (decision := ranks.decide(step)) is not None:
            assert decision == OVER
            break
    assert end - 2.0 - SPARE - 8 * max(16 * pace, 0.1) <= clock[0] <= end - 2.0 - SPARE + 2 * max(pace, 0.02)
    ranks.each("finish")


def test_without_a_limit_no_clock_is_looked_at(clock):
    limit = Limit("auto", Costs(), False, 0, 1, lambda: 1 / 0)
    assert not limit.active and limit.left == math.inf
    assert limited(limit)._limit is None


# -- the way out --------------------------------------------------------------------------------------------

PROGRAM = """
    import time
    run = holdfast.open("run", **eval(sys.argv[1]))
    u = run.protect("u", np.zeros(1))
    for step in run.steps(400, every=holdfast.steps(100)):
        u += 1
        time.sleep(float(sys.argv[2]))
    run.complete()
    print("u", u[0])
"""


def catalog(tmp_path):
    from holdfast.catalog import read_catalog
    from holdfast.store import open_store

    return read_catalog(open_store(tmp_path / "run", create=False, read_only=True))


def attempts(tmp_path):
    return catalog(tmp_path).attempts


def test_a_last_checkpoint_before_the_deadline_and_status_85(tmp_path):
    command = [*program(tmp_path, PROGRAM), "{}"]
    slow, quick = [*command, "0.02"], [*command, "0"]
    deadline = time.time() + 6.0
    first = execute(slow, tmp_path, HOLDFAST_DEADLINE=str(deadline))
    assert first.returncode == 85, first.stderr
    assert "the time limit comes in" in first.stderr
    end = attempts(tmp_path)[-1].end
    assert (end.outcome, end.signal, end.error) == ("interrupted", "time limit", None)
    assert end.time < deadline and end.step > 0
    assert catalog(tmp_path).versions[0].reason == "time limit"
    again = execute(quick, tmp_path)
    assert (again.returncode, again.stdout) == (0, "u 400.0\n"), again.stderr


def test_a_start_that_comes_too_late_does_nothing(tmp_path):
    """Also one that comes when it is over: nothing was to be saved, so nothing was too late."""
    over = {"HOLDFAST_DEADLINE": str(time.time() - 1)}
    done = execute([*program(tmp_path, PROGRAM), "{}", "0"], tmp_path, **over)
    assert (done.returncode, done.stderr) == (86, "holdfast: the time limit is over: out\n")
    assert attempts(tmp_path)[-1].end.error is None
    ignored = execute([*program(tmp_path, PROGRAM), "{'time_limit': 'off'}", "0"], tmp_path, **over)
    assert (ignored.returncode, ignored.stdout) == (0, "u 400.0\n"), ignored.stderr


def test_a_last_checkpoint_that_is_too_late_has_its_own_status(start):
    run = start(time_limit="1 h")
    with pytest.raises(holdfast.Interrupted) as caught:
        for step in run.steps(9, every=holdfast.steps(100)):
            if step == 3:
                run._x.limit._set(time.time() - 5.0)
    assert (caught.value.code, caught.value.signal, caught.value.version) == (87, "time limit", run.versions[0].number)
    end = attempts(Path(run.url).parent)[-1].end
    assert end.outcome == "interrupted" and "after the time limit" in end.error


def test_what_checkpoints_take_until_they_are_durable_is_measured(start, monkeypatch):
    monkeypatch.setenv("HOLDFAST_OVERLAP", "wait")
    run = start()
    told = []
    run._x.costs.durable = told.append
    for _ in run.steps(5, every=holdfast.steps(2)):
        pass
    run.checkpoint()
    run._x.land()
    assert len(told) == 3
    assert all(0 < seconds < 30 for seconds in told)


def test_a_time_limit_that_nobody_heeds_is_no_signal(start):
    """A loop that is left by an exception at the moment at which the limit is due."""
    run = start(time_limit="1 h")
    with pytest.raises(ValueError, match="mine"):
        for _ in run.steps(9):
            run._x.limit._set(time.time() + 1.0)
            raise ValueError("mine")
    assert run._x.interrupts.pending == 0
