"""A program's session: what is in it, when it is dead, what is left of it, and signals to the supervisor."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from holdfast.catalog import evict
from holdfast.errors import UsageError
from holdfast.supervisor.child import Child, Signals, Watch


@pytest.fixture
def start():
    started = []

    def start(*arguments):
        started.append(Child(arguments, os.environ))
        return started[-1]

    yield start
    for child in started:
        child.end()


def until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_its_exit_code(start):
    child = start("sh", "-c", "exit 7")
    until(lambda: child.dead)
    assert not child.killed
    assert child.reap() == 7


def test_its_signal(start):
    child = start("sleep", "60")
    assert not child.dead
    child.signal(signal.SIGTERM)
    until(lambda: child.dead)
    assert child.killed
    assert child.reap() == -signal.SIGTERM


def test_what_outlives_it_is_still_its_own(start):
    child = start("sh", "-c", "sleep 60 & sleep 60 & kill -9 $$")
    until(lambda: child.dead)
    left = child.members()
    assert len(left) == 2
    assert child.pid not in [p.pid for p in left]
    evict(left, 5.0)
    assert child.members() == []
    assert child.reap() == -signal.SIGKILL


def test_the_end_takes_the_whole_session(start):
    child = start("sh", "-c", "sleep 60 & sleep 60")
    until(lambda: len(child.members()) == 3)
    everyone = child.members()
    child.end()
    assert not any(p.alive for p in everyone)


def test_what_bears_its_mark_is_its_own_in_any_session():
    environment = {**os.environ, "MARK": "a value of this test alone"}
    child = Child(["sh", "-c", "setsid sleep 60 & sleep 60"], environment, "MARK")
    try:
        until(lambda: len({os.getsid(p.pid) for p in child.members()}) == 2)
        everyone = child.members()
        assert len(everyone) == 3
    finally:
        child.end()
    assert not any(p.alive for p in everyone)


def test_once_reaped_its_number_is_nobodys(start):
    child = start("true")
    until(lambda: child.dead)
    child.reap()
    assert child.members() == []
    assert child.dead


def test_its_session_is_its_own(start):
    child = start("sleep", "60")
    assert os.getsid(child.pid) == child.pid != os.getsid(0)


def test_what_can_not_be_started():
    with pytest.raises(UsageError, match="/no/such/thing"):
        Child(["/no/such/thing"], os.environ)


def test_watch_tells_who_died_first(start):
    first, second = start("sleep", "60"), start("sleep", "60")
    watch = Watch()
    watch.add([first.members()[0], second.members()[0]])
    with Signals() as signals:
        signals.wait(0.0, watch)
        assert watch.first_dead is None
        second.kill()
        until(lambda: signals.wait(0.05, watch) or watch.first_dead)
        first.kill()
        until(lambda: signals.wait(0.05, watch) or not watch.handles)
    assert watch.first_dead == (1, second.pid)


def test_watch_knows_a_process_that_is_dead_already(start):
    first, second = start("sleep", "60"), start("sleep", "60")
    processes = [first.members()[0], second.members()[0]]
    second.kill()
    until(lambda: second.dead)
    watch = Watch()
    watch.add(processes)
    assert watch.first_dead == (1, second.pid)
    first.kill()
    until(lambda: first.dead)
    watch.died(watch.handles)
    assert watch.first_dead == (1, second.pid)


def test_watch_does_not_guess(start):
    first, second = start("sleep", "60"), start("sleep", "60")
    watch = Watch()
    watch.add([first.members()[0], second.members()[0]])
    for child in (first, second):
        child.kill()
        until(lambda child=child: child.dead)
    watch.died(watch.handles)
    assert watch.first_dead is None
    assert watch.handles == []


def test_signals_are_collected_and_handlers_put_back():
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGCHLD)]
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.pending == 2
        began = time.monotonic()
        signals.wait(30.0, Watch())
        assert time.monotonic() - began < 10
        assert signals.take() == [signal.SIGTERM, signal.SIGINT]
        assert signals.take() == []
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGCHLD)] == before


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert signals.pending == 0
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_the_death_of_a_child_ends_the_wait(start):
    with Signals() as signals:
        child = start(sys.executable, "-c", "import time; time.sleep(0.1)")
        began = time.monotonic()
        until(lambda: signals.wait(30.0, Watch()) or child.dead)
        assert time.monotonic() - began < 20
