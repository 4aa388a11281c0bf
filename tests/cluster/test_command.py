"""`holdfast dev cluster` as a developer types it."""

from __future__ import annotations

import json
import sys

import pytest
from click.testing import CliRunner

from holdfast.cli.app import holdfast
from holdfast.supervisor.cluster import refusal


@pytest.mark.parametrize("simulated", [False, True])
def test_from_up_to_down(cli, tmp_path, simulated):
    kind = ["--simulated"] if simulated else []
    done = cli("up", "--nodes", 2, "--shm", "16MiB", "--slots", 3, *kind)
    if not simulated and refusal() is not None:
        assert done.returncode == 2
        assert "No node stand-ins can be made on this machine" in done.stderr
        return
    try:
        assert done.returncode == 0, done.stderr
        first, *more = done.stdout.splitlines()
        assert first.endswith("nodes are up in holdfast-cluster")
        how = "holdfast dev cluster exec -- holdfast run -n RANKS --hostfile holdfast-cluster/hostfile -- PROGRAM"
        assert more == ([] if simulated else [f"a job on them: {how}"])
        hostfile = tmp_path / "holdfast-cluster" / "hostfile"
        assert hostfile.read_text() == "node0 slots=3\nnode1 slots=3\n"
        who = "import os, socket; print(os.environ.get('HOLDFAST_FAILURE_DOMAIN') or socket.gethostname(), flush=True)"
        done = cli("run", "-n", 3, "--ranks-per-node", 2, "--", sys.executable, "-c", who)
        assert done.returncode == 0, done.stderr
        assert sorted(done.stdout.split()) == ["node0", "node0", "node1"]
        done = cli("exec", "--on", "node1", "--", "sh", "-c", 'echo 1 > "$HOLDFAST_NODE_SCRATCH/one"; exit 5')
        assert done.returncode == 5, done.stderr
        assert [n["scratch"] for n in status(cli)] == [0, 2]
        assert cli("kill", "node1").returncode == 0
        assert [n["live"] for n in status(cli)] == [True, False]
        assert hostfile.read_text() == "node0 slots=3\n"
        done = cli("status")
        assert done.returncode == 0
        lines = [line.split()[:2] for line in done.stdout.splitlines()]
        assert lines == [["node", "state"], ["node0", "up"], ["node1", "down"]]
        assert cli("revive", "node1").returncode == 0
        assert [(n["live"], n["scratch"]) for n in status(cli)] == [(True, 0), (True, 0)]
        done = cli("kill", "node2")
        assert done.returncode == 1
        assert "There is no node 'node2' in this cluster" in done.stderr
    finally:
        assert cli("down").returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_wrong_words(cli):
    assert cli("up", "--shm", "much").returncode == 2
    assert cli("up", "--nodes", 0).returncode == 2
    assert cli("up", "--slots", 0).returncode == 2
    assert cli("run", "--", "true").returncode == 2
    done = cli("status")
    assert done.returncode == 1
    assert "There is no cluster in" in done.stderr and "`up` makes one" in done.stderr


def test_it_is_in_the_list_of_commands_and_says_what_it_is_for(cli):
    listed = CliRunner().invoke(holdfast, ["--help"]).output.splitlines()
    assert [line for line in listed if line.startswith("  dev ") and "trying things out" in line]
    told = cli("--help").stdout
    assert "revive" in told and "exec -- holdfast run -n 4 --hostfile holdfast-cluster/hostfile" in told


def status(cli) -> list[dict[str, object]]:
    done = cli("status", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["nodes"]
