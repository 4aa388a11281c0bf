"""The helper is killed or stopped, or the program ends: nobody hangs, an error says so, the next helper works."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from snapshots import check_stored, images, program, units_of

from holdfast.engine.helper import CaptureError, Helper, HelperLostError
from holdfast.engine.units import UNIT


def ends(pid: int, seconds: float = 10.0) -> bool:
    """Whether a process that is not this one's child ends, or is a zombie, by then."""
    for _ in range(int(seconds / 0.02)):
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rsplit(")", 1)[1].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


def test_killed_before(helper: Helper, root: Path) -> None:
    assert helper.alive
    os.kill(helper.pid, signal.SIGKILL)
    for _ in range(500):
        if not helper.alive:
            break
        time.sleep(0.01)
    with pytest.raises(HelperLostError, match="killed by signal 9"):
        helper.begin(str(root), "data", None, 1)
    with pytest.raises(ChildProcessError):  # no zombie is left
        os.waitpid(helper.pid, os.WNOHANG)


def test_killed_while_units_are_put(helper: Helper, root: Path) -> None:
    array = np.ones(UNIT, np.uint8)
    released = threading.Semaphore(0)
    writing = helper.begin(str(root), "data", None, 1)
    for number in range(4):
        writing.put(number, units_of([array])[0][1], released.release)
    os.kill(helper.pid, signal.SIGKILL)
    with pytest.raises(HelperLostError, match="next checkpoint"):
        writing.finish()
    for _ in range(4):
        assert released.acquire(timeout=10.0)
    writing.abort()
    again = Helper.start(20.0)
    try:
        writing = again.begin(str(root), "next", None, 1)
        writing.put(0, units_of([array])[0][1], lambda: None)
        assert writing.finish()[1] == UNIT
    finally:
        again.close()


@pytest.mark.usefixtures("freezing")
def test_killed_while_a_fault_holds_the_interpreter(tmp_path: Path) -> None:
    """The thread that waits for its page holds the GIL: no other thread of the program could do anything about it."""
    out = program(
        """
helper = Helper.start(20.0)
array = np.ones(UNIT * 4, np.uint8)
plain = bytearray(b"1" * UNIT)
writing = helper.begin(root, "data", None, 2)
writing.freeze(units_of([array, np.frombuffer(plain, np.uint8)]), 10.0)
os.kill(helper.pid, signal.SIGSTOP)
killer = subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -9 {helper.pid}"])
began = time.monotonic()
for i in range(0, UNIT, 4096):
    plain[i] = 50
    array[i] = 5
array[:] = 6
print("went on", time.monotonic() - began < 20)
killer.wait(10)
try:
    writing.finish()
except HelperLostError as error:
    print("lost", "killed by signal 9" in str(error))
writing.abort()
helper.close()

helper = Helper.start(20.0)
units = units_of([array])
want = images(units)
writing = helper.begin(root, "next", None, 2)
writing.freeze(units, 10.0)
array[:] = 7
results, _ = writing.finish()
check_stored(root, "next", units, results, want)
helper.close()
print("again")
""",
        tmp_path,
    )
    assert out.splitlines()[0] in ("went on True",)
    assert out.splitlines()[1:] == ["lost True", "again"]


@pytest.mark.usefixtures("freezing")
def test_killed_at_any_moment_of_a_freeze(tmp_path: Path) -> None:
    out = program(
        """
array = np.ones(UNIT * 16, np.uint8)
units = units_of([array])
for delay in (0.0, 0.002, 0.008, 0.04):
    helper = Helper.start(20.0)
    writing = helper.begin(root, f"data{delay}", None, 2)
    timer = threading.Timer(delay, os.kill, (helper.pid, signal.SIGKILL))
    timer.start()
    try:
        writing.freeze(units, 10.0)
    except CaptureError:
        pass
    array[:] = 2
    try:
        writing.finish()
    except HelperLostError:
        pass
    writing.abort()
    array[:] = 3
    timer.join()
    helper.close()
    assert not helper.alive
print("fine")
""",
        tmp_path,
        60.0,
    )
    assert out == "fine\n"


