"""Part G on stand-in nodes: a node is lost, or its link is cut while both halves of the job live; a spare node takes its place.

A rank on each of four nodes, two more nodes as spares; what was lost comes back as a spare, what was cut off is joined again. A
cut link is told by nobody: `stall_timeout` is set, and who asks for a node asks through the link.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from holdfast.supervisor.cluster import Cluster, RefusedError

from . import survive_kinds as kinds
from .heat_truth import HeatTruth
from .jobs import kill
from .survive import MARGIN, Outcome, Tell, line, play
from .survive_faults import Blow, Struck
from .survive_job import RANKS, SIZE, HeatJob
from .survive_kinds import LATEST, Fault, Setting, fault
from .survive_notes import Process, state_of

NODES, STEPS, FAULTS = RANKS + 2, 260, 8  # FAULTS: of one job
SHM = 512 << 20  # bytes of a node's memory at most
STALL = 2.0  # seconds without progress after which a rank is taken for hung
PATIENCE = 4.0  # seconds that ranks wait for each other in calls of the library
RESTS = 40.0  # seconds for what was cut off to be gone, once the link is back
LEVELS = ("memory,xor,global", "global")

RETRIES = 2  # times that TCP sends again before it gives a connection up
KEEPALIVE = {"time": 1, "intvl": 1, "probes": 2}  # of mpirun's connections to its daemons

# In the place of ssh: as the cluster's own, but a node whose link is down can't be asked.
_AGENT = """#!/bin/sh
ip -o link show dev veth-"$1" 2>/dev/null | grep -q 'state UP' || exit 255
exec {agent} "$@"
"""


class NodeJob(HeatJob):
    """The program on nodes of a cluster that is up, without spare processes."""

    def __init__(self, base: Path, steps: int, cluster: Cluster, levels: str, cache: Path | None = None) -> None:
        super().__init__(base, steps, Setting.STORE, 0, cache)
        self.cluster, self.levels, self.name = cluster, levels, f"nodes: {levels}"
        self.environment = {k: v for k, v in cluster.environment().items() if os.environ.get(k) != v}
        agent = base / "agent"
        agent.write_text(_AGENT.format(agent=self.environment["PRTE_MCA_plm_ssh_agent"]))
        agent.chmod(0o755)
        self.environment["PRTE_MCA_plm_ssh_agent"] = str(agent)
        self.environment |= {f"PRTE_MCA_oob_tcp_keepalive_{name}": str(value) for name, value in KEEPALIVE.items()}
        (base / "hosts").write_text("".join(f"node{i} slots=1\n" for i in range(NODES)))
        start = [sys.executable, "-m", "holdfast.cli", "run", "-n", str(RANKS), "--hostfile", "hosts", "--grace", "3"]
        start += ["--spare-nodes", str(NODES - RANKS), "--", *self.program]
        self.hurry(None, *cluster.nodes())
        self.command = cluster.on(None, start, cwd=base)

    def options(self) -> dict[str, str]:
        own = {
            "HOLDFAST_LEVELS": self.levels,
            "HOLDFAST_STALL_TIMEOUT": f"{STALL:g}",
            "HOLDFAST_TIMEOUT": f"{PATIENCE:g}",
        }
        return {**super().options(), **self.environment, **own}

    def on(self, name: str | None, *words: str) -> str:
        """What a command says that is carried out on a node, or (None) where mpirun is."""
        done = subprocess.run(
            self.cluster.on(name, words), env=self.cluster.environment(), capture_output=True, timeout=20, check=True
        )
        return done.stdout.decode()

    def hurry(self, *names: str | None) -> None:
        """Have the kernel of these nodes give a silent connection up after seconds, not a quarter of an hour."""
        for name in names:
            self.on(name, "sh", "-c", f"echo {RETRIES} > /proc/sys/net/ipv4/tcp_retries2")

    def revive(self, name: str) -> None:
        self.cluster.revive(name)
        self.hurry(name)


def _node(job: HeatJob, by_rank: dict[int, Process], chance: random.Random, struck: Struck) -> bool:
    assert isinstance(job, NodeJob)
    name = by_rank[chance.randrange(RANKS)].host
    job.cluster.kill(name)
    struck.first = struck.at = time.monotonic()
    struck.took = name not in job.cluster.nodes()
    struck.later = lambda: job.revive(name)
    return True


def _link(job: HeatJob, by_rank: dict[int, Process], chance: random.Random, struck: Struck) -> bool:
    """Half of the times who is cut off runs on, until it finds out; else it stands still, and comes back in the midst of what
    it did when all others have gone on."""
    assert isinstance(job, NodeJob)
    rank = chance.choice([0, *range(RANKS)])  # rank 0 is the one that commits
    name, cut_off, sleeps = by_rank[rank].host, _beside(job, rank), chance.random() < 0.5
    job.on(None, "ip", "link", "set", "dev", f"veth-{name}", "down")
    for pid in cut_off if sleeps else []:
        kill(pid, signal.SIGSTOP)
    struck.first = struck.at = time.monotonic()
    down = "state DOWN" in job.on(None, "ip", "-o", "link", "show", "dev", f"veth-{name}")
    struck.took = down and bool(cut_off) and all(state_of(pid) not in "ZX" for pid in cut_off)
    struck.why = "" if struck.took else "the link was not cut, or nobody lived behind it"
    struck.later = lambda: _join(job, name, cut_off, sleeps, struck)
    return True


def _beside(job: NodeJob, rank: int) -> list[int]:
    """Our numbers of the job's processes on the node of a rank."""
    spaces = {pid: _space(pid) for pid in job.job.processes()}
    mark = f"OMPI_COMM_WORLD_RANK={rank}".encode()
    of_rank = [pid for pid in spaces if mark in _variables(pid)]
    return [pid for pid, space in spaces.items() if any(space == spaces[one] for one in of_rank)]


