"""`holdfast doctor`: each line is tried, and says the same to people and to programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from holdfast.capture.tracker import PageTracker
from holdfast.cli.app import holdfast as cli
from holdfast.engine.helper import Helper


def test_features_and_facts(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["doctor", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    features = {f["name"]: f for f in found["features"]}
    assert features["incremental='pages'"]["works"] == (PageTracker.available() is None)
    assert features["engine='process'"]["works"]
    facts = {f["name"]: f for f in found["facts"]}
    assert facts[f"direct I/O in {tmp_path}"]["detail"]
    assert all(isinstance(f["works"], bool) and f["detail"] for f in (*found["features"], *found["facts"]))
    assert not list(tmp_path.iterdir())


def test_table_and_why_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(timeout: float) -> Helper:
        raise OSError("no more processes")

    monkeypatch.setattr(Helper, "start", refuse)
    monkeypatch.setattr(PageTracker, "available", staticmethod(lambda: "no such call"))
    result = CliRunner().invoke(cli, ["doctor", str(tmp_path)])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert any("engine='process'" in line and " no " in line and "no more processes" in line for line in lines)
    assert any("incremental='pages'" in line and " no " in line and "no such call" in line for line in lines)
