"""Running a program's main function on a run: `holdfast.launch`."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from ..catalog import End, put_end
from ..errors import HoldfastError, UsageError
from ..group import SERIAL, Group, launcher_ranks, spare_processes
from .opening import open
from .run import Run
from .tracebacks import tell_once, told_at_start

T = TypeVar("T")
_TOGETHER_SECONDS = 5.0
_SILENT_SECONDS = 0.5  # before somebody who looks on is told why nothing happens
_RECORD_SECONDS = 5.0  # for the record of an end, which storage may never take
log = logging.getLogger("holdfast")


def launch(main: Callable[[Run], T], url: str | os.PathLike[str], *, comm: Any = None, **open_options: Any) -> T:
    """Open the run at `url`, call `main(run)`, mark the run complete, and return what `main` returned (collective).

    comm: the communicator; None means `MPI.COMM_WORLD` under an MPI launcher or if the program has imported
    `mpi4py.MPI`, else serial. Further options are those of `holdfast.open`.

    If `main` raises on all ranks (an interrupt, an error they agreed on), so does `launch`; if nobody catches it and it is the
    same on all, rank 0 prints the traceback and the others a line each. If it raises on some ranks
    only, those print the error and leave the process at once with status 1, without finalizing MPI: the launcher then ends the
    others, which would wait for them for ever.

    Started with spares (`holdfast run --spares`), lost ranks are replaced and `main` is called again, with the same ranks and
    size, restored from the newest version that can be had: see `run.repairs`. What one rank raises while all others live is
    then raised on all, as RankError on the others. Spares do not return from here.
    """
    if comm is None:
        comm = _world()
    if (spares := spare_processes()) and comm is not SERIAL:
        from .repairing import launch_with_spares

        _check_world(comm)
        return launch_with_spares(main, url, comm, spares, open_options)
    try:
        run = open(url, comm=comm, **open_options)
    except BaseException as error:
        told_at_start(error, comm)
        raise
    try:
        with run:
            return main(run)
    except BaseException as error:
        if run._x.group.size > 1:
            if not all_raised(run._x.group, error):
                leave_alone(error, run)
            tell_once(error, run._x.group)
        raise


def _world() -> Any:
    if launcher_ranks() > 1 or "mpi4py.MPI" in sys.modules:
        from mpi4py import MPI

        return MPI.COMM_WORLD
    return None


def _check_world(comm: Any) -> None:
    from mpi4py import MPI

    if MPI.Comm.Compare(comm, MPI.COMM_WORLD) != MPI.IDENT:
        raise UsageError(
            "This program was started with spares (holdfast run --spares), which take the places of ranks of MPI.COMM_WORLD. "
            "holdfast.launch was given another communicator. Nothing was started. Leave comm or --spares out."
        )


def all_raised(group: Group, error: BaseException) -> bool:
    """Whether every rank comes here, with this `error` or another, within a few seconds.

    Asked by a nonblocking maximum on the library's own communicator, which can't be taken for one of the program's: -1 is
    less than any wish of a loop's round, so only if all ranks are leaving is it the result.
    """
    began = time.monotonic()
    told = False
    with contextlib.suppress(HoldfastError):  # a call that was interrupted half-way leaves a group that can't be used
        answer = group.begin_max(-1, 0)
        while (waited := time.monotonic() - began) < _TOGETHER_SECONDS:
            found = answer.test()
            if found is not None:
                return found[0] == -1
            if not told and waited > _SILENT_SECONDS:
                told = True
                text = f"{shown(error)}; whether the other ranks fail as well is known within {_TOGETHER_SECONDS:g} s"
                print(f"holdfast: rank {group.rank}: {text}", file=sys.stderr, flush=True)
            time.sleep(0.005)
    return False


def leave_alone(error: BaseException, run: Run) -> NoReturn:
    """Print the error, put it on record, and end this process alone, at once."""
    import traceback

    traceback.print_exception(type(error), error, error.__traceback__)
    rank = run._x.group.rank
    text = f"rank {rank} failed alone; it leaves at once so that the launcher ends the others."
    print(f"holdfast: {text}", file=sys.stderr)
    record_alone(error, run)
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(0.1)  # let the launcher forward what was printed
    os._exit(1)


def record_alone(error: BaseException, run: Run) -> None:
    """Put on record that this rank's error has ended the attempt, as far as storage takes it in time (local; never raises): the
    others wait for this rank to go."""
    x = run._x
    if x.readonly:
        return
    end = End("failed", time.time(), x.newest, x.step, None, f"rank {x.group.rank}: {shown(error)}")

    def record() -> None:
        try:
            put_end(x.store, x.writer.attempt, end)
        except HoldfastError as failed:
            log.warning("how the attempt ended could not be recorded: %s", failed.message)

    recording = threading.Thread(target=record, name="holdfast-end", daemon=True)
    try:
        recording.start()
        recording.join(_RECORD_SECONDS)
    except RuntimeError:  # no thread can be had
        log.warning("how the attempt ended could not be recorded: no thread can be had for it")


def shown(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
