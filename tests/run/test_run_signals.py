"""SIGTERM, SIGINT, SIGUSR1: a last checkpoint, a status, and the next start goes on."""

from __future__ import annotations

import os
import signal
import subprocess

import numpy as np
import pytest
from run_support import environment, execute, go, program

import holdfast

EACH = holdfast.steps(1)
ALL = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def end_of(tmp_path):
    from holdfast.catalog import read_catalog
    from holdfast.store import open_store

    return read_catalog(open_store(tmp_path / "run", create=False, read_only=True)).attempts[-1].end


PROGRAM = """
    if "handler" in sys.argv:
        signal.signal(signal.SIGTERM, lambda number, frame: print("mine", flush=True))
    run = holdfast.open("run", signals="off" not in sys.argv)
    u = run.protect("u", np.zeros(1))
    for step in run.steps(8, every=holdfast.steps(100)):
        u += 1
        if step == 4 and not run.resumed:
            for name in sys.argv[1].split(","):
                os.kill(os.getpid(), getattr(signal, name))
            print("still in step 4", flush=True)
    run.complete()
    print("u", u[0])
"""


def heard(name):
    return f"holdfast: {name}: a last checkpoint at the loop's next head, then out; again to leave at once\n"


@pytest.mark.parametrize("name", [s.name for s in ALL])
def test_a_last_checkpoint_and_status_85(tmp_path, name):
    command = program(tmp_path, PROGRAM)
    first = execute([*command, name], tmp_path)
    assert (first.returncode, first.stdout, first.stderr) == (85, "still in step 4\n", heard(name))
    end = end_of(tmp_path)
    assert (end.outcome, end.signal, end.step, end.version) == ("interrupted", name, 5, 1)
    again = execute([*command, name], tmp_path)
    assert (again.returncode, again.stdout) == (0, "u 8.0\n"), again.stderr


def test_an_earlier_handler_is_called_too(tmp_path):
    done = execute([*program(tmp_path, PROGRAM), "SIGTERM", "handler"], tmp_path)
    assert (done.returncode, done.stdout) == (85, "mine\nstill in step 4\n")


@pytest.mark.parametrize("names", ["SIGTERM,SIGTERM", "SIGUSR1,SIGTERM"])
def test_the_second_leaves_at_once(tmp_path, names):
    done = execute([*program(tmp_path, PROGRAM), names], tmp_path)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "")
    assert end_of(tmp_path) is None


def test_a_signal_that_is_handed_on_besides_is_the_same_one(tmp_path):
    """As where all processes of a job are told, and those above them tell those below."""
    done = execute([*program(tmp_path, PROGRAM), "SIGTERM,SIGTERM,SIGUSR1"], tmp_path, HOLDFAST_SUPERVISED="5")
    assert (done.returncode, done.stdout) == (85, "still in step 4\n"), done.stderr
    assert end_of(tmp_path).signal == "SIGTERM"


def test_the_second_one_later_leaves_at_once_there_too(tmp_path):
    sent = "os.kill(os.getpid(), getattr(signal, name))"
    slow = PROGRAM.replace(sent, f"{sent}; time.sleep(1.2)")
    command = program(tmp_path, slow.replace("if \"handler\"", "import time\n    if \"handler\""))
    done = execute([*command, "SIGTERM,SIGTERM"], tmp_path, HOLDFAST_SUPERVISED="5")
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, ""), done.stderr


def test_the_second_interrupt_of_the_keyboard_is_one(tmp_path):
    done = execute([*program(tmp_path, PROGRAM), "SIGINT,SIGINT"], tmp_path)
    assert "KeyboardInterrupt" in done.stderr
    assert done.stdout == ""


def test_signals_can_be_left_alone(tmp_path):
    done = execute([*program(tmp_path, PROGRAM), "SIGTERM", "off"], tmp_path)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "")
    done = execute([*program(tmp_path, PROGRAM), "SIGTERM"], tmp_path, HOLDFAST_SIGNALS="0")
    assert done.returncode == 85  # the call goes before the environment


def test_what_was_ignored_stays_ignored(tmp_path):
    command = ["/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh", *program(tmp_path, PROGRAM), "SIGINT"]
    done = execute(command, tmp_path)
    assert (done.returncode, done.stdout) == (0, "still in step 4\nu 8.0\n")


