"""`holdfast.launch`: its value, its errors, alone and under mpirun."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from run_support import execute, program

import holdfast


def test_the_value_of_main_and_completion(tmp_path):
    def main(run):
        u = run.protect("u", np.zeros(1))
        assert run.comm is holdfast.SERIAL or run.comm.size == 1
        for _ in run.steps(3, every=holdfast.steps(1)):
            u += 1
        return u[0]

    assert holdfast.launch(main, tmp_path / "run", keep=holdfast.Keep(last=5)) == 3
    versions = holdfast.open(tmp_path / "run", mode="r").versions
    assert [v.complete for v in versions] == [True, False, False]
    assert holdfast.launch(main, tmp_path / "run") == 3


def test_an_error_of_main_is_raised_and_leaves_it_resumable(tmp_path):
    def main(run):
        for step in run.steps(5, every=holdfast.steps(1)):
            if step == 3 and not run.resumed:
                raise ZeroDivisionError
        return run.restored.step

    with pytest.raises(ZeroDivisionError):
        holdfast.launch(main, tmp_path / "run")
    assert holdfast.launch(main, tmp_path / "run") == 3


def test_options_are_those_of_open(tmp_path):
    with pytest.raises(holdfast.ConfigError, match="'timeout'"):
        holdfast.launch(lambda run: None, tmp_path / "run", timout=3)


def mpirun(ranks: int) -> list[str]:
    spec = importlib.util.spec_from_file_location("run_mpi", Path(__file__).parents[1] / "run_mpi.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.find_mpirun()
    assert found is not None, "no mpirun: install the extra mpi-wheels"
    return module.command(found, ranks)[:-3]  # without its own program


MPI = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_mpi_yield_when_idle": "1"}

ALONE = """
    def main(run):
        u = run.protect("u", np.zeros(3))
        for step in run.steps(1000, every=holdfast.steps(1)):
            u += 1
            if step == 5 and run.comm.rank == 1 and not run.resumed:
                raise ZeroDivisionError("only here")
            run.comm.allreduce(step)  # the others wait here for ever
            if step == 8:
                break
        return float(u[0])

    value = holdfast.launch(main, "run")
    print("value", value, flush=True)
"""


def test_an_exception_on_one_rank_ends_all(tmp_path):
    command = [*mpirun(2), *program(tmp_path, ALONE)]
    first = execute(command, tmp_path, 50, **MPI)
    assert first.returncode != 0
    assert "ZeroDivisionError: only here" in first.stderr + first.stdout
    assert "rank 1 failed alone" in first.stderr + first.stdout
    again = execute(command, tmp_path, 50, **MPI)
    assert (again.returncode, again.stdout.split("\n")[:2]) == (0, ["value 9.0", "value 9.0"]), again.stderr
