"""How a process ends after a repair: as any other, but without MPI's finalisation.

MPI_Finalize hangs in about one of five runs once a process has been lost. Nothing else of the process's end is to be left
out: exit handlers, streams, exit status. mpi4py finalises MPI in a hook that comes last of all. Before it, no Python code knows
the exit status, so an exit handler that calls `os._exit` would have to guess it (rejected for that). Instead MPI is marked as
finalised when the interpreter is nearly through, so that mpi4py leaves it alone; the ordinary exit goes on.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

from .means import symbol

_RUNNING = 2  # OMPI_MPI_STATE_INIT_COMPLETED
_FINALIZED = 5  # OMPI_MPI_STATE_FINALIZE_COMPLETED
_KEPT = "_holdfast_leaving"  # name in the module sys, whose values go when all other modules are gone


class _Mark:
    """Marks MPI as finalised when it is itself cleared away, which is after all exit handlers."""

    def __init__(self, state: Any, running: int, finalized: int) -> None:
        self._state, self._running, self._finalized = state, running, finalized  # no global name is left in the end

    def __del__(self) -> None:
        if self._state.value == self._running:
            self._state.value = self._finalized


def leave_after_repair() -> bool:
    """From now on MPI is not finalised when this process ends (local; any number of calls).

    Everything else happens: exit handlers, flushing, `sys.exit(code)`, uncaught exceptions, with the true status. Whoever
    finalises MPI by hand still does. False if it can't be arranged with this MPI: finalisation may then hang, and whoever has
    started the program has to end what lingers behind its completion record.
    """
    import mpi4py

    if mpi4py.rc.finalize is False or hasattr(sys, _KEPT):  # the program's own business, or arranged already
        return True
    state = symbol("ompi_mpi_state", ctypes.c_int32)
    if state is None or state.value != _RUNNING:
        return False
    setattr(sys, _KEPT, _Mark(state, _RUNNING, _FINALIZED))
    return True
