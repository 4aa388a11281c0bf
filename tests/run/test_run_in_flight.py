"""Versions on their way while the program goes on: what a handle tells, what waits for what, what becomes of errors."""

from __future__ import annotations

import errno
import logging
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from faults import Faults, named
from flight_support import MiB, filled, gate, image, loaded, statuses
from run_support import execute, go, program

import holdfast
from holdfast.catalog import put_fence

IN_FLIGHT = True
KEEP = holdfast.Keep(last=100)


@pytest.fixture
def slow(monkeypatch):
    """Data files can't be written until the gate is opened."""
    with gate(monkeypatch) as made:
        yield made


@pytest.fixture
def uncommitted(monkeypatch):
    """Commits can't be made until the gate is opened."""
    with gate(monkeypatch, "link", "/commit") as made:
        yield made


def begun(start, nbytes=9 * MiB, **options):
    run = start(keep=KEEP, **options)
    u = run.protect("u", filled(nbytes).copy())
    run.ready()
    return run, u


# -- handles ------------------------------------------------------------------------------------------------


def test_states_are_reached_in_order(start, slow, uncommitted):
    run, u = begun(start)
    handle = run.checkpoint(wait=False)
    assert (handle.captured, handle.written, handle.durable, handle.done) == (True, False, False, False)
    assert repr(handle) == "<checkpoint 1: captured>"
    handle.wait("captured", timeout=0.001)
    slow.wait()
    assert statuses(run) == [(1, "captured")]
    for state in ("written", "durable"):
        with pytest.raises(holdfast.DeadlineError, match="goes on") as caught:
            handle.wait(state, timeout=0.01)
        assert caught.value.version == 1
    slow.open()
    handle.wait("written")
    uncommitted.wait()
    assert (handle.written, handle.durable, handle.done) == (True, False, False)
    assert statuses(run) == [(1, "written")]
    with pytest.raises(holdfast.DeadlineError):
        handle.wait(timeout=0.01)
    uncommitted.open()
    handle.wait()
    assert handle.durable and handle.error is None and handle.bytes >= u.nbytes
    assert statuses(run) == [(1, "current")]
    assert loaded(run.url, "u").tobytes() == u.tobytes()
    run.complete()


def test_the_stall_is_what_the_program_waits(start, slow):
    run, u = begun(start)
    handle = run.checkpoint(wait=False)
    threading.Timer(0.5, slow.open).start()
    began = time.perf_counter()
    handle.wait()
    assert time.perf_counter() - began > 0.2
    assert 0 < handle.seconds < 0.4
    slow.shut()
    threading.Timer(0.5, slow.open).start()
    u[:] = 1
    assert run.checkpoint().seconds > 0.4


def test_a_state_that_there_is_not(start):
    run, u = begun(start)
    u[:] = 0
    with pytest.raises(holdfast.UsageError, match="'captured', 'written', 'durable'"):
        run.checkpoint().wait("done")


def test_in_a_body_it_begins_at_the_next_head(start, slow):
    run, u = begun(start)
    seen = []
    for step in run.steps(5):
        u[:] = step
        if step == 1:
            handle = run.checkpoint(wait=False)
            for state in ("captured", "durable"):
                with pytest.raises(holdfast.UsageError, match="next loop head"):
                    handle.wait(state)
            assert run.checkpoint(wait=False) is handle
        if step == 2:
            seen.append((handle.begun, handle.captured, handle.written, handle.version))
            slow.open()
            handle.wait()
            seen.append((handle.durable, run.versions[0].step, int(run.load("u")[0])))
    assert seen == [(True, True, False, 1), (True, 2, 1)]


def test_waiting_in_a_body_is_until_the_next_head_is_through(start, slow):
    run, u = begun(start)
    threading.Timer(0.3, slow.open).start()
    for step in run.steps(4):
        u[:] = step
        if step == 1:
            handle = run.checkpoint(wait=False)
            assert run.checkpoint() is handle  # one of the two waits
        if step == 2:
            assert handle.durable and handle.seconds > 0.2


def test_what_a_handle_waits_for_has_failed(start, slow):
    run, u = begun(start)
    handle = run.checkpoint(wait=False)
    u[:] = 0
    slow.wait()
    with Faults("error", errno=errno.ENOSPC, match=named("fsync", path="/data/")):
        slow.open()
        for state in ("written", "durable"):
            with pytest.raises(holdfast.CheckpointError, match="disk full"):
                handle.wait(state)
    handle.wait("captured")
    assert (handle.done, handle.durable, repr(handle)) == (True, False, "<checkpoint 1: failed>")
    with pytest.raises(holdfast.CheckpointError, match="disk full"):
        run.checkpoint()
    assert run.checkpoint().durable


