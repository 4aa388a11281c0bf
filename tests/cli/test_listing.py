"""`ls` and `show`: the JSON that programs read, the tables that people read, and clear errors."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from click.shell_completion import ShellComplete

import holdfast
from holdfast.cli.app import holdfast as command


def test_ls_for_programs(run, document):
    found = document("ls", run)
    assert found["url"] == os.path.abspath(run)
    assert (found["complete"], found["problems"], found["lineage"]) == (True, [], [4, 2, 1])
    rows = [(v["number"], v["kind"], v["status"], v["step"], v["parent"], v["attempt"]) for v in found["versions"]]
    assert rows == [
        (4, "checkpoint", "current", 3, 2, 1),
        (3, "record", "current", 2, 2, 1),
        (2, "checkpoint", "current", 2, 1, 1),
        (1, "checkpoint", "current", 1, None, 1),
    ]
    record = found["versions"][1]
    assert (record["label"], record["complete"], record["objects"], record["ranks"]) == ("spectrum", False, 1, 1)
    assert found["versions"][0]["bytes"] >= 480_000
    assert abs(found["versions"][0]["time"] - time.time()) < 60
    (attempt,) = found["attempts"]
    assert attempt["holder"]["pid"] == os.getpid()
    assert attempt["holder"]["alive"] is True
    assert (attempt["end"]["outcome"], attempt["end"]["version"], attempt["base"]) == ("complete", 4, None)


def test_ls_for_people(run, invoke):
    done = invoke("ls", run, "--attempts")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "heat: complete, at version 4 (step 3)"
    assert lines[1].split() == [
        "version",
        "kind",
        "status",
        "step",
        "parent",
        "attempt",
        "age",
        "size",
        "written",
        "chain",
        "stall",
        "notes",
    ]
    assert lines[2].split()[:6] == ["4", "checkpoint", "current", "3", "2", "1"]
    assert lines[2].split()[-1] == "complete"
    assert "472.0 KiB" in lines[2]
    assert "spectrum" in lines[3]
    assert lines[-2].split()[:3] == ["attempt", "kind", "ranks"]
    assert "complete" in lines[-1]
    assert f"{os.getpid()} on " in lines[-1]


def test_ls_shows_what_is_not_whole(run, invoke, document):
    Path("heat/versions/00000002-a000001/commit").write_bytes(b"nonsense")
    os.mkdir("heat/versions/00000009-a000001")
    found = document("ls", run)
    assert {v["number"]: v["status"] for v in found["versions"]} == {
        9: "fragment",
        4: "current",
        3: "current",
        2: "damaged",
        1: "current",
    }
    assert len(found["problems"]) == 1
    done = invoke("ls", run)
    assert done.exit_code == 0
    assert "problem: versions/00000002-a000001" in done.stderr


def test_what_is_stored_is_never_taken_for_markup(tmp_path, monkeypatch, invoke):
    monkeypatch.chdir(tmp_path)
    with holdfast.open("run") as run:
        run.protect("[red]u[/red]", np.zeros(3))
        with run.transaction("[bold]x") as txn:
            txn.put("[/]", np.zeros(3))
    assert "[bold]x" in invoke("ls", "run").stdout
    assert "[red]u[/red]" in invoke("show", "run").stdout


def test_show_for_programs(run, document):
    found = document("show", run)
    assert (found["number"], found["status"], found["step"], found["complete"]) == (4, "current", 3, True)
    assert found["loops"] == {"steps": {"position": 3, "total": 3, "done": True}}
    (rank,) = found["contents"]
    objects = {o["name"]: o for o in rank["objects"]}
    u = objects["u"]
    assert (u["kind"], u["dtype"], u["shape"], u["bytes"]) == ("array", "float64", [300, 200], 480_000)
    assert (u["shard"], u["late"]) == (None, False)
    assert objects["state"]["kind"] == "state"
    assert rank["files"] == [{"path": "log.csv", "bytes": 6}]
    assert document("show", run, 3)["label"] == "spectrum"


def test_show_for_people(run, invoke):
    lines = invoke("show", run).stdout.splitlines()
    assert lines[0] == "checkpoint 4: current, step 3, 1 rank"
    assert lines[2].split() == ["0", "u", "array", "float64", "300", "x", "200", "468.8", "KiB"]
    assert lines[-1].split() == ["0", "log.csv", "6", "B"]


def test_shards_are_shown(tmp_path, monkeypatch, invoke, document):
    monkeypatch.chdir(tmp_path)
    with holdfast.open("run") as run:
        run.protect("u", np.zeros((2, 4)), shard=holdfast.Shard((8, 4), (6, 0)))
    assert document("show", "run")["contents"][0]["objects"][0]["shard"] == {"global_shape": [8, 4], "offset": [6, 0]}
    assert "at 6 0 of 8 x 4" in invoke("show", "run").stdout


@pytest.mark.parametrize("name", ["ls", "show", "verify", "prune"])
def test_no_run_is_one_clear_line(name, tmp_path, invoke):
    for place in (tmp_path / "nothing", tmp_path):
        done = invoke(name, place)
        assert done.exit_code == 1
        assert done.stdout == ""
        assert done.stderr.startswith("holdfast: There is no run")
        assert len(done.stderr.splitlines()) == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("word", ["x", "0", "-1", "1.5"])
def test_what_is_no_version_is_wrong_usage(word, run, invoke):
    done = invoke("show", run, "--", word)
    assert done.exit_code == 2
    assert "is no version" in done.stderr


def complete(words, incomplete=""):
    found = ShellComplete(command, {}, "holdfast", "_HOLDFAST_COMPLETE").get_completions(words, incomplete)
    return [(item.value, item.type) for item in found]


def test_completion_of_runs_and_versions(run):
    assert complete(["show"], "he") == [("he", "dir")]
    assert [value for value, _ in complete(["show", run])] == ["4", "3", "2", "1"]
    assert [value for value, _ in complete(["rollback", run], "2")] == ["2"]
    assert complete(["show", "nothing"]) == []
