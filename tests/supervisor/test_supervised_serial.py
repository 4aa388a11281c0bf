"""Serial programs under `holdfast run`: killed, interrupted, hopeless, orphaned."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time

import pytest
from programs import Job, at_version, catalog, newest, until

from holdfast.supervisor import loop
from holdfast.supervisor.account import Account
from holdfast.supervisor.child import Signals
from holdfast.supervisor.execution import State


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What 30 steps of the serial program give."""
    u = [1.0] * 16
    for step in range(30):
        u = [x * 1.01 + step for x in u]
    import numpy as np

    return f"result {np.array(u).sum().hex()}"


def test_killed_again_and_again_it_ends_with_the_same_result(supervise, serial, tmp_path, undisturbed):
    run, report = tmp_path / "run", tmp_path / "report.json"
    job = supervise("--report", report, "--", *serial, "run", 30, 0.02)
    chance, killed = random.Random(5), 0
    for _ in range(4):
        attempt = until(lambda number=3 * killed + 1: at_version(run, number))
        if attempt.end is not None:
            break
        time.sleep(chance.uniform(0.0, 0.1))
        os.kill(attempt.processes[0].pid, signal.SIGKILL)
        killed += 1
        until(lambda before=attempt.number: newest(run).number > before)
    assert job.end() == 0, job.err
    assert job.result == undisturbed
    content = json.loads(report.read_text())
    assert (content["outcome"], content["exit"], content["restarts"]) == ("complete", 0, killed)
    assert [e["code"] for e in content["executions"]] == [-9] * killed + [0]
    assert 0 < content["lost_seconds"] < content["seconds"]
    assert content["runs"] == [
        {"url": str(run), "complete": True, "version": content["runs"][0]["version"], "step": 30}
    ]
    assert job.err.count("killed by SIGKILL") == killed
    assert job.err.count("resumes from version") == killed
    resumed = [one for e in content["executions"] for one in e["resumed"]]
    assert [(r["attempt"], r["source"]) for r in resumed] == [(n + 2, "the run's own store") for n in range(killed)]
    for r in resumed:
        assert f"attempt {r['attempt']} of run: version {r['version']} (step {r['step']}), from the run's own store" in job.err
    assert "holdfast: complete." in job.err


def test_it_tells_that_the_data_came_from_memory(supervise, serial, tmp_path, monkeypatch):
    (tmp_path / "nodes").mkdir()
    monkeypatch.setenv("HOLDFAST_LEVELS", f"memory:root={tmp_path / 'nodes'},global")
    job = supervise("--", *serial, "run", 10, 0.2)
    os.kill(until(lambda: at_version(tmp_path / "run", 2)).processes[0].pid, signal.SIGKILL)
    assert job.end() == 0, job.err
    lines = [line for line in job.err.splitlines() if line.startswith("holdfast: attempt 2 of run: version ")]
    assert len(lines) == 1 and lines[0].endswith(", from memory (4.0 KiB)"), job.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP], ids=lambda n: n.name)
def test_a_signal_ends_in_a_last_checkpoint(supervise, serial, tmp_path, number):
    run = tmp_path / "run"
    job = supervise("--", *serial, "run", 100_000, 0.01)
    until(lambda: at_version(run, 2))
    job.signal(number)
    assert job.end() == 85, job.err
    found = catalog(run)
    assert found.attempts[-1].end.outcome == "interrupted"
    assert found.attempts[-1].end.version == found.lineage[0].number
    assert f"interrupted by {number.name}. Safe: version {found.lineage[0].number} (step" in job.err


def test_the_same_command_goes_on_after_an_interrupt(supervise, serial, tmp_path, undisturbed):
    job = supervise("-q", "--", *serial, "run", 30, 0.03)
    until(lambda: at_version(tmp_path / "run", 2))
    job.signal(signal.SIGTERM)
    assert job.end() == 85
    assert job.err == ""
    again = supervise("--", *serial, "run", 30, 0)
    assert again.end() == 0, again.err
    assert again.result == undisturbed


