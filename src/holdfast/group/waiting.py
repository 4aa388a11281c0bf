"""How to wait for other ranks: with a deadline, and without taking the processor from them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from ..errors import DeadlineError

# Answers within a step of computation come in microseconds: look without sleeping for that long. After it, sleep:
# with more ranks than cores a rank that spins keeps from running the very rank that it waits for.
SPIN_SECONDS = 200e-6
SHORTEST_SLEEP = 50e-6
LONGEST_SLEEP = 1e-3
# A sleep is a small part of what has been waited already. Were it as long, two ranks that answer each other in turn
# would each sleep through the other's answer, for ever: milliseconds for what takes microseconds (measured).
SLEEP_PART = 1 / 16


def wait_until(ready: Callable[[], bool], seconds: float) -> bool:
    """Call `ready` until it says True, or until `seconds` have passed: then False.

    `ready` is asked once more after the last sleep, so that a process that was stopped and continued after its
    deadline still takes what has arrived meanwhile.
    """
    start = time.monotonic()
    while True:
        late = time.monotonic() - start  # read before asking: whatever came until then is seen by `ready`
        if ready():
            return True
        if late >= seconds:
            return False
        if late >= SPIN_SECONDS:
            pause = min(max(late * SLEEP_PART, SHORTEST_SLEEP), LONGEST_SLEEP)
            time.sleep(min(pause, seconds - late))


def ranks_text(ranks: Iterable[int]) -> str:
    """`rank 3`, `ranks 0-2, 5`: for messages, at most eight runs."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    texts = [str(a) if a == b else f"{a}-{b}" for a, b in runs[:8]]
    more = ", ..." if len(runs) > 8 else ""
    plural = "s" if len(runs) > 1 or (runs and runs[0][0] != runs[0][1]) else ""
    return f"rank{plural} {', '.join(texts)}{more}"


def deadline_error(
    what: str, rank: int, missing: Iterable[int], seconds: float | None, *, one_of: bool = False
) -> DeadlineError:
    """The error for a wait that was not over in time. `one_of`: which of `missing` is late is not known; `seconds`: None where
    they were not waited for again."""
    missing = sorted(missing)
    whom = ("one or more of " if one_of and len(missing) > 1 else "") + ranks_text(missing)
    if seconds is None:
        waited = f"does not wait for {whom} again, from which an earlier call has had no answer in time"
    else:
        waited = f"has waited {seconds:.4g} s for {whom} and gives up"
    return DeadlineError(
        f"{what}: rank {rank} {waited}. "
        "Committed versions are as they were. See whether those ranks are hung, stopped or gone: if they were only "
        "slow, raise the option `timeout` (seconds); if not, end the program and start it again, it resumes.",
        rank=missing[0] if missing and not one_of else None,
    )