@pytest.mark.parametrize("where", ["before", "after"])
def test_durable_is_fenced(start, monkeypatch, where):
    """A later attempt's fence, before the commit or right after it, and nobody is told that the version is durable."""
    with gate(monkeypatch, *(("pwrite", "/data/") if where == "before" else ("link", "/commit"))) as shut:
        run, u = begun(start)
        handle = run.checkpoint(wait=False)
        u[:] = 0
        shut.wait()
        put_fence(run._x.store, "run", 1, {}, [], 100)
        shut.open()
        with pytest.raises(holdfast.FencedError):
            handle.wait()
    assert not handle.durable and isinstance(handle.error, holdfast.FencedError)
    for call in (run.checkpoint, run.complete):
        with pytest.raises(holdfast.FencedError):
            call()


# -- one in flight ----------------------------------------------------------------------------------------


def test_another_one_waits(start, slow):
    run, u = begun(start)
    first = run.checkpoint(wait=False)
    threading.Timer(0.3, slow.open).start()
    u[:] = 1
    second = run.checkpoint(wait=False)
    assert first.done and second.seconds > 0.2
    second.wait()
    assert [v for v, _ in statuses(run)] == [2, 1]
    assert loaded(run.url, "u", 1).tobytes() == filled(9 * MiB).tobytes() and not loaded(run.url, "u", 2).max() > 1


def test_another_one_is_skipped(start, slow):
    run, u = begun(start, overlap="skip")
    seen = []
    for step in run.steps(8, every=holdfast.steps(2)):
        u[:] = step
        if step == 5:
            assert statuses(run) == [(1, "captured")]  # taken at 2, skipped at 4
            slow.open()
            run._x.writer.arrive()
        seen.append(step)
    run.complete()
    assert seen == list(range(8))
    assert [v.step for v in run.versions] == [8, 6, 2]


def test_one_that_is_asked_for_is_never_skipped(start, slow):
    run, u = begun(start, overlap="skip")
    threading.Timer(0.3, slow.open).start()
    for step in run.steps(4, every=holdfast.steps(1)):
        if step == 1:
            handle = run.checkpoint()
    assert handle.durable and run.versions[-1].step == 1
    assert [v.step for v in run.versions if v.number == handle.version] == [2]


def test_off_has_none_in_flight(start, monkeypatch):
    run, u = begun(start, overlap="off")
    handle = run.checkpoint(wait=False)
    assert handle.durable and handle.done and not run._x.flying
    for step in run.steps(3, every=holdfast.steps(1)):
        u[:] = step
        assert len(run.versions) == 1 + step


def test_without_a_call_it_becomes_durable(start, slow):
    """One long step, in which the program calls nothing of the library."""
    run, u = begun(start)
    for step in run.steps(3, every=holdfast.steps(1)):
        if step == 1:
            slow.open()
            path = Path(run.url) / "versions/00000001-a000001/commit"
            end = time.monotonic() + 20
            while not path.exists() and time.monotonic() < end:
                time.sleep(0.01)
            assert path.exists()


# -- what the program does meanwhile ------------------------------------------------------------------------


def test_a_signal(start, slow):
    run, u = begun(start)
    threading.Timer(0.3, slow.open).start()
    with pytest.raises(holdfast.Interrupted) as caught:
        for step in run.steps(10, every=holdfast.steps(2)):
            u[:] = step
            if step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
    assert (caught.value.code, caught.value.version) == (85, 2)
    assert [(v.step, v.reason) for v in run.versions] == [(4, "signal"), (2, "policy")]


def test_a_signal_when_the_one_before_has_failed(start, slow, caplog):
    """The last checkpoint is what counts; that an earlier one failed is told."""
    run, u = begun(start)
    with pytest.raises(holdfast.Interrupted) as caught, caplog.at_level(logging.ERROR, "holdfast"):
        for step in run.steps(10):
            if step == 1:
                handle = run.checkpoint(wait=False)
            if step == 3:
                slow.wait()
                with Faults("error", match=named("fsync", path="/data/")):
                    slow.open()
                    with pytest.raises(holdfast.CheckpointError):
                        handle.wait()
                os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.code == 85 and run.versions[0].reason == "signal"
    assert "Version 1 was not written" in caplog.text


def test_completion(start, slow):
    run, u = begun(start)
    go(run, 3)
    run.checkpoint(wait=False)
    threading.Timer(0.2, slow.open).start()
    u[:] = 5
    run.complete()
    assert [(v.number, v.complete) for v in run.versions] == [(2, True), (1, False)]


