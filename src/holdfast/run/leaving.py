"""How an execution ends: complete, interrupted by a signal or the time limit, closed, abandoned, or without a word.

Each of these is an `Execution`'s own method; what they do is here.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import time
import weakref
from typing import TYPE_CHECKING, NoReturn

from ..catalog import End, put_end
from ..errors import (
    EXIT_INTERRUPTED,
    EXIT_INTERRUPTED_NO_PROGRESS,
    EXIT_LAST_CHECKPOINT_FAILED,
    HoldfastError,
    Interrupted,
    UsageError,
)
from ..group import from_root
from ..units import seconds_text
from .signals import TIME_LIMIT, signal_name

if TYPE_CHECKING:
    from .execution import Execution
    from .timelimit import Limit

log = logging.getLogger("holdfast")

TIME_LIMIT_NAME = signal_name(TIME_LIMIT)  # also why a version was taken
_ABANDONED = 2.0  # seconds that what is in flight has to find out that ranks are lost
_LEAVING = 60.0  # seconds that a program which leaves waits for the version in flight


def complete(x: Execution) -> None:
    """Take a last version that says so, unless the run was complete and nothing has been run since (collective)."""
    x.settle()
    if x.rollback is not None:
        raise UsageError("run.rollback was asked for and no loop head came after it: let the loop go on, or call it after.")
    x.loops.leave_all()
    x.loops.finish()
    if not x.loops.complete or x.loops.moved:
        x.take("final", complete=True)
        x.loops.complete, x.loops.moved = True, False
    x.land()
    if x.levels is not None:
        with x.watching.during("leaving"):
            x.levels.end(complete=True)
    x.end("complete")
    x.left = True


# -- interrupted -----------------------------------------------------------------------------------


def leave(x: Execution, number: int) -> NoReturn:
    """A signal, or the time limit: a last checkpoint if anything is new, the record of it, and out (collective).

    Raises Interrupted."""
    name, code = signal_name(number), EXIT_INTERRUPTED
    limit = x.limit if number == TIME_LIMIT else None
    if limit is not None and x.group.rank == 0 and limit.left < math.inf:
        when = f"comes in {seconds_text(limit.left)}" if limit.left > 0 else "is over"
        log.warning("the time limit %s: %sout", when, "a last checkpoint, then " if x.loops.moved else "")
    error: HoldfastError | None = None
    if x.loops.moved:
        try:
            x.take(name if number == TIME_LIMIT else "signal")
        except HoldfastError as failed:
            error, code = failed, EXIT_LAST_CHECKPOINT_FAILED
    else:
        x.land(told=True)
    if x.levels is not None:
        with x.watching.during("leaving"):
            x.levels.end(complete=False)
    if error is None and not x.loops.moved and not x.writer.written:
        code = EXIT_INTERRUPTED_NO_PROGRESS
    if error is None:
        # Before any rank leaves: launchers end the others as soon as one has left with a status.
        if from_root(x.group, "recording the interrupt", lambda: _end_interrupted(x, name, limit)):
            code = EXIT_LAST_CHECKPOINT_FAILED
    else:
        x.end("failed", name, str(error))
        if x.group.rank == 0:
            log.error("%s: the last checkpoint failed: %s", name, error)
    x.interrupts.pending = 0
    x.left = True
    x.watching.leave()
    raise Interrupted(code, name, x.newest) from error


def _end_interrupted(x: Execution, name: str, limit: Limit | None) -> bool:
    """On rank 0: the record of an interrupt; whether a last checkpoint was too late for the time limit."""
    late = limit is not None and limit.left < 0 and x.loops.moved
    text = f"the last checkpoint was over {seconds_text(-limit.left)} after the time limit" if limit and late else None
    if text:
        log.error("%s; the next start goes on from it, if it is left to see it", text)
    x.end("interrupted", name, text)
    return late


# -- local -----------------------------------------------------------------------------------------


def record_end(x: Execution, outcome: str, signal: str | None, error: str | None) -> None:
    """Record how this attempt ended, once, by rank 0 (local). Failing to is no harm: that no process lives tells as well."""
    if x.readonly or x.forked:
        return
    _await(x)
    if x.group.rank != 0:
        return
    try:
        put_end(x.store, x.writer.attempt, End(outcome, time.time(), x.newest, x.step, signal, error))
    except HoldfastError as failed:
        log.warning("how the attempt ended could not be recorded: %s", failed.message)


def _await(x: Execution) -> None:
    """Before the program goes: what is in flight may become durable, and nobody will ask what became of it (local)."""
    try:
        x.writer.arrive(_LEAVING)
    except HoldfastError as error:
        log.error("%s", error)
    if x.writer.failed is not None and not x.left:
        log.error("the last version did not become durable: %s", x.writer.failed)
    if x.levels is not None and not x.levels.ended:
        x.levels.drain(_LEAVING)


def abandon(x: Execution) -> None:
    """Ranks are lost: let go of everything without asking the others. What is in flight fails, or is fenced off (local)."""
    x.closed = x.left = True
    x.watching.leave_lost()
    x.interrupts.restore()
    x.files.close()
    for closer in x.closers:
        closer()
    x.writer.abandon(_ABANDONED)
    x.resume.close()


def close(x: Execution) -> None:
    """Release everything (local)."""
    if x.closed or x.forked:
        return
    x.watching.leave()
    x.end("closed")
    x.closed = True
    x.interrupts.restore()
    x.files.close()
    x.resume.close()
    x.writer.close()
    for closer in x.closers:
        closer()
    x.watching.stop()


def remind(there: weakref.ref[Execution]) -> None:
    """At the program's end: a run that nobody has closed or completed."""
    x = there()
    if x is None or x.closed or x.forked:
        return
    x.watching.leave()
    _await(x)
    x.watching.stop()
    if x.left or not x.settled or x.group.rank != 0 or "HOLDFAST_SUPERVISED" in os.environ:
        return
    newest = f"A start goes on from version {x.newest}" if x.newest else "There is no version: a start begins anew"
    print(
        f"holdfast: the program has ended and the run {x.url} is not complete. {newest}. "
        "If the program is done, let it say so: `with holdfast.open(...) as run:`, or run.complete().",
        file=sys.stderr,
    )