def test_a_shell_around_the_program_does_not_keep_the_signal_from_it(supervise, serial, tmp_path):
    job = supervise("--", "sh", "-c", f"{' '.join(serial)} run 100000 0.01; true")
    until(lambda: at_version(tmp_path / "run", 2))
    job.signal(signal.SIGTERM)
    assert job.end() == 85, job.err
    assert newest(tmp_path / "run").end.outcome == "interrupted"


LONG_STEP = """
import time, holdfast
with holdfast.open("run") as run:
    s = run.state(n=0)
    for step in run.steps(10, every=holdfast.steps(1)):
        s.n += 1
        if step == 2:
            time.sleep(60)
"""


def test_a_second_signal_ends_it_at_once(supervise, tmp_path):
    (tmp_path / "p.py").write_text(LONG_STEP)
    job = supervise("--grace", 50, "--", "p.py")
    until(lambda: at_version(tmp_path / "run", 2))
    job.signal(signal.SIGTERM)
    time.sleep(0.3)
    assert job.process.poll() is None
    began = time.monotonic()
    job.signal(signal.SIGTERM)
    assert job.end() == 85, job.err  # versions 1 and 2 are new
    assert time.monotonic() - began < 10
    assert not newest(tmp_path / "run").processes[0].alive


def test_the_grace_ends(supervise, tmp_path):
    (tmp_path / "p.py").write_text(LONG_STEP.replace("every=holdfast.steps(1)", "every=holdfast.steps(100)"))
    job = supervise("--grace", 0.3, "--", "p.py")
    until(lambda: newest(tmp_path / "run") and newest(tmp_path / "run").sealed)
    time.sleep(0.2)
    job.signal(signal.SIGTERM)
    assert job.end() == 87, job.err  # a batch system that starts again what was interrupted is not to do so for ever
    assert "has not left in time" in job.err and "no last checkpoint" in job.err


def test_interrupted_by_somebody_else_it_is_not_started_again(supervise, serial, tmp_path):
    job = supervise("--", *serial, "run", 100_000, 0.01)
    attempt = until(lambda: at_version(tmp_path / "run", 2))
    os.kill(attempt.processes[0].pid, signal.SIGTERM)
    assert job.end() == 85, job.err
    assert len(catalog(tmp_path / "run").attempts) == 1


def test_two_attempts_without_progress_are_enough(supervise, tmp_path):
    (tmp_path / "p.py").write_text(LONG_STEP.replace("time.sleep(60)", "raise ValueError('the matrix is singular')"))
    job = supervise("--", "p.py")
    assert job.end() == 88
    # The first came to step 2; after the third a rollback, and one more that came to step 2 as well.
    assert [a.kind for a in catalog(tmp_path / "run").attempts] == ["run", "run", "run", "rollback", "run"]
    for part in (
        "gives up",
        "attempt 2 of run",
        "attempt 3 of run",
        "singular",
        "crash loop: run gets nowhere from version 2 (step 2) and is taken back to version 1 (step 1), once",
        "attempt 5 of run",
        "waits 1.0 s before the next start",
        "Safe: version 3 (step 2)",
        "`holdfast rollback run 2` goes back to it",
        "holdfast verify",
    ):
        assert part in job.err


POISONED = """
import os, holdfast
with holdfast.open("run") as run:
    s = run.state(n=0, bad=False)
    for step in run.steps(6, every=holdfast.steps(1)):
        if s.bad:
            raise ValueError("a bad state")
        s.n += 1
        if step == 2 and not os.path.exists("once"):
            open("once", "w").close()
            s.bad = True
    print("result", s.n)
"""


