"""`holdfast run`: the supervisor's command line, and the table of exit codes."""

from __future__ import annotations

import shlex

import click

from .. import errors
from .arguments import SecondsType

EXIT_CODES = {
    errors.EXIT_COMPLETE: "complete: every run that the program opened says so",
    1: "Holdfast's own error; a message says which",
    2: "wrong usage of the command line",
    errors.EXIT_INTERRUPTED: "interrupted or out of time, with progress: the same command goes on from there",
    errors.EXIT_INTERRUPTED_NO_PROGRESS: "interrupted, without a new version",
    errors.EXIT_LAST_CHECKPOINT_FAILED: "the last checkpoint failed or came after the time limit: don't requeue, look first",
    errors.EXIT_NO_PROGRESS: "gave up: no progress, from the version before the last either",
    errors.EXIT_RESTARTS_EXHAUSTED: "gave up: the allowed restarts are used",
    errors.EXIT_REPAIR: "never of this command; a rank that gives up a repair ends by SIGKILL under --spares",
}

_EPILOG = "\n".join(
    [
        "\b",
        "Exit codes:",
        *(f"  {code:<3} {meaning}" for code, meaning in EXIT_CODES.items()),
        "  any other: the program's own, where it failed without opening a run",
        "  (128 + signal if it was killed) or, serial, after its runs were complete",
    ]
)


def _mpi_args(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(word for text in given for word in shlex.split(text))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command(
    short_help="Run a program until it is complete.",
    context_settings={"allow_interspersed_args": False},
    epilog=_EPILOG,
)
@click.option(
    "-n", "--ranks", type=click.IntRange(min=1), help="Ranks, started by Open MPI or MPICH. [default: serial]"
)
@click.option(
    "--hostfile",
    type=click.Path(exists=True, dir_okay=False),
    help="Nodes for the ranks, in order, in Open MPI's syntax (`NODE slots=N`) or MPICH's (`NODE:N`).",
)
@click.option(
    "--spare-nodes",
    type=click.IntRange(min=0),
    default=0,
    metavar="K",
    help="Keep the last K nodes of the hostfile to take the place of lost ones.",
)
@click.option("--max-restarts", type=click.IntRange(min=0), help="Restarts allowed. [default: while there is progress]")
@click.option("--mpi-args", multiple=True, callback=_mpi_args, metavar="ARGS", help="More arguments for mpirun.")
@click.option(
    "--prefix",
    is_flag=True,
    help="Mark each line of output with its process, as mpirun numbers them: its rank; a spare's number if that took it.",
)
@click.option(
    "--grace",
    type=SecondsType(zero=True),
    default=30.0,
    show_default=True,
    metavar="TIME",
    help="For a last checkpoint, in seconds or as 2min.",
)
@click.option(
    "--time-limit",
    type=SecondsType(),
    metavar="TIME",
    help="Have left by then, with a last checkpoint: 1h30m, 90min, 5400. [default: as long as Slurm gives]",
)
@click.option(
    "--spares",
    "spare_ranks",
    type=click.IntRange(min=0),
    default=0,
    metavar="K",
    help="Start K processes more, which take the places of ranks that die (Open MPI 5, programs that use holdfast.launch).",
)
@click.option(
    "-q", "--quiet", is_flag=True, help="No account of what happens on stderr. What ranks log is the program's."
)
@click.option("--report", type=click.Path(dir_okay=False), help="Write a JSON report to this file at the end.")
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- PROGRAM [ARGS]...")
@click.pass_context
def run(
    ctx: click.Context,
    ranks: int | None,
    hostfile: str | None,
    spare_nodes: int,
    max_restarts: int | None,
    mpi_args: tuple[str, ...],
    prefix: bool,
    grace: float,
    time_limit: float | None,
    spare_ranks: int,
    quiet: bool,
    report: str | None,
    program: tuple[str, ...],
) -> None:
    """Run a program until it is complete: start it, and start it again whenever it dies.

    The program decides what is complete, through the runs that it opens. SIGTERM, SIGINT (Ctrl-C), SIGUSR1 and SIGHUP
    ask it for a last checkpoint; a second one ends it at once. Ranks that outlived their supervisor are asked for
    a last checkpoint, ended, and resumed from.

    With a time limit, given or Slurm's, the program takes a last checkpoint early enough, by what its checkpoints have taken,
    and leaves; what has not left when a given limit or the grace is over is ended (87). When two attempts get nowhere, the
    third goes on from the version before; when that gets no further, it gives up (88). An error that would come again ends it
    at once.

    With spare processes, ranks that die or hang are replaced while the job goes on, without a start of all.
    Where that does not work out, the program is started again.

    With a hostfile, nodes that do not answer before a start (asked as mpirun would, by ssh or by the agent that it is told
    to use) are replaced by spares; without spares the ranks are dealt over the nodes that are left. The program's
    working directory and its runs have to be seen from all nodes.
    """
    if ranks is None and (mpi_args or prefix):
        raise click.UsageError("--mpi-args and --prefix need -n: without it the program is started directly.")
    if ranks is None and hostfile is not None:
        raise click.UsageError("--hostfile needs -n: without it the program is started directly, here.")
    if ranks is None and spare_ranks:
        raise click.UsageError("--spares needs -n: a serial program has no ranks.")
    if spare_nodes and hostfile is None:
        raise click.UsageError("--spare-nodes needs --hostfile, at whose end the spare nodes stand.")
    from ..supervisor import Plan, supervise

    plan = Plan(
        program, ranks, max_restarts, mpi_args, prefix, grace, quiet, report, hostfile, spare_nodes, time_limit, spare_ranks
    )
    ctx.exit(supervise(plan))
