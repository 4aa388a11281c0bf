"""Nodes are apart from each other, run MPI programs together, and are lost and come back one by one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from looks import all_processes, finished, links, mounts, namespaces_of, processes_with, said, until

from holdfast.supervisor.cluster import Cluster, ClusterError

HELLO = """
import os, socket
import numpy as np
from mpi4py import MPI
comm = MPI.COMM_WORLD
total = np.zeros(100_000)
comm.Allreduce(np.full(100_000, comm.rank + 1.0), total)
domain = os.environ.get("HOLDFAST_FAILURE_DOMAIN") or socket.gethostname()
lines = comm.gather(f"rank {comm.rank} of {comm.size} on {domain}: {total.min():g} {total.max():g}")
if comm.rank == 0:
    print("\\n".join(lines), flush=True)
"""

# Each rank leaves something in its node's memory and scratch, then works until it is ended.
WORKS = """
import os, time
from mpi4py import MPI
for name in ("HOLDFAST_NODE_MEMORY", "HOLDFAST_NODE_SCRATCH"):
    with open(f"{os.environ[name]}/rank{MPI.COMM_WORLD.rank}", "wb") as f:
        f.write(bytes(5000))
MPI.COMM_WORLD.Barrier()
while True:
    MPI.COMM_WORLD.allreduce(1)
    time.sleep(0.01)
"""

HELD = 'ls "$HOLDFAST_NODE_MEMORY" "$HOLDFAST_NODE_SCRATCH" | grep rank'


def pipes(cluster: Cluster, program: Path, ranks: int, per_node: int | None = None) -> subprocess.Popen[bytes]:
    words = [sys.executable, str(program)]
    return cluster.start(words, ranks=ranks, per_node=per_node, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_ranks_are_on_the_nodes_in_order_and_speak_with_each_other(make, kind, tmp_path):
    (tmp_path / "hello.py").write_text(HELLO)
    nodes, per_node = (4, None) if kind == "namespaces" else (3, 2)
    cluster = make(nodes)
    code, out, err = finished(pipes(cluster, tmp_path / "hello.py", 4, per_node))
    assert code == 0, err
    assert out.splitlines() == [f"rank {r} of 4 on node{r // (per_node or 1)}: 10 10" for r in range(4)]


def test_memory_and_scratch_are_the_nodes_own(cluster):
    for name in cluster.nodes():
        said(cluster, name, f'echo {name} | tee "$HOLDFAST_NODE_MEMORY/mark" > "$HOLDFAST_NODE_SCRATCH/mark"')
    for name in ("node0", "node1"):
        assert (
            said(cluster, name, 'cat "$HOLDFAST_NODE_MEMORY/mark" "$HOLDFAST_NODE_SCRATCH/mark"').split() == [name] * 2
        )


def test_a_lost_node(cluster, tmp_path):
    (tmp_path / "works.py").write_text(WORKS)
    program = str(tmp_path / "works.py")
    job = pipes(cluster, tmp_path / "works.py", 4)
    until(lambda: [n.memory >= 10_000 and n.scratch == 10_000 for n in cluster.status()] == [True, True])
    other = cluster.start([sys.executable, "-c", "import time; time.sleep(300)", f"{program}-beside"], on="node1")
    until(lambda: processes_with(f"{program}-beside"))
    before = {n.name: n for n in cluster.status()}
    assert before["node0"].processes >= 2
    assert before["node1"].processes >= 3

    cluster.kill("node1")

    assert not processes_with(f"{program}-beside")
    assert other.wait(10) != 0
    finished(job)  # mpirun ends; its exit code says nothing: it is 0 after some losses
    until(lambda: not processes_with(program))
    assert cluster.nodes() == ["node0"]
    assert cluster.status()[1] == ("node1", before["node1"].address, False, 0, 0, 0)
    with pytest.raises(ClusterError, match="node1 is down. Nothing was started"):
        cluster.on("node1", ["true"])
    assert said(cluster, "node0", HELD).split() == ["rank0", "rank1", "rank0", "rank1"]

    cluster.revive("node1")

    again = cluster.status()[1]
    assert (again.live, again.processes, again.memory, again.scratch) == (True, 0, 0, 0)
    (tmp_path / "hello.py").write_text(HELLO)
    code, out, err = finished(pipes(cluster, tmp_path / "hello.py", 2))
    assert code == 0, err
    assert out.splitlines() == ["rank 0 of 2 on node0: 3 3", "rank 1 of 2 on node1: 3 3"]


def test_ranks_that_do_not_fit_on_the_nodes_that_are_left(cluster):
    assert "9" in cluster.mpirun(["true"], 9)
    cluster.kill("node0")
    with pytest.raises(ClusterError, match="2 ranks do not fit on 1 nodes with 1 on each"):
        cluster.mpirun(["true"], 2, 1)
    cluster.kill("node1")
    with pytest.raises(ClusterError, match="No node is up"):
        cluster.mpirun(["true"], 2)


def test_a_command_that_does_not_end_is_ended(cluster, tmp_path):
    with pytest.raises(ClusterError, match="did not end within 0.5 seconds"):
        cluster.run([sys.executable, "-c", "import time; time.sleep(300)", f"{tmp_path}-slow"], on="node0", timeout=0.5)
    until(lambda: not processes_with(f"{tmp_path}-slow"))
    assert cluster.run(["sh", "-c", "exit 7"], timeout=20) == 7


def test_what_can_not_be_asked(cluster):
    for wrong in (cluster.kill, cluster.revive):
        with pytest.raises(ClusterError, match="There is no node 'node7' in this cluster. .* There are node0, node1."):
            wrong("node7")
    with pytest.raises(ClusterError, match="node0 is up. Nothing was changed"):
        cluster.revive("node0")
    with pytest.raises(ClusterError, match="There is a cluster in .* already"):
        cluster.up()
    assert cluster.nodes() == ["node0", "node1"]
    with pytest.raises(ClusterError, match="1 to 200 nodes, not 0"):
        Cluster(cluster.directory, nodes=0)


def test_nothing_of_it_is_seen_on_the_host_and_nothing_is_left(make, tmp_path):
    before = links()
    cluster = make(3)
    directory = str(cluster.directory)
    assert links() == before
    assert mounts(cluster.directory) == []
    running = cluster.start([sys.executable, "-c", "import time; time.sleep(300)", directory], on="node2")
    until(lambda: len(processes_with(directory)) >= 1)
    inside = namespaces_of(processes_with(directory))
    assert cluster.simulated or len(inside) >= 20  # 5 of each of the nodes and of the front

    cluster.down()

    assert running.wait(10) != 0
    until(lambda: not processes_with(directory))
    assert inside & namespaces_of(all_processes()) == set()
    assert links() == before
    assert mounts(cluster.directory) == []
    assert not cluster.directory.exists()
    cluster.down()  # nothing to do is no error
    with pytest.raises(ClusterError, match="There is no cluster in"):
        cluster.status()