def test_interrupted_is_an_exit_not_an_exception(start):
    run = start()
    with pytest.raises(holdfast.Interrupted) as caught:
        for step in run.steps(9, every=EACH):
            if step == 3:
                os.kill(os.getpid(), signal.SIGUSR1)
    assert isinstance(caught.value, SystemExit) and not isinstance(caught.value, Exception)
    assert (caught.value.code, caught.value.signal, caught.value.version) == (85, "SIGUSR1", run.versions[0].number)
    assert (run.versions[0].step, run.versions[0].reason) == (4, "signal")


def test_handlers_are_put_back(tmp_path):
    before = [signal.getsignal(s) for s in ALL]
    with holdfast.open(tmp_path / "run") as run:
        for _ in run.steps(2):
            assert [signal.getsignal(s) for s in ALL] != before
    assert [signal.getsignal(s) for s in ALL] == before


def test_a_handler_that_the_program_sets_later_is_left_alone(tmp_path):
    before = signal.getsignal(signal.SIGUSR1)
    with holdfast.open(tmp_path / "run") as run:
        for _ in run.steps(2):
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    signal.signal(signal.SIGUSR1, before)


TWO = """
    import time
    runs = []
    for name in "abc":
        runs.append(holdfast.open(name))
        try:
            for step in runs[-1].steps(3):
                if step == 1 and name == sys.argv[1]:
                    os.kill(os.getpid(), signal.SIGTERM)
        except holdfast.Interrupted as left:
            print(name, left.code)
    for name in sys.argv[2]:
        runs["abc".index(name)].close()
    print("second", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("survived", flush=True)
"""


@pytest.mark.parametrize(("first", "closed"), [("a", ""), ("c", ""), ("a", "abc"), ("b", "cba"), ("c", "ab"), ("b", "ac")])
def test_several_runs_in_one_process(tmp_path, first, closed):
    """Outside of loops no run holds a signal back, whichever was asked before and whichever is closed."""
    done = execute([*program(tmp_path, TWO), first, closed], tmp_path)
    assert (done.stderr, done.stdout.split("second")[0]) == (heard("SIGTERM"), f"{first} 85\n")
    assert (done.returncode, "survived" in done.stdout) == (-signal.SIGTERM, False)


BREAK = """
    with holdfast.open("run") as run:
        for step in run.steps(9):
            if step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
                break
        print("survived", flush=True)
"""


def test_a_signal_that_no_head_has_heeded_is_passed_on(tmp_path):
    done = execute(program(tmp_path, BREAK), tmp_path)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "")


def test_without_a_new_version_86(start):
    run = start()
    run._x.interrupts.install()
    os.kill(os.getpid(), signal.SIGUSR1)  # before the first step is over
    with pytest.raises(holdfast.Interrupted) as caught:
        go(run, 3)
    assert (caught.value.code, caught.value.version) == (86, None)
    assert run.versions == []


def test_a_last_checkpoint_that_fails_87(start, monkeypatch):
    run = start(on_error="warn")
    u = run.protect("u", np.zeros(1))
    with pytest.raises(holdfast.Interrupted) as caught:
        for step in run.steps(9, every=EACH):
            u += 1
            if step == 3:
                os.kill(os.getpid(), signal.SIGTERM)

                def full(fd, data, offset):
                    raise OSError(28, "No space left on device")

                monkeypatch.setattr("holdfast.store.syscalls.pwrite", full)
    assert (caught.value.code, caught.value.version) == (87, 3)
    assert isinstance(caught.value.__cause__, holdfast.CheckpointError)
    monkeypatch.undo()
    assert start().load("u")[0] == 3


def test_in_the_middle_of_a_system_call_of_the_program(tmp_path):
    """A signal from outside, while the program sleeps."""
    command = program(tmp_path, """
        import time
        with holdfast.open("run") as run:
            for step in run.steps(1000):
                print(step, flush=True)
                time.sleep(0.3)
    """)  # fmt: skip
    process = subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "0\n"
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 85
    assert end_of(tmp_path).step >= 1
