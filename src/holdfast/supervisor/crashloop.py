"""A crash loop: a program that dies again and again after the same version. It is taken back to the version before, once.

The state of a version may be what kills a program (a singular matrix, a file that it can't read any more). What was computed
between the two versions is done again, and perhaps otherwise. If the program gets beyond the version that was given up,
supervision goes on as usual; else it gives up, and both versions are there to be looked at.
"""

from __future__ import annotations

from dataclasses import replace

from ..catalog import Catalog, Version
from ..errors import HoldfastError
from ..run.maintenance import rollback
from .facts import Execution, Fall, RunFacts, catalog_of, shown


def fall_back(execution: Execution) -> tuple[Execution, tuple[Fall, ...], list[str]]:
    """Takes each run from which the newest execution got nowhere back to the version before: the execution with what its runs
    go on from now, what was taken back, and lines to tell. A run without an older version stays as it is.

    To be called when no process of the program lives: what still holds a run is fenced off.
    """
    runs: list[RunFacts] = []
    falls: list[Fall] = []
    lines: list[str] = []
    for run in execution.runs:
        runs.append(run)
        if run.complete or run.attempt is None or run.gained:
            continue
        try:
            found = _before(catalog_of(run.url), run)
            if found is None:
                continue
            number, step, older = found
            rollback(run.url, older.number, takeover=True)
        except (HoldfastError, OSError) as error:
            text = error.message if isinstance(error, HoldfastError) else str(error)
            lines.append(f"{shown(run.url)} can't be taken back to an older version: {text}")
            continue
        falls.append(Fall(run.url, number, step, older.number))
        lines.append(
            f"crash loop: {shown(run.url)} gets nowhere from {_named(number, step)} and is taken back to "
            f"{_named(older.number, older.step)}, once; version {number} is kept, abandoned"
        )
        runs[-1] = replace(run, version=older.number, step=older.step, safe=older.time)
    return replace(execution, runs=tuple(runs)), tuple(falls), lines


def _before(catalog: Catalog, run: RunFacts) -> tuple[int, int | None, Version] | None:
    """Number and step of the version from which the run got nowhere, and the newest version that is older and another state."""
    counting = [v for v in catalog.lineage if run.based is None or v.number <= run.based]
    if not counting:
        return None
    first = counting[0]
    if run.based is not None and first.number < run.based:  # on nodes only: what is known here is older
        return run.based, None, first
    for older in counting[1:]:
        if (older.step, older.content) != (first.step, first.content):
            return first.number, first.step, older
    return None


def _named(number: int, step: int | None) -> str:
    return f"version {number}" + ("" if step is None else f" (step {step})")
