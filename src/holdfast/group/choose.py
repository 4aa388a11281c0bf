"""Which group a program gets, and what its launcher says of the number of ranks."""

from __future__ import annotations

import os
import sys

from ..errors import UsageError
from .base import Group
from .serial import SERIAL, SerialComm, SerialGroup

# The nearest launcher first: mpirun within srun sets its own besides srun's.
# Open MPI; MPICH, Intel MPI and others by PMI; MVAPICH; MPICH's Hydra without PMI (ranks on this host).
SIZE_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_SIZE", "MV2_COMM_WORLD_SIZE", "MPI_LOCALNRANKS")

_LOCAL_VARIABLES = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "MV2_COMM_WORLD_LOCAL_SIZE", "PALS_LOCAL_SIZE")

SPARES = "HOLDFAST_SPARES"  # how many of the processes that were started have no rank yet

# Slurm's numbers for steps that are no srun: the batch script, interactive and extern steps.
SLURM_FIRST_SPECIAL_STEP = 0xFFFFFFF0


def make_group(comm: object, timeout: float) -> Group:
    """The group for a communicator (collective over it: its traffic gets a duplicate of its own).

    `comm`: None or `holdfast.SERIAL` for one process, or an mpi4py intracommunicator; `timeout`: seconds that a
    collective call waits for other ranks. UsageError for anything else; DeadlineError, RankError from duplicating.
    """
    if comm is None or comm is SERIAL or isinstance(comm, SerialComm):
        return SerialGroup()
    # Whoever holds an mpi4py communicator has imported mpi4py: no need to import it to find out.
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and isinstance(comm, mpi.Comm):
        from .mpi import MPIGroup  # a serial program's start should not pay for it

        return MPIGroup(comm, timeout)
    raise UsageError(
        f"comm={comm!r} ({type(comm).__name__}) is no communicator. Nothing was started; pass an mpi4py communicator "
        "such as MPI.COMM_WORLD, or comm=holdfast.SERIAL for one process."
    )


def make_background(group: Group, timeout: float) -> Group | None:
    """A group of the same ranks for a thread beside the program's (collective); None if MPI was not initialised for that.

    Its traffic meets neither the program's nor `group`'s.
    """
    if isinstance(group, SerialGroup):
        return group
    mpi = sys.modules["mpi4py.MPI"]
    if mpi.Query_thread() < mpi.THREAD_MULTIPLE:
        return None
    return make_group(group.comm, timeout)


def launcher_ranks() -> int:
    """How many ranks the launcher started, by its environment variables; 1 where there is none (local)."""
    for name in SIZE_VARIABLES:
        size = _number(name)
        if size is not None and size > 0:
            return size
    # sbatch's own script sees SLURM_NTASKS too and runs once: only within a step of srun is there a rank per task.
    step, rank = _number("SLURM_STEP_ID"), _number("SLURM_PROCID")
    if step is not None and rank is not None and step < SLURM_FIRST_SPECIAL_STEP:
        return max(_number("SLURM_STEP_NUM_TASKS") or _number("SLURM_NTASKS") or 1, 1)
    return 1


def local_ranks() -> int:
    """How many ranks share this host, as far as the launcher tells; 1 where it does not (local)."""
    return max((n for name in _LOCAL_VARIABLES if (n := _number(name))), default=1)


def cores() -> int:
    """How many cores are this rank's, one at least: those that it may run on, of which others may have theirs (local)."""
    return max(1, min(len(os.sched_getaffinity(0)), (os.cpu_count() or 1) // local_ranks()))


def spare_processes() -> int:
    """How many of the processes that the launcher started are to stand by as spares; 0 without a supervisor that says so."""
    return _number(SPARES) or 0


def _number(name: str) -> int | None:
    """The variable as a number; None if it is absent or is none."""
    text = os.environ.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else None
