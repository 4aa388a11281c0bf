"""How often this run's program has failed so far: from the attempts on record."""

from __future__ import annotations

import time
from typing import NamedTuple

from ..errors import HoldfastError
from ..format import attempt_key
from ..store import Store
from .attempts import list_attempts, read_attempt

PRIOR_MTBF = 86_400.0  # seconds between failures as long as nothing is known: a day
NEWEST = 50  # attempts that are looked at: each costs a few small reads


class Failures(NamedTuple):
    """`failed` failures in `seconds` of running time."""

    failed: int = 0
    seconds: float = 0.0

    def mtbf(self, prior: float = PRIOR_MTBF) -> float:
        """Mean seconds between failures: the geometric mean of `prior`, which counts as one failure, and what was seen.

        Geometric, because the order of magnitude is what is not known: where programs fail every hundred seconds, three
        failures bring the estimate to 540 s and ten to 185 s, while one failure after 10 s, which was
        perhaps a mistake in the program, makes it 930 s. Without a failure: `prior` and the time without one.
        """
        if self.failed == 0:
            return prior + self.seconds
        seen = max(self.seconds / self.failed, 1.0)  # records tell time to the second at best
        power = 1 / (self.failed + 1)
        return float(prior**power * seen ** (1 - power))


def read_failures(store: Store, below: int) -> Failures:
    """What the newest `NEWEST` attempts with numbers under `below` tell (local; reads up to three small files of each).

    A failed attempt is one that ended without a record of its end (it was killed, or its machine died), or with the record of
    an error; those that ended as they should count with their time alone. Attempts count that went as far as to seal their
    base, so not a program that stops at its first line; and time from the fence on to the end's record or, if there is
    none, to the lease's last sign. An attempt whose records can't be read is passed over, and so is any that the
    storage does not give: an estimate is no reason to stop.
    """
    found = list_attempts(store)
    failed, seconds = 0, 0.0
    for number in sorted((n for n in found if n < below and "base" in found[n]), reverse=True)[:NEWEST]:
        try:
            attempt = read_attempt(store, number, found[number])
            if attempt.kind != "run" or attempt.damaged:
                continue
            if attempt.end is not None:
                ended = attempt.end.time
            else:
                ended = time.time() - store.age(attempt_key(number, "lease"))
        except HoldfastError:
            continue
        seconds += max(0.0, ended - attempt.created)
        failed += attempt.end is None or attempt.end.outcome == "failed"
    return Failures(failed, seconds)