def test_an_exception(tmp_path, slow):
    """What is in flight becomes durable before the run is left."""
    threading.Timer(0.2, slow.open).start()
    with pytest.raises(ZeroDivisionError), holdfast.open(tmp_path / "run") as run:
        u = run.protect("u", filled(5 * MiB).copy())
        run.checkpoint(wait=False)
        u[:] = 0
        1 / 0  # noqa: B018
    assert loaded(tmp_path / "run", "u").tobytes() == filled(5 * MiB).tobytes()


def test_leaving_is_bounded(tmp_path, slow, monkeypatch, caplog):
    monkeypatch.setattr("holdfast.run.leaving._LEAVING", 0.2)
    run = holdfast.open(tmp_path / "run")
    u = run.protect("u", filled(5 * MiB).copy())
    handle = run.checkpoint(wait=False)
    u[:] = 0
    slow.wait()
    began = time.monotonic()
    run.close()
    assert time.monotonic() - began < 5
    assert "in flight for longer" in caplog.text
    slow.open()
    handle.wait()  # nothing was taken away from it


def test_close(start, slow):
    run, u = begun(start)
    handle = run.checkpoint(wait=False)
    threading.Timer(0.2, slow.open).start()
    run.close()
    assert handle.durable
    assert start().resumed


SLOW = """
import time
from holdfast.store import syscalls
real = syscalls.pwrite
def pwrite(fd, data, offset):
    if "/data/" in os.readlink(f"/proc/self/fd/{fd}"):
        time.sleep(SLEEP)
    return real(fd, data, offset)
syscalls.pwrite = pwrite
"""


def test_the_interpreter_ends_without_a_word(tmp_path):
    text = SLOW.replace("SLEEP", "0.2") + (
        "run = holdfast.open('run')\nu = run.protect('u', np.ones(5 << 20, np.uint8))\nrun.checkpoint(wait=False)\nu[:] = 2\n"
    )
    done = execute(program(tmp_path, text), tmp_path)
    assert done.returncode == 0 and "goes on from version 1" in done.stderr, done.stderr
    assert set(np.unique(loaded(tmp_path / "run", "u"))) == {1}


def test_a_failure_that_nobody_hears_of_any_more(tmp_path):
    text = (
        "import errno\nfrom holdfast.store import syscalls\n"
        "def pwrite(fd, data, offset, real=syscalls.pwrite):\n"
        "    if '/data/' in os.readlink(f'/proc/self/fd/{fd}'): raise OSError(errno.EIO, 'Input/output error')\n"
        "    return real(fd, data, offset)\n"
        "run = holdfast.open('run')\nu = run.protect('u', np.ones(5 << 20, np.uint8))\nrun.checkpoint()\n"
        "syscalls.pwrite = pwrite\nu[:] = 2\nrun.checkpoint(wait=False)\n"
    )
    done = execute(program(tmp_path, text), tmp_path)
    assert done.returncode == 0 and "did not become durable" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and "goes on from version 1" in done.stderr
    assert set(np.unique(loaded(tmp_path / "run", "u"))) == {1}