def test_a_bad_version_is_left_behind(supervise, tmp_path):
    (tmp_path / "p.py").write_text(POISONED)
    report = tmp_path / "report.json"
    job = supervise("--report", report, "--", "p.py")
    assert job.end() == 0, job.err
    assert job.result == "result 6"
    assert job.err.count("crash loop: run gets nowhere from version 3 (step 3) and is taken back to version 2 (step 2)") == 1
    assert "run resumes from version 2 (step 2)" in job.err
    assert len(json.loads(report.read_text())["executions"]) == 4
    assert ("abandoned", 3) in [(v.status, v.number) for v in catalog(tmp_path / "run").versions]


def test_an_error_that_would_come_again_ends_it(supervise, tmp_path):
    (tmp_path / "p.py").write_text(LONG_STEP.replace("time.sleep(60)", "run.steps(-3)"))
    job = supervise("--", "p.py")
    assert job.end() == 1, job.err
    assert len(catalog(tmp_path / "run").attempts) == 1
    assert "an error that would come again" in job.err and "UsageError: run.steps(-3)" in job.err


def test_out_of_time_it_leaves_with_a_last_checkpoint(supervise, serial, tmp_path, undisturbed):
    began = time.time()
    job = supervise("--time-limit", "8s", "--", *serial, "run", 100_000, 0.01)
    assert job.end() == 85, job.err
    found = catalog(tmp_path / "run")
    end = found.attempts[-1].end
    assert (end.outcome, end.signal, end.error) == ("interrupted", "time limit", None)
    assert end.time < began + 9 and end.version == found.lineage[0].number
    assert "interrupted by the time limit. Safe: version" in job.err


def test_what_has_not_left_in_time_is_ended(supervise, tmp_path, monkeypatch):
    monkeypatch.setenv("HOLDFAST_TIME_LIMIT", "off")
    (tmp_path / "p.py").write_text(LONG_STEP)
    began = time.monotonic()
    job = supervise("--time-limit", 4, "--", "p.py")
    assert job.end() == 87, job.err
    assert 4 <= time.monotonic() - began < 20
    assert "the time limit is over and the program has not left: it is ended" in job.err
    assert "same command goes on from there" in job.err


def test_after_the_time_limit_nothing_is_started(supervise, tmp_path):
    """The program, which pays no heed to the limit, dies when it is over."""
    (tmp_path / "p.py").write_text(LONG_STEP.replace("time.sleep(60)", "time.sleep(2.5); 1 / 0"))
    variables = {"HOLDFAST_DEADLINE": str(time.time() + 2), "HOLDFAST_TIME_LIMIT": "off"}
    job = Job("--", "p.py", cwd=tmp_path, log=tmp_path / "job", environment={**os.environ, **variables})
    assert job.end() == 85, job.err
    assert "interrupted by the time limit" in job.err
    assert len(catalog(tmp_path / "run").attempts) == 1


def test_a_request_ends_the_pause_between_starts(monkeypatch):
    monkeypatch.setattr(loop, "pause", lambda executions: 30.0)
    said = Account(quiet=True)
    with Signals() as signals:
        state = State(None, said, signals, "", 1.0)  # type: ignore[arg-type]
        supervisor = loop._Supervisor(loop.Plan(()), state, None)
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        began = time.monotonic()
        supervisor._pause()
        timer.join()
        assert time.monotonic() - began < 10 and state.asked == "SIGTERM"
        late = loop._Supervisor(loop.Plan(()), State(None, said, signals, "", 1.0), time.time() + 0.3)  # type: ignore[arg-type]
        late._pause()
        assert time.monotonic() - began < 20 and late.state.asked == "time limit"


def test_restarts_exhausted(supervise, tmp_path):
    (tmp_path / "p.py").write_text(LONG_STEP.replace("time.sleep(60)", "raise ValueError"))
    job = supervise("--max-restarts", 0, "--", "p.py")
    assert job.end() == 89
    assert "Safe: version 2 (step 2)" in job.err


