"""An interrupt that the program catches leaves nothing behind: no thread at work on its memory, no memory that is lost."""

from __future__ import annotations

import contextlib
import gc
import signal
import threading
import time

import numpy as np
import pytest
from flight_support import MiB, filled, loaded

import holdfast
from holdfast.engine import workers
from holdfast.engine.helper import Helper
from holdfast.engine.workers import work_through
from holdfast.store import syscalls

# One that comes while Python is in a callback of a weak reference or the garbage collector is told, and lost.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

IN_FLIGHT = True


class Interrupt(BaseException):
    pass


@pytest.fixture
def alarm():
    """`alarm(seconds)`: then `Interrupt` is raised in the main thread."""

    def ring(number, frame):
        raise Interrupt

    before = signal.signal(signal.SIGALRM, ring)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def no_callbacks_of_others():
    """Hypothesis has itself called at each collection of garbage: what is raised there goes nowhere but into a warning."""
    found = gc.callbacks[:]
    gc.callbacks.clear()
    yield
    gc.callbacks[:] = found


@pytest.fixture(autouse=True)
def at_work(monkeypatch):
    """The workers that are at work now."""
    found = []

    class Watched(workers.Worker):
        def _run(self):
            found.append(self)
            try:
                super()._run()
            finally:
                found.remove(self)

    monkeypatch.setattr(workers, "Worker", Watched)
    return found


def working(found):
    time.sleep(0.1)  # one that began too late to be waited for has this long to find that there is nothing to do
    return list(found)


@pytest.mark.parametrize("where", ["start", "work", "join"])
def test_no_thread_goes_on_behind_the_callers_back(monkeypatch, where):
    main, done, told = threading.main_thread(), [], []

    class Interrupted(workers.Worker):
        def start(self):
            super().start()
            if where == "start":
                raise Interrupt

        def join(self):
            if where == "join" and not told:
                told.append(True)
                raise Interrupt
            super().join()

    def work(start, own):
        if threading.current_thread() is main:
            if where == "work":
                raise Interrupt
            return
        time.sleep(0.02)
        done.append(start)

    monkeypatch.setattr(workers, "Worker", Interrupted)
    with pytest.raises(Interrupt):
        work_through(range(1000 if where != "join" else 4), 3, lambda: None, work)
    count = len(done)
    assert count <= 6
    time.sleep(0.1)
    assert len(done) == count


@pytest.mark.parametrize("engine", ["thread", "process"])
def test_checkpoints_that_are_interrupted_cost_no_memory(start, alarm, at_work, engine):
    run = start(engine=engine, capture="copy", signals=False, timeout=8, threads=3)
    u = run.protect("u", filled(46 * MiB))
    run.ready()
    run.checkpoint()
    interrupted = 0
    for i in range(12):
        u[:] = i
        try:
            alarm(0.0005 * (i + 1))
            run.checkpoint(wait=False)
        except (Interrupt, holdfast.CheckpointError):
            interrupted += 1
        with contextlib.suppress(Interrupt):
            alarm(0)
            time.sleep(0)  # one that has come is raised here
        with contextlib.suppress(holdfast.CheckpointError):
            run._x.land()
    assert interrupted and not working(at_work)
    u[:] = 99
    began = time.monotonic()
    assert run.checkpoint().durable and time.monotonic() - began < 6
    assert (loaded(run.url, "u") == 99).all()


@pytest.mark.parametrize("arena", ["private", "shared"])
def test_a_helper_that_has_begun_a_file_unknown_to_the_program_is_replaced(start, at_work, monkeypatch, arena):
    run = start(engine="process", capture="copy", signals=False, arena=arena)
    u = run.protect("u", filled(4 * MiB))
    run.ready()
    run.checkpoint()
    real = Helper.begin

    def begin(*args):
        real(*args)
        raise Interrupt  # as a signal can have it, before the caller has the answer

    monkeypatch.setattr(Helper, "begin", begin)
    with pytest.raises(Interrupt):
        run.checkpoint()
    monkeypatch.undo()
    u[:] = 7
    assert run.checkpoint().durable
    assert (loaded(run.url, "u") == 7).all()


def test_after_an_interrupted_rollback_another_one_is_whole(start, at_work, monkeypatch):
    run = start(signals=False, keep=holdfast.Keep(last=5), threads=2)
    u = run.protect("u", np.full(24 * MiB, 1, np.uint8))
    run.ready()
    for value in (1, 2):
        u[:] = value
        run.checkpoint()
    u[:] = 3
    real, calls = syscalls.pread_cached, []

    def pread(*args):
        calls.append(args)
        if threading.current_thread() is threading.main_thread() and len(calls) > 2:
            raise Interrupt
        return real(*args)

    monkeypatch.setattr(syscalls, "pread_cached", pread)
    monkeypatch.setattr(syscalls, "pread", pread)
    with pytest.raises(Interrupt):
        run.rollback(1)
    monkeypatch.undo()
    run.rollback(2)
    assert (u == 2).all() and not working(at_work)
    u[:] = 9
    assert run.checkpoint().durable and (loaded(run.url, "u") == 9).all()
