"""`holdfast doctor`: each line is tried, and says the same to people and to programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from holdfast.capture import room
from holdfast.capture.room import default_memory
from holdfast.capture.tracker import PageTracker
from holdfast.cli import doctor as module
from holdfast.cli.app import holdfast as cli
from holdfast.engine.helper import Helper
from holdfast.redundancy import coding
from holdfast.units import bytes_text


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


def features() -> dict[str, dict[str, object]]:
    result = CliRunner().invoke(cli, ["doctor", "--json"])
    assert result.exit_code == 0, result.output
    return {f["name"]: f for f in json.loads(result.output)["features"]}


@pytest.mark.parametrize("who", ["here", "wheel", "system", "nobody"])
def test_how_parities_are_computed(monkeypatch: pytest.MonkeyPatch, who: str) -> None:
    chosen = coding.chosen()
    if who in ("wheel", "system"):
        path = "/opt/env/pyeclib.libs/libisal.so.2" if who == "wheel" else "libisal.so.2"
        named = type("Named", (coding.Isal,), {"__init__": lambda self: None, "add_up": coding.Plain().add_up})()
        named.name = "ISA-L (libisal.so.2)"
        chosen = named
        monkeypatch.setattr(coding, "candidates", lambda: [path])
    elif who == "nobody":
        chosen = coding.Plain()
    monkeypatch.setattr(coding, "chosen", lambda: chosen)
    line = features()["redundancy (partner, xor, rs)"]
    detail = str(line["detail"])
    assert line["works"] is True and chosen.name in detail and detail.count("iB/s") == 2
    assert ("extra `redundancy`" in detail) is isinstance(chosen, coding.Plain)
    assert ("/opt/env/pyeclib.libs" in detail) is (who == "wheel")
    assert ("the system's" in detail) is (who == "system") or who == "here"


@pytest.mark.parametrize(
    ("left", "works"), [(9 << 30, True), (1 << 30, True), (65 << 20, True), (64 << 20, False), (0, False)]
)
def test_the_room_for_node_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, left: int, works: bool) -> None:
    """What it names as the largest state is what the library keeps in memory by itself, and no more is."""
    monkeypatch.setattr(room, "free_bytes", lambda path: left)
    monkeypatch.setattr(room, "available_bytes", lambda root="/": 1 << 40)
    said, detail = module._node_memory(str(tmp_path))
    assert said is works and str(tmp_path) in detail
    if works:
        state = max(min(left * 8 // 9, left - (64 << 20)) // 2, 1)
        assert default_memory(state, str(tmp_path))[0] and not default_memory(state + 2, str(tmp_path))[0]
        assert f"two versions of {bytes_text(state)}" in detail


def test_no_node_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said, detail = module._node_memory(str(tmp_path / "absent"))
    assert not said and "absent" in detail
    monkeypatch.setattr(module.os, "access", lambda path, how: False)
    assert module._node_memory(str(tmp_path)) == (False, f"{tmp_path} can't be written")
