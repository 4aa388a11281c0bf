"""How a program is started: directly, or by the mpirun of Open MPI or MPICH with what root and few cores need."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..catalog import current
from ..catalog.attempts import ENDED, EXECUTION
from ..catalog.eviction import SUPERVISOR
from ..errors import UsageError
from ..group.choose import SPARES

_VERSION_DEADLINE = 20.0  # seconds for `mpirun --version`
_NODES = ("--host", "-host", "-H", "-hosts", "--hostfile", "-hostfile", "--machinefile", "-machinefile", "-f")
_PLACEMENT = ("--map-by", "--bind-to", "--oversubscribe", "--rankfile", "-rankfile", "-rf", *_NODES)
_MANAGED = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")  # a batch system that tells mpirun the slots there are

REPORT = "HOLDFAST_REPORT"  # file to which the program's rank 0 appends each attempt it begins
SUPERVISED = "HOLDFAST_SUPERVISED"  # seconds of grace for ranks that outlived an earlier supervisor
_WORDS = (SUPERVISED, REPORT, EXECUTION, ENDED)  # what we tell the program
_OF_THE_NODE = ("HOLDFAST_FAILURE_DOMAIN", "HOLDFAST_NODE_MEMORY", "HOLDFAST_NODE_SCRATCH")  # not the same on another

# A node that loses its power says no farewell. mpirun finds out by asking: after 480 s of silence if it is left to itself,
# after 60 + 6 * 10 s so. A network that is away for less does no harm.
_KEEPALIVE = {"time": "60", "intvl": "10", "probes": "6"}


# Open MPI's transport over libfabric sleeps for a second where a process finds no network for it, in MPI's start: a third of
# what a new start takes. Ranks of one host never use it.
_TRANSPORTS = "OMPI_MCA_btl"
_NO_LIBFABRIC = "^ofi"


@dataclass(frozen=True)
class Mpi:
    """A launcher for MPI programs: path, `kind` ("openmpi" or "mpich"), major version, name for people."""

    path: str
    kind: str
    major: int
    name: str


@dataclass(frozen=True)
class Command:
    """What to execute: arguments, environment, and the launcher if there is one. `words`: the last of the arguments, which are
    the program's own."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    mpi: Mpi | None
    shown: str
    words: tuple[str, ...] = ()


def command(
    program: Sequence[str],
    *,
    ranks: int | None,
    mpi_args: Sequence[str] = (),
    prefix: bool = False,
    grace: float,
    hostfile: str | None = None,
    environment: Mapping[str, str] | None = None,
    spares: int = 0,
) -> Command:
    """The command that starts `program` (name and arguments) on `ranks` ranks; None: serial, without a launcher.

    `hostfile`: one that has exactly these ranks (and spares) as slots, in order; it is read when the command is executed.
    `spares`: processes that are started besides the ranks, to take the place of those that die; for Open MPI 5 alone, which is
    then asked to go on when a process dies.

    The interpreter's own directory comes first on PATH, so that `python` is the one that Holdfast is installed
    for; a `.py` file that can't be executed is given to it. UsageError if program or launcher are missing.
    """
    env = dict(os.environ if environment is None else environment)
    own = os.path.dirname(sys.executable)
    env["PATH"] = os.pathsep.join([own, *filter(None, [env.get("PATH")])])
    env[SUPERVISED] = str(grace)
    env.pop(SPARES, None)
    if spares:
        env[SPARES] = str(spares)
    own_process = current()
    env[SUPERVISOR] = f"{own_process.pid} {own_process.start}"
    words = program_words(program, env["PATH"])
    shown = " ".join(program)
    if ranks is None:
        return Command(tuple(words), env, None, shown, tuple(words))
    mpi = find_mpi(env["PATH"])
    if spares and (mpi.kind != "openmpi" or mpi.major < 5):
        raise UsageError(
            f"Spare ranks need Open MPI 5, whose mpirun goes on when a process dies; there is {mpi.name}. Nothing was started. "
            "Leave them out: a program that dies is started again all the same."
        )
    flags = _flags(mpi, ranks + spares, mpi_args, prefix, hostfile, env)
    head = [mpi.path, "-n", str(ranks + spares), *(("--with-ft", "ulfm") if spares else ()), *flags, *mpi_args]
    if mpi.kind == "openmpi" and os.geteuid() == 0:
        env.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    if not hostfile and not elsewhere(mpi_args, env) and _needs_no_network(mpi, mpi_args, env):
        env[_TRANSPORTS] = _NO_LIBFABRIC
    if mpi.kind == "openmpi" and hostfile:
        for name, value in _KEEPALIVE.items():
            env.setdefault(f"{'PRTE' if mpi.major >= 5 else 'OMPI'}_MCA_oob_tcp_keepalive_{name}", value)
    more = f" and {spares} spare{'s' * (spares != 1)}" if spares else ""
    told = f"{shown} on {ranks} rank{'s' * (ranks != 1)}{more} by {mpi.name}"
    return Command((*head, *words), env, mpi, told, tuple(words))


