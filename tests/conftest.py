"""For all tests: one thread per process, the environment of a plain shell, Hypothesis kept moderate; which must run alone."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

# Before NumPy is imported: its thread pools would compete with ranks and helper processes for the cores.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

# Options of the library that the developer's shell has set must not decide what the tests see.
for _name in [n for n in os.environ if n.startswith("HOLDFAST_")]:
    del os.environ[_name]

# A shell's background job, or nohup, has them ignored, and so would every program that a test starts.
for _number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)

from hypothesis import settings  # noqa: E402

settings.register_profile("ci", deadline=None, max_examples=50)
settings.load_profile("ci")

# tests/mpi needs several ranks: `python tests/run_mpi.py 4` runs it under mpirun. Without a launcher there is nothing
# to collect in it; with one, only it is run.
LAUNCHER_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK")
collect_ignore = [] if any(v in os.environ for v in LAUNCHER_VARIABLES) else ["mpi"]

# `make test` runs two files of tests at a time, except these, folders and files, which follow one by one: they start stand-in
# nodes with names of their own on this machine, or are judged by time or memory. A plain `pytest` runs all tests one by one.
ALONE = (
    "benchmarks", "cluster", "health", "helper", "repair", "run/test_run_time_limit.py",
    "supervisor/test_supervised_levels.py", "supervisor/test_supervised_mpi.py", "supervisor/test_supervised_nodes.py",
)  # fmt: skip
# These take longest, and are begun with: of what is left to the end, one of the two would wait for the other's last file.
FIRST = ("survive", "stopped", "faults_storage", "levels", "kills", "supervisor", "cli/test_cli_levels.py", "examples")
_TESTS = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not any(item.path.is_relative_to(_TESTS / name) for name in FIRST))
    for item in items:
        if any(item.path.is_relative_to(_TESTS / name) for name in ALONE):
            item.add_marker("alone")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many points of faults were tried, and what the model check has explored, as tests tell by these properties; from
    all processes that ran some."""
    reports = [report for kind in terminalreporter.stats.values() for report in kind if isinstance(report, pytest.TestReport)]
    told = [(name, what) for r in reports if r.when == "teardown" for name, what in r.user_properties]
    lines = [what for name, what in told if name == "points of faults"]
    if lines:
        terminalreporter.section("points of faults tried")
        for line in lines:
            terminalreporter.write_line(line)
    explored = [what for name, what in told if name == "model check"]
    if explored:
        from model.check import summary

        terminalreporter.section("model check")
        rows = {kind: [row for its, row in explored if its == kind] for kind in ("protocol", "mutations")}
        terminalreporter.write_line(summary(rows))
