"""An error of all ranks that nobody catches: one traceback and a line for each other rank, and no error hidden."""

from __future__ import annotations

import sys
import traceback

import pytest
from run_support import execute, program
from test_run_launch import MPI, mpirun

from holdfast.errors import RankError
from holdfast.run import tracebacks
from holdfast.run.tracebacks import leave_to_others, tell_once

ALIKE = """
    def main(run):
        u = run.protect("u", np.zeros(3))
        for step in run.steps(5):
            u += 1
            if step == 3:
                raise ValueError(f"of rank {run.comm.rank}")

    holdfast.launch(main, "run")
"""


def test_one_traceback_and_a_line_for_each_other_rank(tmp_path):
    done = execute([*mpirun(3), *program(tmp_path, ALIKE)], tmp_path, 50, **MPI)
    assert done.returncode != 0
    said = done.stderr + done.stdout
    assert said.count("Traceback (most recent call last)") == 1, said
    for line in ("\nValueError: of rank 0\n", "holdfast: rank 1: ValueError: of rank 1\n", "holdfast: rank 2: ValueError: of"):
        assert line in said


class Standin:
    """Rank 1 of two. `others`: what rank 0 has for each maximum, None if it does not come."""

    def __init__(self, *others: int | None) -> None:
        self.rank, self.size, self.others = 1, 2, list(others)

    def begin_max(self, *values):
        self.values, self.other = values, self.others.pop(0)  # no more of them than there are
        return self

    def test(self):
        if self.other is not None and self.other == -sys.maxsize:
            raise RankError("gone")
        return None if self.other is None else (max(self.values[0], self.other), 0)


@pytest.fixture(autouse=True)
def hook(monkeypatch):
    monkeypatch.setattr(tracebacks, "_SECONDS", 0.05)
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)


def shown(error, capsys):
    try:
        raise error
    except BaseException as raised:
        sys.excepthook(type(raised), raised, raised.__traceback__)
    return capsys.readouterr().err


@pytest.mark.parametrize("other", [None, -sys.maxsize])
def test_who_does_not_hear_that_it_is_printed_prints_its_own(other, capsys):
    error = ValueError("mine")
    leave_to_others(error, Standin(other), False)
    assert "Traceback" in shown(error, capsys)


def test_who_hears_it_prints_a_line(capsys):
    error = ValueError("of\nmine")
    leave_to_others(error, Standin(0, 0), False)
    assert shown(error, capsys) == "holdfast: rank 1: ValueError: of mine\n"


def test_errors_from_elsewhere_are_each_rank_s_own(capsys):
    error = ValueError("mine")
    tell_once(error, Standin(5, 7))  # other digests than this one's
    assert sys.excepthook is sys.__excepthook__
    tell_once(error, Standin(None))
    assert sys.excepthook is sys.__excepthook__


def test_other_errors_and_a_hook_of_the_program_s_are_left_alone(capsys, monkeypatch):
    leave_to_others(ValueError("mine"), Standin(0), False)
    assert "Traceback" in shown(ValueError("another"), capsys)
    monkeypatch.setattr(sys, "excepthook", lambda *error: traceback.print_exception(*error))
    own = sys.excepthook
    leave_to_others(ValueError("mine"), Standin(0), False)
    assert sys.excepthook is own


def test_what_led_to_it_counts():
    def fail(cause):
        try:
            try:
                raise cause
            except Exception as first:
                raise ValueError("mine") from first
        except ValueError as error:
            return tracebacks._places(error)

    assert fail(OSError()) == fail(OSError("other text")) != fail(KeyError())
