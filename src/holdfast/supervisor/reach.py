"""Which nodes answer: the launcher's own way to a node is asked to execute `true` there, within a deadline."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

DEADLINE = 15.0  # seconds for a node's answer
_AT_ONCE = 32  # nodes that are asked at the same time
_POLL = 0.02
_RESOLVE = 5.0  # seconds for a name's address

# Where mpirun is told how to get to a node: words of its command line, then variables. `rsh` is the older name.
_OPENMPI_WORDS = ("plm_ssh_agent", "plm_rsh_agent")
_OPENMPI_VARIABLES = tuple(f"{prefix}_MCA_{word}" for prefix in ("PRTE", "OMPI") for word in _OPENMPI_WORDS)
_MPICH_WORDS = ("-launcher-exec", "-bootstrap-exec")
_MPICH_VARIABLES = ("HYDRA_LAUNCHER_EXEC", "HYDRA_BOOTSTRAP_EXEC")


def agent(kind: str, mpi_args: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """The words that the launcher `kind` ("openmpi" or "mpich") puts before a node's name and a command to start the
    command there: what its arguments or the environment name, under Slurm its own, else ssh.

    Only so is the answer the one that counts: whether the launcher will get there.
    """
    named = _named(mpi_args, _OPENMPI_WORDS if kind == "openmpi" else _MPICH_WORDS)
    variables = _OPENMPI_VARIABLES if kind == "openmpi" else _MPICH_VARIABLES
    named = named or next((environment[v] for v in variables if environment.get(v)), None)
    if named is None and "SLURM_JOB_ID" in environment and shutil.which("srun", path=environment.get("PATH")):
        # Nodes of an allocation may refuse ssh; --overlap, since mpirun's own step may hold all of them.
        return ["srun", "--overlap", "--nodes=1", "--ntasks=1", "--quiet", "--nodelist"]
    choices = [shlex.split(text) for text in (named or "ssh:rsh").split(":")]
    choices = [words for words in choices if words]
    found = next((w for w in choices if shutil.which(w[0], path=environment.get("PATH"))), None) or choices[0]
    if os.path.basename(found[0]) == "ssh":  # a question for a password would wait for somebody
        found = [*found, "-o", "BatchMode=yes", "-o", f"ConnectTimeout={DEADLINE - 1:.0f}"]
    return found


def _named(words: Sequence[str], names: Sequence[str]) -> str | None:
    """The word after one of `names`: `--prtemca plm_ssh_agent rsh`, `-launcher-exec rsh`."""
    for at, word in enumerate(words[:-1]):
        if word in names:
            return words[at + 1]
    return None


def silent(
    nodes: Iterable[str],
    agent: Sequence[str],
    environment: Mapping[str, str],
    deadline: float = DEADLINE,
    hurry: Callable[[], bool] = lambda: False,
) -> set[str]:
    """Those of `nodes` that do not execute `true` within `deadline` seconds. This host itself always answers; once
    `hurry` says True, those that have given no answer yet are not waited for, and count as if they had.

    Not signalled by a terminal's Ctrl-C: what is started has sessions of its own, and is ended here.
    """
    waiting = [node for node in dict.fromkeys(nodes) if not _is_own_name(node)]
    running: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
    failed: set[str] = set()
    try:
        while (waiting or running) and not hurry():
            while waiting and len(running) < _AT_ONCE:
                node = waiting.pop(0)
                try:
                    process = subprocess.Popen(
                        [*agent, node, "true"],
                        env=dict(environment),
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                        start_new_session=True,
                    )
                except OSError:  # there is no such agent: then nobody answers
                    failed.add(node)
                    continue
                running[node] = process, time.monotonic() + deadline
            for node, (process, until) in list(running.items()):
                if process.poll() is not None:
                    if process.returncode:
                        failed.add(node)
                    del running[node]
                elif time.monotonic() >= until:
                    failed.add(node)
                    _end(process)
                    del running[node]
            if running:
                time.sleep(_POLL)
    finally:
        for process, _ in running.values():
            _end(process)
    return {node for node in failed if not _has_own_address(node)}


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the kernel: it is not waited for
        process.wait(1.0)


def _is_own_name(node: str) -> bool:
    name = node.rsplit("@", 1)[-1]
    own = os.uname().nodename
    return name in ("localhost", "127.0.0.1", "::1", own, own.split(".")[0])


def _has_own_address(node: str) -> bool:
    """Whether it is this host under another name: the launcher starts processes here directly, whatever the agent says."""
    found: list[bool] = []

    def look() -> None:
        name = node.rsplit("@", 1)[-1]
        with contextlib.suppress(OSError, UnicodeError):
            for family, kind, protocol, _, address in socket.getaddrinfo(name, 0, type=socket.SOCK_DGRAM):
                with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as probe:
                    probe.bind(address)  # possible for our own addresses alone
                    found.append(True)

    # In a thread: the resolver has deadlines of its own, of minutes where a name server is gone.
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(_RESOLVE)
    return bool(found)
