"""What a start of the program that has lost ranks for good is judged by."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from holdfast.errors import StorageError
from holdfast.supervisor import execution, facts, launcher
from holdfast.supervisor.execution import Running, State


def started(monkeypatch: pytest.MonkeyPatch, *alive: bool, here: bool = True) -> tuple[Running, list[Any]]:
    monkeypatch.setattr(execution, "UNREPAIRED", 0.0)
    command = launcher.Command(("mpirun",), {}, None, "mpirun")
    running = Running(State(command, None, None, "/nowhere", 1.0, spares=1), 1)  # type: ignore[arg-type]
    running.processes = [SimpleNamespace(here=here, alive=one) for one in alive]  # type: ignore[misc]
    runs: list[Any] = [SimpleNamespace(end=None, complete=False)]
    monkeypatch.setattr(facts, "gather", lambda *_: runs)
    return running, runs


def test_a_job_with_a_rank_that_is_not_replaced_is_torn(monkeypatch: pytest.MonkeyPatch) -> None:
    running, runs = started(monkeypatch, True, False, False)
    assert running._unrepaired()
    runs[0].end = SimpleNamespace(outcome="closed")  # ranks leave when they like
    assert not running._unrepaired()
    runs[0] = SimpleNamespace(end=None, complete=True)
    assert not running._unrepaired()


@pytest.mark.parametrize("alive", [(), (True, True), (False, False)])
def test_nobody_gone_or_all_of_them_is_something_else(monkeypatch: pytest.MonkeyPatch, alive: tuple[bool, ...]) -> None:
    assert not started(monkeypatch, *alive)[0]._unrepaired()


def test_ranks_on_other_hosts_are_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not started(monkeypatch, True, False, here=False)[0]._unrepaired()


def test_it_has_a_minute_and_the_clock_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    running, _ = started(monkeypatch, True, False)
    monkeypatch.setattr(execution, "UNREPAIRED", 60.0)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    lost, whole = running.processes, [SimpleNamespace(here=True, alive=True)] * 2
    looks = [(0, lost, False), (59, lost, False), (59.5, whole, False), (61, lost, False), (122, lost, True)]
    for at, processes, torn in looks:
        now[0], running.processes = 100.0 + at, processes  # type: ignore[assignment]
        assert running._unrepaired() is torn


def test_records_that_can_not_be_read_end_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    running, _ = started(monkeypatch, True, False)

    def fail(*_: object) -> None:
        raise StorageError("gone")

    monkeypatch.setattr(facts, "gather", fail)
    assert not running._unrepaired()
