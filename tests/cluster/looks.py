"""What the tests look at on this machine, and how long they wait for it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import holdfast
from holdfast.supervisor.cluster import Cluster
from holdfast.supervisor.cluster.nodes import end

SOURCES = str(Path(next(iter(holdfast.__path__))).parent)
SHM = 64 << 20  # bytes of a node's memory; Open MPI takes 16 MiB for each of its ranks
REFUSED = "No node stand-ins can be made on this machine: "


def until(true: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def said(cluster: Cluster, name: str | None, command: str) -> str:
    """What a shell command writes on a node; it has to succeed."""
    done = subprocess.run(
        cluster.on(name, ["sh", "-c", command]), env=cluster.environment(), capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def finished(process: subprocess.Popen[bytes], seconds: float = 40.0) -> tuple[int, str, str]:
    """(exit code, output, errors) of a command whose ends are pipes."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        end(process)
        process.communicate(timeout=seconds)
        raise
    return process.returncode, out.decode(), err.decode()


def processes_with(words: str) -> set[int]:
    """Every process here, those on nodes too, that has `words` in its command line or its environment; not this one."""
    found = set()
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        for part in ("cmdline", "environ"):
            try:
                text = Path(f"/proc/{name}/{part}").read_bytes()
            except OSError:
                continue
            if words.encode() in text:
                found.add(int(name))
    return found


def namespaces_of(pids: set[int]) -> set[str]:
    """The namespaces that these processes are in and we are not; a zombie is in none."""
    found: set[str] = set()
    for pid in pids:
        try:
            found |= {os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("net", "mnt", "uts", "ipc", "pid", "user")}
        except OSError:
            continue
    return found - {os.readlink(f"/proc/self/ns/{kind}") for kind in ("net", "mnt", "uts", "ipc", "pid", "user")}


def all_processes() -> set[int]:
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}


def links() -> list[str]:
    """The names of this machine's network links."""
    return sorted(os.listdir("/sys/class/net"))


def mounts(directory: Path) -> list[str]:
    """What is mounted here in or from `directory`."""
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(directory) in line]
