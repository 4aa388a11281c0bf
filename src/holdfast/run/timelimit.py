"""The time limit: until when a program may run, who says so, and from when on it has to leave.

A last checkpoint that is begun too late is lost with all that was computed since the one before; one that is begun too early
wastes what is left of the job's time. So it is begun as late as what was measured allows: the dearest of the recent
checkpoints, half as much again, twice where one may still be in flight that has to become durable first; the longest time
between two heads at which ranks agree, for a decision to be made; and two seconds.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from time import monotonic

from .interval import Costs

log = logging.getLogger("holdfast")

DEADLINE = "HOLDFAST_DEADLINE"  # unix time by which the program is to have left: the supervisor's word, or a job script's
SAFETY = 1.5  # times the dearest of the recent checkpoints
SPARE = 2.0  # seconds to leave in
UNKNOWN = 60.0  # seconds for a last checkpoint as long as none was measured, a tenth of the whole time if that is less,
UNKNOWN_PART = 0.1
CAUTIOUS = 50e6  # and at least what a rank's bytes take at this rate, bytes per second,
MOST = 0.5  # but no more than this part of the whole time: a short job is to get somewhere, and then it has measured
_PATIENCE = 5.0  # seconds that squeue gets to answer


def deadline_of_job(environment: Mapping[str, str], ask: bool = True) -> float | None:
    """The unix time at which the batch system ends this job, None if there is none or it can't be told.

    Slurm since 22.05 tells it in the environment. Older ones are asked by `squeue`, if `ask`; that may take seconds. PBS and
    LSF tell a job neither its end nor its beginning: there the limit has to be given.
    """
    told = _unix(environment.get("SLURM_JOB_END_TIME"))
    job = environment.get("SLURM_JOB_ID")
    if told is not None or not job or not ask:
        return told
    import subprocess  # not at the top: few programs need it, and each start would pay for it

    try:
        done = subprocess.run(
            ["squeue", "-h", "-j", job, "-o", "%e"],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE,
            env={**environment, "SLURM_TIME_FORMAT": "standard"},
        )  # fmt: skip
        # Local time, as of the same machine. "N/A", "NONE" and the like: no limit.
        return time.mktime(time.strptime(done.stdout.decode().split()[0], "%Y-%m-%dT%H:%M:%S"))
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError, OverflowError):
        return None


def find_deadline(environment: Mapping[str, str], ask: bool = True) -> float | None:
    """The earlier of what HOLDFAST_DEADLINE and the batch system say (unix time); None: no limit. The batch system is not asked
    where the variable is set: whoever has set it has asked."""
    given = _unix(environment.get(DEADLINE))
    if environment.get(DEADLINE) and given is None:
        log.warning("%s=%s is no unix time: it is ignored.", DEADLINE, environment[DEADLINE])
    return _earlier(given, deadline_of_job(environment, ask and given is None))


def _unix(text: str | None) -> float | None:
    try:
        value = float(text) if text else math.nan
    except ValueError:
        return None
    return value if 0 < value < math.inf else None


def _earlier(*times: float | None) -> float | None:
    return min((t for t in times if t is not None), default=None)


class Limit:
    """The time limit of one execution, and when to leave for it, as one rank sees it (local).

    `option`: "auto", or seconds from now on, besides what `find_deadline` says; `flights`: whether versions may be in flight;
    `ranks`: how many there are; `nbytes()`: bytes of this rank's state, asked for once, if there is a limit.
    A batch system that has to be asked is asked by rank 0 beside the program: one rank that knows the limit is enough.
    """

    def __init__(
        self, option: float | str, costs: Costs, flights: bool, rank: int, ranks: int, nbytes: Callable[[], int]
    ) -> None:
        self._costs, self._flights, self._nbytes = costs, flights, nbytes
        self._gaps = 1 if ranks == 1 else 2  # between noticing and deciding: ranks begin a round, and take its result
        self._began = time.time()
        self._head, self._longest = monotonic(), 0.0
        self.deadline: float | None = None  # unix time
        self._end = self._leave = math.inf  # monotonic times
        self._estimate = 0.0
        environment = dict(os.environ)
        given = None if isinstance(option, str) else self._began + option
        found = _earlier(given, find_deadline(environment, ask=False))
        if found is not None:
            self._set(found)
        self.active = found is not None  # whether `due` has to be asked
        slurm = "SLURM_JOB_ID" in environment and "SLURM_JOB_END_TIME" not in environment and DEADLINE not in environment
        if slurm and rank == 0:
            self.active = True
            threading.Thread(target=self._ask, args=(environment,), name="holdfast-limit", daemon=True).start()

    def _ask(self, environment: Mapping[str, str]) -> None:
        found = _earlier(self.deadline, deadline_of_job(environment))
        if found is not None:
            self._set(found)

    def _set(self, deadline: float) -> None:
        whole = max(0.0, deadline - self._began)
        least = max(min(UNKNOWN, UNKNOWN_PART * whole), self._nbytes() / CAUTIOUS)
        self._estimate = min(least, MOST * whole)
        self.deadline, self._end = deadline, monotonic() + deadline - time.time()
        self._arm()

    def due(self, now: float) -> bool:
        """Whether it is time to leave; to be asked at each head at which a rank looks at the clock, `now` (monotonic)."""
        gap, self._head = now - self._head, now
        if gap > self._longest:
            self._longest = gap
            self._arm()
        return now >= self._leave

    def paused(self) -> None:
        """What came before this moment was no step: a checkpoint, or what a program does between its loops."""
        self._head = monotonic()
        self._arm()

    @property
    def margin(self) -> float:
        """How many seconds before the limit a last checkpoint is begun."""
        dearest = self._costs.dearest
        checkpoint = self._estimate if dearest is None else SAFETY * dearest * (2 if self._flights else 1)
        return checkpoint + self._gaps * self._longest + SPARE

    def _arm(self) -> None:
        self._leave = self._end - self.margin

    @property
    def left(self) -> float:
        """Seconds until the limit, negative once it is over; inf if there is none."""
        return self._end - monotonic()
