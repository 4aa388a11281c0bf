"""What became of attempts: of those that did not live to say so, from the records of those after them."""

from __future__ import annotations

import os

import pytest

from holdfast.catalog import Attempt, End, Process, current
from holdfast.cli.outcomes import Outcome, elsewhere, outcomes

HERE = current()
GONE = Process(HERE.host, HERE.boot, HERE.pidns, 1 << 22, 5)


def away(host: str, pid: int = 7) -> Process:
    return Process(host, "other boot", "pid:[1]", pid, 1)


def attempt(number: int, *processes: Process, execution: str | None = "x", end: str | None = None) -> Attempt:
    ended = None if end is None else End(end, 1.0)
    return Attempt(number, holder=processes[0], processes=processes, execution=execution, end=ended)


@pytest.mark.parametrize(
    ("first", "second", "outcome"),
    [
        (attempt(1, GONE, end="failed"), attempt(2, HERE), Outcome("failed")),
        (attempt(1, GONE), attempt(2, HERE, execution="y"), Outcome("died")),
        (attempt(1, GONE, execution=None), attempt(2, HERE, execution=None), Outcome("died")),
        (attempt(1, HERE, GONE), attempt(2, HERE, away("a")), Outcome("repaired", (1,), later=2)),
        (attempt(1, HERE, GONE), attempt(2, HERE, GONE), Outcome("went on", later=2)),
        (attempt(1, HERE, execution="z"), attempt(2, GONE), Outcome("running")),
        (attempt(1, away("a"), away("b")), attempt(2, away("a"), away("c"), execution="y"), Outcome("lost", (), ("b",), 2)),
        (attempt(1, away("a")), attempt(2, away("a"), execution="y"), Outcome("lost", later=2)),
        (Attempt(1), attempt(2, HERE), Outcome("unknown")),
    ],
)
def test_what_became_of_the_first(first, second, outcome):
    assert outcomes([first, second], held=False)[1] == outcome


def test_the_newest_is_running_as_long_as_it_holds_the_run():
    both = [attempt(1, away("a")), attempt(2, away("a"), execution="y")]
    assert outcomes(both, held=True)[2] == Outcome("running")
    assert outcomes(both, held=False)[2] == Outcome("lost")
    pruned = [attempt(1, away("a"))._replace(places=()), attempt(2, GONE)._replace(kind="prune")]
    assert outcomes(pruned, held=False)[1] == Outcome("lost"), "not the program's"


def test_notes():
    assert Outcome("repaired", (1, 3), later=2).note() == "ranks 1, 3 replaced, attempt 2 went on"
    assert Outcome("lost", (), ("b",), 2).note() == "attempt 2 did without b"
    assert Outcome("went on", later=2).note() == "as attempt 2"
    assert Outcome("died").note() == Outcome("lost", later=2).note() == ""


def test_whether_it_has_been_elsewhere():
    assert not elsewhere([attempt(1, HERE), Attempt(2)])
    assert elsewhere([attempt(1, HERE, away("a"))])
    assert os.uname().nodename == HERE.host
