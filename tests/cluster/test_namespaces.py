"""What namespaces keep apart, and that nothing of them is left, whoever dies; and what is said where they are refused."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys

import pytest
from looks import REFUSED, SHM, SOURCES, processes_with, said, until

from holdfast.supervisor.cluster import Cluster, ClusterError, RefusedError, refusal

# Dies when all nodes are up, before it has told them to stay.
DIES = """
import os, sys
from holdfast.supervisor.cluster import Cluster, namespaces
namespaces.Namespaces.settle = lambda self: os._exit(9)
Cluster(sys.argv[1], nodes=2).up()
"""


@pytest.fixture(params=["namespaces", "user namespaces"])
def kind(request):
    return request.param


@pytest.fixture
def real(make):
    """A cluster of two nodes, if namespaces are allowed here; else None, and the fixture has tested the refusal."""
    made = make(2)
    return None if made.simulated else made


def test_each_node_is_a_machine_of_its_own(real):
    if real is None:
        return
    look = "uname -n; cat /proc/sys/kernel/random/boot_id; ls /proc | grep -c '^[0-9]'"
    hosts, boots, counts = zip(*(said(real, name, look).split() for name in real.nodes()), strict=True)
    assert hosts == ("node0", "node1")
    assert len({*boots, said(real, None, "cat /proc/sys/kernel/random/boot_id")}) == 3
    assert all(int(count) < 8 for count in counts), "processes of others are seen"
    for number, name in enumerate(real.nodes()):
        assert f"10.77.0.{number + 1}/24" in said(real, name, "ip -4 -o addr show dev eth0")
    assert said(real, "node0", "getent hosts node1").split() == ["10.77.0.2", "node1"]
    real.kill("node1")
    real.revive("node1")
    assert said(real, "node1", "cat /proc/sys/kernel/random/boot_id") != boots[1]


def test_a_loss_does_not_disturb_the_others_network(real):
    """A bridge takes another hardware address when a link goes, unless it was given one: all were cut off for seconds."""
    if real is None:
        return
    hardware = "ip -o link show dev %s | grep -o 'ether [^ ]*'"
    front, lost = said(real, None, hardware % "holdfast0"), said(real, "node0", hardware % "eth0")
    for name in ("node0", "node1"):
        real.kill(name)
        assert said(real, None, hardware % "holdfast0") == front
        real.revive(name)
    assert said(real, "node0", hardware % "eth0") == lost


def test_no_node_sees_anothers_directories(real):
    if real is None:
        return
    said(real, "node1", 'echo mine > "$HOLDFAST_NODE_SCRATCH/secret"; echo mine > "$TMPDIR/secret"')
    assert said(real, "node1", 'cat "$HOLDFAST_NODE_SCRATCH/secret" "$TMPDIR/secret"') == "mine\nmine"
    assert said(real, "node0", f"find {real.directory} -name secret") == ""


def test_a_nodes_memory_has_the_size_that_was_asked_for(real):
    if real is None:
        return
    assert said(real, "node0", "stat -f -c '%b %S' /dev/shm").split() == [str(SHM // 4096), "4096"]
    fill = f"head -c {SHM + 1} /dev/zero > /dev/shm/full; echo $?; stat -c %s /dev/shm/full"
    assert said(real, "node0", f"{{ {fill}; }} 2> /dev/null").split() == ["1", str(SHM)]
    assert real.status()[0].memory == SHM
    assert real.status()[1].memory == 0


def test_a_node_that_died_by_itself(real):
    if real is None:
        return
    state = real._state()
    os.kill(state.node("node0").process.pid, 9)
    until(lambda: real.nodes() == ["node1"])
    real.revive("node0")
    assert real.nodes() == ["node0", "node1"]
    assert said(real, "node0", "getent hosts node0").split()[0] == "10.77.0.1"


def test_what_an_up_that_died_leaves(tmp_path, monkeypatch):
    if refusal() is not None:
        with pytest.raises(RefusedError, match=REFUSED):
            Cluster(tmp_path / "cluster").up()
        return
    directory = tmp_path / "cluster"
    for _ in range(2):  # the second `up` finds what the first has left
        env = {**os.environ, "PYTHONPATH": SOURCES}
        done = subprocess.run([sys.executable, "-c", DIES, str(directory)], env=env, timeout=30)
        assert done.returncode == 9
        assert (directory / "cluster.json").exists()
        until(lambda: not processes_with(str(directory)))
    Cluster(directory).down()
    assert not directory.exists()


def test_an_up_that_fails_leaves_nothing(tmp_path, monkeypatch):
    if refusal() is not None:
        with pytest.raises(RefusedError, match=REFUSED):
            Cluster(tmp_path / "cluster").up()
        return
    with pytest.raises(
        ClusterError, match="node0 could not be made: .*Invalid argument|front could not be made: .*Invalid"
    ):
        Cluster(tmp_path / "cluster", shm=-5).up()
    until(lambda: not processes_with(str(tmp_path / "cluster")))
    assert list((tmp_path / "cluster").iterdir()) == []


def test_files_of_others_are_not_touched(tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "mine").write_text("mine")
    with pytest.raises(ClusterError, match="holds scratch, which no cluster has made. Nothing was changed"):
        Cluster(tmp_path, simulated=True).up()
    Cluster(tmp_path).down()
    assert (tmp_path / "scratch" / "mine").read_text() == "mine"


def test_the_refusal_where_the_programs_are_missing(cli_process, tmp_path):
    done = cli_process("up", PATH=str(tmp_path))
    assert done.returncode == 2
    assert REFUSED in done.stderr
    assert "there is no program 'unshare' and none 'nsenter' and none" in done.stderr
    assert "Nothing was made" in done.stderr and "--simulated" in done.stderr
    assert not (tmp_path / "holdfast-cluster").exists()


def test_the_refusal_where_the_kernel_allows_no_more_namespaces(cli_process, tmp_path):
    """A user namespace in which no network namespace may be made stands for a machine that refuses them."""
    none = 'echo 0 > /proc/sys/user/max_net_namespaces && exec "$@"'
    inside = ("unshare", "--user", "--map-root-user", "sh", "-c", none, "none")
    allowed = (
        shutil.which("unshare") and subprocess.run([*inside, "true"], capture_output=True, timeout=20).returncode == 0
    )
    done = cli_process("up", before=inside) if allowed else cli_process("up", PATH=str(tmp_path))
    assert done.returncode == 2
    assert REFUSED in done.stderr
    if allowed:
        assert "the system refuses namespaces to root: unshare" in done.stderr
        assert os.strerror(errno.ENOSPC) in done.stderr  # what the kernel says of the limit
    assert not (tmp_path / "holdfast-cluster").exists()
    assert cli_process("up", "--simulated", "--nodes", 2, before=inside if allowed else ()).returncode == 0
    assert cli_process("down").returncode == 0