def own_session(command: Command, directory: str) -> dict[str, str]:
    """The command's environment with a new directory for the files of mpirun on this host.

    It would use `$TMPDIR/ompi.PID` otherwise, and leave that behind when it is killed. Another one that is given
    the same process id, which takes some thousand starts of processes, finds these files and does not start ("The PMIx
    server's listener thread failed to start"). A directory that the user has chosen stays.
    """
    env = dict(command.environment)
    words = " ".join([*command.arguments, *env])
    if command.mpi is not None and command.mpi.kind == "openmpi" and "tmpdir_base" not in words:
        env["PRTE_MCA_prte_local_tmpdir_base" if command.mpi.major >= 5 else "OMPI_MCA_orte_local_tmpdir_base"] = (
            directory
        )
    return env


def elsewhere(mpi_args: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether mpirun may start ranks on other hosts: its arguments name some, or a batch system has told it of them."""
    return names_nodes(mpi_args) or any(name in environment for name in _MANAGED)


def names_nodes(mpi_args: Sequence[str]) -> bool:
    """Whether arguments for mpirun say on which nodes it is to start."""
    return any(word.split("=")[0] in _NODES for word in mpi_args)


def _needs_no_network(mpi: Mpi, mpi_args: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether one of Open MPI's transports can be left out for ranks of one host: not if the user, or who has installed it, has
    chosen them."""
    if mpi.kind != "openmpi" or mpi.major < 5 or _TRANSPORTS in environment or "btl" in mpi_args:
        return False
    prefix = os.path.dirname(os.path.dirname(mpi.path))
    name = "openmpi-mca-params.conf"
    files = [os.path.join(environment.get("HOME", "/"), ".openmpi", "mca-params.conf"), f"/etc/openmpi/{name}"]
    files += [os.path.join(prefix, "etc", name), os.path.join(prefix, "etc", "openmpi", name)]
    for path in files:
        try:
            with open(path, encoding="utf-8", errors="replace") as f:
                if any(line.split("=")[0].strip() == "btl" for line in f):
                    return False
        except OSError:
            continue
    return True


def find_mpi(path: str) -> Mpi:
    """Open MPI's or MPICH's launcher: the one next to the interpreter, then the first on `path`; else UsageError."""
    for name in ("mpirun", "mpiexec"):
        found = shutil.which(name, path=path)
        if found and (mpi := identify(found, _version_text(found))):
            return mpi
    raise UsageError(
        "There is no mpirun of Open MPI or MPICH next to the Python interpreter or on PATH. Nothing was started. "
        "Install one (`pip install holdfast[mpi-wheels]` brings Open MPI), or leave out -n for a serial program."
    )


def identify(path: str, text: str) -> Mpi | None:
    """The launcher that answers `--version` with `text`; None if it is neither Open MPI nor a Hydra (MPICH)."""
    if match := re.search(r"\(Open ?MPI\) (\d+)([\w.]*)|Open MPI[^\d\n]*(\d+)([\w.]*)", text):
        major, rest = (match[1], match[2]) if match[1] else (match[3], match[4])
        return Mpi(path, "openmpi", int(major), f"Open MPI {major}{rest}")
    if re.search(r"hydra|mpich", text, re.IGNORECASE):
        match = re.search(r"Version:\s*(\d+)([\w.]*)", text)
        return Mpi(path, "mpich", int(match[1]) if match else 0, f"MPICH {match[1]}{match[2]}" if match else "MPICH")
    return None


def cores() -> int:
    """Physical cores that this process may use: what Open MPI counts as slots (two hardware threads are one)."""
    cpus = os.sched_getaffinity(0)
    seen = set()
    for cpu in cpus:
        try:
            with open(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") as f:
                seen.add(f.read().strip())
        except OSError:
            return len(cpus)
    return len(seen)


def _flags(
    mpi: Mpi, ranks: int, mpi_args: Sequence[str], prefix: bool, hostfile: str | None, env: Mapping[str, str]
) -> list[str]:
    if mpi.kind == "mpich":  # places any number of ranks, binds none, hands the whole environment on
        return [*(["-f", hostfile] if hostfile else []), *(["-prepend-rank"] if prefix else [])]
    flags = []
    if prefix:
        flags += ["--output", "tag"] if mpi.major >= 5 else ["--tag-output"]
    placed = any(word.split("=")[0] in _PLACEMENT for word in mpi_args) or any(name in env for name in _MANAGED)
    if hostfile:
        flags += ["--hostfile", hostfile]
        if not placed:  # how many cores other nodes have is not known: as many ranks as were asked for are placed
            flags += ["--map-by", "slot:OVERSUBSCRIBE"]
    elif not placed and ranks > cores():
        flags += ["--map-by", ":OVERSUBSCRIBE", "--bind-to", "none"]
    # Remote ranks do not inherit the environment; options of the library have to be the same on all.
    others = {*_WORDS, *_OF_THE_NODE, *(word.split("=")[0] for word in mpi_args)}
    options = [name for name in sorted(env) if name.startswith("HOLDFAST_") and name not in others]
    return [*flags, *(word for name in (*_WORDS, *options) for word in ("-x", name))]


def program_words(program: Sequence[str], path: str) -> list[str]:
    """The words by which a program is executed. UsageError: there is none of that name on `path`, or it can't be executed."""
    words = list(program)
    name = words[0]
    if name.endswith(".py") and os.path.isfile(name):
        direct = os.access(name, os.X_OK) and os.path.dirname(name)
        return words if direct else [sys.executable, *words]
    if shutil.which(name, path=path) is None:
        raise UsageError(f"There is no program {name!r} that can be executed. Nothing was started; check the name.")
    return words


def _version_text(path: str) -> str:
    import subprocess

    try:
        done = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_VERSION_DEADLINE,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace")
