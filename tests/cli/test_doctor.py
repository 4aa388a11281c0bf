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


@pytest.fixture(autouse=True)
def no_job(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job is started only where it is what is tested."""
    if "ulfm" not in request.node.name:
        monkeypatch.setattr(module, "_ulfm", lambda: (False, "not tried"))


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


def test_ulfm_is_asked_of_a_job() -> None:
    line = features()["ULFM"]
    assert "Open MPI" in str(line["detail"])
    assert line["works"] is ("goes on when a rank dies" in str(line["detail"]))


MPIRUN = """#!/bin/sh
[ "$1" = --version ] && { echo "mpirun (Open MPI) 5.0.9"; exit; }
"""


@pytest.mark.parametrize(
    ("text", "works", "said"),
    [
        ("echo ulfm x; echo ulfm x", True, "Open MPI 5.0.9 goes on when a rank dies (`--with-ft ulfm`)"),
        ("echo ulfm x", False, "Open MPI 5.0.9 with `--with-ft ulfm`: status 0; when a rank dies, all are started again"),
        ("echo NotImplementedError >&2; exit 1", False, "NotImplementedError; when a rank dies, all are started again"),
        ("exec sleep 30", False, "Open MPI 5.0.9 did not answer within 0.3 s; when a rank dies, all are started again"),
    ],
    ids=["yes", "one", "refused", "silent"],
)
def test_ulfm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, works: bool, said: str) -> None:
    for name, lines in (("mpirun", f"{MPIRUN}{text}\n"), ("python", "#!/bin/sh\n")):
        (tmp_path / name).write_text(lines)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setattr(module, "_ULFM_SECONDS", 0.3 if "sleep" in text else 10.0)
    found, detail = module._ulfm()
    assert found is works and detail.endswith(said)


def test_ulfm_without_an_mpi_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\n")
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "mpirun").write_text("#!/bin/sh\necho 'HYDRA build details: Version: 4.3.0'\n")
    (tmp_path / "mpirun").chmod(0o755)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    works, detail = module._ulfm()
    assert not works and "MPICH 4.3.0" in detail and detail.endswith("all are started again")
