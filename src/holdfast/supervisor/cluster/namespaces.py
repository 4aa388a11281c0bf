"""Nodes as namespaces: processes, host name, network, IPC and mounts of their own, within those of a *front*.

The front is a stand-in for the machine from which jobs are started. It has namespaces too: the bridge is in its network and
every process of the nodes is in its process-id namespace. So nothing is ever added to the host's own network or
mounts, clusters do not see each other's addresses, and when the front's first process ends, the kernel ends all the rest.
Rejected: `ip netns`, whose names and links stay on the host until somebody removes them.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ...catalog.eviction import send
from ...catalog.process import Process
from ...group.waiting import wait_until
from .probe import UNSHARE, within
from .state import ClusterError, Layout, Node, State, lives
from .talk import Link

NETWORK = "10.77.0.0/24"  # in the front's own network namespace: it collides with nobody's
FRONT = "front"
_FRONT_ADDRESS = "10.77.0.254"
_BRIDGE = "holdfast0"
_ANCHOR = Path(__file__).with_name("anchor.py")
_DEADLINE = 20.0  # seconds for one program, and for what was killed to be gone


def address(number: int) -> str:
    """Node `number`'s address (0 ≤ number < 200)."""
    return f"10.77.0.{number + 1}"


def _hardware(address: str) -> str:
    """The hardware address that belongs to an address for ever. Left to the kernel, the bridge's changes when a link goes
    and a node's when it comes back: the others then speak to nobody for half a minute."""
    return f"02:68:66:00:00:{int(address.rsplit('.', 1)[1]):02x}"


