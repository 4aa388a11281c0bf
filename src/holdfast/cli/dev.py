"""`holdfast dev cluster`: stand-in nodes on one machine, for those who develop Holdfast or try out what it survives."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

import click

from . import human
from .arguments import SecondsType, json_option

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..supervisor.cluster import Cluster

_DIRECTORY = "holdfast-cluster"
_HOUR = 3600.0


def _directory(function: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--dir", "directory", type=click.Path(), default=_DIRECTORY, show_default=True, help="The cluster's directory."
    )(function)


def _timeout(function: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--timeout",
        type=SecondsType(),
        metavar="TIME",
        default=_HOUR,
        show_default="1h",
        help="After which the command is ended.",
    )(function)


def _bytes(ctx: click.Context, param: click.Parameter, text: str) -> int:
    from ..units import parse_bytes

    try:
        number = parse_bytes(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if number < 1:
        raise click.BadParameter("A node's memory has at least one byte.")
    return number


@click.group(short_help="Stand-in nodes, for trying things out.")
def dev() -> None:
    """What the development of Holdfast needs; nothing that a program needs to run."""


@dev.group(short_help="Stand-in nodes on this machine.")
def cluster() -> None:
    """Stand-ins for the nodes of a cluster, all on this machine.

    Each has its own host name, processes, network, /dev/shm and scratch directory (HOLDFAST_NODE_SCRATCH). Commands find the
    cluster by its directory.

    \b
    A job on them, supervised, from the front, whence all nodes are reached:
      holdfast dev cluster up --nodes 3 --slots 2
      holdfast dev cluster exec -- holdfast run -n 4 --hostfile holdfast-cluster/hostfile \\
        --spare-nodes 1 -- PROGRAM
      holdfast dev cluster exec -- holdfast plan RUN --hostfile holdfast-cluster/hostfile
    """


@cluster.command(short_help="Make a cluster.")
@click.option("--nodes", type=click.IntRange(1, 200), default=4, show_default=True, help="How many.")
@click.option(
    "--shm", metavar="BYTES", callback=_bytes, default="1GiB", show_default=True, help="Size of each one's /dev/shm."
)
@click.option(
    "--slots",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Ranks on each, as the hostfile says for `holdfast run --hostfile`.",
)
@click.option("--simulated", is_flag=True, help="Only directories, where namespaces are refused: all on this host.")
@_directory
@click.pass_context
def up(ctx: click.Context, nodes: int, shm: int, slots: int, simulated: bool, directory: str) -> None:
    """Make a cluster of nodes node0, node1, …, and DIR/hostfile, which names those that are up.

    Exit code 2 if this machine refuses namespaces to this user; the message says why.
    """
    from ..supervisor.cluster import Cluster, RefusedError

    try:
        Cluster(directory, nodes=nodes, shm=shm, simulated=simulated, slots=slots).up()
    except RefusedError as error:
        human.note(str(error))
        ctx.exit(2)
    click.echo(f"{nodes} {'simulated ' * simulated}node{'s are' if nodes > 1 else ' is'} up in {directory}")
    if not simulated:  # these have no network, so mpirun has no way to them
        at = "" if directory == _DIRECTORY else f" --dir {shlex.quote(directory)}"
        hosts = shlex.quote(os.path.join(directory, "hostfile"))
        click.echo(f"a job on them: holdfast dev cluster exec{at} -- holdfast run -n RANKS --hostfile {hosts} -- PROGRAM")


@cluster.command(short_help="End it, and remove everything.")
@_directory
def down(directory: str) -> None:
    """End all nodes and what runs on them, and remove everything that was made, also by an `up` that died."""
    _cluster(directory).down()


@cluster.command(short_help="End a node.")
@click.argument("node")
@_directory
def kill(node: str, directory: str) -> None:
    """End all processes of NODE at once, and throw away its memory and its scratch."""
    _cluster(directory).kill(node)


@cluster.command(short_help="Bring a node back, empty.")
@click.argument("node")
@_directory
def revive(node: str, directory: str) -> None:
    """Bring NODE back after `kill`: empty, with the same name and address."""
    _cluster(directory).revive(node)


@cluster.command(short_help="What is up, and what it holds.")
@_directory
@json_option
def status(directory: str, as_json: bool) -> None:
    """List the nodes.

    \b
    --json: {format, simulated, nodes: [{name, address, live, processes, memory, scratch}]}, bytes.
    """
    from ..units import bytes_text

    found = _cluster(directory)
    nodes = found.status()
    if as_json:
        human.document(simulated=found.simulated, nodes=[n._asdict() for n in nodes])
        return
    human.table(
        ["node", "state", "address", "processes", "memory", "scratch"],
        [
            [
                n.name,
                "up" if n.live else "down",
                n.address,
                str(n.processes),
                bytes_text(n.memory),
                bytes_text(n.scratch),
            ]
            for n in nodes
        ],
        right=["processes", "memory", "scratch"],
    )


@cluster.command(short_help="Run an MPI program on its nodes.", context_settings={"allow_interspersed_args": False})
@click.option("-n", "--ranks", type=click.IntRange(min=1), required=True, help="Ranks, started by Open MPI.")
@click.option("--ranks-per-node", type=click.IntRange(min=1), help="On each node. [default: spread over all]")
@_timeout
@_directory
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- PROGRAM [ARGS]...")
@click.pass_context
def run(
    ctx: click.Context, ranks: int, ranks_per_node: int | None, timeout: float, directory: str, program: tuple[str, ...]
) -> None:
    """Run an MPI program over the nodes that are up; the exit code is mpirun's."""
    _leave(ctx, _cluster(directory).run(program, ranks=ranks, per_node=ranks_per_node, timeout=timeout))


@cluster.command("exec", short_help="Run a command on one node.", context_settings={"allow_interspersed_args": False})
@click.option("--on", metavar="NODE", help="Which. [default: the front, whence mpirun starts ranks on the nodes]")
@_timeout
@_directory
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- PROGRAM [ARGS]...")
@click.pass_context
def execute(ctx: click.Context, on: str | None, timeout: float, directory: str, program: tuple[str, ...]) -> None:
    """Run a command on a node; the exit code is the command's."""
    _leave(ctx, _cluster(directory).run(program, on=on, timeout=timeout))


def _cluster(directory: str) -> Cluster:
    from ..supervisor.cluster import Cluster

    return Cluster(directory)


def _leave(ctx: click.Context, code: int) -> None:
    ctx.exit(code if code >= 0 else 128 - code)