def test_a_kill(tmp_path):
    """What was durable is there; what was in flight is not, and the next attempt clears it away."""
    text = SLOW.replace("SLEEP", "0.0 if not os.path.exists('slow') else 5") + (
        "run = holdfast.open('run')\nu = run.protect('u', np.zeros(5 << 20, np.uint8))\n"
        "for step in run.steps(5, every=holdfast.steps(1)):\n"
        "    u[:] = step\n"
        "    if step == 2: open('slow', 'w').close()\n"
        "    if step == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = execute(program(tmp_path, text), tmp_path)
    assert done.returncode == -signal.SIGKILL
    run = holdfast.open(tmp_path / "run")
    u = run.protect("u", np.zeros(5 << 20, np.uint8))
    for step in run.steps(5, every=holdfast.steps(1)):
        assert step == 2 and set(np.unique(u)) == {1}
        break
    assert [v.status for v in run.versions] == ["current", "current"]
    run.close()


def test_a_fork(start, slow):
    """The child can do nothing with the run, and its end disturbs nothing."""
    run, u = begun(start)
    handle = run.checkpoint(wait=False)
    slow.wait()
    child = os.fork()
    if child == 0:
        try:
            u[:] = 3
            run.checkpoint()
        except holdfast.UsageError:
            run.close()
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    slow.open()
    handle.wait()
    assert loaded(run.url, "u").tobytes() == u.tobytes() == filled(9 * MiB).tobytes()
    u[:] = 1
    assert run.checkpoint().durable


def test_a_rollback(start, slow):
    run, u = begun(start)
    slow.open()
    run.checkpoint()
    u[:] = 2
    slow.shut()
    handle = run.checkpoint(wait=False)
    u[:] = 3
    threading.Timer(0.2, slow.open).start()
    run.rollback(1)
    assert handle.durable and u.tobytes() == filled(9 * MiB).tobytes()
    assert run.checkpoint().durable
    assert [(v.number, v.status) for v in run.versions] == [(3, "current"), (2, "abandoned"), (1, "current")]


def test_a_rollback_in_a_loop(start, slow):
    run, u = begun(start)
    steps = []
    for step in run.steps(5, every=holdfast.steps(1)):
        steps.append((step, int(u[0])))
        u[:] = step + 10
        if step == 0:
            slow.open()
        if len(steps) == 2:
            run._x.writer.arrive()
            slow.shut()
        if len(steps) == 3:
            threading.Timer(0.2, slow.open).start()
            run.rollback(1)
    assert [s for s, _ in steps] == [0, 1, 2, 1, 2, 3, 4]
    assert steps[3] == (1, 10)


def test_a_transaction(start, slow):
    run, u = begun(start)
    handle = run.checkpoint(wait=False)
    threading.Timer(0.2, slow.open).start()
    with run.transaction("r") as txn:
        txn.put("x", 5)
    assert handle.durable and txn.version == 2
    assert [(v.number, v.kind, v.parent) for v in run.versions] == [(2, "record", 1), (1, "checkpoint", None)]


def test_a_transaction_after_a_failure_that_is_only_warned_of(start, slow):
    run, u = begun(start, on_error="warn")
    handle = run.checkpoint(wait=False)
    slow.wait()
    with Faults("error", match=named("fsync", path="/data/")):
        slow.open()
        with pytest.raises(holdfast.CheckpointError):
            handle.wait()
    with pytest.warns(holdfast.CheckpointWarning, match="Version 1"), run.transaction("r") as txn:
        txn.put("x", 5)
    assert run.load("x") == 5 and txn.version == 2


def test_drop_and_protect(start, slow):
    run, u = begun(start)
    v = run.protect("v", np.full(5, 7.0))
    slow.open()
    run.checkpoint()
    slow.shut()
    u[:] = 1
    run.checkpoint(wait=False)
    threading.Timer(0.2, slow.open).start()
    run.drop("v")
    run.checkpoint()
    slow.shut()
    u[:] = 2
    handle = run.checkpoint(wait=False)
    threading.Timer(0.2, slow.open).start()
    w = run.protect("w", np.arange(4.0))
    assert handle.durable and v is not None
    run.checkpoint()
    with holdfast.open(run.url, mode="r") as reader:
        assert reader.load("w").tolist() == w.tolist()
        assert reader.load("v", 2).tolist() == [7.0] * 5
        with pytest.raises(holdfast.UsageError):
            reader.load("v", 3)


def test_load(start, slow):
    run, u = begun(start)
    slow.open()
    run.checkpoint()
    slow.shut()
    u[:] = 1
    handle = run.checkpoint(wait=False)
    slow.wait()
    assert run.load("u", 1).tobytes() == filled(9 * MiB).tobytes()
    slow.open()
    handle.wait()
    assert run.load("u").max() == 1


def test_an_output_file(start, slow, tmp_path):
    run, u = begun(start)
    log = run.file("log.txt")
    log.write("one\n")
    handle = run.checkpoint(wait=False)
    log.write("two\n")
    log.flush()
    slow.open()
    handle.wait()
    run = start()
    again = run.file("log.txt")
    run.protect("u", np.zeros(9 * MiB, np.uint8))
    run.ready()
    again.write("three\n")
    again.close()
    assert (tmp_path / "log.txt").read_text() == "one\nthree\n"


# -- errors ---------------------------------------------------------------------------------------------------


def background_calls(start, tmp_path):
    """The storage calls that a third version makes beside the program, from the first of its data file on."""
    run, u = begun(start)
    for k in (1, 2):  # the second is written whole, as the first: others are not
        run.checkpoint()
        u[:] = k
    with Faults() as trace:
        run.checkpoint(wait=False).wait()
        run._x.writer.tidying.finish()
    return [call for call in trace.calls if "00000003-a" in call.path or "00000003-a" in (call.to or "")]


def test_an_error_at_each_background_call(start, tmp_path):
    """Raised once by the next call; the version before is whole, and the next one succeeds."""
    calls = background_calls(start, tmp_path)
    kinds = [("error", errno.EIO), ("error", errno.ENOSPC), ("short", 0)]
    tried, failed, kept = 0, 0, 0
    run, u = begun(start, takeover=True)
    for number in range(1, len(calls) + 1):
        for mode, code in kinds if calls[number - 1].name == "pwrite" else kinds[:1]:
            u[:] = number
            before = image(u)
            last = run.checkpoint()
            u[:] = 255
            mark = f"{last.version + 1:08d}-a"
            options = {"errno": code} if code else {}
            fault = Faults(
                mode, at=number, match=lambda call, mark=mark: mark in call.path or mark in (call.to or ""), **options
            )
            raised = None
            with fault:
                try:
                    handle = run.checkpoint(wait=False)
                    while not handle.done:
                        time.sleep(0.001)
                    run._x.writer.tidying.finish()
                except holdfast.CheckpointError as error:  # before anything was in flight
                    raised = error
            assert fault.fired
            tried += 1
            if raised is None and handle.error is not None:
                assert isinstance(handle.error, holdfast.CheckpointError)
                with pytest.raises(holdfast.CheckpointError) as caught:
                    run.checkpoint()
                raised = caught.value
            if raised is not None:
                failed += 1
                assert raised.version == last.version + 1
                # What failed behind the commit is whole and stays: another start may go on from it by then.
                stays = any((tmp_path / "run/versions").glob(f"{mark}*/commit"))
                assert image(loaded(run.url, "u")) == (image(u) if stays else before), calls[number - 1]
                kept += stays
            else:
                assert image(loaded(run.url, "u")) == image(u), calls[number - 1]
    assert tried >= len(calls) and failed >= len(calls) // 2 and 0 < kept < 5
    assert run.checkpoint().durable


@pytest.mark.parametrize("where", ["/data/", "/index/", "/commit"])
def test_an_error_comes_at_the_next_head_and_once(start, where):
    run, u = begun(start)
    seen = []
    with pytest.raises(holdfast.CheckpointError):
        for step in run.steps(100):
            seen.append(step)
            u[:] = step
            if step == 2:
                handle = run.checkpoint(wait=False)
            if step == 3:
                with Faults("error", match=named("pwrite", "fsync", "link", path=where)):
                    while not handle.done:
                        time.sleep(0.001)
                if handle.durable:  # it was written before the fault was there
                    break
    if not handle.durable:
        assert seen[-1] == 3
    assert run.checkpoint().durable and run.load("u")[0] == seen[-1]


def test_an_error_is_a_warning_if_so_wanted(start):
    run, u = begun(start, on_error="warn")
    fault = Faults("error", errno=errno.ENOSPC, match=named("pwrite", path="00000002-a"))
    with fault, pytest.warns(holdfast.CheckpointWarning, match="disk full") as warned:
        for step in run.steps(6, every=holdfast.steps(2)):
            u[:] = step
            if step == 4:
                run._x.writer.arrive()
        run.complete()
    assert len(warned) == 1 and fault.fired
    assert [v.step for v in run.versions] == [6, 2]


def test_a_call_that_raises_for_the_one_before_takes_none_later(start, slow):
    run, u = begun(start)
    handle = run.checkpoint(wait=False)
    slow.wait()
    with Faults("error", match=named("fsync", path="/data/")):
        slow.open()
        with pytest.raises(holdfast.CheckpointError):
            handle.wait()
    with pytest.raises(holdfast.CheckpointError, match="Version 1 "):
        run.checkpoint()
    go(run, 3)
    assert run.versions == []


def test_an_error_in_the_capture(start, monkeypatch):
    """Nothing is in flight: the call itself raises, alone."""
    run, u = begun(start)
    monkeypatch.setattr("holdfast.engine.freeze.freeze", lambda *a: (_ for _ in ()).throw(MemoryError("no room")))
    with pytest.raises(holdfast.CheckpointError, match="no room"):
        run.checkpoint(wait=False)
    monkeypatch.undo()
    handle = run.checkpoint(wait=False)
    handle.wait()
    assert statuses(run) == [(2, "current")]


def test_no_more_threads(start, monkeypatch):
    """At the interpreter's end none can be started: what is to be written is written by those there are."""
    import _thread

    real = threading.Thread.start

    def none(*args):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    def start_none(thread):
        if thread.name.startswith(("holdfast-write", "holdfast-0")):
            raise RuntimeError("can't create new thread at interpreter shutdown")
        real(thread)

    run, u = begun(start)
    monkeypatch.setattr(threading.Thread, "start", start_none)
    monkeypatch.setattr(_thread, "start_new_thread", none)
    handle = run.checkpoint(wait=False)
    assert handle.durable and image(loaded(run.url, "u")) == image(u)
