"""Main called again after a repair: the ranks that are left and a spare go on, restored, with the same ranks and size.

Who notices a failure, by an error of MPI or of the library, lets go of the run, calls for a repair and joins it. Then `main` is
called again on all ranks as at a start: the run is opened, as an attempt of its own, and restored from the newest version
that can be had, memory first. So a rank that was taken for dead and comes back finds a later attempt's fence.

What nobody died of is the program's own, and is not repaired: an error that all ranks raise, or that one raises alone while all
others live. Nor is what happens twice at the same step without a version in between.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

from ..errors import EXIT_REPAIR, DeadlineError, HoldfastError, Interrupted, RankError, RepairError, UsageError
from ..group import make_group, together
from ..group.repair import Crew, end_process, leave_after_repair
from ..group.repair.comms import watch_calls
from ..units import seconds_text
from .beginnings import Beginnings
from .launch import all_raised, leave_alone, record_alone, shown
from .lookout import Lookout
from .opening import Before, open_run
from .run import Run
from .tracebacks import leave_to_others, tell_once, told_at_start
from .watching import Watching

log = logging.getLogger("holdfast")
T = TypeVar("T")

FORM_SECONDS = 120.0  # for all processes to come to their first call
STEP_SECONDS = 10.0  # for each step of a repair
WHOLE_SECONDS = 10.0  # for all of it, and for the last rank to come to it from what it was computing
PART_SECONDS = 10.0  # for all ranks to leave together
NOTICE_SECONDS = 1.0  # in which a failure that an error comes from shows; MPI takes 20 to 40 ms
REPEATS = 2  # failures at the same step, from the same version: the next repair would not help
_launched = False  # whether this process has had its crew


@dataclass
class _Past:
    """What this process knows of the execution before, `attempt`. `at`: the version and the step that it failed at; `times`:
    how often in a row; `own`: what it raised by itself, while all others lived; `asked`: the signal that no loop head has
    heeded; `beginnings`: of its objects; `health`: what was found out, by whom is `watching`."""

    at: tuple[int, int] = (-1, -1)
    times: int = 0
    own: BaseException | None = None
    attempt: int = 0
    asked: int = 0
    beginnings: Beginnings = field(default_factory=Beginnings)
    health: tuple[Any, ...] = ()
    watching: Watching | None = None

    def failed(self, run: Run | None) -> None:
        """The execution `run` has failed, and is let go; None: it was not opened yet."""
        if run is None:
            return
        x = run._x
        at = (x.newest or 0, -1 if x.step is None else x.step)
        self.times = self.times + 1 if at == self.at else 1
        self.at, self.attempt = at, run.attempt
        self.watching, self.beginnings.computed, self.asked = run._x.watching, True, run._x.interrupts.pending
        run._x.abandon()

    def hear(self) -> None:
        """Who looked after the ranks has done so to the end. Behind the repair: nobody there has to wait for that thread."""
        watching, self.watching = self.watching, None
        if watching is not None:
            watching.stop()
            self.health = watching.events


def launch_with_spares(
    main: Callable[[Run], T], url: str | os.PathLike[str], world: Any, spares: int, options: Mapping[str, Any]
) -> T:
    """`launch` on a world of which the last `spares` processes have no rank yet (collective over it). A spare that was not
    needed leaves the program here."""
    from ..health.processes import Eyes

    global _launched
    if _launched:
        raise UsageError(
            "holdfast.launch was called before in this program, which was started with spares (holdfast run --spares): they "
            "have left with it. Nothing was started. Leave --spares out, or give each launch a program of its own."
        )
    _launched = True
    crew = Crew.form(world, world.Get_size() - spares, timeout=FORM_SECONDS, eyes=Eyes())
    if crew.reason is not None and crew.rank == 0:
        log.warning("the spares are of no use here: %s. A lost rank ends the job, which is started again.", crew.reason)
    if crew.repairable:
        leave_after_repair()  # also without a repair: MPI's end would wait for a process that is stopped
    past, began = _Past(), 0.0
    try:
        while True:
            if crew.rank is None:
                _warm()
                with Lookout(url) as lookout:
                    if not crew.stand_by(lookout.check):
                        raise SystemExit(0)
            else:
                run: Run | None = None
                try:
                    run = _reopen(url, crew, past, began, options)
                    value = main(run)
                    run.__exit__(None, None, None)
                    run._x.interrupts.leave()
                    return value
                except RepairError as error:  # all ranks alike: going on in these processes would be wrong
                    _relaunch(error, told=crew.rank == 0)
                except BaseException as error:
                    if not _called_off(crew, error):
                        _by_itself(crew, past, run, error)  # raises it, unless the others are to hear of it first
                    past.failed(run)
            began = time.monotonic()
            _repair(crew, past)
    finally:
        _part(crew)


def _reopen(url: str | os.PathLike[str], crew: Crew, past: _Past, began: float, options: Mapping[str, Any]) -> Run:
    """The run for this execution; after a repair only if that can help (collective over those with a rank)."""
    known = dict(options)
    params, config, mode = known.pop("params", None), known.pop("config", None), known.pop("mode", "a")
    if crew.repairs:
        past.times, step = max(card.failed for card in crew.cards), max(card.at for card in crew.cards)
        if any(card.alone for card in crew.cards):
            _hear_of_it(crew, past)
        if past.times >= REPEATS:
            raise RankError(
                f"Ranks were lost {past.times} times in a row at step {step}, from the same version: it is taken for the "
                "program's own failure and not repaired again. What was committed is intact."
            )
    before = Before(crew.repairs, past.attempt, past.health)
    run = open_run(url, crew.comm, params, config, mode, known, before)
    run._x.beginnings, run._x.interrupts.pending = past.beginnings, past.asked
    run._x.repairs, run._x.called_off = crew.repairs, lambda: crew.revoked
    # MPI does not tell of a process that has left by itself with a status; one of its node sees that it is gone. The last look,
    # which may come behind the repair, is not to call for another one.
    repairs = crew.repairs
    run.on_health(lambda event: crew.revoke(repairs=repairs) if event.kind == "died" else None)
    watch_calls(crew.comm, run._x.watching.calls)
    if crew.repairs and crew.rank == 0:
        lost = ", ".join(map(str, crew.lost)) or "none"
        log.warning(
            "repaired in %s: rank %s replaced, %d spare%s left; attempt %d goes on",
            seconds_text(time.monotonic() - began), lost, crew.spares, "s" * (crew.spares != 1), run.attempt,
        )  # fmt: skip
    return run


def _hear_of_it(crew: Crew, past: _Past) -> None:
    """A rank has failed by an error of its own, which is raised on all of them (collective)."""
    group = make_group(crew.comm, STEP_SECONDS)
    told: Any = together(group, "going on after a repair", shown(past.own) if past.own else "")
    for rank, text in enumerate(told):
        if text:
            own = past.own or RankError(f"Rank {rank} failed with {text}. What was committed is intact.", rank=rank)
            leave_to_others(own, group, own is past.own)
            raise own


def _called_off(crew: Crew, error: BaseException) -> bool:
    """Whether the error comes from a failure of other ranks, that is: whether a repair is called for, soon."""
    if not crew.repairable or isinstance(error, (Interrupted, KeyboardInterrupt, SystemExit)):
        return False
    patience = NOTICE_SECONDS if _from_outside(error) else 0.0
    until = time.monotonic() + patience
    while not crew.look():  # it may be another's call that has led here, which the watcher has not seen yet
        if crew.gone:
            crew.revoke()
        elif time.monotonic() >= until:
            return False
        else:
            time.sleep(0.002)
    return True


def _from_outside(error: BaseException | None) -> bool:
    """Whether MPI, or waiting for other ranks, has to do with it, as the program may have put it into words of its own."""
    mpi = sys.modules["mpi4py.MPI"]
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, (mpi.Exception, RankError, DeadlineError)):
            return True
        if isinstance(error, HoldfastError) and any(c.type in ("RankError", "DeadlineError") for c in error.causes):
            return True
        error = error.__cause__ or error.__context__
    return False


def _by_itself(crew: Crew, past: _Past, run: Run | None, error: BaseException) -> None:
    """An error that no lost rank has to do with: raised here if all ranks have raised one; else all are to hear of it."""
    if run is None or all_raised(run._x.group, error):
        if run is not None:
            run.__exit__(type(error), error, error.__traceback__)
            tell_once(error, run._x.group)
        else:
            told_at_start(error, crew.comm)
        raise error
    if not crew.repairable:
        leave_alone(error, run)
    past.own = error
    log.error("rank %s failed alone: %s", crew.rank, shown(error))
    record_alone(error, run)
    crew.revoke()


def _part(crew: Crew) -> None:
    """The program leaves: all ranks know of it, then the spares, before anyone goes, which would look like a loss."""
    crew.part()
    if crew.rank is not None:
        try:
            with_all = make_group(crew.comm, PART_SECONDS)
            with_all.begin_max(0).wait()
            if crew.rank == 0:
                crew.dismiss()
            with_all.begin_max(0).wait()
        except (HoldfastError, sys.modules["mpi4py.MPI"].Exception) as error:
            # A rank was lost on its way out, or a repair is called for; what the run had to say is on record.
            log.debug("the ranks did not leave together: %s", error)
            if crew.rank == 0:
                crew.dismiss()
    crew.close()


def _repair(crew: Crew, past: _Past) -> None:
    try:
        crew.repair(STEP_SECONDS, WHOLE_SECONDS, failed=past.times, at=past.at[1], alone=past.own is not None)
    except RepairError as error:
        past.hear()
        _relaunch(error)  # never comes back
    finally:
        past.hear()


def _relaunch(error: RepairError, told: bool = True) -> NoReturn:
    """Leave, so that the job is started again: other ranks do the same, or are ended by who started them. `told`: say why."""
    if told:
        print(f"holdfast: {error.message}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(0.1)  # let the launcher forward what was printed
    end_process(EXIT_REPAIR)
    raise AssertionError("not reached")


def _warm() -> None:
    """Have at hand what a rank needs to open and restore a run: a spare has nothing else to do."""
    import getpass  # noqa: F401

    from .. import health, recovery  # noqa: F401
    from ..capture import room, tracker  # noqa: F401
    from ..group import mpi  # noqa: F401
    from ..health import beat, judging, moving, stacks  # noqa: F401
    from . import levels, resume, watching  # noqa: F401
    from .levels import ahead, aside, copier, keeper, placing, retaining  # noqa: F401


__all__ = ["launch_with_spares"]
