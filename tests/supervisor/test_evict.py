"""Ending processes of an earlier attempt: asked first, then killed, and never another that bears the same number."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from holdfast.catalog import current, evict
from holdfast.catalog.process import _stat
from holdfast.errors import RunInUseError

MODULE = importlib.import_module("holdfast.catalog.eviction")
LEAVES = (
    # os.write: the handler may come while `print('up')` is at work, and a second print would be a reentrant call
    "import os, signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *a: (os.write(1, b'asked\\n'), sys.exit(7)))\n"
)
STAYS = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"


@pytest.fixture
def start():
    started = []

    def start(code, supervisor=None):
        process = subprocess.Popen(
            [sys.executable, "-c", code + "print('up', flush=True)\ntime.sleep(60)"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **({MODULE.SUPERVISOR: f"{supervisor.pid} {supervisor.start}"} if supervisor else {})},
        )
        started.append(process)
        assert process.stdout.readline() == "up\n"
        return process, replace(current(), pid=process.pid, start=_stat(process.pid)[1])

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_it_asks_first(start):
    process, named = start(LEAVES)
    evict([named, named], 10.0)
    assert not named.alive
    assert process.wait() == 7
    assert process.stdout.read() == "asked\n"


def test_it_kills_what_does_not_leave(start):
    process, named = start(STAYS)
    began = time.monotonic()
    evict([named], 0.2)
    assert 0.2 <= time.monotonic() - began < 5
    assert process.wait() == -signal.SIGKILL


def test_it_kills_what_is_stopped(start):
    process, named = start(LEAVES)
    process.send_signal(signal.SIGSTOP)
    evict([named], 0.2)
    assert process.wait() == -signal.SIGKILL


def test_hurry_forgoes_the_grace(start):
    process, named = start(STAYS)
    began = time.monotonic()
    evict([named], 60.0, hurry=lambda: time.monotonic() - began > 0.1)
    assert time.monotonic() - began < 10
    assert process.wait() == -signal.SIGKILL


def test_it_does_not_ask_twice(start):
    process, named = start(LEAVES)
    evict([named], 0.1, ask=None)
    assert process.wait() == -signal.SIGKILL
    assert process.stdout.read() == ""


def test_another_process_of_that_number_is_not_touched(start):
    process, named = start(LEAVES)
    evict([replace(named, start=named.start - 1), replace(named, boot="another"), replace(named, pidns="x")], 0.0)
    assert process.poll() is None
    assert named.alive


def test_itself_is_spared():
    evict([current()], 0.0)


def test_what_may_not_be_signalled_is_named(start, monkeypatch):
    process, named = start(LEAVES)

    def refuse(*args):
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(signal, "pidfd_send_signal", refuse, raising=False)
        patch.setattr(MODULE.os, "kill", refuse)
        with pytest.raises(RunInUseError, match=rf"process {process.pid} on .* \(not permitted"):
            evict([named], 60.0)
    assert process.poll() is None


def test_what_is_stuck_is_named(start, monkeypatch):
    process, named = start(LEAVES)
    monkeypatch.setattr(MODULE, "KILL_DEADLINE", 0.1)
    monkeypatch.setattr(MODULE, "send", lambda process, number: True)
    with pytest.raises(RunInUseError, match=f"process {process.pid} "):
        evict([named], 0.1)


def test_what_a_living_supervisor_looks_after_is_left_to_it(start):
    _, supervisor = start(STAYS)
    process, named = start(LEAVES, supervisor)
    with pytest.raises(RunInUseError, match=f"process {supervisor.pid} "):
        evict([named], 1.0)
    assert process.poll() is None


def test_what_our_own_or_a_dead_supervisor_left_is_ended(start):
    dead, supervisor = start(STAYS)
    orphan, named = start(LEAVES, supervisor)
    mine, named_too = start(LEAVES, current())
    assert not MODULE.abandoned(named)
    dead.kill()
    dead.wait()
    assert MODULE.abandoned(named)
    assert not MODULE.abandoned(named_too)
    evict([named, named_too], 10.0)
    assert (orphan.wait(), mine.wait()) == (7, 7)
