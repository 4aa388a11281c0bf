"""`verify`, `rollback`, `prune`: what they do, what they say, and that nothing is touched unasked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import holdfast


def flip(path: Path, at: int) -> None:
    with open(path, "r+b") as f:
        f.seek(at)
        byte = f.read(1)
        f.seek(at)
        f.write(bytes([byte[0] ^ 1]))


def tree() -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in Path("heat").rglob("*") if p.is_file()}


def numbers(document, status=None):
    return [v["number"] for v in document("ls", "heat")["versions"] if status in (None, v["status"])]


def test_verify_a_whole_run(run, invoke, document):
    before = tree()
    done = invoke("verify", run)
    assert (done.exit_code, done.stdout) == (0, "heat: every version is whole\n")
    assert document("verify", run) == {"url": os.path.abspath(run), "whole": True, "damages": [], "nodes": []}
    assert tree() == before


def test_verify_names_file_offset_object_and_rank(run, invoke, document):
    data = Path("heat/versions/00000002-a000001/data/r000000")
    flip(data, 100_000)
    done = invoke("verify", run)
    assert done.exit_code == 1
    (line,) = done.stdout.splitlines()
    for part in ("versions/00000002-a000001/data/r000000", "offset ", "object 'u'", "rank 0", "version 2"):
        assert part in line
    assert "1 damage found" in done.stderr
    (damage,) = document("verify", run, code=1)["damages"]
    assert (damage["object"], damage["rank"], damage["version"]) == ("u", 0, 2)
    assert damage["offset"] is not None


def test_verify_one_version(run, invoke):
    flip(Path("heat/versions/00000002-a000001/data/r000000"), 100_000)
    assert invoke("verify", run, 4).exit_code == 0
    assert invoke("verify", run, 2).exit_code == 1
    assert "There is no version 99" in invoke("verify", run, 99).stderr


def test_rollback(run, invoke, document):
    done = invoke("rollback", run, 2)
    assert done.exit_code == 0, done.stderr
    assert "resumes from version 2" in done.stdout
    found = document("ls", run)
    assert (found["lineage"], found["complete"]) == ([2, 1], False)
    assert numbers(document, "abandoned") == [4]
    assert document("rollback", run, 1) == {"url": os.path.abspath(run), "version": 1}
    assert document("ls", run)["lineage"] == [1]


def test_rollback_to_what_does_not_exist_changes_nothing(run, invoke, document):
    done = invoke("rollback", run, 77)
    assert done.exit_code == 1
    assert "There is no checkpoint 77" in done.stderr
    assert document("ls", run)["lineage"] == [4, 2, 1]


def test_prune(run, invoke, document):
    invoke("rollback", run, 2)
    os.mkdir("heat/versions/00000009-a000001")
    before = tree()
    rehearsed = document("prune", run, "--dry-run", "--keep", 1)
    assert rehearsed["dry_run"] is True
    assert tree() == before
    done = document("prune", run, "--keep", 1)
    assert done["removed"] == rehearsed["removed"]
    assert {(r["name"][:8], r["status"]) for r in done["removed"]} == {
        ("00000009", "fragment"),
        ("00000004", "abandoned"),
        ("00000001", "surplus"),
    }
    assert done["bytes"] == sum(r["bytes"] for r in done["removed"]) > 900_000
    assert numbers(document) == [3, 2]
    assert invoke("prune", run).stdout == "heat: 0 deleted, 0 B\n"


def test_prune_spares_what_is_damaged_unless_told(run, invoke, document):
    Path("heat/versions/00000001-a000001/commit").write_bytes(b"nonsense")
    assert invoke("prune", run).exit_code == 0
    assert numbers(document, "damaged") == [1]
    assert invoke("prune", run, "--damaged").exit_code == 0
    assert numbers(document) == [4, 3, 2]


def test_a_run_in_use_is_left_alone(run, invoke, document):
    with holdfast.open(run, takeover=True) as opened:
        for words in (("rollback", run, 1), ("prune", run)):
            done = invoke(*words)
            assert done.exit_code == 1
            assert "in use" in done.stderr
            assert f"{os.getpid()}" in done.stderr
        assert invoke("prune", run, "--dry-run").exit_code == 0
        assert invoke("rollback", run, 1, "--takeover").exit_code == 0
        opened.close()
    assert document("ls", run)["lineage"] == [1]


@pytest.mark.parametrize("command", [("prune", "heat"), ("rollback", "heat", 1)])
def test_on_a_terminal_it_asks(command, run, invoke, document, monkeypatch):
    from click.testing import CliRunner

    from holdfast.cli import human
    from holdfast.cli.app import holdfast as group

    monkeypatch.setattr(human, "interactive", lambda: True)
    words = [str(w) for w in command]
    before = numbers(document, "current")
    done = CliRunner().invoke(group, words, input="n\n")
    assert done.exit_code == 1
    assert "Aborted" in done.stderr
    assert numbers(document, "current") == before
    assert CliRunner().invoke(group, words, input="y\n").exit_code == 0
    assert numbers(document, "current") != before
    assert CliRunner().invoke(group, [*words, "--yes"]).exit_code == 0


def test_the_progress_bar_goes_to_a_terminal_only(run, monkeypatch, capfd):
    import pty
    import subprocess
    import sys

    primary, terminal = pty.openpty()
    code = f"from holdfast.cli import main; main(['verify', {run!r}])"
    env = {**os.environ, "TERM": "xterm", "PYTHONPATH": os.path.dirname(next(iter(holdfast.__path__)))}
    done = subprocess.run([sys.executable, "-c", code], stderr=terminal, stdout=subprocess.PIPE, env=env, timeout=60)
    os.close(terminal)
    try:
        drawn = os.read(primary, 100_000).decode(errors="replace")
    finally:
        os.close(primary)
    assert done.returncode == 0
    assert done.stdout == b"heat: every version is whole\n"
    assert "verify" in drawn
    assert "%" in drawn or "━" in drawn