class Namespaces:
    """The stand-ins of one cluster; `state` is what is known of it at each call. Callers hold the cluster's lock."""

    def __init__(self, layout: Layout, user: bool) -> None:
        self._layout = layout
        # With the credentials as they are: a user who is not root may not set groups, and is mapped to root already.
        self._user = ["--user", "--preserve-credentials"] if user else []
        self._maps = within(user)
        self._front: Link | None = None

    # -- made and ended ---------------------------------------------------------------------

    def open(self, state: State, record: Callable[[State], None]) -> State:
        """Makes the front. `record` is called as soon as there is something to be ended; until `settle`, the front ends
        by itself should we die."""
        names = [f"{n.address} {n.name}\n" for n in state.nodes]
        self._layout.hosts.write_text(f"127.0.0.1 localhost\n{_FRONT_ADDRESS} {FRONT}\n" + "".join(names))
        self._layout.scratch.mkdir()
        self._layout.tmp.mkdir()
        _script(self._layout.agent, _AGENT.format(nodes=shlex.quote(str(self._layout.nodes))))
        self._front = self._anchor(FRONT, ["unshare", *self._maps])
        front = self._front.process
        state = replace(state, front=front)
        record(state)
        self._prepare(FRONT)
        self._front.ask({"host": FRONT, "mounts": self._mounts(FRONT, state.shm)})
        self._network(
            front,
            f"link add name {_BRIDGE} address {_hardware(_FRONT_ADDRESS)} type bridge",
            f"addr add {_FRONT_ADDRESS}/24 dev {_BRIDGE}",
            f"link set {_BRIDGE} up",
            "link set lo up",
        )
        return state

    def settle(self) -> None:
        """From here on the front stays when we are gone."""
        if self._front is not None:
            self._front.stay()
            self._front = None

    def abandon(self) -> None:
        """Lets go of a front that was not settled: it ends."""
        if self._front is not None:
            self._front.close()
            self._front = None

    def start(self, state: State, node: Node, record: Callable[[State], None]) -> State:
        """Makes a node, empty, and joins it to the network."""
        assert state.front is not None
        link = self._anchor(node.name, [*self._enter(state.front), "unshare"])
        try:
            up = replace(node, up=True, process=link.process, inner=link.inner)
            self._prepare(node.name)
            wire = f"veth-{node.name}"
            self._network(
                state.front,
                f"link add name {wire} type veth peer name eth0 address {_hardware(node.address)} netns {link.process.pid}",
                f"link set {wire} master {_BRIDGE}",
                f"link set {wire} up",
            )
            link.ask({"host": node.name, "mounts": self._mounts(node.name, state.shm)})
            up_lines = (f"addr add {node.address}/24 dev eth0", "link set eth0 up", "link set lo up")
            self._network(link.process, *up_lines)
            (self._own(node.name) / "pid").write_text(f"{link.inner}\n")
            state = state.with_node(up)
            record(state)
            link.stay()
        finally:
            link.close()
        return state

    def kill(self, state: State, node: Node) -> None:
        """Ends all processes of a node at once; its memory goes with them, its link and its directories after."""
        if node.process is not None:
            _end(node.process, node.name)
        if state.front is not None and lives(state.front):
            # The kernel removes it too, but some time later; a node that comes back uses the name again.
            self._network(state.front, f"link del veth-{node.name}", may_fail=True)
        if self._own(node.name).exists():
            shutil.rmtree(self._own(node.name))

    def close(self, state: State) -> None:
        """Ends the front, and so all nodes."""
        if state.front is not None:
            _end(state.front, FRONT)

    # -- used -------------------------------------------------------------------------------

    def command(self, state: State, name: str | None, words: Sequence[str], cwd: str) -> list[str]:
        """`words` as a command to be run here that runs them on node `name`, or in the front, in directory `cwd`."""
        process = state.front if name is None else state.node(name).process
        if process is None or not lives(process):
            raise ClusterError(
                f"{name or 'The front'} is down. Nothing was started. `status` shows which nodes are up."
            )
        return [*self._enter(process), "sh", "-c", 'cd "$1" && shift && exec "$@"', name or FRONT, cwd, *words]

    def environment(self) -> Mapping[str, str]:
        """What processes on the nodes and in the front find in their environment: the places that are the node's own,
        and what makes Open MPI's mpirun start on these nodes, through this network."""
        return {
            "HOLDFAST_NODE_MEMORY": "/dev/shm",
            "HOLDFAST_NODE_SCRATCH": str(self._layout.scratch),
            "TMPDIR": str(self._layout.tmp),
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "PRTE_MCA_plm_ssh_agent": str(self._layout.agent),
            "PRTE_MCA_plm_ssh_no_tree_spawn": "1",  # only the front can enter the nodes
            "PRTE_MCA_prte_if_include": NETWORK,
            "PRTE_MCA_prte_default_hostfile": str(self._layout.hostfile),
            "OMPI_MCA_btl_tcp_if_include": NETWORK,
        }

    def placement(self, per_node: int) -> list[str]:
        """Words for mpirun: `per_node` ranks on each node, in order, bound to nothing as the nodes share the cores."""
        return ["--map-by", f"ppr:{per_node}:node:OVERSUBSCRIBE", "--bind-to", "none"]

    def program(self, words: Sequence[str], per_node: int | None) -> list[str]:
        return list(words)

    def processes(self, node: Node) -> int:
        """How many processes there are on a node, its first one not counted."""
        if node.process is None:
            return 0
        own = _namespace(node.process.pid)
        return sum(_namespace(int(n)) == own for n in os.listdir("/proc") if n.isdigit()) - 1 if own else 0

    def memory(self, node: Node) -> int:
        """Bytes used in a node's /dev/shm."""
        if node.process is None:
            return 0
        try:
            found = os.statvfs(f"/proc/{node.process.pid}/root/dev/shm")
        except OSError:
            return 0
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    def scratch(self, node: Node) -> Path:
        return self._own(node.name) / "scratch"

    # -- how --------------------------------------------------------------------------------

    def _own(self, name: str) -> Path:
        return self._layout.nodes / name

    def _prepare(self, name: str) -> None:
        for part in ("scratch", "tmp"):
            (self._own(name) / part).mkdir(parents=True, exist_ok=True)
        (self._own(name) / "boot_id").write_text(f"{uuid.uuid4()}\n")

    def _mounts(self, name: str, shm: int) -> list[list[str]]:
        own = self._own(name)
        mounts = [
            ["proc", "proc", "/proc", ""],
            ["bind", str(own / "boot_id"), "/proc/sys/kernel/random/boot_id", ""],  # a start of a node is a boot
            ["tmpfs", "tmpfs", "/dev/shm", f"size={shm},mode=1777"],
            ["bind", str(own / "scratch"), str(self._layout.scratch), ""],
            ["bind", str(own / "tmp"), str(self._layout.tmp), ""],
            ["bind", str(self._layout.hosts), "/etc/hosts", ""],
        ]
        if name != FRONT:  # nothing of another node can be reached, in a roundabout way either
            mounts.append(["tmpfs", "tmpfs", str(self._layout.nodes), "size=4k,mode=555"])
        return mounts

    def _enter(self, process: Process) -> list[str]:
        inside = ["--mount", "--uts", "--ipc", "--net", "--pid"]
        return ["nsenter", "--target", str(process.pid), *self._user, *inside]

    def _anchor(self, name: str, inside: Sequence[str]) -> Link:
        """Starts a first process in new namespaces, by `inside`, and waits for its hello."""
        ours, theirs = socket.socketpair()
        # A session of its own, whose parent is not us: it outlives us, and no terminal's Ctrl-C reaches it.
        words = ["setsid", "--fork", *inside, *UNSHARE, sys.executable, "-I", "-S", str(_ANCHOR), name]
        with theirs, open(self._layout.log, "ab") as log:
            link = Link(ours, name, self._layout.log)
            try:
                made = [*words, str(self._layout.directory)]
                subprocess.run(made, stdin=theirs.fileno(), stdout=log, stderr=log, timeout=_DEADLINE, check=True)
            except (OSError, subprocess.SubprocessError) as error:
                link.close()
                raise ClusterError(f"{name} could not be started: {error}. Take the cluster down.") from None
        link.hello()
        return link

    def _network(self, process: Process, *lines: str, may_fail: bool = False) -> None:
        """Has `ip` execute `lines` in the network namespace of `process`; it knows other processes by our numbers."""
        words = ["nsenter", "--target", str(process.pid), *self._user, "--net", "ip", "-batch", "-"]
        text = "\n".join(lines) + "\n"
        try:
            done = subprocess.run(words, input=text.encode(), capture_output=True, timeout=_DEADLINE)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ClusterError(
                f"The stand-ins' network could not be changed: {error}. Take the cluster down."
            ) from None
        if done.returncode and not may_fail:
            said = done.stderr.decode(errors="replace").strip()
            raise ClusterError(f"The stand-ins' network could not be changed: {said}. Take the cluster down.")


def _end(process: Process, name: str) -> None:
    """Kills a first process and waits until it is gone; the kernel lets it go only after all of its namespace."""
    if not lives(process):
        return
    send(process, signal.SIGKILL)
    if not wait_until(lambda: not lives(process), _DEADLINE):
        raise ClusterError(f"{name}'s processes did not end within {_DEADLINE:.0f} seconds of SIGKILL. Try again.")


def _namespace(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:  # another user's, or gone
        return None


def _script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


# Open MPI calls it as it would ssh: NODE, then words of one shell command. The node is known by its number in the front's
# process-id namespace, where mpirun runs.
_AGENT = """#!/bin/sh
node=$1
shift
pid=$(cat {nodes}/"$node"/pid) || {{ echo "holdfast: $node is down" >&2; exit 1; }}
exec nsenter --target "$pid" --mount --uts --ipc --net --pid sh -c "$*"
"""