@pytest.mark.parametrize(("code", "expected", "starts"), [("0", 0, 1), ("7", 7, 1), ("os.kill(os.getpid(), 9)", 137, 2)])
def test_a_program_that_never_opens_a_run(supervise, tmp_path, code, expected, starts):
    (tmp_path / "p.py").write_text(f"import os, sys\nprint('once')\nsys.stdout.flush()\nsys.exit({code})\n")
    job = supervise("--", "p.py")
    assert job.end() == expected
    assert job.out == "once\n" * starts
    assert "opened a run" in job.err


def test_killed_before_it_opened_its_run_it_is_started_once_more(supervise, serial, tmp_path, undisturbed):
    killed = "import os; os.path.exists('again') or (open('again', 'w'), os.kill(os.getpid(), 9))\n"
    (tmp_path / "p.py").write_text(killed + (tmp_path / "serial.py").read_text())
    job = supervise("--", "p.py", "run", 30, 0)
    assert job.end() == 0, job.err
    assert job.result == undisturbed
    assert "killed by SIGKILL" in job.err and job.err.count("holdfast: starts") == 2
    assert "waits 1.0 s before the next start" in job.err


def test_a_program_that_leaves_its_run_unfinished(supervise, tmp_path):
    loop = "s = run.state(n=0)\nfor i in run.steps(5):\n    s.n += 1\n"
    (tmp_path / "p.py").write_text(f"import holdfast\nrun = holdfast.open('run')\n{loop}run.close()\n")
    job = supervise("--", "p.py")
    assert job.end() in (85, 86), job.err
    assert "run.complete()" in job.err
    assert len(catalog(tmp_path / "run").attempts) == 1


def test_an_orphan_is_taken_over(supervise, serial, tmp_path, undisturbed):
    run = tmp_path / "run"
    job = supervise("--", *serial, "run", 30, 0.6)
    orphan = until(lambda: at_version(run, 2))
    job.signal(signal.SIGKILL)
    job.end()
    assert orphan.processes[0].alive
    again = supervise("--", *serial, "run", 30, 0)
    assert again.end() == 0, again.err
    assert again.result == undisturbed
    job.end()
    assert job.out == ""  # it did not come to its result
    assert not orphan.processes[0].alive
    attempts = catalog(run).attempts
    assert [a.end.outcome for a in attempts] == ["interrupted", "complete"]  # the orphan took a last checkpoint
    assert attempts[1].base.version.name.endswith("-a000001")


def test_helpers_left_behind_are_ended_before_the_next_start(supervise, tmp_path):
    program = LONG_STEP.replace(
        "time.sleep(60)",
        "import os, subprocess; p = subprocess.Popen(['sleep', '60'])\n"
        "            open('helpers', 'a').write(f'{p.pid} ')\n            os.kill(os.getpid(), 9)",
    )
    (tmp_path / "p.py").write_text(program)
    job = supervise("--", "p.py")
    assert job.end() == 88
    helpers = (tmp_path / "helpers").read_text().split()
    assert len(helpers) in (3, 4)  # whether the second version was durable
    assert not [pid for pid in helpers if os.path.exists(f"/proc/{pid}/exe")]


def test_a_missing_program(supervise):
    job = supervise("--", "no-such-program")
    assert job.end() == 1
    assert job.err.startswith("holdfast: There is no program 'no-such-program'")
    assert "Traceback" not in job.err


def test_python_is_the_supervisors_own(supervise):
    job = supervise("--", "python", "-c", "import sys; print(sys.prefix)")
    assert job.end() == 0
    assert job.out.strip() == sys.prefix


def test_a_job_in_good_health_is_not_taken_from_its_supervisor(supervise, serial, tmp_path):
    job = supervise("--", *serial, "run", 100_000, 0.01)
    until(lambda: at_version(tmp_path / "run", 2))
    second = supervise("--", *serial, "run", 100_000, 0.01)
    assert second.end() == 1, second.err  # the program's own code: it ended with RunInUseError
    assert "RunInUseError" in second.err
    assert job.process.poll() is None
    job.signal(signal.SIGTERM)
    assert job.end() == 85
    assert len(catalog(tmp_path / "run").attempts) == 1
