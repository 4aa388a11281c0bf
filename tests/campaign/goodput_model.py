"""The best goodput that costs allow, after J. T. Daly, "A higher order estimate of the optimum checkpoint interval for restart
dumps", FGCS 22 (2006) 303-312. docs/goodput.md derives what is used here."""

from __future__ import annotations

import math

LEAST, MOST = 1e-6, 10.0  # bounds of the interval, in MTBFs


def efficiency(interval: float, cost: float, restart: float, mtbf: float) -> float:
    """The part of the time that is work which lasts, 0 to 1: Daly's complete model, his equation for the wall time inverted.

    All in seconds: `interval`, work between two checkpoints; `cost`, of a checkpoint; `restart`, from a failure until the
    program computes again, and what it loses beyond the work since the last checkpoint; `mtbf`, mean time between failures,
    which come at random (exponential) at all times, restarts included.
    """
    return interval / (mtbf * math.exp(restart / mtbf) * math.expm1((interval + cost) / mtbf))


def optimum(cost: float, restart: float, mtbf: float) -> tuple[float, float]:
    """The interval with the largest efficiency, in seconds, and that efficiency. By bisection of the exact condition, not by
    an estimate: no policy at all does better under this model. `cost` 0: the interval's lower bound."""

    def too_short(interval: float) -> bool:
        # Where the efficiency still grows with the interval T: its derivative has the sign of (1 - T / M) exp((T + C) / M) - 1.
        return (1 - interval / mtbf) * math.exp((interval + cost) / mtbf) > 1

    low, high = LEAST * mtbf, MOST * mtbf
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if too_short(middle) else (low, middle)
    return low, efficiency(low, cost, restart, mtbf)