def test_stopped_helper_counts_as_lost(helper: Helper, root: Path) -> None:
    writing = helper.begin(str(root), "data", None, 1)
    writing.put(0, units_of([np.ones(UNIT, np.uint8)])[0][1], lambda: None)
    helper.silence = 1.2
    os.kill(helper.pid, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(HelperLostError, match="no sign of life"):
        writing.finish()
    assert 0.9 < time.monotonic() - began < 15.0
    assert not helper.alive


@pytest.mark.usefixtures("freezing")
def test_stopped_helper_does_not_freeze_later(helper: Helper, root: Path) -> None:
    """A freeze that came too late would keep the program's memory protected with nobody to know."""
    array = np.ones(UNIT, np.uint8)
    writing = helper.begin(str(root), "data", None, 1)
    os.kill(helper.pid, signal.SIGSTOP)
    with pytest.raises(CaptureError, match="within"):
        writing.freeze(units_of([array]), 0.5)
    array[:] = 2
    with pytest.raises(HelperLostError, match=r"within 0\.5 s"):
        writing.finish()


def test_a_slow_disk_is_no_silence(helper: Helper, root: Path) -> None:
    """The helper gives signs of life while nothing of the version moves."""
    helper.silence = 1.8
    writing = helper.begin(str(root), "data", None, 1)
    assert not helper.wait(lambda: False, 2.5)  # as long as a disk that takes nothing
    assert writing.finish() == ([], 0)


def test_signals_for_the_whole_job_do_not_end_it(helper: Helper, root: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTSTP):
        os.kill(helper.pid, number)
    time.sleep(0.2)
    writing = helper.begin(str(root), "data", None, 1)
    writing.put(0, units_of([np.ones(UNIT, np.uint8)])[0][1], lambda: None)
    assert writing.finish()[1] == UNIT


@pytest.mark.parametrize("how", ["os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)", "sys.exit(0)"])
def test_it_ends_with_the_program(tmp_path: Path, how: str) -> None:
    """Also when a child of the program holds on to all its descriptors, and with a version on its way."""
    code = f"""
helper = Helper.start(20.0)
writing = helper.begin(root, "data", None, 2)
array = np.ones(UNIT * 8, np.uint8)
for number, unit in units_of([array]):
    writing.put(number, unit, lambda: None)
if os.fork() == 0:
    os.close(1), os.close(2)
    time.sleep(6)
    os._exit(0)
writing.begin()
open(root + "/pid", "w").write(str(helper.pid))
{how}
"""
    if "SIGKILL" in how:
        with pytest.raises(AssertionError):
            program(code, tmp_path)
    else:
        program(code, tmp_path)
    assert ends(int((tmp_path / "pid").read_text()), 5.0)


def test_it_outlives_the_thread_that_started_it(root: Path) -> None:
    found: list[Helper] = []
    thread = threading.Thread(target=lambda: found.append(Helper.start(20.0)))
    thread.start()
    thread.join(30.0)
    time.sleep(0.2)
    helper = found[0]
    try:
        assert helper.begin(str(root), "data", None, 1).finish() == ([], 0)
    finally:
        helper.close()
    assert not helper.alive
    helper.close()


@pytest.mark.usefixtures("freezing")
def test_two_helpers_do_not_disturb_each_other(root: Path) -> None:
    array = np.ones(UNIT * 2, np.uint8)
    one, two = Helper.start(20.0), Helper.start(20.0)
    try:
        writing = one.begin(str(root), "one", None, 1)
        units = units_of([array])
        want = images(units)
        writing.freeze(units, 10.0)
        results, _ = writing.finish()
        second = two.begin(str(root), "two", None, 1)
        second.freeze(units, 10.0)
        array[:] = 2
        check_stored(root, "two", units, second.finish()[0], want)
        check_stored(root, "one", units, results, want)
    finally:
        one.close()
        two.close()


def test_a_release_that_fails_leaves_nobody_waiting(
    helper: Helper, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: failed.append(str(args.exc_value)))

    def fail() -> None:
        raise RuntimeError("the arena is gone")

    writing = helper.begin(str(root), "data", None, 1)
    writing.put(0, units_of([np.ones(UNIT, np.uint8)])[0][1], fail)
    with pytest.raises(HelperLostError, match="no longer listened to"):
        writing.finish()
    assert not helper.alive
    helper.close()
    assert failed == ["the arena is gone"]
