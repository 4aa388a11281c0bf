"""Clusters of stand-in nodes: real ones where namespaces are allowed, and simulated ones, always."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from looks import REFUSED, SHM, SOURCES

from holdfast.cli.app import holdfast
from holdfast.supervisor.cluster import Cluster, RefusedError


@pytest.fixture(params=["namespaces", "user namespaces", "simulated"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Cluster]]:
    """`make(nodes)`: a cluster that is up, of the test's kind.

    Where this machine refuses the namespaces, the refusal's words are tested and the nodes are simulated.
    """
    monkeypatch.setenv("PYTHONPATH", SOURCES)
    made: list[Cluster] = []
    if kind == "user namespaces":  # what a user gets who is not root; root gets the same by asking for it
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() or 1)

    def start(nodes: int) -> Cluster:
        cluster = Cluster(tmp_path / "cluster", nodes=nodes, shm=SHM, simulated=kind == "simulated")
        made.append(cluster)
        try:
            cluster.up()
        except RefusedError as error:
            assert str(error).startswith(REFUSED)
            assert not cluster.directory.exists()
            made[-1] = cluster = Cluster(cluster.directory, nodes=nodes, simulated=True)
            cluster.up()
        return cluster

    yield start
    for cluster in made:
        cluster.down()


@pytest.fixture
def cluster(make: Callable[..., Cluster]) -> Cluster:
    """Two nodes."""
    return make(2)


@pytest.fixture
def cli(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., SimpleNamespace]:
    """`cli(*words)`: `holdfast dev cluster WORDS` in the test's directory; `returncode`, `stdout`, `stderr` of it."""
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> SimpleNamespace:
        with pytest.raises(SystemExit) as left:
            holdfast(["dev", "cluster", *map(str, words)], prog_name="holdfast")
        out, err = capfd.readouterr()
        return SimpleNamespace(returncode=left.value.code, stdout=out, stderr=err)

    return call


@pytest.fixture
def cli_process(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The same in a process of its own: `before` are words that stand before it, `env` changes its environment."""

    def call(*words: object, before: tuple[str, ...] = (), **env: str) -> subprocess.CompletedProcess[str]:
        command = [*before, sys.executable, "-m", "holdfast.cli", "dev", "cluster", *map(str, words)]
        return subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": SOURCES, **env},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return call