def _space(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def _variables(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _join(job: NodeJob, name: str, cut_off: list[int], slept: bool, struck: Struck) -> None:
    """The link is there again: who was cut off commits nothing, and goes."""
    alive = sum(state_of(pid) not in "ZX" for pid in cut_off)
    struck.told = (
        "who was cut off came back" if alive else "who was cut off had ended before the link was there again",
    )
    job.on(None, "ip", "link", "set", "dev", f"veth-{name}", "up")
    since, old = time.time(), struck.attempt
    for pid in cut_off if slept else []:
        kill(pid, signal.SIGCONT)
    gone = lambda: all(state_of(pid) in "ZX" for pid in cut_off)  # noqa: E731
    job.wait(f"the {alive} processes that were cut off to leave", gone, RESTS, tick=0.05)
    for told in job.ledger.of("durable") + job.ledger.of("reached"):
        if told["attempt"] <= old and told["time"] > since:
            struck.wrong.append(f"who was cut off has reported a version: {told}")
    for commit in (job.run / "versions").glob("*/commit"):
        if int(commit.parent.name.rpartition("-a")[2]) <= old and commit.stat().st_ctime > since:
            struck.wrong.append(f"who was cut off has committed {commit.parent.name}")


NODE_BLOWS: dict[str, Blow] = {kinds.NODE: _node, kinds.LINK: _link}


class _Chooser:
    """The rarer of the two kinds, FAULTS of a job, until the job's steps or the time is over."""

    def __init__(self, chance: random.Random, counts: Counter[str], until: float) -> None:
        self.chance, self.counts, self.until, self.left = chance, counts, until, FAULTS

    def __call__(self, job: HeatJob) -> Fault | None:
        if self.left == 0 or time.monotonic() > self.until or job.reached() > job.steps - LATEST - MARGIN:
            return None
        self.left -= 1
        kind = min(kinds.ON_NODES, key=lambda kind: self.counts[kind])
        self.counts[kind] += 1
        return fault(kind, self.chance)


def campaign(
    base: Path, least: int, seed: int, tell: Tell, keep: Callable[[Outcome], None], counts: Counter[str], seconds: float
) -> list[str]:
    """Jobs until each kind has had `least` faults or `seconds` are over; the problems. As `survive.campaign`."""
    chance, until = random.Random(seed), time.monotonic() + seconds
    truth = HeatTruth(SIZE, STEPS, RANKS)
    problems: list[str] = []
    number = 0
    while min(counts[kind] for kind in kinds.ON_NODES) < least and time.monotonic() < until:
        before = counts.copy()
        cluster = Cluster(base / f"cluster{number}", nodes=NODES, shm=SHM)
        try:
            cluster.up()
        except RefusedError as error:
            return [f"no nodes can be made: {error.message}"]
        try:
            job = NodeJob(base / f"nodes{number:03d}", STEPS, cluster, LEVELS[number % len(LEVELS)], base / "cache")
            outcome = play(job, truth, _Chooser(chance, counts, until), NODE_BLOWS)
        finally:
            for name in cluster.nodes():
                cluster.kill(name)
            cluster.down()
        for kind in kinds.ON_NODES:
            counts[kind] = before[kind] + sum(aftermath.kind == kind for aftermath in outcome.aftermaths)
        keep(outcome)
        number += 1
        problems += [f"{job.name}, job {number}: {problem}" for problem in outcome.problems]
        shown = ", ".join(f"{kind} {counts[kind]}" for kind in kinds.ON_NODES)
        tell(f"{shown} of {least}. {line(outcome)}")
        if not outcome.problems:
            shutil.rmtree(job.base)
    return problems
