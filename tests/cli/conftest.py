"""A run with everything in it that the commands show, and the commands as programs call them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import holdfast
from holdfast.cli.app import holdfast as command


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run in the working directory: checkpoints 1, 2 and 4 (which says complete), and record 3."""
    monkeypatch.chdir(tmp_path)
    with holdfast.open("heat", keep=holdfast.Keep(last=9)) as opened:
        u = opened.protect("u", np.arange(60000.0).reshape(300, 200))
        s = opened.state(best=1.5, names=["a", "b"])
        log = opened.file("log.csv", "a")
        for step in opened.steps(3, every=holdfast.steps(1)):
            u += step
            s.best += 1
            log.write(f"{step}\n")
            if step == 2:
                with opened.transaction("spectrum") as txn:
                    txn.put("spectrum", np.ones(5, "f4"))
    return "heat"


@pytest.fixture
def invoke() -> Callable[..., Result]:
    """`invoke(*words)`: one command; its `exit_code`, `stdout`, `stderr`. An error that is not ours is raised."""

    def invoke(*words: object) -> Result:
        return CliRunner().invoke(command, [str(w) for w in words], prog_name="holdfast", catch_exceptions=False)

    return invoke


@pytest.fixture
def document(invoke: Callable[..., Result]) -> Callable[..., dict[str, Any]]:
    """`document(*words)`: a command with --json: its document, and nothing else on stdout."""

    def document(*words: object, code: int = 0) -> dict[str, Any]:
        done = invoke(*words, "--json")
        assert done.exit_code == code, done.stderr
        found = json.loads(done.stdout)
        assert isinstance(found, dict)
        assert found.pop("format") == 1
        return found

    return document
