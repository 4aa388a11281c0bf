"""Run the MPI tests on N ranks: `python tests/run_mpi.py N [pytest arguments]`.

Prints what rank 0 printed, and what other ranks printed if they failed. Exit status: 0 if all ranks passed the same
number of tests, 2 if there is no MPI to run them with (a missing MPI is an error, never a skip), else 1. What is
not over in `--deadline` seconds (default 300) is ended, and every rank's stacks are shown.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import faulthandler
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent
RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK")
FINALIZE_SECONDS = 30


def main(argv: list[str]) -> int:
    if argv[:1] == ["--as-rank"]:
        return run_rank(Path(argv[1]), argv[2:])
    parser = argparse.ArgumentParser(description="Run the MPI tests on N ranks.", allow_abbrev=False)
    parser.add_argument("ranks", type=int, metavar="N")
    parser.add_argument("--deadline", type=float, default=300.0, help="seconds for everything (default 300)")
    options, pytest_args = parser.parse_known_args(argv)
    if options.ranks < 1:
        parser.error("N must be at least 1")
    mpirun = find_mpirun()
    if mpirun is None or importlib.util.find_spec("mpi4py") is None:
        missing = "no mpirun or mpiexec beside this Python or in PATH" if mpirun is None else "mpi4py is not installed"
        print(f"run_mpi: {missing}: install the extra mpi-wheels, or an MPI and mpi4py", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="holdfast-mpi-") as folder:
        return run_all(mpirun, options.ranks, options.deadline, pytest_args, Path(folder))


# -- the parent: starts the ranks, waits, shows ---------------------------------------------


def find_mpirun() -> str | None:
    """The launcher that belongs to this Python, else the one in PATH."""
    beside = [Path(sys.executable).parent / name for name in ("mpirun", "mpiexec")]
    found = [str(p) for p in beside if os.access(p, os.X_OK)]
    return found[0] if found else shutil.which("mpirun") or shutil.which("mpiexec")


def command(mpirun: str, ranks: int) -> list[str]:
    version = subprocess.run([mpirun, "--version"], capture_output=True, text=True, timeout=60).stdout
    # Open MPI refuses more ranks than cores unless told; and must not tie all ranks to one core.
    extra = ["--oversubscribe", "--bind-to", "none"] if "Open MPI" in version else []
    return [mpirun, *extra, "-n", str(ranks), sys.executable, __file__, "--as-rank"]


def run_all(mpirun: str, ranks: int, deadline: float, pytest_args: list[str], folder: Path) -> int:
    env = dict(os.environ)
    # A directory of its own: what a killed mpirun of the same process id has left keeps the next one from starting.
    env.setdefault("PRTE_MCA_prte_local_tmpdir_base", str(folder))
    env.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMPI_MCA_mpi_yield_when_idle="1")
    env.update(PYTHONUNBUFFERED="1", PYTHONDONTWRITEBYTECODE="1")
    launcher_output = folder / "launcher.out"
    with launcher_output.open("wb") as out:
        process = subprocess.Popen(
            [*command(mpirun, ranks), str(folder), *pytest_args],
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=env, start_new_session=True,
        )  # fmt: skip
        expired = False
        try:
            process.wait(deadline)
        except subprocess.TimeoutExpired:
            expired = True
        finally:  # also when interrupted: nothing that was started here stays behind
            end(process)
    results = [read_result(folder / f"{rank}.json") for rank in range(ranks)]
    failed = [rank for rank, result in enumerate(results) if result is None or result["status"] != 0]
    for rank in [0, *(r for r in failed if r != 0)]:
        show(f"rank {rank} of {ranks}", folder / f"{rank}.out")
    for rank in range(ranks):
        show(f"stacks of rank {rank}", folder / f"{rank}.stacks", only_if_any=True)
    problems = []
    if expired:
        problems.append(f"not over after {deadline:g} s: ended")
    if failed:
        problems.append(f"failed, or without a result, on ranks {failed}")
    counts = [None if result is None else result["tests"] for result in results]
    if any(count != counts[0] for count in counts):
        problems.append(f"ranks differ in the outcomes of their tests: {counts}")
    if process.returncode != 0 and not problems:
        problems.append(f"the launcher ended with status {process.returncode}")
    if problems:
        show("the launcher", launcher_output, only_if_any=True)
        print(f"run_mpi: {ranks} ranks: " + "; ".join(problems), file=sys.stderr)
        return 1
    print(f"run_mpi: {ranks} ranks: {counts[0]}")
    return 0


def end(process: subprocess.Popen[bytes]) -> None:
    """End the launcher and its process group: politely, so that ranks show their stacks, then for certain.

    Ranks that are in process groups of their own end with their launcher (PR_SET_PDEATHSIG in `run_rank`).
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)


def read_result(path: Path) -> dict[str, Any] | None:
    try:
        result: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None  # the rank ended before it was through
    return result


def show(title: str, path: Path, *, only_if_any: bool = False) -> None:
    text = path.read_text(errors="replace").rstrip() if path.exists() else ""
    if text or not only_if_any:
        print(f"---- {title}\n{text or '(nothing)'}", flush=True)


# -- a rank: pytest in this process, its output in a file -----------------------------------


class Outcomes:
    """Counts the outcomes of tests and of their set-up and teardown."""

    def __init__(self) -> None:
        self.tests: dict[str, int] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.tests[report.outcome] = self.tests.get(report.outcome, 0) + 1


def run_rank(folder: Path, pytest_args: list[str]) -> int:
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: end with the launcher
    rank = next(os.environ[v] for v in RANK_VARIABLES if v in os.environ)
    with (folder / f"{rank}.out").open("wb") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    stacks = (folder / f"{rank}.stacks").open("w")
    os.environ["MPI_TESTS_STACKS"] = stacks.name  # where tests/mpi/conftest.py writes them
    faulthandler.register(signal.SIGTERM, file=stacks, all_threads=True, chain=True)

    import pytest

    outcomes = Outcomes()
    # Ranks must not write each other's cache, nor clean up each other's temporary directories.
    own = ["-p", "no:cacheprovider", f"--basetemp={folder / f'tmp{rank}'}"]
    paths = [] if any(Path(a.split("::")[0]).exists() for a in pytest_args) else [str(TESTS / "mpi")]
    status = int(pytest.main([*own, *paths, *pytest_args], plugins=[outcomes]))
    result = folder / f"{rank}.json"
    result.write_text(json.dumps({"status": status, "tests": outcomes.tests}))
    # mpi4py calls MPI_Finalize at exit, which waits for the other ranks.
    faulthandler.dump_traceback_later(FINALIZE_SECONDS, exit=True, file=stacks)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
