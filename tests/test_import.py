"""`import holdfast` brings in what it needs and nothing else: a program pays for it at every start."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src"
HEAVY = ["mpi4py", "torch", "jax", "click", "rich", "asyncio", "importlib.metadata", "subprocess", "multiprocessing",
         "pytest", "holdfast.cli", "holdfast.supervisor", "holdfast.testing"]  # fmt: skip
SHOWN = "import sys, json; print(json.dumps(sorted(sys.modules)))"


def modules_after(code: str) -> set[str]:
    """The modules of a fresh interpreter that has run `code`."""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(SOURCE)!r})\n{code}\n{SHOWN}"]
    return set(json.loads(subprocess.run(command, capture_output=True, check=True, text=True, timeout=60).stdout))


@pytest.fixture(scope="module")
def numpy_alone() -> set[str]:
    return modules_after("import numpy")


def test_nothing_heavy_is_imported(numpy_alone: set[str]) -> None:
    found = modules_after("import holdfast") - numpy_alone
    assert "holdfast" in found
    assert [name for name in HEAVY if name in found] == []


def test_nothing_heavy_is_imported_by_a_serial_run(numpy_alone: set[str], tmp_path: Path) -> None:
    code = (
        f"import numpy, holdfast\nwith holdfast.open({str(tmp_path / 'run')!r}) as run:\n"
        "    u = run.protect('u', numpy.zeros(3))\n    for step in run.steps(2): u += 1"
    )
    found = modules_after(code) - numpy_alone
    assert (tmp_path / "run" / "holdfast.json").exists()
    assert [name for name in HEAVY if name in found] == []


def test_everything_that_is_named_is_there() -> None:
    import holdfast

    for name in holdfast.__all__:
        assert getattr(holdfast, name) is not None
    assert set(holdfast.__all__) <= set(dir(holdfast))
