"""A cluster of stand-in nodes, as those who develop and test see it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Protocol

from ..launcher import find_mpi
from .namespaces import Namespaces, address
from .probe import probe
from .simulated import Simulated, used
from .state import SLOTS, ClusterError, Layout, Node, NodeStatus, RefusedError, State, lives

MOST = 200  # nodes of a cluster
_GRACE = 10.0  # seconds for mpirun to end its job when it is asked to


class Kind(Protocol):
    """What `Namespaces` and `Simulated` both do; their docstrings say how."""

    def open(self, state: State, record: Callable[[State], None]) -> State: ...
    def settle(self) -> None: ...
    def abandon(self) -> None: ...
    def start(self, state: State, node: Node, record: Callable[[State], None]) -> State: ...
    def kill(self, state: State, node: Node) -> None: ...
    def close(self, state: State) -> None: ...
    def command(self, state: State, name: str | None, words: Sequence[str], cwd: str) -> list[str]: ...
    def environment(self) -> Mapping[str, str]: ...
    def placement(self, per_node: int) -> list[str]: ...
    def program(self, words: Sequence[str], per_node: int | None) -> list[str]: ...
    def processes(self, node: Node) -> int: ...
    def memory(self, node: Node) -> int: ...
    def scratch(self, node: Node) -> Path: ...


class Cluster:
    """Stand-in nodes `node0`, `node1`, …, all in `directory`; as a context, up inside and down after.

    `nodes`: how many (1 to 200); `shm`: bytes of each one's /dev/shm (namespaces only); `simulated`: directories in place of
    namespaces; `slots`: of each in the hostfile, for who starts jobs by that (`run` places ranks as it is told). These count
    for `up`; every other call goes by what is up in `directory`, so any process may make it. Every call raises ClusterError
    if it can't be done.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        nodes: int = 4,
        shm: int = 1 << 30,
        simulated: bool = False,
        slots: int = SLOTS,
    ) -> None:
        if not 1 <= nodes <= MOST:
            raise ClusterError(f"A cluster has 1 to {MOST} nodes, not {nodes}. Nothing was made.")
        if slots < 1:
            raise ClusterError(f"A node has at least one slot, not {slots}. Nothing was made.")
        self.directory = Path(directory).absolute()
        self._layout = Layout(self.directory)
        self._count, self._shm, self._simulated, self._slots = nodes, shm, simulated, slots

    def __enter__(self) -> Cluster:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    # -- made and ended ---------------------------------------------------------------------

    def up(self) -> None:
        """Makes the nodes. What an `up` that died left in the directory is removed first.

        RefusedError at once if namespaces are refused; ClusterError if there is a cluster already. Should it fail
        or be interrupted, nothing is left.
        """
        user = False
        if not self._simulated:
            user, reason = probe()
            if reason is not None:
                raise RefusedError(
                    f"No node stand-ins can be made on this machine: {reason}. Nothing was made. Be root or have the system "
                    "allow user namespaces, or use simulated nodes, which are directories (--simulated)."
                )
        self.directory.mkdir(parents=True, exist_ok=True)
        with self._layout.locked():
            self._clear()
            nodes = tuple(Node(f"node{i}", "" if self._simulated else address(i)) for i in range(self._count))
            state = State(self._simulated, user, self._shm, nodes, slots=self._slots)
            self._layout.write(state)
            kind = self._kind(state)
            try:
                self._layout.nodes.mkdir()
                state = kind.open(state, self._layout.write)
                for node in nodes:
                    state = kind.start(state, node, self._layout.write)
                kind.settle()
            except BaseException:
                kind.abandon()
                self._down(self._state())
                raise

    def down(self) -> None:
        """Ends all nodes and whatever runs on them, and deletes everything that was made. Nothing to do is no error."""
        if not self.directory.is_dir():
            return
        with self._layout.locked():
            state = self._layout.read()
            if state is not None:
                self._down(state)
                with contextlib.suppress(OSError):  # other things are in it
                    self.directory.rmdir()

    def kill(self, name: str) -> None:
        """Ends all of a node's processes and throws away its memory and its scratch; it is down then."""
        with self._layout.locked():
            state = self._state()
            node = state.node(name)
            state = state.with_node(replace(node, up=False))
            self._layout.write(state)  # first, so that nothing new is started on it
            self._kind(state).kill(state, node)
            self._layout.write(state.with_node(replace(node, up=False, process=None, inner=None)))

    def revive(self, name: str) -> None:
        """Brings a node back that is down: empty, with the same name and address."""
        with self._layout.locked():
            state = self._state()
            node = state.node(name)
            if node.live:
                raise ClusterError(f"{name} is up. Nothing was changed.")
            if not state.simulated and (state.front is None or not lives(state.front)):
                raise ClusterError("The cluster has ended. Nothing was changed. Take it down, then up again.")
            kind = self._kind(state)
            kind.kill(state, node)  # one that died by itself has left things
            kind.start(state, node, self._layout.write)

    # -- used -------------------------------------------------------------------------------

    @property
    def simulated(self) -> bool:
        return self._state().simulated

    def nodes(self) -> list[str]:
        """The names of the nodes that are up."""
        return [node.name for node in self._state().nodes if node.live]

    def status(self) -> list[NodeStatus]:
        """Each node as it is now."""
        state = self._state()
        kind = self._kind(state)
        return [
            NodeStatus(n.name, n.address, True, kind.processes(n), kind.memory(n), used(kind.scratch(n)))
            if n.live
            else NodeStatus(n.name, n.address, False, 0, 0, 0)
            for n in state.nodes
        ]

    def on(self, name: str | None, words: Sequence[str], *, cwd: str | os.PathLike[str] | None = None) -> list[str]:
        """A command for this host that runs `words` on a node, or (None) in the front, whence jobs are started.

        With `environment()` and in the front, `mpirun` starts its ranks on the nodes.
        """
        state = self._state()
        return self._kind(state).command(state, name, words, os.fspath(cwd or Path.cwd()))

    def environment(self) -> dict[str, str]:
        """This process's environment with what commands from `on` need."""
        env = {**os.environ, **self._kind(self._state()).environment()}
        env["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), *filter(None, [env.get("PATH")])])
        return env

    def mpirun(self, words: Sequence[str], ranks: int, per_node: int | None = None) -> list[str]:
        """The words of an mpirun, for `on(None, …)`, with `ranks` ranks of the program `words` over the nodes that are up.

        The first `per_node` ranks are on the first node that is up and so on; None: spread over all.
        """
        state = self._state()
        live = [node for node in state.nodes if node.live]
        if not live:
            raise ClusterError("No node is up. Nothing was started.")
        per_node = per_node or -(-ranks // len(live))
        if per_node * len(live) < ranks:
            raise ClusterError(
                f"{ranks} ranks do not fit on {len(live)} nodes with {per_node} on each. Nothing was started. Place more on "
                "each node, or revive one."
            )
        self._layout.write_hostfile(state)  # a node may have died by itself
        mpi = find_mpi(self.environment()["PATH"])
        if mpi.kind != "openmpi":
            raise ClusterError(
                f"Stand-in nodes need the mpirun of Open MPI; {mpi.path} is of {mpi.name}. Nothing was started."
            )
        return [mpi.path, "-n", str(ranks), *self.placement(per_node), *self.program(words, per_node)]

    def placement(self, per_node: int) -> list[str]:
        """mpirun's words for `per_node` ranks on each node, for who calls it otherwise (`holdfast run --mpi-args`)."""
        return self._kind(self._state()).placement(per_node)

    def program(self, words: Sequence[str], per_node: int | None = None) -> list[str]:
        """`words` as the program of such an mpirun: behind what tells each rank its node, where nodes are simulated."""
        return self._kind(self._state()).program(words, per_node)

    def start(
        self,
        words: Sequence[str],
        *,
        ranks: int | None = None,
        per_node: int | None = None,
        on: str | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> subprocess.Popen[bytes]:
        """Starts a command in a session of its own: by mpirun over the nodes (`ranks`), on node `on`, or in the front."""
        words = words if ranks is None else self.mpirun(words, ranks, per_node)
        return subprocess.Popen(
            self.on(on, words),
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )

    def run(
        self,
        words: Sequence[str],
        *,
        timeout: float,
        ranks: int | None = None,
        per_node: int | None = None,
        on: str | None = None,
    ) -> int:
        """`start`, and wait: the exit code (negative: the signal that ended it). After `timeout` seconds, or on Ctrl-C, the
        command is asked to end, then killed; ClusterError says so."""
        process = self.start(words, ranks=ranks, per_node=per_node, on=on)
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ClusterError(f"The command did not end within {timeout:g} seconds and was ended.") from None
        finally:
            end(process)

    # -- how --------------------------------------------------------------------------------

    def _kind(self, state: State) -> Kind:
        return Simulated(self._layout) if state.simulated else Namespaces(self._layout, state.user)

    def _state(self) -> State:
        state = self._layout.read()
        if state is None:
            raise ClusterError(f"There is no cluster in {self.directory}. Nothing was changed. `up` makes one.")
        return state

    def _clear(self) -> None:
        """Makes room for a new cluster in the directory."""
        state = self._layout.read()
        if state is None:
            there = [path.name for path in self._layout.all() if path.exists()]
            if there:
                raise ClusterError(
                    f"{self.directory} holds {', '.join(there)}, which no cluster has made. Nothing was changed. Use another "
                    "directory."
                )
            return
        if (state.front is not None and lives(state.front)) or (state.simulated and any(n.up for n in state.nodes)):
            raise ClusterError(
                f"There is a cluster in {self.directory} already. Nothing was changed. Take it down first."
            )
        self._down(state)

    def _down(self, state: State) -> None:
        self._kind(state).close(state)
        self._layout.remove()


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a command that `start` began, with its session, if it has not ended: asked first, killed after 10 s."""
    if process.poll() is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        os.killpg(process.pid, number)
        try:
            process.wait(_GRACE)
            return
        except subprocess.TimeoutExpired:
            continue
