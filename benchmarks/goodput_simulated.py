"""What `holdfast.auto` is worth: simulated programs that fail at random, against the best fixed interval found by a sweep.

A simulated program computes, waits for checkpoints, has versions in flight, fails (exponential), restarts. Its clock is
simulated; the intervals come from `holdfast.run.interval.Costs`, which is told what the engine and the pacer tell it.
Fixed intervals meet the same failures and the same costs. Deterministic.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from holdfast import auto
from holdfast.catalog.failures import Failures
from holdfast.run.interval import Costs

SWEEP = np.geomspace(0.3, 4.0, 19)  # fixed intervals, as multiples of sqrt(2 C M), C with the slow-down
FAILURES = 1500
SPREAD = 0.3  # of stalls and flights: standard deviation of the logarithm


@dataclass(frozen=True)
class Machine:
    """Seconds: mean time between failures, mean stall, flight and slow-down in all of one version, restart.

    `told`: whether the program tells `auto` the MTBF; else it is estimated from the failures so far. `remembers`: whether a
    restarted program knows from the restored version what a checkpoint costs.
    """

    mtbf: float
    stall: float = 1.0
    flight: float = 0.0
    slow: float = 0.0
    restart: float = 1.0
    told: bool = True
    remembers: bool = True

    @property
    def text(self) -> str:
        parts = [f"MTBF {self.mtbf / self.stall:g} x stall of {self.stall:g} s"]
        if self.flight:
            parts.append(f"flight {self.flight:g} s, slow-down {self.slow:g} s")
        parts += ["MTBF from the record"] * (not self.told) + ["costs learnt anew after each failure"] * (
            not self.remembers
        )
        return ", ".join(parts)


CASES = [
    *(Machine(m) for m in (20.0, 60.0, 200.0, 600.0, 2000.0)),
    Machine(20.0, remembers=False),
    Machine(200.0, remembers=False),
    Machine(6000.0, stall=30.0, restart=60.0),
    Machine(4.0, stall=0.02, flight=0.5, slow=0.03, restart=0.1),
    Machine(40.0, flight=6.0, slow=1.0),
    Machine(300.0, flight=15.0, slow=3.0),
    Machine(2000.0, flight=20.0, slow=2.0, remembers=False),
    Machine(400.0, told=False),
]


def measure(cases: list[Machine] | None = None, failures: int = FAILURES, seed: int = 1) -> list[dict[str, Any]]:
    """One result for each case. `value`: seconds that a second of durable work takes with `auto`; `limit`: with the best
    fixed interval; `ratio`: the first to the second, promised to be at most 1.02."""
    results = []
    for machine in CASES if cases is None else cases:
        chance = np.random.default_rng(seed)
        gaps = chance.exponential(machine.mtbf, failures).tolist()
        noise = chance.lognormal(-(SPREAD**2) / 2, SPREAD, 4096).tolist()
        first_order = math.sqrt(2 * (machine.stall + machine.slow) * machine.mtbf)
        best = max(_goodput(machine, gaps, noise, _Fixed(first_order * x)) for x in SWEEP.tolist())
        found = _goodput(machine, gaps, noise, _Auto(machine))
        results.append({
            "case": f"goodput, {machine.text}", "metric": "time for a second of durable work, `auto`", "unit": "s/s",
            "value": 1 / found, "limit": 1 / best, "ratio": best / found,
        })  # fmt: skip
    return results


class _Fixed:
    """A policy: the same interval always. What it is told is of no use to it."""

    def __init__(self, seconds: float) -> None:
        self.interval: Callable[[], float] = lambda: seconds

    def started(self, durable: bool, failed: int, seconds: float) -> None: ...

    def took(self, stall: float) -> None: ...

    def landed(self, flight: float, stepped: float) -> None: ...


class _Auto:
    """A policy: what `run.steps(every=holdfast.auto(...))` would do. Steps take 10 ms where nothing is in flight."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._every = auto(machine.mtbf if machine.told else None, shortest=1e-3)
        self._stall = self._flight = 0.0

    def started(self, durable: bool, failed: int, seconds: float) -> None:
        """A new process: it knows what is on record, `failed` failures in `seconds` of running."""
        costs = self._costs = Costs(Failures(failed, seconds).mtbf())
        for _ in range(3):
            costs.stepped(1.0, 100, flying=False)
        if durable and self._machine.remembers:
            costs.recall(self._stall, self._flight)
        self.interval = lambda: costs.interval(self._every)

    def took(self, stall: float) -> None:
        self._stall = stall
        self._costs.took(stall)

    def landed(self, flight: float, stepped: float) -> None:
        """`flight` seconds, in which work of `stepped` seconds was done."""
        self._flight = flight
        self._costs.landed(flight)
        self._costs.stepped(flight, max(1, round(stepped / 0.01)), flying=True)


def _goodput(machine: Machine, gaps: list[float], noise: list[float], policy: Any) -> float:
    """Seconds of work that are durable at the end, for each second that has passed. `gaps`: seconds from one failure to the
    next; `noise`: factors of stalls and flights."""
    total = saved = 0.0
    number = 0
    for failed, gap in enumerate(gaps):
        policy.started(saved > 0, failed, total)
        now, work = min(machine.restart, gap), saved  # seconds since the last failure; work of this process's state
        flight = slow = lands = held = (
            0.0  # of the version in flight: its length, what it costs, when it lands, its work
        )
        while True:
            since, waited = now, 0.0
            if flight:
                # Until it lands or the next is due: then, with one in flight at a time, the program waits.
                until = min(lands, since + policy.interval())
                if lands >= gap:
                    break
                work += (until - since) * (1 - slow / flight)
                now, waited, saved = lands, lands - until, held
                policy.landed(flight, flight - slow)
                flight = 0.0
            head = now if waited else max(now, since + policy.interval())
            stall = machine.stall * noise[number % len(noise)]
            if head + stall >= gap:
                break
            work += head - now
            now = head + stall
            policy.took(waited + stall)
            if machine.flight:
                factor = noise[(number * 7 + 3) % len(noise)]
                flight, slow, held = machine.flight * factor, machine.slow * factor, work
                lands = now + flight
            else:
                saved = work
            number += 1
        total += gap
    return saved / total


if __name__ == "__main__":
    for result in measure():
        print(f"{result['ratio']:.4f}  {1 / result['value']:.4f}  {result['case']}")
