"""Nodes that are directories: where namespaces are refused, failure domains can still be tried out, all on this host.

A rank is told by its environment on which node it is and where this node's memory and scratch are. Host name, /dev/shm,
network and mounts are those of the host; a program that uses these by itself is not kept apart by them.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ...group.waiting import wait_until
from .state import ClusterError, Layout, Node, State

_DEADLINE = 20.0  # seconds for what was killed to be gone
_QUIET = 3  # looks in a row that find nothing: a process may be between fork and exec


class Simulated:
    """The simulated nodes of one cluster, with the same calls as `Namespaces`."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def open(self, state: State, record: Callable[[State], None]) -> State:
        layout = self._layout
        layout.agent.write_text(
            _AGENT.format(hostfile=shlex.quote(str(layout.hostfile)), nodes=shlex.quote(str(layout.nodes)))
        )
        layout.agent.chmod(0o755)
        return state

    def settle(self) -> None: ...

    def abandon(self) -> None: ...

    def start(self, state: State, node: Node, record: Callable[[State], None]) -> State:
        for path in (self._memory(node.name), self.scratch(node)):
            path.mkdir(parents=True)
        state = state.with_node(replace(node, up=True))
        record(state)
        return state

    def kill(self, state: State, node: Node) -> None:
        """Ends every process that bears the node's mark, and its children that inherited it; deletes the directories."""
        looks = 0

        def gone() -> bool:
            nonlocal looks
            looks = 0 if self._each(node.name, signal.SIGKILL) else looks + 1
            return looks >= _QUIET

        if not wait_until(gone, _DEADLINE):
            raise ClusterError(
                f"{node.name}'s processes did not end within {_DEADLINE:.0f} seconds of SIGKILL. Its directories were not "
                "touched. Try again."
            )
        if (self._layout.nodes / node.name).exists():
            shutil.rmtree(self._layout.nodes / node.name)

    def close(self, state: State) -> None:
        for node in state.nodes:
            self.kill(state, node)

    def command(self, state: State, name: str | None, words: Sequence[str], cwd: str) -> list[str]:
        mine: list[str] = []
        if name is not None:
            if not state.node(name).live:
                raise ClusterError(f"{name} is down. Nothing was started. `status` shows which nodes are up.")
            mine = ["env", *(f"{key}={value}" for key, value in self._marks(name).items())]
        return [*mine, "sh", "-c", 'cd "$1" && shift && exec "$@"', name or "front", cwd, *words]

    def environment(self) -> Mapping[str, str]:
        return {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}

    def placement(self, per_node: int) -> list[str]:
        return ["--map-by", ":OVERSUBSCRIBE", "--bind-to", "none"]

    def program(self, words: Sequence[str], per_node: int | None) -> list[str]:
        """`words` behind the script that gives each rank its node; None: as many on each as it takes."""
        return [str(self._layout.agent), str(per_node or 0), *words]

    def processes(self, node: Node) -> int:
        return self._each(node.name, None)

    def memory(self, node: Node) -> int:
        return used(self._memory(node.name))

    def scratch(self, node: Node) -> Path:
        return self._layout.nodes / node.name / "scratch"

    def _memory(self, name: str) -> Path:
        return self._layout.nodes / name / "memory"

    def _marks(self, name: str) -> dict[str, str]:
        return {
            "HOLDFAST_FAILURE_DOMAIN": name,
            "HOLDFAST_NODE_MEMORY": str(self._memory(name)),
            "HOLDFAST_NODE_SCRATCH": str(self._layout.nodes / name / "scratch"),
        }

    def _each(self, name: str, number: signal.Signals | None) -> int:
        """How many living processes have the node's directory in their environment; sends them a signal, if one is given."""
        mark = os.fsencode(f"HOLDFAST_NODE_MEMORY={self._memory(name)}")
        count = 0
        for pid in [int(n) for n in os.listdir("/proc") if n.isdigit()]:
            if pid == os.getpid() or not _bears(pid, mark):
                continue
            try:
                handle = os.pidfd_open(pid)
            except OSError:
                continue
            try:
                if not _bears(pid, mark):  # looked at again: the handle may be that of another with the same number
                    continue
                count += 1
                if number is not None:
                    with contextlib.suppress(ProcessLookupError):
                        signal.pidfd_send_signal(handle, number)
            finally:
                os.close(handle)
        return count


def used(directory: Path) -> int:
    """Bytes of the files below `directory`; files that go meanwhile do not count."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def _bears(pid: int, mark: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as f:
            return mark in f.read().split(b"\0")  # a zombie's is empty
    except OSError:  # another user's, or gone
        return False


# Called as: agent PER_NODE COMMAND...; PER_NODE 0: the ranks spread over the nodes that are up, whose names are the first
# words of the host file's lines.
_AGENT = """#!/bin/sh
per=$1
shift
rank=${{OMPI_COMM_WORLD_RANK:-${{PMI_RANK:-0}}}}
if [ "$per" = 0 ]; then
    size=${{OMPI_COMM_WORLD_SIZE:-${{PMI_SIZE:-1}}}}
    up=$(grep -c . {hostfile}) || up=1
    per=$(( (size + up - 1) / up ))
fi
line=$(sed -n "$((rank / per + 1))p" {hostfile})
node=${{line%% *}}
if [ -z "$node" ]; then
    echo "holdfast: no node is up for rank $rank" >&2
    exit 1
fi
export HOLDFAST_FAILURE_DOMAIN="$node"
export HOLDFAST_NODE_MEMORY={nodes}/"$node"/memory
export HOLDFAST_NODE_SCRATCH={nodes}/"$node"/scratch
exec "$@"
"""
