"""Stand-in nodes under `holdfast run --hostfile`: in namespaces, or as directories where these are refused.

Simulated nodes are all on this host, and no mpirun starts daemons on one host under several names. There the supervisor
gets a launcher that puts each rank into its node's environment, by the same hostfile, and an agent that answers for a
node as long as it is up.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from programs import CLI, SOURCES, Job

from holdfast.supervisor.cluster import Cluster, RefusedError
from holdfast.supervisor.launcher import find_mpi

SHM = 64 << 20  # bytes of a node's memory; Open MPI takes 16 MiB for each of its ranks

_DRIVER = """
import sys
from holdfast.cli.app import holdfast
from holdfast.supervisor import launcher
launcher.find_mpi = lambda path: launcher.Mpi({mpirun!r}, "openmpi", 5, "Open MPI")
holdfast(sys.argv[1:], prog_name="holdfast")
"""

_MPIRUN = """#!{python}
import os, sys
words = sys.argv[1:]
at = words.index("--hostfile")
lines = [line.split() for line in open(words[at + 1])]
del words[at : at + 2]
words[words.index("--map-by") + 1] = ":OVERSUBSCRIBE"
seats = [name for name, slots in lines for _ in range(int(slots.partition("=")[2]))]
if not all(os.path.isdir(f"{nodes}/{{name}}/memory") for name in seats):
    sys.exit("a node is down")
at = words.index({python!r})
words[at:at] = ["--bind-to", "none", {python!r}, {rank!r}, ",".join(seats)]
os.execv({mpirun!r}, [{mpirun!r}, *words])
"""

_RANK = """
import os, sys
name = sys.argv[1].split(",")[int(os.environ["OMPI_COMM_WORLD_RANK"])]
os.environ["HOLDFAST_FAILURE_DOMAIN"] = name
os.environ["HOLDFAST_NODE_MEMORY"] = f"{nodes}/{{name}}/memory"
os.environ["HOLDFAST_NODE_SCRATCH"] = f"{nodes}/{{name}}/scratch"
os.execv(sys.argv[2], sys.argv[2:])
"""

_AGENT = """#!/bin/sh
test -d {nodes}/"$1"/memory || exit 1
shift
exec sh -c "$*"
"""


class Nodes:
    """A cluster that is up, and `holdfast run` on it: started in the front as a user would start it."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self.cluster, self.directory = cluster, directory
        self._jobs: list[Job] = []

    def run(self, *arguments: object, **variables: str) -> Job:
        environment = {**self.cluster.environment(), "PYTHONPATH": SOURCES, **variables}
        words = [*CLI, "run"]
        if self.cluster.simulated:
            words = [sys.executable, self._shim(environment), "run"]
        words = self.cluster.on(None, [*words, *map(str, arguments)], cwd=self.directory)
        log = self.directory / f"job-{len(self._jobs)}"
        self._jobs.append(Job(cwd=self.directory, log=log, words=words, environment=environment))
        return self._jobs[-1]

    def _shim(self, environment: dict[str, str]) -> str:
        mpirun = find_mpi(environment["PATH"]).path
        made = {name: str(self.directory / name) for name in ("driver", "mpirun", "rank", "agent")}
        values = {"nodes": str(self.cluster.directory / "nodes"), "python": sys.executable, "rank": made["rank"]}
        texts = {
            "driver": _DRIVER.format(mpirun=made["mpirun"]),
            "mpirun": _MPIRUN.format(mpirun=mpirun, **values),
            "rank": _RANK.format(**values),
            "agent": _AGENT.format(**values),
        }
        for name, text in texts.items():
            Path(made[name]).write_text(text)
            Path(made[name]).chmod(0o755)
        environment["PRTE_MCA_plm_ssh_agent"] = made["agent"]
        return made["driver"]

    def end(self) -> None:
        for job in self._jobs:
            if job.process.poll() is None:
                job.signal(signal.SIGKILL)
            job.process.wait(timeout=10)


@contextmanager
def nodes(directory: Path, count: int, simulated: bool, shm: int = SHM) -> Iterator[Nodes]:
    """`count` nodes with `shm` bytes of memory each, down at the end with whatever runs on them; simulated too where
    namespaces are refused."""
    cluster = Cluster(directory / "cluster", nodes=count, shm=shm, simulated=simulated)
    try:
        cluster.up()
    except RefusedError:
        cluster = Cluster(cluster.directory, nodes=count, simulated=True)
        cluster.up()
    made = Nodes(cluster, directory)
    try:
        yield made
    finally:
        made.end()
        for name in cluster.nodes():
            cluster.kill(name)
        cluster.down()
