"""What is known of a cluster of stand-ins between two calls: a file in its directory, written whole or not at all.

Who is killed is decided by it alone: processes that the cluster made, by pid *and* start time, on this boot of this kernel.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from ...catalog.process import Process
from ...errors import HoldfastError
from ...group.waiting import wait_until

LOCK_DEADLINE = 60.0  # seconds to wait for another command on the same cluster
FORMAT = 1
SLOTS = 2  # ranks on a node, for who starts jobs by the hostfile


class ClusterError(HoldfastError):
    """A stand-in cluster could not do what it was asked; the message says what is there. `down` removes all of it."""


class RefusedError(ClusterError):
    """This machine does not let this user make namespaces; nothing was made. Use simulated nodes."""


@dataclass(frozen=True)
class Node:
    """One stand-in: host name, address in the cluster's network (empty if simulated), whether it is up;
    its first process as we see it, and the number by which the front knows it (both None if simulated or down)."""

    name: str
    address: str
    up: bool = False
    process: Process | None = None
    inner: int | None = None

    @property
    def live(self) -> bool:
        """Up, and if there is a process that stands for it, it lives."""
        return self.up and (self.process is None or lives(self.process))


class NodeStatus(NamedTuple):
    """A node as it is now: `processes` on it, bytes used in its memory and on its scratch directory."""

    name: str
    address: str
    live: bool
    processes: int
    memory: int
    scratch: int


@dataclass(frozen=True)
class State:
    """`simulated`; `user`: within a user namespace; `shm`: bytes of each node's memory file system; `front`: the
    first process of the namespaces around all nodes, None if simulated or not there yet; `slots`: of each node in the
    hostfile."""

    simulated: bool
    user: bool
    shm: int
    nodes: tuple[Node, ...]
    front: Process | None = None
    slots: int = SLOTS

    def node(self, name: str) -> Node:
        """ClusterError if there is none of that name."""
        for node in self.nodes:
            if node.name == name:
                return node
        names = ", ".join(n.name for n in self.nodes)
        raise ClusterError(f"There is no node {name!r} in this cluster. Nothing was changed. There are {names}.")

    def with_node(self, changed: Node) -> State:
        return replace(self, nodes=tuple(changed if n.name == changed.name else n for n in self.nodes))


class Layout(NamedTuple):
    """Where a cluster's files are. `scratch` and `tmp` are mount points: on each node they are the node's own."""

    directory: Path

    @property
    def state(self) -> Path:
        return self.directory / "cluster.json"

    @property
    def hostfile(self) -> Path:
        """The nodes that are up, as Open MPI reads it."""
        return self.directory / "hostfile"

    @property
    def hosts(self) -> Path:
        return self.directory / "hosts"

    @property
    def agent(self) -> Path:
        """The script that starts a command on a node (namespaces), or a rank with its node's environment (simulated)."""
        return self.directory / "agent"

    @property
    def log(self) -> Path:
        return self.directory / "log"

    @property
    def nodes(self) -> Path:
        return self.directory / "nodes"

    @property
    def scratch(self) -> Path:
        return self.directory / "scratch"

    @property
    def tmp(self) -> Path:
        return self.directory / "tmp"

    def all(self) -> list[Path]:
        """What a cluster puts into its directory, the state last: as long as something is left, it is known."""
        files = [self.hostfile, self.hosts, self.agent, self.log, self.state]
        return [self.nodes, self.scratch, self.tmp, *map(_new, files), *files]

    def remove(self) -> None:
        """Deletes all of it; the directory stays."""
        for path in self.all():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def read(self) -> State | None:
        """The state that was written last; None if there is none. ClusterError if it can't be understood."""
        try:
            found = json.loads(self.state.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ClusterError(f"{self.state} can't be read: {error}. Nothing was changed.") from None
        try:
            return _parse(found)
        except (KeyError, TypeError, ValueError, HoldfastError) as error:
            raise ClusterError(
                f"{self.state} does not describe a cluster of this version of Holdfast ({error!r}). Nothing was changed. "
                "Take the cluster down with the version that made it."
            ) from None

    def write(self, state: State) -> None:
        """Puts the state, and the host file that follows from it, in place of those before."""
        replace_text(self.state, json.dumps({"format": FORMAT, **asdict(state)}, indent=1))
        self.write_hostfile(state)

    def write_hostfile(self, state: State) -> None:
        """Lists the nodes that are up now: one may have died by itself since the state was written."""
        replace_text(self.hostfile, "".join(f"{node.name} slots={state.slots}\n" for node in state.nodes if node.live))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One command at a time changes a cluster; ClusterError after `LOCK_DEADLINE` seconds of waiting."""
        try:
            handle = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise ClusterError(f"There is no cluster in {self.directory}: {error.strerror}.") from None

        def taken() -> bool:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        try:
            if not wait_until(taken, LOCK_DEADLINE):
                raise ClusterError(
                    f"Another command has been changing the cluster in {self.directory} for {LOCK_DEADLINE:.0f} seconds. "
                    "Nothing was changed; try again when it has ended."
                )
            yield
        finally:
            os.close(handle)


def replace_text(path: Path, text: str) -> None:
    """Puts a file in place of the one before: who reads it at this moment gets all of one or all of the other."""
    new = _new(path)
    new.write_text(text)
    os.replace(new, path)


def _new(path: Path) -> Path:
    return path.with_name(path.name + ".new")


def lives(process: Process) -> bool:
    return process.here and process.alive


def _parse(found: dict[str, Any]) -> State:
    if found.pop("format") != FORMAT:
        raise ValueError("another format")
    nodes = tuple(Node(**{**n, "process": _process(n["process"])}) for n in found.pop("nodes"))
    return State(**{**found, "front": _process(found["front"]), "nodes": nodes})


def _process(found: Any) -> Process | None:
    return None if found is None else Process.parse(found)
