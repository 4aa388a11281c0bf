"""Serial programs under `holdfast run`: killed, interrupted, hopeless, orphaned."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time

import pytest
from programs import at_version, catalog, newest, until


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
    assert "holdfast: complete." in job.err


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
    assert job.end() == 86, job.err
    assert "has not left in time" in job.err


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
    assert len(catalog(tmp_path / "run").attempts) == 3  # the first came to step 2
    for part in (
        "gives up",
        "attempt 2 of run",
        "attempt 3 of run",
        "singular",
        "Safe: version 2 (step 2)",
        "holdfast verify",
    ):
        assert part in job.err


def test_restarts_exhausted(supervise, tmp_path):
    (tmp_path / "p.py").write_text(LONG_STEP.replace("time.sleep(60)", "raise ValueError"))
    job = supervise("--max-restarts", 0, "--", "p.py")
    assert job.end() == 89
    assert "Safe: version 2 (step 2)" in job.err


@pytest.mark.parametrize(("code", "expected"), [("0", 0), ("7", 7), ("os.kill(os.getpid(), 9)", 137)])
def test_a_program_that_never_opens_a_run(supervise, tmp_path, code, expected):
    (tmp_path / "p.py").write_text(f"import os, sys\nprint('once')\nsys.stdout.flush()\nsys.exit({code})\n")
    job = supervise("--", "p.py")
    assert job.end() == expected
    assert job.out == "once\n"
    assert "opened a run" in job.err


def test_a_program_that_leaves_its_run_unfinished(supervise, tmp_path):
    loop = "s = run.state(n=0)\nfor i in run.steps(5):\n    s.n += 1\n"
    (tmp_path / "p.py").write_text(f"import holdfast\nrun = holdfast.open('run')\n{loop}run.close()\n")
    job = supervise("--", "p.py")
    assert job.end() in (85, 86), job.err
    assert "run.complete()" in job.err
    assert len(catalog(tmp_path / "run").attempts) == 1


def test_an_orphan_is_taken_over(supervise, serial, tmp_path, undisturbed):
    run = tmp_path / "run"
    job = supervise("--", *serial, "run", 30, 0.1)
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
    assert len(helpers) == 3
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
